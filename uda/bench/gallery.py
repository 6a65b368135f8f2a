"""Sample images of a benchmark with what every row predicts there, and where that is wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from uda.bench import build
from uda.bench.plan import picture_indices
from uda.config import BenchConfig
from uda.metrics import confusion, miou
from uda.opencv import cv2
from uda.types import IGNORE

Pixels = npt.NDArray[np.uint8]
RIGHT, WRONG, UNLABELLED = (214, 214, 214), (213, 94, 0), (0, 0, 0)
"""Colours of an error map."""


@dataclass(frozen=True)
class Picture:
    """A row's prediction of one image."""

    name: str
    pixels: Pixels
    """``(H, W, 3)`` uint8, in the colours of the classes."""
    errors: Pixels
    """``(H, W, 3)`` uint8, :func:`error_map`."""
    miou: float
    """Of this image alone, in [0, 1], over the classes of its label; NaN where it has none."""


@dataclass(frozen=True)
class Sample:
    """One image: input and label ``(H, W, 3)`` uint8, and the rows' predictions in their order."""

    name: str
    image: Pixels
    label: Pixels
    pictures: tuple[Picture, ...]


def read_samples(config: BenchConfig, domain: str, folder: Path, seeds: Mapping[str, int]) -> Iterator[Sample]:
    """The images of a domain whose predictions were kept, one after the other: they may be large.

    Args:
        config: its evaluation sets are read; where the data is not there any more, there are no samples.
        domain: one of its domains.
        folder: the benchmark's; a prediction that is missing or damaged is left out.
        seeds: by row, the one that is shown.
    """
    try:
        dataset = build.open_dataset(config.domains[domain], config.space)
    except ValueError:
        return
    for index in picture_indices(len(dataset)):
        sample = dataset[index]
        image = sample.image.permute(1, 2, 0).numpy()
        label = np.full(image.shape[:2], IGNORE) if sample.label is None else sample.label.numpy()
        pictures = []
        for row, seed in seeds.items():
            path = folder / row / f"seed{seed}" / "pictures" / f"{domain}_{index}.png"
            labels: Any = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) if path.is_file() else None
            if labels is None or labels.shape != label.shape or labels.max() >= dataset.space.num_classes:
                continue
            matrix = confusion(torch.from_numpy(labels), torch.from_numpy(label), dataset.space.num_classes)
            score = float(miou(matrix, over="labelled"))
            pictures.append(Picture(row, dataset.space.colourise(labels), error_map(labels, label), score))
        yield Sample(sample.name, image, dataset.space.colourise(label), tuple(pictures))


def error_map(prediction: npt.NDArray[np.integer], label: npt.NDArray[np.integer]) -> Pixels:
    """``(H, W)`` predicted and true train ids -> ``(H, W, 3)`` uint8: wrong pixels orange, ignored ones black."""
    wrong = (prediction != label).astype(np.intp)
    pixels: Pixels = np.array([RIGHT, WRONG, UNLABELLED], np.uint8)[np.where(label == IGNORE, 2, wrong)]
    return pixels
