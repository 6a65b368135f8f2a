"""Maximum squares losses against recorded values."""

from __future__ import annotations

import pytest
import torch

from uda.functional.entropy import (
    iw_max_squares_loss,
    iw_soft_cross_entropy,
    max_squares_loss,
    soft_cross_entropy,
)


@pytest.mark.golden("maxsquare/max_square")
def test_max_squares(case):
    logits = case.t("in_logits", grad=True)
    loss = max_squares_loss(logits.softmax(1))
    case.check(loss, "out_loss")
    case.check_grad(loss, logits, "out_grad_logits")


@pytest.mark.golden("maxsquare/iw_max_square")
def test_iw_max_squares(case):
    logits, ratio = case.t("in_logits", grad=True), case.scalar("param_ratio")
    loss = iw_max_squares_loss(logits.softmax(1), ratio=ratio)
    case.check(loss, "out_loss")
    case.check_grad(loss, logits, "out_grad_logits")
    # our extension: the loss of a batch is the mean of the losses of its images
    flipped = logits.flip(1)
    both = iw_max_squares_loss(torch.cat([logits, flipped]).softmax(1), ratio=ratio)
    apart = iw_max_squares_loss(flipped.softmax(1), ratio=ratio)
    torch.testing.assert_close(both, (loss + apart) / 2)


@pytest.mark.golden("maxsquare/iw_soft_ce")
def test_soft_cross_entropy(case):
    logits, target = case.t("in_logits"), case.t("in_target")
    case.check(soft_cross_entropy(logits, target), "out_soft_ce")
    case.check(iw_soft_cross_entropy(logits, target, ratio=case.scalar("param_ratio")), "out_iw_soft_ce")
