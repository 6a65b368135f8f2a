"""The mean teacher: an exponential moving average of the student (Tarvainen and Valpola 2017; DACS, DAFormer, MIC).

Only parameters are averaged, with the ramp ``alpha_i = min(1 - 1 / (i + 1), decay)``: until the cap is reached the
teacher is the plain average of the students so far. DACS averages after the optimiser step of iteration i; DAFormer,
HRDA and MIC at the beginning of iteration i, before it. In both the teacher keeps batch-norm statistics of its own.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn
from torch.nn.modules.dropout import _DropoutNd

if TYPE_CHECKING:
    from torch import Tensor

    from uda.types import SegOutput


def ema_alpha(index: int, decay: float) -> float:
    """The teacher's share in update ``index`` (from 0): ``min(1 - 1 / (index + 1), decay)``."""
    return min(1 - 1 / (index + 1), decay)


@torch.no_grad()
def ema_update_(teacher: Iterable[Tensor], student: Iterable[Tensor], alpha: float) -> None:
    """``teacher = alpha * teacher + (1 - alpha) * student`` in place, for pairs of tensors of equal shapes."""
    teacher_tensors, student_tensors = list(teacher), list(student)
    if len(teacher_tensors) != len(student_tensors):
        raise ValueError(f"teacher and student differ: {len(teacher_tensors)} and {len(student_tensors)} tensors")
    if teacher_tensors:
        torch._foreach_mul_(teacher_tensors, alpha)
        torch._foreach_add_(teacher_tensors, student_tensors, alpha=1 - alpha)


class Teacher(nn.Module):
    """An EMA copy of a segmenter, predicting without gradient.

    Args:
        model: the student, copied once.
        decay: cap of the ramp, in [0, 1]; 0.999 in DAFormer and MIC, 0.99 in DACS.
        update: when the caller calls :meth:`update` in iteration i: ``"after"`` the student's step (DACS) or
            ``"before"`` it (DAFormer, HRDA, MIC). Kept in ``when``.
        mode: ``"train"`` as in the papers: batch norm uses the batch and its own running statistics, dropout and
            stochastic depth are off. ``"eval"``: running statistics, copied from the student at each update.

    ``train()`` puts it into its mode, ``eval()`` always into plain evaluation (for scoring the teacher).

    Raises:
        ValueError: a value out of range.
    """

    def __init__(
        self,
        model: nn.Module,
        decay: float = 0.999,
        update: Literal["after", "before"] = "after",
        mode: Literal["train", "eval"] = "train",
    ) -> None:
        super().__init__()
        if not 0 <= decay <= 1:
            raise ValueError(f"decay must be in [0, 1], got {decay}")
        if update not in ("after", "before"):
            raise ValueError(f"update must be 'after' or 'before', got {update!r}")
        if mode not in ("train", "eval"):
            raise ValueError(f"mode must be 'train' or 'eval', got {mode!r}")
        self.decay = decay
        self.when = update
        self.mode = mode
        self.model = copy.deepcopy(model)
        self.model.requires_grad_(False)
        self.train()

    def train(self, mode: bool = True) -> Teacher:
        """The teacher's own mode (see the class), or plain evaluation for ``mode=False``."""
        super().train(mode and self.mode == "train")
        if self.training:
            for module in self.modules():
                # timm's stochastic depth by name: who has such a layer has timm, others need not import it
                if isinstance(module, _DropoutNd) or type(module).__name__ == "DropPath":
                    module.training = False
        return self

    @torch.no_grad()
    def forward(self, images: Tensor) -> SegOutput:
        """Predict images ``(N, 3, H, W)`` in [0, 1], without a graph."""
        output: SegOutput = self.model(images)
        return output

    @torch.no_grad()
    def update(self, student: nn.Module, index: int) -> None:
        """Average the student in, as update ``index`` (the zero-based iteration); at 0 the teacher becomes its copy."""
        ema_update_(self.model.parameters(), student.parameters(), ema_alpha(index, self.decay))
        if self.mode == "eval":
            for teacher_buffer, student_buffer in zip(self.model.buffers(), student.buffers(), strict=True):
                teacher_buffer.copy_(student_buffer)
