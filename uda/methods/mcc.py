"""MCC: minimum class confusion (Jin et al., ECCV 2020).

Two classes are confused where a pixel gives mass to both; the loss is the share of a class's mass that the others take,
over the target pixels, certain pixels weighing more, at a softened temperature.

Departures: made for image classification; the samples are a random subset of the batch's pixels. A class without any
mass counts 0 instead of NaN.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from uda.functional.entropy import class_confusion_loss
from uda.methods.base import Method
from uda.methods.support.checks import not_negative, positive, whole

if TYPE_CHECKING:
    from torch import Tensor

    from uda.step import Step


class MCC(Method):
    """Class confusion of the target prediction.

    Args:
        weight: of the loss, at least 0.
        temperature: divides the logits, above 0.
        pixels: pixels of the batch that enter, at most; drawn anew each step.

    Raises:
        ValueError: a value out of its range.
    """

    reads = frozenset({"target"})

    def __init__(self, *, weight: float = 1.0, temperature: float = 2.5, pixels: int = 4096) -> None:
        super().__init__()
        self.weight = not_negative("weight", weight)
        self.temperature = positive("temperature", temperature)
        self.pixels = whole("pixels", pixels, 1)

    def losses(self, step: Step) -> dict[str, Tensor]:
        logits = step.predict("target").logits
        samples = logits.movedim(1, -1).flatten(0, 2)
        chosen = torch.randperm(len(samples), generator=step.generator)[: self.pixels]
        with torch.autocast(samples.device.type, enabled=False):
            loss = class_confusion_loss(samples[chosen.to(samples.device)].float(), temperature=self.temperature)
        return {"confusion": self.weight * loss}
