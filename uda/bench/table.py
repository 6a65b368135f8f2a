"""The table of a benchmark: scores with intervals, and differences to source-only and to controls.

What a row is compared to says :mod:`uda.bench.rows`, how sure the numbers are :mod:`uda.bench.intervals`, what they
were measured on :mod:`uda.bench.notes`.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from uda.bench.intervals import Adjusted, Estimate, ImageScores, Ties, holm_family, holm_ties
from uda.bench.labelled import read_chosen
from uda.bench.learning_curve import Learning, learning_curve
from uda.bench.notes import describe, notes
from uda.bench.results import Domain, Measured, Results, origin_of, read_results
from uda.bench.rows import PlannedRow, rows_of
from uda.config import ORACLE, BenchConfig, DatasetSpec, build_method
from uda.methods import TestTimeMethod
from uda.metrics import iou

UNKNOWN = Estimate(float("nan"))


def verdict(
    difference: Adjusted | None,
    above: str = "helps",
    below: str = "hurts",
    unclear: str = "no clear effect",
    *,
    by_interval: bool = False,
) -> str:
    """What a difference shows, in words; by default those of a row against its control, by Holm's procedure.

    Args:
        difference: the difference.
        above: the word for a gain.
        below: the word for a loss.
        unclear: the word where it is not clear.
        by_interval: clear is what the joint interval excludes 0 for, instead: the words then never contradict it.
    """
    if difference is None or not difference.estimate.known:
        return "not compared"
    if difference.estimate.image_noise_only:
        return "image noise only"
    if difference.estimate.noise is None:
        return "no interval"
    clear = difference.excludes_zero if by_interval else difference.clear
    return (above if difference.estimate.value > 0 else below) if clear else unclear


@dataclass(frozen=True)
class Score:
    """One row on one domain."""

    miou: Estimate
    """Over every class that occurs in the domain's labels."""
    to_source_only: Estimate
    """Minus the source-only row of the same network."""
    to_control: Adjusted | None
    """Minus the row that sees the same images, judged together with all such differences of the table."""
    gap_closed: Estimate
    """(row - source-only) / (oracle - source-only) on the target; unknown unless the oracle is the best row."""
    frequent: Estimate
    """mIoU over the frequent classes."""
    frequent_to_source_only: Estimate
    iou: npt.NDArray[np.float64]
    """``(C,)`` IoU of each class, mean over seeds; NaN for a class without labels."""
    by_seed: dict[int, float]
    """mIoU of each seed."""
    means: dict[str, Estimate]
    """mIoU over each of the config's ``evaluate.classes``; unknown where the labels have none of them."""
    adapted_on_scored: bool = False
    """Whether the row adapted to the very images that are scored here."""

    @property
    def verdict(self) -> str:
        """What the difference to the control shows, in words."""
        return verdict(self.to_control)


@dataclass(frozen=True)
class Row:
    """One method, over its seeds."""

    name: str
    methods: str
    """What it is made of, as the config writes it."""
    baseline: str | None
    """The source-only row of its network."""
    control: str | None
    """The row that sees the same images; often the baseline."""
    added: bool
    """Whether it is there for comparison alone."""
    seeds: tuple[int, ...]
    missing: tuple[int, ...]
    """Seeds of the config that are not finished."""
    scores: dict[str, Score]
    """By domain."""
    steps: int
    seconds_per_step: float | None
    """Median over seeds; ``None`` for a row that does not train."""
    peak_memory: int | None
    """Bytes, largest over seeds."""
    threads: int | None


@dataclass(frozen=True)
class Table(Measured):
    """A benchmark's results."""

    rows: tuple[Row, ...]
    ties: Ties | None
    """Which rows cannot be told apart on the target; ``None`` without rows."""
    class_means: dict[str, tuple[str, ...]]
    """The config's further means, by name: their classes."""
    shift: str = ""
    """From where to where, ``cityscapes to kitti``."""
    learning: Learning | None = None
    """What labelled target images are worth; ``None`` where the config has no learning curve."""
    labelled: dict[str, dict[int, tuple[str, ...]]] = field(default_factory=dict)
    """Row -> seed -> the target images whose labels it was trained on."""

    def row(self, name: str) -> Row:
        """A row by name; ``KeyError`` if it has no finished cell."""
        return {row.name: row for row in self.rows}[name]


def make_table(config: BenchConfig, folder: Path, seeds: Collection[int] | None = None) -> Table:
    """Tabulate every finished cell of a benchmark's folder.

    Args:
        config: the benchmark; cells of another config do not enter.
        folder: the benchmark's folder.
        seeds: further seeds than the config's.

    Raises:
        ValueError: cells were scored on different images.
    """
    results = read_results(config, folder, seeds)
    planned = {name: row for name, row in rows_of(config).items() if name in results.evaluations}
    scores, ties, learning = _scores(config, results, planned)
    rows = tuple(_row(config, row, scores[name], results.cells[name]) for name, row in planned.items())
    return Table(
        name=config.name,
        domains=results.domains,
        rows=rows,
        ties=ties,
        notes=tuple(notes(config, results.domains, rows)),
        class_means={name: tuple(classes) for name, classes in config.evaluate.classes.items()},
        shift=f"{' + '.join(dict.fromkeys(map(_short, config.source)))} to {_short(config.target)}",
        learning=learning,
        labelled={
            name: {seed: tuple(read_chosen(folder / f"{name}/seed{seed}")) for seed in sorted(results.cells[name])}
            for name, row in planned.items()
            if row.entry.target_labels is not None
        },
        **origin_of(results.every),
    )


def _short(spec: DatasetSpec) -> str:
    """A data set in one word: its kind, or the folder of images that are of no known kind."""
    return Path(spec.arguments["root"]).name if spec.kind == "folder" and "root" in spec.arguments else spec.kind


def _row(config: BenchConfig, row: PlannedRow, scores: dict[str, Score], results: dict[int, dict[str, Any]]) -> Row:
    trains = row.entry.trains
    seconds = [result["seconds_per_step"] for result in results.values() if result["seconds_per_step"]]
    memory = [result["peak_memory"] for result in results.values() if result.get("peak_memory")]
    labels = {"source": "", "target": " on the target's labels", "both": " on the labels of source and target"}
    return Row(
        name=row.name,
        methods=describe(row.entry) + labels[row.labels],
        baseline=row.baseline,
        control=row.control,
        added=row.added,
        seeds=tuple(sorted(results)),
        missing=tuple(seed for seed in config.seeds if seed not in results),
        scores=scores,
        steps=next(iter(results.values()))["steps"],
        seconds_per_step=median(seconds) if seconds and trains else None,
        peak_memory=max(memory) if memory and trains else None,
        threads=next(iter(results.values())).get("threads"),
    )


def _scores(
    config: BenchConfig, results: Results, planned: dict[str, PlannedRow]
) -> tuple[dict[str, dict[str, Score]], Ties | None, Learning | None]:
    """By row and domain; and the ties and the learning curve on the target."""
    ties: Ties | None = None
    learning: Learning | None = None
    differences: dict[tuple[str, str], Estimate] = {}
    parts: dict[tuple[str, str], dict[str, Any]] = {}
    for domain in results.domains:
        every = results.scores(domain, classes=domain.labelled, draws=config.resamples, rows=planned)
        frequent = results.scores(domain, classes=domain.frequent, draws=config.resamples, rows=planned)
        subsets = {
            name: results.scores(domain, classes=chosen, draws=config.resamples, rows=planned)
            for name, classes in config.evaluate.classes.items()
            if (chosen := domain.labelled & np.isin(domain.class_names, classes)).any()
        }
        if domain.name == "target":
            ties = holm_ties(every, pooled=True)
            learning = learning_curve(config, planned, every)
        for name, row in planned.items():
            if row.control in planned:
                differences[name, domain.name] = every.difference(name, row.control, pooled=True)
            parts[name, domain.name] = {
                "miou": every.score(name),
                "to_source_only": _difference(every, name, row.baseline),
                "gap_closed": _gap_closed(every, row, domain),
                "frequent": frequent.score(name),
                "frequent_to_source_only": _difference(frequent, name, row.baseline),
                "iou": np.mean(
                    [_iou(scores[domain.name].confusion) for scores in results.evaluations[name].values()], 0
                ),
                "by_seed": every.values[name],
                "means": {
                    mean: subsets[mean].score(name) if mean in subsets else UNKNOWN for mean in config.evaluate.classes
                },
                "adapted_on_scored": _adapted_on_scored(row, domain),
            }
    # one family: whoever reads a table looks for the largest of all its differences
    family = dict(zip(differences, holm_family(list(differences.values())), strict=True))
    scores: dict[str, dict[str, Score]] = {name: {} for name in planned}
    for (name, domain_name), content in parts.items():
        scores[name][domain_name] = Score(to_control=family.get((name, domain_name)), **content)
    return scores, ties, learning


def _difference(scores: ImageScores, row: str, other: str | None) -> Estimate:
    return scores.difference(row, other, pooled=True) if other in scores.rows else UNKNOWN


def _gap_closed(scores: ImageScores, row: PlannedRow, domain: Domain) -> Estimate:
    """Unknown where another row is better than the oracle: it then is no upper end of the scale."""
    if domain.name != "target" or row.baseline is None or not {ORACLE, row.baseline} <= set(scores.rows):
        return UNKNOWN
    best = max(scores.rows, key=lambda name: scores.score(name).value)
    return scores.gap_closed(row.name, row.baseline, ORACLE, pooled=True) if best == ORACLE else UNKNOWN


def _adapted_on_scored(row: PlannedRow, domain: Domain) -> bool:
    if row.entry.test_time is None:
        return False
    method = build_method(row.entry.test_time)
    if not isinstance(method, TestTimeMethod):
        return False
    # where there are no training images of a domain, what is looked at beforehand are the scored ones
    return method.adapts_on_scored or (method.needs_target and domain.name not in ("source", "target"))


def _iou(confusion: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    return np.asarray(iou(torch.from_numpy(confusion), "labelled").numpy())
