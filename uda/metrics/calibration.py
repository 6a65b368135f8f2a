"""Calibration of per-pixel confidences over a whole data set (Guo et al. 2017).

torchmetrics' ``MulticlassCalibrationError`` keeps every confidence, which for pixels is gigabytes; here only the sums
of each bin are kept, with the same result.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from uda.types import IGNORE

if TYPE_CHECKING:
    from torch import Tensor


class CalibrationError:
    """Expected calibration error: the mean over pixels of |confidence - accuracy|, in equal bins of confidence.

    Args:
        bins: number of bins of (0, 1].

    Raises:
        ValueError: fewer than one bin.
    """

    def __init__(self, bins: int = 15) -> None:
        if bins < 1:
            raise ValueError(f"bins must be at least 1, got {bins}")
        self.bins = bins
        self.counts = torch.zeros(bins, dtype=torch.float64)
        self.confidences = torch.zeros(bins, dtype=torch.float64)
        self.hits = torch.zeros(bins, dtype=torch.float64)

    def update(self, probabilities: Tensor, labels: Tensor) -> None:
        """Add class probabilities ``(N, C, H, W)`` in [0, 1] and labels ``(N, H, W)`` int64, 255 not scored."""
        confidence, guess = probabilities.detach().max(dim=1)
        self.add(confidence, guess, labels)

    def add(self, confidence: Tensor, guess: Tensor, labels: Tensor) -> None:
        """The same where the largest probability and its class are known, ``(N, H, W)`` each."""
        scored = labels != IGNORE
        confidence, right = confidence[scored].double(), (guess == labels)[scored].double()
        where = (confidence * self.bins).long().clamp(max=self.bins - 1)
        self.counts += torch.bincount(where, minlength=self.bins).cpu()
        self.confidences += torch.bincount(where, confidence, minlength=self.bins).cpu()
        self.hits += torch.bincount(where, right, minlength=self.bins).cpu()

    def merge(self, other: CalibrationError) -> CalibrationError:
        """Add another one's bins to this one and return this one.

        Raises:
            ValueError: another number of bins.
        """
        if other.bins != self.bins:
            raise ValueError(f"cannot merge {other.bins} bins into {self.bins}")
        self.counts += other.counts
        self.confidences += other.confidences
        self.hits += other.hits
        return self

    def reliability(self) -> tuple[Tensor, Tensor, Tensor]:
        """Per bin, float64 ``(bins,)``: mean confidence, accuracy (both NaN for an empty bin) and number of pixels."""
        return self.confidences / self.counts, self.hits / self.counts, self.counts.clone()

    def value(self) -> float:
        """The error in [0, 1]; NaN before any pixel."""
        return float((self.confidences - self.hits).abs().sum() / self.counts.sum())
