"""SAC: self-supervised augmentation consistency (Araslanov and Roth, CVPR 2021).

The EMA teacher predicts several random crops of each target image; where they overlap their predictions are averaged,
and the student learns the result on the same crops after strong colour augmentation. A pixel's label stays where its
confidence exceeds its class's threshold, which is low for a class whose moving prior is small, so that rare classes are
labelled sooner; a focal factor (1 - prior)^power and the confidence weigh its loss.

Defaults are those of the published ResNet-101 (GTA5 to Cityscapes); VGG-16 has ``weight=2`` and ``lower=0.1``. Both
start from a network whose batch-norm statistics saw both domains and now stay (the run's ``batch_norm: frozen``). The
teacher moves a hundredth of the way every 100 steps: a run of fewer keeps the network that it starts from as its
teacher, so give short runs another ``teacher: {every: ...}``.

Departures: each pixel weighs with its own confidence, where the published broadcast of (B, H, W) with (B, 1, H, W)
takes the mean over all crops on a device. Teacher updates are counted over the run, not anew in each epoch of 1125
steps. No importance sampling of target images. What a training crop shows outside of its image is not ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from uda.functional.fusion import draw_windows, refine
from uda.functional.losses import confidence_weighted_mean, focal_loss_map
from uda.functional.pseudo_labels import running_confidence, sac_pseudo_labels
from uda.methods.base import Method, log_pseudo_labels
from uda.methods.support.checks import in_range, not_negative, positive, whole
from uda.types import TeacherSpec, View

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from uda.step import Step
    from uda.types import TaskSpec

TEACHER = TeacherSpec(decay=0.99, update="before", mode="eval", every=100, ramp=False, buffers="averaged")
JITTER = ("adjust_brightness", "adjust_contrast", "adjust_saturation", "adjust_hue")
"""Of torchvision.transforms.v2.functional, in the order of their draws."""


class SAC(Method):
    """Focal cross-entropy of target crops with fused labels; adds the views ``"crops"`` and ``"crops_strong"``.

    Args:
        weight: of the loss, at least 0.
        crops: of each image, at least 1; the student's batch is as many times larger.
        scale: least side of a crop as a share of the image's, in [0.1, 1].
        jitter: strength of the colour jitter, in [0, 1]; of the hue at most 0.1.
        grey: how often a crop is made grey, in [0, 1].
        upper: share of a class's peak confidence that a frequent class must reach, in [0, 1].
        lower: least threshold, in [0, 1].
        beta: scale and first value of the class prior, above 0.
        momentum: of the class prior, in [0, 1].
        power: of the focal factor, at least 0; 0 for none.
        teacher: where the EMA teacher differs from 0.99 before every 100th step, in eval mode with averaged buffers and
            without ramp, see :class:`~uda.types.TeacherSpec`.

    Raises:
        ValueError: a value out of its range.
    """

    reads = frozenset({"crops_strong"})
    own_images = frozenset({"losses"})
    prior: Tensor

    def __init__(
        self,
        *,
        weight: float = 5.0,
        crops: int = 4,
        scale: float = 0.5,
        jitter: float = 0.4,
        grey: float = 0.2,
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
        self.jitter = in_range("jitter", jitter, 0.0, 1.0)
        self.grey = in_range("grey", grey, 0.0, 1.0)
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
        strong = photometric_noise(crops, step.generator, jitter=self.jitter, grey=self.grey)
        step.put("crops_strong", View(strong, labels, confidence, names))

    def losses(self, step: Step) -> dict[str, Tensor]:
        view = step.view("crops_strong")
        logits = step.predict("crops_strong").logits.float()
        loss = focal_loss_map(logits, view.known_labels, self.prior, power=self.power)
        weight = torch.ones_like(loss) if view.weight is None else view.weight
        return {"consistency": self.weight * confidence_weighted_mean(loss, weight)}


def photometric_noise(images: Tensor, generator: Generator, *, jitter: float, grey: float) -> Tensor:
    """Blur of 0.1 to 2 pixels, torchvision's colour jitter of every second image, and grey, of ``(N, 3, H, W)``."""
    from torchvision.transforms.v2 import functional as TF  # seconds, so not before it is needed

    reach = min(6, *(side - 1 for side in images.shape[-2:]))
    noisy = []
    for image in images.float().clamp(0, 1):
        sigma, jittered, greyed, *draws = torch.rand(7, generator=generator, dtype=torch.float64).tolist()
        order = torch.randperm(4, generator=generator).tolist()
        deviation = 0.1 + 1.9 * sigma
        with torch.autocast(image.device.type, enabled=False):
            image = TF.gaussian_blur(image, [2 * reach + 1] * 2, [deviation] * 2)
            for operation in order if jittered < 0.5 else ():
                strength = (2 * draws[operation] - 1) * (min(jitter, 0.1) if operation == 3 else jitter)
                image = getattr(TF, JITTER[operation])(image, strength + (operation < 3))
        noisy.append(TF.rgb_to_grayscale(image, num_output_channels=3) if greyed < grey else image)
    return torch.stack(noisy)
