"""A search drawn: its course, and whether what it was judged by tells what the target says."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from uda.bench.charts import STYLE
from uda.bench.search.summary import Summary
from uda.config.search import is_better

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw(summary: Summary) -> Figure:
    """The objective over the trials and, where the target has labels, the target's mIoU over the objective.

    Filled: finished; empty: pruned. The line is the best so far, the ring the search's choice.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    objective = summary.config.spec.objective
    panels = 2 if summary.target else 1
    with rc_context({**STYLE, "figure.facecolor": "white", "savefig.facecolor": "white"}):
        figure = Figure(figsize=(4.6 * panels, 3.4), layout="constrained")
        axes = figure.subplots(1, panels, squeeze=False)[0]
        shown = [trial for trial in summary.trials if objective in trial.objectives]
        for state, face in (("finished", "#0072b2"), ("pruned", "none")):
            own = [trial for trial in shown if trial.state == state]
            if not own:
                continue
            axes[0].scatter(
                [t.number for t in own], [t.objectives[objective] for t in own], facecolor=face, edgecolor="#0072b2",
                s=28, label=state,
            )  # fmt: skip
        line, best = [], math.nan
        for trial in shown:
            if trial.state == "finished" and is_better(objective, trial.objectives[objective], best):
                best = trial.objectives[objective]
            line.append(best)
        axes[0].step([t.number for t in shown], line, where="post", color="#d55e00", linewidth=1, label="best so far")
        axes[0].set_xlabel("trial")
        axes[0].xaxis.set_major_locator(MaxNLocator(integer=True))
        axes[0].set_ylabel(objective)
        axes[0].legend(fontsize=8, frameon=False)
        if summary.target:
            numbers = [trial for trial in shown if trial.number in summary.target]
            across = [trial.objectives[objective] for trial in numbers]
            axes[1].scatter(across, [100 * summary.target[t.number] for t in numbers], color="#0072b2", s=28)
            if summary.best is not None and summary.best.number in summary.target:
                place = summary.best.objectives[objective], 100 * summary.target[summary.best.number]
                axes[1].scatter(*place, facecolor="none", edgecolor="#d55e00", s=130, linewidth=1.6)
            axes[1].set_xlabel(objective)
            axes[1].set_ylabel("target's mIoU in %, the other half")
    return figure
