"""A study of factors: what each does on each domain, with intervals."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from uda.bench.render import joint
from uda.plots.style import PAPER, Theme, in_words, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from uda.bench.factorial import Effect, Study

CLEAR = ("helps", "hurts")
WIDTH, LINE = 2.6, 0.32
"""Inches of a domain's panel and of a factor's line."""


@styled
def effects(study: Study, *, title: str | None = None, theme: Theme = PAPER) -> Figure:
    """Draw the main effects: a panel for each domain, a line for each factor, the largest on the target on top.

    A point is an effect in points of mIoU, the thick line its interval on its own, the thin one that of all effects
    together (Bonferroni). Filled points are those whose thin line excludes 0: circles help, squares hurt.

    Args:
        study: with at least one effect.
        title: above it; by default the study's name.
        theme: its colours.

    Raises:
        ValueError: no effect to draw.
    """
    from matplotlib.figure import Figure

    if not study.effects:
        raise ValueError(f"{study.name}: no effect to draw; {len(study.missing)} runs are not finished")
    first = study.domains[0].name
    shown = sorted(study.effects, key=lambda effect: -effect.on[first].estimate.value)
    size = (1.6 + WIDTH * len(study.domains), 1.5 + LINE * len(shown))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(1, len(study.domains), sharex=True, sharey=True, squeeze=False)[0]
    for axes, domain in zip(panels, study.domains, strict=True):
        axes.axvline(0, color=theme.ink, linewidth=0.8)
        for at, effect in enumerate(shown):
            _draw_effect(axes, at, effect, domain.name, theme)
        axes.set_title(f"on {domain.name} ({domain.images} images)", fontsize=9, loc="left", parse_math=False)
        axes.grid(axis="x", linewidth=0.4)
        axes.set_axisbelow(True)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
        axes.tick_params(axis="y", length=0)
    panels[0].set_yticks(range(len(shown)), [effect.name for effect in shown], parse_math=False)
    panels[0].set_ylim(len(shown) - 0.5, -0.5)
    lines = (
        f"{effect.name} on {domain.name}: {in_words(effect.on[domain.name].estimate, signed=True)} points"
        for effect in shown
        for domain in study.domains
    )
    figure.set_label(f"{study.name}, main effects. " + "; ".join(lines))
    figure.suptitle(study.name if title is None else title, x=0.01, ha="left", parse_math=False)
    seeds = len(study.seeds)
    figure.supxlabel(
        f"points of mIoU, factor high minus low; {study.design.runs} runs, {seeds} seed{'' if seeds == 1 else 's'};\n"
        "thick: 95 % interval of one effect, thin: of all together;\n"
        "filled: the latter excludes 0 (circle helps, square hurts)",
        fontsize=8, x=0.01, ha="left",
    )  # fmt: skip
    return figure


def _draw_effect(axes: Axes, at: int, effect: Effect, domain: str, theme: Theme) -> None:
    word = effect.verdict(domain)
    colour = {"helps": theme.helps, "hurts": theme.hurts}.get(word, theme.ink)
    adjusted = effect.on[domain]
    for estimate, width in ((joint(adjusted), 1.0), (adjusted.estimate, 2.6)):
        low, high = 100 * estimate.low, 100 * estimate.high
        if math.isfinite(low) and math.isfinite(high):
            axes.plot([low, high], [at, at], color=colour, linewidth=width, solid_capstyle="butt")
    axes.plot(
        [100 * adjusted.estimate.value], [at], "s" if word == "hurts" else "o", color=colour, markersize=6,
        markerfacecolor=colour if word in CLEAR else theme.ground,
    )  # fmt: skip
