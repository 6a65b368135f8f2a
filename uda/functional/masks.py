"""Masks that cut one image into another (ClassMix) or blocks out of it (MIC).

Randomness comes from a CPU ``torch.Generator``, so that a run repeats whatever its device.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor


def label_classes(labels: Tensor, *, ignore_index: int | None = None) -> Tensor:
    """The distinct values of a label map, ascending, on the CPU.

    Args:
        labels: int64 of any shape, not negative.
        ignore_index: value that is left out; ``None`` keeps every value, 255 included.

    Example:
        >>> import torch
        >>> from uda.functional import label_classes
        >>> label_classes(torch.tensor([[3, 0], [3, 255]]), ignore_index=255).tolist()
        [0, 3]
    """
    present = torch.bincount(labels.flatten()).nonzero().flatten().cpu()
    return present if ignore_index is None else present[present != ignore_index]


def choose_classes(candidates: Tensor, generator: Generator | None = None) -> Tensor:
    """Half of the candidates, rounded up, drawn without replacement (ClassMix, Olsson et al. 2021).

    Args:
        candidates: ``(n,)`` class values.
        generator: CPU generator.

    Returns:
        ``(ceil(n / 2),)`` values.

    Example:
        >>> import torch
        >>> from uda.functional import choose_classes
        >>> chosen = choose_classes(torch.tensor([0, 3, 7]), torch.Generator().manual_seed(0))
        >>> len(chosen), set(chosen.tolist()) <= {0, 3, 7}
        (2, True)
    """
    order = torch.randperm(len(candidates), generator=generator)
    return candidates[order[: (len(candidates) + 1) // 2].to(candidates.device)]


def class_mask(labels: Tensor, classes: Tensor) -> Tensor:
    """Where a label map has one of the classes.

    Args:
        labels: int64, any shape.
        classes: ``(k,)`` class values.

    Returns:
        bool, the shape of ``labels``.

    Example:
        >>> import torch
        >>> from uda.functional import class_mask
        >>> class_mask(torch.tensor([[0, 1, 2]]), torch.tensor([0, 2])).tolist()
        [[True, False, True]]
    """
    return torch.isin(labels, classes.to(labels.device))


def class_mix_masks(
    labels: Tensor,
    generator: Generator | None = None,
    *,
    batch_classes: bool = False,
    ignore_index: int | None = None,
    chosen: Sequence[Tensor] | None = None,
) -> Tensor:
    r"""One ClassMix mask for each image: True where the source is pasted.

    $$ M_{h,w} = \left[ y_{h,w} \in \mathcal{C} \right], \qquad x^m = M \odot x^s + (1 - M) \odot x^t $$

    Args:
        labels: ``(N, H, W)`` int64 source labels.
        generator: CPU generator of the draws, one for each image.
        batch_classes: choose from the classes of the whole batch, as DAFormer's code does, so that some of the chosen
            may be absent from the image; otherwise from the image's own, as in DACS.
        ignore_index: value that cannot be chosen. ``None`` is the published behaviour: ignored source pixels count as
            one more class and may be pasted.
        chosen: the classes of each image, instead of a draw; with them ``torch.compile`` takes the function whole (a
            graph holds no ``torch.Generator``).

    Returns:
        ``(N, H, W)`` bool.

    Raises:
        ValueError: ``chosen`` does not have one entry for each image.

    Example:
        >>> import torch
        >>> from uda.functional import class_mix_masks
        >>> labels = torch.tensor([[[0, 1]], [[1, 0]]])
        >>> class_mix_masks(labels, chosen=[torch.tensor([1]), torch.tensor([1])]).tolist()
        [[[False, True]], [[True, False]]]
        >>> class_mix_masks(labels, torch.Generator().manual_seed(0)).sum((1, 2)).tolist()  # one of the two classes
        [1, 1]
    """
    if chosen is None:
        everywhere = label_classes(labels, ignore_index=ignore_index) if batch_classes else None
        chosen = [
            choose_classes(
                label_classes(label, ignore_index=ignore_index) if everywhere is None else everywhere, generator
            )
            for label in labels
        ]
    if len(chosen) != len(labels):
        raise ValueError(f"chosen classes for {len(chosen)} images, labels of {len(labels)}")
    if not chosen:
        return torch.zeros_like(labels, dtype=torch.bool)
    return torch.stack([class_mask(label, classes) for label, classes in zip(labels, chosen, strict=True)])


def mix(mask: Tensor, source: Tensor, target: Tensor) -> Tensor:
    """Source where the mask holds, target elsewhere; for images, labels and weights alike.

    Args:
        mask: ``(N, H, W)`` bool or 0/1, or without the batch axis.
        source: ``(N, H, W)`` or ``(N, C, H, W)``, or without the batch axis.
        target: as ``source``.

    Example:
        >>> import torch
        >>> from uda.functional import mix
        >>> mask = torch.tensor([[[True, False]]])
        >>> mix(mask, torch.tensor([[[1, 1]]]), torch.tensor([[[2, 2]]])).tolist()
        [[[1, 2]]]
        >>> mix(mask, torch.ones(1, 3, 1, 2), torch.zeros(1, 3, 1, 2)).shape
        torch.Size([1, 3, 1, 2])
    """
    mask = mask.bool()
    return torch.where(mask.unsqueeze(-3) if source.dim() > mask.dim() else mask, source, target)


def block_grid(size: tuple[int, int], block: int) -> tuple[int, int]:
    """Rows and columns of MIC's mask grid: the size over the block, rounded half to even, at least 1.

    Example:
        >>> from uda.functional import block_grid
        >>> block_grid((512, 1024), 64)
        (8, 16)
    """
    return max(round(size[0] / block), 1), max(round(size[1] / block), 1)


def block_mask(
    size: tuple[int, int],
    *,
    batch: int = 1,
    block: int = 64,
    ratio: float = 0.7,
    generator: Generator | None = None,
    draw: Tensor | None = None,
) -> Tensor:
    r"""MIC's block mask (Hoyer et al. 2023): 1 where the image stays, 0 in the masked blocks.

    $$ M_{ij} = \left[ v_{ij} > r \right], \qquad v_{ij} \sim U(0, 1) \text{ for each block}, \qquad x^M = M
    \odot x $$

    The grid of :func:`block_grid` is enlarged by nearest neighbour, so that blocks are not exactly ``block`` pixels
    where it does not divide the size. The masked image is image * mask on NORMALISED images (masked = the mean colour);
    nothing is rescaled.

    Args:
        size: height, width in pixels.
        batch: images; each has its own grid.
        block: side of a block in pixels.
        ratio: expected share of masked blocks, in [0, 1].
        generator: CPU generator.
        draw: ``(batch, 1, *block_grid)`` uniform numbers, instead of a draw.

    Returns:
        ``(batch, 1, H, W)`` float of 0 and 1.

    Raises:
        ValueError: ``ratio`` or ``block`` out of range.

    Example:
        >>> import torch
        >>> from uda.functional import block_mask
        >>> draw = torch.tensor([[0.9, 0.1]]).view(1, 1, 1, 2)
        >>> block_mask((2, 4), block=2, ratio=0.5, draw=draw).tolist()
        [[[[1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0]]]]
    """
    if not 0 <= ratio <= 1:
        raise ValueError(f"ratio must be in [0, 1], got {ratio}")
    if block < 1:
        raise ValueError(f"block must be at least 1, got {block}")
    rows, columns = block_grid(size, block)
    if draw is None:
        draw = torch.rand(batch, 1, rows, columns, generator=generator)
    # integer arithmetic: a float ratio picks other cells for some sizes
    row = torch.arange(size[0], device=draw.device) * rows // size[0]
    column = torch.arange(size[1], device=draw.device) * columns // size[1]
    return (draw > ratio).float()[..., row[:, None], column]
