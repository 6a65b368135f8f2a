"""DACS' strong augmentation: definitions, draws, ranges."""

from __future__ import annotations

import colorsys

import pytest
import torch

from uda.functional.augment import (
    StrongAugmentation,
    blur_kernel_size,
    colour_jitter,
    draw_strong_augmentation,
    gaussian_blur,
    strong_augment,
)


def images() -> torch.Tensor:
    return torch.rand(2, 3, 24, 40)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("size", "expected"), [(1, 1), (10, 1), (11, 1), (21, 3), (45, 5), (62, 7), (512, 51)])
def test_kernel_is_a_tenth_of_the_side_and_odd(size: int, expected: int) -> None:
    assert blur_kernel_size(size) == expected


def test_blur_keeps_constants_and_smooths() -> None:
    flat = torch.full((1, 3, 30, 50), 0.7)
    torch.testing.assert_close(gaussian_blur(flat, 1.0), flat)
    batch = images()
    blurred = gaussian_blur(batch, 1.0)
    assert blurred.shape == batch.shape
    assert blurred.std() < 0.8 * batch.std()
    torch.testing.assert_close(gaussian_blur(batch, 0.05), batch)


def test_blur_by_opencv_is_that_by_torch_with_the_whole_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = torch.rand(2, 3, 240, 90, generator=torch.Generator().manual_seed(0))
    for sigma in (0.15, 0.7, 1.15):
        cut = gaussian_blur(batch, sigma)
        with monkeypatch.context() as patched:
            patched.setattr("uda.functional.augment.REACH", 1000.0)
            recorded = gaussian_blur(batch.clone().requires_grad_(), sigma)
        torch.testing.assert_close(cut, recorded.detach(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("sigma", [0.0, -1.0, float("nan")])
def test_blur_refuses(sigma: float) -> None:
    with pytest.raises(ValueError, match=r"sigma is .* > 0"):
        gaussian_blur(images(), sigma)


def test_brightness_and_contrast_are_plain() -> None:
    batch = images()
    torch.testing.assert_close(colour_jitter(batch, brightness=1.2), (batch + 0.2).clamp(0, 1))
    torch.testing.assert_close(colour_jitter(batch, contrast=1.2), (batch * 1.2).clamp(0, 1))
    both = colour_jitter(batch, brightness=1.2, contrast=0.5, order=(1, 0))
    torch.testing.assert_close(both, (batch * 0.5 + 0.2).clamp(0, 1))


def test_hue_and_saturation_act_in_hsv() -> None:
    batch = images()[:, :, :4, :4]
    torch.testing.assert_close(colour_jitter(batch, hue=0.0, saturation=1.0), batch, rtol=0, atol=1e-5)
    out = colour_jitter(batch, hue=0.3, saturation=0.5, order=(2, 3))
    for before, after in zip(
        batch.permute(0, 2, 3, 1).reshape(-1, 3), out.permute(0, 2, 3, 1).reshape(-1, 3), strict=True
    ):
        h, s, v = colorsys.rgb_to_hsv(*before.tolist())
        expected = torch.tensor(colorsys.hsv_to_rgb((h + 0.3) % 1, s * 0.5, v))
        torch.testing.assert_close(after, expected, rtol=0, atol=1e-4)
    grey = torch.full((1, 3, 2, 2), 0.4)
    torch.testing.assert_close(colour_jitter(grey, hue=0.3, saturation=2.0), grey)


def test_images_outside_the_range_end_inside() -> None:
    out = colour_jitter(images() * 3 - 1, 1.1, 0.9, 1.2, -0.2, order=(3, 2, 1, 0))
    assert out.min() >= 0
    assert out.max() <= 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"brightness": -0.1}, "brightness is -0.1"),
        ({"contrast": float("nan")}, "contrast is nan"),
        ({"hue": 0.6}, r"hue is 0.6, must be in \[-0.5, 0.5\]"),
        ({"order": (0, 0)}, "order is"),
        ({"order": (4,)}, "order is"),
    ],
)
def test_jitter_refuses(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        colour_jitter(images(), **arguments)
    with pytest.raises(ValueError, match=r"floating point \(N, 3, H, W\)"):
        colour_jitter(torch.rand(1, 4, 2, 2))


def test_draws_follow_the_published_ranges_and_frequencies() -> None:
    source = generator()
    draws = [draw_strong_augmentation(source) for _ in range(2000)]
    jittered = [d for d in draws if d.brightness is not None]
    blurred = [d for d in draws if d.sigma is not None]
    assert 0.75 < len(jittered) / 2000 < 0.85
    assert 0.45 < len(blurred) / 2000 < 0.55
    for name, low, high in (("brightness", 0.75, 1.25), ("contrast", 0.75, 1.25), ("saturation", 0.75, 1.25)):
        values = [getattr(d, name) for d in jittered]
        assert low <= min(values) < low + 0.02
        assert high - 0.02 < max(values) <= high
    assert -0.25 <= min(d.hue for d in jittered) < -0.23
    assert 0.15 <= min(d.sigma for d in blurred) < 0.17
    assert 1.13 < max(d.sigma for d in blurred) <= 1.15
    assert len({d.order for d in draws}) == 24


def test_draws_repeat_and_always_take_the_same_count() -> None:
    assert draw_strong_augmentation(generator(5)) == draw_strong_augmentation(generator(5))
    states = []
    for probability in (0.0, 1.0):
        source = generator(5)
        draw_strong_augmentation(source, jitter_probability=probability, blur_probability=probability)
        states.append(source.get_state())
    assert torch.equal(*states)


def test_strong_augment_applies_what_was_drawn() -> None:
    batch = images()
    nothing = StrongAugmentation(None, None, None, None, (0, 1, 2, 3), None)
    assert torch.equal(strong_augment(batch, parameters=nothing), batch)
    blur = StrongAugmentation(None, None, None, None, (0, 1, 2, 3), 0.9)
    assert torch.equal(strong_augment(batch, parameters=blur), gaussian_blur(batch, 0.9))
    assert torch.equal(strong_augment(batch, generator(1)), strong_augment(batch, generator(1)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"strength": 0.6}, "strength is 0.6"),
        ({"jitter_probability": 1.1}, "jitter_probability is 1.1"),
        ({"blur_probability": -0.1}, "blur_probability is -0.1"),
        ({"sigma": (0.0, 1.0)}, "sigma is"),
    ],
)
def test_draw_refuses(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw_strong_augmentation(**arguments)
