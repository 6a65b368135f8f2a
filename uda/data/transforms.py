"""Online augmentation of an image together with its label (torchvision transforms v2), a function of one integer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from uda.data.pixels import Pixels
from uda.functional.windows import cut_window, window_positions
from uda.types import IGNORE, Sample, Window

CROP_TRIES = 10
"""Places that are tried for a crop in which no class has more than ``cat_max_ratio`` (mmsegmentation's number)."""


LEAST_FILLED = 0.5
"""Share of a crop that an image fills at the best of scales, below which something is wrong with the crop's size."""
MOST_ENLARGED = 2.0
"""How far every crop of an image may be enlarged before the same is said."""


class CropWarning(UserWarning):
    """Crops are much larger than the images that they are cut out of."""


class Augmented(NamedTuple):
    """An augmented sample."""

    image: Tensor
    """``(3, h, w)`` float32 in [0, 1]."""
    label: Tensor | None
    """``(h, w)`` int64; ``None`` where the sample has none."""
    window: Window
    """What of the sample it shows; its index in a data set is not known here: 0."""


@dataclass(frozen=True, kw_only=True)
class TrainTransform:
    """Random window, flip, colour jitter and blur.

    A window of the image is cut out and resized to ``crop`` (image bilinear with antialiasing, label nearest by pixel
    centres). What of the window lies outside the image is black there and ``ignore`` in the label.

    Args:
        crop: height and width of the result in pixels.
        scale: smallest and largest size of the window. With ``fit="window"`` relative to the largest window of the
            crop's shape that fits into the image: 1 is all of its height or width, 0.5 half of that, more than 1
            reaches beyond the image. With ``fit="pixels"`` the zoom of the image before a crop is taken, as in most of
            the literature: 1 cuts out ``crop`` pixels as they are, 2 enlarges by two. Drawn log-uniformly.
        ratio: smallest and largest horizontal stretch of the window against the crop's shape, drawn log-uniformly;
            (1, 1) keeps the aspect.
        fit: see ``scale``.
        resize: height and width that the whole image is brought to before all else, which may change its aspect (DACS:
            GTA5 at 720x1280); what is cut out is resized once, by both together. ``None``: its own size.
        cat_max_ratio: the window is placed anew, at most ten times, until it has two classes and none covers this share
            of its labelled pixels or more (mmsegmentation, DAFormer: 0.75); 1: off.
        flip: probability of a horizontal flip.
        jitter: strength in [0, 1] of changes in brightness, contrast and saturation; 0: off.
        brightness: of brightness alone, in place of ``jitter``; ``None``: as ``jitter`` says.
        contrast: of contrast alone, likewise.
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
    resize: tuple[int, int] | None = None
    cat_max_ratio: float = 1.0
    flip: float = 0.5
    jitter: float = 0.0
    brightness: float | None = None
    contrast: float | None = None
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
        if self.resize is not None and (len(self.resize) != 2 or min(self.resize) < 1):
            raise ValueError(f"resize must be (height, width) of at least 1 pixel, not {self.resize}")
        if not 0 < self.cat_max_ratio <= 1:
            raise ValueError(f"cat_max_ratio must be above 0 and at most 1, not {self.cat_max_ratio}")
        for name in ("flip", "jitter", "brightness", "contrast", "jitter_probability", "blur"):
            if not 0 <= (getattr(self, name) or 0) <= 1:
                raise ValueError(f"{name} must be in [0, 1], not {getattr(self, name)}")
        if not 0 <= self.hue <= 0.5:
            raise ValueError(f"hue must be in [0, 0.5], not {self.hue}")
        if self.fit not in ("window", "pixels"):
            raise ValueError(f"fit must be 'window' or 'pixels', not {self.fit!r}")

    def __call__(self, sample: Sample | Pixels, seed: int) -> Augmented:
        """Augment a sample; the same seed gives the same result, and torch's own random state is left as it was."""
        from torchvision.transforms import v2  # seconds, so not before an image is augmented
        from torchvision.transforms.v2 import functional as F

        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # not torch.manual_seed: it formats a stack trace every call
            window, label = self._place(sample)
            if float(torch.rand(())) < self.flip:
                window, label = window._replace(flip=True), None if label is None else label.flip(-1)
            image = self._cut(sample, window)
            strengths = self._strengths()
            if not any(strengths) and not self.blur:
                image = image.contiguous()  # here, where a number is a byte; sums over an image depend on its layout
            image = F.to_dtype(image, torch.float32, scale=True)
            if any(strengths) and float(torch.rand(())) < self.jitter_probability:
                image = v2.ColorJitter(*strengths)(image)
            if self.blur and float(torch.rand(())) < self.blur:
                sigma = _between(*self.blur_sigma)
                image = F.gaussian_blur(image, [2 * math.ceil(3 * sigma) + 1] * 2, [sigma] * 2)
        return Augmented(image.as_subclass(Tensor).contiguous(), None if label is None else label.contiguous(), window)

    def _strengths(self) -> tuple[float, float, float, float]:
        """Of brightness, contrast, saturation and hue."""
        brightness = self.jitter if self.brightness is None else self.brightness
        contrast = self.jitter if self.contrast is None else self.contrast
        return brightness, contrast, self.jitter, self.hue

    def misfit(self, size: tuple[int, int]) -> str | None:
        """What is wrong with the crop for images of a size, in plain words; ``None`` where it fits well enough.

        That is, where at some scale the image fills half of the crop, and (with ``fit="window"``, where the zoom
        follows from the sizes) at some scale is enlarged to no more than twice its height and width.

        Args:
            size: height and width of an image in pixels.
        """
        crop, image = (f"{height}x{width}" for height, width in (self.crop, size))
        smallest = self._scaled(*size, self.scale[0 if self.fit == "window" else 1], 1.0)
        filled = math.prod(min(1.0, whole / part) for whole, part in zip(size, smallest, strict=True))
        if filled < LEAST_FILLED:
            return (
                f"an image of {image} pixels fills at most {100 * filled:.2g} % of a crop of {crop}; the rest is "
                "black, and ignored where there are labels"
            )
        enlarged = 1 / (self.scale[1] * self._window_factor(*(self.resize or size)))
        if self.fit == "window" and enlarged > MOST_ENLARGED:
            tall, wide = (max(1, round(side)) for side in self._scaled(*size, self.scale[1], 1.0))
            return (
                f"a crop of {crop} is at most {tall}x{wide} pixels of an image of {image}, enlarged {enlarged:.3g} "
                "times; it shows no more than a crop of that size, at many times the cost"
            )
        return None

    def _place(self, sample: Sample | Pixels) -> tuple[Window, Tensor | None]:
        """Draw a window, and what it shows of the label."""
        height, width = sample.size if isinstance(sample, Pixels) else sample.image.shape[-2:]
        tall, wide = self._size(height, width)
        for _ in range(CROP_TRIES):
            window = Window(0, (height, width), _offset(height, tall), _offset(width, wide), tall, wide)
            if sample.label is None:
                return window, None
            label = self._shown(sample, window)
            if label is None or self.cat_max_ratio == 1 or self._varied(label):
                break
        return window, label

    def _shown(self, sample: Sample | Pixels, window: Window) -> Tensor | None:
        """What a window shows of the label."""
        if isinstance(sample, Pixels):
            return sample.label_at(*window_positions(window, self.crop), outside=self.ignore)
        return None if sample.label is None else cut_window(sample.label, window, self.crop, outside=self.ignore)

    def _size(self, height: int, width: int) -> tuple[int, int]:
        """Draw a window's size in pixels of an image."""
        factor, stretch = _log_between(*self.scale), math.sqrt(_log_between(*self.ratio))
        tall, wide = (max(1, round(side)) for side in self._scaled(height, width, factor, stretch))
        if self.fit == "window" and self.scale[1] <= 1:
            tall, wide = min(tall, height), min(wide, width)  # rounding or stretching must not reach outside
        return tall, wide

    def _scaled(self, height: int, width: int, factor: float, stretch: float) -> tuple[float, float]:
        """A window's height and width in pixels of an image, at one scale and stretch."""
        to_height, to_width = self.resize or (height, width)
        if self.fit == "window":
            factor *= self._window_factor(to_height, to_width)
        else:
            factor = 1 / factor
        tall = self.crop[0] * factor / stretch * (height / to_height)
        return tall, self.crop[1] * factor * stretch * (width / to_width)

    def _window_factor(self, height: int, width: int) -> float:
        """The largest window of the crop's shape that fits into an image, in crops."""
        return min(height / self.crop[0], width / self.crop[1])

    def _varied(self, label: Tensor) -> bool:
        counts = torch.bincount(label[label != self.ignore].flatten())
        return int((counts > 0).sum()) > 1 and int(counts.max()) < self.cat_max_ratio * int(counts.sum())

    def _cut(self, sample: Sample | Pixels, window: Window) -> Tensor:
        from torchvision import tv_tensors
        from torchvision.transforms.v2 import functional as F

        (height, width), right, below = window.size, window.left + window.width, window.top + window.height
        left, top = max(window.left, 0), max(window.top, 0)
        edges = top, left, min(below, height), min(right, width)
        if isinstance(sample, Pixels):
            part: Tensor = tv_tensors.Image(sample.part(*edges))
        else:
            image = tv_tensors.Image(sample.checked().image)
            part = F.crop(image, top, left, edges[2] - top, edges[3] - left)
        around = [left - window.left, top - window.top, max(right - width, 0), max(below - height, 0)]
        if any(around):
            part = F.pad(part, around)
        part = F.resize(part, list(self.crop), antialias=True)
        return F.horizontal_flip(part) if window.flip else part


def _between(low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand(()))


def _log_between(low: float, high: float) -> float:
    return math.exp(_between(math.log(low), math.log(high)))


def _offset(whole: int, part: int) -> int:
    # a window larger than the image is placed at random around it, a smaller one inside
    low, high = min(0, whole - part), max(0, whole - part)
    return low + int(torch.randint(high - low + 1, ()))
