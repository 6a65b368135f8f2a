"""Losses of a domain discriminator. Domain labels: source 0, target 1 (``uda.types``)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def bce_loss(logits: Tensor, label: float) -> Tensor:
    r"""Mean binary cross entropy with logits against one label for all positions (ADVENT, AdaptSegNet).

    $$ \mathcal{L} = -\frac{1}{n} \sum_i \left[ y \log \sigma(d_i) + (1 - y) \log(1 - \sigma(d_i)) \right] $$

    Args:
        logits: the discriminator's raw output, any shape.
        label: 0 source, 1 target.

    Example:
        >>> import torch
        >>> from uda.functional import bce_loss
        >>> loss = bce_loss(torch.zeros(2, 1, 4, 4), 1)
        >>> round(loss.item(), 4)  # undecided: ln 2
        0.6931
    """
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, label))


def ls_loss(output: Tensor, label: float) -> Tensor:
    r"""Least-squares objective: mean squared difference of the RAW output and the label (AdaptSegNet's LS variant).

    $$ \mathcal{L} = \frac{1}{n} \sum_i (d_i - y)^2 $$

    Args:
        output: the discriminator's raw output, no sigmoid.
        label: 0 source, 1 target.

    Example:
        >>> import torch
        >>> from uda.functional import ls_loss
        >>> ls_loss(torch.full((2, 1, 4, 4), 3.0), 1).item()
        4.0
    """
    return F.mse_loss(output, torch.full_like(output, label))


def clan_weight_map(logits: Tensor, other_logits: Tensor) -> Tensor:
    r"""CLAN's local disagreement of two classifiers: 1 - cosine of their softmax vectors (Luo et al. 2019).

    $$ M = 1 - \frac{p^{(1)} \cdot p^{(2)}}{\|p^{(1)}\| \, \|p^{(2)}\|} $$

    Args:
        logits: ``(N, C, H, W)`` of one classifier.
        other_logits: ``(N, C, H, W)`` of the other.

    Returns:
        ``(N, 1, H, W)`` in [0, 1], with gradient; detach it for the discriminator's step.

    Example:
        >>> import torch
        >>> from uda.functional import clan_weight_map
        >>> logits = torch.tensor([50.0, -50.0]).view(1, 2, 1, 1)
        >>> clan_weight_map(logits, logits).item(), clan_weight_map(logits, -logits).item()
        (0.0, 1.0)
    """
    p, q = logits.softmax(1), other_logits.softmax(1)
    cosine: Tensor = (p * q).sum(1, keepdim=True) / (p.norm(dim=1, keepdim=True) * q.norm(dim=1, keepdim=True))
    return 1 - cosine


def weighted_bce_loss(
    logits: Tensor, label: float, weight_map: Tensor, *, epsilon: float = 0.4, weight: float = 40.0
) -> Tensor:
    r"""CLAN's category-level adversarial loss: mean of (epsilon + weight * map) * bce.

    $$ \mathcal{L} = \frac{1}{n} \sum_i (\epsilon + \lambda_{local} M_i) \, \mathrm{BCE}(d_i, y) $$

    The published code holds for one image a batch; here any batch size, and logits smaller than the map are first
    upsampled to it bilinearly, which is the last layer of CLAN's discriminator.

    Args:
        logits: ``(N, 1, h, w)`` the discriminator's raw output.
        label: 0 source, 1 target.
        weight_map: ``(N, 1, H, W)`` of :func:`clan_weight_map`.
        epsilon: weight of the plain loss.
        weight: the paper's lambda_local: 40 for GTA5, 10 for SYNTHIA.

    Example:
        >>> import torch
        >>> from uda.functional import weighted_bce_loss
        >>> logits, weight_map = torch.zeros(2, 1, 4, 4), torch.ones(2, 1, 8, 8)
        >>> loss = weighted_bce_loss(logits, 1, weight_map, epsilon=1, weight=2)
        >>> round(loss.item(), 4)  # (1 + 2) ln 2
        2.0794
    """
    if logits.shape[-2:] != weight_map.shape[-2:]:
        logits = F.interpolate(logits, weight_map.shape[-2:], mode="bilinear", align_corners=False)
    bce = F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, label), reduction="none")
    return ((epsilon + weight * weight_map) * bce).mean()
