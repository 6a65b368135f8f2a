"""How figures look: colours, markers, dashes, fonts."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ParamSpec, cast

from uda.bench.intervals import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

P = ParamSpec("P")
OKABE_ITO = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#7a6a00")
"""Okabe and Ito, "Color universal design", 2008; their yellow is too light for lines and made darker."""
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "<", ">", "*", "p")
"""Their number and that of the colours have no common factor: 88 rows before a pair comes again."""
DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 1.5, 1, 1.5)), (0, (8, 2, 2, 2)))
WIDTH = 4.7
"""Inches: a chart is as wide as a phone at nearly its own size."""
MINUS = "\u2212"


@dataclass(frozen=True)
class Theme:
    """The colours of a figure, any that matplotlib knows."""

    ink: str
    helps: str
    hurts: str
    faint: str
    """Of grid lines."""
    rows: tuple[str, ...]
    """By row, from the first again where there are more rows."""
    ground: str = "white"


PAPER = Theme(ink="#1b1b1b", helps="#0072b2", hurts="#d55e00", faint="#c8c8c8", rows=OKABE_ITO)
"""On white."""


def rc(theme: Theme) -> Any:
    """A theme as a dict of matplotlib's settings, whose keys its types know one by one."""
    ink = dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "axes.titlecolor", "xtick.color", "ytick.color"), theme.ink
    )
    return {
        **ink, "figure.facecolor": theme.ground, "axes.facecolor": "none", "grid.color": theme.faint,
        "grid.linewidth": 0.5, "legend.frameon": False, "legend.fontsize": 8, "font.size": 9, "axes.titlesize": 9,
        "axes.spines.top": False, "axes.spines.right": False,
    }  # fmt: skip


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draw in the style of the argument ``theme``, whatever matplotlib's settings are."""

    @functools.wraps(draw)
    def inner(*args: P.args, **kwargs: P.kwargs) -> Figure:
        from matplotlib import rc_context

        theme = cast("Theme", kwargs.get("theme", PAPER))
        with rc_context(rc(theme)):
            figure = draw(*args, **kwargs)
            for axes in figure.axes:  # ticks are made when they are shown, in the settings of that time
                axes.tick_params(colors=theme.ink, labelsize=9, grid_color=theme.faint, grid_linewidth=0.5)
        return figure

    return inner


def new_figure(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of that many inches with one pair of axes; no window, no global state."""
    from matplotlib.figure import Figure  # only where something is drawn

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def add_legend(figure: Figure) -> None:
    """Below the axes. Labels come from :func:`legend_label`."""
    legend = figure.legend(loc="outside lower center", ncols=2)
    for text in legend.get_texts():
        text.set_parse_math(False)


def legend_label(name: str) -> str:
    """A name for a legend: matplotlib leaves out those that begin with an underscore, so a space of no width does."""
    return f"\u200b{name}"


def bounds(estimate: Estimate) -> tuple[float, float] | None:
    """The ends of an interval in %; ``None`` where there is none, or one seed, whose training noise is not known."""
    ends = 100 * estimate.low, 100 * estimate.high
    return None if estimate.image_noise_only or not all(map(math.isfinite, ends)) else ends


def in_words(estimate: Estimate, *, signed: bool = False) -> str:
    """``41.2 [39.8, 42.5]`` as it is drawn: without the interval where :func:`bounds` has none."""
    ends = bounds(estimate)
    text = f"{100 * estimate.value:{'+' if signed else ''}z.1f}"
    return text if ends is None else f"{text} [{ends[0]:z.1f}, {ends[1]:z.1f}]"
