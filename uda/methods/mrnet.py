"""MRNet: pseudo-labels rectified by uncertainty (Zheng and Yang, IJCV 2021; the first stage is theirs of IJCAI 2020).

Second stage: the network labels every pixel of the whole target images once, in evaluation mode, by the argmax of its
main logits plus half of its auxiliary ones; the maps are stored, and crops are cut from them for the rest of the run. A
pixel on which the main and the auxiliary classifier disagree has a doubtful label: its cross-entropy is multiplied by
exp(-v), v the KL divergence of the two predictions, and v itself is minimised so that it does not grow without need.

First stage, until ``start``: both classifiers are drawn to what they say together, softmax(main + aux / 2) without
gradient, on the target (memory regularisation).

The authors' second stage has no source: a run of this method alone, from the first stage's network. Departures: they
label with two scales and mirrored images, weigh rare classes more, and have an adversarial loss in the first stage,
which is :class:`~uda.methods.AdaptSegNet`'s here. Labels of an EMA teacher are the library's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from uda.data.label_maps import LabelMaps, whole_images
from uda.functional.entropy import kl_divergence_map
from uda.functional.losses import uncertainty_rectified_loss
from uda.methods.base import Method, log_pseudo_labels
from uda.methods.support.checks import in_range, not_negative
from uda.types import TeacherSpec

if TYPE_CHECKING:
    from torch import Tensor

    from uda.step import Step
    from uda.types import SegOutput, TaskSpec, UnlabelledDataset

TEACHER = TeacherSpec()
AUX_SHARE = 0.5
"""Weight of the auxiliary logits where the two classifiers speak together, the authors' everywhere."""


def together(output: SegOutput) -> Tensor:
    """``(N, C, H, W)`` logits of both classifiers: main + aux / 2."""
    return output.logits.float() + AUX_SHARE * output.auxiliary.float()


def memory_loss(output: SegOutput) -> Tensor:
    """Mean over pixels of KL(both || main) + KL(both || aux), without gradient through what both say."""
    both = together(output).detach()
    divergence = [kl_divergence_map(logits.float(), both).mean() for logits in (output.logits, output.auxiliary)]
    return divergence[0] + divergence[1]


class MRNet(Method):
    """Uncertainty-rectified cross-entropy of target pixels with labels that the network gave them once.

    Args:
        weight: of the main classifier's loss, at least 0.
        aux_weight: of the auxiliary classifier's loss, at least 0.
        memory_weight: of the memory regularisation before ``start``, at least 0.
        start: share of the run before the first pseudo-labels, in [0, 1]. 0 expects a network that was trained on the
            source.
        teacher: ``None`` for labels that are stored once; or labels of each crop by the run's EMA teacher, and where it
            differs from 0.999 after the step: ``decay``, ``update``, ``mode``, see :class:`~uda.types.TeacherSpec`.

    Raises:
        ValueError: a value out of its range; from ``setup``: a model without auxiliary classifier; in training without
            teacher: a target view without ``windows``.
    """

    reads = frozenset({"target"})
    own_images = frozenset({"losses"})
    maps: LabelMaps
    _target: UnlabelledDataset

    def __init__(
        self,
        *,
        weight: float = 1.0,
        aux_weight: float = 0.5,
        memory_weight: float = 0.1,
        start: float = 0.0,
        teacher: TeacherSpec | Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.teacher = None if teacher is None else TeacherSpec.of(teacher, TEACHER)
        self.teacher_in_losses = teacher is not None
        self.weight = not_negative("weight", weight)
        self.aux_weight = not_negative("aux_weight", aux_weight)
        self.memory_weight = not_negative("memory_weight", memory_weight)
        self.start = in_range("start", start, 0.0, 1.0)
        self._class_names: tuple[str, ...] = ()

    def setup(self, spec: TaskSpec) -> None:
        if not spec.has_aux:
            raise ValueError("MRNet needs two classifiers and the model has one; build it with aux=True")
        self._class_names = spec.class_names
        if self.teacher is None:
            self._target, self.maps = spec.target_images, LabelMaps()

    def prepare(self, step: Step) -> None:
        if self.teacher is not None or len(self.maps) or step.progress < self.start:
            return
        images = whole_images(self._target, step.view("target").images.device)
        self.maps.fill(together(step.infer(image)).argmax(1).byte() for image in images)

    def losses(self, step: Step) -> dict[str, Tensor]:
        output = step.predict("target")
        if step.progress < self.start:
            return {"memory": self.memory_weight * memory_loss(output)}
        main, aux = output.logits.float(), output.auxiliary.float()
        labels = self.labels(step)
        log_pseudo_labels(step, labels, self._class_names)
        return {
            "rectified": self.weight * uncertainty_rectified_loss(main, aux, labels),
            "rectified_auxiliary": self.aux_weight * uncertainty_rectified_loss(aux, main, labels),
        }

    def labels(self, step: Step) -> Tensor:
        """``(N, H, W)`` int64 labels of the target: stored ones, or the teacher's."""
        if self.teacher is None:
            return self.maps.crops(step.view("target"))[:, 0].long()
        return together(step.teach("target")).argmax(1)
