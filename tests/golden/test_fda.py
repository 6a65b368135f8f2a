"""FDA's amplitude swap against the authors' code."""

from __future__ import annotations

import pytest
import torch

from uda.functional.fourier import fda_source_to_target, half_width, low_freq_swap


@pytest.mark.golden("fda/source_to_target")
def test_source_to_target(case):
    source, target = case.t("in_src")[None], case.t("in_trg")[None]
    for dtype, rtol, atol in ((torch.float64, 1e-9, 1e-8), (torch.float32, 0, 2e-4)):
        bands = [fda_source_to_target(source.to(dtype), target.to(dtype), float(beta))[0] for beta in case["param_L"]]
        case.check(torch.stack(bands), "out", rtol=rtol, atol=atol)
    assert [half_width(*source.shape[2:], float(beta)) for beta in case["param_L"]] == case["param_b"].tolist()


@pytest.mark.golden("fda/low_freq_corners")
def test_low_freq_corners(case):
    source, target = case.t("in_amp_src"), case.t("in_amp_trg")
    case.check_equal(torch.stack([low_freq_swap(source, target, float(beta)) for beta in case["param_L"]]), "out")
