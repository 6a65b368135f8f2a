"""The confusion matrix against a naive count, and its conventions."""

from __future__ import annotations

import math
import sys

import pytest
import torch

from uda.metrics import ConfusionMatrix, confusion, iou, miou


def naive(pred, labels, classes):
    counts = torch.zeros(classes, classes, dtype=torch.int64)
    for p, t in zip(pred.flatten().tolist(), labels.flatten().tolist(), strict=True):
        if 0 <= t < classes:
            counts[t, p] += 1
    return counts


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.int32])
def test_counts(dtype):
    pred, labels = torch.randint(0, 5, (2, 9, 7)), torch.randint(0, 7, (2, 9, 7))
    labels[labels == 6] = 255
    counted = confusion(pred.to(dtype), labels.to(dtype), 5)
    assert counted.dtype == torch.int64
    assert torch.equal(counted, naive(pred, labels, 5))


@pytest.mark.parametrize("classes", [1, 2, 100, 250, 251])
@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.int64, torch.float32])
def test_labels_that_are_no_class_are_not_counted(classes, dtype, monkeypatch):
    monkeypatch.setattr(sys.modules["uda.metrics.confusion"], "_CHUNK", 500)
    generator = torch.Generator().manual_seed(0)
    low, high = (-128, 128) if dtype == torch.int8 else (-300, 600)
    pred = torch.randint(0, classes, (40, 50), generator=generator)
    labels = torch.randint(low, high, (40, 50), generator=generator).to(dtype)
    labels[:, :20] = pred[:, :20].clamp(max=120).to(dtype)
    assert torch.equal(confusion(pred, labels, classes), naive(pred, labels.long(), classes))


def test_updates_and_merging_are_one_count():
    pred, labels = torch.randint(0, 4, (6, 5, 5)), torch.randint(0, 4, (6, 5, 5))
    whole, left, right = ConfusionMatrix(4), ConfusionMatrix(4), ConfusionMatrix(4)
    whole.update(pred, labels)
    added = [left.update(pred[i], labels[i]) for i in range(3)]
    right.update(pred[3:], labels[3:])
    assert torch.equal(sum(added), left.counts)
    assert torch.equal(left.merge(right).counts, whole.counts)
    assert torch.equal(ConfusionMatrix(4, whole.counts).iou(), whole.iou())


def test_absent_and_falsely_predicted_classes():
    matrix = ConfusionMatrix(4)
    matrix.update(torch.tensor([0, 0, 2, 1]), torch.tensor([0, 0, 0, 1]))
    assert matrix.iou()[:3].tolist() == pytest.approx([2 / 3, 1.0, 0.0])
    assert matrix.iou()[3].isnan()
    assert matrix.miou() == pytest.approx((2 / 3 + 1) / 3)
    assert matrix.miou([0, 1]) == pytest.approx((2 / 3 + 1) / 2)
    assert matrix.pixel_accuracy() == pytest.approx(0.75)
    assert matrix.class_accuracy()[0].item() == pytest.approx(2 / 3)
    assert matrix.class_share().tolist() == pytest.approx([0.75, 0.25, 0, 0])


def test_frequent_classes():
    matrix = ConfusionMatrix(3, torch.tensor([[990, 0, 0], [0, 9, 0], [1, 0, 0]]))
    assert matrix.frequent_miou(0.01) == pytest.approx(990 / 991)
    assert matrix.frequent_miou(0.005) == pytest.approx((990 / 991 + 1) / 2)
    assert math.isnan(matrix.frequent_miou(1.0))


def test_all_ignored():
    matrix = ConfusionMatrix(3)
    matrix.update(torch.zeros(4, dtype=torch.long), torch.full((4,), 255))
    assert matrix.counts.sum() == 0
    assert math.isnan(matrix.miou())
    assert math.isnan(matrix.pixel_accuracy())
    assert math.isnan(matrix.frequent_miou())


def test_many_matrices_at_once():
    stack = torch.randint(0, 9, (5, 3, 3))
    assert torch.allclose(miou(stack), torch.stack([iou(one).nanmean() for one in stack]))
    assert miou(stack, [0, 2]).shape == (5,)


def test_errors():
    with pytest.raises(ValueError, match="differ in shape"):
        confusion(torch.zeros(2, 2), torch.zeros(2, 3), 2)
    with pytest.raises(ValueError, match="run from 0 to 2, but there are 2"):
        confusion(torch.tensor([0, 2]), torch.tensor([0, 1]), 2)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        ConfusionMatrix(0)
    with pytest.raises(ValueError, match="cannot merge 2"):
        ConfusionMatrix(3).merge(ConfusionMatrix(2))
    with pytest.raises(ValueError, match="shape"):
        ConfusionMatrix(3, torch.zeros(2, 2))
    # where nothing is scored the prediction does not matter
    assert confusion(torch.tensor([9, 1]), torch.tensor([255, 1]), 2).tolist() == [[0, 0], [0, 1]]
