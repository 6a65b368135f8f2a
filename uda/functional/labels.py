"""Label maps at the resolution of features."""

from __future__ import annotations

import torch
from torch import Tensor

from uda.types import IGNORE


def downscale_label(
    labels: Tensor, scale: int, *, num_classes: int, min_ratio: float = 0.75, ignore_index: int = IGNORE
) -> Tensor:
    """The class that fills a cell of scale x scale pixels (DAFormer, Hoyer et al. 2022).

    The most frequent value wins, ``ignore_index`` competing as a class of its own that loses ties; ties of classes go
    to the lower id. Trailing rows and columns that do not fill a cell are dropped.

    Args:
        labels: ``(N, H, W)`` int64 in [0, num_classes) or ``ignore_index``.
        scale: side of a cell in pixels.
        num_classes: C.
        min_ratio: least share of the whole cell, ignored pixels counted in it, that the winner must have.
        ignore_index: ignored label, and the result for cells without a clear winner.

    Returns:
        ``(N, H // scale, W // scale)`` int64.

    Raises:
        ValueError: ``scale`` is below 1.

    Example:
        >>> import torch
        >>> from uda.functional import downscale_label
        >>> labels = torch.tensor([[[1, 1, 0, 0, 0, 1], [1, 1, 0, 1, 0, 1]]])
        >>> downscale_label(labels, 2, num_classes=2).tolist()
        [[[1, 0, 255]]]
    """
    if scale < 1:
        raise ValueError(f"scale must be at least 1, got {scale}")
    rows, columns = labels.shape[-2] // scale, labels.shape[-1] // scale
    cells = labels[:, : rows * scale, : columns * scale].unfold(1, scale, scale).unfold(2, scale, scale).flatten(3)
    cells = cells.masked_fill(cells == ignore_index, num_classes)
    counts = torch.zeros(*cells.shape[:3], num_classes + 1, device=labels.device)
    counts.scatter_add_(3, cells, torch.ones_like(cells, dtype=counts.dtype))
    share, winner = (counts / scale**2).max(3)
    return winner.masked_fill((winner == num_classes) | (share < min_ratio), ignore_index)
