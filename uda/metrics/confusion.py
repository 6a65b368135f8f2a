"""Intersection over union from one confusion matrix over a whole data set.

Rows are ground truth, columns predictions, int64. A pixel is scored if its label is one of the classes, so 255 and
any other id are not. A class without any pixel has IoU NaN and is left out of the mean. Which classes have one is
named, as two definitions are in use:

* ``over="present"``: classes that are labelled or predicted; one that is predicted without ever being labelled has
  IoU 0 and counts (ADVENT, AdaptSegNet, ProDA, mmsegmentation).
* ``over="labelled"``: classes that are labelled, so that all models are averaged over the same ones; a class that is
  only ever predicted costs the classes whose pixels it takes, and nothing more (evaluations, tables, intervals).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from uda.opencv import cv2

if TYPE_CHECKING:
    import numpy.typing as npt
    from torch import Tensor

Over = Literal["present", "labelled"]
"""Which classes a mean runs over, see the head of this file."""
_FEW = 250
"""Classes whose pairs have uint16 numbers."""
_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
_CHUNK = 2**17
"""Pixels that are counted together: their arrays are in memory already, and OpenCV's counts, in float32, are exact."""


def confusion(pred: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Confusion matrix ``(C, C)`` int64 of predicted ids and labels, integer tensors of one shape.

    Raises:
        ValueError: shapes differ, or a scored pixel's prediction is no class id.
    """
    if pred.shape != labels.shape:
        raise ValueError(f"predictions {tuple(pred.shape)} and labels {tuple(labels.shape)} differ in shape")
    if num_classes <= _FEW and all(x.device.type == "cpu" and x.dtype in _INTEGERS for x in (pred, labels)):
        few = _few_classes(pred.numpy().reshape(-1), labels.numpy().reshape(-1), num_classes)
        if few is not None:
            return torch.from_numpy(few)
    labels, pred = labels.reshape(-1).long(), pred.reshape(-1).long()
    scored = (labels >= 0) & (labels < num_classes)
    guess = pred.masked_fill(~scored, 0)
    low, high = map(int, guess.aminmax()) if guess.numel() else (0, 0)
    if low < 0 or high >= num_classes:
        low, high = map(int, pred[scored].aminmax())
        raise ValueError(f"predicted ids run from {low} to {high}, but there are {num_classes} classes")
    # pixels that are not scored have a bin of their own: it takes a third of the time of picking the others
    bins = (labels * num_classes + guess).masked_fill(~scored, num_classes**2)
    counts = torch.bincount(bins, minlength=num_classes**2 + 1)
    return counts[:-1].view(num_classes, num_classes)


def _few_classes(
    pred: npt.NDArray[np.integer], labels: npt.NDArray[np.integer], num_classes: int
) -> npt.NDArray[np.int64] | None:
    """:func:`confusion` of flat arrays in a tenth of its time; ``None`` where a prediction is no class id."""
    if labels.dtype == np.int8:  # -128 without its sign may be a class
        labels = labels.astype(np.int16)
    if not len(pred) or pred.min() < 0 or pred.max() >= num_classes:
        return None
    counts = np.zeros(num_classes**2, np.int64)
    unsigned = labels.view(np.dtype(f"u{labels.itemsize}"))
    for start in range(0, len(pred), _CHUNK):
        # whatever is no class becomes num_classes: negative ids are large ones without a sign
        bins = np.minimum(unsigned[start : start + _CHUNK], num_classes).astype(np.uint16)
        bins *= np.uint16(num_classes)
        bins += pred[start : start + _CHUNK].astype(np.uint16)
        counts += cv2.calcHist([bins[None]], [0], None, [num_classes**2], [0, num_classes**2]).ravel().astype(np.int64)
    return counts.reshape(num_classes, num_classes)


def class_counts(matrix: Tensor) -> Tensor:
    """All that IoU needs of matrices ``(..., C, C)``: ``(..., 3, C)`` hits, labelled and predicted pixels."""
    return torch.stack([matrix.diagonal(dim1=-2, dim2=-1), matrix.sum(-1), matrix.sum(-2)], dim=-2)


def iou(matrix: Tensor, over: Over = "present") -> Tensor:
    """IoU of each class, float64 ``(..., C)`` in [0, 1], of matrices ``(..., C, C)``; NaN where a class is left out."""
    return iou_of_counts(class_counts(matrix), over)


def iou_of_counts(counts: Tensor, over: Over = "present") -> Tensor:
    """:func:`iou` of :func:`class_counts` ``(..., 3, C)``, which may be sums over images, weighted ones too."""
    hits, labelled, predicted = counts.double().unbind(-2)
    scores = hits / (labelled + predicted - hits)
    return scores if over == "present" else scores.masked_fill(labelled == 0, float("nan"))


def miou(matrix: Tensor, subset: Sequence[int] | None = None, over: Over = "present") -> Tensor:
    """Mean IoU over the classes that are there, float64 ``(...)``, of matrices ``(..., C, C)``; NaN if none is.

    Args:
        matrix: see :func:`iou`.
        subset: the class ids of the mean, e.g. SYNTHIA's 16 or 13 of Cityscapes' 19. The others' pixels still count
            as errors of these, as in the papers.
        over: which classes are there, ``"present"`` or ``"labelled"`` ones (see the head of this file).
    """
    return miou_of_counts(class_counts(matrix), subset, over)


def miou_of_counts(counts: Tensor, subset: Sequence[int] | None = None, over: Over = "present") -> Tensor:
    """:func:`miou` of :func:`class_counts` ``(..., 3, C)``."""
    scores = iou_of_counts(counts, over)
    return (scores if subset is None else scores[..., list(subset)]).nanmean(-1)


class ConfusionMatrix:
    """Counts of (label, prediction) pairs that grow over a data set and merge across workers.

    Args:
        num_classes: classes C.
        counts: ``(C, C)`` int64 to start from.

    Raises:
        ValueError: fewer than one class, or counts of another shape.
    """

    def __init__(self, num_classes: int, counts: Tensor | None = None) -> None:
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        if counts is not None and tuple(counts.shape) != (num_classes, num_classes):
            raise ValueError(f"counts of {num_classes} classes have shape {tuple(counts.shape)}")
        self.num_classes = num_classes
        self.counts = torch.zeros(num_classes, num_classes, dtype=torch.int64)
        if counts is not None:
            self.counts = self.counts + counts.long().cpu()

    def update(self, pred: Tensor, labels: Tensor) -> Tensor:
        """Add predicted ids and labels, integers of one shape on any device; returns what was added, ``(C, C)``."""
        added = confusion(pred, labels, self.num_classes).to(self.counts.device)
        self.counts += added
        return added

    def merge(self, other: ConfusionMatrix) -> ConfusionMatrix:
        """Add another matrix's counts to this one and return this one.

        Raises:
            ValueError: another number of classes.
        """
        if other.num_classes != self.num_classes:
            raise ValueError(f"cannot merge {other.num_classes} classes into {self.num_classes}")
        self.counts += other.counts.to(self.counts.device)
        return self

    def iou(self, over: Over = "present") -> Tensor:
        """IoU of each class, float64 ``(C,)``; NaN for a class that is left out."""
        return iou(self.counts, over)

    def miou(self, subset: Sequence[int] | None = None, over: Over = "present") -> float:
        """Mean IoU over the classes that are there, all or those of ``subset``; NaN before any pixel."""
        return float(miou(self.counts, subset, over))

    def class_share(self) -> Tensor:
        """Share of the scored pixels labelled as each class, float64 ``(C,)``; zeros before any pixel."""
        rows = self.counts.sum(1).double()
        return rows / rows.sum().clamp(min=1)

    def frequent_miou(self, min_share: float = 0.01) -> float:
        """Mean IoU over the classes that label at least ``min_share`` of the scored pixels; NaN where none does."""
        frequent = (self.class_share() >= min_share).nonzero().flatten().tolist()
        return self.miou(frequent) if frequent else float("nan")

    def pixel_accuracy(self) -> float:
        """Share of the scored pixels that are right, in [0, 1]; NaN before any pixel."""
        return float(self.counts.diagonal().sum().double() / self.counts.sum())

    def class_accuracy(self) -> Tensor:
        """Share of each class's pixels that are right (recall), float64 ``(C,)``; NaN for a class never labelled."""
        return self.counts.diagonal().double() / self.counts.sum(1)
