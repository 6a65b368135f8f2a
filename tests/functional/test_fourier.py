"""The thin DFT products against the full transform."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from uda.functional.fourier import fda_source_to_target, half_width, low_freq_swap


def full_transform(source: Tensor, target: Tensor, beta: float, band: str) -> Tensor:
    """Both bands written with the full FFT, in float64."""
    fs, ft = torch.fft.fft2(source.double()), torch.fft.fft2(target.double())
    if band == "half-open":
        amplitude = low_freq_swap(fs.abs(), ft.expand_as(fs).abs(), beta)
    else:
        height, width = source.shape[-2:]
        b = half_width(height, width, beta)
        rows, columns = (torch.fft.fftfreq(n, 1 / n).round().abs() <= b for n in (height, width))
        amplitude = torch.where(rows[:, None] & columns[None, :], ft.abs(), fs.abs())
    return torch.fft.ifft2(torch.polar(amplitude, fs.angle())).real


@pytest.mark.parametrize("band", ["symmetric", "half-open"])
@pytest.mark.parametrize("size", [(12, 16), (16, 12), (13, 8), (8, 8), (7, 7), (1, 5), (44, 40), (42, 41)])
@pytest.mark.parametrize("beta", [0.0, 0.1, 0.3, 0.5])
def test_equals_the_full_transform(band: str, size: tuple[int, int], beta: float) -> None:
    source, target = torch.rand(2, 3, *size, dtype=torch.float64), torch.rand(2, 3, *size, dtype=torch.float64)
    expected = full_transform(source, target, beta, band)
    torch.testing.assert_close(fda_source_to_target(source, target, beta, band), expected, rtol=0, atol=1e-12)


def test_float32_is_within_a_thousandth_of_a_grey_level() -> None:
    smooth = torch.nn.functional.interpolate(torch.rand(4, 3, 9, 17), size=(256, 512), mode="bicubic").clamp(0, 1)
    source, target = (smooth + 0.05 * torch.rand_like(smooth)).clamp(0, 1).split(2)
    for beta in (0.01, 0.09):
        error = fda_source_to_target(source, target, beta).double() - full_transform(source, target, beta, "symmetric")
        assert error.abs().max() * 255 < 1e-3


def test_keeps_precision_under_autocast_and_reduced_precision_products() -> None:
    source, target = torch.rand(1, 3, 32, 64), torch.rand(1, 3, 32, 64)
    expected = fda_source_to_target(source, target, 0.1)
    try:
        torch.set_float32_matmul_precision("medium")
        with torch.autocast("cpu", torch.bfloat16):
            out = fda_source_to_target(source, target, 0.1)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert torch.equal(out, expected)
    assert fda_source_to_target(source.bfloat16(), target.bfloat16(), 0.1).dtype == torch.bfloat16


def test_every_sample_has_its_own_target_or_shares_one() -> None:
    source, target = torch.rand(2, 3, 16, 20), torch.rand(2, 3, 16, 20)
    together = fda_source_to_target(source, target, 0.2)
    for n in range(2):
        torch.testing.assert_close(together[n : n + 1], fda_source_to_target(source[n : n + 1], target[n : n + 1], 0.2))
    shared = fda_source_to_target(source, target[:1], 0.2)
    torch.testing.assert_close(shared, fda_source_to_target(source, target[:1].expand(2, -1, -1, -1), 0.2))


def test_leaves_its_inputs_and_accepts_any_memory_format() -> None:
    source, target = torch.rand(2, 3, 16, 20), torch.rand(2, 3, 16, 20)
    copy = source.clone()
    expected = fda_source_to_target(source, target, 0.1)
    assert torch.equal(source, copy)
    last = fda_source_to_target(source.to(memory_format=torch.channels_last), target, 0.1)
    torch.testing.assert_close(last, expected)


def test_same_image_and_zero_half_open_band_change_nothing() -> None:
    source, target = torch.rand(1, 3, 24, 24), torch.rand(1, 3, 24, 24)
    torch.testing.assert_close(fda_source_to_target(source, source, 0.3), source)
    assert torch.equal(fda_source_to_target(source, target, 0.01, "half-open"), source)
    mean = fda_source_to_target(source, target, 0.01).mean((2, 3))
    torch.testing.assert_close(mean, target.mean((2, 3)))


def test_a_flat_source_takes_phase_zero() -> None:
    source, target = torch.full((1, 1, 16, 16), 0.3), torch.rand(1, 1, 16, 16)
    spectrum = torch.fft.fft2(fda_source_to_target(source, target, 0.1).double())[0, 0]
    assert np.allclose(spectrum[:2, :2].abs(), torch.fft.fft2(target)[0, 0, :2, :2].abs(), rtol=1e-4)
    assert spectrum[1, 1].imag.abs() < 1e-4


@pytest.mark.parametrize("beta", [-0.1, 0.51, float("nan")])
def test_refuses_a_band_that_does_not_fit(beta: float) -> None:
    images = torch.rand(1, 3, 8, 8)
    with pytest.raises(ValueError, match=r"beta is .* must be in \[0, 0\.5\]"):
        fda_source_to_target(images, images, beta)


def test_refuses_what_does_not_match() -> None:
    images = torch.rand(2, 3, 8, 8)
    with pytest.raises(ValueError, match="resize the target"):
        fda_source_to_target(images, torch.rand(2, 3, 8, 9))
    with pytest.raises(ValueError, match="batch of one"):
        fda_source_to_target(images, torch.rand(3, 3, 8, 8))
    with pytest.raises(ValueError, match="floating point"):
        fda_source_to_target((images * 255).byte(), images)
    with pytest.raises(ValueError, match="band is 'square'"):
        fda_source_to_target(images, images, 0.1, "square")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="equal shapes"):
        low_freq_swap(images, torch.rand(2, 3, 8, 9), 0.1)
