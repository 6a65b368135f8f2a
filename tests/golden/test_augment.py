"""DACS' strong augmentation against kornia's and the authors' code."""

from __future__ import annotations

import pytest

from uda.functional.augment import blur_kernel_size, colour_jitter, gaussian_blur


@pytest.mark.golden("dacs/gaussian_blur")
def test_gaussian_blur(case):
    images = case.t("in_img")
    case.check_equal([blur_kernel_size(size) for size in images.shape[2:]], "out_kernel_size")
    case.check(gaussian_blur(images, case.scalar("param_sigma")), "out", rtol=1e-4, atol=1e-5)


@pytest.mark.golden("dacs/color_jitter")
def test_color_jitter(case):
    mean, std = (case.t(name)[None, :, None, None] for name in ("param_mean", "param_std"))
    factors = [case.scalar(f"param_{name}") for name in ("brightness", "contrast", "saturation", "hue")]
    images = (case.t("in_img") * std + mean) / 255
    out = colour_jitter(images, *factors, order=case["param_order"].tolist())
    # recorded normalised again; the tolerance is on the 0..255 scale
    case.check((out * 255 - mean) / std, "out", rtol=0, atol=1e-3 / float(std.max()))
