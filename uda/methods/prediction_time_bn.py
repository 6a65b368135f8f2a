"""Prediction-time batch norm (Nado et al., 2020, arXiv 2006.10963; Schneider et al., NeurIPS 2020).

Every batch-norm layer normalises with ``prior * source + (1 - prior) * batch`` statistics, of the images that are
predicted together. Prior 0 is Nado et al.'s; Schneider et al., equation 3, set it to N / (N + n) for a batch of n
images. What an image gets depends on what is scored beside it; with a batch of one it normalises itself.
:class:`~uda.methods.AdaBN` takes the statistics of a whole data set instead: another method, and often the better one.

Departures: variances are those of the population, as in training; a layer that sees one value a channel (the image
pooling of an ASPP with a batch of one) keeps the source's statistics.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from uda.functional.normalisation import batch_norms, batch_statistics
from uda.methods.base import TestTimeMethod
from uda.methods.support.checks import in_range

if TYPE_CHECKING:
    from torch import Tensor, nn

    from uda.types import SegOutput, TaskSpec


class PredictionTimeBN(TestTimeMethod):
    """Predict each batch with its own batch-norm statistics.

    Args:
        prior: share of the source statistics, in [0, 1]; 1 is the unchanged model.

    Raises:
        ValueError: a value out of its range; from ``attach``: a model without batch-norm statistics.
    """

    adapts_on_scored = True

    def __init__(self, *, prior: float = 0.0) -> None:
        super().__init__()
        self.prior = in_range("prior", prior, 0.0, 1.0)

    def attach(self, model: nn.Module, spec: TaskSpec | None = None) -> None:
        super().attach(model, spec)
        if not batch_norms(model):
            raise ValueError(f"{type(model).__name__} has no batch-norm layer with running statistics to adapt")

    @torch.no_grad()
    def forward(self, images: Tensor) -> SegOutput:
        """Predict ``(N, 3, H, W)`` images in [0, 1].

        Raises:
            RuntimeError: no model.
        """
        model = self.attached()
        with batch_statistics(model, prior=self.prior):
            output: SegOutput = model(images)
        return output
