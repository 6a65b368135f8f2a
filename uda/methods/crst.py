"""CRST: confidence-regularised self-training (Zou et al., ICCV 2019).

CBST's class-balanced pseudo-labels in rounds, kept from overconfidence in two ways:

* ``"mrkld"`` regularises the model: beside the cross-entropy, the selected pixels are pulled to the uniform prediction
  by the mean of -log p over the classes.
* ``"lrent"`` regularises the labels: soft labels proportional to (p_c / threshold_c)^(1 / weight), and a pixel is taken
  where keeping it costs less than dropping it. The soft labels are stored for a round, as CBST stores its labels.
* ``"mrkld+lrent"`` does both, ``"none"`` is CBST.

Departures: those of :mod:`uda.methods.cbst`. Soft labels are stored in steps of 1/255 and cut nearest, as labels are;
the authors store float32 and scale them bilinearly. ``model_weight`` is the strength itself: the published script
multiplies two settings of 0.1 (the paper's alpha), so that its strength is the square, 0.01, the default here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from uda.data.label_maps import LabelMaps
from uda.functional.class_balance import regularised_labels
from uda.functional.losses import mrkld_loss, mrkld_soft_loss
from uda.methods.base import log_pseudo_labels
from uda.methods.cbst import CBST
from uda.methods.support.checks import not_negative, one_of, positive
from uda.types import IGNORE

if TYPE_CHECKING:
    from torch import Tensor

    from uda.step import Step
    from uda.types import TaskSpec

REGULARISERS = ("mrkld", "lrent", "mrkld+lrent", "none")


class CRST(CBST):
    """Regularised cross-entropy of target pixels with class-balanced pseudo-labels.

    Args:
        regulariser: ``"mrkld"``, ``"lrent"``, ``"mrkld+lrent"`` or ``"none"``.
        model_weight: strength of MRKLD, at least 0.
        label_weight: strength of LRENT, above 0; towards 0 the labels become hard.
        weight: of the whole loss, at least 0.
        rounds: how many times thresholds and label maps are made, evenly over what is left of the run after ``start``.
        portion: share of each class's pixels that the first round takes, in [0, 1].
        portion_step: by how much the share grows with each round, in [0, 1].
        portion_max: the largest share, in [0, 1].
        start: share of the run before the first round, in [0, 1], without pseudo-labels.
        images: target images that the thresholds are taken from, at most; all have label maps.

    Raises:
        ValueError: a value out of its range; in training: a target view without ``windows``.
    """

    def __init__(
        self,
        *,
        regulariser: str = "mrkld",
        model_weight: float = 0.01,
        label_weight: float = 0.25,
        weight: float = 1.0,
        rounds: int = 3,
        portion: float = 0.2,
        portion_step: float = 0.05,
        portion_max: float = 0.5,
        start: float = 0.0,
        images: int = 500,
    ) -> None:
        super().__init__(
            weight=weight,
            rounds=rounds,
            portion=portion,
            portion_step=portion_step,
            portion_max=portion_max,
            start=start,
            images=images,
        )
        self.regulariser = one_of("regulariser", regulariser, REGULARISERS)
        self.model_weight = not_negative("model_weight", model_weight)
        self.label_weight = positive("label_weight", label_weight)

    @property
    def soft(self) -> bool:
        """Whether labels are soft."""
        return "lrent" in self.regulariser

    def setup(self, spec: TaskSpec) -> None:
        super().setup(spec)
        if self.soft:
            self.maps = LabelMaps(spec.num_classes, outside=0)

    def label_map(self, prob: Tensor) -> Tensor:
        if not self.soft:
            return super().label_map(prob)
        soft, labels = regularised_labels(prob, self.thresholds, weight=self.label_weight)
        return (255 * soft[0]).round().byte().masked_fill(labels == IGNORE, 0)

    def losses(self, step: Step) -> dict[str, Tensor]:
        if self.round_at(step.index, step.total) < 0:
            return {}
        logits = step.predict("target").logits.float()
        strength = self.model_weight if "mrkld" in self.regulariser else 0.0
        every_image = logits.new_ones(len(logits))
        stored = self.maps.crops(step.view("target"))
        if self.soft:
            total = stored.sum(1, keepdim=True)
            soft_labels = stored / total.clamp(min=1)
            labels = stored.argmax(1).masked_fill(total[:, 0] == 0, IGNORE)
            loss = mrkld_soft_loss(logits, soft_labels, every_image, weight=strength)
        else:
            labels = stored[:, 0].long()
            loss = mrkld_loss(logits, labels, every_image, weight=strength)
        log_pseudo_labels(step, labels, self._class_names)
        return {"pseudo_label": self.weight * loss}
