"""ProDA against recorded values; its ignored label 250 is a parameter here."""

from __future__ import annotations

import pytest
import torch

from uda.functional.losses import (
    cross_entropy_2d,
    kld_regulariser,
    negative_entropy,
    reverse_cross_entropy,
    symmetric_cross_entropy,
)
from uda.functional.prototypes import (
    class_mean,
    distillation_loss,
    prototype_consistency,
    prototype_distance,
    prototype_update,
    prototype_weight,
    rectify,
)


@pytest.mark.golden("proda/class_mean")
def test_class_mean(case):
    features, logits = case.t("in_feat"), case.t("in_logits")
    variants = {
        "": {},
        "_label": {"labels": case.t("in_label").squeeze(1).long()},
        "_thresh": {"threshold": case.scalar("param_thresh")},
    }
    for suffix, options in variants.items():
        vectors, ids = class_mean(features, logits, **options)
        case.check(vectors, f"out_vectors{suffix}", rtol=1e-4, atol=1e-5)
        case.check_equal(ids, f"out_ids{suffix}")


@pytest.mark.golden("proda/prototype_update")
def test_prototype_update(case):
    vectors, ids, classes = case.t("in_vectors"), case.t("in_ids"), case.scalar("param_n_classes")
    start = torch.zeros(classes, vectors.shape[1]), torch.zeros(classes)
    prototypes, counts = prototype_update(*start, vectors, ids, momentum=None)
    case.check(prototypes, "out_proto_mean")
    case.check_equal(counts, "out_count")
    moved, _ = prototype_update(prototypes, counts, vectors, ids, momentum=case.scalar("param_momentum"))
    case.check(moved, "out_proto_moving")


@pytest.mark.golden("proda/prototype_weight")
def test_prototype_weight(case):
    distance = prototype_distance(case.t("in_feat"), case.t("in_proto"))
    case.check(distance, "out_distance")
    weight = prototype_weight(distance, temperature=case.scalar("param_temperature"))
    case.check(weight, "out_weight")
    threshold = case.scalar("param_thred")
    labels, rectified = rectify(weight, case.t("in_soft_label"), threshold=threshold, ignore_index=250)
    case.check_equal(labels[:, None], "out_label")
    ours, _ = rectify(weight, case.t("in_soft_label"), threshold=threshold)
    assert torch.equal(ours == 255, labels == 250)
    torch.testing.assert_close(rectified.sum(1), torch.ones_like(rectified[:, 0]))


@pytest.mark.golden("proda/symmetric_ce")
def test_symmetric_cross_entropy(case):
    logits, labels = case.t("in_logits", grad=True), case.t("in_label")
    case.check(cross_entropy_2d(logits, labels, ignore_index=250), "out_ce")
    case.check(reverse_cross_entropy(logits, labels, ignore_index=250), "out_rce")
    loss = symmetric_cross_entropy(logits, labels, ignore_index=250)
    case.check(loss, "out_symmetric")
    case.check_grad(loss, logits, "out_grad_symmetric")
    case.check(kld_regulariser(logits), "out_reg_mrkld")
    case.check(negative_entropy(logits), "out_reg_mrent")
    ours = labels.masked_fill(labels == 250, 255)
    torch.testing.assert_close(symmetric_cross_entropy(logits, ours), loss)
    assert symmetric_cross_entropy(logits, torch.full_like(ours, 255)).item() == 0


@pytest.mark.golden("proda/consistency")
def test_consistency(case):
    student, teacher = case.t("in_dist_student", grad=True), case.t("in_dist_teacher")
    loss = prototype_consistency(student, teacher, temperature=case.scalar("param_temperature"))
    case.check(loss, "out_consistency")
    case.check_grad(loss, student, "out_grad_dist_student")
    logits = case.t("in_logits_student"), case.t("in_logits_teacher")
    case.check(distillation_loss(*logits), "out_distillation_kl")
    case.check(distillation_loss(*logits, as_published=True), "out_distillation_as_published")
