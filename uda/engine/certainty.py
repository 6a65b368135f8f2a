"""How sure a network is on images without labels. It says nothing about how often the network is right."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from uda.engine.inference import PLAIN, Inference, predict_logits
from uda.functional.entropy import softmax_entropy
from uda.methods.base import TestTimeMethod
from uda.models.batch_norm import Domain, normalising
from uda.models.modes import evaluating
from uda.types import UnlabelledDataset

SURE = 0.9
"""Confidence from which a pixel counts as sure."""


@dataclass(frozen=True)
class Certainty:
    """Means over the pixels of a set of images, each image counting alike."""

    images: int
    confidence: float
    """Probability of the predicted class, in [1 / C, 1]."""
    entropy: float
    """Of the prediction, as a share of log C, in [0, 1]."""
    sure: float
    """Share of pixels with confidence of at least 0.9, in [0, 1]."""
    shares: dict[str, float]
    """Class -> share of the pixels that are predicted so, in [0, 1]."""


def certainty(
    model: nn.Module,
    images: UnlabelledDataset,
    class_names: Sequence[str],
    *,
    inference: Inference = PLAIN,
    precision: str = "fp32",
    domain: Domain = "target",
) -> Certainty:
    """Measure how sure a model is on images; labels are neither needed nor read.

    Args:
        model: images ``(N, 3, H, W)`` in [0, 1] -> :class:`SegOutput`; put in evaluation mode and back.
        images: of any sizes, at least one.
        class_names: of the model's classes.
        inference: how images are predicted, and at which size they are looked at.
        precision: ``bf16`` and ``fp16`` run the forward under autocast.
        domain: of the images; whose batch-norm statistics serve, where the model keeps a set for each.

    Raises:
        ValueError: no image.
    """
    if len(images) == 0:
        raise ValueError(f"{images.name}: no image to look at")
    device, sums = next(model.parameters()).device, CertaintySums(class_names)
    mode = nullcontext() if isinstance(model, TestTimeMethod) else evaluating(model)
    with mode, normalising(model, domain):
        for index in range(len(images)):
            image = images[index].as_float()[None].to(device)
            size = inference.scored_size(*image.shape[-2:])
            sums.add(predict_logits(model, image, inference, precision=precision, size=size))
    return sums.certainty()


class CertaintySums:
    """Running sums behind a :class:`Certainty`, for who predicts the images anyway.

    Args:
        class_names: of the model's classes.
    """

    def __init__(self, class_names: Sequence[str]) -> None:
        self.class_names = tuple(class_names)
        self._images = 0
        self._total = torch.zeros(3 + len(self.class_names), dtype=torch.float64)

    def add(self, logits: Tensor) -> None:
        """Count images by their logits ``(N, C, H, W)``."""
        for single in logits.split(1):
            self._total += _of_image(single.float()).cpu()
            self._images += 1

    def certainty(self) -> Certainty:
        """Of all images so far.

        Raises:
            ValueError: there is none.
        """
        if not self._images:
            raise ValueError("no image to look at")
        confidence, entropy, sure, *shares = (self._total / self._images).tolist()
        return Certainty(self._images, confidence, entropy, sure, dict(zip(self.class_names, shares, strict=True)))


def _of_image(logits: Tensor) -> Tensor:
    """``(3 + C,)`` float64: confidence, entropy, share of sure pixels, share of each class; of ``(1, C, H, W)``."""
    classes = logits.shape[1]
    confidence, predicted = logits.softmax(1).max(1)
    entropy, sure = softmax_entropy(logits).mean() / math.log(classes), (confidence >= SURE).float().mean()
    counts = torch.bincount(predicted.flatten(), minlength=classes) / predicted.numel()
    return torch.cat([torch.stack([confidence.mean(), entropy, sure]), counts]).double()
