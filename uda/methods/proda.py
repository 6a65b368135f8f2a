"""ProDA: prototypical pseudo-label denoising and target structure learning (Zhang et al., CVPR 2021, section 3).

A prototype is a class's mean target feature before the classifier. The soft labels of a fixed network are multiplied by
how near the EMA teacher's feature is to each prototype, and their argmax trains the student by symmetric cross-entropy.
The student's soft assignment of a strongly augmented view (RandAugment and a grey square) to the prototypes follows the
teacher's of the plain view; a KL term keeps predictions from becoming too sure. Prototypes move with the teacher's
features, an image and class at a time.

Departures: stage 1 alone, without the warm-up before and the two distillations after it. The fixed network is a copy of
the student at ``start``; it labels a whole target image when that is first drawn, and the soft labels stay in memory
(authors: files), a byte for each class and cell. The teacher sees the crop (authors: the whole image), without dropout.
Prototypes' weights are upsampled to the image, where the paper shrinks the labels to a quarter. One least share of
cells holds throughout (authors: 10 of 129x257 at first, then 10 of 256x512). A class that no image has shown keeps its
soft probability, the others share the rest by their weights, and its first vector becomes its prototype (authors: that
is 0 and hardly moves). The strong view's departures are those of :mod:`uda.functional.rand_augment`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from uda.functional.losses import kld_regulariser, resize_logits, symmetric_cross_entropy
from uda.functional.prototypes import prototype_consistency, prototype_weight, rectify
from uda.functional.rand_augment import draw_rand_augmentation, rand_augment, rand_augment_maps
from uda.methods.base import Method, log_pseudo_labels
from uda.methods.support.checks import in_range, not_negative, one_of, positive, whole
from uda.methods.support.prototype_bank import FrozenSoftLabels, PrototypeBank
from uda.types import IGNORE, TeacherSpec, View

if TYPE_CHECKING:
    from torch import Tensor

    from uda.functional.rand_augment import RandAugmentation
    from uda.step import Step
    from uda.types import TaskSpec

TEACHER = TeacherSpec(decay=0.999, ramp=False, buffers="copied")
NOWHERE = -1.0
"""Distance, in the strong view, of cells that show nothing of the plain one."""


class ProDA(Method):
    """Denoised pseudo-labels, prototype consistency and a regulariser; adds the view ``"target_strong"``.

    Args:
        weight: of the pseudo-labels' loss, at least 0.
        alpha: of its cross-entropy, at least 0.
        beta: of its reverse cross-entropy, at least 0; ``alpha=1, beta=0`` is the plain loss.
        features: what prototypes are means of: an extra tensor of the network's output, or ``"bottleneck"``.
        rectification: whether the prototypes correct the soft labels.
        soft_labels: ``"frozen"`` (the student at ``start``, whole images) or ``"teacher"`` (as it is now, crops).
        threshold: rectified probability below which a pixel is ignored, in [0, 1].
        temperature: factor of the distances, above 0; larger is sharper. 1 suits 256 normalised channels.
        min_share: least share of an image's cells that a class must have to count there, in [0, 1].
        consistency: weight of the prototype consistency, at least 0; 0 saves its pass.
        regulariser: weight of the KL term to the uniform prediction, at least 0.
        momentum: of the prototypes, in [0, 1]: the share of a new vector.
        start: share of the run before it acts, in [0, 1]; 0 expects a trained network, whose stored statistics know the
            target as after ``PassOnly`` or a warm-up; more wants a teacher with ramp.
        images: target images that the prototypes are initialised from, at most; ``None``: all.
        teacher: where the EMA teacher (:class:`~uda.types.TeacherSpec`) differs from :data:`TEACHER`.

    Raises:
        ValueError: a value out of its range, or a network without such features.
    """

    teacher_in_losses = True

    def __init__(
        self,
        *,
        weight: float = 1.0,
        alpha: float = 0.1,
        beta: float = 1.0,
        features: str = "decoder",
        rectification: bool = True,
        soft_labels: str = "frozen",
        threshold: float = 0.0,
        temperature: float = 1.0,
        min_share: float = 10 / (129 * 257),
        consistency: float = 10.0,
        regulariser: float = 0.1,
        momentum: float = 1e-4,
        start: float = 0.0,
        images: int | None = None,
        teacher: TeacherSpec | Mapping[str, Any] = TEACHER,
    ) -> None:
        super().__init__()
        self.teacher = TeacherSpec.of(teacher, TEACHER)
        self.weight, self.alpha = not_negative("weight", weight), not_negative("alpha", alpha)
        self.beta, self.features, self.rectification = not_negative("beta", beta), features, rectification
        self.soft_labels = one_of("soft_labels", soft_labels, ("frozen", "teacher"))
        self.threshold = in_range("threshold", threshold, 0.0, 1.0)
        self.temperature, self.min_share = positive("temperature", temperature), in_range("min_share", min_share, 0, 1)
        self.consistency = not_negative("consistency", consistency)
        self.regulariser = not_negative("regulariser", regulariser)
        self.momentum, self.start = in_range("momentum", momentum, 0.0, 1.0), in_range("start", start, 0.0, 1.0)
        self.images = None if images is None else whole("images", images, 1)
        self.reads = frozenset({"target", "target_strong"} if consistency else {"target"})
        self._draws: list[RandAugmentation] = []

    def setup(self, spec: TaskSpec) -> None:
        self._class_names, self._target, self._student = spec.class_names, spec.target_images, (spec.network,)
        self.bank = PrototypeBank.of(spec, self.features, self.min_share)
        self.frozen = FrozenSoftLabels(spec.network, self._target) if self.soft_labels == "frozen" else None

    def prepare(self, step: Step) -> None:
        first = int(self.start * step.total)
        if step.index == first and step.micro_batch == 0:
            if self.frozen is not None:
                self.frozen.freeze(self._student[0])
            self.bank.initialise(self._target, step.infer, self.images, step.generator)
        if self.consistency and step.index >= first:
            view = step.view("target")
            height, width = view.images.shape[-2:]
            self._draws = [draw_rand_augmentation(height, width, step.generator) for _ in view.images]
            step.put("target_strong", View(rand_augment(view.images, self._draws), names=view.names))

    def losses(self, step: Step) -> dict[str, Tensor]:
        if step.index < int(self.start * step.total):
            return {}
        logits, distance = step.predict("target").logits.float(), self.bank.distance(step.teach("target"))
        labels = self.labels(step, distance)
        log_pseudo_labels(step, labels, self._class_names)
        loss = symmetric_cross_entropy(logits, labels, alpha=self.alpha, beta=self.beta)
        terms = {"pseudo_label": self.weight * loss}
        if self.regulariser:
            terms["regulariser"] = self.regulariser * kld_regulariser(logits)
        if self.consistency:
            strong = self.bank.distance(step.predict("target_strong"))
            moved = rand_augment_maps(distance, self._draws, outside=NOWHERE)
            loss = prototype_consistency(strong, moved, temperature=self.temperature, padding=NOWHERE)
            terms["consistency"] = self.consistency * loss
        return terms

    def after_step(self, step: Step) -> None:
        if step.index >= int(self.start * step.total):
            self.bank.feed(step.teach("target"), self.momentum)

    def labels(self, step: Step, distance: Tensor) -> Tensor:
        """Pseudo-labels ``(N, H, W)`` of the target view, from the teacher's ``(N, C, h, w)`` distances to it."""
        frozen = self.frozen
        soft = step.teach("target").logits.float().softmax(1) if frozen is None else frozen.crops(step)
        weight = resize_logits(prototype_weight(distance, temperature=self.temperature), soft[:, 0])
        known = self.bank.known if self.rectification else torch.zeros_like(self.bank.known)
        labels, rectified = rectify(weight, soft, threshold=self.threshold, known=known)
        return labels.masked_fill(rectified.sum(1) == 0, IGNORE)
