"""Optimal-transport colour maps against POT's own out-of-sample rules, on images."""

from __future__ import annotations

import numpy as np
import ot
import pytest
import torch

from uda.functional.transport import emd_cost, fit_colour_map, sample_pixels


@pytest.fixture
def clouds() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.rand(40, 3, dtype=torch.float64), 0.3 + 0.4 * torch.rand(30, 3, dtype=torch.float64)


def images(dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.rand(2, 3, 5, 7, dtype=dtype)


@pytest.mark.parametrize("kind", ["emd", "sinkhorn", "linear"])
def test_maps_images_as_pot_maps_their_pixels(clouds, kind: str) -> None:
    source, target = clouds
    reg = {"emd": None, "sinkhorn": 0.1, "linear": 1e-6}[kind]
    reference = {
        "emd": ot.da.EMDTransport(),
        "sinkhorn": ot.da.SinkhornTransport(reg_e=0.1),
        "linear": ot.da.LinearTransport(reg=1e-6),
    }[kind].fit(Xs=source.numpy(), Xt=target.numpy())
    batch = images()
    expected = reference.transform(Xs=batch.permute(0, 2, 3, 1).reshape(-1, 3).numpy())
    colour_map = fit_colour_map(source, target, kind, reg)
    out = colour_map(batch)
    np.testing.assert_allclose(out.permute(0, 2, 3, 1).reshape(-1, 3), expected, atol=1e-9)
    single = colour_map(batch.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), out, rtol=0, atol=1e-4)


def test_linear_map_carries_mean_and_covariance(clouds) -> None:
    source, target = clouds
    moved = fit_colour_map(source, target, "linear").pixels(source)
    torch.testing.assert_close(moved.mean(0), target.mean(0), rtol=0, atol=1e-6)
    covariances = [torch.cov(points.t(), correction=0) for points in (moved, target)]
    torch.testing.assert_close(*covariances, rtol=0, atol=1e-6)


def test_emd_of_a_shift_is_the_shift(clouds) -> None:
    source, _ = clouds
    shift = torch.tensor([0.1, -0.2, 0.05], dtype=torch.float64)
    colour_map = fit_colour_map(source, source + shift, "emd")
    torch.testing.assert_close(colour_map.pixels(source), source + shift)
    assert emd_cost(source, source + shift) == pytest.approx(float(shift.square().sum()))


def test_sample_pixels_are_pixels_and_repeat_with_the_seed() -> None:
    batch = images()
    drawn = [sample_pixels(batch, 50, torch.Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(*drawn)
    pixels = {tuple(p) for p in batch.permute(0, 2, 3, 1).reshape(-1, 3).tolist()}
    assert {tuple(p) for p in drawn[0].tolist()} <= pixels
    assert len({tuple(p) for p in drawn[0].tolist()}) > 20


def test_refuses(clouds) -> None:
    source, target = clouds
    with pytest.raises(ValueError, match="kind is 'exact'"):
        fit_colour_map(source, target, "exact")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"reg is 0.* must be > 0"):
        fit_colour_map(source, target, "sinkhorn", 0.0)
    with pytest.raises(ValueError, match="None for 'emd'"):
        fit_colour_map(source, target, "emd", 0.1)
    with pytest.raises(ValueError, match="target_pixels have 2 channels"):
        fit_colour_map(source, target[:, :2])
    with pytest.raises(ValueError, match=r"source_pixels is .* must be floating point"):
        fit_colour_map(source.long(), target)
    with pytest.raises(ValueError, match="out_of_sample is 'far'"):
        fit_colour_map(source, target, out_of_sample="far")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="count is 0"):
        sample_pixels(images(), 0)
