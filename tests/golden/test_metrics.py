"""Segmentation metrics against recorded values; other conventions are reached from ours as each line says."""

from __future__ import annotations

import pytest

from uda.metrics import ConfusionMatrix

RTOL, ATOL = 1e-5, 1e-6
NOT_IN_16 = (9, 14, 16)  # terrain, truck, train: not in SYNTHIA
NOT_IN_13 = (3, 4, 5)  # wall, fence, pole: left out besides


@pytest.mark.golden("metrics/segmentation")
def test_segmentation(case):
    classes = case.scalar("param_num_classes")
    matrix = ConfusionMatrix(classes)
    pred, labels = case.t("in_pred"), case.t("in_gt")
    for one_pred, one_label in zip(pred, labels, strict=True):
        matrix.update(one_pred, one_label)
    case.check_equal(matrix.counts, "out_confusion")
    iou, recall = matrix.iou(), matrix.class_accuracy()
    case.check(iou, "out_iou")
    case.check(iou, "out_mmseg_iou")
    case.check(recall, "out_mmseg_acc")
    case.check(recall.nanmean(), "out_mpa")
    case.check(matrix.pixel_accuracy(), "out_mmseg_aacc")
    case.check(matrix.miou(), "out_miou_nanmean")
    case.check(iou.nan_to_num(0).mean(), "out_miou_nan_as_zero")  # CRST: absent classes count as 0
    case.check(iou.nan_to_num(0).float(), "out_dasac_iou")  # da-sac: 0 for absent classes
    case.check(iou.nan_to_num(0).float(), "out_torchmetrics_iou")  # average none: likewise
    case.check(iou.nanmean().float(), "out_torchmetrics_macro")  # absent from both: not in the mean
    weighted = (iou.nan_to_num(0) * matrix.class_share()).sum()
    case.check(weighted.float(), "out_torchmetrics_weighted")
    hits, total = matrix.counts.diagonal().sum().double(), matrix.counts.sum()
    case.check((hits / (2 * total - hits)).float(), "out_torchmetrics_micro")
    if "out_miou16" in case:
        sixteen = [c for c in range(classes) if c not in NOT_IN_16]
        case.check(matrix.miou(sixteen), "out_miou16")
        case.check(matrix.miou([c for c in sixteen if c not in NOT_IN_13]), "out_miou13")
