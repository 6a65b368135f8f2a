"""Information maximisation (Liang et al., "Do we really need to access the source data?", SHOT, ICML 2020, equation 3).

Target predictions shall be certain one by one and diverse together: the mean entropy of the pixels minus the entropy of
their mean prediction. Departures: pixels in the place of images; the mean runs over the batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from uda.functional import softmax_entropy
from uda.methods.base import Method
from uda.methods.support.checks import not_negative

if TYPE_CHECKING:
    from uda.step import Step


def information_maximisation(logits: Tensor) -> Tensor:
    """Mean entropy minus entropy of the mean, in nats, of ``(N, C, H, W)`` logits; at least -ln C."""
    mean = logits.softmax(1).mean((0, 2, 3))
    return softmax_entropy(logits).mean() + (mean * mean.clamp(min=1e-12).log()).sum()


class InformationMaximisation(Method):
    """Certain and diverse predictions of the target.

    Args:
        weight: of the loss, at least 0.

    Raises:
        ValueError: a value out of its range.
    """

    reads = frozenset({"target"})

    def __init__(self, *, weight: float = 0.1) -> None:
        super().__init__()
        self.weight = not_negative("weight", weight)

    def losses(self, step: Step) -> dict[str, Tensor]:
        logits = step.predict("target").logits.float()
        return {"information": self.weight * information_maximisation(logits)}
