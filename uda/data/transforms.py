"""Online augmentation of an image together with its label (torchvision transforms v2), a function of one integer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from uda.types import IGNORE, Sample


@dataclass(frozen=True, kw_only=True)
class TrainTransform:
    """Random window, flip, colour jitter and blur.

    A window of the image is cut out and resized to ``crop`` (image bilinear with antialiasing, label nearest). What of
    the window lies outside the image is black there and ``ignore`` in the label.

    Args:
        crop: height and width of the result in pixels.
        scale: smallest and largest size of the window. With ``fit="window"`` relative to the largest window of the
            crop's shape that fits into the image: 1 is all of its height or width, 0.5 half of that, more than 1
            reaches beyond the image. With ``fit="pixels"`` the zoom of the image before a crop is taken, as in most of
            the literature: 1 cuts out ``crop`` pixels as they are, 2 enlarges by two. Drawn log-uniformly.
        ratio: smallest and largest horizontal stretch of the window against the crop's shape, drawn log-uniformly;
            (1, 1) keeps the aspect.
        fit: see ``scale``.
        flip: probability of a horizontal flip.
        jitter: strength in [0, 1] of changes in brightness, contrast and saturation; 0: off.
        hue: largest change of the hue in turns, in [0, 0.5]; by far the slowest of the four. 0: off.
        jitter_probability: how often these are changed at all.
        blur: probability of a Gaussian blur.
        blur_sigma: its smallest and largest standard deviation in pixels (DACS: 0.15 to 1.15).
        ignore: label of pixels outside the image.

    Raises:
        ValueError: a value out of its range, naming both.
    """

    crop: tuple[int, int]
    scale: tuple[float, float] = (0.5, 1.0)
    ratio: tuple[float, float] = (1.0, 1.0)
    fit: Literal["window", "pixels"] = "window"
    flip: float = 0.5
    jitter: float = 0.0
    hue: float = 0.0
    jitter_probability: float = 0.8
    blur: float = 0.0
    blur_sigma: tuple[float, float] = (0.15, 1.15)
    ignore: int = IGNORE

    def __post_init__(self) -> None:
        if len(self.crop) != 2 or min(self.crop) < 1:
            raise ValueError(f"crop must be (height, width) of at least 1 pixel, not {self.crop}")
        for name in ("scale", "ratio", "blur_sigma"):
            low, high = getattr(self, name)
            if not 0 < low <= high < math.inf:
                raise ValueError(f"{name} must be two numbers, 0 < smallest <= largest, not {(low, high)}")
        for name in ("flip", "jitter", "jitter_probability", "blur"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], not {getattr(self, name)}")
        if not 0 <= self.hue <= 0.5:
            raise ValueError(f"hue must be in [0, 0.5], not {self.hue}")
        if self.fit not in ("window", "pixels"):
            raise ValueError(f"fit must be 'window' or 'pixels', not {self.fit!r}")

    def __call__(self, sample: Sample, seed: int) -> tuple[Tensor, Tensor | None]:
        """Augment a sample; the same seed gives the same result, and torch's own random state is left as it was.

        Returns:
            image ``(3, h, w)`` float32 in [0, 1] and label ``(h, w)`` int64 (``None`` if the sample has none).
        """
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # not torch.manual_seed: it formats a stack trace every call
            image, label = self._cut(tv_tensors.Image(sample.image), sample.label)
            if float(torch.rand(())) < self.flip:
                image = F.horizontal_flip(image)
                label = None if label is None else F.horizontal_flip(label)
            image = F.to_dtype(image, torch.float32, scale=True)
            if (self.jitter or self.hue) and float(torch.rand(())) < self.jitter_probability:
                image = v2.ColorJitter(self.jitter, self.jitter, self.jitter, self.hue)(image)
            if self.blur and float(torch.rand(())) < self.blur:
                sigma = _between(*self.blur_sigma)
                image = F.gaussian_blur(image, [2 * math.ceil(3 * sigma) + 1] * 2, [sigma] * 2)
        return image.as_subclass(Tensor).contiguous(), None if label is None else label.as_subclass(Tensor).contiguous()

    def _cut(self, image: Tensor, label: Tensor | None) -> tuple[Tensor, Tensor | None]:
        height, width = image.shape[-2:]
        factor, stretch = _log_between(*self.scale), math.sqrt(_log_between(*self.ratio))
        if self.fit == "window":
            factor *= min(height / self.crop[0], width / self.crop[1])
        else:
            factor = 1 / factor
        tall = max(1, round(self.crop[0] * factor / stretch))
        wide = max(1, round(self.crop[1] * factor * stretch))
        if self.fit == "window" and self.scale[1] <= 1:
            tall, wide = min(tall, height), min(wide, width)  # rounding or stretching must not reach outside
        top, left = _offset(height, tall), _offset(width, wide)
        box = [max(left, 0), max(top, 0), min(left + wide, width), min(top + tall, height)]
        around = [box[0] - left, box[1] - top, left + wide - box[2], top + tall - box[3]]

        def window(whole: Tensor, fill: int) -> Tensor:
            inside: Tensor = F.crop(whole, box[1], box[0], box[3] - box[1], box[2] - box[0])
            padded: Tensor = F.pad(inside, around, fill=fill) if any(around) else inside
            return padded

        resized = F.resize(window(image, 0), list(self.crop), antialias=True)
        if label is None:
            return resized, None
        mask = window(tv_tensors.Mask(label[None]), self.ignore)
        nearest: Tensor = F.resize(mask, list(self.crop), interpolation=v2.InterpolationMode.NEAREST)[0]
        return resized, nearest


def _between(low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand(()))


def _log_between(low: float, high: float) -> float:
    return math.exp(_between(math.log(low), math.log(high)))


def _offset(whole: int, part: int) -> int:
    # a window larger than the image is placed at random around it, a smaller one inside
    low, high = min(0, whole - part), max(0, whole - part)
    return low + int(torch.randint(high - low + 1, ()))
