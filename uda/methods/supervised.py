"""Training on labelled source images alone: the baseline that every adaptation is measured against.

Cross-entropy averaged over the labelled pixels of the batch, plus a tenth of the same on the auxiliary classifier where
the model has one (the segmentation losses of AdaptSegNet, Tsai et al., CVPR 2018, equation 3, and of ADVENT).
Departure: pixels and samples may carry weights (``View.weight``), which scale their loss and not the divisor, so that a
sample of weight 0.1 counts a tenth whatever it shares its batch with. DAFormer and its followers divide by all pixels
of the batch, ignored ones included; that is ``average="all"``. Pixels whose label covers several classes
(``View.coarse``) teach the sum of their probabilities. CLAN's loss is focal, -(1 - p)^2 log p (``focal=2``). Label
smoothing (Szegedy et al., CVPR 2016, section 7) gives the label 1 - s + s/C and every other class s/C of C.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from uda.functional.groups import marginal_cross_entropy_map
from uda.functional.losses import cross_entropy_2d, weighted_cross_entropy
from uda.methods.base import Method
from uda.methods.support.checks import in_range, not_negative, one_of
from uda.processes import mean_count
from uda.types import IGNORE, TaskSpec, View

if TYPE_CHECKING:
    from torch import Tensor

    from uda.step import Step


def labelled_loss(
    logits: Tensor, view: View, class_weight: Tensor | None = None, focal: float = 0.0, label_smoothing: float = 0.0
) -> Tensor:
    """Cross-entropy of ``(N, C, H, W)`` logits over a view's labelled pixels, with its pixel weights where it has any.

    Args:
        logits: at the size of the labels.
        view: with labels.
        class_weight: ``(C,)``; the mean is divided by the class weights of the labelled pixels.
        focal: exponent γ of (1 - p)^γ, which a pixel's cross-entropy is multiplied by.
        label_smoothing: share of a label that is spread over all classes, as torch does it.

    Returns:
        A scalar; 0 where no pixel is labelled.
    """
    if view.labels is None:
        raise ValueError("supervised training needs labels; this view has none")
    if view.coarse is not None:
        if label_smoothing:
            raise ValueError("label_smoothing needs labels of single classes; these cover several (marginal)")
        return _marginal_loss(logits, view, class_weight, focal)
    if view.weight is None and not focal and not label_smoothing:
        return cross_entropy_2d(logits, view.labels, class_weight=class_weight)
    loss = F.cross_entropy(
        logits, view.labels, class_weight, ignore_index=IGNORE, reduction="none", label_smoothing=label_smoothing
    )
    if focal:
        loss = loss * focal_factor(logits, view.labels, focal)
    known = view.labels != IGNORE
    share = known.to(loss) if class_weight is None else class_weight.to(loss)[view.labels * known] * known
    return _mean(loss, share, view)


def _marginal_loss(logits: Tensor, view: View, class_weight: Tensor | None, focal: float) -> Tensor:
    """:func:`labelled_loss` with coarse labels; one weighs the mean of its classes' weights."""
    labels = view.all_labels
    loss = marginal_cross_entropy_map(logits, labels, view.groups)
    if focal:
        loss = loss * (1 - (-loss).exp()).clamp(min=1e-9) ** focal
    share = (labels != IGNORE).to(loss)
    if class_weight is not None:
        of_groups = [class_weight[list(group)].mean() for group in view.groups]
        every = torch.cat([class_weight, torch.stack(of_groups)]).to(loss)
        share = every[labels.masked_fill(labels == IGNORE, 0)] * share
        loss = loss * share
    return _mean(loss, share, view)


def _mean(loss: Tensor, share: Tensor, view: View) -> Tensor:
    """Of the pixels' losses, divided by what they share; 0 where that is nothing."""
    count, weighted = mean_count(share.sum()), loss if view.weight is None else loss * view.weight
    return weighted.sum() / torch.where(count > 0, count, torch.ones_like(count))


def focal_factor(logits: Tensor, labels: Tensor, power: float) -> Tensor:
    """(1 - p)^power of each pixel's label, ``(N, H, W)``; with gradient, as in CLAN's ``utils/loss.py:75``."""
    log_prob = -F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="none")
    # away from 0, where the gradient of a power below 1 is infinite
    return (1 - log_prob.exp()).clamp(min=1e-9) ** power


class Supervised(Method):
    """Cross-entropy on the source; ``[Supervised()]`` is source-only training.

    Args:
        class_weights: weight of each class, at least 0; ``None`` weighs all the same.
        weight: of the whole loss, at least 0.
        aux_weight: of the auxiliary classifier's loss, at least 0; without effect on a model that has none.
        average: over the ``"labelled"`` pixels of the batch, or over ``"all"`` (without class weights).
        focal: exponent γ of the focal factor (1 - p)^γ, at least 0; 0 is plain cross-entropy. With ``"labelled"`` only.
        label_smoothing: share of each label that is spread over all classes, in [0, 1]; 0 is plain cross-entropy. With
            ``"labelled"`` only, and not with labels that cover several classes.

    Raises:
        ValueError: a value out of its range, or one that goes with an average over the labelled pixels alone.
    """

    reads = frozenset({"source"})
    own_images = frozenset({"losses"})
    needs_target = False
    class_weight: Tensor | None

    def __init__(
        self,
        *,
        class_weights: Sequence[float] | None = None,
        weight: float = 1.0,
        aux_weight: float = 0.1,
        average: str = "labelled",
        focal: float = 0.0,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        for index, value in enumerate(class_weights or ()):
            not_negative(f"class_weights[{index}]", value)
        self.weight = not_negative("weight", weight)
        self.aux_weight = not_negative("aux_weight", aux_weight)
        self.average = one_of("average", average, ("labelled", "all"))
        self.focal = not_negative("focal", focal)
        self.label_smoothing = in_range("label_smoothing", label_smoothing, 0, 1)
        others = {"class_weights": class_weights, "focal": focal, "label_smoothing": label_smoothing}
        for name, chosen in others.items():
            if average == "all" and chosen:
                raise ValueError(f'{name} needs average "labelled", got "all"')
        self.register_buffer("class_weight", None if class_weights is None else torch.tensor(class_weights).float())

    def setup(self, spec: TaskSpec) -> None:
        if self.class_weight is not None and len(self.class_weight) != spec.num_classes:
            weights = f"class_weights has {len(self.class_weight)} values"
            raise ValueError(f"{weights}, must be one for each of the {spec.num_classes} classes")

    def _loss(self, logits: Tensor, view: View) -> Tensor:
        if self.average == "all" and view.labels is not None:
            return weighted_cross_entropy(logits, view.all_labels, view.weight, groups=view.groups)
        return labelled_loss(logits, view, self.class_weight, self.focal, self.label_smoothing)

    def losses(self, step: Step) -> dict[str, Tensor]:
        view, output = step.view("source"), step.predict("source")
        terms = {"segmentation": self.weight * self._loss(output.logits, view)}
        if output.aux is not None and self.aux_weight:
            terms["auxiliary"] = self.weight * self.aux_weight * self._loss(output.aux, view)
        return terms
