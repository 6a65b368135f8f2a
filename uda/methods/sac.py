"""SAC: self-supervised augmentation consistency (Araslanov and Roth, CVPR 2021).

The EMA teacher predicts several random crops of each target image; where they overlap their predictions are averaged,
and the student learns the result on the same crops after strong colour augmentation. A pixel's label stays where its
confidence exceeds its class's threshold, which is low for a class whose moving prior is small, so that rare classes are
labelled sooner; a focal factor (1 - prior)^power and the confidence weigh its loss.

Departures: crops are scaled and flipped windows of the training crop, the first of them the crop itself; colours change
by DACS' jitter and blur. Each image weighs with its own confidences, where the published broadcast mixes those of the
batch. No class-based sampling of target images. The teacher is the run's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from uda.functional.augment import strong_augment_each
from uda.functional.fusion import refine
from uda.functional.losses import confidence_weighted_mean, focal_loss_map
from uda.functional.pseudo_labels import running_confidence, sac_pseudo_labels
from uda.methods.base import Method, log_pseudo_labels
from uda.methods.support.checks import in_range, not_negative, positive, whole
from uda.types import TeacherSpec, View

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from uda.step import Step
    from uda.types import TaskSpec

TEACHER = TeacherSpec()


class SAC(Method):
    """Focal cross-entropy of target crops with fused labels; adds the views ``"crops"`` and ``"crops_strong"``.

    Args:
        weight: of the loss, at least 0.
        crops: of each image, at least 1; the student's batch is as many times larger.
        scale: least side of a crop as a share of the image's, in [0.1, 1].
        upper: share of a class's peak confidence that a frequent class must reach, in [0, 1].
        lower: least threshold, in [0, 1].
        beta: scale and first value of the class prior, above 0.
        momentum: of the class prior, in [0, 1].
        power: of the focal factor, at least 0; 0 for none.
        teacher: where the EMA teacher differs from 0.999 after the step:
            ``decay``, ``update``, ``mode``, see :class:`~uda.types.TeacherSpec`.

    Raises:
        ValueError: a value out of its range.
    """

    reads = frozenset({"crops_strong"})
    prior: Tensor

    def __init__(
        self,
        *,
        weight: float = 1.0,
        crops: int = 3,
        scale: float = 0.5,
        upper: float = 0.75,
        lower: float = 0.2,
        beta: float = 1e-3,
        momentum: float = 0.99,
        power: float = 3.0,
        teacher: TeacherSpec | Mapping[str, Any] = TEACHER,
    ) -> None:
        super().__init__()
        self.teacher = TeacherSpec.of(teacher, TEACHER)
        self.weight = not_negative("weight", weight)
        self.crops = whole("crops", crops, 1)
        self.scale = in_range("scale", scale, 0.1, 1.0)
        self.upper = in_range("upper", upper, 0.0, 1.0)
        self.lower = in_range("lower", lower, 0.0, 1.0)
        self.beta = positive("beta", beta)
        self.momentum = in_range("momentum", momentum, 0.0, 1.0)
        self.power = not_negative("power", power)
        self._class_names: tuple[str, ...] = ()

    def setup(self, spec: TaskSpec) -> None:
        self._class_names = spec.class_names
        self.register_buffer("prior", torch.full((spec.num_classes,), self.beta))

    def prepare(self, step: Step) -> None:
        view = step.view("target")
        images = view.images.repeat_interleave(self.crops, 0)
        names = tuple(name for name in view.names for _ in range(self.crops))
        window, back = draw_windows(len(images), self.crops, self.scale, step.generator)
        window, back = window.to(images.device), back.to(images.device)
        with torch.autocast(images.device.type, enabled=False):
            grid = F.affine_grid(window, list(images.shape), align_corners=False)
            crops = F.grid_sample(images.float(), grid, padding_mode="border", align_corners=False)
        step.put("crops", View(crops, names=names))
        logits = step.teach("crops").logits.float()
        with torch.autocast(images.device.type, enabled=False):
            invalid = torch.zeros(len(crops), *crops.shape[-2:], dtype=torch.bool, device=crops.device)
            prob = refine(logits, back, window, invalid, self.crops)
            prior = running_confidence(self.prior, logits.softmax(1), beta=self.beta, momentum=self.momentum)
            self.prior.copy_(prior)
            labels, confidence = sac_pseudo_labels(prob, prior, beta=self.beta, upper=self.upper, lower=self.lower)
        log_pseudo_labels(step, labels, self._class_names)
        strong = strong_augment_each(crops, step.generator)
        step.put("crops_strong", View(strong, labels, confidence, names))

    def losses(self, step: Step) -> dict[str, Tensor]:
        view = step.view("crops_strong")
        logits = step.predict("crops_strong").logits.float()
        loss = focal_loss_map(logits, view.known_labels, self.prior, power=self.power)
        weight = torch.ones_like(loss) if view.weight is None else view.weight
        return {"consistency": self.weight * confidence_weighted_mean(loss, weight)}


def draw_windows(count: int, crops: int, scale: float, generator: Generator) -> tuple[Tensor, Tensor]:
    """Random windows of an image; the first of every ``crops`` is the whole image, not flipped.

    Args:
        count: windows to draw, a multiple of ``crops``.
        crops: windows of each image, in a row.
        scale: least side as a share of the image's.
        generator: CPU generator.

    Returns:
        ``(count, 2, 3)`` affine maps in ``affine_grid``'s coordinates, window to image, and their inverses.
    """
    side = 1 - torch.rand(count, generator=generator) * (1 - scale)
    flip = (torch.rand(count, generator=generator) < 0.5).float() * -2 + 1
    shift = (torch.rand(count, 2, generator=generator) * 2 - 1) * (1 - side)[:, None]
    side[::crops], flip[::crops], shift[::crops] = 1.0, 1.0, 0.0
    window, back = torch.zeros(count, 2, 3), torch.zeros(count, 2, 3)
    window[:, 0, 0], window[:, 1, 1], window[:, :, 2] = flip * side, side, shift
    back[:, 0, 0], back[:, 1, 1] = flip / side, 1 / side
    back[:, :, 2] = -shift / torch.stack([flip * side, side], 1)
    return window, back
