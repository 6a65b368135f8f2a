"""Differences with their intervals around a zero line."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from uda.bench.intervals import Estimate
from uda.config import SOURCE_ONLY
from uda.plots.results import Results, Shown, read_shown
from uda.plots.style import MINUS, PAPER, WIDTH, Theme, bounds, in_words, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

To = Literal["control", "source_only"]
MARKS = {"helps": "o", "hurts": "s", "": "D"}
"""By verdict; any other is a hollow circle."""


@dataclass(frozen=True)
class Difference:
    """One line of a forest plot."""

    name: str
    estimate: Estimate
    """As a fraction."""
    verdict: str = ""
    """``helps``, ``hurts``, anything else is drawn hollow; empty: no verdict is meant."""


def forest(
    results: Results, domain: str = "target", to: To = "control", *, title: str | None = None, theme: Theme = PAPER
) -> Figure:
    """Draw what each row gains, in points of mIoU, with its interval, around a zero line; the best row on top.

    A disc in colour says that a row helps, a square that it hurts, a hollow black disc that there is no clear effect.
    These words follow Holm's procedure over the whole table, which calls clear a little more than the joint intervals
    (Bonferroni's) exclude 0; such a mark is in colour but hollow, so that it contradicts no interval.
    A row with one seed has no interval, for that of its images says nothing about training again.

    Args:
        results: a table, what :func:`uda.bench.run` gave, or the path of a recorded ``results.json`` or its folder.
        domain: where the rows were scored.
        to: ``control``, the row that sees the same images, with intervals that hold for all of the table together; or
            ``source_only``, with intervals one at a time.
        title: above it; by default what is drawn.
        theme: its colours.

    Raises:
        ValueError: a path has no recorded result, the domain is not known, or nothing is compared there.
    """
    shown = read_shown(results)
    shown.see_domain(domain)
    lines = differences(shown, domain, to)
    if not lines:
        raise ValueError(f"{shown.name}: no row is compared to {to} on {domain}")
    return draw_forest(forest_title(domain, to) if title is None else title, lines, theme=theme)


def forest_title(domain: str, to: To) -> str:
    """What :func:`forest` draws, in words."""
    if to == "control":
        return f"{domain}: minus the control, joint 95 % intervals"
    return f"{domain}: minus {SOURCE_ONLY}, 95 % intervals one at a time"


def differences(shown: Shown, domain: str, to: To) -> list[Difference]:
    """The lines of :func:`forest`, rows ordered by what they gain over the control, then over source-only, on the
    target; those that are not known are left out."""

    def loss(name: str) -> tuple[float, float]:
        target = shown.rows[name].get("target")
        if target is None:
            return math.inf, math.inf
        first, second = (-part.value if part.known else math.inf for part in (target.to_control, target.to_source_only))
        return first, second

    lines = []
    for name in sorted(shown.rows, key=loss):
        score = shown.rows[name].get(domain)
        if score is not None:
            control = to == "control"
            estimate = score.to_control if control else score.to_source_only
            lines.append(Difference(name, estimate, score.verdict if control else ""))
    return [line for line in lines if line.estimate.known]


def _by_words_alone(line: Difference) -> bool:
    """Whether it is clear by Holm's procedure but its interval does not exclude 0."""
    return line.verdict in ("helps", "hurts") and not line.estimate.clear


def _key(lines: Sequence[Difference]) -> str:
    """What the marks mean; nothing where nothing is judged."""
    if not any(line.verdict for line in lines):
        return ""
    key = "\n● helps   ■ hurts   ○ no clear effect, or not judged"
    return key + ("\n(colour, but hollow: clear by Holm's procedure alone)" if any(map(_by_words_alone, lines)) else "")


@styled
def draw_forest(title: str, lines: Sequence[Difference], *, theme: Theme = PAPER) -> Figure:
    """The figure of :func:`forest`, lines in the order given, the first on top."""
    figure, axes = new_figure(WIDTH, 1.1 + 0.3 * len(lines))
    axes.axvline(0, color=theme.ink, linewidth=0.8)
    for at, line in enumerate(lines):
        colour = {"helps": theme.helps, "hurts": theme.hurts}.get(line.verdict, theme.ink)
        ends = bounds(line.estimate)
        if ends is not None:
            axes.plot(ends, [at, at], color=colour, linewidth=1.6, solid_capstyle="butt")
        value = 100 * line.estimate.value
        face = colour if line.verdict in MARKS and not _by_words_alone(line) else theme.ground
        axes.plot([value], [at], MARKS.get(line.verdict, "o"), color=colour, markerfacecolor=face, markersize=6)
        text = f"{value:+z.1f}".replace("-", MINUS)
        axes.text(1.01, at, text, transform=axes.get_yaxis_transform(), va="center", fontsize=8)
    axes.set_yticks(range(len(lines)), [line.name for line in lines], parse_math=False)
    axes.set_ylim(len(lines) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")
    axes.set_xlabel(f"points of mIoU{_key(lines)}")
    axes.set_title(title, loc="left", parse_math=False)
    figure.set_label(
        f"{title}, in points of mIoU: "
        + "; ".join(f"{line.name} {in_words(line.estimate, signed=True)} {line.verdict}".strip() for line in lines)
    )
    return figure
