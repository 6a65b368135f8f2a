"""MIC against recorded values."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from uda.functional.losses import weighted_cross_entropy
from uda.functional.masks import block_grid, block_mask
from uda.functional.pseudo_labels import pseudo_labels


@pytest.mark.golden("mic/block_mask")
def test_block_mask(case):
    images, draw, block = case.t("in_img"), case.t("in_rand"), case.scalar("param_block")
    size = tuple(images.shape[-2:])
    assert block_grid(size, block) == tuple(draw.shape[-2:])
    mask = block_mask(size, block=block, ratio=case.scalar("param_mask_ratio"), draw=draw)
    case.check_equal(mask, "out_mask")
    case.check_equal(images * mask, "out_img")


@pytest.mark.golden("mic/masked_consistency_loss")
def test_masked_consistency(case):
    labels, weight = pseudo_labels(case.t("in_teacher_logits"), threshold=case.scalar("param_threshold"))
    case.check_equal(labels, "out_pseudo")
    case.check(weight, "out_weight")
    source, target = case.t("in_img_src"), case.t("in_img_trg")
    mask = block_mask(
        tuple(target.shape[-2:]),
        block=case.scalar("param_block"),
        ratio=case.scalar("param_mask_ratio"),
        draw=case.t("in_rand"),
    )

    def loss(images, labels, weight):
        logits = F.conv2d(images * mask, case.t("w_student")[..., None, None], case.t("b_student"))
        return case.scalar("param_lambda") * weighted_cross_entropy(logits, labels, weight)

    case.check(loss(target, labels, weight), "out_loss_target_only")
    both = torch.stack([source[0], target[0]])
    both_labels = torch.stack([case.t("in_label_src")[0, 0], labels[0]])
    both_weight = torch.stack([torch.ones_like(weight[0]), weight[0]])
    case.check(loss(both, both_labels, both_weight), "out_loss_source_and_target")
