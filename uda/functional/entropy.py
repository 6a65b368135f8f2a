"""Entropy and its relatives: losses that make a prediction certain without labels.

Everything takes ``(N, C, H, W)`` and works for any number of classes and any batch size. Sources:
ADVENT (Vu et al. 2019), FDA (Yang & Soatto 2020), TENT (Wang et al. 2021), CoTTA (Wang et al. 2022),
maximum squares (Chen et al. 2019), minimum class confusion (Jin et al. 2020).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from uda.functional.checks import check_prob

FDA_ENTROPY_SCALE = 2.9444
"""The constant by which FDA's published code divides the entropy, whatever the number of classes (about ln 19)."""


def self_information(prob: Tensor, *, eps: float = 1e-30) -> Tensor:
    r"""Weighted self-information maps, what ADVENT's discriminator looks at.

    $$ I^{(h,w,c)} = -\frac{p^{(h,w,c)} \log_2 p^{(h,w,c)}}{\log_2 C} $$

    I = -p log2(p + eps) / log2(C), element-wise; summed over the classes this is the entropy in [0, 1].

    Args:
        prob: ``(N, C, H, W)`` probabilities.
        eps: keeps the logarithm of an exact zero finite.

    Returns:
        ``(N, C, H, W)``.

    Raises:
        ValueError: values of ``prob`` outside of [0, 1].

    Example:
        >>> import torch
        >>> from uda.functional import self_information
        >>> self_information(torch.full((1, 2, 1, 1), 0.5)).flatten().tolist()
        [0.5, 0.5]
    """
    check_prob("prob", prob, "self_information")
    # the sign in the divisor: a negated copy would be kept for the gradient
    return prob * torch.log2(prob + eps) / -math.log2(max(prob.shape[1], 2))


def entropy_loss(prob: Tensor) -> Tensor:
    r"""Mean normalised entropy of the pixels, in [0, 1] (ADVENT eq. 3; MinEnt's loss).

    $$ \mathcal{L} = -\frac{1}{H W \log C} \sum_{h,w} \sum_c p^{(h,w,c)} \log p^{(h,w,c)} $$

    Args:
        prob: ``(N, C, H, W)`` probabilities.

    Raises:
        ValueError: values of ``prob`` outside of [0, 1].

    Example:
        >>> import torch
        >>> from uda.functional import entropy_loss
        >>> entropy_loss(torch.full((1, 4, 2, 2), 0.25)).item()
        1.0
    """
    return self_information(prob).sum(1).mean()


def softmax_entropy(logits: Tensor) -> Tensor:
    r"""Entropy of the softmax over dimension 1 in nats, not normalised (TENT).

    $$ H = -\sum_c p_c \ln p_c $$

    Args:
        logits: ``(N, C, ...)``.

    Returns:
        ``(N, ...)``.

    Example:
        >>> import torch
        >>> from uda.functional import softmax_entropy
        >>> entropy = softmax_entropy(torch.zeros(2, 4, 3, 3))
        >>> entropy.shape, round(entropy.mean().item(), 4)  # ln 4
        (torch.Size([2, 3, 3]), 1.3863)
    """
    return -(logits.softmax(1) * logits.log_softmax(1)).sum(1)


def soft_cross_entropy_map(logits: Tensor, soft_labels: Tensor) -> Tensor:
    """Cross entropy with soft targets at every position: -sum_c soft_label log softmax(logits).

    With the teacher's softmax as the target this is CoTTA's consistency.

    Args:
        logits: ``(N, C, ...)``.
        soft_labels: ``(N, C, ...)`` probabilities of the classes.

    Returns:
        ``(N, ...)``.

    Raises:
        ValueError: values of ``soft_labels`` outside of [0, 1].

    Example:
        >>> import torch
        >>> from uda.functional import soft_cross_entropy_map
        >>> loss = soft_cross_entropy_map(torch.zeros(2, 4, 3, 3), torch.full((2, 4, 3, 3), 0.25))
        >>> loss.shape, round(loss.mean().item(), 4)  # ln 4
        (torch.Size([2, 3, 3]), 1.3863)
    """
    check_prob("soft_labels", soft_labels, "soft_cross_entropy_map")
    return -(soft_labels * logits.log_softmax(1)).sum(1)


def robust_entropy_loss(logits: Tensor, *, eta: float = 2.0, scale: float | None = None) -> Tensor:
    r"""Charbonnier penalty of the entropy: mean of (e^2 + 1e-8)^eta (FDA).

    $$ \mathcal{L} = \frac{1}{H W} \sum_{h,w} \left( e_{h,w}^2 + 10^{-8} \right)^{\eta}, \qquad e_{h,w} =
    -\frac{1}{\ln C} \sum_c p_c \ln p_c $$

    Args:
        logits: ``(N, C, h, w)``; the paper takes them at the network's stride, before upsampling.
        eta: exponent; above 0.5 it presses more on the uncertain pixels.
        scale: what the entropy in nats is divided by. ``None``: ln C, so that e is in [0, 1] for any number of classes.
            The published code divides by :data:`FDA_ENTROPY_SCALE` always, which differs for other than 19 classes.

    Example:
        >>> import torch
        >>> from uda.functional import robust_entropy_loss
        >>> round(robust_entropy_loss(torch.zeros(1, 19, 2, 2)).item(), 4)
        1.0
    """
    divisor = math.log(max(logits.shape[1], 2)) if scale is None else scale
    return ((softmax_entropy(logits) / divisor).square() + 1e-8).pow(eta).mean()


def max_squares_loss(prob: Tensor, *, ignored_value: float = -1.0) -> Tensor:
    r"""Maximum squares: minus half the mean of p^2 over all elements, the class axis included (Chen et al.).

    $$ \mathcal{L} = -\frac{1}{2 N C} \sum_{n=1}^{N} \sum_{c=1}^{C} p_{n,c}^2 $$

    Its gradient grows linearly with p, where that of the entropy is dominated by the easy pixels.

    Args:
        prob: ``(N, C, H, W)`` probabilities; elements equal to ``ignored_value`` are left out.
        ignored_value: marks elements that do not count.

    Returns:
        Scalar in [-1/2, 0]; 0 when nothing counts.

    Raises:
        ValueError: values of ``prob`` outside of [0, 1], but for ``ignored_value``.

    Example:
        >>> import torch
        >>> from uda.functional import max_squares_loss
        >>> max_squares_loss(torch.full((1, 2, 2, 2), 0.5)).item()
        -0.125
    """
    check_prob("prob", prob, "max_squares_loss", ignored=ignored_value)
    counted = prob != ignored_value
    return -0.5 * prob.square().mul(counted).sum() / counted.sum().clamp(min=1)


def image_class_weights(classes: Tensor, num_classes: int, *, ratio: float = 0.2) -> Tensor:
    """Weight of each class in each image: 1 / max(n_c^ratio n^(1-ratio), 1) with n_c of the image's n pixels.

    Args:
        classes: ``(N, H, W)`` int64 class of every pixel, in [0, num_classes).
        num_classes: C.
        ratio: 0 weighs all classes the same, 1 by the inverse of their frequency.

    Returns:
        ``(N, C)`` float.

    Example:
        >>> import torch
        >>> from uda.functional import image_class_weights
        >>> image_class_weights(torch.tensor([[[0, 0, 1, 0, 0]]]), 2, ratio=1).tolist()
        [[0.25, 1.0]]
    """
    flat = classes.flatten(1)
    counts = torch.zeros(flat.shape[0], num_classes, device=classes.device)
    counts.scatter_add_(1, flat, torch.ones_like(flat, dtype=counts.dtype))
    size: float = flat.shape[1] ** (1 - ratio)
    return (counts.pow(ratio) * size).clamp(min=1).reciprocal()


def _pixel_weights(scores: Tensor, ratio: float) -> Tensor:
    """``(N, 1, H, W)``: the weight of each pixel's predicted class, without gradient."""
    predicted = scores.detach().argmax(1)
    weights = image_class_weights(predicted, scores.shape[1], ratio=ratio)
    return weights.gather(1, predicted.flatten(1)).view_as(predicted).unsqueeze(1)


def iw_max_squares_loss(prob: Tensor, *, ratio: float = 0.2) -> Tensor:
    r"""Image-wise class weighted maximum squares (Chen et al.): mean over images of -sum w p^2 / C.

    $$ \mathcal{L} = -\frac{1}{C} \sum_{n} \sum_{c} \frac{p_{n,c}^2}{N_{k}^{\alpha} N^{1-\alpha}}, \qquad k =
    \mathrm{argmax}_{c'} p_{n,c'} $$

    A pixel has the weight of its own predicted class in its own image; there is neither the factor one half nor a
    division by the pixels of :func:`max_squares_loss`, as the weights carry it. The published code works for one
    image a batch only; here the loss of a batch is the mean of its images' losses.

    Args:
        prob: ``(N, C, H, W)`` probabilities.
        ratio: see :func:`image_class_weights`.

    Raises:
        ValueError: values of ``prob`` outside of [0, 1].

    Example:
        >>> import torch
        >>> from uda.functional import iw_max_squares_loss
        >>> loss = iw_max_squares_loss(torch.full((1, 2, 2, 2), 0.5))  # of one class: weight 1/4
        >>> round(loss.item(), 4)  # 4 pixels of -1/4 (1/4 + 1/4) / 2
        -0.25
    """
    check_prob("prob", prob, "iw_max_squares_loss")
    weighted = prob.square() * _pixel_weights(prob, ratio)
    return -weighted.sum() / (prob.shape[0] * prob.shape[1])


def soft_cross_entropy(logits: Tensor, soft_labels: Tensor) -> Tensor:
    """Mean of -soft_label log softmax(logits) over ALL elements, the class axis included (the max squares baseline).

    Args:
        logits: ``(N, C, H, W)``.
        soft_labels: ``(N, C, H, W)`` probabilities of the classes.

    Raises:
        ValueError: values of ``soft_labels`` outside of [0, 1].

    Example:
        >>> import torch
        >>> from uda.functional import soft_cross_entropy
        >>> loss = soft_cross_entropy(torch.zeros(1, 2, 2, 2), torch.full((1, 2, 2, 2), 0.5))
        >>> round(loss.item(), 4)  # ln 2 / 2
        0.3466
    """
    return soft_cross_entropy_map(logits, soft_labels).mean() / logits.shape[1]


def iw_soft_cross_entropy(logits: Tensor, soft_labels: Tensor, *, ratio: float = 0.2) -> Tensor:
    """:func:`soft_cross_entropy` with the weights of :func:`iw_max_squares_loss`: mean over images of the sum / C.

    Args:
        logits: ``(N, C, H, W)``; their argmax gives the weights.
        soft_labels: ``(N, C, H, W)`` probabilities of the classes.
        ratio: see :func:`image_class_weights`.

    Raises:
        ValueError: values of ``soft_labels`` outside of [0, 1].

    Example:
        >>> import torch
        >>> from uda.functional import iw_soft_cross_entropy
        >>> loss = iw_soft_cross_entropy(torch.zeros(1, 2, 2, 2), torch.full((1, 2, 2, 2), 0.5))
        >>> round(loss.item(), 4)  # 4 pixels of 1/4 ln 2 / 2
        0.3466
    """
    weighted = soft_cross_entropy_map(logits, soft_labels) * _pixel_weights(logits, ratio).squeeze(1)
    return weighted.sum() / (logits.shape[0] * logits.shape[1])


def class_confusion_loss(logits: Tensor, *, temperature: float = 2.5) -> Tensor:
    r"""Minimum class confusion (Jin et al. 2020): the share of a class's mass that other classes take.

    $$ \mathcal{L} = \frac{1}{C} \sum_{j} \sum_{j' \neq j} \frac{\sum_i w_i p_{ij} p_{ij'}}{\sum_{k} \sum_i
    w_i p_{ij} p_{ik}}, \qquad w_i \propto 1 + e^{-H(p_i)} $$

    Args:
        logits: ``(N, C)`` of samples, for segmentation a subset of the pixels.
        temperature: divides the logits.

    Returns:
        Scalar in [0, 1]; 0 for an empty set of samples.

    Example:
        >>> import torch
        >>> from uda.functional import class_confusion_loss
        >>> round(class_confusion_loss(torch.zeros(4, 2)).item(), 4)
        0.5
        >>> round(class_confusion_loss(100 * torch.eye(2)).item(), 4)
        0.0
    """
    if logits.shape[0] == 0:
        return logits.sum()
    prob = (logits / temperature).softmax(1)
    detached = prob.detach()
    entropy = -(detached * (detached + 1e-5).log()).sum(1)
    weight = 1 + torch.exp(-entropy)
    weight = weight / weight.mean()
    confusion = prob.T @ (prob * weight[:, None])
    # the smallest normal number keeps a class that has no mass at all from dividing zero by zero
    confusion = confusion / confusion.sum(1).clamp(min=torch.finfo(confusion.dtype).tiny)
    return (confusion.sum() - confusion.trace()) / logits.shape[1]


def kl_divergence_map(logits: Tensor, other_logits: Tensor) -> Tensor:
    r"""KL(softmax(other) || softmax(logits)) at every position, with gradient to both.

    $$ v = \sum_c q_c \log \frac{q_c}{p_c}, \qquad p: \text{softmax of the logits}, \quad q: \text{of the others} $$

    Args:
        logits: ``(N, C, ...)``.
        other_logits: ``(N, C, ...)``.

    Returns:
        ``(N, ...)``.

    Example:
        >>> import torch
        >>> from uda.functional import kl_divergence_map
        >>> unsure, sure = torch.zeros(1, 2, 1, 1), torch.tensor([50.0, -50.0]).view(1, 2, 1, 1)
        >>> round(kl_divergence_map(unsure, sure).item(), 4)  # ln 2
        0.6931
    """
    return F.kl_div(logits.log_softmax(1), other_logits.log_softmax(1), reduction="none", log_target=True).sum(1)
