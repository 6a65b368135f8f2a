"""The classes of feature cells, and the distance between the features of two networks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from uda.functional.labels import downscale_label
from uda.processes import mean_count
from uda.types import IGNORE


def cell_labels(
    labels: Tensor,
    size: Sequence[int],
    num_classes: int,
    *,
    min_ratio: float = 0.75,
    ignore_index: int = IGNORE,
) -> Tensor:
    """The class that fills each feature cell.

    Args:
        labels: ``(N, H, W)`` int64.
        size: height, width h, w of the features; a cell is W // w pixels wide and high. Features that reach beyond the
            last full cell (sizes that the stride does not divide) have no class there.
        num_classes: C.
        min_ratio: see :func:`uda.functional.labels.downscale_label`.
        ignore_index: ignored label, and the result for cells without a class.

    Returns:
        ``(N, h, w)`` int64.

    Example:
        >>> import torch
        >>> from uda.functional import cell_labels
        >>> labels = torch.zeros(1, 4, 4, dtype=torch.int64)
        >>> labels[:, :2, :2] = 1
        >>> cell_labels(labels, (2, 2), num_classes=2).tolist()
        [[[1, 0], [0, 0]]]
    """
    scale = max(labels.shape[-1] // size[1], 1)
    cells = downscale_label(labels, scale, num_classes=num_classes, min_ratio=min_ratio, ignore_index=ignore_index)
    cells = cells[:, : size[0], : size[1]]
    return F.pad(cells, (0, size[1] - cells.shape[2], 0, size[0] - cells.shape[1]), value=ignore_index)


def class_cells(
    labels: Tensor,
    size: Sequence[int],
    classes: Sequence[int],
    *,
    num_classes: int,
    min_ratio: float = 0.75,
    ignore_index: int = IGNORE,
) -> Tensor:
    """The feature cells that are filled by one of the classes: ``(N, h, w)`` bool.

    ``classes`` are train ids, for DAFormer the countable things; everything else is as in :func:`cell_labels`.

    Example:
        >>> import torch
        >>> from uda.functional import class_cells
        >>> labels = torch.zeros(1, 4, 4, dtype=torch.int64)
        >>> labels[:, :2, :2] = 1
        >>> class_cells(labels, (2, 2), [1], num_classes=2).tolist()
        [[[True, False], [False, False]]]
    """
    cells = cell_labels(labels, size, num_classes, min_ratio=min_ratio, ignore_index=ignore_index)
    return torch.isin(cells, torch.as_tensor(tuple(classes), dtype=cells.dtype, device=cells.device))


def feature_distance(features: Tensor, reference: Tensor, mask: Tensor | None = None) -> Tensor:
    r"""Mean over positions of the Euclidean distance over channels (DAFormer's ImageNet feature distance).

    $$ \mathcal{L} = \frac{1}{|M|} \sum_{j \in M} \left\| F_j^{ImageNet} - F_j \right\|_2 $$

    Args:
        features: ``(N, D, h, w)`` of the student.
        reference: ``(N, D, h, w)`` of the frozen network, used without gradient.
        mask: ``(N, h, w)`` bool, the positions that enter the mean; ``None`` for all.

    Returns:
        Scalar, 0 with graph for an empty mask (NaN in the published code); the gradient at distance 0 is 0.

    Example:
        >>> import torch
        >>> from uda.functional import feature_distance
        >>> features = torch.tensor([3.0, 4.0]).view(1, 2, 1, 1)
        >>> feature_distance(features, torch.zeros_like(features)).item()
        5.0
    """
    distance: Tensor = torch.linalg.vector_norm(features - reference.detach(), dim=1)
    if mask is None:
        return distance.mean()
    count = mean_count(mask.sum())
    return (distance * mask).sum() / torch.where(count > 0, count, torch.ones_like(count))
