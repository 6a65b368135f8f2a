"""FDA's losses and pseudo-labels against recorded values (its Fourier swap: test_fda)."""

from __future__ import annotations

import pytest
import torch

from uda.functional.class_balance import multiband_probabilities, portion_thresholds, threshold_labels
from uda.functional.entropy import FDA_ENTROPY_SCALE, robust_entropy_loss
from uda.functional.losses import cross_entropy_2d


@pytest.mark.golden("fda/robust_entropy")
def test_robust_entropy(case):
    logits, eta = case.t("in_logits", grad=True), case.scalar("param_ita")
    loss = robust_entropy_loss(logits, eta=eta, scale=FDA_ENTROPY_SCALE)
    case.check(loss, "out_loss_ent")
    case.check_grad(loss, logits, "out_grad_logits")
    segmentation = cross_entropy_2d(logits, case.t("in_label"), class_weight=case.t("param_class_weight"))
    case.check(segmentation, "out_loss_seg")
    # our default divides by ln C: uniform predictions have entropy 1 for any number of classes
    uniform = robust_entropy_loss(torch.zeros_like(logits), eta=eta)
    torch.testing.assert_close(uniform, torch.tensor(1.0), rtol=1e-4, atol=0)


@pytest.mark.golden("fda/multiband_pseudo_label")
def test_multiband_pseudo_labels(case):
    logits = [case.t(name) for name in case.names("in_logits_")]
    size = tuple(int(n) for n in case["param_out_size"])
    prob = multiband_probabilities(logits, size, weights=(0.3333, 0.3333, 1 - 0.6666))
    confidence, labels = prob.max(1)
    thresholds = portion_thresholds(labels, confidence, prob.shape[1])
    case.check(thresholds.double(), "out_thresholds")
    found, recorded = threshold_labels(labels, confidence, thresholds), case.t("out_pseudo").long()
    close = (confidence - thresholds[labels]).abs() < 1e-6
    assert torch.equal(found[~close], recorded[~close])
