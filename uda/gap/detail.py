"""The edits of detail: low frequencies, noise, sharpness. Each keeps every image's mean and deviation."""

from __future__ import annotations

from functools import cached_property, lru_cache
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from scipy import fft, stats

from uda.gap.columns import moments
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
        return _like(from_waves(change, *image.shape[:2]) + image, image)

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
        padded = cv2.copyMakeBorder(image, edge, edge, edge, edge, cv2.BORDER_REFLECT_101)
        height, width = padded.shape[:2]
        spectrum = fft.rfft2(padded, axes=(0, 1))
        spectrum *= self._gains(height, width)[..., None]
        edited = fft.irfft2(spectrum, s=(height, width), axes=(0, 1), overwrite_x=True)
        return _like(np.ascontiguousarray(edited[edge : height - edge, edge : width - edge]), image)

    def _gains(self, height: int, width: int) -> Pixels:
        """``(H, W // 2 + 1)`` gain of each coefficient of a real Fourier transform."""
        gains = self._gains_of_size.get((height, width))
        if gains is None:
            middles = (BANDS[:-1] + BANDS[1:]) / 2
            gains = np.interp(radius(height, width), middles, self._high_gain).astype(np.float32)
            self._gains_of_size = {(height, width): gains}  # a data set's images are of few sizes, mostly in a row
        return gains

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
            height, width = image.shape[:2]
            drawn = _drawn(height, width, seed)
            return _like(np.asarray(cv2.scaleAdd(drawn, float(np.sqrt(variance)), image), np.float32), image)
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


def affine(image: Pixels, scale: npt.ArrayLike, shift: npt.ArrayLike) -> Pixels:
    """``image * scale + shift`` of ``(H, W, 3)`` with ``(3,)`` of each; NumPy is slow along these axes."""
    matrix = np.column_stack([np.diag(np.broadcast_to(scale, 3)), np.broadcast_to(shift, 3)])
    return np.asarray(cv2.transform(image, matrix), np.float32)


@lru_cache(maxsize=4)
def _drawn(height: int, width: int, seed: int) -> Pixels:
    """``(H, W, 3)`` standard normal; the combinations of edits of an image all take the same."""
    return np.random.default_rng(seed).standard_normal((height, width, 3), dtype=np.float32)


def _like(edited: Pixels, image: Pixels) -> Pixels:
    """With each channel's mean and deviation of before."""
    (mean, std), (own_mean, own_std) = moments(edited), moments(image)
    scale = np.where(std > 1e-6, own_std / np.maximum(std, 1e-6), 1.0)
    return affine(edited, scale, own_mean - mean * scale)
