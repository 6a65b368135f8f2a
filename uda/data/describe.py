"""What a data set is, as plain text: splits, classes, colours, shares of pixels, sizes, licence, paper."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from uda.data import dataset
from uda.data.base import FileDataset
from uda.data.catalogue import CATALOGUE
from uda.data.check import CheckReport, check
from uda.data.errors import DataError
from uda.types import UnlabelledDataset

COUNTED = 100
"""Images whose pixels are counted at most; ``uda data check`` counts all."""


def about(kind: str) -> list[str]:
    """What the catalogue says of a data set, whether it is here or not; nothing for one that it does not have."""
    known = CATALOGUE.get(kind)
    if known is None:
        return []
    published = ", ".join(f"{split} {count}" for split, count in known.counts.items())
    lines = [
        known.title,
        f"homepage: {known.homepage}",
        f"licence: {known.licence}",
        f"paper: {known.citation}",
        f"published splits: {published}" if published else "",
        f"download: {known.space}" if known.space else "",
    ]
    return [line for line in lines if line]


def split_counts(data: FileDataset) -> dict[str, int | None]:
    """Images of each split in the data set's folder, labelled or not; ``None`` for a split that is not there."""
    counts: dict[str, int | None] = {}
    for split in data.splits:
        try:
            counts[split] = len(dataset(data.kind, root=data.root, split=split, labelled=False, strict=False))
        except (DataError, ValueError):
            counts[split] = None
    return counts


def describe(data: UnlabelledDataset, counted: int = COUNTED, progress: Callable[[], None] | None = None) -> list[str]:
    """What a data set is, line by line.

    Args:
        data: a reader's data set or any other one.
        counted: images that are decoded at most, evenly spaced, for sizes and shares of pixels.
        progress: called after each of them.

    Raises:
        ValueError: ``counted`` is below 1.
    """
    part = some(data, counted)
    report = check(part, progress)
    lines = [data.name, *(f"  {line}" for line in about(getattr(data, "kind", "")))]
    if isinstance(data, FileDataset):
        lines.append(f"  folder: {data.root}")
        if data.kind in CATALOGUE:
            counts = ", ".join(f"{name} {'-' if n is None else n}" for name, n in split_counts(data).items())
            lines.append(f"  images of each split here: {counts}")
    portion = "all" if len(part) == len(data) else f"{len(part)} evenly spaced ones of"
    lines.append(f"  {data.name} has {len(data)} images; counted below: {portion} {len(data)}")
    lines += [f"  {line}" for line in report.lines() if line.startswith(("sizes", "channels"))]
    lines += _classes(report)
    if report.problems:
        lines.append(f"  problems: {len(report.problems)}, such as {report.problems[0]}")
    return lines


def some(data: UnlabelledDataset, count: int) -> Any:
    """At most ``count`` evenly spaced samples of a data set, or all of it where it cannot be divided."""
    if count < 1:
        raise ValueError(f"at least 1 image is counted, not {count}")
    if len(data) <= count or not hasattr(data, "subset"):
        return data
    return data.subset([number * len(data) // count for number in range(count)])


def _classes(report: CheckReport) -> list[str]:
    space = report.space
    if space is None:
        return ["  no labels"]
    total = max(int(report.pixels.sum()) + report.ignored, 1)
    lines = [f"  label space {space.name}: {space.num_classes} classes, {report.ignored / total:.2%} of pixels ignored"]
    width = max(map(len, space.names))
    for index, (name, share) in enumerate(zip(space.names, report.shares, strict=True)):
        colour = "#{:02x}{:02x}{:02x}".format(*(int(part) for part in space.colours[index]))
        images = f"in {report.images_with[index]} images"
        lines.append(f"    {index:2d} {name:<{width}} {colour} {share:8.3%} of labelled pixels {images}")
    return lines + [f"    from the files: {line}" for line in report.mapping]
