"""What is measured of an image without any network: light, colour, sharpness, noise."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from uda.opencv import cv2

Floats = npt.NDArray[np.float32]
BLOCK = 8
"""Side of the blocks among which noise is looked for, pixels."""
FLAT = 0.1
"""Share of the blocks that count as flat."""
_IMMERKAER = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)

IMAGE_COLUMNS: dict[str, tuple[str, str]] = {
    "brightness": ("", "mean luma (Rec. 601) in [0, 1]"),
    "contrast": ("", "standard deviation of the luma"),
    "mean_red": ("", "mean of red in [0, 1]"),
    "mean_green": ("", "mean of green in [0, 1]"),
    "mean_blue": ("", "mean of blue in [0, 1]"),
    "std_red": ("", "standard deviation of red"),
    "std_green": ("", "standard deviation of green"),
    "std_blue": ("", "standard deviation of blue"),
    "saturation": ("", "mean saturation (HSV) in [0, 1]"),
    "hue": ("degrees", "circular mean of the hue, weighted by saturation"),
    "sharpness": ("grey levels²", "variance of the luma's Laplacian (Pech-Pacheco et al., ICPR 2000)"),
    "noise": ("", "noise's standard deviation in flat parts, mean of the channels (Immerkær, CVIU 1996)"),
}
"""Name -> unit and meaning of what :func:`image_columns` measures."""


def image_columns(image: npt.NDArray[np.uint8]) -> dict[str, float]:
    """The columns of an image ``(H, W, 3)`` uint8 RGB; the hue of a grey image is NaN."""
    pixels = as_float(image)
    luma = luma_of(pixels)
    means, deviations = moments(pixels)
    hue, saturation, _ = cv2.split(cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV))
    angle = np.deg2rad(hue)
    east, north = float((saturation * np.cos(angle)).sum()), float((saturation * np.sin(angle)).sum())
    columns = {"brightness": float(luma.mean()), "contrast": float(luma.std())}
    for name, mean, deviation in zip(("red", "green", "blue"), means, deviations, strict=True):
        columns[f"mean_{name}"], columns[f"std_{name}"] = float(mean), float(deviation)
    columns["saturation"] = float(saturation.mean())
    columns["hue"] = math.degrees(math.atan2(north, east)) % 360 if saturation.any() else math.nan
    columns["sharpness"] = float(cv2.Laplacian(luma * 255, cv2.CV_32F).var())
    columns["noise"] = channel_noise(pixels)
    return {name: columns[name] for name in IMAGE_COLUMNS}


def as_float(image: npt.NDArray[np.uint8]) -> Floats:
    """``(H, W, 3)`` uint8 as float32 in [0, 1]."""
    return np.asarray(image / np.float32(255), np.float32)


def luma_of(pixels: Floats) -> Floats:
    """``(H, W)`` luma of ``(H, W, 3)`` float32 RGB."""
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY))


def moments(image: npt.NDArray[Any]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """``(3,)`` mean and population deviation of the channels of ``(H, W, 3)``; NumPy is slow along these axes."""
    mean, std = cv2.meanStdDev(image)
    return np.asarray(mean[:, 0], np.float64), np.asarray(std[:, 0], np.float64)


def channel_noise(pixels: Floats) -> float:
    """Mean of :func:`noise_level` over the channels of ``(H, W, 3)``: the luma's is smaller, as they average out."""
    return float(np.mean([noise_level(np.asarray(channel, np.float32)) for channel in cv2.split(pixels)]))


def noise_level(channel: Floats) -> float:
    """Standard deviation of an image's noise, on the scale of ``channel`` ``(H, W)`` in [0, 1]; 0 for a tiny image.

    Immerkær, "Fast noise variance estimation", CVIU 1996: the mean absolute response to the difference of two
    Laplacians, times √(π/2) / 6. Departure: only over the flattest tenth of blocks of 8 x 8, by the gradient of the
    blurred image, and without saturated ones, since texture counts as noise elsewhere.
    """
    response = np.asarray(np.abs(cv2.filter2D(channel, cv2.CV_32F, _IMMERKAER)), np.float32)
    smooth = cv2.GaussianBlur(channel, (0, 0), 2.0)
    gradient = cv2.magnitude(cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1))
    slope = np.asarray(gradient, np.float32)
    clipped = ((channel <= 1 / 255) | (channel >= 254 / 255)).astype(np.float32)
    rows, columns = channel.shape[0] // BLOCK, channel.shape[1] // BLOCK
    if not rows or not columns:
        return 0.0
    response, slope, clipped = (_blocks(values, rows, columns) for values in (response, slope, clipped))
    inside = clipped < 0.05
    if not inside.any():
        return 0.0
    flat = inside & (slope <= np.quantile(slope[inside], FLAT))
    return float(math.sqrt(math.pi / 2) / 6 * response[flat].mean())


def _blocks(values: Floats, rows: int, columns: int) -> Floats:
    """``(rows, columns)`` means of whole blocks."""
    cut = values[: rows * BLOCK, : columns * BLOCK]
    return np.asarray(cv2.resize(cut, (columns, rows), interpolation=cv2.INTER_AREA))
