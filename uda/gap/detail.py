"""The edits of detail: low frequencies, noise, sharpness. Each keeps every image's mean and deviation."""

from __future__ import annotations

from functools import cached_property
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from scipy import stats

from uda.gap.style import BANDS, Style, from_waves, radius, to_waves
from uda.opencv import cv2

Pixels = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
T = TypeVar("T")
MAX_GAIN = 4.0
"""Amplitudes are multiplied or divided by at most so much."""
CHANCE = 1e-3
"""Low frequencies that differ so much no oftener than this by chance are edited; there are 240 of them."""
NOISE_WEIGHT = 4.0
"""γ of the parametric Wiener filter that keeps sharpening from amplifying noise; at 1 what it amplified did more harm
than the blur."""
ROUNDING = 1 / 255 / 12**0.5
"""Deviation of the noise that rounding to 8 bits adds."""
BORDER = 16
"""Pixels that are mirrored at the borders where high frequencies are edited."""
WIENER = 5
"""Side of the window of the noise filter, pixels."""


class Detail:
    """Edits of detail from one style to another.

    Args:
        source: style to bring images to.
        target: of the images that are edited, as they come to these edits.
    """

    def __init__(self, source: Style, target: Style) -> None:
        self.source = source
        self.target = target
        self._gains_of_size: dict[tuple[int, int], Pixels] = {}

    def differences(self) -> dict[str, float]:
        """Those of :meth:`uda.gap.factors.Editor.differences` that are of detail."""
        source, target = self.source, self.target
        sizes = {}
        if source.low is not None and target.low is not None:
            scaled = (self._low_gain - 1) * known(target.low_spread)
            sizes["low_frequency"] = float(np.sqrt((self._low_shift**2 + scaled**2).sum() / 3)) / 0.02
        if source.noise is not None and target.noise is not None:
            sizes["noise"] = abs(source.noise - target.noise) * 255 / 0.5
        if source.high is not None and target.high is not None:
            sizes["sharpness"] = float(np.abs(np.log(self._high_gain)).max()) / 0.05
        return sizes

    def low_frequency(self, image: Pixels) -> Pixels:
        scale = moments(image)[1][:, None, None]
        centre = known(self.target.low) * scale
        change = (self._low_gain - 1) * (to_waves(image) - centre) + self._low_shift * scale
        change[:, 0, 0] = 0
        return _like(image + from_waves(change, *image.shape[:2]), image)

    @cached_property
    def _low_shift(self) -> Floats:
        """``(3, 9, 9)`` from the target's mean to the source's, where these clearly differ."""
        difference = known(self.source.low) - known(self.target.low)
        errors = (known(style.low_spread) ** 2 / max(style.images - 1, 1) for style in (self.source, self.target))
        return np.where(np.abs(difference) > self._clear * np.sqrt(sum(errors)), difference, 0)

    @cached_property
    def _low_gain(self) -> Floats:
        """``(3, 9, 9)`` of what differs from the mean; 1 where the spreads do not clearly differ."""
        ratio = np.log((known(self.source.low_spread) + 1e-9) / (known(self.target.low_spread) + 1e-9))
        # the relative error of a variance of n images is sqrt(2 / n), that of its root's logarithm half of it
        error = np.sqrt(sum(0.5 / max(style.images - 1, 1) for style in (self.source, self.target)))
        limit = np.log(MAX_GAIN)
        return np.asarray(np.exp(np.where(np.abs(ratio) > self._clear * error, ratio, 0).clip(-limit, limit)))

    @cached_property
    def _clear(self) -> float:
        """Standard errors that a difference by chance seldom has; images count as independent."""
        freedom = max(self.source.images + self.target.images - 2, 1)
        return float(stats.t.ppf(1 - CHANCE / 2, freedom))

    def sharpness(self, image: Pixels) -> Pixels:
        # mirrored at the borders: the transform would take the jump from one to the other for detail
        edge = min(BORDER, min(image.shape[:2]) - 1)
        padded = np.pad(image, ((edge, edge), (edge, edge), (0, 0)), mode="reflect")
        height, width = padded.shape[:2]
        spectrum = np.fft.rfft2(padded, axes=(0, 1)) * self._gains(height, width)[..., None]
        edited = np.fft.irfft2(spectrum, s=(height, width), axes=(0, 1)).astype(np.float32)
        return _like(edited[edge : height - edge, edge : width - edge], image)

    def _gains(self, height: int, width: int) -> Pixels:
        """``(H, W // 2 + 1)`` gain of each coefficient of a real Fourier transform."""
        if (height, width) not in self._gains_of_size:
            middles = (BANDS[:-1] + BANDS[1:]) / 2
            gains = np.interp(radius(height, width), middles, self._high_gain).astype(np.float32)
            self._gains_of_size = {(height, width): gains}  # a data set's images are of few sizes, mostly in a row
        return self._gains_of_size[height, width]

    @cached_property
    def _high_gain(self) -> Floats:
        """``(8,)`` of each band's amplitude, against the first."""
        source, target = known(self.source.high), known(self.target.high)
        gain = np.sqrt((source + 1e-9) / (target + 1e-9))
        gain = gain / gain[0]
        noise = max(known(self.target.noise), ROUNDING) / self.target.std.mean()
        allowed = np.maximum(gain * target / (target + NOISE_WEIGHT * noise**2), 1)
        return np.asarray(np.where(gain > 1, allowed, gain).clip(1 / MAX_GAIN, MAX_GAIN))

    def noise(self, image: Pixels, seed: int) -> Pixels:
        variance = known(self.source.noise) ** 2 - known(self.target.noise) ** 2
        if variance >= 0:
            drawn = np.random.default_rng(seed).standard_normal(image.shape, dtype=np.float32)
            return _like(image + drawn * np.float32(np.sqrt(variance)), image)
        mean = cv2.blur(image, (WIENER, WIENER))
        local = np.maximum(cv2.blur(image * image, (WIENER, WIENER)) - mean * mean, 1e-12)
        # what is left is the source's noise
        share = np.sqrt(np.maximum(local + np.float32(variance), 0) / local)
        return _like(mean + (image - mean) * share, image)


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
    (mean, std), (own_mean, own_std) = moments(edited), moments(image)
    scale = np.where(std > 1e-6, own_std / np.maximum(std, 1e-6), 1.0).astype(np.float32)
    return np.asarray((edited - mean.astype(np.float32)) * scale + own_mean.astype(np.float32), np.float32)


def moments(image: Pixels) -> tuple[Floats, Floats]:
    """``(3,)`` mean and population deviation of the channels of ``(H, W, 3)``; NumPy is slow along these axes."""
    mean, std = cv2.meanStdDev(image)
    return np.asarray(mean[:, 0], np.float64), np.asarray(std[:, 0], np.float64)
