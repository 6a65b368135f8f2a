"""The prototypes of a run: one mean feature a class, kept with the run's state."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

from uda.functional.prototypes import class_mean, prototype_distance, prototype_update

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from uda.types import SegOutput, UnlabelledDataset

UNKNOWN = 1e6
"""Distance to the prototype of a class that was never seen; its weight is exactly 0."""


class PrototypeBank(nn.Module):
    """``(C, D)`` prototypes and how many vectors each has seen.

    Args:
        num_classes: C.
        channels: D, of the features.
    """

    prototypes: Tensor
    counts: Tensor

    def __init__(self, num_classes: int, channels: int) -> None:
        super().__init__()
        self.register_buffer("prototypes", torch.zeros(num_classes, channels))
        self.register_buffer("counts", torch.zeros(num_classes))

    def distance(self, features: Tensor) -> Tensor:
        """Euclidean distances ``(N, C, h, w)`` of ``(N, D, h, w)`` features; ``UNKNOWN`` for a class never seen."""
        distance = prototype_distance(features.float(), self.prototypes)
        return distance.masked_fill((self.counts == 0)[:, None, None], UNKNOWN)

    def initialise(
        self, target: UnlabelledDataset, predict: Callable[[Tensor], SegOutput], images: int, generator: Generator
    ) -> None:
        """Feed at most ``images`` whole target images, in the random order of a CPU generator, into running means."""
        for index in torch.randperm(len(target), generator=generator)[:images].tolist():
            image = target[index].image.to(self.counts.device)
            self.feed(predict(image[None].float() / 255), None)

    @torch.no_grad()
    def feed(self, output: SegOutput, momentum: float | None) -> None:
        """Take in the mean feature of each class that each image shows, by its prediction at the features' size.

        Args:
            output: of any network.
            momentum: share of a new vector; ``None`` for the running mean. A class's first vector is its prototype.
        """
        with torch.autocast(output.features.device.type, enabled=False):
            features = output.features.float()
            logits = F.interpolate(output.logits.float(), features.shape[-2:], mode="bilinear")
            vectors, ids = class_mean(features, logits)
            prototypes, counts = prototype_update(
                self.prototypes, self.counts, vectors, ids, momentum=momentum, mean_first=1
            )
        self.prototypes.copy_(prototypes)
        self.counts.copy_(counts)
