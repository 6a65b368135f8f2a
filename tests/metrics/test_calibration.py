"""Calibration error against torchmetrics."""

from __future__ import annotations

import math

import pytest
import torch
from torchmetrics.functional.classification import multiclass_calibration_error

from uda.metrics import CalibrationError


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_against_torchmetrics(bins):
    probabilities = (3 * torch.randn(3, 5, 8, 9)).softmax(1)
    labels = torch.randint(0, 5, (3, 8, 9))
    labels[:, :2] = 255
    left, right = CalibrationError(bins), CalibrationError(bins)
    left.update(probabilities[:1], labels[:1])
    right.update(probabilities[1:], labels[1:])
    expected = multiclass_calibration_error(probabilities, labels, 5, n_bins=bins, norm="l1", ignore_index=255)
    assert left.merge(right).value() == pytest.approx(expected.item(), abs=1e-6)
    confidence, accuracy, counts = left.reliability()
    assert counts.sum() == 3 * 6 * 9
    assert ((accuracy >= 0) | accuracy.isnan()).all()
    assert confidence.shape == (bins,)


def test_sure_and_right_is_zero_sure_and_wrong_is_one():
    sure = torch.zeros(1, 2, 3, 3)
    sure[:, 1] = 1
    right, wrong = CalibrationError(), CalibrationError()
    right.update(sure, torch.ones(1, 3, 3, dtype=torch.long))
    wrong.update(sure, torch.zeros(1, 3, 3, dtype=torch.long))
    assert right.value() == 0
    assert wrong.value() == 1


def test_nothing_scored_and_errors():
    error = CalibrationError()
    error.update(torch.rand(1, 2, 2, 2), torch.full((1, 2, 2), 255))
    assert math.isnan(error.value())
    with pytest.raises(ValueError, match="at least 1, got 0"):
        CalibrationError(0)
    with pytest.raises(ValueError, match="cannot merge 3"):
        error.merge(CalibrationError(3))
