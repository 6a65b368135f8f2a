"""Edits of street images against hand-written numbers, and one-factor domains by what is measured on their images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.stats import skew

from uda.data.streets import ONE_FACTOR, differences, one_factor, render, vary

SIZE = (64, 128)
STEP = 1.01 / 255
"""Two quantised values of equal truth differ by this at most."""
LINEAR = {"sensor.gamma": 1.0, "sensor.noise": 0.0, "sensor.blur": 0.0, "sensor.vignette": 0.0}


def image(changes: dict[str, Any], base: str = "cityscapes", index: int = 1) -> np.ndarray:
    return render(vary(base, changes), 3, SIZE, index=index)[0] / 255


def inner(*images: np.ndarray) -> np.ndarray:
    """Where no image is cut to [0, 1]."""
    return np.all([(i > 0) & (i < 1) for i in images], axis=0)


@pytest.mark.parametrize("base", ["cityscapes", "kitti", "ika"])
def test_a_shift_is_added_and_the_noise_is_the_same(base: str) -> None:
    plain, moved = image({}, base), image({"camera.shift": [0.1, 0, -0.05]}, base)
    change = np.where(inner(plain, moved), moved - plain, [0.1, 0, -0.05])
    assert np.abs(change - [0.1, 0, -0.05]).max() < STEP
    assert inner(plain, moved).mean() > 0.7


def test_a_scale_keeps_the_mean_of_each_image_and_the_noise() -> None:
    quiet, scaled = image({"sensor.noise": 0}), image({"sensor.noise": 0, "camera.scale": [0.5, 0.6, 0.7]})
    np.testing.assert_allclose(scaled.mean((0, 1)), quiet.mean((0, 1)), atol=STEP / 2)
    np.testing.assert_allclose(scaled.std((0, 1)) / quiet.std((0, 1)), [0.5, 0.6, 0.7], rtol=0.01)
    noise = image({"camera.scale": [0.5, 0.6, 0.7]}) - scaled
    assert np.abs(noise - (image({}) - quiet))[inner(image({}))].max() < 2 * STEP


def test_the_tone_curve_is_gain_times_power() -> None:
    quiet, curved = image({"sensor.noise": 0}), image({"sensor.noise": 0, "camera.gamma": 1.7, "camera.gain": 0.9})
    assert np.abs(curved - 0.9 * quiet**1.7).max() < 2 * STEP


def test_the_ramp_is_a_straight_line_of_mean_zero() -> None:
    plain, lit = image({}), image({"camera.ramp": [0.05, -0.02]})
    down, right = np.linspace(-1, 1, SIZE[0]), np.linspace(-1, 1, SIZE[1])
    wanted = 0.05 * (down / down.std())[:, None, None] - 0.02 * (right / right.std())[None, :, None]
    assert np.abs(np.where(inner(plain, lit), lit - plain - wanted, 0)).max() < STEP


def test_the_blur_is_a_gaussian_of_that_many_pixels() -> None:
    quiet, blurred = image({"sensor.noise": 0}), image({"sensor.noise": 0, "camera.blur": 1.5})
    assert np.abs(blurred - gaussian_filter(quiet, (1.5, 1.5, 0), mode="mirror")).max() < 2 * STEP
    noise = image({"camera.blur": 1.5}) - blurred
    assert 0.9 < noise.std() / (image({}) - quiet).std() < 1.1


def test_the_noise_is_white_and_of_that_deviation() -> None:
    changes = {"camera.scale": 0.2, "camera.shift": 0.2}  # far from the limits
    noise = (image({**changes, "camera.noise": 0.05}) - image(changes)).reshape(-1, 3)
    np.testing.assert_allclose(noise.std(0), 0.05, rtol=0.03)
    np.testing.assert_allclose(noise.mean(0), 0, atol=0.002)
    assert np.abs(np.corrcoef(noise.T) - np.eye(3)).max() < 0.04
    field = noise.reshape(*SIZE, 3)
    assert abs((field[:, 1:] * field[:, :-1]).mean()) < 0.04 * 0.05**2


def test_resolution_averages_pixels_and_picks_labels() -> None:
    base = vary("cityscapes", LINEAR)
    plain, label = render(base, 3, SIZE)
    small, picked = render(vary(base, {"camera.resolution": 0.5}), 3, SIZE)
    assert small.shape[:2] == picked.shape == (SIZE[0] // 2, SIZE[1] // 2)
    blocks = plain.reshape(SIZE[0] // 2, 2, SIZE[1] // 2, 2, 3).mean((1, 3))
    assert np.abs(np.where(blocks < 250, small - blocks, 0)).max() < 2
    assert np.array_equal(picked, label[1::2, 1::2])


def test_aspect_stretches_image_and_label() -> None:
    base = vary("kitti", {**LINEAR, "sensor.contrast": 0.5})
    plain, label = render(base, 3, SIZE)
    wide, stretched = render(vary(base, {"camera.aspect": 2}), 3, SIZE)
    assert wide.shape[:2] == stretched.shape == (SIZE[0], 2 * SIZE[1])
    assert np.array_equal(stretched, np.repeat(label, 2, axis=1))
    pairs = wide.reshape(SIZE[0], SIZE[1], 2, 3).mean(2)
    assert np.abs(pairs[:, 1:-1] - (0.75 * plain[:, 1:-1] + 0.125 * plain[:, 2:] + 0.125 * plain[:, :-2])).max() < 2
    narrow, _ = render(vary(base, {"camera.aspect": 0.5}), 3, SIZE)
    assert np.abs(narrow - plain.reshape(SIZE[0], SIZE[1] // 2, 2, 3).mean(2)).max() < 2


def test_sizes_that_become_too_small_are_refused() -> None:
    with pytest.raises(ValueError, match=r"64x128 with camera.resolution 0.2 and camera.aspect 1 is 13x26.*from 16"):
        render(vary("ika", {"camera.resolution": 0.2}), 0, SIZE)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("men",), "factor is 'men'; the nearest is 'mean'"),
        (("mean", -1), "strength is -1; allowed: numbers from 0"),
        (("mean", float("nan")), "strength is nan"),
        (("noise", 20), "strength is 20, too much for noise: camera.noise is 0.8"),
        (("noise", 1, "mars"), "domain is 'mars'"),
        (("noise", 1, vary("ika", {"camera.blur": 1})), "'ika' has camera.blur=1.0; allowed: bases without camera"),
    ],
)
def test_wrong_factors_are_named(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        one_factor(*arguments)


@pytest.mark.parametrize("name", ["mean", "deviation", "noise", "resolution", "aspect"])
def test_strengths(name: str) -> None:
    assert one_factor(name) == ONE_FACTOR[name]
    assert differences(vary("ika", one_factor(name, 0))) == {}
    (half,), (whole,) = one_factor(name, 0.5).values(), ONE_FACTOR[name].values()
    additive = name in ("mean", "noise")
    np.testing.assert_allclose(np.multiply(half, 2) if additive else np.square(half), whole, atol=2e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["histogram", "low_frequency", "sharpness"])
def test_strengths_of_what_is_measured(name: str) -> None:
    again = one_factor(name)
    assert again.keys() == ONE_FACTOR[name].keys()
    for key, value in again.items():
        np.testing.assert_allclose(value, ONE_FACTOR[name][key], atol=2e-3)
    assert differences(vary("cityscapes", one_factor(name, 0))) == {}


@dataclass
class Measures:
    """Of the images of a domain, all together."""

    mean: np.ndarray
    deviation: np.ndarray
    skewness: float
    fall: float
    """Mean product with a ramp of unit deviation from left to right."""
    sharpness: float
    """Deviation of the Laplacian without that of the noise, relative to the channels' deviation."""
    noise: float
    """Deviation of the noise, from the Laplacian in the smooth sky."""
    size: tuple[int, ...]
    labels: list[np.ndarray]


def measure(changes: dict[str, Any]) -> Measures:
    """Eight images in the default size."""
    domain = vary("cityscapes", changes)
    pairs = [render(domain, 0, index=index) for index in range(8)]
    images = np.stack([pixels for pixels, _ in pairs]) / 255
    laplacians, skies = [], []
    for pixels, label in zip(images, (ids for _, ids in pairs), strict=True):
        laplacian = cv2.Laplacian(pixels, cv2.CV_64F)
        laplacians.append(laplacian)
        skies.append(laplacian[cv2.erode((label == 23).astype(np.uint8), np.ones((7, 7), np.uint8)) > 0])
    flat = images.reshape(-1, 3)
    # the kernel's weights are 1, 1, 1, 1 and -4: white noise of variance 1 has 20
    noise = 1.4826 * np.median(np.abs(np.concatenate(skies))) / np.sqrt(20)
    detail = np.sqrt(np.maximum(np.stack(laplacians).reshape(-1, 3).var(0) - 20 * noise**2, 0)) / flat.std(0)
    right = np.linspace(-1, 1, images.shape[2])
    fall = (images * (right / right.std())[:, None]).mean()
    return Measures(
        flat.mean(0), flat.std(0), skew(flat.ravel()), fall, detail.mean(), noise, images.shape[1:3],
        [ids for _, ids in pairs],
    )  # fmt: skip


@pytest.fixture(scope="module")
def base() -> Measures:
    return measure({})


@pytest.mark.slow
@pytest.mark.parametrize("name", ONE_FACTOR)
def test_one_factor_changes_and_the_others_stay(name: str, base: Measures) -> None:
    made = measure(ONE_FACTOR[name])
    shift = np.array([0.12, 0, -0.06]) if name == "mean" else 0
    np.testing.assert_allclose(made.mean - base.mean, shift, atol=0.005)
    wide = np.sqrt(1 + 0.04**2 / base.deviation**2) if name == "noise" else 0.6 if name == "deviation" else 1
    np.testing.assert_allclose(made.deviation / base.deviation, wide, atol=0.03)
    # where the bright sky is cut its noise is less
    noise = np.hypot(base.noise, 0.04) if name == "noise" else base.noise
    assert made.noise == pytest.approx(noise, abs=0.0015)
    assert made.fall - base.fall == pytest.approx(-0.079 if name == "low_frequency" else 0, abs=0.008)
    if name == "histogram":
        assert made.skewness > base.skewness + 0.5
    elif name not in ("mean", "low_frequency"):  # these mix channels, or light and dark places, anew
        assert made.skewness == pytest.approx(base.skewness, abs=0.15)
    detail = {"sharpness": (0, 0.25), "resolution": (1.2, 1.6), "aspect": (0.6, 0.8)}.get(name, (0.92, 1.08))
    assert detail[0] <= made.sharpness / base.sharpness <= detail[1]
    height, width = base.size
    assert made.size == {"resolution": (height // 2, width // 2), "aspect": (height, width * 3 // 2)}.get(
        name, base.size
    )
    if made.size == base.size:
        assert all(map(np.array_equal, made.labels, base.labels))
