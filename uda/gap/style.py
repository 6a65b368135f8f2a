"""How a data set's images look as a whole: the statistics that the edits of :mod:`uda.gap.factors` carry over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from scipy import fft
from torch import Tensor

from uda.data.statistics import ChannelStats
from uda.gap.columns import as_float, channel_noise, luma_of, moments, noise_level
from uda.opencv import cv2

Floats = npt.NDArray[np.float64]
CYCLES = 4
"""Low frequencies are of at most so many cycles an image, in each direction."""
BANDS = np.array([1 / 32, 1 / 16, 1 / 8, 3 / 16, 1 / 4, 5 / 16, 3 / 8, 7 / 16, 1 / 2])
"""Edges of the bands of high frequencies, cycles a pixel; the first band is what the others are related to."""
LEVELS = 256


@dataclass(frozen=True)
class Style:
    """Statistics of a data set's images; what is ``None`` is not known (published statistics have mean and std)."""

    mean: Floats
    """``(3,)`` of all pixels, RGB in [0, 1]."""
    std: Floats
    """``(3,)`` population deviation of all pixels."""
    histogram: Floats | None = None
    """``(3, 256)`` share of the pixels at each grey level."""
    low: Floats | None = None
    """``(3, 9, 9)`` mean of each low frequency (0 to 4 cycles in halves, rows then columns) of images that were given
    mean 0 and deviation 1: the light that all of them share."""
    low_spread: Floats | None = None
    """``(3, 9, 9)`` root mean square distance of an image's low frequency from that mean."""
    images: int = 0
    """How many were counted."""
    high: Floats | None = None
    """``(8,)`` mean power of the luma in each band of high frequencies, on the scale of an image with deviation 1,
    without the noise's."""
    noise: float | None = None
    """Mean standard deviation of the channels' noise, [0, 1]."""
    size: tuple[float, float] | None = None
    """Median height and width, pixels."""

    @classmethod
    def published(cls, stats: ChannelStats) -> Style:
        """A style of which mean and deviation are known."""
        return cls(stats.mean.double().numpy(), stats.std.double().numpy())


@dataclass
class StyleSums:
    """Running sums of a data set's style; memory does not grow with the number of images but for their sizes."""

    counts: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros((3, LEVELS), np.int64))
    low: Floats = field(default_factory=lambda: np.zeros((3, 2 * CYCLES + 1, 2 * CYCLES + 1)))
    low_power: Floats = field(default_factory=lambda: np.zeros((3, 2 * CYCLES + 1, 2 * CYCLES + 1)))
    high: Floats = field(default_factory=lambda: np.zeros(len(BANDS) - 1))
    noise: float = 0.0
    sizes: list[tuple[int, int]] = field(default_factory=list)

    def add(self, image: npt.NDArray[np.uint8], noise: float | None = None) -> None:
        """Count an image ``(H, W, 3)`` uint8 RGB; its noise is measured where it is not known yet."""
        for channel, values in enumerate(cv2.split(image)):
            self.counts[channel] += np.bincount(values.reshape(-1), minlength=LEVELS)
        pixels = as_float(image)
        luma = luma_of(pixels)
        low = low_frequencies(pixels)
        self.low += low
        self.low_power += low**2
        self.high += high_power(luma, noise_level(luma))
        self.noise += channel_noise(pixels) if noise is None else noise
        self.sizes.append(image.shape[:2])  # type: ignore[arg-type]

    def style(self) -> Style:
        """The style of what was counted; ``ValueError`` before the first image."""
        count = len(self.sizes)
        if not count:
            raise ValueError("no images to take the style of")
        shares = self.counts / self.counts.sum(1, keepdims=True)
        levels = np.arange(LEVELS) / 255
        mean = shares @ levels
        std = np.sqrt(((levels - mean[:, None]) ** 2 * shares).sum(1))
        height, width = np.median(np.array(self.sizes), axis=0)
        size = (float(height), float(width))
        low = self.low / count
        spread = np.sqrt(np.maximum(self.low_power / count - low**2, 0))
        return Style(mean, std, shares, low, spread, count, self.high / count, self.noise / count, size)


def low_frequencies(pixels: npt.NDArray[np.float32]) -> Floats:
    """``(3, 9, 9)`` low frequencies of ``(H, W, 3)``, channels first brought to mean 0, deviation 1.

    Of the cosine transform, whose waves do not have to fit together at opposite borders as Fourier's do: light that
    falls from left to right is a few of them. The sum of all squares is the image's variance.
    """
    mean, deviation = moments(pixels)
    low = to_waves(pixels)
    low[:, 0, 0] -= mean
    return low / np.where(deviation > 1e-6, deviation, np.inf)[:, None, None]


def to_waves(image: npt.NDArray[np.float32]) -> Floats:
    """``(3, 9, 9)`` low frequencies of ``(H, W, 3)`` as it is."""
    height, width = image.shape[:2]
    # along the longer axis in float32, which float64 would copy the image for
    rows = waves(height).astype(np.float32) @ np.ascontiguousarray(image).reshape(height, -1)
    return np.asarray(np.einsum("uwc,vw->cuv", rows.reshape(-1, width, 3), waves(width)), np.float64)


def from_waves(low: Floats, height: int, width: int) -> npt.NDArray[np.float32]:
    """``(H, W, 3)`` of low frequencies ``(3, 9, 9)`` alone."""
    rows, columns = waves(height) * height, waves(width) * width
    across = np.einsum("cuv,vw->uwc", low, columns).reshape(len(low[0]), -1)
    return np.asarray(rows.T.astype(np.float32) @ across.astype(np.float32), np.float32).reshape(height, width, 3)


@lru_cache(maxsize=16)
def waves(length: int) -> Floats:
    """``(9, length)`` cosines of 0 to 4 cycles in halves; times their transpose 1 / ``length`` of the identity."""
    halves = np.arange(2 * CYCLES + 1)[:, None]
    scale = np.where(halves > 0, np.sqrt(2), 1) / length
    return np.asarray(scale * np.cos(np.pi * halves * (np.arange(length) + 0.5) / length))


def high_power(luma: npt.NDArray[np.float32], noise: float) -> Floats:
    """``(8,)`` power of ``(H, W)`` in each band of high frequencies, less the noise's, for an image of deviation 1."""
    variance = float(luma.var())
    if variance < 1e-8:
        return np.zeros(len(BANDS) - 1)
    height, width = luma.shape
    # a window, since the jump from one border to the other has all frequencies
    rows, columns = (np.hanning(side + 2)[1:-1].astype(np.float32) for side in (height, width))
    spectrum = fft.rfft2((luma - luma.mean()) * rows[:, None] * columns)
    power = (spectrum.real**2 + spectrum.imag**2) / float((rows**2).sum() * (columns**2).sum())
    band, counts = _bands(height, width)
    sums = np.bincount(band.reshape(-1), power.reshape(-1), minlength=len(counts))
    return np.asarray(np.maximum(sums / np.maximum(counts, 1) - noise**2, 0)[1:-1] / variance)


@lru_cache(maxsize=4)
def _bands(height: int, width: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """``(H, W // 2 + 1)`` band of each coefficient of a real Fourier transform, 0 below all and 9 above, and how many
    there are of each."""
    band = np.digitize(radius(height, width), BANDS)
    return band, np.bincount(band.reshape(-1), minlength=len(BANDS) + 1)


def radius(height: int, width: int) -> Floats:
    """``(H, W // 2 + 1)`` frequency of each coefficient of a real Fourier transform, cycles a pixel."""
    return np.asarray(np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]), np.float64)


def as_pixels(image: Tensor) -> npt.NDArray[np.uint8]:
    """``(3, H, W)`` uint8 as ``(H, W, 3)``."""
    return np.ascontiguousarray(image.permute(1, 2, 0).numpy())


def as_images(pixels: Sequence[npt.NDArray[np.float32]]) -> Tensor:
    """``(H, W, 3)`` arrays of one size as images ``(N, 3, H, W)``."""
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous()
