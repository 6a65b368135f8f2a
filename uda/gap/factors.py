"""The edits that bring an image towards the source, one factor at a time.

The factors are made so that each changes its own property and leaves the others': the tone curve keeps the data set's
mean and deviation, low frequencies, sharpness and noise keep each image's; mean, deviation and tone curve together
are the full histogram transfer between data sets. They are applied in the order of :data:`FACTORS`. All carry
statistics from data set to data set: an image that is darker than the rest stays so.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from uda.gap.style import BANDS, CYCLES, LEVELS, Style, radius, waves
from uda.opencv import cv2

Pixels = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
T = TypeVar("T")
BATCH_NORM = "batch_norm"
"""The factor of the model's side."""
MAX_GAIN = 4.0
"""Amplitudes are multiplied or divided by at most so much."""
CLEAR = 2.0
"""Standard errors by which low frequencies must differ to be edited: of some hundred, many differ by chance."""
BORDER = 16
"""Pixels that are mirrored at the borders where high frequencies are edited."""
WIENER = 5
"""Side of the window of the noise filter, pixels."""


@dataclass(frozen=True)
class Factor:
    """A factor of the gap."""

    name: str
    label: str
    group: str
    """``"colour"``, ``"detail"``, ``"geometry"`` or ``"model"``."""
    meaning: str


FACTORS: dict[str, Factor] = {
    factor.name: factor
    for factor in (
        Factor("resolution", "resolution", "geometry", "resized to the source's median height, with its own aspect"),
        Factor("aspect", "aspect", "geometry", "stretched to the source's median ratio of width to height"),
        Factor(
            "noise",
            "noise",
            "detail",
            f"white noise added up to the source's level, or taken off by Wiener's filter ({WIENER} x {WIENER}; Lee, "
            "PAMI 1980)",
        ),
        Factor(
            "sharpness",
            "sharpness",
            "detail",
            f"what is above 1/8 cycle a pixel amplified or damped to the source's mean power (by at most {MAX_GAIN:g})",
        ),
        Factor(
            "low_frequency",
            "low-frequency amplitude",
            "detail",
            f"amplitudes of up to {CYCLES} cycles an image multiplied to the source's geometric mean (by at most "
            f"{MAX_GAIN:g}) where these clearly differ",
        ),
        Factor(
            "histogram",
            "tone curve",
            "colour",
            "each channel's histogram given the source's shape, with mean and deviation kept",
        ),
        Factor("deviation", "channel deviation", "colour", "each channel's deviation scaled about its mean"),
        Factor("mean", "channel mean", "colour", "each channel's mean shifted"),
        Factor(BATCH_NORM, "batch-norm statistics", "model", "half of the statistics taken from the target's images"),
    )
}
"""By name, in the order in which they are applied."""
IMAGE_FACTORS = tuple(name for name in FACTORS if name != BATCH_NORM)


class Editor:
    """Edits target images towards the source.

    Args:
        source: style to bring images to.
        target: style of all of the target's images.
    """

    def __init__(self, source: Style, target: Style) -> None:
        self.source = source
        self.target = target

    def differences(self) -> dict[str, float]:
        """Factor -> how far the styles differ in it, in units of the least that counts; only those that are known.

        The units: half a grey level of a mean, 1 % of a deviation, half a grey level of the tone curve (mean over
        levels), 5 % of low or high frequencies' amplitude, half a grey level of noise, 2 % of height or of aspect.
        """
        source, target = self.source, self.target
        sizes = {
            "mean": np.abs(source.mean - target.mean).max() * 255 / 0.5,
            "deviation": np.abs(np.log(source.std / target.std)).max() / 0.01,
        }
        if source.histogram is not None and target.histogram is not None:
            levels = np.arange(LEVELS) / 255
            moved = (np.abs(self._curve - levels) * target.histogram).sum(1).max()
            sizes["histogram"] = moved * 255 / 0.5
        if source.low is not None and target.low is not None:
            sizes["low_frequency"] = float(np.abs(np.log(self._low_gain)).mean()) / 0.05
        if source.high is not None and target.high is not None:
            sizes["sharpness"] = float(np.abs(np.log(self._high_gain)).max()) / 0.05
        if source.noise is not None and target.noise is not None:
            sizes["noise"] = abs(source.noise - target.noise) * 255 / 0.5
        if source.size is not None and target.size is not None:
            sizes["resolution"] = abs(np.log(source.size[0] / target.size[0])) / 0.02
            sizes["aspect"] = abs(np.log(self._aspect)) / 0.02
        return {name: float(sizes[name]) for name in IMAGE_FACTORS if name in sizes}

    def active(self) -> tuple[str, ...]:
        """The factors in which the styles differ at all, in the order in which they are applied."""
        return tuple(name for name, size in self.differences().items() if size > 1)

    def apply(self, pixels: Pixels, factors: Collection[str], seed: int = 0) -> Pixels:
        """Edit an image.

        Args:
            pixels: ``(H, W, 3)`` float32 RGB in [0, 1].
            factors: names of :data:`IMAGE_FACTORS` whose styles are known.
            seed: of the noise that is added.

        Returns:
            ``(h, w, 3)`` float32, not clipped.

        Raises:
            ValueError: an unknown factor.
        """
        unknown = sorted(set(factors) - set(IMAGE_FACTORS))
        if unknown:
            raise ValueError(f"factor {unknown[0]!r} is none of {', '.join(IMAGE_FACTORS)}")
        edits: dict[str, Callable[[Pixels], Pixels]] = {
            "resolution": self._resolution,
            "aspect": self._stretch,
            "noise": lambda image: self._noise(image, seed),
            "sharpness": self._sharpness,
            "low_frequency": self._low_frequency,
            "histogram": self._histogram,
            "deviation": self._deviation,
            "mean": self._mean,
        }
        for name in IMAGE_FACTORS:
            if name in factors:
                pixels = edits[name](pixels)
        return np.ascontiguousarray(pixels, dtype=np.float32)

    # colour

    def _mean(self, image: Pixels) -> Pixels:
        return image + (self.source.mean - self.target.mean).astype(np.float32)

    def _deviation(self, image: Pixels) -> Pixels:
        centre = self.target.mean.astype(np.float32)
        return (image - centre) * (self.source.std / self.target.std).astype(np.float32) + centre

    def _histogram(self, image: Pixels) -> Pixels:
        levels = np.arange(LEVELS, dtype=np.float64) / 255
        edited = np.empty_like(image)
        for channel in range(3):
            values = image[..., channel]
            mapped = np.interp(values, levels, self._curve[channel])
            # beyond the levels, where other edits may have led, the curve goes on in parallel
            edited[..., channel] = mapped + (values - values.clip(0, 1))
        return edited

    @cached_property
    def _curve(self) -> Floats:
        """``(3, 256)`` where each grey level goes: the source's quantiles at the target's mid-ranks."""
        source, target = known(self.source.histogram), known(self.target.histogram)
        levels = np.arange(LEVELS) / 255
        curve = np.empty((3, LEVELS))
        for channel in range(3):
            above = np.cumsum(target[channel])
            ranks = above - target[channel] / 2
            ends = np.cumsum(source[channel])
            quantiles = np.interp(ranks, ends - source[channel] / 2, levels)
            weights = target[channel]
            mean = weights @ quantiles
            std = np.sqrt(weights @ (quantiles - mean) ** 2)
            scale = self.target.std[channel] / std if std > 1e-6 else 1.0
            curve[channel] = (quantiles - mean) * scale + self.target.mean[channel]
        return curve

    # detail

    def _low_frequency(self, image: Pixels) -> Pixels:
        height, width = image.shape[:2]
        rows, columns = waves(height), waves(width)
        spectrum = np.einsum("uh,hwc,vw->uvc", rows, image, columns, optimize=True)
        change = spectrum * (self._low_gain.transpose(1, 2, 0) - 1)
        change[CYCLES, CYCLES] = 0
        added = np.einsum("uh,uvc,vw->hwc", rows.conj(), change, columns.conj(), optimize=True).real
        return _like(image + (added / (height * width)).astype(np.float32), image)

    @cached_property
    def _low_gain(self) -> Floats:
        """``(3, 9, 9)``; 1 where the styles do not clearly differ (two standard errors)."""
        source, target = known(self.source.low), known(self.target.low)
        error = np.hypot(known(self.source.low_error), known(self.target.low_error))
        # left and right are alike in the world
        difference = (source - target + (source - target)[..., ::-1]) / 2
        clear = np.abs(difference) > CLEAR * (error + error[..., ::-1]) / 2
        return np.asarray(np.exp(np.where(clear, difference, 0).clip(-np.log(MAX_GAIN), np.log(MAX_GAIN))))

    def _sharpness(self, image: Pixels) -> Pixels:
        # mirrored at the borders: the transform would take the jump from one to the other for detail
        edge = min(BORDER, min(image.shape[:2]) - 1)
        padded = np.pad(image, ((edge, edge), (edge, edge), (0, 0)), mode="reflect")
        height, width = padded.shape[:2]
        middles = (BANDS[:-1] + BANDS[1:]) / 2
        gain = np.interp(radius(height, width), middles, self._high_gain).astype(np.float32)
        spectrum = np.fft.rfft2(padded, axes=(0, 1)) * gain[..., None]
        edited = np.fft.irfft2(spectrum, s=(height, width), axes=(0, 1)).astype(np.float32)
        return _like(edited[edge : height - edge, edge : width - edge], image)

    @cached_property
    def _high_gain(self) -> Floats:
        """``(7,)`` amplitude of each band against the first."""
        source, target = known(self.source.high), known(self.target.high)
        gain = np.sqrt((source + 1e-9) / (target + 1e-9))
        return np.asarray(np.clip(gain / gain[0], 1 / MAX_GAIN, MAX_GAIN))

    def _noise(self, image: Pixels, seed: int) -> Pixels:
        variance = known(self.source.noise) ** 2 - known(self.target.noise) ** 2
        if variance >= 0:
            drawn = np.random.default_rng(seed).standard_normal(image.shape, dtype=np.float32)
            return _like(image + drawn * np.float32(np.sqrt(variance)), image)
        mean = cv2.blur(image, (WIENER, WIENER))
        local = np.maximum(cv2.blur(image * image, (WIENER, WIENER)) - mean * mean, 1e-12)
        # what is left is the source's noise
        share = np.sqrt(np.maximum(local + np.float32(variance), 0) / local)
        return _like(mean + (image - mean) * share, image)

    # geometry

    def _resolution(self, image: Pixels) -> Pixels:
        factor = known(self.source.size)[0] / known(self.target.size)[0]
        return _resize(image, round(image.shape[0] * factor), round(image.shape[1] * factor))

    def _stretch(self, image: Pixels) -> Pixels:
        return _resize(image, image.shape[0], round(image.shape[1] * self._aspect))

    @property
    def _aspect(self) -> float:
        (high, wide), (own_high, own_wide) = known(self.source.size), known(self.target.size)
        return (wide / high) / (own_wide / own_high)


def known(value: T | None) -> T:
    """A statistic that the style has.

    Raises:
        ValueError: it does not.
    """
    if value is None:
        raise ValueError("this factor needs a statistic that the style does not have; published ones are mean and std")
    return value


def _like(edited: Pixels, image: Pixels) -> Pixels:
    """With each channel's mean and deviation of before."""
    mean, std = edited.mean((0, 1)), edited.std((0, 1))
    scale = np.where(std > 1e-6, image.std((0, 1)) / np.maximum(std, 1e-6), 1.0).astype(np.float32)
    return np.asarray((edited - mean) * scale + image.mean((0, 1)), np.float32)


def _resize(image: Pixels, height: int, width: int) -> Pixels:
    size = (max(width, 1), max(height, 1))
    shrinks = height < image.shape[0] or width < image.shape[1]
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR))
