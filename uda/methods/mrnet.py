"""MRNet: pseudo-labels rectified by uncertainty (Zheng and Yang, IJCV 2021; the first stage is theirs of IJCAI 2020).

A target pixel on which the main and the auxiliary classifier disagree has a doubtful pseudo-label: its cross-entropy is
multiplied by exp(-v), v the KL divergence of the two predictions, and v itself is minimised so that it does not grow
without need (2021). Until ``start``, when there are no pseudo-labels yet, both classifiers are drawn to
agree on the target (memory regularisation, 2020).

Departures: one run instead of two, and the labels come from the run's EMA teacher instead of the first stage's frozen
network: the argmax of its main prediction plus half of its auxiliary one, as the authors add them, of every pixel and
without a threshold.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from uda.functional.entropy import kl_divergence_map
from uda.functional.losses import uncertainty_rectified_loss
from uda.methods.base import Method, log_pseudo_labels
from uda.methods.support.checks import in_range, not_negative
from uda.types import TeacherSpec

if TYPE_CHECKING:
    from torch import Tensor

    from uda.step import Step
    from uda.types import TaskSpec

TEACHER = TeacherSpec()


class MRNet(Method):
    """Uncertainty-rectified cross-entropy of target pixels with the teacher's labels.

    Args:
        weight: of the main classifier's loss, at least 0.
        aux_weight: of the auxiliary classifier's loss, at least 0.
        memory_weight: of the classifiers' divergence before ``start``, at least 0.
        start: share of the run before the first pseudo-labels, in [0, 1]. 0 expects a network that was trained on the
            source.
        teacher: where the EMA teacher differs from 0.999 after the step:
            ``decay``, ``update``, ``mode``, see :class:`~uda.types.TeacherSpec`.

    Raises:
        ValueError: a value out of its range; from ``setup``: a model without auxiliary classifier.
    """

    reads = frozenset({"target"})
    teacher_in_losses = True

    def __init__(
        self,
        *,
        weight: float = 1.0,
        aux_weight: float = 0.5,
        memory_weight: float = 0.1,
        start: float = 0.0,
        teacher: TeacherSpec | Mapping[str, Any] = TEACHER,
    ) -> None:
        super().__init__()
        self.teacher = TeacherSpec.of(teacher, TEACHER)
        self.weight = not_negative("weight", weight)
        self.aux_weight = not_negative("aux_weight", aux_weight)
        self.memory_weight = not_negative("memory_weight", memory_weight)
        self.start = in_range("start", start, 0.0, 1.0)
        self._class_names: tuple[str, ...] = ()

    def setup(self, spec: TaskSpec) -> None:
        if not spec.has_aux:
            raise ValueError("MRNet needs two classifiers and the model has one; build it with aux=True")
        self._class_names = spec.class_names

    def losses(self, step: Step) -> dict[str, Tensor]:
        output = step.predict("target")
        main, aux = output.logits.float(), output.auxiliary.float()
        if step.progress < self.start:
            divergence = kl_divergence_map(main, aux).mean() + kl_divergence_map(aux, main).mean()
            return {"memory": self.memory_weight * divergence}
        labels = self.labels(step)
        log_pseudo_labels(step, labels, self._class_names)
        return {
            "rectified": self.weight * uncertainty_rectified_loss(main, aux, labels),
            "rectified_auxiliary": self.aux_weight * uncertainty_rectified_loss(aux, main, labels),
        }

    def labels(self, step: Step) -> Tensor:
        """The teacher's ``(N, H, W)`` int64 labels of the target."""
        taught = step.teach("target")
        return (taught.logits.float().softmax(1) + 0.5 * taught.auxiliary.float().softmax(1)).argmax(1)
