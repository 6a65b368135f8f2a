"""The table of a benchmark: scores with intervals, differences to source-only, and what they were measured on."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from uda.bench.bootstrap import Comparison, compare
from uda.bench.identity import Identities
from uda.bench.plan import WARM_START, Cell, make_plan, read_result
from uda.config import ORACLE, SOURCE_ONLY, BenchConfig, DatasetSpec, MethodEntry
from uda.engine import Evaluation
from uda.metrics import iou

FREQUENT = 0.01
"""A class is frequent in a domain if at least this share of its labelled pixels is of it."""
ByCell = dict[str, dict[int, dict[str, Evaluation]]]
"""Evaluations by row, seed, domain."""


@dataclass(frozen=True)
class Domain:
    """One evaluation set, and which of its classes the means run over."""

    name: str
    data: str
    """The data set in a few words."""
    images: int
    class_names: tuple[str, ...]
    pixels: npt.NDArray[np.int64]
    """``(C,)`` labelled pixels of each class."""
    label_map: tuple[str, ...] = ()
    """How the files' classes became these, one a line, where that is more than their names."""

    @property
    def labelled(self) -> npt.NDArray[np.bool_]:
        """``(C,)`` classes that occur in the labels: those of the mean."""
        return self.pixels > 0

    @property
    def frequent(self) -> npt.NDArray[np.bool_]:
        """``(C,)`` classes with at least 1 % of the labelled pixels."""
        return self.pixels >= max(1, FREQUENT * int(self.pixels.sum()))


@dataclass(frozen=True)
class Score:
    """One row on one domain."""

    all: Comparison
    """Over every class that occurs in the domain's labels."""
    frequent: Comparison
    """Over the frequent ones."""
    iou: npt.NDArray[np.float64]
    """``(C,)`` IoU of each class, mean over seeds; NaN for a class without labels."""
    by_seed: dict[int, float]
    """mIoU of each seed."""

    @property
    def verdict(self) -> str:
        """What the interval of the difference to source-only says, in words."""
        delta = self.all.delta
        if not delta.known:
            return "not compared"
        return ("helps" if delta.value > 0 else "hurts") if delta.clear else "no clear effect"


@dataclass(frozen=True)
class Row:
    """One method, over its seeds."""

    name: str
    methods: str
    """What it is made of, as the config writes it."""
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
class Table:
    """A benchmark's results."""

    name: str
    domains: tuple[Domain, ...]
    """The target first, then the source, then the unseen ones."""
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    """What a reader must know to trust the numbers, one statement a line."""
    versions: dict[str, str]
    machine: str

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
    every = sorted({*config.seeds, *(seeds or ())})
    planned = make_plan(config, seeds=every)
    identities = Identities(config, planned)
    cells = [cell for cell in planned if not cell.method.startswith(WARM_START)]
    results: dict[str, dict[int, dict[str, Any]]] = {}
    by_cell: ByCell = {}
    for cell in cells:
        result = read_result(folder / cell.name)
        if result is None or not identities.is_done(cell, folder):
            continue
        results.setdefault(cell.method, {})[cell.seed] = result
        by_cell.setdefault(cell.method, {})[cell.seed] = _load(cell, folder)
    order = ["target", "source", *config.unseen]
    first_result: dict[str, Any] = next((result for by_seed in results.values() for result in by_seed.values()), {})
    maps = first_result.get("label_maps", {})
    domains = tuple(_domain(config, name, by_cell, tuple(maps.get(name, ()))) for name in order if by_cell)
    listed = dict.fromkeys([*([SOURCE_ONLY, ORACLE] if config.oracle else [SOURCE_ONLY]), *config.methods])
    rows = tuple(_row(config, name, domains, by_cell, results[name]) for name in listed if name in by_cell)
    return Table(
        config.name,
        domains,
        rows,
        tuple(_notes(config, domains, rows)),
        first_result.get("versions", {}),
        first_result.get("machine", ""),
    )


def _load(cell: Cell, folder: Path) -> dict[str, Evaluation]:
    return {domain: Evaluation.load(folder / cell.name / "evaluations" / f"{domain}.npz") for domain in cell.scoring}


def _domain(config: BenchConfig, name: str, by_cell: ByCell, label_map: tuple[str, ...]) -> Domain:
    evaluations = [scores[name] for by_seed in by_cell.values() for scores in by_seed.values()]
    first = evaluations[0]
    if any(evaluation.names != first.names for evaluation in evaluations):
        raise ValueError(f"{config.name}: cells were scored on different images of {name!r}; run with --fresh")
    return Domain(
        name, _data(config.domains[name]), len(first.names), first.class_names, first.confusion.sum(axis=1), label_map
    )


def _data(spec: DatasetSpec) -> str:
    """A data set in a few words."""
    arguments = spec.arguments
    limit = f", first {arguments['limit']}" if arguments.get("limit") else ""
    return " ".join(str(part) for part in (spec.kind, arguments.get("split")) if part) + limit


def _row(
    config: BenchConfig, name: str, domains: tuple[Domain, ...], by_cell: ByCell, results: dict[int, dict[str, Any]]
) -> Row:
    seconds = [result["seconds_per_step"] for result in results.values() if result["seconds_per_step"]]
    memory = [result["peak_memory"] for result in results.values() if result.get("peak_memory")]
    row = config.methods.get(name) or MethodEntry(methods=config.methods[SOURCE_ONLY].methods)
    text = describe(row) + (" on the target's labels" if name == ORACLE and config.oracle else "")
    return Row(
        name=name,
        methods=text,
        seeds=tuple(sorted(results)),
        missing=tuple(seed for seed in config.seeds if seed not in results),
        scores={domain.name: _score(config, name, domain, by_cell) for domain in domains},
        steps=next(iter(results.values()))["steps"],
        seconds_per_step=median(seconds) if seconds and row.trains else None,
        peak_memory=max(memory) if memory and row.trains else None,
        threads=next(iter(results.values())).get("threads"),
    )


def _score(config: BenchConfig, name: str, domain: Domain, by_cell: ByCell) -> Score:
    def confusions(row: str) -> dict[int, npt.NDArray[np.int64]]:
        return {seed: scores[domain.name].confusions for seed, scores in by_cell.get(row, {}).items()}

    method = confusions(name)
    baseline = confusions(SOURCE_ONLY) if name != SOURCE_ONLY else None
    oracle = confusions(ORACLE) if config.oracle and name != ORACLE and domain.name == "target" else None

    def over(classes: npt.NDArray[np.bool_]) -> Comparison:
        return compare(method, baseline, oracle, classes=classes, resamples=config.resamples)

    per_seed = [iou(torch.from_numpy(matrices.sum(axis=0)), "labelled").numpy() for matrices in method.values()]
    labelled = domain.labelled
    return Score(
        all=over(labelled),
        frequent=over(domain.frequent),
        iou=np.mean(per_seed, axis=0),
        by_seed={seed: float(scores[labelled].mean()) for seed, scores in zip(method, per_seed, strict=True)},
    )


def describe(row: MethodEntry) -> str:
    """A row's methods in one line, ``Supervised + FDA(beta=0.01)``."""
    parts = [_describe_spec(spec) for spec in row.methods or [{SOURCE_ONLY: {}}]]
    if row.test_time:
        parts.append(f"{_describe_spec(row.test_time)} at test time")
    options = "; own " + " and ".join(key for key in ("model", "settings") if getattr(row, key))
    return " + ".join(parts) + (options if row.model or row.settings else "")


def _describe_spec(spec: dict[str, dict[str, Any]]) -> str:
    ((name, arguments),) = spec.items()
    inside = ", ".join(f"{key}={value}" for key, value in arguments.items())
    return f"{name}({inside})" if inside else name


def _notes(config: BenchConfig, domains: tuple[Domain, ...], rows: tuple[Row, ...]) -> list[str]:
    s, warm = config.settings, config.warm_start
    start = (
        f"Every row of a seed starts from the same source-only checkpoint ({warm.steps} steps of warm start), and "
        f"{SOURCE_ONLY} trains on for as long as the others."
        if warm
        else "No warm start: every row starts from the model's initial weights."
    )
    sources = [_data(spec) + (f" (weight {spec.weight:g})" if spec.weight != 1 else "") for spec in config.source]
    notes = [
        f"Trained on {' + '.join(sources)} with labels, adapted to {_data(config.target)} without.",
        f"{s.steps} optimiser steps for every row that trains, batch size {s.batch_size}, "
        f"crop {s.crop[0]}x{s.crop[1]}. {start}",
        "Last iterate only. Target labels are read for scoring, and by the oracle.",
        f"mIoU in %, mean over seeds. Intervals: 95 %, {config.resamples} bootstrap resamples of seeds and images; "
        f"Δ is to {SOURCE_ONLY}, paired by seed and image. Gap closed = (row - {SOURCE_ONLY}) / (oracle - "
        f"{SOURCE_ONLY}) on the target; none is given where the oracle is not clearly above.",
        _about_seeds(rows),
    ]
    notes += [_about_classes(domain) for domain in domains]
    threads = sorted({row.threads for row in rows if row.threads})
    if threads:
        notes.append(
            f"s/it: training steps alone, {' or '.join(map(str, threads))} CPU thread(s) a run. "
            "GiB: peak of the run, allocated on a GPU, else resident in the process."
        )
    for row in rows:
        if row.missing:
            notes.append(
                f"{row.name}: seed(s) {', '.join(map(str, row.missing))} missing; its Δ is over the shared seeds."
            )
    absent = [name for name in config.methods if name not in {row.name for row in rows}]
    return [*notes, f"No finished cell: {', '.join(absent)}."] if absent else notes


def _about_seeds(rows: tuple[Row, ...]) -> str:
    number = max((len(row.seeds) for row in rows), default=0)
    if number <= 1:
        return "One seed: the intervals cover images only, not the noise of training again."
    coarse = " so few that the intervals' share of it is coarse" if number < 5 else " resampled with the images"
    return f"{number} seeds,{coarse}."


def _about_classes(domain: Domain) -> str:
    there, names = domain.labelled, np.array(domain.class_names)
    absent = f" (not in its labels: {', '.join(names[~there])})" if not there.all() else ""
    rare = names[there & ~domain.frequent]
    below = f"; below 1 % of its pixels: {', '.join(rare)}" if len(rare) else ""
    return (
        f"{domain.name} = {domain.data}, {domain.images} images: mean over {int(there.sum())} of {len(names)} "
        f"classes{absent}, frequent mean over {int(domain.frequent.sum())}{below}."
        + (f" Label map: {'; '.join(domain.label_map)}." if domain.label_map else "")
    )
