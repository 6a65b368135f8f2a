"""Numbers over a data set: channel mean and standard deviation, pixels of each class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from uda.registry import nearest
from uda.types import IMAGENET_MEAN, IMAGENET_STD, LabelledDataset, UnlabelledDataset


class ChannelStats(NamedTuple):
    """Per-channel statistics of RGB in [0, 1]."""

    mean: Tensor
    """``(3,)`` float32."""
    std: Tensor
    """``(3,)`` float32, of the population (divided by the number of pixels)."""


CITYSCAPES_STATS = ChannelStats(torch.tensor([0.287, 0.325, 0.284]), torch.tensor([0.176, 0.181, 0.178]))
"""Cityscapes, as published with the Cityscapes → KITTI example of the domain gap."""

KITTI_STATS = ChannelStats(torch.tensor([0.379, 0.398, 0.384]), torch.tensor([0.298, 0.308, 0.315]))
"""KITTI at full resolution, of the same source."""

IMAGENET_STATS = ChannelStats(torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD))
"""ImageNet's, which most pretrained encoders expect."""

PUBLISHED = {"cityscapes": CITYSCAPES_STATS, "kitti": KITTI_STATS, "imagenet": IMAGENET_STATS}
"""What :func:`published_stats` knows."""


def published_stats(name: str) -> ChannelStats:
    """Published statistics of a data set by name, in any case; ``ValueError`` with the known names otherwise."""
    if name.lower() not in PUBLISHED:
        raise ValueError(f"no published statistics for {name!r}; {nearest(name.lower(), PUBLISHED)}")
    return PUBLISHED[name.lower()]


@dataclass
class ChannelSums:
    """Exact running sums of 8-bit channels; the statistics do not depend on the order of the images."""

    pixels: int = 0
    first: tuple[int, int, int] = (0, 0, 0)
    second: tuple[int, int, int] = (0, 0, 0)

    def add(self, image: Tensor) -> None:
        """Count an image ``(3, H, W)`` uint8."""
        values = image.numpy().reshape(3, -1)
        # a histogram is exact and one pass; sums of squares of a large image would overflow 32 bits
        levels = np.arange(256, dtype=np.int64)
        counts = [np.bincount(channel, minlength=256) for channel in values]
        r, g, b = (int(count @ levels) for count in counts)
        rr, gg, bb = (int(count @ levels**2) for count in counts)
        self.pixels += values.shape[1]
        self.first = (self.first[0] + r, self.first[1] + g, self.first[2] + b)
        self.second = (self.second[0] + rr, self.second[1] + gg, self.second[2] + bb)

    def stats(self) -> ChannelStats:
        """Mean and population standard deviation in [0, 1]; ``ValueError`` before the first image."""
        if not self.pixels:
            raise ValueError("no pixels to take statistics of")
        mean = [value / self.pixels for value in self.first]
        # the difference in whole numbers, so nothing cancels
        spread = [self.pixels * s - f * f for f, s in zip(self.first, self.second, strict=True)]
        std = [value**0.5 / self.pixels for value in spread]
        return ChannelStats(torch.tensor(mean) / 255, torch.tensor(std) / 255)


def channel_stats(dataset: UnlabelledDataset, limit: int | None = None) -> ChannelStats:
    """Mean and population standard deviation of each channel over all pixels, in one exact pass.

    Args:
        dataset: labelled or not; labels are not looked at where the data set gives images alone.
        limit: only the first so many images.
    """
    images = dataset.unlabelled() if isinstance(dataset, LabelledDataset) else dataset
    sums = ChannelSums()
    for index in range(len(images) if limit is None else min(limit, len(images))):
        sums.add(images[index].checked().image)
    return sums.stats()


def image_sizes(dataset: UnlabelledDataset, limit: int | None = None) -> list[tuple[int, int]]:
    """(height, width) of every image, or of the first so many; a reader's files are not decoded for it.

    Raises:
        DataError: a file is missing or no image; it is named.
    """
    files = getattr(dataset, "image_files", None)
    if files is None:
        count = len(dataset) if limit is None else min(limit, len(dataset))
        return [(int(image.shape[-2]), int(image.shape[-1])) for image in (dataset[i].image for i in range(count))]
    from uda.data.decode import read_size  # OpenCV stands behind it

    return [read_size(path) for path in files[:limit]]


def image_class_counts(dataset: LabelledDataset) -> Tensor:
    """``(N, C)`` int64 pixels of each class in each image; ignored pixels are not counted."""
    from uda.data.mixture import label_of  # the readers stand behind it, and OpenCV behind them

    classes: int = dataset.space.num_classes
    rows = [torch.bincount(label_of(dataset, i).flatten(), minlength=256)[:classes] for i in range(len(dataset))]
    return torch.stack(rows) if rows else torch.zeros(0, classes, dtype=torch.int64)


def class_counts(dataset: LabelledDataset) -> Tensor:
    """``(C,)`` int64 pixels of each class in the data set; ignored pixels are not counted."""
    return image_class_counts(dataset).sum(0)
