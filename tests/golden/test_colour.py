"""Classical colour transfer against scikit-image, POT and the recorded float64 formula of Reinhard."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from uda.functional.colour import image_stats, match_histograms, match_mean_std, reinhard
from uda.functional.colour_spaces import lab_to_rgb, lalphabeta_to_rgb, rgb_to_lab, rgb_to_lalphabeta
from uda.functional.transport import emd_cost, fit_colour_map


def planes(pixels: np.ndarray) -> Tensor:
    """(H, W, 3) to (1, 3, H, W)."""
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].contiguous()


def pixels(images: Tensor) -> np.ndarray:
    return images[0].permute(1, 2, 0).numpy()


@pytest.mark.golden("color/match_histograms")
def test_match_histograms(case):
    source, target = planes(case["in_src"]), planes(case["in_trg"])
    case.check_equal(pixels(match_histograms(source, target)), "out_uint8")
    case.check(pixels(match_histograms(source.double(), target.double())), "out_float", rtol=1e-9, atol=1e-10)
    # images of 256 levels need no sorting: the same result through tables, in float32
    quantised = match_histograms(source.float() / 255, target.float() / 255, quantise=True)
    case.check(pixels(quantised) * 255, "out_float", rtol=1e-6, atol=1e-4)


@pytest.mark.golden("color/lab")
def test_lab(case):
    case.check(pixels(rgb_to_lab(planes(case["in_rgb_uint8"]).double() / 255)), "out_lab", rtol=1e-7, atol=1e-6)
    case.check(pixels(lab_to_rgb(planes(case["in_lab"]))), "out_rgb", rtol=0, atol=1e-7)


@pytest.mark.golden("color/reinhard")
def test_reinhard(case):
    source, target = planes(case["in_src"]).double() / 255, planes(case["in_trg"]).double() / 255
    eps = case.scalar("param_eps")
    s, t = rgb_to_lalphabeta(source, eps), rgb_to_lalphabeta(target, eps)
    transferred = match_mean_std(s, *image_stats(s), *image_stats(t))
    case.check(pixels(transferred), "out_lalphabeta", rtol=1e-7, atol=1e-7)
    case.check(pixels(lalphabeta_to_rgb(transferred)), "out_rgb_lalphabeta", rtol=1e-7, atol=1e-7)
    s, t = rgb_to_lab(source), rgb_to_lab(target)
    case.check(pixels(match_mean_std(s, *image_stats(s), *image_stats(t))), "out_lab", rtol=1e-7, atol=1e-7)
    case.check(pixels(reinhard(source, target)), "out_rgb_lab", rtol=1e-7, atol=1e-7)


@pytest.mark.golden("color/ot_transport")
def test_ot_transport(case):
    source, target, new = case.t("in_src"), case.t("in_trg"), case.t("in_new")
    reg = case.scalar("param_sinkhorn_reg")
    emd = fit_colour_map(source, target, "emd")
    case.check(emd.pixels(source), "out_emd", rtol=0, atol=1e-7)
    case.check(emd.pixels(new), "out_emd_new", rtol=0, atol=1e-7)
    case.check(emd_cost(source, target), "out_emd_cost", rtol=1e-7, atol=0)
    for name, rule in (("out_sinkhorn", "default"), ("out_sinkhorn_nn", "nearest")):
        entropic = fit_colour_map(source, target, "sinkhorn", reg, rule)
        case.check(entropic.pixels(source), name, rtol=0, atol=1e-6)
        case.check(entropic.pixels(new), f"{name}_new", rtol=0, atol=1e-6)
    linear = fit_colour_map(source, target, "linear")
    case.check(linear.pixels(source), "out_linear", rtol=1e-5, atol=1e-6)
    case.check(linear.pixels(new), "out_linear_new", rtol=1e-5, atol=1e-6)
