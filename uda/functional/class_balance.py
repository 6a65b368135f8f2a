"""Class-balanced pseudo-labels over a whole set of images: CBST, CRST, FDA.

Inputs are per-pixel labels and confidences as ``(N, H, W)`` or as a list of ``(H, W)`` of any sizes; two maps a pixel,
not C, so that a whole data set fits in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from uda.functional.checks import check_prob
from uda.types import IGNORE


def sorted_confidences(
    labels: Iterable[Tensor], confidences: Iterable[Tensor], num_classes: int, *, stride: int = 1
) -> tuple[Tensor, Tensor]:
    """The confidences of each predicted class over a set of images, ascending.

    Args:
        labels: predicted class of every pixel, ``(H, W)`` int64 in [0, C) for each image.
        confidences: ``(H, W)`` for each image.
        num_classes: C.
        stride: keep every stride-th pixel of a class, in row-major order, in each image on its own.

    Returns:
        all confidences, class after class and ascending in each, and ``(C,)`` int64 counts.

    Raises:
        ValueError: values of ``confidences`` outside of [0, 1].

    Example:
        >>> import torch
        >>> from uda.functional import sorted_confidences
        >>> labels, confidences = torch.tensor([[0, 1, 0]]), torch.tensor([[0.75, 0.5, 0.25]])
        >>> values, counts = sorted_confidences([labels], [confidences], num_classes=2)
        >>> values.tolist(), counts.tolist()
        ([0.25, 0.75, 0.5], [2, 1])
    """
    kept_labels, kept_confidences = [], []
    for label, confidence in zip(labels, confidences, strict=True):
        check_prob("confidences", confidence, "sorted_confidences")
        flat, values = label.flatten(), confidence.flatten()
        if stride > 1:
            flat, order = flat.sort(stable=True)
            counts = torch.bincount(flat, minlength=num_classes)
            rank = torch.arange(len(flat), device=flat.device) - (counts.cumsum(0) - counts)[flat]
            chosen = rank % stride == 0
            flat, values = flat[chosen], values[order[chosen]]
        kept_labels.append(flat)
        kept_confidences.append(values)
    if not kept_labels:
        return torch.zeros(0), torch.zeros(num_classes, dtype=torch.int64)
    all_labels = torch.cat(kept_labels)
    values, order = torch.cat(kept_confidences).sort()
    by_class = all_labels[order].sort(stable=True).indices
    return values[by_class], torch.bincount(all_labels, minlength=num_classes)


def class_balanced_thresholds(
    labels: Iterable[Tensor],
    confidences: Iterable[Tensor],
    num_classes: int,
    *,
    portion: float | Tensor = 0.2,
    stride: int = 4,
) -> tuple[Tensor, Tensor]:
    """CBST's thresholds: the k-th largest confidence of each class, k = floor(n * portion) (Zou et al. 2018).

    Args:
        labels: see :func:`sorted_confidences`.
        confidences: see :func:`sorted_confidences`.
        num_classes: C.
        portion: share of each class's pixels to take, in [0, 1]; scalar or ``(C,)``.
        stride: take every stride-th pixel of a class and image.

    Returns:
        ``(C,)`` thresholds, 1 where k is 0 (a class that is never predicted), and ``(C,)`` int64 k.

    Raises:
        ValueError: values of ``confidences`` outside of [0, 1].

    Example:
        >>> import torch
        >>> from uda.functional import class_balanced_thresholds
        >>> labels, confidences = torch.zeros(1, 4, dtype=torch.int64), torch.tensor([[0.25, 1.0, 0.5, 0.75]])
        >>> thresholds, selected = class_balanced_thresholds([labels], [confidences], 2, portion=0.5, stride=1)
        >>> thresholds.tolist(), selected.tolist()
        ([0.75, 1.0], [2, 0])
    """
    values, counts = sorted_confidences(labels, confidences, num_classes, stride=stride)
    portions = torch.as_tensor(portion, dtype=torch.float64, device=counts.device)
    selected = (counts * portions).floor().long()
    ends = counts.cumsum(0)
    thresholds = torch.ones(num_classes, dtype=values.dtype, device=values.device)
    taken = selected > 0
    thresholds[taken] = values[(ends - selected)[taken]]
    return thresholds, selected


def portion_thresholds(
    labels: Iterable[Tensor],
    confidences: Iterable[Tensor],
    num_classes: int,
    *,
    portion: float = 0.66,
    cap: float = 0.9,
) -> Tensor:
    """FDA's thresholds: the confidence at index round(portion * n) of each class's ascending list, at most ``cap``.

    Args:
        labels: see :func:`sorted_confidences`.
        confidences: see :func:`sorted_confidences`.
        num_classes: C.
        portion: share of each class's pixels to drop; rounded half to even. The index is cut to the last element,
            where the published code fails for a class of a single pixel.
        cap: largest threshold.

    Returns:
        ``(C,)``; 0 for a class that is never predicted.

    Raises:
        ValueError: values of ``confidences`` outside of [0, 1].

    Example:
        >>> import torch
        >>> from uda.functional import portion_thresholds
        >>> labels, confidences = torch.zeros(1, 4, dtype=torch.int64), torch.tensor([[0.25, 1.0, 0.5, 0.75]])
        >>> portion_thresholds([labels], [confidences], 2, portion=0.5).tolist()
        [0.75, 0.0]
    """
    values, counts = sorted_confidences(labels, confidences, num_classes)
    index = (counts.double() * portion).round().long().minimum(counts - 1)
    thresholds = torch.zeros(num_classes, dtype=values.dtype, device=values.device)
    seen = counts > 0
    thresholds[seen] = values[(counts.cumsum(0) - counts + index)[seen]]
    return thresholds.clamp(max=cap)


def threshold_labels(labels: Tensor, confidence: Tensor, thresholds: Tensor, *, ignore_index: int = IGNORE) -> Tensor:
    """Labels with those pixels ignored whose confidence is strictly below the threshold of their class.

    Args:
        labels: ``(N, H, W)`` int64 in [0, C).
        confidence: ``(N, H, W)``.
        thresholds: ``(C,)``.
        ignore_index: label of rejected pixels.

    Raises:
        ValueError: values of ``confidence`` outside of [0, 1].

    Example:
        >>> import torch
        >>> from uda.functional import threshold_labels
        >>> labels, confidence = torch.tensor([[[0, 1]]]), torch.tensor([[[0.6, 0.6]]])
        >>> threshold_labels(labels, confidence, torch.tensor([0.5, 0.7])).tolist()
        [[[0, 255]]]
    """
    check_prob("confidence", confidence, "threshold_labels")
    return labels.masked_fill(confidence < thresholds[labels], ignore_index)


def rare_classes(counts: Tensor, number: int) -> Tensor:
    """The ``number`` classes with the fewest predicted pixels, rarest first (CBST's rare ids); ties by class id.

    Example:
        >>> import torch
        >>> from uda.functional import rare_classes
        >>> rare_classes(torch.tensor([50, 0, 7]), 2).tolist()
        [1, 2]
    """
    return counts.argsort(stable=True)[:number]


def mined_classes(counts: Tensor, share: float) -> Tensor:
    """All classes with less than ``share`` of the predicted pixels, rarest first (CBST's mine ids); ties by id.

    Example:
        >>> import torch
        >>> from uda.functional import mined_classes
        >>> mined_classes(torch.tensor([50, 2, 1, 47]), 0.1).tolist()
        [2, 1]
    """
    order = counts.argsort(stable=True)
    shares = counts.double() / counts.sum().clamp(min=1)
    return order[(shares < share)[order]]


def class_balanced_labels(prob: Tensor, thresholds: Tensor, *, ignore_index: int = IGNORE) -> Tensor:
    r"""CBST's hard pseudo-labels: argmax of p_c / threshold_c, ignored where the largest ratio is below 1.

    $$ \hat{y} = \mathrm{argmax}_c \frac{p_c}{\lambda_c} \quad \text{if} \quad \max_c \frac{p_c}{\lambda_c} \geq 1,
    \quad \text{else ignored} $$

    The label is the argmax of the RATIO: a rare class with a low threshold may win over a more probable one.

    Args:
        prob: ``(N, C, H, W)``.
        thresholds: ``(C,)``, positive.
        ignore_index: label of rejected pixels.

    Returns:
        ``(N, H, W)`` int64.

    Raises:
        ValueError: values of ``prob`` outside of [0, 1].

    Example:
        >>> import torch
        >>> from uda.functional import class_balanced_labels
        >>> prob = torch.tensor([0.6, 0.4]).view(1, 2, 1, 1)
        >>> class_balanced_labels(prob, torch.tensor([0.9, 0.3])).tolist()  # ratios 2/3 and 4/3
        [[[1]]]
    """
    check_prob("prob", prob, "class_balanced_labels")
    ratio, labels = (prob / thresholds.to(prob)[:, None, None]).max(1)
    return labels.masked_fill(ratio < 1, ignore_index)


def regularised_labels(
    prob: Tensor, thresholds: Tensor, *, weight: float = 0.25, ignore_index: int = IGNORE
) -> tuple[Tensor, Tensor]:
    r"""CRST's label-entropy regularised (LRENT) pseudo-labels (Zou et al. 2019).

    $$ \hat{y}_c = \frac{(p_c / \lambda_c)^{1 / \alpha}}{\sum_k (p_k / \lambda_k)^{1 / \alpha}} $$

    Soft label s_c ~ (p_c / threshold_c)^(1/weight). A pixel is ignored where keeping it costs no less than dropping it:
    sum_c(-s log p + weight s log s) >= sum_c(-s log threshold).

    Args:
        prob: ``(N, C, H, W)``.
        thresholds: ``(C,)``, positive.
        weight: strength of the regulariser; towards 0 this is :func:`class_balanced_labels`.
        ignore_index: label of rejected pixels.

    Returns:
        ``(N, C, H, W)`` soft labels of ALL pixels, and ``(N, H, W)`` int64 hard labels with rejected pixels ignored
        (where the soft labels must be set to 0 before training).

    Raises:
        ValueError: values of ``prob`` outside of [0, 1].

    Example:
        >>> import torch
        >>> from uda.functional import regularised_labels
        >>> prob = torch.tensor([0.6, 0.4]).view(1, 2, 1, 1)
        >>> soft, labels = regularised_labels(prob, torch.tensor([0.9, 0.3]))  # ratios 2/3 and 4/3
        >>> labels.tolist(), round(soft[0, 1].item(), 4)  # 2^4 / (1 + 2^4)
        ([[[1]]], 0.9412)
    """
    check_prob("prob", prob, "regularised_labels")
    if weight <= 0:
        raise ValueError(f"weight must be positive, got {weight}; class_balanced_labels is the limit at 0")
    tiny = 1e-32
    thresholds = thresholds.to(prob)[:, None, None]
    # in the log domain: the ratio to the power of 1 / weight overflows
    soft = ((prob.log() - thresholds.log()) / weight).softmax(1)
    keep_cost = (-soft * (prob + tiny).log() + weight * soft * (soft + tiny).log()).sum(1)
    drop_cost = (-soft * (thresholds + tiny).log()).sum(1)
    return soft, soft.argmax(1).masked_fill(keep_cost >= drop_cost, ignore_index)


def multiband_probabilities(
    logits: Sequence[Tensor],
    size: tuple[int, int] | None = None,
    *,
    weights: Sequence[float] | None = None,
) -> Tensor:
    r"""FDA's multi-band transfer: weighted mean of several networks' probabilities, then upsampled (Yang & Soatto
    2020).

    $$ p = \sum_m w_m \, \mathrm{softmax}(z_m) $$

    Args:
        logits: ``(N, C, h, w)`` of each network, trained with its own band.
        size: height, width to upsample the PROBABILITIES to, bilinear with ``align_corners=True``.
        weights: of the networks; ``None`` for equal ones. The published code has 0.3333, 0.3333, 0.3334.

    Returns:
        ``(N, C, H, W)``.

    Raises:
        ValueError: no logits, or not one weight for each.

    Example:
        >>> import torch
        >>> from uda.functional import multiband_probabilities
        >>> unsure, sure = torch.zeros(1, 2, 4, 4), torch.tensor([50.0, -50.0]).view(1, 2, 1, 1).expand(1, 2, 4, 4)
        >>> prob = multiband_probabilities([unsure, sure], size=(8, 8))
        >>> prob.shape, prob[0, :, 0, 0].round(decimals=4).tolist()
        (torch.Size([1, 2, 8, 8]), [0.75, 0.25])
    """
    weights = [1 / max(len(logits), 1)] * len(logits) if weights is None else weights
    if not logits or len(weights) != len(logits):
        raise ValueError(f"{len(logits)} networks and {len(weights)} weights; at least one, and one weight for each")
    prob = torch.stack(
        [weight * band_logits.softmax(1) for band_logits, weight in zip(logits, weights, strict=True)]
    ).sum(0)
    if size is None or tuple(size) == tuple(prob.shape[-2:]):
        return prob
    return F.interpolate(prob, size, mode="bilinear", align_corners=True)
