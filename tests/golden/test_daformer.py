"""DAFormer's functions against recorded values (its head and teacher: with the models)."""

from __future__ import annotations

import pytest
import torch

from uda.functional.features import class_cells, feature_distance
from uda.functional.labels import downscale_label
from uda.functional.losses import pixel_accuracy, weighted_cross_entropy
from uda.functional.masks import class_mix_masks, label_classes, mix
from uda.functional.pseudo_labels import pseudo_labels
from uda.functional.sampling import rcs_probs
from uda.functional.schedule import warmup_poly


@pytest.mark.golden("daformer/rcs_probs")
def test_rare_class_sampling(case):
    classes, prob = rcs_probs(case.t("in_counts").sum(0), case.scalar("param_temperature"))
    case.check_equal(classes, "out_class")
    case.check(prob, "out_prob", rtol=1e-3, atol=0)
    assert abs(prob.sum().item() - 1) < 1e-6


@pytest.mark.golden("daformer/downscale_label")
def test_downscale_label(case):
    cells = downscale_label(
        case.t("in_label").squeeze(1),
        case.scalar("param_scale"),
        num_classes=case.scalar("param_num_classes"),
        min_ratio=case.scalar("param_min_ratio"),
    )
    case.check_equal(cells[:, None], "out")


@pytest.mark.golden("daformer/feature_distance")
def test_feature_distance(case):
    features, reference = case.t("in_feat", grad=True), case.t("in_feat_ref")
    mask = class_cells(
        case.t("in_label").squeeze(1),
        tuple(features.shape[-2:]),
        case["param_classes"].tolist(),
        num_classes=case.scalar("param_num_classes"),
        min_ratio=case.scalar("param_min_ratio"),
    )
    case.check_equal(mask[:, None], "out_mask")
    loss = case.scalar("param_lambda") * feature_distance(features, reference, mask)
    case.check(loss, "out_loss")
    case.check_grad(loss, features, "out_grad_feat")
    empty = feature_distance(features, reference, torch.zeros_like(mask))
    (grad,) = torch.autograd.grad(empty, features)
    assert empty.item() == 0
    assert not grad.any()


@pytest.mark.golden("daformer/pseudo_label_weight")
def test_pseudo_label_weight(case):
    logits, threshold = case.t("in_logits"), case.scalar("param_threshold")
    labels, weight = pseudo_labels(
        logits,
        threshold=threshold,
        ignore_top=case.scalar("param_ignore_top"),
        ignore_bottom=case.scalar("param_ignore_bottom"),
    )
    case.check_equal(labels, "out_pseudo")
    case.check(weight, "out_weight")
    _, weight = pseudo_labels(logits, threshold=threshold, valid=case.t("in_valid_mask"))
    case.check(weight, "out_weight_valid")


@pytest.mark.golden("daformer/class_masks")
def test_class_masks(case):
    labels = case.t("in_label").squeeze(1)
    chosen = [case.t(f"in_choice_{i}") for i in range(len(labels))]
    everywhere = label_classes(labels)
    assert all(torch.isin(one, everywhere).all() and len(one) == (len(everywhere) + 1) // 2 for one in chosen)
    masks = class_mix_masks(labels, chosen=chosen)
    case.check_equal(masks.long()[:, None], "out_masks")
    case.check_equal(mix(masks, case.t("in_img_src"), case.t("in_img_trg")), "out_img")
    case.check_equal(mix(masks, labels, case.t("in_pseudo"))[:, None], "out_label")
    weight = case.t("in_pseudo_weight")
    case.check_equal(mix(masks, torch.ones_like(weight), weight)[:, None], "out_weight")


@pytest.mark.golden("daformer/weighted_ce")
def test_weighted_cross_entropy(case):
    logits, labels = case.t("in_logits", grad=True), case.t("in_label").squeeze(1)
    loss = weighted_cross_entropy(logits, labels, case.t("in_weight"))
    case.check(loss, "out_loss")
    case.check_grad(loss, logits, "out_grad_logits")
    case.check(weighted_cross_entropy(logits, labels), "out_loss_noweight")
    case.check(pixel_accuracy(logits, labels, count_ignored=True)[None], "out_acc")


@pytest.mark.golden("daformer/lr_schedule")
def test_lr_schedule(case):
    rates = [
        warmup_poly(
            int(i),
            case.scalar("param_base_lr"),
            case.scalar("param_max_iters"),
            case.scalar("param_power"),
            warmup=case.scalar("param_warmup_iters"),
            ratio=case.scalar("param_warmup_ratio"),
            minimum=case.scalar("param_min_lr"),
        )
        for i in case["in_iter"]
    ]
    case.check(rates, "out_lr", rtol=1e-9, atol=1e-10)
