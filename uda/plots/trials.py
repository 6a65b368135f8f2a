"""A search drawn: its course, and whether what it was judged by tells what the target says."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from uda.config.search import is_better
from uda.plots.style import PAPER, Theme, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from uda.bench.search import Summary


@styled
def search(summary: Summary, *, theme: Theme = PAPER) -> Figure:
    """Draw the objective over the trials and, where the target has labels, the target's mIoU over the objective.

    Filled: finished; empty: pruned. The line is the best so far, the ring the search's choice.

    Args:
        summary: of a search.
        theme: its colours.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    objective = summary.config.spec.objective
    panels = 2 if summary.target else 1
    figure = Figure(figsize=(4.6 * panels, 3.4), layout="constrained")
    axes = figure.subplots(1, panels, squeeze=False)[0]
    shown = [trial for trial in summary.trials if objective in trial.objectives]
    for state, face in (("finished", theme.helps), ("pruned", "none")):
        own = [trial for trial in shown if trial.state == state]
        if own:
            places = [trial.number for trial in own], [trial.objectives[objective] for trial in own]
            axes[0].scatter(*places, facecolor=face, edgecolor=theme.helps, s=28, label=state)
    line, best = [], math.nan
    for trial in shown:
        if trial.state == "finished" and is_better(objective, trial.objectives[objective], best):
            best = trial.objectives[objective]
        line.append(best)
    numbers = [trial.number for trial in shown]
    axes[0].step(numbers, line, where="post", color=theme.hurts, linewidth=1, label="best so far")
    axes[0].set_xlabel("trial")
    axes[0].xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0].set_ylabel(objective)
    axes[0].legend()
    if summary.target:
        _draw_target(axes[1], summary, theme)
    label = "" if summary.best is None else f", best trial {summary.best.number} with {best:.4f}"
    figure.set_label(f"{summary.config.name}: {objective} of {len(shown)} trials{label}")
    return figure


def _draw_target(axes: Axes, summary: Summary, theme: Theme) -> None:
    """The target's mIoU over the objective, a point a finished trial."""
    objective = summary.config.spec.objective
    known = {t.number: t.objectives[objective] for t in summary.trials if t.number in summary.target}
    axes.scatter(list(known.values()), [100 * summary.target[number] for number in known], color=theme.helps, s=28)
    if summary.best is not None and summary.best.number in known:
        place = known[summary.best.number], 100 * summary.target[summary.best.number]
        axes.scatter(*place, facecolor="none", edgecolor=theme.hurts, s=130, linewidth=1.6)
    axes.set_xlabel(objective)
    axes.set_ylabel("target's mIoU in %, the other half")
