r"""ClassMix with a mean teacher: DACS (Tranheden et al., WACV 2021, algorithm 1); DAFormer's variant by its options.

The EMA teacher labels the target; half of a source image's classes are pasted onto a target image, labels and weights
alike (ClassMix, Olsson et al., WACV 2021); the student learns the mixed image after colour jitter and blur. Pasted
pixels weigh 1, target pixels the share of the batch's target pixels of which the teacher is sure (confidence at least
0.968).

$$ x^m = M \odot x^s + (1 - M) \odot x^t, \qquad y^m = M \odot y^s + (1 - M) \odot \hat{y}^t,
\qquad \mathcal{L} = \mathrm{CE}(f(x^m), y^m; w) $$

DAFormer (Hoyer et al., CVPR 2022, section 3.3), HRDA, MIC: ``classes="batch"``, ``jitter=0.2``, and no weight for the
target's margins, where Cityscapes has rectification seams and the car's own bonnet: 15 / 512 at the top and 120 / 512
at the bottom; HRDA and MIC on HRDA also 30 / 2048 left and right. Pixels in the margins count in the share of sure
pixels, and what the source pastes over them weighs 1.

Departures: every image draws its own jitter and blur, where the published code decides once for the whole batch.
Margins are those of the whole image, as HRDA's; DAFormer's code cuts rows off the crop, which is the same where the
crop is as high as the image. Target pixels beyond the image weigh 0 (the published pipelines never pad).
The source is as the methods before this one left it, so that a restyled source is mixed restyled; its pixel weights,
where it has any, stay. Where another method needs the teacher as well, they share one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from uda.functional.augment import strong_augment_each
from uda.functional.losses import weighted_cross_entropy
from uda.functional.masks import class_mix_masks, mix
from uda.functional.pseudo_labels import confidence_weight, confident_labels, confident_share, without_margins
from uda.methods.base import Method, log_pseudo_labels
from uda.methods.support.checks import in_range, not_negative, one_of, shares_of_sides
from uda.types import IGNORE, TeacherSpec, View

if TYPE_CHECKING:
    from torch import Tensor

    from uda.step import Step
    from uda.types import TaskSpec

TEACHER = TeacherSpec(decay=0.99)


class ClassMix(Method):
    """Cross-entropy on target images with source classes pasted in; adds the view ``"mixed"``.

    Args:
        weight: of the loss, at least 0.
        threshold: confidence from which a pixel counts as sure, in [0, 1].
        weighting: ``"uniform"``: every target pixel has the share of sure pixels; ``"pixel"``: 1 where sure, else 0.
        classes: ``"image"``: half of the image's own classes are pasted (DACS); ``"batch"``: half of those of all the
            batch's source images (DAFormer's code), some of which the image may lack.
        margins: shares of the whole target image without weight, in [0, 1), by ``top``, ``bottom``, ``left`` and
            ``right``; DAFormer: ``{"top": 15 / 512, "bottom": 120 / 512}``. The target view must know its windows.
        jitter: strength of the colour jitter, in [0, 0.5].
        jitter_probability: in [0, 1].
        blur_probability: in [0, 1].
        teacher: where the EMA teacher differs from 0.99 after the step (DAFormer: 0.999, before it):
            ``decay``, ``update``, ``mode``, see :class:`~uda.types.TeacherSpec`.

    Raises:
        ValueError: a value out of its range; from ``prepare``: no source labels, or margins without windows.
    """

    reads = frozenset({"mixed"})
    own_images = frozenset({"losses"})

    def __init__(
        self,
        *,
        weight: float = 1.0,
        threshold: float = 0.968,
        weighting: str = "uniform",
        classes: str = "image",
        margins: Mapping[str, float] | None = None,
        jitter: float = 0.25,
        jitter_probability: float = 0.8,
        blur_probability: float = 0.5,
        teacher: TeacherSpec | Mapping[str, Any] = TEACHER,
    ) -> None:
        super().__init__()
        self.teacher = TeacherSpec.of(teacher, TEACHER)
        self.weight = not_negative("weight", weight)
        self.threshold = in_range("threshold", threshold, 0.0, 1.0)
        self.weighting = one_of("weighting", weighting, ("uniform", "pixel"))
        self.classes = one_of("classes", classes, ("image", "batch"))
        self.margins = shares_of_sides("margins", margins or {})
        self.jitter = in_range("jitter", jitter, 0.0, 0.5)
        self.jitter_probability = in_range("jitter_probability", jitter_probability, 0.0, 1.0)
        self.blur_probability = in_range("blur_probability", blur_probability, 0.0, 1.0)
        self._class_names: tuple[str, ...] = ()

    def setup(self, spec: TaskSpec) -> None:
        self._class_names = spec.class_names

    def prepare(self, step: Step) -> None:
        source, target = step.view("source"), step.view("target")
        if source.labels is None:
            raise ValueError("ClassMix needs source labels; this source view has none")
        labels, confidence = confident_labels(step.teach("target").logits.float())
        log_pseudo_labels(step, labels, self._class_names, confident_share(confidence, self.threshold))
        weight = confidence_weight(confidence, threshold=self.threshold, mode=self.weighting)
        weight = without_margins(weight, target.windows, self.margins)
        source_weight = torch.ones_like(weight) if source.weight is None else source.weight
        mask = class_mix_masks(source.all_labels, step.generator, batch_classes=self.classes == "batch")
        images = mix(mask, source.images, target.images)
        view = View(
            strong_augment_each(
                images,
                step.generator,
                strength=self.jitter,
                jitter_probability=self.jitter_probability,
                blur_probability=self.blur_probability,
            ),
            mix(mask, source.labels, labels),
            mix(mask, source_weight, weight),
            source.names + target.names,
            target.windows,
            None if source.coarse is None else mix(mask, source.coarse, torch.full_like(labels, IGNORE)),
            source.groups,
        )
        step.put("mixed", view)

    def losses(self, step: Step) -> dict[str, Tensor]:
        view = step.view("mixed")
        loss = weighted_cross_entropy(step.predict("mixed").logits, view.all_labels, view.weight, groups=view.groups)
        return {"mixed": self.weight * loss}
