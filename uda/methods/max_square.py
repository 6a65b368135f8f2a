"""Maximum squares: a loss whose gradient grows linearly with confidence (Chen et al., ICCV 2019).

Entropy's gradient explodes for pixels that are easy already; minus half the sum of squared probabilities treats them
alike. The image-wise weighted loss divides each pixel's share by the frequency of its predicted class in its own image;
as published it has no factor one half. ``level="multi"`` is the paper's self-produced guidance: the auxiliary
classifier learns the labels of both classifiers' mean prediction, where either of them is sure.

The weights are those of the single-level runs. The published multi-level run has ``weighting="image"``, ``weight=0.09``
and ``aux_weight=0.009``, and 0.1 of the supervised loss on the auxiliary classifier.

Departures: any batch size (the authors' weighted loss holds for one image; here the mean over the images). A batch
without a sure pixel guides with 0, where theirs is NaN.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from uda.functional.entropy import iw_max_squares_loss, max_squares_loss
from uda.functional.losses import cross_entropy_2d
from uda.methods.base import Method
from uda.methods.support.checks import LEVELS, Level, in_range, not_negative, one_of, require_aux
from uda.types import IGNORE

if TYPE_CHECKING:
    from torch import Tensor

    from uda.step import Step
    from uda.types import TaskSpec


class MaxSquare(Method):
    """Maximum squares of the target prediction.

    Args:
        weighting: ``"plain"``, or ``"image"`` for the image-wise class weights.
        ratio: of the class weights, in [0, 1]; 0 weighs all classes the same, 1 by the inverse of their frequency.
        weight: of the main output's loss, at least 0.
        level: ``"single"``, or ``"multi"`` for guidance of the auxiliary classifier, which the model must have.
        aux_weight: of the guidance, at least 0; used with ``level="multi"``.
        threshold: confidence of either classifier above which a pixel guides, in [0, 1].

    Raises:
        ValueError: a value out of its range; from ``setup``: ``"multi"`` on a model without auxiliary classifier.
    """

    reads = frozenset({"target"})
    own_images = frozenset({"losses"})

    def __init__(
        self,
        *,
        weighting: str = "plain",
        ratio: float = 0.2,
        weight: float = 0.1,
        level: Level = "single",
        aux_weight: float = 0.01,
        threshold: float = 0.95,
    ) -> None:
        super().__init__()
        self.weighting = one_of("weighting", weighting, ("plain", "image"))
        self.ratio = in_range("ratio", ratio, 0.0, 1.0)
        self.weight = not_negative("weight", weight)
        self.level = one_of("level", level, LEVELS)
        self.aux_weight = not_negative("aux_weight", aux_weight)
        self.threshold = in_range("threshold", threshold, 0.0, 1.0)

    def setup(self, spec: TaskSpec) -> None:
        require_aux(self, spec)

    def losses(self, step: Step) -> dict[str, Tensor]:
        logits = step.predict("target").levels(self.level)
        prob = logits["main"].float().softmax(1)
        loss = max_squares_loss(prob) if self.weighting == "plain" else iw_max_squares_loss(prob, ratio=self.ratio)
        terms = {"squares": self.weight * loss}
        if "aux" in logits:
            labels = guidance(prob.detach(), logits["aux"].detach().float().softmax(1), self.threshold)
            terms["guidance"] = self.aux_weight * cross_entropy_2d(logits["aux"], labels)
        return terms


def guidance(prob: Tensor, aux_prob: Tensor, threshold: float) -> Tensor:
    """``(N, H, W)`` int64 labels of the mean of two ``(N, C, H, W)`` predictions, ``IGNORE`` where neither is sure."""
    sure = (prob.amax(1) > threshold) | (aux_prob.amax(1) > threshold)
    return ((prob + aux_prob) / 2).argmax(1).masked_fill(~sure, IGNORE)
