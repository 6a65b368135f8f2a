"""What a trial is judged by, each objective measured on images that training may not have fitted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import nn

from uda.bench import build
from uda.bench.label_free import IMAGES, Spaced
from uda.config import BenchConfig, EvaluateSpec
from uda.config.search import OBJECTIVES, PEEKING
from uda.engine import Evaluation, evaluate
from uda.engine.certainty import certainty
from uda.metrics import miou
from uda.models.batch_norm import domain_statistics
from uda.types import LabelledDataset


def measurable(config: BenchConfig) -> list[str]:
    """The objectives that a run's data sets allow."""
    missing = {"source_": config.source_val is None, "peeking_": config.target_val is None}
    return [name for name in OBJECTIVES if not any(absent and name.startswith(p) for p, absent in missing.items())]


def measure(name: str, config: BenchConfig, how: EvaluateSpec, model: nn.Module, precision: str) -> float:
    """One objective of a network: on at most 100 images, evenly spaced over the data set.

    Args:
        name: of :data:`uda.config.search.OBJECTIVES`.
        config: of the trial.
        how: its row is scored.
        model: on its device.
        precision: of the run.
    """
    return measure_all([name], config, how, model, precision)[name]


def measure_all(
    names: Sequence[str], config: BenchConfig, how: EvaluateSpec, model: nn.Module, precision: str
) -> dict[str, float]:
    """Several objectives, each data set predicted once; see :func:`measure`."""
    values: dict[str, float] = {}
    if any(name.startswith("source_") for name in names):
        assert config.source_val is not None
        scored = _evaluated(config, "source", how, model, precision)
        values |= {"source_miou": scored.miou(), "source_loss": scored.loss()}
    if any(name.startswith("target_") for name in names):
        space = build.build_space(config.space)
        images = Spaced(build.open_dataset(config.target, config.space).unlabelled(), IMAGES)
        sure = certainty(
            model, images, space.names, inference=how.on("target"), precision=precision,
            domain=domain_statistics("target"),
        )  # fmt: skip
        values |= {"target_entropy": sure.entropy, "target_confidence": sure.confidence, "target_sure": sure.sure}
    if PEEKING in names:
        scored = _evaluated(config, "target", how, model, precision)
        chosen, _ = halves(config)
        values[PEEKING] = miou_of(scored, chosen)
    return {name: values[name] for name in names}


def _evaluated(config: BenchConfig, domain: str, how: EvaluateSpec, model: nn.Module, precision: str) -> Evaluation:
    dataset: Any = build.open_dataset(config.domains[domain], config.space)
    if domain == "source":
        dataset = Spaced(dataset, IMAGES)
    return evaluate(
        model, cast(LabelledDataset, dataset), inference=how.on(domain), precision=precision,
        domain=domain_statistics(domain),
    )  # fmt: skip


def halves(config: BenchConfig) -> tuple[list[int], list[int]]:
    """Indices of ``target_val``: every other sequence, to choose by, and the others, to say what a choice is worth.

    With a single sequence its first and second half: neighbouring frames are then in both only at the cut.
    """
    dataset: Any = build.open_dataset(config.domains["target"], config.space)
    sequences = getattr(dataset, "sequences", None) or [str(index) for index in range(len(dataset))]
    names = list(dict.fromkeys(sequences))
    if len(names) == 1:
        middle = len(dataset) // 2
        return list(range(middle)), list(range(middle, len(dataset)))
    even = set(names[::2])
    chosen = [index for index, name in enumerate(sequences) if name in even]
    return chosen, [index for index, name in enumerate(sequences) if name not in even]


def miou_of(evaluation: Evaluation, indices: Sequence[int]) -> float:
    """mIoU in [0, 1] over some of the images; NaN for none."""
    return float(miou(torch.from_numpy(evaluation.confusions[list(indices)].sum(axis=0)), over="labelled"))
