"""Columns, styles and edits against images whose properties are known."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from uda.gap.columns import as_float, channel_noise, image_columns, luma_of, noise_level
from uda.gap.factors import IMAGE_FACTORS, Editor, known
from uda.gap.style import Style, StyleSums


def scene(seed: int, height: int = 96, width: int = 160) -> np.ndarray:
    """``(H, W, 3)`` uint8: texture of all sizes below a smooth sky."""
    generator = np.random.default_rng(seed)
    field = np.zeros((height, width, 3), np.float32)
    for cells in (4, 8, 16, 32, 64):
        drawn = generator.standard_normal((cells, 2 * cells, 3)).astype(np.float32)
        layer = cv2.resize(drawn, (width, height), interpolation=cv2.INTER_CUBIC) * np.float32((8 / cells) ** 0.7)
        layer[: height // 3] *= cells < 8
        field += layer
    field = (field - field.mean((0, 1))) / field.std((0, 1)) * (0.16, 0.13, 0.15) + (0.45, 0.5, 0.42)
    return (field.clip(0, 1) * 255).round().astype(np.uint8)


def style(images: list[np.ndarray]) -> Style:
    sums = StyleSums()
    for image in images:
        sums.add(image)
    return sums.style()


SOURCE = [scene(seed) for seed in range(12)]


def edited(change, images: list[np.ndarray] = SOURCE) -> list[np.ndarray]:
    """The images changed in floating point, as uint8 again."""
    return [(change(as_float(image), k).clip(0, 1) * 255).round().astype(np.uint8) for k, image in enumerate(images)]


def test_columns_of_a_plain_image() -> None:
    image = np.zeros((16, 32, 3), np.uint8)
    image[:, :16] = (255, 0, 0)
    image[:, 16:] = (51, 51, 51)
    columns = image_columns(image)
    assert columns["mean_red"] == pytest.approx((1 + 0.2) / 2)
    assert columns["mean_green"] == pytest.approx(0.1)
    assert columns["std_red"] == pytest.approx(0.4)
    assert columns["saturation"] == pytest.approx(0.5)
    assert columns["hue"] == pytest.approx(0, abs=1e-6)
    assert columns["brightness"] == pytest.approx((0.299 + 0.2) / 2, abs=1e-3)
    assert np.isnan(image_columns(np.full((8, 8, 3), 90, np.uint8))["hue"])


@pytest.mark.parametrize("sigma", [0.01, 0.03, 0.06])
def test_noise_is_measured_where_the_image_is_flat(sigma: float) -> None:
    generator = np.random.default_rng(0)
    image = np.full((128, 128), 0.5, np.float32)
    image[:, 64:] = scene(0, 128, 64)[..., 0] / 255  # texture, which is no noise
    noisy = image + generator.normal(0, sigma, image.shape).astype(np.float32)
    assert noise_level(noisy) == pytest.approx(sigma, rel=0.12)


def test_noise_of_an_image_without_room_or_all_saturated_is_nothing() -> None:
    assert noise_level(np.zeros((4, 4), np.float32)) == 0
    assert noise_level(np.ones((32, 32), np.float32)) == 0


def test_mean_and_deviation_of_a_style_are_those_of_all_pixels() -> None:
    pixels = np.concatenate([image.reshape(-1, 3) for image in SOURCE]) / 255
    measured = style(SOURCE)
    assert measured.mean == pytest.approx(pixels.mean(0), abs=1e-9)
    assert measured.std == pytest.approx(pixels.std(0), abs=1e-9)
    assert measured.size == (96, 160)


CHANGES = {
    "mean": lambda image, k: image + np.float32((0.1, -0.05, 0.08)),
    "deviation": lambda image, k: (
        (image - np.float32((0.45, 0.5, 0.42))) * np.float32(0.6) + np.float32((0.45, 0.5, 0.42))
    ),
    "sharpness": lambda image, k: cv2.GaussianBlur(image, (0, 0), 1.2),
    "noise": lambda image, k: image + np.random.default_rng(k).normal(0, 0.06, image.shape).astype(np.float32),
}


@pytest.mark.parametrize("factor", CHANGES)
def test_the_edit_of_the_factor_that_was_changed_brings_the_images_back(factor: str) -> None:
    changed = edited(CHANGES[factor])
    editor = Editor(style(SOURCE), style(changed))
    before = np.mean([np.abs(as_float(a) - as_float(b)).mean() for a, b in zip(changed, SOURCE, strict=True)])
    restored = [editor.apply(as_float(image), {factor}, seed=k) for k, image in enumerate(changed)]
    after = np.mean([np.abs(a - as_float(b)).mean() for a, b in zip(restored, SOURCE, strict=True)])
    assert after < (0.25 if factor in ("mean", "deviation") else 0.85) * before
    assert factor in editor.active()


@pytest.mark.parametrize("factor", ["mean", "deviation"])
def test_a_change_of_mean_or_deviation_is_no_change_of_the_others(factor: str) -> None:
    changed = edited(CHANGES[factor])
    differences = Editor(style(SOURCE), style(changed)).differences()
    strongest = max(differences, key=lambda name: differences[name])
    assert strongest == factor
    others = {name for name in ("mean", "deviation", "resolution", "aspect", "low_frequency") if name != factor}
    assert all(differences[name] < 1.5 for name in others), differences


def test_equal_styles_leave_nothing_to_edit() -> None:
    editor = Editor(style(SOURCE), style(SOURCE))
    assert editor.active() == ()
    image = as_float(SOURCE[0])
    same = editor.apply(image, {"mean", "deviation", "histogram", "low_frequency"})
    assert np.abs(same - image).max() < 0.01


def test_the_tone_curve_keeps_mean_and_deviation_and_gives_the_shape() -> None:
    changed = edited(lambda image, k: image**2.2)
    target, source = style(changed), style(SOURCE)
    editor = Editor(source, target)
    pixels = np.concatenate([editor.apply(as_float(image), {"histogram"}).reshape(-1, 3) for image in changed])
    assert pixels.mean(0) == pytest.approx(target.mean, abs=2e-3)
    assert pixels.std(0) == pytest.approx(target.std, abs=2e-3)

    def skewness(values: np.ndarray) -> np.ndarray:
        return (((values - values.mean(0)) / values.std(0)) ** 3).mean(0)

    wanted = skewness(np.concatenate([as_float(image).reshape(-1, 3) for image in SOURCE]))
    before = skewness(np.concatenate([as_float(image).reshape(-1, 3) for image in changed]))
    assert np.abs(skewness(pixels) - wanted).max() < 0.1 * np.abs(before - wanted).max()


def test_mean_deviation_and_tone_curve_together_are_the_whole_histogram() -> None:
    changed = edited(lambda image, k: image**1.8 * np.float32(0.7) + np.float32(0.2))
    source = style(SOURCE)
    editor = Editor(source, style(changed))
    pixels = np.concatenate(
        [editor.apply(as_float(i), {"histogram", "deviation", "mean"}).reshape(-1, 3) for i in changed]
    )
    reference = np.concatenate([as_float(image).reshape(-1, 3) for image in SOURCE])
    for share in (0.05, 0.25, 0.5, 0.75, 0.95):
        assert np.quantile(pixels, share, axis=0) == pytest.approx(np.quantile(reference, share, axis=0), abs=0.012)


@pytest.mark.parametrize("factor", ["noise", "sharpness", "low_frequency"])
def test_edits_of_detail_keep_the_mean_and_deviation_of_each_image(factor: str) -> None:
    other = edited(
        lambda image, k: cv2.GaussianBlur(image, (0, 0), 0.8) * np.linspace(0.5, 1, 160, dtype=np.float32)[:, None],
        [scene(s) for s in range(20, 26)],
    )
    editor = Editor(style(SOURCE), style(other))
    image = as_float(other[0])
    changed = editor.apply(image, {factor}, seed=3)
    assert changed.mean((0, 1)) == pytest.approx(image.mean((0, 1)), abs=1e-5)
    assert changed.std((0, 1)) == pytest.approx(image.std((0, 1)), abs=1e-4)
    assert np.abs(changed - image).max() > 1e-3


def test_light_that_all_images_share_becomes_the_sources() -> None:
    ramp = np.linspace(0.4, 1.4, 160, dtype=np.float32)[None, :, None]
    changed = edited(lambda image, k: image * ramp)
    source, target = style(SOURCE), style(changed)
    editor = Editor(source, target)
    after = style(
        [(editor.apply(as_float(i), {"low_frequency"}).clip(0, 1) * 255).round().astype(np.uint8) for i in changed]
    )

    def distance(a: Style, b: Style) -> float:
        return float(np.abs(known(a.low) - known(b.low))[:, 0, 1].mean())  # half a cycle from left to right

    assert distance(target, source) > 0.2
    assert distance(after, source) < 0.1 * distance(target, source)


def test_the_amplitude_of_low_frequencies_becomes_the_sources() -> None:
    """Light that falls from another side in every image has no mean: what differs is the spread about it."""
    scenes = [scene(seed) for seed in range(40)]
    draws = np.random.default_rng(0).normal(size=len(scenes))
    ramp = np.linspace(-0.3, 0.3, 160, dtype=np.float32)[None, :, None]
    changed = edited(lambda image, k: image + ramp * np.float32(draws[k]), scenes)
    source, target = style(scenes), style(changed)
    editor = Editor(source, target)
    after = style(
        [(editor.apply(as_float(i), {"low_frequency"}).clip(0, 1) * 255).round().astype(np.uint8) for i in changed]
    )
    spreads = [float(known(each.low_spread)[:, 0, 1].mean()) for each in (source, target, after)]
    assert spreads[1] > 2 * spreads[0]
    # not all of it: with the light, part of the images' deviation goes, which is given back to what is left
    assert abs(spreads[2] - spreads[0]) < 0.4 * (spreads[1] - spreads[0])


def test_low_frequencies_that_differ_by_chance_are_left_alone() -> None:
    editor = Editor(style(SOURCE[::2]), style(SOURCE[1::2]))
    assert editor.differences()["low_frequency"] == 0


@pytest.mark.parametrize("noise", [0.002, 0.03])
def test_sharpening_undoes_blur_as_far_as_noise_allows(noise: float) -> None:
    def blurred(image: np.ndarray, k: int) -> np.ndarray:
        soft = cv2.GaussianBlur(image, (0, 0), 1.0)
        return soft + np.random.default_rng(k).normal(0, noise, image.shape).astype(np.float32)

    changed = edited(blurred)
    editor = Editor(style(SOURCE), style(changed))
    errors = [
        [
            np.abs(image - as_float(sharp)).mean()
            for image in (as_float(soft), editor.apply(as_float(soft), {"sharpness"}))
        ]
        for soft, sharp in zip(changed, SOURCE, strict=True)
    ]
    before, after = np.mean(errors, axis=0)
    assert after < (0.9 if noise < 0.01 else 1.05) * before


def test_geometry_gives_the_sources_height_and_aspect() -> None:
    small = [cv2.resize(image, (200, 64), interpolation=cv2.INTER_AREA) for image in SOURCE]
    editor = Editor(style(SOURCE), style(small))
    image = as_float(small[0])
    assert editor.apply(image, {"resolution"}).shape == (96, 300, 3)
    assert editor.apply(image, {"aspect"}).shape == (64, 107, 3)
    assert editor.apply(image, {"resolution", "aspect"}).shape == (96, 160, 3)


def test_published_statistics_know_two_factors() -> None:
    published = Style(np.array([0.29, 0.33, 0.28]), np.array([0.18, 0.18, 0.18]))
    editor = Editor(published, style(SOURCE))
    assert set(editor.differences()) == {"mean", "deviation"}
    pixels = np.concatenate([editor.apply(as_float(i), {"mean", "deviation"}).reshape(-1, 3) for i in SOURCE])
    assert pixels.mean(0) == pytest.approx(published.mean, abs=1e-4)
    assert pixels.std(0) == pytest.approx(published.std, abs=1e-4)
    with pytest.raises(ValueError, match="published ones are mean and std"):
        editor.apply(as_float(SOURCE[0]), {"noise"})
    with pytest.raises(ValueError, match="'gamma' is none of resolution"):
        editor.apply(as_float(SOURCE[0]), {"gamma"})


def test_noise_that_is_added_is_the_missing_one_and_the_same_for_the_same_seed() -> None:
    noisy = edited(CHANGES["noise"])
    editor = Editor(style(noisy), style(SOURCE))
    image = as_float(SOURCE[0])
    first, again, other = (editor.apply(image, {"noise"}, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert channel_noise(first) == pytest.approx(channel_noise(as_float(noisy[0])), rel=0.1)
    assert noise_level(luma_of(first)) < 0.8 * channel_noise(first)  # the channels' noise is independent
    assert set(editor.differences()) == set(IMAGE_FACTORS)
