"""Sample images side by side: input, label and what rows predict."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from uda.bench.gallery import Picture, Pixels, Sample, read_samples
from uda.bench.run import BenchResult
from uda.config import SOURCE_ONLY
from uda.plots.style import PAPER, Theme, styled
from uda.registry import nearest

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANEL = 4.1
"""Inches of a picture's width: 410 pixels at the figure's 100 dots an inch."""
DPI = 100
GAP, TITLE = 0.1, 0.3
"""Inches beside a picture, and above it."""


def samples(
    result: BenchResult,
    image: int = 0,
    domain: str = "target",
    rows: Sequence[str] | None = None,
    *,
    errors: bool = False,
    columns: int = 3,
    title: str | None = None,
    theme: Theme = PAPER,
) -> Figure:
    """Draw one image with its label and what rows predict, each at least 400 pixels wide.

    Predictions are those that a benchmark keeps of a few images of every domain, of each row's first seed; the number
    over one is the mIoU of this image alone.

    Args:
        result: what :func:`uda.bench.run` gave. Of runs that are there already, nothing is trained again:
            ``BenchResult(config, folder, make_table(config, folder))``.
        image: which of the kept images, from 0.
        domain: which domain's.
        rows: which rows, in this order; by default source-only, then all others in the table's order.
        errors: draw the map of the errors (orange is wrong, black not labelled) below every prediction.
        columns: pictures side by side.
        title: above all; by default the domain and the image's name.
        theme: its colours.

    Raises:
        ValueError: a row or domain is not known, its data or predictions are not there any more, or there are fewer
            images.
    """
    table = result.table
    domains = [part.name for part in table.domains]
    if domain not in domains:
        raise ValueError(f"{table.name}: no domain {domain!r}; {nearest(domain, domains)}")
    seeds = {row.name: row.seeds[0] for row in sorted(table.rows, key=lambda row: row.name != SOURCE_ONLY)}
    unknown = [name for name in rows or () if name not in seeds]
    if unknown:
        raise ValueError(f"{table.name}: no finished row {unknown[0]!r}; {nearest(unknown[0], seeds)}")
    if columns < 1:
        raise ValueError(f"columns: {columns}, must be at least 1")
    seeds = {name: seeds[name] for name in (seeds if rows is None else rows)}
    shown = list(read_samples(result.config, domain, result.folder, seeds))
    if not 0 <= image < len(shown):
        raise ValueError(f"image: {image}; {result.folder} shows {len(shown)} images of {domain}, from 0")
    sample = shown[image]
    return draw_samples(f"{domain}: {sample.name}" if title is None else title, sample, errors, columns, theme=theme)


@styled
def draw_samples(title: str, sample: Sample, errors: bool, columns: int, *, theme: Theme = PAPER) -> Figure:
    """The figure of :func:`samples`."""
    from matplotlib.figure import Figure

    high, wide = sample.label.shape[:2]
    panels = [("input", sample.image), ("label", sample.label)]
    cells = [[panel] for panel in panels] + [_panels(picture, errors) for picture in sample.pictures]
    columns = min(columns, len(cells))
    lines = [cells[at : at + columns] for at in range(0, len(cells), columns)]
    panel = TITLE + PANEL * high / wide
    width, height = GAP + (PANEL + GAP) * columns, TITLE + GAP + panel * sum(max(map(len, line)) for line in lines)
    figure = Figure(figsize=(width, height), dpi=DPI)
    top = height - TITLE
    for line in lines:
        for column, cell in enumerate(line):
            for below, (name, pixels) in enumerate(cell):
                # placed by hand: a layout engine would make them narrower than is promised
                left, bottom = GAP + (PANEL + GAP) * column, top - panel * (below + 1)
                box = (left / width, bottom / height, PANEL / width, (panel - TITLE) / height)
                _show(figure.add_axes(box), name, pixels)
        top -= panel * max(map(len, line))
    figure.text(GAP / width, 1 - 0.5 * TITLE / height, title, va="center", parse_math=False)
    scores = "; ".join(_scored(picture) for picture in sample.pictures)
    figure.set_label(f"{title}: input, label and predictions" + (f"; mIoU of this image: {scores}" if scores else ""))
    return figure


def _panels(picture: Picture, errors: bool) -> list[tuple[str, Pixels]]:
    return [(_scored(picture), picture.pixels), *([(f"{picture.name}: errors", picture.errors)] if errors else [])]


def _scored(picture: Picture) -> str:
    return picture.name if math.isnan(picture.miou) else f"{picture.name} {100 * picture.miou:.1f} %"


def _show(axes: Axes, name: str, pixels: Pixels) -> None:
    axes.imshow(pixels, interpolation="nearest" if name != "input" else "antialiased")
    axes.set_axis_off()
    axes.set_title(name, loc="left", parse_math=False)
