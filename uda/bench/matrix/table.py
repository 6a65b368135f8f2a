"""The table of a matrix: what every training is worth on every data set, and what it loses against the diagonal.

The diagonal of a data set is plain training on it. Rows of different benchmarks are compared on the same images, paired
by seed and image, as :mod:`uda.bench.intervals` does it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from uda.bench.intervals import Adjusted, Estimate, ImageScores, Ties, holm_family, holm_ties
from uda.bench.matrix.notes import notes
from uda.bench.notes import describe
from uda.bench.results import Domain, Measured, Results, origin_of, read_results
from uda.bench.rows import PlannedRow, rows_of
from uda.bench.table import UNKNOWN, verdict
from uda.config import SOURCE_ONLY, MatrixConfig
from uda.config.matrix import Part
from uda.engine import Evaluation

CLASS_GROUPS = 5
"""A class gets an interval where so many images, or sequences, have it: the noise of fewer cannot be measured."""
Kind = Literal["plain", "combined", "adapted", "control"]


CLEAR = ("loses", "gains", "hurts", "helps")
"""The words for a difference whose joint interval excludes 0."""


@dataclass(frozen=True)
class Square:
    """One row of a matrix on one data set."""

    miou: Estimate
    """Over every class that occurs in the data set's labels."""
    frequent: Estimate
    """Over the frequent classes."""
    classes: tuple[Estimate, ...]
    """IoU of each class, unknown where it has no labels, without interval where too few images have it."""
    by_seed: dict[int, float]
    """mIoU of each seed."""
    diagonal: bool
    """Whether this is plain training on the data set that is scored."""
    to_diagonal: Adjusted | None
    """Minus the diagonal, judged together with all such differences of the matrix; ``None`` where there is none."""
    to_plain: Estimate
    """An adaptation row's minus plain training on the same labels."""
    to_control: Adjusted | None
    """An adaptation row's minus the row that it is judged by, together with all such differences."""

    @property
    def loss(self) -> str:
        """What the difference to the diagonal shows, in words that follow its joint interval."""
        return verdict(self.to_diagonal, "gains", "loses", "no clear difference", by_interval=True)

    @property
    def gain(self) -> str:
        """What the difference to the control shows, in words that follow its joint interval."""
        return verdict(self.to_control, by_interval=True)


@dataclass(frozen=True)
class MatrixRow:
    """One training, over its seeds."""

    name: str
    kind: Kind
    trained_on: tuple[str, ...]
    """Domains whose labels it trained on."""
    target: str | None
    """Domain that it adapted to."""
    methods: str
    plain: str | None
    """The row of plain training on the same labels, of an adaptation row."""
    control: str | None
    """The row that it is judged by: often ``plain``."""
    seeds: tuple[int, ...]
    missing: tuple[int, ...]
    """Seeds of the config that are not finished."""
    squares: dict[str, Square]
    """By domain."""
    steps: int
    seconds_per_step: float | None
    """Median over seeds."""


@dataclass(frozen=True)
class Matrix(Measured):
    """What a cross-data-set matrix measured, on the data sets that are trained on, then the unseen."""

    rows: tuple[MatrixRow, ...]
    """Plain training on each, on all, then adaptation rows and their controls."""
    ties: dict[str, Ties]
    """By domain: which rows cannot be told apart on it."""

    def row(self, name: str) -> MatrixRow:
        """A row by name; ``KeyError`` if it has no finished cell."""
        return {row.name: row for row in self.rows}[name]

    def diagonal(self, column: str) -> MatrixRow | None:
        """Plain training on a data set; ``None`` where nothing was trained on it."""
        return next((row for row in self.rows if row.squares[column].diagonal), None)


@dataclass(frozen=True)
class _Source:
    """A row before it is scored: where its cells are."""

    name: str
    kind: Kind
    part: Part
    planned: PlannedRow
    cells: dict[int, dict[str, Any]]
    evaluations: dict[int, dict[str, Evaluation]]


def make_matrix(config: MatrixConfig, folder: Path | str, seeds: Collection[int] | None = None) -> Matrix:
    """Tabulate every finished cell of a matrix' folder.

    Args:
        config: the matrix; cells of another config do not enter.
        folder: the matrix' folder, which holds its benchmarks'.
        seeds: further seeds than the config's.

    Raises:
        ValueError: cells were scored on different images.
    """
    results = [(part, read_results(part.config, Path(folder) / part.config.name, seeds)) for part in config.parts()]
    sources = {source.name: source for part, read in results for source in _rows(part, read)}
    order: list[Kind] = ["plain", "combined", "adapted", "control"]
    sources = dict(sorted(sources.items(), key=lambda item: order.index(item[1].kind)))
    columns = _columns(config, results)
    squares, ties = _squares(config, columns, sources)
    rows = tuple(_row(config, source, squares[name], sources) for name, source in sources.items())
    return Matrix(
        name=config.name,
        domains=columns,
        rows=rows,
        ties=ties,
        notes=tuple(notes(config, columns, rows)),
        **origin_of([result for source in sources.values() for result in source.cells.values()]),
    )


def label(part: Part, row: str) -> str:
    """The name that a benchmark's row has in the matrix."""
    trained_on = " + ".join(part.trained_on)
    return trained_on if row == SOURCE_ONLY else f"{trained_on} → {part.target}: {row}"


def _rows(part: Part, results: Results) -> list[_Source]:
    """The rows of a benchmark that have a finished cell."""
    rows = []
    for name, planned in rows_of(part.config).items():
        if name not in results.cells or (name == SOURCE_ONLY and not part.plain):
            continue
        plain: Kind = "plain" if len(part.trained_on) == 1 else "combined"
        kind: Kind = plain if name == SOURCE_ONLY else "control" if planned.added else "adapted"
        rows.append(_Source(label(part, name), kind, part, planned, results.cells[name], results.evaluations[name]))
    return rows


def _columns(config: MatrixConfig, results: list[tuple[Part, Results]]) -> tuple[Domain, ...]:
    """The data sets as columns; none without a finished cell."""
    columns: dict[str, Domain] = {}
    for part, read in results:
        of_part = {domain.name: domain for domain in read.domains}
        for name, domain in part.columns.items():
            if domain in of_part:
                columns.setdefault(name, replace(of_part[domain], name=name))
    return tuple(columns[name] for name in config.columns if name in columns)


def _squares(
    config: MatrixConfig, columns: tuple[Domain, ...], sources: dict[str, _Source]
) -> tuple[dict[str, dict[str, Square]], dict[str, Ties]]:
    """By row and column; and the ties by column."""
    ties: dict[str, Ties] = {}
    to_diagonal: dict[tuple[str, str], Estimate] = {}
    to_control: dict[tuple[str, str], Estimate] = {}
    contents: dict[tuple[str, str], dict[str, Any]] = {}
    for column in columns:
        evaluations = {
            name: {seed: scored[source.part.columns[column.name]] for seed, scored in source.evaluations.items()}
            for name, source in sources.items()
        }
        _see_that_images_agree(config.name, column, evaluations)
        scores = _scores(config, column, evaluations, column.labelled)
        frequent = _scores(config, column, evaluations, column.frequent)
        classes = _class_estimates(config, column, evaluations)
        ties[column.name] = holm_ties(scores, pooled=True)
        diagonal = column.name if column.name in sources else None
        for name, source in sources.items():
            if diagonal is not None and name != diagonal:
                to_diagonal[name, column.name] = scores.difference(name, diagonal, pooled=True)
            plain, control = _compared_to(source, sources)
            if control is not None:
                to_control[name, column.name] = scores.difference(name, control, pooled=True)
            contents[name, column.name] = {
                "miou": scores.score(name),
                "frequent": frequent.score(name),
                "classes": tuple(by_row[name] for by_row in classes),
                "by_seed": scores.values[name],
                "diagonal": name == diagonal,
                "to_plain": UNKNOWN if plain is None else scores.difference(name, plain, pooled=True),
            }
    # two questions, two families: what training elsewhere loses, and what adaptation gains
    diagonal_family = dict(zip(to_diagonal, holm_family(list(to_diagonal.values())), strict=True))
    control_family = dict(zip(to_control, holm_family(list(to_control.values())), strict=True))
    squares: dict[str, dict[str, Square]] = {name: {} for name in sources}
    for place, content in contents.items():
        squares[place[0]][place[1]] = Square(
            to_diagonal=diagonal_family.get(place), to_control=control_family.get(place), **content
        )
    return squares, ties


def _see_that_images_agree(name: str, column: Domain, evaluations: Mapping[str, Mapping[int, Evaluation]]) -> None:
    every = [scored for by_seed in evaluations.values() for scored in by_seed.values()]
    if any(scored.names != every[0].names for scored in every):
        raise ValueError(f"{name}: cells were scored on different images of {column.name!r}; run with --fresh")


def _scores(
    config: MatrixConfig,
    column: Domain,
    evaluations: Mapping[str, Mapping[int, Evaluation]],
    classes: npt.NDArray[np.bool_],
) -> ImageScores:
    confusions = {
        name: {seed: scored.confusions for seed, scored in by_seed.items()} for name, by_seed in evaluations.items()
    }
    return ImageScores(confusions, classes=classes, groups=column.groups, draws=config.resamples)


def _class_estimates(
    config: MatrixConfig, column: Domain, evaluations: Mapping[str, Mapping[int, Evaluation]]
) -> list[dict[str, Estimate]]:
    """For each class: by row its IoU."""
    first = next(iter(next(iter(evaluations.values())).values()))
    labelled = first.confusions.sum(axis=2) > 0
    groups = np.arange(len(labelled)) if column.groups is None else column.groups
    estimates = []
    for at, there in enumerate(column.labelled):
        if not there:
            estimates.append(dict.fromkeys(evaluations, UNKNOWN))
            continue
        scores = _scores(config, column, evaluations, np.arange(len(column.labelled)) == at)
        enough = len(set(groups[labelled[:, at]].tolist())) >= CLASS_GROUPS
        known = {name: scores.score(name) for name in evaluations}
        estimates.append(known if enough else {name: Estimate(score.value) for name, score in known.items()})
    return estimates


def _compared_to(source: _Source, sources: Mapping[str, _Source]) -> tuple[str | None, str | None]:
    """The rows of plain training on the same labels and of the control, of an adaptation row, that are finished."""
    if source.kind in ("plain", "combined"):
        return None, None
    names = [
        None if row is None else label(source.part, row) for row in (source.planned.baseline, source.planned.control)
    ]
    plain, control = (name if name in sources else None for name in names)
    return plain, control


def _row(
    config: MatrixConfig, source: _Source, squares: dict[str, Square], sources: Mapping[str, _Source]
) -> MatrixRow:
    plain, control = _compared_to(source, sources)
    trains = source.planned.entry.trains
    seconds = [result["seconds_per_step"] for result in source.cells.values() if result["seconds_per_step"]]
    return MatrixRow(
        name=source.name,
        kind=source.kind,
        trained_on=source.part.trained_on,
        target=source.part.target if source.kind in ("adapted", "control") else None,
        methods=describe(source.planned.entry),
        plain=plain,
        control=control,
        seeds=tuple(sorted(source.cells)),
        missing=tuple(seed for seed in config.seeds if seed not in source.cells),
        squares=squares,
        steps=next(iter(source.cells.values()))["steps"],
        seconds_per_step=median(seconds) if seconds and trains else None,
    )
