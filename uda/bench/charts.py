"""The charts of a benchmark's page as SVG text: differences with intervals, target against source, curves over steps.

They have no ground and no fixed ink: colours are CSS variables of the page, so that one chart serves light, dark and
print. Rows differ in marker or dashes too, and the palette is that of Okabe and Ito ("Color universal design", 2008).
The same numbers give the same bytes.
"""

from __future__ import annotations

import html
import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from uda.bench.intervals import Estimate
from uda.bench.learning_curve import Learning

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK = "#010203"
ROLES = {
    INK: "currentColor", "#010204": "var(--helps)", "#010205": "var(--hurts)", "#010206": "var(--faint)",
    **{f"#0102{16 + at:02x}": f"var(--row{at})" for at in range(8)},
}  # fmt: skip
"""Colours that no chart has otherwise -> what stands for them in the page; matplotlib knows no CSS."""
HELPS, HURTS, FAINT = list(ROLES)[1:4]
ROW_COLOURS = list(ROLES)[4:]
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "<", ">", "*", "p")
"""Their number and that of the colours have no common factor: 88 rows before a pair comes again."""
DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 1.5, 1, 1.5)), (0, (8, 2, 2, 2)))
STYLE: Any = {
    "text.color": INK, "axes.edgecolor": INK, "axes.labelcolor": INK, "axes.titlecolor": INK, "xtick.color": INK,
    "ytick.color": INK, "figure.facecolor": "none", "axes.facecolor": "none", "savefig.facecolor": "none",
    "legend.frameon": False, "legend.fontsize": 8, "font.size": 9, "axes.titlesize": 9, "axes.spines.top": False,
    "axes.spines.right": False, "grid.color": FAINT, "svg.fonttype": "none",
}  # fmt: skip
OKABE_ITO = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#f0e442")
"""Of figures that are no part of a page."""
WIDTH = 4.7
"""Inches: a chart is as wide as a phone at nearly its own size."""


@dataclass(frozen=True)
class Difference:
    """One line of :func:`forest`."""

    name: str
    estimate: Estimate
    """As a fraction; its ``low`` and ``high`` are drawn where they are finite."""
    verdict: str = ""
    """``helps``, ``hurts``, anything else is drawn hollow; empty: no verdict is meant."""


@dataclass(frozen=True)
class Curve:
    """One row's scalar over the steps."""

    steps: Sequence[int]
    mean: Sequence[float]
    low: Sequence[float]
    """Smallest over the seeds."""
    high: Sequence[float]


def forest(title: str, differences: Sequence[Difference]) -> str:
    """Differences in points of mIoU with their intervals around a zero line, in the order given, first on top."""

    def draw() -> Figure:
        figure = _figure((WIDTH, 0.75 + 0.3 * len(differences)))
        axes = figure.subplots()
        axes.axvline(0, color=INK, linewidth=0.8)
        for at, difference in enumerate(differences):
            colour = {"helps": HELPS, "hurts": HURTS}.get(difference.verdict, INK)
            marker = {"helps": "o", "hurts": "s", "": "D"}.get(difference.verdict, "o")
            face = colour if difference.verdict in ("helps", "hurts", "") else "none"
            low, high = 100 * difference.estimate.low, 100 * difference.estimate.high
            if math.isfinite(low) and math.isfinite(high):
                axes.plot([low, high], [at, at], color=colour, linewidth=1.6, solid_capstyle="butt")
            value = 100 * difference.estimate.value
            axes.plot([value], [at], marker, color=colour, markerfacecolor=face, markersize=6)
            text = f"{value:+.1f}".replace("-", "\u2212")
            axes.text(1.01, at, text, transform=axes.get_yaxis_transform(), va="center", fontsize=8)
        axes.set_yticks(range(len(differences)), [difference.name for difference in differences], parse_math=False)
        axes.set_ylim(len(differences) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x", linewidth=0.5)
        axes.set_xlabel("points of mIoU")
        axes.set_title(title, loc="left", parse_math=False)
        return figure

    return as_svg(title, draw)


def scatter(title: str, x_label: str, y_label: str, points: Mapping[str, tuple[Estimate, Estimate]]) -> str:
    """Rows as points ``(x, y)`` in % of mIoU with their intervals as bars; styles follow the order of the rows."""

    def draw() -> Figure:
        lines = math.ceil(len(points) / 2)
        figure = _figure((WIDTH, 3.6 + 0.2 * lines))
        axes = figure.subplots()
        for at, (name, (x, y)) in enumerate(points.items()):
            colour = ROW_COLOURS[at % len(ROW_COLOURS)]
            across, along = [100 * x.value] * 2, [100 * y.value] * 2
            for bounds, horizontal in (((x.low, x.high), True), ((y.low, y.high), False)):
                if all(map(math.isfinite, bounds)):
                    ends = [100 * bound for bound in bounds]
                    axes.plot(*((ends, along) if horizontal else (across, ends)), color=colour, linewidth=0.8)
            axes.plot(
                across[:1], along[:1], MARKERS[at % len(MARKERS)], color=colour, markersize=7, label=f"\u200b{name}"
            )
        axes.set(xlabel=x_label, ylabel=y_label)
        axes.set_title(title, loc="left", parse_math=False)
        axes.grid(linewidth=0.5)
        _legend(figure)
        return figure

    return as_svg(title, draw)


def curves(title: str, lines: Mapping[str, Curve], rows: Sequence[str]) -> str:
    """Means over the seeds as lines, smallest to largest as bands; a row has the same colour in every chart."""

    def draw() -> Figure:
        figure = _figure((WIDTH, 2.6 + 0.2 * math.ceil(len(lines) / 2)))
        axes = figure.subplots()
        for name, curve in lines.items():
            at = rows.index(name)
            colour = ROW_COLOURS[at % len(ROW_COLOURS)]
            if list(curve.low) != list(curve.high):
                axes.fill_between(curve.steps, curve.low, curve.high, color=colour, alpha=0.12, linewidth=0)
            axes.plot(
                curve.steps, curve.mean, color=colour, linestyle=DASHES[at % len(DASHES)], linewidth=1.4,
                label=f"\u200b{name}",
            )  # fmt: skip
        axes.set_xlabel("step")
        axes.locator_params(axis="x", integer=True)
        axes.set_title(title, loc="left", parse_math=False)
        axes.grid(linewidth=0.5)
        _legend(figure)
        return figure

    return as_svg(title, draw)


def learning(title: str, learned: Learning) -> str:
    """The chart of :func:`draw_learning`."""
    return as_svg(title, lambda: draw_learning(title, learned, ROW_COLOURS, INK))


def draw_learning(title: str, learned: Learning, colours: Sequence[str] = OKABE_ITO, ink: str = "black") -> Figure:
    """Scores against the number of labelled images, with 95 % intervals over seeds and images.

    The intervals are those of the difference to source-only without labels, which is paired. Images at random have
    bands, ways to choose them dashed lines with bars. From each method's score without labels a line leads to the
    number of labelled images that it is worth; the bar across is that number's interval.

    Args:
        title: of the chart.
        learned: the learning curve.
        colours: of the rows, any that matplotlib knows.
        ink: of what belongs to no row.

    Returns:
        A figure, to save as PNG or PDF.
    """
    figure = _figure((WIDTH, 3.4 + 0.2 * math.ceil(len(learned.lines) / 2)))
    axes = figure.subplots()
    axes.set_xscale("function", functions=(np.log1p, np.expm1))
    rows = list(dict.fromkeys(line.row for line in learned.lines))
    ways = list(dict.fromkeys(["random", *(line.choose for line in learned.lines)]))
    for line in learned.lines:
        colour, way = colours[rows.index(line.row) % len(colours)], ways.index(line.choose)
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
            markersize=4, linewidth=1.4, label=f"\u200b{line.name}",
        )  # fmt: skip
    most = max(count for line in learned.lines for count in line.points)
    for worth in learned.worths:
        if worth.row in rows:
            colour, score = colours[rows.index(worth.row) % len(colours)], 100 * worth.score
            axes.plot([0, min(worth.value, most)], [score] * 2, color=colour, linewidth=0.8, linestyle=":")
            if math.isfinite(worth.low):
                axes.plot([worth.low, min(worth.high, most)], [score] * 2, "|-", color=colour, linewidth=2.5, alpha=0.5)
            if math.isfinite(worth.value):
                axes.plot([worth.value], [score], "*", color=colour, markeredgecolor=ink, markersize=10)
    axes.set_xticks(sorted({count for line in learned.lines for count in line.points}))
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.minorticks_off()
    axes.set(xlabel="labelled target images", ylabel="target mIoU %")
    axes.set_title(title, loc="left", parse_math=False)
    axes.grid(linewidth=0.5)
    _legend(figure)
    return figure


def _figure(size: tuple[float, float]) -> Figure:
    from matplotlib.figure import Figure  # only where a page is drawn

    return Figure(figsize=size, layout="constrained")


def _legend(figure: Figure) -> None:
    """Below the axes. Labels begin with a space of no width, for matplotlib leaves out those with an underscore."""
    legend = figure.legend(loc="outside lower center", ncols=2)
    for text in legend.get_texts():
        text.set_parse_math(False)


def as_svg(title: str, draw: Callable[[], Figure]) -> str:
    """A figure as an ``<svg>`` of a page, whose colours are roles where they are of :data:`ROLES`."""
    text = io.StringIO()
    from matplotlib import rc_context

    with rc_context({**STYLE, "svg.hashsalt": title}):
        draw().savefig(text, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = text.getvalue()
    # inside HTML an <svg> needs neither prolog, metadata nor namespaces, which are web addresses
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # the same in every chart of a page, and nothing refers to them
    for colour, role in ROLES.items():
        svg = svg.replace(colour, role)
    return svg.replace("<svg", f'<svg role="img" aria-label="{html.escape(title)}"', 1)
