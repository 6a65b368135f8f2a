"""A matrix as text: for a terminal, as Markdown, as CSV."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import rich.box
import rich.table
from rich.console import Group, RenderableType
from rich.text import Text

from uda.bench.headline import opened_by
from uda.bench.intervals import Adjusted, Estimate, letter
from uda.bench.matrix.table import CLEAR, Matrix, MatrixRow, Square
from uda.bench.render import (
    DASH,
    csv_text,
    estimate_cells,
    interval,
    joint,
    markdown_grid,
    number,
    plain_number,
    with_interval,
)
from uda.bench.results import Domain

DIAGONAL = "◆"
"""Stands at the diagonal."""


def opening(matrix: Matrix) -> list[str]:
    """What stands before a matrix: what was trained and scored, that images are procedural, where it comes from."""
    if not matrix.rows:
        return [f"{matrix.name}: no finished cell."]
    seeds = max(len(row.seeds) for row in matrix.rows)
    columns = ", ".join(f"{column.name} ({column.images} images)" for column in matrix.domains)
    first = (
        f"{len(matrix.rows)} trainings, {seeds} seed{'s' if seeds > 1 else ''}, scored on {columns}; "
        f"{DIAGONAL} is the diagonal: plain training on the data set that is scored."
    )
    return opened_by(first, matrix)


def sentences(matrix: Matrix) -> list[str]:
    """For each row in words what it loses against the diagonals, and what adaptation gains; then the ties."""
    lines = []
    for row in matrix.rows:
        parts = [
            f"{square.loss} on {column} {_bracketed(joint(square.to_diagonal))}".strip()
            for column, square in row.squares.items()
            if square.to_diagonal is not None
        ]
        if parts:
            lines.append(f"{row.name}, against the diagonal: {', '.join(parts)}")
        if row.kind == "adapted" and row.control is not None:
            gains = [
                f"{square.gain} on {column} {_bracketed(joint(square.to_control))}".strip()
                for column, square in row.squares.items()
            ]
            lines.append(f"{row.name}, against {row.control}: {', '.join(gains)}")
    for domain, ties in matrix.ties.items():
        if len(matrix.rows) > 1:
            groups = "; ".join(f"{letter(at)} = {', '.join(group)}" for at, group in enumerate(ties.groups))
            lines.append(f"Rows that cannot be told apart on {domain}, best first: {groups}")
    return lines


def _bracketed(difference: Estimate) -> str:
    return f"({with_interval(difference, signed=True)})" if difference.known else ""


def terminal(matrix: Matrix) -> RenderableType:
    """For a rich console: the matrix, the sentences, the notes."""
    grid = rich.table.Table(box=rich.box.SIMPLE_HEAD, title=Text(matrix.name), pad_edge=False, show_lines=True)
    grid.add_column("trained on", no_wrap=True)
    for column in matrix.domains:
        grid.add_column(Text(f"on {column.name}"), justify="right", no_wrap=True)
    for row in matrix.rows:
        squares = [_in_lines(row.squares[column.name]) for column in matrix.domains]
        grid.add_row(Text(row.name.replace(": ", ":\n")), *squares, style="dim" if row.kind == "control" else "")
    words = [
        Text(line) for line in (*opening(matrix), "", *sentences(matrix), "", *(f"* {note}" for note in matrix.notes))
    ]
    return Group(grid, *words)


def _in_lines(square: Square) -> Text:
    """A square of the terminal: the score, its interval, the difference to the diagonal in the colour of its word."""
    score = f"{DIAGONAL} " if square.diagonal else ""
    text = Text(f"{score}{number(square.miou)}", style="bold" if square.diagonal else "")
    if interval(square.miou):
        text.append(f"\n{interval(square.miou)}", style="not bold")
    if square.to_diagonal is not None:
        style = {"loses": "red", "gains": "green"}.get(square.loss, "dim")
        text.append(f"\n{with_interval(joint(square.to_diagonal), signed=True)}", style=style)
    return text


def markdown(matrix: Matrix) -> str:
    """The whole result as GitHub Markdown."""
    lines = [f"# {matrix.name}", "", *(part for line in opening(matrix) for part in (line, ""))]
    lines += ["## mIoU", "", *grid(matrix, _score), ""]
    lines += ["## Against the diagonal", "", "In points of mIoU, with joint intervals.", ""]
    lines += [*grid(matrix, lambda square: _difference(square.to_diagonal, square.loss)), ""]
    adapted = [row for row in matrix.rows if row.control is not None]
    if adapted:
        lines += ["## What adaptation gains", "", *_adaptation(matrix, adapted), ""]
    lines += ["## mIoU over the frequent classes", "", *grid(matrix, lambda square: with_interval(square.frequent)), ""]
    lines += ["## In words", "", *(f"- {line}" for line in sentences(matrix)), ""]
    lines += ["## Trainings", "", *(f"- {row.name}: {row.methods}" for row in matrix.rows), ""]
    lines += ["## How it was measured", "", *(f"- {note}" for note in matrix.notes), ""]
    for column in matrix.domains:
        lines += [f"## Classes: {column.name} ({column.data}, {column.images} images)", "", "IoU in %.", ""]
        lines += [*markdown_grid(class_titles(matrix), list(class_rows(matrix, column))), ""]
    versions = ", ".join(f"{name} {version}" for name, version in matrix.versions.items())
    return "\n".join([*lines, f"Measured on {matrix.machine}; {versions}.", ""])


def grid(matrix: Matrix, show: Callable[[Square], str]) -> list[str]:
    """A table of Markdown with a cell for each square."""
    rows = [[row.name, *(show(row.squares[column.name]) for column in matrix.domains)] for row in matrix.rows]
    return markdown_grid(["trained on", *(f"on {column.name}" for column in matrix.domains)], rows)


def _score(square: Square) -> str:
    text = with_interval(square.miou)
    return f"{DIAGONAL} **{text}**" if square.diagonal else text


def _difference(difference: Adjusted | None, word: str) -> str:
    """A difference with its word; bold where it is clear."""
    if difference is None:
        return DASH
    text = with_interval(joint(difference), signed=True)
    return f"**{text}** {word}" if word in CLEAR else text


def _adaptation(matrix: Matrix, rows: list[MatrixRow]) -> list[str]:
    titles = ["row", "against", *(f"on {column.name}" for column in matrix.domains)]
    lines = []
    for row in rows:
        squares = [row.squares[column.name] for column in matrix.domains]
        lines.append([row.name, str(row.control), *(_difference(square.to_control, square.gain) for square in squares)])
        if row.plain is not None and row.plain != row.control:
            alone = [with_interval(square.to_plain, signed=True) for square in squares]
            lines.append([row.name, f"{row.plain} (one at a time)", *alone])
    return markdown_grid(titles, lines)


def class_titles(matrix: Matrix) -> list[str]:
    """The head of a table of classes."""
    return ["class", "pixels %", *(row.name for row in matrix.rows)]


def class_rows(matrix: Matrix, column: Domain) -> Iterator[list[str]]:
    """Per class of a data set: its name, its share of the labelled pixels, its IoU in % by row, with intervals."""
    total = max(1, int(column.pixels.sum()))
    for index, name in enumerate(column.class_names):
        share = f"{100 * column.pixels[index] / total:.2f}"
        squares = [row.squares[column.name] for row in matrix.rows]
        yield [name, share, *(with_interval(square.classes[index]) for square in squares)]


COLUMNS = (
    "row", "kind", "trained_on", "target", "domain", "diagonal", "measure", "to", "value", "low", "high",
    "standard_error", "degrees_of_freedom", "p_value", "verdict", "seeds", "images", "steps", "seconds_per_step",
)  # fmt: skip
"""Of :func:`to_csv`; scores and differences are fractions, not percent. Intervals are one at a time but for the
measures in :data:`JOINT`, whose p values are Holm's."""
JOINT = ("diagonal_delta", "control_delta")


def to_csv(matrix: Matrix) -> str:
    """One line a row, data set and measure: scores, differences, IoU of each class, mIoU of each seed."""
    return csv_text(COLUMNS, _lines(matrix))


def _lines(matrix: Matrix) -> Iterator[list[Any]]:
    for row in matrix.rows:
        for column in matrix.domains:
            square = row.squares[column.name]
            for measure, other, estimate, p_value, word in _measures(matrix, row, column):
                yield [
                    row.name, row.kind, " + ".join(row.trained_on), row.target or "", column.name,
                    str(square.diagonal).lower(), measure, other or "", *estimate_cells(estimate, p_value), word,
                    len(row.seeds), column.images, row.steps, plain_number(row.seconds_per_step),
                ]  # fmt: skip


def _measures(
    matrix: Matrix, row: MatrixRow, column: Domain
) -> Iterator[tuple[str, str | None, Estimate, float | None, str]]:
    """Measure, the row it is a difference to, the number, its p value, its word."""
    square, diagonal = row.squares[column.name], matrix.diagonal(column.name)
    yield "miou", None, square.miou, None, ""
    yield "frequent_miou", None, square.frequent, None, ""
    if square.to_diagonal is not None and diagonal is not None:
        p_value = square.to_diagonal.holm_p_value
        yield "diagonal_delta", diagonal.name, joint(square.to_diagonal), p_value, square.loss
        alone = square.to_diagonal.estimate
        yield "diagonal_delta_alone", diagonal.name, alone, square.to_diagonal.p_value, ""
    if row.plain is not None:
        yield "plain_delta", row.plain, square.to_plain, square.to_plain.p_value, ""
    if square.to_control is not None:
        yield "control_delta", row.control, joint(square.to_control), square.to_control.holm_p_value, square.gain
    for name, estimate in zip(column.class_names, square.classes, strict=True):
        yield f"iou/{name}", None, estimate, None, ""
    for seed, value in square.by_seed.items():
        yield f"miou/seed{seed}", None, Estimate(value), None, ""
