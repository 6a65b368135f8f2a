"""DA-SAC against recorded values."""

from __future__ import annotations

import pytest
import torch

from uda.functional.fusion import average_pool, minimum_entropy_pool, refine
from uda.functional.losses import confidence_weighted_mean, focal_loss_map, loss_by_class
from uda.functional.pseudo_labels import running_confidence, sac_pseudo_labels


@pytest.mark.golden("dasac/running_conf")
def test_running_confidence(case):
    beta, momentum = case.scalar("param_beta"), case.scalar("param_momentum")
    running, history = torch.full((case["in_probs"].shape[2],), beta), []
    for prob in case.t("in_probs"):
        running = running_confidence(running, prob, beta=beta, momentum=momentum)
        history.append(running)
    case.check(torch.stack(history), "out_running")


@pytest.mark.golden("dasac/pseudo_labels")
def test_pseudo_labels(case):
    prior, logits = case.t("in_running_conf"), case.t("in_logits")
    labels, confidence = sac_pseudo_labels(
        case.t("in_probs"),
        prior,
        beta=case.scalar("param_beta"),
        upper=case.scalar("param_upper"),
        lower=case.scalar("param_lower"),
        invalid=case.t("in_ignore"),
    )
    case.check_equal(labels, "out_pseudo")
    case.check_equal(confidence[:, None], "out_conf")
    loss = focal_loss_map(logits, labels, prior)
    case.check(loss.mean(), "out_loss_focal")
    case.check(loss_by_class(loss, labels, logits.shape[1]), "out_loss_per_class")
    case.check(confidence_weighted_mean(loss, confidence[:, None], mix_batch=True), "out_loss_focal_conf")
    # ours: each image with its own confidence
    own = torch.stack(
        [confidence_weighted_mean(a[None], b[None]) for a, b in zip(loss, confidence, strict=True)]
    ).mean()
    torch.testing.assert_close(confidence_weighted_mean(loss, confidence), own)
    torch.testing.assert_close(confidence_weighted_mean(loss, confidence[:, None]), own)


@pytest.mark.golden("dasac/fusion")
def test_fusion(case):
    tolerance = {"rtol": 1e-4, "atol": 1e-5}
    prob, views = case.t("in_probs"), case.scalar("param_T")
    for name, pool in (("avg", average_pool), ("minent", minimum_entropy_pool)):
        fused, mask = pool(prob, views)
        case.check(fused, f"out_{name}", **tolerance)
        case.check_equal(mask, f"out_{name}_mask")
    refined = refine(case.t("in_logits"), case.t("in_affine"), case.t("in_affine_inv"), case.t("in_ignore"), views)
    case.check(refined, "out_refined", **tolerance)
