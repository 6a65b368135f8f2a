"""A matrix of data sets: a square for each training and data set, its colour the mIoU."""

from __future__ import annotations

from typing import TYPE_CHECKING

from uda.bench.matrix.table import CLEAR, Matrix, MatrixRow, Square
from uda.bench.render import interval, joint, number, with_interval
from uda.plots.style import MINUS, PAPER, Theme, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = "Blues"
"""Light is low; one hue, so that it reads in grey and without colour vision."""
DIAGONAL = "#d55e00"
WIDTH, HEIGHT = 2.1, 0.85
"""Inches of a square."""


@styled
def matrix(matrix: Matrix, *, title: str | None = None, theme: Theme = PAPER) -> Figure:
    """Draw a matrix: in each square the mIoU in %, its interval, and the difference to the diagonal with its own.

    Squares of one column are comparable, and colours follow the mIoU over all of them. The diagonal has a frame; bold
    are differences whose interval, which holds for all of the matrix together (Bonferroni), excludes 0.

    Args:
        matrix: with at least one row.
        title: above it; by default the matrix' name.
        theme: its colours; those of the squares follow the scores.

    Raises:
        ValueError: no finished row to draw.
    """
    from matplotlib import colormaps
    from matplotlib.patches import Rectangle

    if not matrix.rows:
        raise ValueError(f"{matrix.name}: no finished row to draw")
    rows, columns = matrix.rows, matrix.domains
    figure, axes = new_figure(2.4 + WIDTH * len(columns), 1.3 + HEIGHT * len(rows))
    values = [row.squares[column.name].miou.value for row in rows for column in columns]
    known = [value for value in values if value == value] or [0.0]
    low, high = min(known), max(known)
    for y, row in enumerate(rows):
        for x, column in enumerate(columns):
            square = row.squares[column.name]
            shade = _shade(square.miou.value, low, high)
            ground = colormaps[COLOURS](shade)
            axes.add_patch(Rectangle((x, y), 1, 1, facecolor=ground, edgecolor="white", linewidth=2))
            ink = "white" if shade > 0.6 else "#1b1b1b"
            for at, (text, size, bold) in enumerate(_lines(square)):
                weight = "bold" if bold else "normal"
                axes.text(
                    x + 0.5, y + (0.27, 0.55, 0.8)[at], text, ha="center", va="center", color=ink, fontsize=size,
                    fontweight=weight, parse_math=False,
                )  # fmt: skip
    for y, row in enumerate(rows):  # above the neighbours' edges
        for x, column in enumerate(columns):
            if row.squares[column.name].diagonal:
                axes.add_patch(Rectangle((x + 0.02, y + 0.03), 0.96, 0.94, fill=False, edgecolor=DIAGONAL, linewidth=3))
    axes.set(xlim=(0, len(columns)), ylim=(len(rows), 0))
    axes.set_xticks(
        [x + 0.5 for x in range(len(columns))],
        [f"{column.name}\n{column.images} images" for column in columns],
        parse_math=False,
    )
    axes.set_yticks([y + 0.5 for y in range(len(rows))], [_row_label(row) for row in rows], parse_math=False)
    axes.tick_params(length=0, top=False, bottom=False, labeltop=True, labelbottom=False)
    axes.set_xlabel("scored on", fontweight="bold")
    axes.xaxis.set_label_position("top")
    axes.set_ylabel("trained on", fontweight="bold")
    for spine in axes.spines.values():
        spine.set_visible(False)
    seeds = max(len(row.seeds) for row in rows)
    axes.set_title(title or matrix.name, loc="left", parse_math=False)
    legend = (
        f"mIoU in % [95 % interval], {seeds} seed{'s' if seeds > 1 else ''}; frame: the diagonal, trained on that data "
        "set;\nbelow: points against the diagonal [joint interval, Bonferroni], bold where it excludes 0"
    )
    figure.supxlabel(legend, fontsize=8, x=0.01, ha="left")
    figure.set_label(f"{matrix.name}, mIoU in %: " + "; ".join(_in_words(row) for row in rows))
    return figure


def _in_words(row: MatrixRow) -> str:
    scores = ", ".join(f"{name} {with_interval(square.miou)}" for name, square in row.squares.items())
    return f"trained on {row.name}: {scores}"


def _shade(value: float, low: float, high: float) -> float:
    """Where a value is on the scale of colours, which leaves out its ends."""
    if value != value:
        return 0.0
    return 0.1 + 0.75 * ((value - low) / (high - low) if high > low else 0.5)


def _lines(square: Square) -> list[tuple[str, float, bool]]:
    """Text, size and boldness of a square's lines."""
    difference = joint(square.to_diagonal)
    lines: list[tuple[str, float, bool]] = [
        (number(square.miou), 13, square.diagonal),
        (interval(square.miou).replace("-", MINUS), 8, False),
    ]
    if difference.known:
        text = f"{number(difference, signed=True)} {interval(difference)}".strip()
        lines.append((text.replace("-", MINUS), 8, square.loss in CLEAR))
    return lines


def _row_label(row: MatrixRow) -> str:
    """A row's name in as many lines as it has parts."""
    where, colon, method = row.name.partition(": ")
    return f"{where}\n{method}" if colon else where
