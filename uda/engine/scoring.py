"""What an image's logits say and how wrong they are, without looking at more of them than must be.

On a CPU and from logits of a lower resolution: bilinear upsampling is linear between two of its rows (or columns), so

* a class that is the highest at both is the highest between them; all classes are compared where the two differ alone;
* the exponential of a class's logit changes by the same factor from each row to the next: two exponentials and a
  product for each row are the whole sum under the cross-entropy's logarithm.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from uda.engine.inference import at_size
from uda.opencv import cv2
from uda.types import IGNORE

Floats = npt.NDArray[np.float32]
Classes = npt.NDArray[np.uint8]

BAND_BYTES = 2_500_000
"""Of logits that are looked at together: few enough to stay in a processor's cache from one operation to the next."""
LEAST_FACTOR, LEAST_PIXELS = 3, 2**18
"""Of rows and of columns, and of the image, for it to be quicker not to upsample all logits."""
RANGE = 80.0
"""Between logits of a pixel, at most, for float32 to hold their exponentials side by side."""


def predict_and_loss(logits: Tensor, label: Tensor) -> tuple[Tensor, float]:
    """The most probable classes and the mean cross-entropy over the labelled pixels.

    On a CPU in a fraction of the time of upsampling, ``argmax`` and ``cross_entropy``, and without a second copy of the
    logits; the classes are theirs (of equal ones the first) and the loss is theirs up to rounding.

    Args:
        logits: ``(C, h, w)`` floating point; of another size than the label's they are brought to it as by
            :func:`~uda.engine.inference.at_size`.
        label: ``(H, W)`` int64 in [0, C), ``IGNORE`` where there is none.

    Returns:
        ``(H, W)`` integers, and a natural logarithm; NaN where no pixel is labelled.
    """
    logits = logits.detach().float()
    if logits.device.type != "cpu" or len(logits) > IGNORE:
        logits = at_size(logits[None], label.shape)[0]
        return logits.argmax(0), F.cross_entropy(logits[None], label[None], ignore_index=IGNORE).item()
    if _is_simple(logits, label.shape):
        classes, total = _upsampled(logits, label.shape, label)
    else:
        classes, total = _in_bands(logits, label)
    labelled = int(np.count_nonzero(label.numpy() != IGNORE))
    return torch.from_numpy(classes), total / labelled if labelled else math.nan


def most_probable(logits: Tensor, size: Sequence[int] | None = None) -> Tensor:
    """The class of the highest logit, the first of equal ones, as ``argmax`` says it in four times as long.

    Args:
        logits: ``(C, h, w)`` floating point.
        size: ``(H, W)`` of the result, to which logits of another size are brought; by default their own.

    Returns:
        ``(H, W)``, uint8 on a CPU, int64 elsewhere and of more than 255 classes.
    """
    logits = logits.detach().float()
    size = logits.shape[-2:] if size is None else size
    if logits.device.type != "cpu" or len(logits) > IGNORE:
        return at_size(logits[None], size)[0].argmax(0)
    if _is_simple(logits, size):
        return torch.from_numpy(_upsampled(logits, size, None)[0])
    values = at_size(logits[None], size)[0].numpy().reshape(len(logits), -1)
    classes = np.empty(values.shape[1], np.uint8)
    pixels = max(1, BAND_BYTES // (4 * len(values)))
    for start in range(0, len(classes), pixels):
        classes[start : start + pixels] = _highest(values[:, start : start + pixels])[0]
    return torch.from_numpy(classes.reshape(tuple(size)))


def _highest(values: Floats) -> tuple[Classes, Floats]:
    """The first of the highest along the first dimension, and the highest, of at most 255."""
    count = len(values)
    highest = values.max(0)
    # the first of `count` classes is stored as `count`, so that the first of equal ones is the highest
    reverse = np.zeros(highest.shape, np.uint8)
    is_highest = np.empty(highest.shape, np.bool_)
    rank = is_highest.view(np.uint8)
    for index in range(count):
        np.equal(values[index], highest, out=is_highest)
        np.multiply(rank, np.uint8(count - index), out=rank)
        np.maximum(reverse, rank, out=reverse)
    classes = np.subtract(np.uint8(count), reverse)
    nothing = reverse == 0
    if nothing.any():  # NaN equals nothing
        classes[nothing] = values[:, nothing].argmax(0)
    return classes, highest


def _in_bands(logits: Tensor, label: Tensor) -> tuple[Classes, float]:
    """Classes and the sum of the losses, of logits of any kind, from a few rows at a time."""
    logits = at_size(logits[None], label.shape)[0]
    height, width = label.shape
    rows = max(1, BAND_BYTES // (4 * len(logits) * width))
    classes = np.empty((height, width), np.uint8)
    scaled = torch.empty(len(logits), rows, width)
    total = 0.0
    for top in range(0, height, rows):
        band, truth = logits[:, top : top + rows], label[top : top + rows]
        classes[top : top + rows], array = _highest(band.numpy())
        highest = torch.from_numpy(array)
        labelled = truth != IGNORE
        of_label = band.gather(0, truth.masked_fill(~labelled, 0)[None])[0]
        loss = torch.sub(band, highest, out=scaled[:, : len(truth)]).exp_().sum(0).log_().add_(highest).sub_(of_label)
        total += float(loss.masked_fill_(~labelled, 0).sum(dtype=torch.float64))
    return classes, total


class _Axis(NamedTuple):
    """Where the rows of an upsampled image lie between those that it is made of, whose outermost are there twice."""

    counts: npt.NDArray[np.int64]
    """``(n + 1,)``: rows between the first and its copy, between the first and the second, ..., after the last."""
    shares: Floats
    """Of each new row: that of the one after it, in [0, 1)."""
    step: float
    """From one share to the next between the same two."""

    @classmethod
    def of(cls, small: int, large: int) -> _Axis:
        """About the centres of pixels (``align_corners=False``)."""
        position = (np.arange(large) + 0.5) * (small / large) - 0.5
        before = np.floor(position)
        counts = np.bincount(before.astype(np.int64) + 1, minlength=small + 1)
        return cls(counts, (position - before).astype(np.float32), small / large)

    def part(self, start: int, stop: int) -> _Axis:
        """What lies after the rows from ``start`` to before ``stop``."""
        first, last = int(self.counts[:start].sum()), int(self.counts[:stop].sum())
        return _Axis(self.counts[start:stop], self.shares[first:last], self.step)


def _is_simple(logits: Tensor, size: Sequence[int]) -> bool:
    """Whether there are rows and columns to save, and no exponential over- or underflows."""
    larger = size[0] >= LEAST_FACTOR * logits.shape[1] and size[1] >= LEAST_FACTOR * logits.shape[2]
    if not larger or size[0] * size[1] < LEAST_PIXELS:
        return False
    return float((logits.amax(0) - logits.amin(0)).max()) < RANGE  # false where there is NaN


def _upsampled(logits: Tensor, size: Sequence[int], label: Tensor | None) -> tuple[Classes, float]:
    """Classes and the sum of the losses, of logits that are upsampled only where it matters."""
    height, width = size
    columns, rows = _Axis.of(logits.shape[2], width), _Axis.of(logits.shape[1], height)
    # the cross-entropy is that of any logits that differ from these by as much for all classes
    small = np.pad((logits - logits.amax(0)).numpy(), ((0, 0), (1, 1), (1, 1)), mode="edge")
    turned = np.ascontiguousarray(small.transpose(0, 2, 1))
    best = np.ascontiguousarray(_between(_highest(turned)[0], turned, columns).T)
    inner = np.ascontiguousarray(small[..., 1:-1])
    predicted = np.empty((height, width), np.uint8)
    losses = None if label is None else _Losses(len(small), width, int(rows.counts.max()))
    band = max(1, BAND_BYTES // (4 * len(small) * width))
    wide = np.empty((len(small), band + 1, width), np.float32)
    total, start = 0.0, 0
    for first in range(0, len(rows.counts), band):
        part = rows.part(first, first + band)
        rows_there = slice(first, first + len(part.counts) + 1)
        values = wide[:, : len(part.counts) + 1]
        for plane, place in zip(inner[:, rows_there], values, strict=True):
            cv2.resize(plane, (width, len(plane)), dst=place, interpolation=cv2.INTER_LINEAR)
        stop = start + len(part.shares)
        predicted[start:stop] = _between(best[rows_there], values, part)
        if losses is not None and label is not None:
            total += losses.sum(values, part, label[start:stop])
        start = stop
    return predicted, total


def _between(best: Classes, values: Floats, axis: _Axis) -> Classes:
    """The highest classes of the rows between those whose highest are known.

    Args:
        best: ``(n, m)``, of the rows.
        values: ``(C, n, m)``.
        axis: where the ``n'`` new rows lie.

    Returns:
        ``(n', m)``.
    """
    width = best.shape[1]
    predicted = np.repeat(best[:-1], axis.counts, axis=0)
    flat, flat_values = predicted.reshape(-1), torch.from_numpy(values).flatten(1)
    first = np.cumsum(axis.counts) - axis.counts
    offset = np.arange(axis.counts.max())[:, None]
    differing = np.flatnonzero(best[1:] != best[:-1])
    size = max(1, BAND_BYTES // (4 * len(values) * max(1, len(offset))))
    for start in range(0, len(differing), size):
        above = differing[start : start + size]
        row, column = np.divmod(above, width)
        there = offset < axis.counts[row]
        below = (first[row] + offset).clip(max=len(axis.shares) - 1)
        upper, lower = (flat_values.index_select(1, torch.from_numpy(x))[:, None] for x in (above, above + width))
        between = torch.lerp(upper, lower, torch.from_numpy(axis.shares[below]))
        classes = _highest(between.numpy())[0]
        flat[(below * width + column)[there]] = classes[there]
    return predicted


class _Losses:
    """Cross-entropy of rows between logits, with the memory that it takes.

    Args:
        classes: C.
        width: W.
        most: rows between two, at most.
    """

    def __init__(self, classes: int, width: int, most: int) -> None:
        # the plane of a label is the exponential of its logit; that of no label is the sum of all, whose loss is 0
        self._down, self._up = np.empty((2, IGNORE + 1, width), np.float32)
        self._of_all, self._of_label = np.empty((2, most, width), np.float32)
        self._factor = np.empty((classes, width), np.float32)
        self._column, self._places = torch.arange(width), torch.empty(most, width, dtype=torch.int64)
        self._rows_of_places = list(self._places.numpy())

    def sum(self, logits: Floats, axis: _Axis, label: Tensor) -> float:
        """Over the labelled pixels of ``label`` ``(n', W)``, between logits ``(C, n, W)``."""
        classes, _, width = logits.shape
        up, down, factor = self._up[:classes], self._down[:classes], self._factor
        shares, sums, start = axis.shares.tolist(), list[Tensor](), 0
        for number, count in enumerate(axis.counts.tolist()):
            if not count:
                continue
            torch.add(self._column, label[start : start + count], alpha=width, out=self._places[:count])
            above, below = logits[:, number], logits[:, number + 1]
            middle = count // 2  # from which no exponential is further than half the way
            share = shares[start + middle]
            cv2.exp(cv2.addWeighted(above, 1 - share, below, share, 0, dst=up), dst=up)
            cv2.exp(cv2.addWeighted(below, axis.step, above, -axis.step, 0, dst=factor), dst=factor)
            self._see(self._up, middle)
            for row in range(middle + 1, count):
                np.multiply(up if row == middle + 1 else down, factor, out=down)
                self._see(self._down, row)
            np.reciprocal(factor, out=factor)
            for row in range(middle - 1, -1, -1):
                np.multiply(up, factor, out=up)
                self._see(self._up, row)
            losses = np.divide(self._of_all[:count], self._of_label[:count], out=self._of_all[:count])
            sums.append(torch.from_numpy(cv2.log(losses, dst=losses)).sum(1))
            start += count
        return float(torch.cat(sums).double().sum()) if sums else 0.0

    def _see(self, planes: Floats, row: int) -> None:
        """Keep of a row the sum of the exponentials and the one of its label."""
        self._of_all[row] = np.add.reduce(planes[: len(self._factor)], axis=0, out=planes[IGNORE])
        planes.reshape(-1).take(self._rows_of_places[row], out=self._of_label[row], mode="clip")
