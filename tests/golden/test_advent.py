"""ADVENT and MinEnt against recorded values."""

from __future__ import annotations

import pytest
import torch

from uda.functional.adversarial import bce_loss
from uda.functional.entropy import entropy_loss, self_information
from uda.functional.losses import cross_entropy_2d
from uda.functional.schedule import poly


@pytest.mark.golden("advent/prob_2_entropy")
def test_self_information(case):
    case.check(self_information(case.t("in_prob")), "out")


@pytest.mark.golden("advent/entropy_loss")
def test_entropy_loss(case):
    logits = case.t("in_logits", grad=True)
    loss = entropy_loss(logits.softmax(1))
    case.check(loss, "out_loss")
    case.check_grad(loss, logits, "out_grad_logits")


@pytest.mark.golden("advent/bce_loss")
def test_bce_loss(case):
    logits = case.t("in_logits", grad=True)
    case.check(bce_loss(logits, 0), "out_loss_label0")
    case.check(bce_loss(logits, 1), "out_loss_label1")
    case.check_grad(bce_loss(logits, 0), logits, "out_grad_label0")


@pytest.mark.golden("advent/cross_entropy_2d")
def test_cross_entropy_2d(case):
    logits = case.t("in_logits", grad=True)
    loss = cross_entropy_2d(logits, case.t("in_label"))
    case.check(loss, "out_loss")
    case.check_grad(loss, logits, "out_grad_logits")
    ignored = torch.full_like(case.t("in_label"), 255)
    assert cross_entropy_2d(logits, ignored).item() == 0
    assert cross_entropy_2d(logits, ignored, empty_is_nan=True).isnan()


@pytest.mark.golden("advent/lr_schedule")
def test_lr_schedule(case):
    args = case.scalar("param_base_lr"), case.scalar("param_max_iter"), case.scalar("param_power")
    rates = [poly(int(i), *args) for i in case["in_iter"]]
    case.check(rates, "out_lr_group0", rtol=1e-9, atol=1e-10)
    case.check([10 * rate for rate in rates], "out_lr_group1", rtol=1e-9, atol=1e-10)


@pytest.mark.golden("adaptsegnet/lr_schedule")
def test_adaptsegnet_lr_schedule(case):
    total, power = case.scalar("param_num_steps"), case.scalar("param_power")
    rates = [poly(int(i), case.scalar("param_base_lr"), total, power) for i in case["in_iter"]]
    case.check(rates, "out_lr", rtol=1e-9, atol=1e-10)
    case.check([10 * rate for rate in rates], "out_lr_classifier", rtol=1e-9, atol=1e-10)
    rates = [poly(int(i), case.scalar("param_base_lr_d"), total, power) for i in case["in_iter"]]
    case.check(rates, "out_lr_d", rtol=1e-9, atol=1e-10)
