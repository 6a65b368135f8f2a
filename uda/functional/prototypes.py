"""Class prototypes and what ProDA (Zhang et al. 2021) makes of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from uda.functional.checks import check_prob
from uda.functional.windows import window_positions
from uda.types import IGNORE, Window


def class_mean(
    features: Tensor,
    logits: Tensor,
    *,
    labels: Tensor | None = None,
    threshold: float | None = None,
    min_pixels: int = 10,
) -> tuple[Tensor, Tensor]:
    """Mean feature of each class in each image.

    Args:
        features: ``(N, D, h, w)``.
        logits: ``(N, C, h, w)``; a pixel belongs to its argmax.
        labels: ``(N, h, w)`` int64; a pixel must also have its argmax as its label (no value outside [0, C) has any).
        threshold: least max probability of a pixel.
        min_pixels: a class with fewer pixels in an image is left out; counted before the threshold.

    Returns:
        ``(K, D)`` means and ``(K,)`` int64 classes, image after image, classes ascending. A pair of image and class
        without pixels is left out.

    Example:
        >>> import torch
        >>> from uda.functional import class_mean
        >>> features = torch.tensor([[1.0, 3.0], [0.0, 4.0]]).view(1, 2, 1, 2)
        >>> logits = torch.tensor([[0.0, 0.0], [1.0, 1.0]]).view(1, 2, 1, 2)  # both pixels are of class 1
        >>> means, classes = class_mean(features, logits, min_pixels=1)
        >>> means.tolist(), classes.tolist()
        ([[2.0, 2.0]], [1])
    """
    confidence, predicted = logits.softmax(1).max(1)
    classes = torch.arange(logits.shape[1], device=logits.device)[:, None, None]
    member = predicted.unsqueeze(1) == classes
    if labels is not None:
        member &= labels.unsqueeze(1) == classes
    counts = member.flatten(2).sum(2)
    if threshold is not None:
        member = member & (confidence >= threshold).unsqueeze(1)
    weight = member.flatten(2).to(features.dtype)
    selected = weight.sum(2)
    sums = torch.einsum("ncp,ndp->ncd", weight, features.flatten(2))
    has_mean = (selected > 0) & (counts >= min_pixels)
    return sums[has_mean] / selected[has_mean].unsqueeze(1), has_mean.nonzero()[:, 1]


def prototype_update(
    prototypes: Tensor,
    counts: Tensor,
    vectors: Tensor,
    ids: Tensor,
    *,
    momentum: float | None = 1e-4,
    mean_first: int = 0,
    max_count: int = 3000,
) -> tuple[Tensor, Tensor]:
    """Feed class means to the prototypes, one after the other, each image weighing the same.

    Args:
        prototypes: ``(C, D)``.
        counts: ``(C,)`` vectors seen by each prototype.
        vectors: ``(K, D)`` of :func:`class_mean`; a vector that sums to exactly 0 is skipped.
        ids: ``(K,)`` int64 class of each vector.
        momentum: weight of a new vector in the moving average; ``None`` for the running mean (to initialise).
        mean_first: take the running mean for a class's first so many vectors whatever the momentum (100 in ProDA's
            code when its ``start_mean`` is set).
        max_count: cap of the counts, so that a running mean never freezes.

    Returns:
        new prototypes ``(C, D)`` and new counts ``(C,)``.

    Example:
        >>> import torch
        >>> from uda.functional import prototype_update
        >>> vectors, ids = torch.tensor([[2.0], [4.0]]), torch.tensor([0, 0])
        >>> prototypes, counts = prototype_update(torch.zeros(2, 1), torch.zeros(2), vectors, ids, momentum=None)
        >>> prototypes.tolist(), counts.tolist()
        ([[3.0], [0.0]], [2.0, 0.0])
    """
    prototypes, counts = prototypes.clone(), counts.clone()
    for vector, index in zip(vectors, ids.tolist(), strict=True):
        if vector.sum() == 0:
            continue
        seen = counts[index].clone()  # a copy: the gradient needs the count from before it is raised below
        if momentum is None or seen < mean_first:
            prototypes[index] = (prototypes[index] * seen + vector) / (seen + 1)
        else:
            prototypes[index] = (1 - momentum) * prototypes[index] + momentum * vector
        counts[index] = (seen + 1).clamp(max=max_count)
    return prototypes, counts


def prototype_distance(features: Tensor, prototypes: Tensor) -> Tensor:
    """Euclidean distance (not squared) of every feature to every prototype.

    Args:
        features: ``(N, D, h, w)``.
        prototypes: ``(C, D)``.

    Returns:
        ``(N, C, h, w)``; the gradient at distance 0 is 0.

    Example:
        >>> import torch
        >>> from uda.functional import prototype_distance
        >>> features = torch.tensor([3.0, 4.0]).view(1, 2, 1, 1)
        >>> distance = prototype_distance(features, torch.tensor([[0.0, 0.0], [3.0, 3.0], [3.0, 4.0]]))
        >>> distance.shape, distance.flatten().tolist()
        (torch.Size([1, 3, 1, 1]), [5.0, 1.0, 0.0])
    """
    points = features.flatten(2).transpose(1, 2)
    # the matrix-product shortcut loses the digits of small distances
    distance: Tensor = torch.cdist(
        points, prototypes.expand(len(points), -1, -1), compute_mode="donot_use_mm_for_euclid_dist"
    )
    return distance.transpose(1, 2).reshape(len(features), len(prototypes), *features.shape[-2:])


def prototype_weight(distance: Tensor, *, temperature: float = 1.0) -> Tensor:
    r"""Softmax over classes of -distance * temperature: larger is sharper, as in ProDA's code.

    $$ \omega_c = \frac{e^{-\tau d_c}}{\sum_k e^{-\tau d_k}} $$

    Args:
        distance: ``(N, C, h, w)`` of :func:`prototype_distance`.
        temperature: factor of the distances.

    Example:
        >>> import torch
        >>> from uda.functional import prototype_weight
        >>> prototype_weight(torch.tensor([7.0, 7.0]).view(1, 2, 1, 1)).flatten().tolist()
        [0.5, 0.5]
    """
    return (-distance * temperature).softmax(1)


def rectify(
    weight: Tensor,
    soft_labels: Tensor,
    *,
    threshold: float = 0.0,
    ignore_index: int = IGNORE,
    known: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Pseudo-labels corrected by the prototypes: argmax of weight * soft label.

    Args:
        weight: ``(N, C, h, w)`` of :func:`prototype_weight`.
        soft_labels: ``(N, C, h, w)`` stored probabilities.
        threshold: pixels whose largest rectified probability is below become ``ignore_index``.
        ignore_index: label of rejected pixels (250 in ProDA's code).
        known: ``(C,)`` bool, the classes that have a prototype; ``None``: all. Of the others nothing is known: they
            keep their soft probability, and the rest is shared anew among the known ones. Their ``weight`` does not
            matter. (ProDA's code has a prototype of zeros for such a class.)

    Returns:
        ``(N, h, w)`` int64 labels and the ``(N, C, h, w)`` rectified probabilities, normalised to sum 1.

    Raises:
        ValueError: values of ``soft_labels`` outside of [0, 1].

    Example:
        >>> import torch
        >>> from uda.functional import rectify
        >>> weight, soft_labels = torch.tensor([0.25, 0.75]).view(1, 2, 1, 1), torch.tensor([0.6, 0.4]).view(1, 2, 1, 1)
        >>> labels, prob = rectify(weight, soft_labels)  # 0.15 and 0.3
        >>> labels.tolist(), [round(value, 4) for value in prob.flatten().tolist()]
        ([[[1]]], [0.3333, 0.6667])
    """
    check_prob("soft_labels", soft_labels, "rectify")
    rectified = weight * soft_labels
    if known is not None:
        tiny = torch.finfo(rectified.dtype).tiny
        of_known = soft_labels[:, known].sum(1, keepdim=True)
        mean = rectified[:, known].sum(1, keepdim=True) / of_known.clamp(min=tiny)
        unmoved = soft_labels * mean.where(of_known > 0, 1.0)
        rectified = torch.where(known[:, None, None], rectified, unmoved)
    rectified = rectified / rectified.sum(1, keepdim=True).clamp(min=torch.finfo(rectified.dtype).tiny)
    confidence, labels = rectified.max(1)
    return labels.masked_fill(confidence < threshold, ignore_index), rectified


_LOG_STEPS = 16.0
"""Steps of a packed probability in an e-fold: errors of at most 3 %, down to exp(-255 / 16) = 1.2e-7."""


def pack_soft_labels(soft_labels: Tensor) -> Tensor:
    """Probabilities in a byte each, in steps of their logarithm: those that prototypes may raise are the small ones.

    Args:
        soft_labels: of any shape, in [0, 1].

    Returns:
        uint8 of the same shape; 0 is probability 1.

    Raises:
        ValueError: values of ``soft_labels`` outside of [0, 1].

    Example:
        >>> import torch
        >>> from uda.functional import pack_soft_labels
        >>> pack_soft_labels(torch.tensor([1.0, 0.5, 1e-3, 0.0])).tolist()
        [0, 11, 111, 255]
    """
    check_prob("soft_labels", soft_labels, "pack_soft_labels")
    tiny = torch.finfo(soft_labels.dtype).tiny
    return (soft_labels.clamp(min=tiny).log() * -_LOG_STEPS).round().clamp(0, 255).to(torch.uint8)


def crop_soft_labels(packed: Tensor, window: Window, crop: Sequence[int]) -> Tensor:
    """Soft labels of a whole image as its crop shows them, bilinear.

    Args:
        packed: ``(C, h, w)`` uint8 of :func:`pack_soft_labels`, of any size that covers the whole image.
        window: of the crop.
        crop: height H and width W.

    Returns:
        ``(C, H, W)`` float32, of sum 1; 0 where the window reaches outside of the image.

    Example:
        >>> import torch
        >>> from uda.functional import crop_soft_labels, pack_soft_labels
        >>> from uda.types import Window
        >>> packed = pack_soft_labels(torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]]))
        >>> window = Window(0, (2, 2), top=0, left=1, height=2, width=2, flip=True)
        >>> crop_soft_labels(packed, window, (1, 2)).round(decimals=3).tolist()
        [[[0.0, 0.0]], [[0.0, 1.0]]]
    """
    rows, columns = window_positions(window, crop)
    inside = ((rows >= 0) & (rows < window.size[0]))[:, None] & (columns >= 0) & (columns < window.size[1])
    y, x = 2 * rows / window.size[0] - 1, 2 * columns / window.size[1] - 1
    grid = torch.stack((x.expand(len(y), -1), y[:, None].expand(-1, len(x))), -1).to(packed.device, torch.float32)
    soft_labels = (packed.float() / -_LOG_STEPS).exp()[None]
    seen = F.grid_sample(soft_labels, grid[None], padding_mode="border", align_corners=False)[0]
    return seen / seen.sum(0, keepdim=True) * inside.to(seen.device)


def prototype_consistency(
    distance: Tensor, teacher_distance: Tensor, *, temperature: float = 1.0, padding: float | None = 250.0
) -> Tensor:
    r"""KL of the teacher's and the student's soft assignment to the prototypes, averaged over all ELEMENTS.

    $$ \mathcal{L} = \frac{1}{n C} \sum_i \sum_c z_{i,c} \log \frac{z_{i,c}}{z_{i,c}^{\dagger}}, \qquad z:
    \text{teacher's}, \; z^{\dagger}: \text{student's} $$

    The class axis counts in the average, so that this is 1/C of the mean per-pixel divergence.

    Args:
        distance: ``(N, C, h, w)`` of the strongly augmented view, with gradient.
        teacher_distance: ``(N, C, h, w)`` of the EMA features.
        temperature: factor of the distances.
        padding: a teacher distance of exactly this value marks padded elements, which are left out.

    Returns:
        Scalar; 0 with graph when everything is padded.

    Example:
        >>> import torch
        >>> from uda.functional import prototype_consistency
        >>> student, teacher = torch.zeros(1, 2, 1, 1), torch.tensor([0.0, 99.0]).view(1, 2, 1, 1)
        >>> round(prototype_consistency(student, teacher).item(), 4)  # ln 2 / 2
        0.3466
    """
    target = prototype_weight(teacher_distance.detach(), temperature=temperature)
    divergence = F.kl_div((-distance * temperature).log_softmax(1), target, reduction="none")
    valid = torch.ones_like(teacher_distance, dtype=torch.bool) if padding is None else teacher_distance != padding
    return (divergence * valid).sum() / valid.sum().clamp(min=1)


def distillation_loss(logits: Tensor, teacher_logits: Tensor, *, as_published: bool = False) -> Tensor:
    """KL of the teacher's and the student's predictions, averaged over all ELEMENTS, the class axis included.

    Args:
        logits: ``(N, C, h, w)`` of the student, with gradient.
        teacher_logits: ``(N, C, h, w)`` of the teacher, without gradient.
        as_published: mean of t (log t - s) with the student's PROBABILITIES s, which ProDA's code gives to a function
            that expects their logarithms; not a divergence.

    Example:
        >>> import torch
        >>> from uda.functional import distillation_loss
        >>> student, teacher = torch.zeros(1, 2, 1, 1), torch.tensor([0.0, 99.0]).view(1, 2, 1, 1)
        >>> round(distillation_loss(student, teacher).item(), 4)  # ln 2 / 2
        0.3466
    """
    target = teacher_logits.detach().softmax(1)
    prediction = logits.softmax(1) if as_published else logits.log_softmax(1)
    return F.kl_div(prediction, target, reduction="none").mean()
