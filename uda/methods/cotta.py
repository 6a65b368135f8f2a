"""CoTTA: continual test-time adaptation (Wang et al., CVPR 2022, section 3, algorithm 1).

An EMA teacher predicts each image; where the source network is unsure of it (mean confidence below a threshold,
equation 4), the prediction is the mean over resized and mirrored copies (equation 3). The student learns the teacher's
prediction (equation 2), the teacher follows it (equation 5), and a random share of the student's weights returns to the
source's after each step (equations 7 and 8). The teacher's prediction is what is returned.

Written from the paper. Its settings for segmentation are the defaults: a batch of one, Adam with an eighth of the
training's 0.00006, seven scales, threshold 0.69, 1 % restored, decay 0.999.

Departures: the confidence is the mean over the batch, which is meant to be one image. Batch norm uses the batch's
statistics or, by ``statistics="source"``, the stored ones. What is returned are log-probabilities in place of logits.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from uda.functional.entropy import soft_cross_entropy_map
from uda.methods.base import TestTimeMethod
from uda.methods.support.adaptation import OPTIMIZERS, STATISTICS, build_optimizer, learning, restore_, statistics_of
from uda.methods.support.checks import in_range, one_of, positive, whole
from uda.models.teacher import ema_update_
from uda.types import SegOutput

if TYPE_CHECKING:
    from torch import Tensor

    from uda.types import TaskSpec


class CoTTA(TestTimeMethod):
    """Predict with an EMA teacher that a student, trained on the teacher's predictions, moves.

    Args:
        lr: learning rate of the student, above 0.
        optimizer: ``"adam"`` or ``"sgd"``.
        decay: of the teacher, in [0, 1].
        threshold: mean confidence of the source network below which the teacher averages, in [0, 1]; 0: never, 1:
            always.
        scales: sizes of the copies that are averaged, relative to the image.
        flip: average mirrored copies as well.
        restore: share of the weights that return to the source's after each step, in [0, 1].
        statistics: ``"batch"``: of each batch; ``"source"``: those the model has stored.
        seed: of the restored weights, at least 0.

    Raises:
        ValueError: a value out of its range.
    """

    adapts_on_scored = True

    def __init__(
        self,
        *,
        lr: float = 0.0000075,
        optimizer: str = "adam",
        decay: float = 0.999,
        threshold: float = 0.69,
        scales: Sequence[float] = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0),
        flip: bool = True,
        restore: float = 0.01,
        statistics: str = "batch",
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.lr = positive("lr", lr)
        self.optimizer = one_of("optimizer", optimizer, OPTIMIZERS)
        self.decay = in_range("decay", decay, 0.0, 1.0)
        self.threshold = in_range("threshold", threshold, 0.0, 1.0)
        self.scales = tuple(scales)
        if not scales or not all(0 < scale < float("inf") for scale in scales):
            raise ValueError(f"scales is {scales!r}, must be at least one number > 0")
        self.flip = flip
        self.restore = in_range("restore", restore, 0.0, 1.0)
        self.statistics = one_of("statistics", statistics, STATISTICS)
        self.seed = whole("seed", seed, 0)
        self.teacher: Any = None
        self._optimizer: torch.optim.Optimizer | None = None
        self._generator = torch.Generator()

    def attach(self, model: nn.Module, spec: TaskSpec | None = None) -> None:
        super().attach(model, spec)
        self.teacher = copy.deepcopy(model).requires_grad_(False)
        self.reset()

    def detach_model(self) -> None:
        super().detach_model()
        self.teacher = self._optimizer = None

    def reset(self) -> None:
        """Return student and teacher to the model's state at ``attach``; the random numbers start again."""
        super().reset()
        self.teacher.load_state_dict(self._source_state)
        self._optimizer = build_optimizer(self.optimizer, list(self.attached().parameters()), self.lr)
        self._generator.manual_seed(self.seed)

    def forward(self, images: Tensor) -> SegOutput:
        """Predict ``(N, 3, H, W)`` images in [0, 1] and adapt; the logits are log-probabilities.

        Raises:
            RuntimeError: no model.
        """
        student, optimizer = self.attached(), self._optimizer
        if optimizer is None:
            raise RuntimeError("CoTTA has no optimiser; call attach(model)")
        output = self._teach(images)
        with learning(student, list(student.parameters())), statistics_of(student, self.statistics):
            optimizer.zero_grad(set_to_none=True)
            loss = soft_cross_entropy_map(student(images).logits.float(), output.logits.exp()).mean()
            loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        ema_update_(self.teacher.parameters(), student.parameters(), self.decay)
        restore_(student, self._source_state, self.restore, self._generator)
        return output

    @torch.no_grad()
    def _teach(self, images: Tensor) -> SegOutput:
        """The teacher's prediction, averaged over copies where the source network is unsure."""
        student = self.attached()
        with statistics_of(student, self.statistics):
            anchor: SegOutput = functional_call(student, self._source_state, (images,))
        with statistics_of(self.teacher, self.statistics):
            output: SegOutput = self.teacher(images)
            if anchor.logits.float().softmax(1).amax(1).mean() >= self.threshold:
                return SegOutput(output.logits.float().log_softmax(1), output.features)
            return SegOutput(self._average(images).clamp(min=1e-12).log(), output.features)

    def _average(self, images: Tensor) -> Tensor:
        """Mean ``(N, C, H, W)`` probabilities of the teacher over the copies."""
        size = images.shape[-2:]
        total: Any = 0
        for scale in self.scales:
            scaled = [max(round(side * scale), 1) for side in size]
            resized = F.interpolate(images, scaled, mode="bilinear", align_corners=False) if scale != 1 else images
            for mirrored in (False, True)[: 1 + self.flip]:
                logits = self.teacher(resized.flip(-1) if mirrored else resized).logits.float()
                logits = F.interpolate(logits, size, mode="bilinear", align_corners=False)
                total = total + (logits.flip(-1) if mirrored else logits).softmax(1)
        mean: Tensor = total / (len(self.scales) * (1 + self.flip))
        return mean
