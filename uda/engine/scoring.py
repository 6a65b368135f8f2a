"""What an image's logits say and how wrong they are, in one walk over them."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from uda.types import IGNORE

BAND_BYTES = 2_500_000
"""Of logits that are looked at together: few enough to stay in a processor's cache from one operation to the next."""


def predict_and_loss(logits: Tensor, label: Tensor) -> tuple[Tensor, float]:
    """The most probable classes and the mean cross-entropy over the labelled pixels.

    On a CPU in bands of rows, in less time than ``argmax`` and ``cross_entropy`` and without a second copy of the
    logits; the classes are theirs (of equal ones the first), the loss is theirs up to rounding.

    Args:
        logits: ``(C, H, W)`` floating point.
        label: ``(H, W)`` int64 in [0, C), ``IGNORE`` where there is none.

    Returns:
        ``(H, W)`` integers, and a natural logarithm; NaN where no pixel is labelled.
    """
    logits = logits.detach().float()
    classes, height, width = logits.shape
    if logits.device.type != "cpu" or classes > IGNORE:
        return logits.argmax(0), F.cross_entropy(logits[None], label[None], ignore_index=IGNORE).item()
    rows = max(1, BAND_BYTES // (4 * classes * width))
    # the first of C classes is stored as C, so that the first of equal ones is the highest
    reverse = torch.zeros(height, width, dtype=torch.uint8)
    is_highest = torch.empty(rows, width, dtype=torch.bool)
    scaled = torch.empty(classes, rows, width)
    total = 0.0
    for top in range(0, height, rows):
        band, truth, place = (x[..., top : top + rows, :] for x in (logits, label, reverse))
        count = place.shape[0]
        highest = band.amax(0)
        for index in range(classes):
            equal = torch.eq(band[index], highest, out=is_highest[:count]).view(torch.uint8)
            torch.maximum(place, equal.mul_(classes - index), out=place)
        if not place.all():  # NaN equals nothing
            place.copy_(classes - band.argmax(0))
        labelled = truth != IGNORE
        of_label = band.gather(0, truth.masked_fill(~labelled, 0)[None])[0]
        loss = torch.sub(band, highest, out=scaled[:, :count]).exp_().sum(0).log_().add_(highest).sub_(of_label)
        total += float(loss.masked_fill_(~labelled, 0).sum(dtype=torch.float64))
    pixels = int((label != IGNORE).sum())
    return classes - reverse, total / pixels if pixels else math.nan
