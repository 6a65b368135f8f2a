"""Scalars of runs over their steps."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from uda.bench.run import BenchResult
from uda.bench.stored import CURVES
from uda.config.names import WARM_START
from uda.engine.tensorboard import read_scalars
from uda.plots.style import DASHES, PAPER, WIDTH, Theme, add_legend, legend_label, new_figure, styled
from uda.registry import nearest

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Runs = BenchResult | Path | str | Mapping[str, Sequence[Path]]
"""What :func:`uda.bench.run` gave, the folder of a benchmark or of one run, or by name the folders of its seeds."""
PERCENT = ("miou", "iou_")
"""Beginnings of the tags of scalars that are drawn in %."""


@dataclass(frozen=True)
class Curve:
    """One row's scalar over the steps."""

    steps: Sequence[int]
    """Optimiser steps done."""
    mean: Sequence[float]
    """Over the seeds that have the step."""
    low: Sequence[float]
    """Smallest over the seeds."""
    high: Sequence[float]


def curves(runs: Runs, scalar: str = "miou/target", *, title: str | None = None, theme: Theme = PAPER) -> Figure:
    """Draw a scalar over the steps: the mean over seeds as a line, from the smallest to the largest as a band.

    The band is no interval: of three seeds it is what was seen, not what another seed would do.

    Args:
        runs: what :func:`uda.bench.run` gave, the folder of a benchmark or of one run, or a mapping of names to the
            folders of the runs of each seed.
        scalar: a tag of ``scalars.jsonl``: ``miou/target`` (at the evaluations along the way, if there are any, and
            at the end), ``loss/total``, ...; scores are drawn in %.
        title: above it; by default the tag.
        theme: its colours.

    Raises:
        ValueError: there is no run, or none has the scalar; the message has the nearest that there is.
    """
    folders = run_folders(runs)
    series = read_curves(folders)
    if scalar not in series:
        raise ValueError(f"no run has the scalar {scalar!r}; {nearest(scalar, series)}")
    unit = ", %" if scalar.startswith(PERCENT) else ""
    return draw_curves(f"{scalar}{unit}" if title is None else title, series[scalar], list(folders), theme=theme)


def run_folders(runs: Runs) -> dict[str, list[Path]]:
    """By name the folders of the runs of each seed.

    Raises:
        ValueError: a folder has none.
    """
    if isinstance(runs, BenchResult):
        return {row.name: [runs.folder / row.name / f"seed{seed}" for seed in row.seeds] for row in runs.table.rows}
    if isinstance(runs, Mapping):
        return {name: list(map(Path, folders)) for name, folders in runs.items()}
    folder = Path(runs)
    if (folder / CURVES).is_file():
        return {folder.resolve().name: [folder]}
    by_name: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(folder.glob(f"*/seed*/{CURVES}")):
        if path.parent.parent.name != WARM_START:
            by_name[path.parent.parent.name].append(path.parent)
    if not by_name:
        raise ValueError(f"{folder}: holds no run with {CURVES}, neither itself nor as <row>/seed<number>")
    return dict(by_name)


def read_curves(folders: Mapping[str, Sequence[Path]]) -> dict[str, dict[str, Curve]]:
    """By tag and name the scalars of runs, in % where they are scores; values that are not finite are left out."""
    series: dict[str, dict[str, Curve]] = defaultdict(dict)
    for name, seeds in folders.items():
        points: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
        for folder in seeds:
            for record in read_scalars(folder):
                for tag, value in record.items():
                    if tag != "step" and isinstance(value, int | float) and math.isfinite(value):
                        points[tag][record["step"] + 1].append((100 if tag.startswith(PERCENT) else 1) * value)
        for tag, by_step in points.items():
            steps, values = zip(*sorted(by_step.items()), strict=True)
            mean = [math.fsum(at) / len(at) for at in values]
            series[tag][name] = Curve(steps, mean, [min(at) for at in values], [max(at) for at in values])
    return dict(series)


@styled
def draw_curves(title: str, lines: Mapping[str, Curve], rows: Sequence[str], *, theme: Theme = PAPER) -> Figure:
    """The figure of :func:`curves`: lines by name, styles by their place in ``rows``."""
    figure, axes = new_figure(WIDTH, 2.6 + 0.2 * math.ceil(len(lines) / 2))
    for name, curve in lines.items():
        at = rows.index(name)
        colour = theme.rows[at % len(theme.rows)]
        if list(curve.low) != list(curve.high):
            axes.fill_between(curve.steps, curve.low, curve.high, color=colour, alpha=0.12, linewidth=0)
        axes.plot(
            curve.steps, curve.mean, color=colour, linestyle=DASHES[at % len(DASHES)], linewidth=1.4,
            marker="o" if len(curve.steps) == 1 else "", label=legend_label(name),
        )  # fmt: skip
    banded = any(list(curve.low) != list(curve.high) for curve in lines.values())
    axes.set_xlabel("step" + ("\n(line: mean over seeds, band: smallest to largest)" if banded else ""))
    axes.locator_params(axis="x", integer=True)
    axes.set_title(title, loc="left", parse_math=False)
    axes.grid()
    add_legend(figure)
    figure.set_label(f"{title}, mean over seeds: " + "; ".join(_course(name, curve) for name, curve in lines.items()))
    return figure


def _course(name: str, curve: Curve) -> str:
    ends = f"{curve.mean[-1]:.3g} [{curve.low[-1]:.3g} to {curve.high[-1]:.3g}] at step {curve.steps[-1]}"
    return f"{name} {ends}" if len(curve.steps) == 1 else f"{name} from {curve.mean[0]:.3g} to {ends}"
