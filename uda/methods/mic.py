"""MIC: masked image consistency (Hoyer et al., CVPR 2023, section 3.2, equations 5 to 8).

The student predicts target images of which random blocks are hidden, and learns the EMA teacher's labels of the whole
images, so that it must use context. It goes with any other method: the paper puts it on DAFormer and HRDA.

As in the published code the masked images are jittered in colour and blurred first (DACS' augmentation), hidden blocks
have the mean colour that the network's normalisation takes to 0, and the pseudo-label's weight is the share of sure
pixels (equation 7). The paper's blocks are 64 pixels wide at HRDA's resolution and 32 at DAFormer's half of it.

Departures: every image draws its own jitter and blur, where the published code decides once for the whole batch. The
teacher is the run's, shared with the other methods, which is the published code's setting as well. Target only, as in
the paper's tables; masked source images are not trained on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from uda.functional.augment import strong_augment_each
from uda.functional.losses import weighted_cross_entropy
from uda.functional.masks import block_mask
from uda.functional.pseudo_labels import confident_labels, confident_share, pseudo_labels
from uda.methods.base import Method, log_pseudo_labels
from uda.methods.support.checks import in_range, not_negative, whole
from uda.types import IMAGENET_MEAN, TeacherSpec, View

if TYPE_CHECKING:
    from torch import Tensor

    from uda.step import Step
    from uda.types import TaskSpec


TEACHER = TeacherSpec(update="before")


class MIC(Method):
    """Cross-entropy of masked target images with the teacher's labels of the whole ones; adds the view ``"masked"``.

    Args:
        weight: of the loss, at least 0.
        block: side of the blocks in pixels, at least 1.
        ratio: expected share of hidden blocks, in [0, 1].
        threshold: confidence from which a pixel counts as sure, in [0, 1].
        ignore_top: rows without weight at the top of the crop, in pixels; they count in the share. The paper's is 15.
        ignore_bottom: the same at the bottom; 120 in the paper.
        jitter: strength of the colour jitter, in [0, 0.5].
        jitter_probability: in [0, 1].
        blur_probability: in [0, 1].
        fill: RGB colour in [0, 1] of hidden blocks; ``None`` for the network's mean colour.
        teacher: where the EMA teacher differs from 0.999 before the step:
            ``decay``, ``update``, ``mode``, see :class:`~uda.types.TeacherSpec`.

    Raises:
        ValueError: a value out of its range.
    """

    reads = frozenset({"masked"})

    def __init__(
        self,
        *,
        weight: float = 1.0,
        block: int = 64,
        ratio: float = 0.7,
        threshold: float = 0.968,
        ignore_top: int = 0,
        ignore_bottom: int = 0,
        jitter: float = 0.2,
        jitter_probability: float = 0.8,
        blur_probability: float = 0.5,
        fill: Sequence[float] | None = None,
        teacher: TeacherSpec | Mapping[str, Any] = TEACHER,
    ) -> None:
        super().__init__()
        self.teacher = TeacherSpec.of(teacher, TEACHER)
        self.weight = not_negative("weight", weight)
        self.block = whole("block", block, 1)
        self.ratio = in_range("ratio", ratio, 0.0, 1.0)
        self.threshold = in_range("threshold", threshold, 0.0, 1.0)
        self.ignore_top = whole("ignore_top", ignore_top, 0)
        self.ignore_bottom = whole("ignore_bottom", ignore_bottom, 0)
        self.jitter = in_range("jitter", jitter, 0.0, 0.5)
        self.jitter_probability = in_range("jitter_probability", jitter_probability, 0.0, 1.0)
        self.blur_probability = in_range("blur_probability", blur_probability, 0.0, 1.0)
        if fill is not None and (len(fill) != 3 or not all(0 <= channel <= 1 for channel in fill)):
            raise ValueError(f"fill is {fill!r}, must be three numbers in [0, 1]")
        self.fill = None if fill is None else tuple(fill)
        self._colour: tuple[float, ...] = self.fill or IMAGENET_MEAN
        self._class_names: tuple[str, ...] = ()

    def setup(self, spec: TaskSpec) -> None:
        self._class_names = spec.class_names
        self._colour = self.fill or tuple(getattr(spec.model, "mean_colour", IMAGENET_MEAN))

    def prepare(self, step: Step) -> None:
        target, logits = step.view("target"), step.teach("target").logits.float()
        labels, weight = pseudo_labels(
            logits, threshold=self.threshold, ignore_top=self.ignore_top, ignore_bottom=self.ignore_bottom
        )
        log_pseudo_labels(step, labels, self._class_names, confident_share(confident_labels(logits)[1], self.threshold))
        step.put("masked", View(self._hide(target.images, step.generator), labels, weight, target.names))

    def _hide(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Strongly augmented images with hidden blocks."""
        augmented = strong_augment_each(
            images,
            generator,
            strength=self.jitter,
            jitter_probability=self.jitter_probability,
            blur_probability=self.blur_probability,
        )
        size = (images.shape[-2], images.shape[-1])
        masks = [block_mask(size, block=self.block, ratio=self.ratio, generator=generator) for _ in images]
        colour = torch.tensor(self._colour, device=images.device).to(images.dtype).view(1, 3, 1, 1)
        return torch.where(torch.cat(masks).to(images.device).bool(), augmented, colour)

    def losses(self, step: Step) -> dict[str, Tensor]:
        view = step.view("masked")
        loss = weighted_cross_entropy(step.predict("masked").logits, view.known_labels, view.weight)
        return {"masked": self.weight * loss}
