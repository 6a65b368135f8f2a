"""Fusing the predictions of several aligned crops of one image (DA-SAC, Araslanov & Roth 2021)."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from uda.functional.checks import check_prob

Pool = Callable[[Tensor, int], tuple[Tensor, Tensor]]
"""``(B*T, C, H, W)`` probabilities and T -> pooled probabilities and mask."""


def average_pool(prob: Tensor, views: int) -> tuple[Tensor, Tensor]:
    """Mean over the crops that cover a position.

    Args:
        prob: ``(B*T, C, H, W)``, the T crops of an image in a row; all-zero vectors where a crop has no prediction.
        views: T.

    Returns:
        ``(B*T, C, H, W)`` the same fused prediction for each of the T crops, and ``(B*T, 1, H, W)`` float mask of the
        positions that are covered at all (total probability above 0.1).

    Raises:
        ValueError: values of ``prob`` outside of [0, 1].

    Example:
        >>> import torch
        >>> from uda.functional import average_pool
        >>> prob = torch.tensor([[1.0, 0.0], [0.5, 0.5]]).view(2, 2, 1, 1)  # two crops of an image
        >>> fused, mask = average_pool(prob, views=2)
        >>> fused.flatten(1).tolist(), mask.flatten().tolist()
        ([[0.75, 0.25], [0.75, 0.25]], [1.0, 1.0])
    """
    check_prob("prob", prob, "average_pool")
    total = prob.unflatten(0, (-1, views)).sum(1)
    mass = total.sum(1, keepdim=True)
    fused = total / mass.clamp(min=1e-3)
    return fused.repeat_interleave(views, 0), (mass > 0.1).to(prob.dtype).repeat_interleave(views, 0)


def minimum_entropy_pool(prob: Tensor, views: int, *, eps: float = 1e-5) -> tuple[Tensor, Tensor]:
    """At every position the prediction of the crop with the least entropy.

    Args:
        prob: as in :func:`average_pool`.
        views: T.
        eps: the entropy is -sum p log((p + eps) / (1 + eps)), and 1 / eps where a crop has no prediction.

    Returns:
        as :func:`average_pool`.

    Raises:
        ValueError: values of ``prob`` outside of [0, 1].

    Example:
        >>> import torch
        >>> from uda.functional import minimum_entropy_pool
        >>> prob = torch.tensor([[1.0, 0.0], [0.5, 0.5]]).view(2, 2, 1, 1)  # two crops of an image
        >>> fused, mask = minimum_entropy_pool(prob, views=2)
        >>> fused.flatten(1).tolist(), mask.flatten().tolist()
        ([[1.0, 0.0], [1.0, 0.0]], [1.0, 1.0])
    """
    check_prob("prob", prob, "minimum_entropy_pool")
    stacked = prob.unflatten(0, (-1, views))
    mass = stacked.sum(2, keepdim=True)
    entropy = -(stacked * ((stacked + eps) / (1 + eps)).log()).sum(2, keepdim=True)
    best = entropy.masked_fill(mass < 0.1, 1 / eps).argmin(1, keepdim=True)
    fused = stacked.gather(1, best.expand(-1, -1, *stacked.shape[2:])).squeeze(1)
    mask = (mass.sum(1) > 0.1).to(prob.dtype)
    return fused.repeat_interleave(views, 0), mask.repeat_interleave(views, 0)


def draw_windows(count: int, crops: int, scale: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Random windows of an image, half of them mirrored (DA-SAC); the first of every ``crops`` shows the whole image.

    Args:
        count: windows to draw, a multiple of ``crops``.
        crops: windows of each image, in a row.
        scale: least side as a share of the image's.
        generator: CPU generator.

    Returns:
        ``(count, 2, 3)`` affine maps in ``affine_grid``'s coordinates, window to image, and their inverses.

    Example:
        >>> import torch
        >>> from uda.functional import draw_windows
        >>> window, back = draw_windows(4, crops=2, scale=0.5, generator=torch.Generator().manual_seed(0))
        >>> window.shape, window[::2, 0, 0].abs().tolist(), window[::2, :, 2].abs().sum().item()
        (torch.Size([4, 2, 3]), [1.0, 1.0], 0.0)
    """
    side = 1 - torch.rand(count, generator=generator) * (1 - scale)
    flip = (torch.rand(count, generator=generator) < 0.5).float() * -2 + 1
    shift = (torch.rand(count, 2, generator=generator) * 2 - 1) * (1 - side)[:, None]
    side[::crops], shift[::crops] = 1.0, 0.0
    window, back = torch.zeros(count, 2, 3), torch.zeros(count, 2, 3)
    window[:, 0, 0], window[:, 1, 1], window[:, :, 2] = flip * side, side, shift
    back[:, 0, 0], back[:, 1, 1] = flip / side, 1 / side
    back[:, :, 2] = -shift / torch.stack([flip * side, side], 1)
    return window, back


def warp(maps: Tensor, affine: Tensor) -> Tensor:
    """Bilinear warp by ``(N, 2, 3)`` affine maps in ``affine_grid``'s coordinates; zero outside.

    Example:
        >>> import torch
        >>> from uda.functional import warp
        >>> mirrored = torch.tensor([[[-1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]])
        >>> warp(torch.tensor([[[[1.0, 2.0, 3.0]]]]), mirrored).round(decimals=4).tolist()
        [[[[3.0, 2.0, 1.0]]]]
    """
    grid = F.affine_grid(affine, list(maps.shape), align_corners=False)
    return F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def refine(
    logits: Tensor, affine: Tensor, inverse: Tensor, invalid: Tensor, views: int, *, pool: Pool = average_pool
) -> Tensor:
    """The teacher's prediction for each crop, fused with those of the other crops of the image.

    Softmax of the upsampled logits (bilinear, ``align_corners=True``), warped to the image's frame, pooled over the
    crops, warped back.

    Args:
        logits: ``(B*T, C, h, w)``, the T crops of an image in a row.
        affine: ``(B*T, 2, 3)`` crop -> image frame.
        inverse: ``(B*T, 2, 3)`` image frame -> crop.
        invalid: ``(B*T, H, W)`` bool, pixels of the crop without content.
        views: T.
        pool: :func:`average_pool` or :func:`minimum_entropy_pool`.

    Returns:
        ``(B*T, C, H, W)`` probabilities; zero where no crop has a prediction.

    Example:
        >>> import torch
        >>> from uda.functional import refine
        >>> identity, invalid = torch.eye(2, 3).expand(2, 2, 3), torch.zeros(2, 8, 8, dtype=torch.bool)
        >>> prob = refine(torch.zeros(2, 4, 2, 2), identity, identity, invalid, views=2)
        >>> prob.shape, round(prob.mean().item(), 4)
        (torch.Size([2, 4, 8, 8]), 0.25)
    """
    size = invalid.shape[-2:]
    prob = F.interpolate(logits, size, mode="bilinear", align_corners=True).softmax(1)
    prob = prob.masked_fill(invalid.unsqueeze(1), 0)
    covered = warp(torch.ones_like(prob[:, :1]), inverse)
    fused, mask = pool(warp(prob, affine) * covered, views)
    return warp(fused, inverse) * warp(mask, inverse)
