"""Scores against the number of labelled target images."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from uda.bench.learning_curve import Learning
from uda.bench.run import BenchResult
from uda.bench.table import Table
from uda.plots.style import DASHES, MARKERS, PAPER, WIDTH, Theme, add_legend, legend_label, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def learning_curve(results: Table | BenchResult, *, title: str | None = None, theme: Theme = PAPER) -> Figure:
    """Draw scores against the number of labelled images, with 95 % intervals over seeds and images.

    The intervals are those of the difference to source-only without labels, which is paired. Images at random have
    bands, ways to choose them dashed lines with bars. From each method's score without labels a line leads to the
    number of labelled images that it is worth; the bar across is that number's interval.

    Args:
        results: the table of a benchmark with a ``learning_curve``, or what :func:`uda.bench.run` gave.
        title: above it; by default the benchmark and its shift.
        theme: its colours.

    Raises:
        ValueError: there is no finished row of a learning curve.
    """
    table = results.table if isinstance(results, BenchResult) else results
    if table.learning is None or not table.learning.lines:
        raise ValueError(f"{table.name}: no finished row of a learning curve")
    return draw_learning(f"{table.name}: {table.shift}" if title is None else title, table.learning, theme=theme)


@styled
def draw_learning(title: str, learned: Learning, *, theme: Theme = PAPER) -> Figure:
    """The figure of :func:`learning_curve`."""
    figure, axes = new_figure(WIDTH, 3.4 + 0.2 * math.ceil(len(learned.lines) / 2))
    axes.set_xscale("function", functions=(np.log1p, np.expm1))
    rows = list(dict.fromkeys(line.row for line in learned.lines))
    ways = list(dict.fromkeys(["random", *(line.choose for line in learned.lines)]))
    for line in learned.lines:
        colour, way = theme.rows[rows.index(line.row) % len(theme.rows)], ways.index(line.choose)
        # a little aside, or bars would hide each other
        counts = [math.expm1(math.log1p(count) + 0.04 * way) if count else 0.0 for count in line.points]
        values = [100 * point.value for point in line.points.values()]
        gains = line.gains.values()
        lows, highs = (
            [value + 100 * (getattr(gain, end) - gain.value) for value, gain in zip(values, gains, strict=True)]
            for end in ("low", "high")
        )
        if line.choose == "random":
            axes.fill_between(counts, lows, highs, color=colour, alpha=0.13, linewidth=0)
        else:
            for count, low, high in zip(counts[1:], lows[1:], highs[1:], strict=True):
                axes.plot([count, count], [low, high], color=colour, linewidth=0.7, alpha=0.7)
        axes.plot(
            counts, values, color=colour, linestyle=DASHES[way % len(DASHES)], marker=MARKERS[way % len(MARKERS)],
            markersize=4, linewidth=1.4, label=legend_label(line.name),
        )  # fmt: skip
    most = max(count for line in learned.lines for count in line.points)
    for worth in learned.worths:
        if worth.row in rows:
            colour, score = theme.rows[rows.index(worth.row) % len(theme.rows)], 100 * worth.score
            axes.plot([0, min(worth.value, most)], [score] * 2, color=colour, linewidth=0.8, linestyle=":")
            if math.isfinite(worth.low):
                axes.plot([worth.low, min(worth.high, most)], [score] * 2, "|-", color=colour, linewidth=2.5, alpha=0.5)
            if math.isfinite(worth.value):
                axes.plot([worth.value], [score], "*", color=colour, markeredgecolor=theme.ink, markersize=10)
    axes.set_xticks(sorted({count for line in learned.lines for count in line.points}))
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.minorticks_off()
    axes.set(xlabel="labelled target images", ylabel="target mIoU %")
    axes.set_title(title, loc="left", parse_math=False)
    axes.grid()
    add_legend(figure)
    figure.set_label(f"{title}: {' '.join(learned.sentences)}")
    return figure
