"""Where a method's colour statistics and example images come from: a data set, an image, a publication, numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from uda.data.statistics import PUBLISHED, ChannelSums, published_stats
from uda.types import LabelledDataset, Sample, UnlabelledDataset

Statistics = str | Sequence[Sequence[float]]
"""``"dataset"``, ``"image"``, a published name, or (three means, three standard deviations) of images in [0, 1]."""

IMAGES = 500
"""Images of a data set that statistics are measured on, at most."""


def spread(dataset: UnlabelledDataset, at_most: int = IMAGES) -> Iterator[Sample]:
    """Samples of a data set, evenly spaced over it; labels stay out of reach."""
    images = dataset.unlabelled() if isinstance(dataset, LabelledDataset) else dataset
    count = min(at_most, len(images))
    return (images[at * len(images) // count].checked() for at in range(count))


def check_statistics(name: str, value: Statistics) -> Statistics:
    """``value`` if it is a source of statistics.

    Raises:
        ValueError: an unknown name, or numbers that are not three means and three deviations of at least 0.
    """
    if isinstance(value, str):
        if value not in ("dataset", "image", *PUBLISHED):
            known = ", ".join(map(repr, ("dataset", "image", *PUBLISHED)))
            raise ValueError(f"{name} is {value!r}, must be one of {known}, or three means and three deviations")
        return value
    try:
        mean, std = ([float(number) for number in part] for part in value)
    except (TypeError, ValueError):
        mean, std = [], []
    if len(mean) != 3 or len(std) != 3 or not all(map(math.isfinite, mean + std)) or min(std) < 0:
        raise ValueError(f"{name} is {value!r}, must be (three means, three deviations >= 0) of images in [0, 1]")
    return value


def resolve_statistics(value: Statistics, dataset: UnlabelledDataset | None) -> tuple[Tensor, Tensor] | None:
    """Mean and deviation, ``(3,)`` each; ``None`` for ``"image"``, which are taken later.

    Raises:
        ValueError: ``"dataset"`` where there is none.
    """
    if value == "image":
        return None
    if value == "dataset":
        if dataset is None:
            raise ValueError(
                "statistics of the data set are wanted, but there is none; name published ones or give numbers"
            )
        sums = ChannelSums()
        for image in (sample.image for sample in spread(dataset)):
            sums.add(image.cpu())
        return sums.stats()
    if isinstance(value, str):
        mean, std = published_stats(value)
        return mean.clone(), std.clone()
    means, stds = value
    return torch.tensor(means).float(), torch.tensor(stds).float()
