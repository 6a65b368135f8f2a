"""DACS and ClassMix against recorded values."""

from __future__ import annotations

import pytest
import torch

from uda.functional.losses import weighted_cross_entropy
from uda.functional.masks import choose_classes, class_mask, class_mix_masks, label_classes, mix
from uda.functional.pseudo_labels import confidence_weight, confident_labels, confident_share


@pytest.mark.golden("dacs/class_mix")
def test_class_mix(case):
    labels, classes = case.t("in_label_src"), case.t("in_classes")
    assert len(choose_classes(label_classes(labels))) == case.scalar("out_n_choose")
    mask = class_mask(labels, classes)
    case.check_equal(mask.long()[None], "out_mask")
    assert torch.equal(class_mix_masks(labels[None], chosen=[classes]), mask[None])
    case.check_equal(mix(mask, case.t("in_img_src"), case.t("in_img_trg")), "out_img")
    case.check_equal(mix(mask, labels, case.t("in_label_trg")), "out_label")
    weight = case.t("in_weight_trg")
    case.check_equal(mix(mask, torch.ones_like(weight), weight), "out_weight")


@pytest.mark.golden("dacs/pixel_weight")
def test_pixel_weight(case):
    threshold = case.scalar("param_threshold")
    labels, confidence = confident_labels(case.t("in_logits_trg"))
    case.check_equal(labels, "out_pseudo")
    case.check(confident_share(confidence, threshold), "out_fraction")
    mask, student, mixed = case.t("in_mask"), case.t("in_logits_student", grad=True), case.t("in_label_mixed")
    losses = {}
    for mode in ("uniform", "pixel"):
        weight = confidence_weight(confidence, threshold=threshold, mode=mode)
        weight = mix(mask, torch.ones_like(weight), weight)
        case.check(weight, f"out_weight_{mode}")
        losses[mode] = weighted_cross_entropy(student, mixed, weight)
        case.check(losses[mode], f"out_loss_{mode}")
    case.check_grad(losses["uniform"], student, "out_grad_uniform")
