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

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from uda.functional.augment import draw_strong_augmentation, strong_augment
from uda.functional.losses import weighted_cross_entropy
from uda.functional.masks import block_mask
from uda.functional.pseudo_labels import confident_labels, confident_share, pseudo_labels
from uda.methods.base import Method
from uda.methods.checks import in_range, not_negative, whole
from uda.methods.logging import log_pseudo_labels
from uda.models.base import Normalise
from uda.types import View

if TYPE_CHECKING:
    from torch import Tensor, nn

    from uda.step import Step
    from uda.types import TaskSpec

IMAGENET_MEAN = (0.485, 0.456, 0.406)
"""What hides a block where the network does not tell its mean colour."""


def mean_colour(model: nn.Module | None) -> tuple[float, ...]:
    """The RGB colour in [0, 1] that a network's normalisation takes to 0; ImageNet's mean where it has none."""
    for module in model.modules() if model is not None else ():
        if isinstance(module, Normalise):
            mean = module.mean.flatten().tolist()
            return tuple(reversed(mean)) if module.bgr else tuple(mean)
    return IMAGENET_MEAN


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

    Raises:
        ValueError: a value out of its range.
    """

    reads = frozenset({"masked"})
    needs_teacher = True

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
    ) -> None:
        super().__init__()
        self.weight = not_negative("weight", weight)
        self.block = whole("block", block, 1)
        self.ratio = in_range("ratio", ratio, 0.0, 1.0)
        self.threshold = in_range("threshold", threshold, 0.0, 1.0)
        self.ignore_top = whole("ignore_top", ignore_top, 0)
        self.ignore_bottom = whole("ignore_bottom", ignore_bottom, 0)
        self.jitter = in_range("jitter", jitter, 0.0, 0.5)
        self.jitter_probability = in_range("jitter_probability", jitter_probability, 0.0, 1.0)
        self.blur_probability = in_range("blur_probability", blur_probability, 0.0, 1.0)
        if fill is not None and (len(fill) != 3 or not all(0 <= one <= 1 for one in fill)):
            raise ValueError(f"fill is {fill!r}, must be three numbers in [0, 1]")
        self.fill = None if fill is None else tuple(fill)
        self._colour = self.fill or IMAGENET_MEAN
        self._class_names: tuple[str, ...] = ()

    def setup(self, spec: TaskSpec) -> None:
        self._class_names = spec.class_names
        self._colour = self.fill or mean_colour(spec.model)

    def prepare(self, step: Step) -> None:
        target, logits = step.view("target"), step.teach("target").logits.float()
        labels, weight = pseudo_labels(
            logits, threshold=self.threshold, ignore_top=self.ignore_top, ignore_bottom=self.ignore_bottom
        )
        log_pseudo_labels(step, labels, self._class_names, confident_share(confident_labels(logits)[1], self.threshold))
        images = torch.cat([self._hide(one[None], step.generator) for one in target.images])
        step.put("masked", View(images, labels, weight, target.names))

    def _hide(self, image: Tensor, generator: torch.Generator) -> Tensor:
        draw = draw_strong_augmentation(
            generator,
            strength=self.jitter,
            jitter_probability=self.jitter_probability,
            blur_probability=self.blur_probability,
        )
        mask = block_mask(
            (image.shape[-2], image.shape[-1]), block=self.block, ratio=self.ratio, generator=generator
        ).to(image.device)
        colour = torch.tensor(self._colour, device=image.device).to(image.dtype).view(1, 3, 1, 1)
        return torch.where(mask.bool(), strong_augment(image, parameters=draw), colour)

    def losses(self, step: Step) -> dict[str, Tensor]:
        view = step.view("masked")
        assert view.labels is not None  # prepare has put them
        return {"masked": self.weight * weighted_cross_entropy(step.predict("masked").logits, view.labels, view.weight)}
