"""Colour transfer: what it must reach, where it departs, what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage import color, exposure
from torch import Tensor

from uda.functional.colour import colour_stats, image_stats, match_histograms, match_mean_std, reinhard
from uda.functional.colour_spaces import lab_to_rgb, lalphabeta_to_rgb, rgb_to_lab, rgb_to_lalphabeta


def photos(n: int, height: int = 40, width: int = 60, seed: int = 0) -> Tensor:
    """Smooth images with some noise, in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    small = torch.rand(n, 3, 4, 5, generator=generator) * 0.7 + 0.1
    images = torch.nn.functional.interpolate(small, size=(height, width), mode="bilinear")
    return (images + 0.05 * torch.rand(images.shape, generator=generator)).clamp(0, 1)


def byte(images: Tensor) -> Tensor:
    return (images * 255).round().byte()


@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_image_stats_equal_the_two_pass_ones(offset: float) -> None:
    images = photos(3).double() + offset
    images[1, 2] = 0.25 + offset  # a flat channel
    mean, std = image_stats(images.float())
    torch.testing.assert_close(mean.double(), images.mean((2, 3)), rtol=1e-5, atol=1e-6)
    exact = images.float().double().std((2, 3), correction=0)
    torch.testing.assert_close(std.double(), exact, rtol=1e-3, atol=1e-6)
    assert std[1, 2] < 1e-3
    torch.testing.assert_close(image_stats(images)[1], images.std((2, 3), correction=0))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_match_mean_std_reaches_the_target(layout: torch.memory_format) -> None:
    images, target = photos(2).to(memory_format=layout), photos(2, 30, 30, seed=1)
    out = match_mean_std(images, *image_stats(images), *image_stats(target))
    for reached, wanted in zip(image_stats(out), image_stats(target), strict=True):
        torch.testing.assert_close(reached, wanted, rtol=1e-4, atol=1e-5)


def test_match_mean_std_with_given_statistics() -> None:
    images = photos(2)
    out = match_mean_std(images, (0.1, 0.2, 0.3), (0.2, 0.2, 0.0), torch.tensor([[0.5, 0.6, 0.7]]), (0.1, 0.4, 0.2))
    torch.testing.assert_close(out[:, 0], (images[:, 0] - 0.1) * 0.5 + 0.5)
    torch.testing.assert_close(out[:, 1], (images[:, 1] - 0.2) * 2 + 0.6)
    assert torch.equal(out[:, 2], torch.full_like(out[:, 2], 0.7))


def test_match_mean_std_refuses_wrong_statistics() -> None:
    images = photos(2)
    ones = (1.0, 1.0, 1.0)
    with pytest.raises(ValueError, match=r"target_std is .* must be finite and >= 0"):
        match_mean_std(images, ones, ones, ones, (1.0, -1.0, 1.0))
    with pytest.raises(ValueError, match=r"mean has shape \(2,\), must be \(3,\) or \(2, 3\)"):
        match_mean_std(images, (1.0, 1.0), ones, ones, ones)
    with pytest.raises(ValueError, match="floating point"):
        match_mean_std(byte(images), ones, ones, ones, ones)


def test_lab_equals_scikit_image() -> None:
    images = photos(2).double()
    lab = rgb_to_lab(images)
    np.testing.assert_allclose(lab, color.rgb2lab(images.numpy(), channel_axis=1), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(lab_to_rgb(lab), images, rtol=0, atol=1e-6)
    torch.testing.assert_close(lalphabeta_to_rgb(rgb_to_lalphabeta(images)), images, rtol=0, atol=1e-2)


def test_colour_spaces_are_differentiable_at_black_and_white() -> None:
    for to, back in ((rgb_to_lab, lab_to_rgb), (rgb_to_lalphabeta, lalphabeta_to_rgb)):
        images = torch.tensor([0.0, 1.0]).expand(1, 3, 1, 2).clone().requires_grad_()
        back(to(images)).sum().backward()
        assert images.grad is not None
        assert images.grad.isfinite().all()
    with pytest.raises(ValueError, match="eps is 0"):
        rgb_to_lalphabeta(photos(1), 0)
    with pytest.raises(ValueError, match=r"must be floating point \(N, 3, H, W\)"):
        rgb_to_lab(torch.rand(1, 4, 2, 2))


def test_reinhard_through_opencv_is_the_formula_within_its_tables() -> None:
    images, target = photos(2), photos(2, 30, 33, seed=1)
    exact = reinhard(images.double(), target.double())
    assert (reinhard(images, target) - exact).abs().max() * 255 < 1.5
    error = (reinhard(byte(images), byte(target)).double() - exact * 255).abs()
    assert error.mean() < 1.5
    assert error.max() < 12
    (mean, std), (exact_mean, exact_std) = colour_stats(images), colour_stats(images.double())
    assert (mean - exact_mean).abs().max() < 0.2
    assert (std - exact_std).abs().max() < 0.1


@pytest.mark.parametrize("space", ["lab", "lalphabeta"])
def test_reinhard_takes_images_or_their_statistics(space: str) -> None:
    images, target = photos(2), photos(1, seed=1)
    for dtype in (torch.float32, torch.float64):
        source, style = images.to(dtype), target.to(dtype)
        expected = reinhard(source, style, space)
        mean, std = colour_stats(style, space)
        assert expected.dtype == dtype
        torch.testing.assert_close(reinhard(source, (mean[0], std[0]), space), expected)
        torch.testing.assert_close(reinhard(source, style.expand(2, -1, -1, -1), space), expected)
    assert reinhard(byte(images), byte(target), space).dtype == torch.uint8


def test_reinhard_differentiates_and_survives_a_flat_image() -> None:
    images = photos(1).requires_grad_()
    reinhard(images, photos(1, seed=1)).sum().backward()
    assert images.grad is not None
    assert images.grad.isfinite().all()
    flat = torch.full((1, 3, 8, 8), 0.5)
    target = photos(1, seed=1)
    for source, style in ((flat, target), (flat.double(), target.double()), (byte(flat), byte(target))):
        out = reinhard(source, style)
        assert out.double().std((2, 3)).max() < 1e-4


def test_reinhard_refuses() -> None:
    images = photos(2)
    with pytest.raises(ValueError, match="space is 'hsv'"):
        reinhard(images, images, "hsv")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"target is torch\.uint8"):
        reinhard(images, byte(images))
    with pytest.raises(ValueError, match=r"\(2 or 1, 3, h, w\)"):
        reinhard(images, photos(3))
    with pytest.raises(ValueError, match="target std is"):
        reinhard(images, (torch.zeros(3), -torch.ones(3)))
    with pytest.raises(ValueError, match="target mean has shape"):
        reinhard(images, (torch.zeros(4), torch.ones(3)))


@pytest.mark.parametrize("shared", [True, False])
def test_histograms_equal_scikit_image(shared: bool) -> None:
    images, targets = photos(2), photos(1 if shared else 2, 31, 27, seed=1)
    for source, style in ((byte(images), byte(targets)), (images, targets)):
        out = match_histograms(source, style)
        assert out.dtype == source.dtype
        for n in range(2):
            reference = style[0 if shared else n].double() if style.is_floating_point() else style[0 if shared else n]
            one = source[n].double() if source.is_floating_point() else source[n]
            expected = exposure.match_histograms(one.numpy(), reference.numpy(), channel_axis=0)
            np.testing.assert_allclose(out[n], expected, rtol=1e-6, atol=1e-7)


def test_quantised_histograms_are_near_the_sorted_ones() -> None:
    images, targets = photos(1), photos(1, seed=1)
    close = match_histograms(images, targets, quantise=True) - match_histograms(images, targets)
    assert close.abs().mean() * 255 < 0.5
    assert close.abs().max() * 255 < 12  # in the sparse tails
    outside = match_histograms(images * 2 - 0.5, targets, quantise=True)  # values outside [0, 1] are clipped
    torch.testing.assert_close(outside, match_histograms((images * 2 - 0.5).clamp(0, 1), targets, quantise=True))


def test_histograms_refuse() -> None:
    images = photos(2)
    with pytest.raises(ValueError, match="target is"):
        match_histograms(images, images[:, :2])
    with pytest.raises(ValueError, match="uint8 or floating point"):
        match_histograms(images.long(), images.long())
