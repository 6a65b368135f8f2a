"""ProDA: prototypical pseudo-label denoising and target structure learning (Zhang et al., CVPR 2021, section 3).

A prototype is a class's mean target feature. The soft labels of a fixed network are multiplied by how near the EMA
teacher's feature is to each prototype, and their argmax trains the student by symmetric cross-entropy. The student's
soft assignment of a strongly augmented view to the prototypes follows the teacher's of the plain view; a KL term keeps
predictions from becoming too sure. Prototypes move with the teacher's features, an image and class at a time.

Departures: one stage, without the two rounds of distillation. The fixed network is the student as it is at ``start``
(the paper's first stage; ``soft_labels="teacher"`` saves its pass), applied to the crop where the paper stores soft
labels of whole images. The prototypes' weights are upsampled to the image, where the paper shrinks the labels. The
strong view has DACS' colour jitter and blur in place of RandAugment and cutout. A class without prototype weighs 0,
and its first vector becomes its prototype. The teacher is the run's.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from uda.functional.augment import strong_augment_each
from uda.functional.losses import kld_regulariser, resize_logits, symmetric_cross_entropy
from uda.functional.prototypes import prototype_consistency, prototype_weight, rectify
from uda.methods.base import Method, log_pseudo_labels
from uda.methods.support.checks import in_range, not_negative, one_of, positive, whole
from uda.methods.support.prototype_bank import PrototypeBank
from uda.types import IGNORE, TeacherSpec, View

if TYPE_CHECKING:
    from torch import Tensor

    from uda.step import Step
    from uda.types import SegmenterLike, SegOutput, TaskSpec, UnlabelledDataset

TEACHER = TeacherSpec()


class ProDA(Method):
    """Denoised pseudo-labels, prototype consistency and a regulariser; adds the view ``"target_strong"``.

    Args:
        weight: of the pseudo-labels' loss, at least 0.
        alpha: of its cross-entropy, at least 0.
        beta: of its reverse cross-entropy, at least 0; ``alpha=1, beta=0`` is the plain loss.
        rectification: whether the prototypes correct the soft labels.
        soft_labels: ``"frozen"`` (the student at ``start``) or ``"teacher"`` (as it is now).
        threshold: rectified probability below which a pixel is ignored, in [0, 1].
        temperature: factor of the distances, above 0; larger is sharper.
        consistency: weight of the prototype consistency, at least 0; 0 saves its pass.
        regulariser: weight of the KL term to the uniform prediction, at least 0.
        momentum: of the prototypes, in [0, 1]: the share of a new vector.
        start: share of the run before the first pseudo-labels, in [0, 1]; 0 expects a network trained on the source.
        images: target images that the prototypes are initialised from, at most.
        teacher: where the EMA teacher differs from 0.999 after the step:
            ``decay``, ``update``, ``mode``, see :class:`~uda.types.TeacherSpec`.

    Raises:
        ValueError: a value out of its range.
    """

    teacher_in_losses = True
    bank: PrototypeBank
    _target: UnlabelledDataset

    def __init__(
        self,
        *,
        weight: float = 1.0,
        alpha: float = 0.1,
        beta: float = 1.0,
        rectification: bool = True,
        soft_labels: str = "frozen",
        threshold: float = 0.0,
        temperature: float = 1.0,
        consistency: float = 10.0,
        regulariser: float = 0.1,
        momentum: float = 1e-4,
        start: float = 0.0,
        images: int = 500,
        teacher: TeacherSpec | Mapping[str, Any] = TEACHER,
    ) -> None:
        super().__init__()
        self.teacher = TeacherSpec.of(teacher, TEACHER)
        self.weight, self.alpha = not_negative("weight", weight), not_negative("alpha", alpha)
        self.beta, self.rectification = not_negative("beta", beta), rectification
        self.soft_labels = one_of("soft_labels", soft_labels, ("frozen", "teacher"))
        self.threshold = in_range("threshold", threshold, 0.0, 1.0)
        self.temperature = positive("temperature", temperature)
        self.consistency = not_negative("consistency", consistency)
        self.regulariser = not_negative("regulariser", regulariser)
        self.momentum = in_range("momentum", momentum, 0.0, 1.0)
        self.start = in_range("start", start, 0.0, 1.0)
        self.images = whole("images", images, 1)
        self.reads = frozenset({"target", "target_strong"} if consistency else {"target"})
        self.frozen: nn.Module | None = None
        self._class_names: tuple[str, ...] = ()
        self._student: tuple[SegmenterLike, ...] = ()

    def setup(self, spec: TaskSpec) -> None:
        self._class_names, self._target, self._student = spec.class_names, spec.target_images, (spec.network,)
        self.bank = PrototypeBank(spec.num_classes, spec.feature_channels)
        if self.soft_labels == "frozen":
            self.frozen = cast("nn.Module", copy.deepcopy(spec.network)).requires_grad_(False).eval()

    def prepare(self, step: Step) -> None:
        if self._waits(step):
            return
        if step.index == int(self.start * step.total) and step.micro_batch == 0:
            if self.frozen is not None:
                self.frozen.load_state_dict(self._student[0].state_dict())
            self.bank.initialise(self._target, step.infer, self.images, step.generator)
        if self.consistency:
            view = step.view("target")
            strong = strong_augment_each(view.images, step.generator)
            step.put("target_strong", View(strong, names=view.names))

    def losses(self, step: Step) -> dict[str, Tensor]:
        if self._waits(step):
            return {}
        logits, taught = step.predict("target").logits.float(), step.teach("target")
        distance = self.bank.distance(taught.features)
        labels = self._labels(step, taught, distance)
        log_pseudo_labels(step, labels, self._class_names)
        loss = symmetric_cross_entropy(logits, labels, alpha=self.alpha, beta=self.beta)
        terms = {"pseudo_label": self.weight * loss}
        if self.regulariser:
            terms["regulariser"] = self.regulariser * kld_regulariser(logits)
        if self.consistency:
            strong = self.bank.distance(step.predict("target_strong").features)
            loss = prototype_consistency(strong, distance, temperature=self.temperature, padding=None)
            terms["consistency"] = self.consistency * loss
        return terms

    def after_step(self, step: Step) -> None:
        if not self._waits(step):
            self.bank.feed(step.teach("target"), self.momentum)

    def _waits(self, step: Step) -> bool:
        return step.index < int(self.start * step.total)

    def _labels(self, step: Step, taught: SegOutput, distance: Tensor) -> Tensor:
        if self.frozen is not None:
            with torch.no_grad():
                taught = self.frozen.eval()(step.view("target").images)
        soft = taught.logits.float().softmax(1)
        weight = torch.ones_like(soft)
        if self.rectification:
            weight = resize_logits(prototype_weight(distance, temperature=self.temperature), soft[:, 0])
        labels, rectified = rectify(weight, soft, threshold=self.threshold)
        return labels.masked_fill(rectified.sum(1) == 0, IGNORE)
