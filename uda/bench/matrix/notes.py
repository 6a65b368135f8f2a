"""What a reader of a matrix must know to trust its numbers, in sentences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from uda.bench.intervals import Adjusted
from uda.bench.notes import about_balance, about_domain, about_seeds, power_of
from uda.bench.results import Domain, describe_data
from uda.config import MatrixConfig
from uda.config.matrix import CombinedSpec

if TYPE_CHECKING:
    from uda.bench.matrix.table import MatrixRow


def notes(config: MatrixConfig, columns: Sequence[Domain], rows: Sequence[MatrixRow]) -> list[str]:
    """All notes of a matrix, one statement a line."""
    every = _about_training(config)
    if config.combined is not None:
        every.append(_about_combined(config, config.combined))
    every += _about_numbers(config, rows)
    if any(row.kind == "adapted" for row in rows):
        every.append(_about_adaptation(config))
    every += [about_power(column, [row.squares[column.name].to_diagonal for row in rows]) for column in columns]
    every += [about_domain(column) for column in columns]
    without: dict[str, list[str]] = {}
    for row in rows:
        if row.missing:
            without.setdefault(", ".join(map(str, row.missing)), []).append(row.name)
    every += [
        f"Seed(s) {seeds} missing: {'; '.join(names)}; their differences are over the shared seeds."
        for seeds, names in without.items()
    ]
    plain = [*config.domains, *([" + ".join(config.domains)] if config.combined is not None else [])]
    absent = [name for name in plain if name not in {row.name for row in rows}]
    absent += [name for name in config.rows if not any(row.name.endswith(f": {name}") for row in rows)]
    return [*every, f"No finished cell: {', '.join(absent)}."] if absent else every


def _about_training(config: MatrixConfig) -> list[str]:
    s, warm = config.settings, config.warm_start
    trained = ", ".join(f"{name} = {describe_data(domain.train)}" for name, domain in config.domains.items())
    start = (
        f"All rows of a source and seed start from the same source-only checkpoint ({warm.steps} steps of warm start)."
        if warm
        else "No warm start: every row starts from the model's initial weights."
    )
    return [
        f"Trained on {trained}. The diagonal of a data set is plain training on it, scored on other images of it.",
        f"{s.steps} optimiser steps for every row that trains, batch size {s.batch_size}, "
        f"crop {s.crop[0]}x{s.crop[1]}. {start}",
        "Last iterate only. An adaptation row never reads the labels of its target.",
    ]


def _about_combined(config: MatrixConfig, combined: CombinedSpec) -> str:
    weights = ", ".join(f"{name} {weight:g}" for name, weight in combined.weights.items())
    return (
        f"{' + '.join(config.domains)}: balanced by {combined.balance}. {about_balance(combined.balance)}"
        + (f" Weights: {weights}." if weights else "")
        + " It takes as many steps and images as every other row, so it sees each data set less often than that data"
        " set's own row does."
    )


def _about_numbers(config: MatrixConfig, rows: Sequence[MatrixRow]) -> list[str]:
    number = max((len(row.seeds) for row in rows), default=0)
    every = [
        "mIoU in %, mean over seeds, over the classes that occur in a column's labels, so that columns are not to be "
        "compared with each other; intervals of 95 % for other seeds and other images alike "
        f"({config.resamples} draws of image weights), one at a time.",
        "Against the diagonal: minus plain training on the data set that is scored; its intervals hold for all such "
        "differences of this matrix together (Bonferroni); words and bold type follow these intervals; p values are "
        "Holm's, which may be below .05 where the interval still has 0.",
    ]
    return [*every, about_seeds(number)]


def _about_adaptation(config: MatrixConfig) -> str:
    judged = (
        "the row that passes the same images through batch norm and learns from the source alone"
        if config.controls
        else "plain training on the same labels, which passes no image of the target: what batch norm gains by these "
        "images is not told apart from what the losses gain (controls: true adds the rows that do)"
    )
    return f"Adaptation rows are judged by {judged}; these differences are a family of their own."


def about_power(column: Domain, differences: Sequence[Adjusted | None]) -> str:
    """The smallest difference to the diagonal that could have been shown."""
    if all(difference is None for difference in differences):
        return f"{column.name}: nothing is compared to a diagonal here."
    return power_of(column, differences, "diagonal")
