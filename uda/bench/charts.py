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

from uda.bench.intervals import Estimate

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

    return _svg(title, draw)


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

    return _svg(title, draw)


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

    return _svg(title, draw)


def _figure(size: tuple[float, float]) -> Figure:
    from matplotlib.figure import Figure  # only where a page is drawn

    return Figure(figsize=size, layout="constrained")


def _legend(figure: Figure) -> None:
    """Below the axes. Labels begin with a space of no width, for matplotlib leaves out those with an underscore."""
    legend = figure.legend(loc="outside lower center", ncols=2)
    for text in legend.get_texts():
        text.set_parse_math(False)


def _svg(title: str, draw: Callable[[], Figure]) -> str:
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
