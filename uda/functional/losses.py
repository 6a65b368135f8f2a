"""Supervised and pseudo-supervised pixel losses.

Labels are int64 ``(N, H, W)`` with ``ignore_index`` (255) ignored. A batch without a valid pixel gives 0 that is still
connected to the logits, never NaN.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from uda.functional.checks import check_prob
from uda.functional.entropy import kl_divergence_map
from uda.functional.groups import Groups, marginal_cross_entropy_map
from uda.processes import mean_count
from uda.types import IGNORE


def _mean(total: Tensor, count: Tensor) -> Tensor:
    """total / count, and the (zero) total itself where there is nothing to divide by."""
    count = mean_count(count)
    return total / torch.where(count > 0, count, torch.ones_like(count))


def cross_entropy_2d(
    logits: Tensor,
    labels: Tensor,
    *,
    class_weight: Tensor | None = None,
    ignore_index: int = IGNORE,
    empty_is_nan: bool = False,
) -> Tensor:
    r"""Cross entropy averaged over the valid pixels of the whole batch (AdaptSegNet, ADVENT, FDA).

    $$ \mathcal{L} = -\frac{1}{|V|} \sum_{i \in V} \log p_{i, y_i}, \qquad V: \text{pixels that are not ignored} $$

    Args:
        logits: ``(N, C, H, W)``.
        labels: ``(N, H, W)`` int64; ``ignore_index`` and negative labels are left out.
        class_weight: ``(C,)``; the mean is then divided by the weights of the counted pixels.
        ignore_index: label that is left out.
        empty_is_nan: give NaN for a batch without a valid pixel, as the published code does, instead of 0.

    Raises:
        IndexError: a label that is neither ignored nor in [0, C) (on the CPU; a CUDA device asserts).

    Example:
        >>> import torch
        >>> from uda.functional import cross_entropy_2d
        >>> loss = cross_entropy_2d(torch.zeros(1, 2, 1, 3), torch.tensor([[[0, 1, 255]]]))
        >>> round(loss.item(), 4)  # ln 2
        0.6931
    """
    valid = (labels >= 0) & (labels != ignore_index)
    labels = labels.masked_fill(~valid, ignore_index)
    total = F.cross_entropy(logits, labels, weight=class_weight, ignore_index=ignore_index, reduction="sum")
    if class_weight is None:
        count = valid.sum().to(total.dtype)
    else:
        count = (class_weight.to(total.dtype)[labels.masked_fill(~valid, 0)] * valid).sum()
    return total / count if empty_is_nan else _mean(total, count)


def weighted_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    weight: Tensor | None = None,
    *,
    groups: Groups = (),
    ignore_index: int = IGNORE,
) -> Tensor:
    """Per-pixel cross entropy times a weight map, averaged over ALL pixels (DACS, DAFormer).

    Neither the weights nor the ignored pixels are renormalised: a batch that is mostly ignored has a small loss.

    Args:
        logits: ``(N, C, h, w)``; upsampled bilinearly to the labels' size where they are smaller.
        labels: ``(N, H, W)`` int64.
        weight: ``(N, H, W)`` float, ``None`` for ones.
        groups: of classes that a label may name, see :func:`marginal_cross_entropy_map`.
        ignore_index: label whose pixels have zero loss.

    Example:
        >>> import torch
        >>> from uda.functional import weighted_cross_entropy
        >>> loss = weighted_cross_entropy(torch.zeros(1, 2, 1, 2), torch.tensor([[[0, 255]]]))
        >>> round(loss.item(), 4)  # the mean of ln 2 and 0
        0.3466
    """
    logits = resize_logits(logits, labels)
    loss = marginal_cross_entropy_map(logits, labels, groups, ignore_index=ignore_index)
    return (loss if weight is None else loss * weight).mean()


def resize_logits(logits: Tensor, labels: Tensor) -> Tensor:
    """Logits ``(N, C, h, w)`` at the size of ``(N, H, W)`` labels, bilinear with ``align_corners=False``.

    Example:
        >>> import torch
        >>> from uda.functional import resize_logits
        >>> resize_logits(torch.zeros(1, 19, 4, 4), torch.zeros(1, 8, 8)).shape
        torch.Size([1, 19, 8, 8])
    """
    if logits.shape[-2:] == labels.shape[-2:]:
        return logits
    return F.interpolate(logits, labels.shape[-2:], mode="bilinear", align_corners=False)


def pixel_accuracy(
    logits: Tensor, labels: Tensor, *, ignore_index: int = IGNORE, count_ignored: bool = False
) -> Tensor:
    """Percent of pixels whose argmax is the label.

    Args:
        logits: ``(N, C, h, w)``; upsampled to the labels' size where they are smaller.
        labels: ``(N, H, W)`` int64.
        ignore_index: label without truth.
        count_ignored: count ignored pixels as wrong, as DAFormer's log does, instead of leaving them out.

    Returns:
        Scalar in [0, 100]; 0 when there is no pixel to count.

    Example:
        >>> import torch
        >>> from uda.functional import pixel_accuracy
        >>> logits = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 1, 4)  # class 0 everywhere
        >>> labels = torch.tensor([[[0, 1, 255, 255]]])
        >>> pixel_accuracy(logits, labels).item(), pixel_accuracy(logits, labels, count_ignored=True).item()
        (50.0, 25.0)
    """
    right = (resize_logits(logits, labels).argmax(1) == labels) & (labels != ignore_index)
    count = torch.tensor(labels.numel(), device=labels.device) if count_ignored else (labels != ignore_index).sum()
    return _mean(100.0 * right.sum(), count)


class HrdaLosses(NamedTuple):
    """The scaled terms of HRDA's loss; the loss is their sum.

    Example:
        >>> import torch
        >>> from uda.functional import HrdaLosses
        >>> losses = HrdaLosses(fused=torch.tensor(0.5), low=torch.tensor(0.0), high=torch.tensor(0.25))
        >>> sum(losses).item()
        0.75
    """

    fused: Tensor
    low: Tensor
    high: Tensor


def hrda_losses(
    fused: Tensor,
    low: Tensor | None,
    high: Tensor,
    labels: Tensor,
    weight: Tensor | None,
    crop_box: tuple[int, int, int, int],
    *,
    low_weight: float = 0.0,
    high_weight: float = 0.1,
) -> HrdaLosses:
    """The loss terms of HRDA (Hoyer et al. 2022b) over :func:`weighted_cross_entropy`.

    Args:
        fused: ``(N, C, h, w)`` logits after scale attention.
        low: logits of the low resolution; not looked at when ``low_weight`` is 0.
        high: logits of the high-resolution crop.
        labels: ``(N, H, W)`` int64.
        weight: ``(N, H, W)`` or ``None``.
        crop_box: y1, y2, x1, x2 of the crop in label pixels.
        low_weight: share of the low-resolution term.
        high_weight: share of the high-resolution term; the fused term has the rest.

    Raises:
        ValueError: ``low_weight`` is not 0 and there are no low-resolution logits.

    Example:
        >>> import torch
        >>> from uda.functional import hrda_losses
        >>> logits, labels = torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4, dtype=torch.int64)
        >>> losses = hrda_losses(logits, None, logits, labels, None, crop_box=(0, 4, 0, 4))
        >>> [round(loss.item(), 4) for loss in losses]  # 0.9 ln 2, none and 0.1 ln 2
        [0.6238, 0.0, 0.0693]
    """
    if low is None and low_weight != 0:
        raise ValueError(f"low_weight is {low_weight} but there are no low-resolution logits")
    y1, y2, x1, x2 = crop_box
    crop_weight = None if weight is None else weight[:, y1:y2, x1:x2]
    zero = fused.new_zeros(())
    return HrdaLosses(
        fused=(1 - low_weight - high_weight) * weighted_cross_entropy(fused, labels, weight),
        low=zero if low is None or low_weight == 0 else low_weight * weighted_cross_entropy(low, labels, weight),
        high=high_weight * weighted_cross_entropy(high, labels[:, y1:y2, x1:x2], crop_weight),
    )


def mrkld_loss(
    logits: Tensor, labels: Tensor, image_weight: Tensor, *, weight: float = 0.1, ignore_index: int = IGNORE
) -> Tensor:
    r"""Cross entropy with CRST's KLD model regulariser (Zou et al. 2019).

    $$ \mathcal{L} = \frac{1}{|V|} \sum_{i \in V} -\log p_{i, y_i}
    + \frac{\alpha}{|V_w|} \sum_{i \in V} w_i \left( -\frac{1}{C} \sum_c \log p_{i,c} \right) $$

    CE is averaged over the valid pixels. The regulariser, -mean_c log p, is summed over the valid pixels times their
    image's weight, divided by the valid pixels of the images whose weight is not 0, times ``weight``. The published
    script gives target images ``image_weight`` = ``weight`` and source images 0, so that its strength is the square of
    the setting; for the paper's strength give 1 and 0.

    Args:
        logits: ``(N, C, H, W)``.
        labels: ``(N, H, W)`` int64.
        image_weight: ``(N,)`` weight of each image's regulariser.
        weight: strength of the regulariser.
        ignore_index: label that is left out.

    Example:
        >>> import torch
        >>> from uda.functional import mrkld_loss
        >>> loss = mrkld_loss(torch.zeros(1, 2, 1, 2), torch.tensor([[[0, 1]]]), torch.ones(1), weight=1)
        >>> round(loss.item(), 4)  # ln 2 + ln 2
        1.3863
    """
    valid = labels != ignore_index
    loss = F.cross_entropy(logits, labels, ignore_index=ignore_index, reduction="none")
    return _regularised(loss, logits, valid, image_weight, weight)


def mrkld_soft_loss(logits: Tensor, soft_labels: Tensor, image_weight: Tensor, *, weight: float = 0.1) -> Tensor:
    """:func:`mrkld_loss` on soft labels (CRST's label entropy regularisation).

    Args:
        logits: ``(N, C, H, W)``.
        soft_labels: ``(N, C, H, W)``; a pixel whose vector sums to 0 is ignored.
        image_weight: ``(N,)`` weight of each image's regulariser.
        weight: strength of the regulariser.

    Raises:
        ValueError: values of ``soft_labels`` outside of [0, 1].

    Example:
        >>> import torch
        >>> from uda.functional import mrkld_soft_loss
        >>> loss = mrkld_soft_loss(torch.zeros(1, 2, 1, 2), torch.full((1, 2, 1, 2), 0.5), torch.ones(1), weight=1)
        >>> round(loss.item(), 4)  # ln 2 + ln 2
        1.3863
    """
    check_prob("soft_labels", soft_labels, "mrkld_soft_loss")
    valid = soft_labels.sum(1) != 0
    loss = -(soft_labels * logits.log_softmax(1)).sum(1)
    return _regularised(loss * valid, logits, valid, image_weight, weight)


def _regularised(loss: Tensor, logits: Tensor, valid: Tensor, image_weight: Tensor, weight: float) -> Tensor:
    """Mean of the loss over valid pixels plus the weighted KLD regulariser of the images that have one."""
    image_weight = image_weight.to(loss)
    counts = valid.flatten(1).sum(1).to(loss.dtype)
    per_image = -(logits.log_softmax(1).mean(1) * valid).flatten(1).sum(1)
    regulariser = _mean((per_image * image_weight).sum(), (counts * (image_weight != 0)).sum())
    return _mean(loss.sum(), counts.sum()) + weight * regulariser


def reverse_cross_entropy(logits: Tensor, labels: Tensor, *, ignore_index: int = IGNORE) -> Tensor:
    """-sum_c p_c log(one-hot_c), the one-hot label clamped at 1e-4, over the valid pixels (ProDA, Wang et al. 2019).

    Args:
        logits: ``(N, C, H, W)``.
        labels: ``(N, H, W)`` int64.
        ignore_index: label that is left out (250 in ProDA's code).

    Example:
        >>> import torch
        >>> from uda.functional import reverse_cross_entropy
        >>> loss = reverse_cross_entropy(torch.zeros(1, 2, 1, 2), torch.tensor([[[0, 1]]]))
        >>> round(loss.item(), 3)  # -ln(1e-4) / 2
        4.605
    """
    valid = labels != ignore_index
    prob = logits.softmax(1).clamp(1e-7, 1.0)
    of_label = prob.gather(1, labels.masked_fill(~valid, 0).unsqueeze(1)).squeeze(1)
    log_wrong = torch.log(torch.tensor(1e-4)).item()
    wrong = -log_wrong * (prob.sum(1) - of_label)
    return (wrong * valid).sum() / (mean_count(valid.sum()) + 1e-6)


def symmetric_cross_entropy(
    logits: Tensor, labels: Tensor, *, alpha: float = 0.1, beta: float = 1.0, ignore_index: int = IGNORE
) -> Tensor:
    r"""alpha * cross entropy + beta * reverse cross entropy, robust to wrong pseudo-labels (ProDA).

    $$ \mathcal{L} = \alpha \, \mathrm{CE}(p, \hat{y}) + \beta \, \mathrm{CE}(\hat{y}, p) $$

    Args:
        logits: ``(N, C, H, W)``.
        labels: ``(N, H, W)`` int64.
        alpha: weight of the cross entropy.
        beta: weight of the reverse cross entropy.
        ignore_index: label that is left out.

    Example:
        >>> import torch
        >>> from uda.functional import symmetric_cross_entropy
        >>> loss = symmetric_cross_entropy(torch.zeros(1, 2, 1, 2), torch.tensor([[[0, 1]]]), alpha=1.0, beta=1.0)
        >>> round(loss.item(), 3)  # ln 2 - ln(1e-4) / 2
        5.298
    """
    forward = cross_entropy_2d(logits, labels, ignore_index=ignore_index)
    return alpha * forward + beta * reverse_cross_entropy(logits, labels, ignore_index=ignore_index)


def kld_regulariser(logits: Tensor) -> Tensor:
    """-mean of log p over all N*C*H*W elements, ignored pixels included: pulls to the uniform prediction (ProDA).

    Example:
        >>> import torch
        >>> from uda.functional import kld_regulariser
        >>> round(kld_regulariser(torch.zeros(1, 4, 2, 2)).item(), 4)  # ln 4
        1.3863
    """
    return -logits.log_softmax(1).mean()


def negative_entropy(logits: Tensor) -> Tensor:
    """Mean over pixels of sum_c p log p in nats: minimising it raises the entropy (ProDA's MRENT).

    Example:
        >>> import torch
        >>> from uda.functional import negative_entropy
        >>> round(negative_entropy(torch.zeros(1, 4, 2, 2)).item(), 4)  # -ln 4
        -1.3863
    """
    log_prob = logits.log_softmax(1)
    return (log_prob.exp() * log_prob).sum(1).mean()


def uncertainty_rectified_loss(
    logits: Tensor,
    other_logits: Tensor,
    labels: Tensor,
    *,
    class_weight: Tensor | None = None,
    ignore_index: int = IGNORE,
) -> Tensor:
    r"""Pseudo-label loss damped where two heads disagree (Zheng & Yang 2021): mean CE exp(-v) + mean v.

    $$ \mathcal{L} = \frac{1}{n} \sum_i \left( e^{-v_i} \, \mathrm{CE}_i + v_i \right) $$

    v = KL(other || first) per pixel, with gradient to both heads; both means are over all pixels, ignored included.

    Args:
        logits: ``(N, C, H, W)`` of the trained head.
        other_logits: ``(N, C, H, W)`` of the other head.
        labels: ``(N, H, W)`` int64.
        class_weight: ``(C,)`` weights of the cross entropy.
        ignore_index: label whose pixels have zero cross entropy.

    Example:
        >>> import torch
        >>> from uda.functional import uncertainty_rectified_loss
        >>> logits, labels = torch.zeros(1, 2, 1, 2), torch.tensor([[[0, 1]]])
        >>> round(uncertainty_rectified_loss(logits, logits, labels).item(), 4)  # heads agree: ln 2
        0.6931
    """
    variance = kl_divergence_map(logits, other_logits)
    loss = F.cross_entropy(logits, labels, weight=class_weight, ignore_index=ignore_index, reduction="none")
    return (loss * torch.exp(-variance)).mean() + variance.mean()


def reverse_huber_loss(pred: Tensor, depth: Tensor, *, ratio: float = 0.2) -> Tensor:
    """DADA's berHu loss of depth (Vu et al. 2019b): |d| up to c = ratio * max |d|, (d^2 + c^2) / 2c beyond.

    Args:
        pred: any shape.
        depth: same shape, in the same units.
        ratio: c as a share of the batch's largest error; c carries no gradient.

    Example:
        >>> import torch
        >>> from uda.functional import reverse_huber_loss
        >>> loss = reverse_huber_loss(torch.tensor([1.0, 10.0]), torch.zeros(2))  # c = 2
        >>> round(loss.item(), 4)  # the mean of 1 and (100 + 4) / 4
        13.5
    """
    error = (pred - depth).abs()
    limit = (ratio * error.detach().max()).clamp(min=torch.finfo(error.dtype).tiny)
    return torch.where(error <= limit, error, (error.square() + limit.square()) / (2 * limit)).mean()


def focal_loss_map(
    logits: Tensor, labels: Tensor, prior: Tensor, *, power: float = 3.0, ignore_index: int = IGNORE
) -> Tensor:
    r"""DA-SAC's focal loss of every pixel (Araslanov & Roth 2021): CE * (1 - prior_label)^power.

    $$ \mathcal{L} = -(1 - \chi_y)^{\lambda} \log p_y $$

    Args:
        logits: ``(N, C, H, W)``.
        labels: ``(N, H, W)`` int64.
        prior: ``(C,)`` moving class prior, in [0, 1].
        power: the paper's lambda.
        ignore_index: label whose pixels have zero loss.

    Returns:
        ``(N, H, W)``.

    Raises:
        ValueError: values of ``prior`` outside of [0, 1].

    Example:
        >>> import torch
        >>> from uda.functional import focal_loss_map
        >>> loss = focal_loss_map(torch.zeros(1, 2, 1, 2), torch.tensor([[[0, 1]]]), prior=torch.tensor([0.0, 0.5]))
        >>> [round(value, 4) for value in loss.flatten().tolist()]  # ln 2 and 0.5^3 ln 2
        [0.6931, 0.0866]
    """
    check_prob("prior", prior, "focal_loss_map")
    weight = (1 - prior).pow(power).to(logits.dtype)
    return F.cross_entropy(logits, labels, weight=weight, ignore_index=ignore_index, reduction="none")


def confidence_weighted_mean(loss: Tensor, confidence: Tensor, *, mix_batch: bool = False) -> Tensor:
    """Mean over all pixels of a loss map times the teacher's confidence (DA-SAC).

    Args:
        loss: ``(N, H, W)``.
        confidence: ``(N, H, W)`` or ``(N, 1, H, W)``.
        mix_batch: multiply each image's loss by the confidences of ALL images of the batch, which the published code
            does by a broadcast of ``(N, H, W)`` with ``(N, 1, H, W)``.

    Raises:
        ValueError: values of ``confidence`` outside of [0, 1].

    Example:
        >>> import torch
        >>> from uda.functional import confidence_weighted_mean
        >>> confidence_weighted_mean(torch.tensor([[[1.0, 3.0]]]), torch.tensor([[[1.0, 0.5]]])).item()
        1.25
    """
    check_prob("confidence", confidence, "confidence_weighted_mean")
    confidence = confidence.reshape(loss.shape)
    if mix_batch:
        return (loss.unsqueeze(0) * confidence.unsqueeze(1)).mean()
    return (loss * confidence).mean()


def loss_by_class(loss: Tensor, labels: Tensor, num_classes: int, *, ignore_index: int = IGNORE) -> Tensor:
    """What the pixels of each label contribute to the mean of a loss map (for logs).

    Args:
        loss: ``(N, H, W)``.
        labels: ``(N, H, W)`` int64.
        num_classes: C.
        ignore_index: label that is left out.

    Returns:
        ``(C,)``; divided by all pixels, so that it sums to the mean of the counted loss.

    Example:
        >>> import torch
        >>> from uda.functional import loss_by_class
        >>> loss, labels = torch.tensor([[[1.0, 2.0, 4.0, 8.0]]]), torch.tensor([[[0, 0, 1, 255]]])
        >>> loss_by_class(loss, labels, num_classes=2).tolist()
        [0.75, 1.0]
    """
    valid = labels != ignore_index
    sums = loss.new_zeros(num_classes).scatter_add(0, labels[valid], loss[valid])
    return sums / max(loss.numel(), 1)
