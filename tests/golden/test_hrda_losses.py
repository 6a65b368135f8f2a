"""HRDA's loss terms against recorded values."""

from __future__ import annotations

import pytest

from uda.functional.losses import hrda_losses


@pytest.mark.golden("hrda/losses")
def test_losses(case):
    terms = hrda_losses(
        case.t("in_fused"),
        case.t("in_lr"),
        case.t("in_hr"),
        case.t("in_label").squeeze(1),
        case.t("in_weight"),
        tuple(case["param_crop_box"].tolist()),
        low_weight=case.scalar("param_lr_weight"),
        high_weight=case.scalar("param_hr_weight"),
    )
    case.check(terms.fused, "out_loss_fused")
    case.check(terms.low, "out_loss_lr")
    case.check(terms.high, "out_loss_hr")
    case.check(sum(terms), "out_total")
