"""A pass over the target's images that keeps, of each, some pixels' labels and confidences."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from uda.types import UnlabelledDataset

PIXELS = 16384
"""Confidences kept of each image; 64 MB in float32 for a thousand images."""


def target_confidences(
    target: UnlabelledDataset, predict: Callable[[Tensor], Tensor], images: int, generator: Generator, device: object
) -> tuple[list[Tensor], list[Tensor]]:
    """Predicted labels and confidences of at most ``images`` images, chosen at random.

    Args:
        target: the target's images.
        predict: ``(1, 3, H, W)`` image in [0, 1] -> ``(1, C, H, W)`` probabilities.
        images: how many images.
        generator: CPU generator that chooses.
        device: where the images go.

    Returns:
        a list of ``(n,)`` int64 labels and one of ``(n,)`` float32 confidences, an entry an image, at most about
        :data:`PIXELS` each.
    """
    chosen = torch.randperm(len(target), generator=generator)[:images]
    labels, confidences = [], []
    for index in chosen.sort().values.tolist():
        image = target[index].as_float()[None].to(device)  # type: ignore[call-overload]
        with torch.no_grad():
            confidence, label = (pixel_map.flatten() for pixel_map in predict(image).max(1))
        # an odd stride does not fall in step with image widths
        stride = max(len(label) // PIXELS, 1) | 1
        labels.append(label[::stride])
        confidences.append(confidence[::stride].float())
    return labels, confidences
