"""Pseudo-labels from a prediction and what they are worth: DACS, DAFormer, DA-SAC, IntraDA."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from uda.functional.checks import check_prob
from uda.functional.windows import inside_margins
from uda.types import IGNORE, Window


def confident_labels(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Argmax and its softmax probability.

    Args:
        logits: ``(N, C, H, W)``.

    Returns:
        ``(N, H, W)`` int64 labels and ``(N, H, W)`` confidences, both without gradient.

    Example:
        >>> import torch
        >>> from uda.functional import confident_labels
        >>> labels, confidence = confident_labels(torch.tensor([-50.0, 50.0]).view(1, 2, 1, 1))
        >>> labels.tolist(), confidence.tolist()
        ([[[1]]], [[[1.0]]])
    """
    confidence, labels = logits.detach().softmax(1).max(1)
    return labels, confidence


def confident_share(confidence: Tensor, threshold: float = 0.968) -> Tensor:
    """Share of the pixels of the WHOLE BATCH whose confidence is at least the threshold; scalar in [0, 1].

    Raises:
        ValueError: values of ``confidence`` outside of [0, 1].

    Example:
        >>> import torch
        >>> from uda.functional import confident_share
        >>> confident_share(torch.tensor([[[0.99, 0.98, 0.97, 0.5]]])).item()
        0.75
    """
    check_prob("confidence", confidence, "confident_share")
    return (confidence >= threshold).double().mean().to(confidence.dtype)


def confidence_weight(confidence: Tensor, *, threshold: float = 0.968, mode: str = "uniform") -> Tensor:
    r"""Weight of target pixels in DACS (Tranheden et al. 2021).

    $$ w = \frac{1}{N H W} \sum_{n,h,w} \left[ \max_c p^{(n,h,w,c)} \geq \tau \right] $$

    Args:
        confidence: ``(N, H, W)`` of :func:`confident_labels`.
        threshold: a pixel is sure at this confidence or above.
        mode: ``"uniform"``: every pixel has the batch's share of sure pixels; ``"pixel"``: 1 where sure, else 0.

    Returns:
        ``(N, H, W)`` in [0, 1].

    Raises:
        ValueError: values of ``confidence`` outside of [0, 1]; unknown ``mode``.

    Example:
        >>> import torch
        >>> from uda.functional import confidence_weight
        >>> confidence = torch.tensor([[[0.99, 0.5]]])
        >>> confidence_weight(confidence).tolist(), confidence_weight(confidence, mode="pixel").tolist()
        ([[[0.5, 0.5]]], [[[1.0, 0.0]]])
    """
    check_prob("confidence", confidence, "confidence_weight")
    if mode == "uniform":
        return torch.ones_like(confidence) * confident_share(confidence, threshold)
    if mode == "pixel":
        return (confidence >= threshold).to(confidence.dtype)
    raise ValueError(f"mode must be 'uniform' or 'pixel', got {mode!r}")


def pseudo_labels(
    logits: Tensor,
    *,
    threshold: float = 0.968,
    ignore_top: int = 0,
    ignore_bottom: int = 0,
    valid: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Pseudo-label and weight of DAFormer, HRDA and MIC.

    The weight is the batch's :func:`confident_share` everywhere; then the first ``ignore_top`` and the last
    ``ignore_bottom`` rows (rectification seams, the ego car's bonnet) become 0, although they count in the share.

    Args:
        logits: ``(N, C, H, W)`` of the teacher.
        threshold: a pixel is sure at this confidence or above.
        ignore_top: rows without weight at the top.
        ignore_bottom: rows without weight at the bottom.
        valid: ``(N, H, W)`` or ``(N, 1, H, W)``, multiplies the weight.

    Returns:
        ``(N, H, W)`` int64 labels, ``(N, H, W)`` float weights.

    Example:
        >>> import torch
        >>> from uda.functional import pseudo_labels
        >>> logits = torch.tensor([[-50.0, 0.0], [50.0, 0.0]]).view(1, 2, 2, 1)  # sure above, unsure below
        >>> labels, weight = pseudo_labels(logits, ignore_top=1)
        >>> labels.tolist(), weight.tolist()
        ([[[1], [0]]], [[[0.0], [0.5]]])
    """
    labels, confidence = confident_labels(logits)
    weight = confidence_weight(confidence, threshold=threshold)
    weight[:, :ignore_top] = 0
    weight[:, max(weight.shape[1] - ignore_bottom, 0) :] = 0
    if valid is not None:
        weight = weight * valid.reshape(weight.shape)
    return labels, weight


def without_margins(weight: Tensor, windows: Sequence[Window], margins: Mapping[str, float]) -> Tensor:
    """Weights of target crops with 0 in the margins of the whole images, and where a crop reaches beyond its image.

    What lies beyond was filled and is no image. Where nobody knows the windows, no pixel is taken to be such.

    Args:
        weight: ``(N, H, W)``.
        windows: of the N crops, or none.
        margins: shares of the whole image in [0, 1) by ``top``, ``bottom``, ``left``, ``right``, see
            :func:`~uda.functional.inside_margins`; what is missing is 0.

    Returns:
        ``(N, H, W)``.

    Raises:
        ValueError: margins without windows.

    Example:
        >>> import torch
        >>> from uda.functional import without_margins
        >>> from uda.types import Window
        >>> window = Window(0, (4, 8), top=0, left=0, height=4, width=8)
        >>> without_margins(torch.ones(1, 4, 1), [window], {"top": 0.25, "bottom": 0.5})[0, :, 0].tolist()
        [0.0, 1.0, 0.0, 0.0]
    """
    if not windows:
        if any(margins.values()):
            raise ValueError(
                f"margins are {dict(margins)!r}, but the target view does not say which part of its image each crop "
                "shows (View.windows); leave the margins out or give the windows"
            )
        return weight
    inside = inside_margins(windows, weight.shape[-2:], **margins)
    return weight * inside.to(weight.device)


def running_confidence(running: Tensor, prob: Tensor, *, beta: float = 1e-3, momentum: float = 0.99) -> Tensor:
    r"""One step of DA-SAC's moving class prior (Araslanov & Roth 2021).

    $$ \chi_c \leftarrow \gamma \, \chi_c + (1 - \gamma) \, \frac{1}{N H W} \sum_{n,h,w} p^{(n,h,w,c)} $$

    A class whose prior is still exactly ``beta`` takes the batch's mean at once when that is above 1e-8.

    Args:
        running: ``(C,)`` prior, initially ``beta`` everywhere.
        prob: ``(N, C, H, W)`` teacher probabilities.
        beta: initial value.
        momentum: of the moving average.

    Returns:
        ``(C,)``, a new tensor.

    Raises:
        ValueError: values of ``running`` or ``prob`` outside of [0, 1].

    Example:
        >>> import torch
        >>> from uda.functional import running_confidence
        >>> prob = torch.tensor([0.75, 0.25]).view(1, 2, 1, 1)
        >>> running_confidence(torch.tensor([0.5, 0.5]), prob, momentum=0.5).tolist()
        [0.625, 0.375]
    """
    check_prob("running", running, "running_confidence")
    check_prob("prob", prob, "running_confidence")
    mean = prob.mean((0, 2, 3))
    fresh = (running == beta) & (mean > 1e-8)
    return momentum * torch.where(fresh, mean, running) + (1 - momentum) * mean


def sac_pseudo_labels(
    prob: Tensor,
    prior: Tensor,
    *,
    beta: float = 1e-3,
    upper: float = 0.75,
    lower: float = 0.2,
    invalid: Tensor | None = None,
    ignore_index: int = IGNORE,
) -> tuple[Tensor, Tensor]:
    r"""DA-SAC's pseudo-labels with thresholds that grow with the class prior (Araslanov & Roth 2021).

    $$ \theta_c = \max \left( m_c \, \zeta_{upper} \left( 1 - e^{-\chi_c / \beta} \right), \zeta_{lower} \right),
    \qquad m_c: \text{largest confidence of the class} $$

    For each image and class: threshold = max(peak * upper * (1 - exp(-prior / beta)), lower), with peak the largest
    confidence among the pixels predicted as the class. A pixel stays where its confidence is strictly above.

    Args:
        prob: ``(N, C, H, W)`` refined teacher probabilities.
        prior: ``(C,)`` moving class prior.
        beta: scale of the prior.
        upper: share of the peak that a frequent class must reach.
        lower: least threshold.
        invalid: ``(N, H, W)`` bool, pixels without content (padding of an augmentation).
        ignore_index: label of rejected pixels.

    Returns:
        ``(N, H, W)`` int64 labels, ``(N, H, W)`` confidences (max probability).

    Raises:
        ValueError: values of ``prob`` or ``prior`` outside of [0, 1].

    Example:
        >>> import torch
        >>> from uda.functional import sac_pseudo_labels
        >>> prob = torch.tensor([[0.9, 0.6], [0.1, 0.4]]).view(1, 2, 1, 2)
        >>> labels, confidence = sac_pseudo_labels(prob, torch.tensor([0.5, 0.5]))  # above 0.75 of 0.9
        >>> labels.tolist()
        [[[0, 255]]]
    """
    check_prob("prob", prob, "sac_pseudo_labels")
    check_prob("prior", prior, "sac_pseudo_labels")
    confidence, labels = prob.max(1)
    flat_labels, flat_confidence = labels.flatten(1), confidence.flatten(1)
    peak = torch.zeros(prob.shape[:2], dtype=prob.dtype, device=prob.device)
    peak.scatter_reduce_(1, flat_labels, flat_confidence, "amax")
    thresholds = (peak * (upper * (1 - torch.exp(-prior / beta)))).clamp(min=lower)
    keep = confidence > thresholds.gather(1, flat_labels).view_as(confidence)
    if invalid is not None:
        keep &= ~invalid
    return labels.masked_fill(~keep, ignore_index), confidence


def entropy_split(entropy: Tensor, *, fraction: float = 0.67) -> tuple[Tensor, Tensor]:
    """IntraDA's easy and hard target images (Pan et al. 2020).

    Args:
        entropy: ``(n,)`` mean entropy of each image.
        fraction: share of easy images, int(n * fraction) of them.

    Returns:
        indices of the easy and of the hard images, by ascending entropy; equal entropies keep their order.

    Raises:
        ValueError: ``fraction`` is not in [0, 1].

    Example:
        >>> import torch
        >>> from uda.functional import entropy_split
        >>> easy, hard = entropy_split(torch.tensor([0.3, 0.1, 0.2]))
        >>> easy.tolist(), hard.tolist()
        ([1, 2], [0])
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"fraction must be in [0, 1], got {fraction}")
    order = entropy.argsort(stable=True)
    easy = int(len(entropy) * fraction)
    return order[:easy], order[easy:]
