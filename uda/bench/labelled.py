"""The labelled target images of a row: chosen without their labels, written down, mixed into its source."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from uda.bench import build
from uda.bench.plan import Cell
from uda.bench.restore import load_model
from uda.config import BenchConfig, ConfigError, TargetLabels
from uda.data import Mixture
from uda.data.mixture import names_of
from uda.engine.choosing import choose_images
from uda.files import atomic_write
from uda.types import LabelledDataset

CHOSEN = "labelled_target.json"
"""The images whose labels a cell trains on, in its folder, the most wanted first."""
_STREAM = 5
"""Keeps the random choice apart from whatever else a seed draws."""


def labels_of(cell: Cell) -> TargetLabels | None:
    """What a cell says of labelled target images; ``None`` where it has none."""
    content = cell.training.get("target_labels")
    return None if content is None else TargetLabels.model_validate(content)


def check_labels(config: BenchConfig) -> None:
    """See that there are as many target images as rows want labels of.

    Raises:
        ConfigError: there are fewer.
        DataError: the target cannot be opened.
    """
    for name, row in config.methods.items():
        if row.target_labels is not None:
            number = len(build.open_dataset(config.target, config.space))
            if row.target_labels.count > number:
                raise ConfigError(
                    f"methods.{name}.target_labels.count: {row.target_labels.count}, but target has {number} images"
                )


def with_labels(
    config: BenchConfig, cell: Cell, root: Path, folder: Path, source: LabelledDataset, target: LabelledDataset
) -> LabelledDataset:
    """The source of a cell together with its labelled target images; the source itself where it has none.

    What was chosen before stays chosen, so that a run goes on with the images that it began with.

    Args:
        config: the benchmark.
        cell: of it.
        root: the benchmark's folder, with the warm start that looks at the images.
        folder: the cell's; gets :data:`CHOSEN`.
        source: labelled images of the source.
        target: training images of the target; labels are read of the chosen ones alone.

    Raises:
        ConfigError: a target of which no images can be taken out.
    """
    labels = labels_of(cell)
    if labels is None:
        return source
    if not hasattr(target, "subset"):
        raise ConfigError(f"{target.name}: {type(target).__name__} has no subset(indices) to take labelled images of")
    names = names_of(target.unlabelled())
    chosen = read_chosen(folder)
    if len(chosen) != labels.count or not set(chosen) <= set(names):
        chosen = [names[index] for index in _choose(config, cell, root, labels, target)]
        with atomic_write(folder / CHOSEN) as file:
            file.write(json.dumps({**labels.model_dump(), "images": chosen}, indent=2) + "\n")
    few = target.subset([names.index(name) for name in chosen])
    return Mixture([(source, 1.0), (few, labels.weight)], shares=[1 - labels.share, labels.share])


def read_chosen(folder: Path) -> list[str]:
    """The names of the images whose labels a cell trains on, the most wanted first; empty where there are none."""
    try:
        content: Any = json.loads((folder / CHOSEN).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    images = content.get("images") if isinstance(content, dict) else None
    return [str(name) for name in images] if isinstance(images, list) else []


def _choose(config: BenchConfig, cell: Cell, root: Path, labels: TargetLabels, target: LabelledDataset) -> list[int]:
    model = None
    if labels.choose != "random":
        model = load_model(root / cell.needs[0]).to(build.open_device(config.settings.device))
    seed = int(np.random.SeedSequence([cell.seed, _STREAM]).generate_state(1)[0])
    return choose_images(
        target.unlabelled(), labels.count, labels.choose, model=model, seed=seed,
        inference=config.evaluate.on("target"), precision=config.settings.precision,
    )  # fmt: skip
