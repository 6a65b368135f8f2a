"""CLAN, MRNet, IntraDA, DADA and MCC against recorded values."""

from __future__ import annotations

import pytest
import torch

from uda.functional.adversarial import clan_weight_map, weighted_bce_loss
from uda.functional.entropy import class_confusion_loss
from uda.functional.losses import reverse_huber_loss, uncertainty_rectified_loss
from uda.functional.pseudo_labels import entropy_split


@pytest.mark.golden("extra/clan")
def test_clan(case):
    logits, weights = case.t("in_d_out"), clan_weight_map(case.t("in_logits_1"), case.t("in_logits_2"))
    case.check(weights, "out_weight_map")
    options = {"epsilon": case.scalar("param_epsilon"), "weight": case.scalar("param_lambda")}
    loss = weighted_bce_loss(logits, case.scalar("param_label"), weights, **options)
    case.check(loss, "out_loss")
    # our extension: a batch is the mean of its images
    flipped = logits.flip(-1)
    both = weighted_bce_loss(torch.cat([logits, flipped]), 0, weights.expand(2 * len(logits), -1, -1, -1), **options)
    apart = [weighted_bce_loss(one, 0, weights, **options) for one in (logits, flipped)]
    torch.testing.assert_close(both, sum(apart) / 2)


@pytest.mark.golden("extra/uncertainty_rectification")
def test_uncertainty_rectification(case):
    first, second = case.t("in_logits_1", grad=True), case.t("in_logits_2", grad=True)
    loss = uncertainty_rectified_loss(first, second, case.t("in_label"))
    case.check(loss, "out_loss")
    case.check_grad(loss, first, "out_grad_1")
    case.check_grad(loss, second, "out_grad_2")


@pytest.mark.golden("extra/intrada_split")
def test_entropy_split(case):
    easy, hard = entropy_split(case.t("in_entropy"), fraction=case.scalar("param_lambda"))
    case.check_equal(easy, "out_easy")
    case.check_equal(hard, "out_hard")


@pytest.mark.golden("extra/dada_berhu")
def test_reverse_huber(case):
    case.check(reverse_huber_loss(case.t("in_pred"), case.t("in_depth")), "out_loss")
    perfect = case.t("in_depth", grad=True)
    loss = reverse_huber_loss(perfect, case.t("in_depth"))
    (grad,) = torch.autograd.grad(loss, perfect)
    assert loss.item() == 0
    assert not grad.any()


@pytest.mark.golden("extra/mcc")
def test_class_confusion(case):
    logits = case.t("in_logits", grad=True)
    loss = class_confusion_loss(logits, temperature=case.scalar("param_temperature"))
    case.check(loss, "out_loss")
    case.check_grad(loss, logits, "out_grad_logits")
