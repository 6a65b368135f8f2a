r"""CoTTA: continual test-time adaptation (Wang et al., CVPR 2022, section 3, algorithm 1).

An EMA teacher predicts each image; where the source network is unsure (equation 4), the prediction is the mean over
resized and mirrored copies (equation 3). The student learns the teacher's prediction (equation 2), the teacher follows
it (equation 5), and a random share of the student's weights returns to the source's after each step (equations 7 and
8). The teacher's prediction is what is returned.

$$ \mathcal{L} = -\sum_c \hat{y}'_c \log p_c, \qquad \theta' \leftarrow \alpha \theta' + (1 - \alpha) \theta,
\qquad \theta \leftarrow B \odot \theta^0 + (1 - B) \odot \theta, \quad B \sim \mathrm{Bernoulli}(p) $$

Defaults are those of the authors' code for segmentation (Cityscapes to ACDC, not in their repository). It differs from
the paper: the source network decides for each pixel, not for the image; the student learns hard labels, where equation
2 has soft ones (``labels="soft"``); all networks are in evaluation mode, with the stored statistics. It takes images at
half of their size one by one, and Adam with an eighth of the training's 0.00006.

Departures: one Adam for the whole stream, theirs begins anew with each weather condition. Log-probabilities are given.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

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
        threshold: confidence of the source network up to which a pixel is averaged, in [0, 1]; 0: none, 1: all.
        scales: sizes of the copies that are averaged, relative to the image.
        flip: average mirrored copies as well.
        labels: ``"hard"``: the student learns the classes of the teacher's prediction; ``"soft"``: its probabilities.
        restore: share of the weights that return to the source's after each step, in [0, 1].
        statistics: ``"source"``: those the model has stored; ``"batch"``: of each batch, as for classification.
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
        labels: str = "hard",
        restore: float = 0.01,
        statistics: str = "source",
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
        self.labels = one_of("labels", labels, ("hard", "soft"))
        self.restore = in_range("restore", restore, 0.0, 1.0)
        self.statistics = one_of("statistics", statistics, STATISTICS)
        self.starts_from = "PredictionTimeBN" if statistics == "batch" else None
        self.seed = whole("seed", seed, 0)
        self.teacher: Any = None
        self._optimizer: Any = None
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
        output = self._teach(images)
        with learning(student, list(student.parameters())), statistics_of(student, self.statistics):
            optimizer.zero_grad(set_to_none=True)
            labels = output.logits.argmax(1) if self.labels == "hard" else output.logits.exp()
            F.cross_entropy(student(images).logits.float(), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        ema_update_(self.teacher.parameters(), student.parameters(), self.decay)
        restore_(student, self._source_state, self.restore, self._generator)
        return output

    @torch.no_grad()
    def _teach(self, images: Tensor) -> SegOutput:
        """The teacher's prediction, averaged over copies in the pixels of which the source network is unsure."""
        student = self.attached()
        with statistics_of(student, self.statistics), statistics_of(self.teacher, self.statistics):
            anchor: SegOutput = functional_call(student, self._source_state, (images,))
            sure = anchor.logits.float().softmax(1).amax(1, keepdim=True) > self.threshold
            output: SegOutput = self.teacher(images)
            prob = output.logits.float().softmax(1)
            if not sure.all():
                prob = torch.where(sure, prob, self._average(images, prob))
        return SegOutput(prob.clamp(min=1e-12).log(), output.features)

    def _average(self, images: Tensor, plain: Tensor) -> Tensor:
        """Mean ``(N, C, H, W)`` probabilities of the teacher over the copies; ``plain`` are those of the images."""
        size, total = images.shape[-2:], torch.zeros_like(plain)
        for scale in self.scales:
            scaled = [max(round(side * scale), 1) for side in size]
            resized = F.interpolate(images, scaled, mode="bilinear", align_corners=False)
            for mirrored in (False, True)[: 1 + self.flip]:
                prob = plain
                if scale != 1 or mirrored:
                    logits = self.teacher(resized.flip(-1) if mirrored else resized).logits.float()
                    prob = F.interpolate(logits, size, mode="bilinear", align_corners=False).softmax(1)
                total += prob.flip(-1) if mirrored else prob
        return total / (len(self.scales) * (1 + self.flip))
