"""CBST: class-balanced self-training in rounds (Zou et al., ECCV 2018, section 4, equations 5 and 6).

At the start of each round the network predicts the target images; a class's threshold is the confidence that its
``portion`` most confident pixels reach, so that easy classes do not crowd out hard ones. The pseudo-label is the argmax
of p_c / threshold_c, ignored where the largest ratio is below 1. The portion grows from round to round.

Departures: the thresholds hold for a round as in the paper, but labels are taken afresh from the network's current
prediction of the augmented crop, without gradient, where the paper stores one label map for each image and round. The
thresholds come from at most ``images`` images, chosen at random, and a subset of their pixels. There is no class-wise
mining of patches and no spatial prior.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from uda.functional.class_balance import class_balanced_labels, class_balanced_thresholds
from uda.functional.losses import cross_entropy_2d
from uda.methods.base import Method, log_pseudo_labels
from uda.methods.support.checks import in_range, not_negative, whole
from uda.methods.support.target_pass import target_confidences

if TYPE_CHECKING:
    from torch import Tensor

    from uda.step import Step
    from uda.types import TaskSpec, UnlabelledDataset


class CBST(Method):
    """Cross-entropy of target pixels with class-balanced pseudo-labels.

    Args:
        weight: of the loss, at least 0.
        rounds: how many times the thresholds are set, evenly over what is left of the run after ``start``.
        portion: share of each class's pixels that the first round takes, in [0, 1].
        portion_step: by how much the share grows with each round, in [0, 1].
        portion_max: the largest share, in [0, 1].
        start: share of the run before the first round, in [0, 1], without pseudo-labels. 0 (the paper) expects a
            network that was trained on the source.
        images: target images that the thresholds are taken from, at most.

    Raises:
        ValueError: a value out of its range.
    """

    reads = frozenset({"target"})
    thresholds: Tensor
    _target: UnlabelledDataset

    def __init__(
        self,
        *,
        weight: float = 1.0,
        rounds: int = 4,
        portion: float = 0.2,
        portion_step: float = 0.05,
        portion_max: float = 0.5,
        start: float = 0.0,
        images: int = 500,
    ) -> None:
        super().__init__()
        self.weight = not_negative("weight", weight)
        self.rounds = whole("rounds", rounds, 1)
        self.portion = in_range("portion", portion, 0.0, 1.0)
        self.portion_step = in_range("portion_step", portion_step, 0.0, 1.0)
        self.portion_max = in_range("portion_max", portion_max, 0.0, 1.0)
        self.start = in_range("start", start, 0.0, 1.0)
        self.images = whole("images", images, 1)
        self._class_names: tuple[str, ...] = ()

    def setup(self, spec: TaskSpec) -> None:
        self._class_names, self._target = spec.class_names, spec.target_images
        self.register_buffer("thresholds", torch.full((spec.num_classes,), float("inf")))

    def round_at(self, index: int, total: int) -> int:
        """The round of a step, from 0; -1 before the first."""
        first = int(self.start * total)
        return -1 if index < first else (index - first) * self.rounds // max(total - first, 1)

    def prepare(self, step: Step) -> None:
        now = self.round_at(step.index, step.total)
        before = self.round_at(step.index - 1, step.total) if step.index else -1
        if now != before and step.micro_batch == 0:
            self.thresholds.copy_(self._measure(step, min(self.portion + now * self.portion_step, self.portion_max)))
            for name, threshold in zip(self._class_names, self.thresholds, strict=True):
                step.log(f"pseudo_label/threshold/{name}", threshold)

    def losses(self, step: Step) -> dict[str, Tensor]:
        if self.round_at(step.index, step.total) < 0:
            return {}
        logits = step.predict("target").logits
        labels = class_balanced_labels(logits.detach().float().softmax(1), self.thresholds)
        log_pseudo_labels(step, labels, self._class_names)
        return {"pseudo_label": self.weight * cross_entropy_2d(logits, labels)}

    def _measure(self, step: Step, portion: float) -> Tensor:
        """``(C,)`` thresholds from a pass over the target images."""
        labels, confidences = target_confidences(
            self._target,
            lambda image: step.infer(image).logits.float().softmax(1),
            self.images,
            step.generator,
            self.thresholds.device,
        )
        return class_balanced_thresholds(labels, confidences, len(self.thresholds), portion=portion, stride=1)[0]
