r"""MIC: masked image consistency (Hoyer et al., CVPR 2023, section 3.2, equations 5 to 8).

The student predicts target images of which random blocks are hidden, and learns the EMA teacher's labels of the whole
images, so that it must use context. It goes with any other method: the paper puts it on DAFormer and HRDA.

$$ \mathcal{L} = w^t \, \mathrm{CE}(f(M \odot x^t), \hat{y}^t), \qquad \hat{y}^t = \mathrm{argmax}_c g_{\phi}(x^t)_c,
\qquad \phi \leftarrow \alpha \phi + (1 - \alpha) \theta $$

As in the published code the masked images are jittered in colour and blurred first (DACS' augmentation), hidden blocks
have the mean colour that the network's normalisation takes to 0, and the pseudo-label's weight is the share of sure
pixels (equation 7). The paper's blocks are 64 pixels wide at HRDA's resolution and 32 at DAFormer's half of it.

With ACDC and Dark Zurich as targets the code masks one source and one target image instead of two target images, and
neither is jittered nor blurred: ``masks="both"``, ``jitter_probability=0``, ``blur_probability=0``. The source image
has its own labels, which weigh 1.

Departures: every image draws its own jitter and blur, where the published code decides once for the whole batch. The
teacher is the run's, shared with the other methods, which is the published code's setting as well. ``"both"`` is for
any batch, the code's for two images. Margins and pixels beyond the image as in :class:`~uda.methods.ClassMix`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from uda.functional.augment import strong_augment_each
from uda.functional.losses import weighted_cross_entropy
from uda.functional.masks import block_mask
from uda.functional.pseudo_labels import confidence_weight, confident_labels, confident_share, without_margins
from uda.methods.base import Method, log_pseudo_labels
from uda.methods.support.checks import in_range, not_negative, one_of, shares_of_sides, whole
from uda.types import IGNORE, IMAGENET_MEAN, TeacherSpec, View

if TYPE_CHECKING:
    from torch import Tensor

    from uda.step import Step
    from uda.types import TaskSpec

TEACHER = TeacherSpec(update="before")


def half_source(source: View, target: View) -> View:
    """A batch of the target's size: half of it, rounded down, source images, then target images.

    Both have labels; pixels without weights weigh 1.
    """
    count = len(target.images) // 2
    parts = [(source, count), (target, len(target.images) - count)]
    weights = [torch.ones_like(view.images[:, 0]) if view.weight is None else view.weight for view, _ in parts]
    none = torch.full_like(target.known_labels, IGNORE)[count:]
    return View(
        torch.cat([view.images[:number] for view, number in parts]),
        torch.cat([view.known_labels[:number] for view, number in parts]),
        torch.cat([weight[:number] for weight, (_, number) in zip(weights, parts, strict=True)]),
        sum((view.names[:number] for view, number in parts), ()),
        sum((view.windows[:number] for view, number in parts), ()) if source.windows and target.windows else (),
        None if source.coarse is None else torch.cat([source.coarse[:count], none]),
        source.groups,
    )


class MIC(Method):
    """Cross-entropy of masked images with the teacher's labels of the whole ones; adds the view ``"masked"``.

    Args:
        weight: of the loss, at least 0.
        masks: ``"target"``: the target images; ``"both"``: half of the batch are source images with their labels.
        block: side of the blocks in pixels, at least 1.
        ratio: expected share of hidden blocks, in [0, 1].
        threshold: confidence from which a pixel counts as sure, in [0, 1].
        margins: shares of the whole target image without weight, in [0, 1), by ``top``, ``bottom``, ``left`` and
            ``right``, which count in the share of sure pixels; see :class:`~uda.methods.ClassMix`.
        jitter: strength of the colour jitter, in [0, 0.5].
        jitter_probability: in [0, 1].
        blur_probability: in [0, 1].
        fill: RGB colour in [0, 1] of hidden blocks; ``None`` for the network's mean colour.
        teacher: where the EMA teacher differs from 0.999 before the step:
            ``decay``, ``update``, ``mode``, see :class:`~uda.types.TeacherSpec`.

    Raises:
        ValueError: a value out of its range; from ``prepare``: margins without windows, or no source labels.
    """

    reads = frozenset({"masked"})
    own_images = frozenset({"losses"})

    def __init__(
        self,
        *,
        weight: float = 1.0,
        masks: str = "target",
        block: int = 64,
        ratio: float = 0.7,
        threshold: float = 0.968,
        margins: Mapping[str, float] | None = None,
        jitter: float = 0.2,
        jitter_probability: float = 0.8,
        blur_probability: float = 0.5,
        fill: Sequence[float] | None = None,
        teacher: TeacherSpec | Mapping[str, Any] = TEACHER,
    ) -> None:
        super().__init__()
        self.teacher = TeacherSpec.of(teacher, TEACHER)
        self.weight = not_negative("weight", weight)
        self.masks = one_of("masks", masks, ("target", "both"))
        self.block = whole("block", block, 1)
        self.ratio = in_range("ratio", ratio, 0.0, 1.0)
        self.threshold = in_range("threshold", threshold, 0.0, 1.0)
        self.margins = shares_of_sides("margins", margins or {})
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
        target = step.view("target")
        labels, confidence = confident_labels(step.teach("target").logits.float())
        log_pseudo_labels(step, labels, self._class_names, confident_share(confidence, self.threshold))
        weight = without_margins(confidence_weight(confidence, threshold=self.threshold), target.windows, self.margins)
        whole_images = replace(target, labels=labels, weight=weight)
        if self.masks == "both":
            whole_images = half_source(step.view("source"), whole_images)
        step.put("masked", replace(whole_images, images=self._hide(whole_images.images, step.generator)))

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
        loss = weighted_cross_entropy(step.predict("masked").logits, view.all_labels, view.weight, groups=view.groups)
        return {"masked": self.weight * loss}
