"""The mean teacher: an exponential moving average of the student (Tarvainen and Valpola 2017; DACS, DAFormer, SAC).

Parameters are averaged with the ramp ``alpha_k = min(1 - 1 / (k + 1), decay)`` of update k: until the cap is reached
the teacher is the plain average of the students that it has seen. DACS averages after the optimiser step of iteration
i; DAFormer, HRDA and MIC at the beginning of iteration i, before it. In both the teacher keeps batch-norm statistics of
its own. SAC averages before every hundredth step, running statistics too, without a ramp.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from uda.types import TeacherSpec

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


def inner_state(state: Mapping[str, Any]) -> dict[str, Any]:
    """The state of the network inside a :class:`Teacher`, of the teacher's own."""
    return {name.removeprefix("model."): value for name, value in state.items() if name.startswith("model.")}


class Teacher(nn.Module):
    """An EMA copy of a segmenter, predicting without gradient.

    Args:
        model: the student, copied once.
        decay: cap of the ramp, in [0, 1]; 0.999 in DAFormer and MIC, 0.99 in DACS.
        update: when the caller calls :meth:`update` in iteration i: ``"after"`` the student's step (DACS) or
            ``"before"`` it (DAFormer, HRDA, MIC). Kept in ``when``.
        mode: ``"train"`` as in the papers: batch norm uses the batch and its own running statistics, dropout and
            stochastic depth are off. ``"eval"``: running statistics.
        every: iterations from one update to the next.
        ramp: see the module; without, update 0 makes a copy and all others have ``decay``.
        buffers: what an update does with them: ``"own"``: nothing; the student's are ``"copied"``; ``"averaged"``.
            ``None``: ``"own"`` in train mode, ``"copied"`` in eval mode.

    ``train()`` puts it into its mode, ``eval()`` always into plain evaluation (for scoring the teacher).

    Raises:
        ValueError: a value out of its range, see :class:`~uda.types.TeacherSpec`.
    """

    def __init__(
        self,
        model: nn.Module,
        decay: float = 0.999,
        update: Literal["after", "before"] = "after",
        mode: Literal["train", "eval"] = "train",
        every: int = 1,
        ramp: bool = True,
        buffers: Literal["own", "copied", "averaged"] | None = None,
    ) -> None:
        super().__init__()
        self.spec = TeacherSpec(decay, update, mode, every, ramp, buffers)
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
        """Average the student in, if ``index`` (the zero-based iteration) is a multiple of ``every``.

        At index 0 the parameters, and the buffers unless they are the teacher's own, become the student's.
        """
        number, left_over = divmod(index, self.spec.every)
        if left_over:
            return
        alpha = ema_alpha(number, self.decay) if self.spec.ramp or number == 0 else self.decay
        ema_update_(self.model.parameters(), student.parameters(), alpha)
        buffers = self.spec.buffers or ("own" if self.mode == "train" else "copied")
        if buffers != "own":
            for teacher_buffer, student_buffer in zip(self.model.buffers(), student.buffers(), strict=True):
                if buffers == "averaged" and teacher_buffer.is_floating_point():
                    # not alpha * a + (1 - alpha) * b: of two equal constants this gives the constant
                    teacher_buffer.lerp_(student_buffer, 1 - alpha)
                else:
                    teacher_buffer.copy_(student_buffer)
