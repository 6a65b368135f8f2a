"""Scores on one domain against those on another."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from uda.bench.intervals import Estimate
from uda.plots.results import Results, read_shown
from uda.plots.style import MARKERS, PAPER, Theme, bounds, in_words, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 5.2
"""Inches."""
LINE = 0.15
"""Inches between two lines of labels."""
LETTERS = 26
"""Of a label's line."""
AROUND = 0.9
"""Inches of a figure's height that are not its axes'."""


def target_against_source(
    results: Results, *, x: str = "source", y: str = "target", title: str | None = None, theme: Theme = PAPER
) -> Figure:
    """Draw each row as a point, its mIoU on the target against that on the source in %, with its 95 % intervals.

    Names stand at the right in the order of the points' height, each with a thin line to its point, so that they never
    overlap. A row has the colour and marker of its place in the table; one with one seed has no intervals.

    Args:
        results: a table, what :func:`uda.bench.run` gave, or the path of a recorded ``results.json`` or its folder.
        x: the domain across.
        y: the domain upwards.
        title: above it.
        theme: its colours.

    Raises:
        ValueError: a path has no recorded result, a domain is not known, or no row was scored on both.
    """
    shown = read_shown(results)
    for domain in (x, y):
        shown.see_domain(domain)
    points = {
        name: (scores[x].miou, scores[y].miou)
        for name, scores in shown.rows.items()
        if {x, y} <= set(scores) and scores[x].miou.known and scores[y].miou.known
    }
    if not points:
        raise ValueError(f"{shown.name}: no row is scored on both {x} and {y}")
    return draw_scatter(
        f"{y} against {x}" if title is None else title, (f"{x} mIoU %", f"{y} mIoU %"), points, list(shown.rows),
        theme=theme,
    )  # fmt: skip


@styled
def draw_scatter(
    title: str,
    labels: tuple[str, str],
    points: Mapping[str, tuple[Estimate, Estimate]],
    rows: Sequence[str],
    *,
    theme: Theme = PAPER,
) -> Figure:
    """The figure of :func:`target_against_source`: points ``(x, y)`` by name, styles by their place in ``rows``."""
    lines = {name: textwrap.wrap(name, LETTERS) or [name] for name in points}
    height = max(3.6, AROUND + LINE * (1 + sum(map(len, lines.values()))))
    figure, axes = new_figure(WIDTH, height)
    for name, (x, y) in points.items():
        colour, marker = _look(rows.index(name), theme)
        place = 100 * x.value, 100 * y.value
        for ends, across in ((bounds(x), True), (bounds(y), False)):
            if ends is not None:
                line = (ends, [place[1]] * 2) if across else ([place[0]] * 2, ends)
                axes.plot(*line, color=colour, linewidth=0.8, alpha=0.6)
        axes.plot(*([value] for value in place), marker, color=colour, markersize=7)
    axes.set(xlabel=labels[0], ylabel=labels[1])
    axes.set_title(title, loc="left", parse_math=False)
    axes.grid()
    _name(axes, points, lines, rows, theme, height - AROUND)
    figure.set_label(
        f"{title}; {labels[0]}, {labels[1]}: "
        + "; ".join(f"{name} {in_words(x)}, {in_words(y)}" for name, (x, y) in points.items())
    )
    return figure


def _look(place: int, theme: Theme) -> tuple[str, str]:
    return theme.rows[place % len(theme.rows)], MARKERS[place % len(MARKERS)]


def _name(
    axes: Axes,
    points: Mapping[str, tuple[Estimate, Estimate]],
    lines: Mapping[str, Sequence[str]],
    rows: Sequence[str],
    theme: Theme,
    height: float,
) -> None:
    """Names at the right of axes that are ``height`` inches high."""
    low, high = axes.get_ylim()
    axes.set(ylim=(low, high), xlim=axes.get_xlim())
    names = sorted(points, key=lambda name: points[name][1].value)
    wanted = [(100 * points[name][1].value - low) / (high - low) for name in names]
    heights = [LINE * len(lines[name]) / height for name in names]
    for name, place in zip(names, spread(wanted, heights), strict=True):
        colour, marker = _look(rows.index(name), theme)
        x, y = (100 * part.value for part in points[name])
        axes.plot([1.05], [place], marker, color=colour, markersize=4.5, transform=axes.transAxes, clip_on=False)
        axes.annotate(
            "\n".join(lines[name]), (x, y), (1.08, place), textcoords="axes fraction", va="center", fontsize=8,
            parse_math=False, annotation_clip=False,
        )  # fmt: skip
        axes.annotate(
            "", (x, y), (1.035, place), textcoords="axes fraction", annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.5, "alpha": 0.6, "shrinkA": 0, "shrinkB": 4},
        )  # fmt: skip


def spread(wanted: Sequence[float], heights: Sequence[float]) -> npt.NDArray[np.float64]:
    """Centres of labels near where they are wanted, in their order, none over another, within [0, 1] if they fit.

    Centres at least half of both heights apart become, less the heights below them, a sequence that never falls: the
    nearest such sequence is the monotone regression.

    Args:
        wanted: centres, in rising order.
        heights: of the labels.
    """
    from scipy.optimize import isotonic_regression

    sizes = np.asarray(heights, dtype=np.float64)
    below = np.cumsum(sizes) - sizes / 2
    free = max(0.0, 1 - float(sizes.sum()))
    places = np.clip(isotonic_regression(np.asarray(wanted) - below).x, 0, free)
    return np.asarray(places + below)
