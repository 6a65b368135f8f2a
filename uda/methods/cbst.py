"""CBST: class-balanced self-training in rounds (Zou et al., ECCV 2018, section 4, equations 5 and 6).

At the start of each round the network, in evaluation mode, predicts the whole target images. A class's threshold is the
confidence that its ``portion`` most confident pixels reach, so that easy classes do not crowd out hard ones. The label
map of an image is the argmax of p_c / threshold_c, ignored where the largest ratio is below 1. Maps are stored, and
crops are cut from them until the next round. The portion grows from round to round.

Values are those of CRST's authors, who wrote CBST anew. Departures: the network predicts once, at the image's own size
(theirs at 0.9 of it, averaged with the mirrored image's). It does so twice with equal numbers, for the thresholds and
for the labels, where theirs writes all probabilities to disk. Thresholds come from at most ``images`` images, chosen at
random, and of large ones from fewer pixels than every fourth (:data:`PIXELS`). Patches of rare classes are not mined,
there is no spatial prior, and the source is no growing subset.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from uda.data.label_maps import LabelMaps, whole_images
from uda.functional.class_balance import class_balanced_labels, class_balanced_thresholds, sorted_confidences
from uda.functional.losses import cross_entropy_2d
from uda.methods.base import Method, log_pseudo_labels
from uda.methods.support.checks import in_range, not_negative, whole

if TYPE_CHECKING:
    from torch import Tensor

    from uda.step import Step
    from uda.types import TaskSpec, UnlabelledDataset

STRIDE = 4
"""Thresholds are taken from every fourth pixel of each predicted class and image (``--ds-rate``)."""
PIXELS = 16384
"""Confidences kept of each image, about; the stride grows with larger ones. 200 MB for a thousand images."""


class CBST(Method):
    """Cross-entropy of target pixels with class-balanced pseudo-labels.

    Args:
        weight: of the loss, at least 0.
        rounds: how many times thresholds and label maps are made, evenly over what is left of the run after ``start``.
        portion: share of each class's pixels that the first round takes, in [0, 1].
        portion_step: by how much the share grows with each round, in [0, 1].
        portion_max: the largest share, in [0, 1].
        start: share of the run before the first round, in [0, 1], without pseudo-labels. 0 (the paper) expects a
            network that was trained on the source.
        images: target images that the thresholds are taken from, at most; all have label maps.

    Raises:
        ValueError: a value out of its range; in training: a target view without ``windows``.
    """

    reads = frozenset({"target"})
    own_images = frozenset({"losses"})
    thresholds: Tensor
    maps: LabelMaps
    _target: UnlabelledDataset

    def __init__(
        self,
        *,
        weight: float = 1.0,
        rounds: int = 3,
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
        self.maps = LabelMaps()

    def round_at(self, index: int, total: int) -> int:
        """The round of a step, from 0; -1 before the first."""
        first = int(self.start * total)
        return -1 if index < first else (index - first) * self.rounds // max(total - first, 1)

    def prepare(self, step: Step) -> None:
        now = self.round_at(step.index, step.total)
        begins = step.index == 0 or now != self.round_at(step.index - 1, step.total) or len(self.maps) == 0
        if now < 0 or step.micro_batch or not begins:
            return
        self.thresholds.copy_(self._measure(step, min(self.portion + now * self.portion_step, self.portion_max)))
        images = whole_images(self._target, self.thresholds.device)
        self.maps.fill(self.label_map(_probabilities(step, image)) for image in images)
        for name, threshold in zip(self._class_names, self.thresholds, strict=True):
            step.log(f"pseudo_label/threshold/{name}", threshold)

    def label_map(self, prob: Tensor) -> Tensor:
        """What is stored of an image: ``(K, H, W)`` uint8 of its probabilities ``(1, C, H, W)``; here labels, K = 1."""
        return class_balanced_labels(prob, self.thresholds).byte()

    def losses(self, step: Step) -> dict[str, Tensor]:
        if self.round_at(step.index, step.total) < 0:
            return {}
        labels = self.maps.crops(step.view("target"))[:, 0].long()
        log_pseudo_labels(step, labels, self._class_names)
        return {"pseudo_label": self.weight * cross_entropy_2d(step.predict("target").logits, labels)}

    def _measure(self, step: Step, portion: float) -> Tensor:
        """``(C,)`` thresholds from a pass over the target images."""
        classes, device = len(self.thresholds), self.thresholds.device
        chosen = torch.randperm(len(self._target), generator=step.generator)[: self.images].sort().values.tolist()
        labels, confidences = [], []
        for image in whole_images(self._target, device, chosen):
            confidence, label = _probabilities(step, image).max(1)
            stride = max(STRIDE, -(-label.numel() // PIXELS))
            values, counts = sorted_confidences(label, confidence, classes, stride=stride)
            labels.append(torch.arange(classes, device=device).repeat_interleave(counts))
            confidences.append(values)
        return class_balanced_thresholds(labels, confidences, classes, portion=portion, stride=1)[0]


def _probabilities(step: Step, image: Tensor) -> Tensor:
    """``(1, C, H, W)`` float32 of the network in evaluation mode."""
    return step.infer(image).logits.float().softmax(1)
