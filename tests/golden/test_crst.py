"""CBST and CRST against recorded values."""

from __future__ import annotations

import pytest

from uda.functional.class_balance import (
    class_balanced_labels,
    class_balanced_thresholds,
    mined_classes,
    rare_classes,
    regularised_labels,
)
from uda.functional.losses import mrkld_loss, mrkld_soft_loss


@pytest.mark.golden("crst/class_balanced_thresholds")
def test_thresholds(case):
    confidence, labels = case.t("in_prob").max(1)
    classes = case["in_prob"].shape[1]
    thresholds, selected = class_balanced_thresholds(
        labels, confidence, classes, portion=case.scalar("param_portion"), stride=case.scalar("param_ds_rate")
    )
    case.check_equal(thresholds, "out_cls_thresh")
    case.check_equal(selected, "out_sel_size")
    counts = labels.flatten().bincount(minlength=classes)
    case.check_equal(counts, "out_pred_count")
    case.check_equal(rare_classes(counts, case.scalar("param_rare_num")), "out_rare_id")
    case.check_equal(mined_classes(counts, case.scalar("param_mine_port")), "out_mine_id")


@pytest.mark.golden("crst/pseudo_label_selection")
def test_selection(case):
    prob, thresholds = case.t("in_prob"), case.t("in_cls_thresh")
    case.check_equal(class_balanced_labels(prob, thresholds), "out_hard_pseudo")
    soft, hard = regularised_labels(prob, thresholds, weight=case.scalar("param_lrent_weight"))
    case.check(soft, "out_soft_lrent")
    case.check_equal(hard, "out_hard_lrent")


@pytest.mark.golden("crst/mrkld_loss")
def test_mrkld(case):
    logits = case.t("in_logits", grad=True)
    weight = case.scalar("param_mr_weight_kld")
    loss = mrkld_loss(logits, case.t("in_label"), case.t("in_reg_weight"), weight=weight)
    case.check(loss, "out_loss")
    case.check_grad(loss, logits, "out_grad_logits")


@pytest.mark.golden("crst/mrkld_loss_soft")
def test_mrkld_soft(case):
    weight = case.scalar("param_mr_weight_kld")
    loss = mrkld_soft_loss(case.t("in_logits"), case.t("in_soft_label"), case.t("in_reg_weight"), weight=weight)
    case.check(loss, "out_loss")
