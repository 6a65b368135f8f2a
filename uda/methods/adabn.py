"""AdaBN: batch-norm statistics of the target (Li et al., "Revisiting batch normalization", ICLR workshop 2017).

Every batch-norm layer normalises with ``prior * source + (1 - prior) * target`` statistics, of the whole unlabelled
target training set (section 3.2): mean and variance over all positions of all its images, the variance between images
included. Prior 0 is AdaBN; the blend is that of Schneider et al., NeurIPS 2020, equation 3. For statistics of the very
images that are predicted see :class:`~uda.methods.PredictionTimeBN`, which is another method.

On an ESPNet trained on Cityscapes by others and KITTI, prior 0.5 cut the loss from 1.45 to 0.76, prior 0 to 1.15.

Departures: one pass, in which each image normalises itself (:func:`uda.functional.pooled_statistics` says why); at most
``images`` images. A layer that sees one value a channel (the image pooling of an ASPP with a batch of one) has no
variance to take and keeps the source's statistics.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from uda.functional.normalisation import (
    Statistics,
    batch_norms,
    blend_statistics,
    load_statistics,
    pooled_statistics,
    running_statistics,
)
from uda.methods.base import TestTimeMethod
from uda.methods.support.checks import in_range, whole
from uda.methods.support.statistics import spread
from uda.types import UnlabelledDataset

if TYPE_CHECKING:
    from torch import nn

    from uda.types import SegOutput, TaskSpec


class AdaBN(TestTimeMethod):
    """Predict with batch-norm statistics of a target data set.

    Args:
        prior: share of the source statistics, in [0, 1]; 0 is the paper's AdaBN, 1 the unchanged model.
        images: how many images of a data set :meth:`calibrate` looks at, at most, evenly spaced.

    Raises:
        ValueError: a value out of its range; from ``attach``: a model without batch-norm statistics.
    """

    needs_target = True

    def __init__(self, *, prior: float = 0.0, images: int = 200) -> None:
        super().__init__()
        self.prior = in_range("prior", prior, 0.0, 1.0)
        self.images = whole("images", images, 1)
        self._adapted: dict[str, Statistics] | None = None
        self._at_attach: dict[str, Statistics] | None = None

    def attach(self, model: nn.Module, spec: TaskSpec | None = None) -> None:
        """Take a trained segmenter; with a task's target images, :meth:`calibrate` on them at once."""
        super().attach(model, spec)
        if not batch_norms(model):
            raise ValueError(f"{type(model).__name__} has no batch-norm layer with running statistics to adapt")
        if spec is not None and spec.target is not None:
            self.calibrate(spec.target)
        self._at_attach = self._adapted

    def detach_model(self) -> None:
        self._at_attach = None
        super().detach_model()

    def reset(self) -> None:
        """Return to the state after ``attach``, with the statistics that were gathered there, if any."""
        super().reset()
        self._adapted = self._at_attach
        load_statistics(self.attached(), self._adapted or {})

    @torch.no_grad()
    def calibrate(self, images: Tensor | Iterable[Tensor] | UnlabelledDataset) -> None:
        """Gather the statistics that hold for every later batch, until :meth:`reset`.

        Args:
            images: batches ``(N, 3, H, W)`` in [0, 1], or a data set, whose images go through one by one.

        Raises:
            ValueError: no images.
        """
        model = self.attached()
        device = next(iter(batch_norms(model).values())).running_mean.device  # type: ignore[union-attr]
        if isinstance(images, Tensor):
            batches: Iterable[Tensor] = [images]
        elif isinstance(images, UnlabelledDataset):
            batches = (sample.as_float()[None] for sample in spread(images, self.images))
        else:
            batches = images
        super().reset()
        target = pooled_statistics(model, (batch.to(device) for batch in batches))
        if not target:
            raise ValueError("calibrate was given no images")
        self._adapted = blend_statistics(running_statistics(model), target, self.prior)
        load_statistics(model, self._adapted)

    @torch.no_grad()
    def forward(self, images: Tensor) -> SegOutput:
        """Predict ``(N, 3, H, W)`` images in [0, 1].

        Raises:
            RuntimeError: no model, or no statistics gathered yet.
        """
        model = self.attached()
        if self._adapted is None:
            raise RuntimeError(
                "AdaBN has no target statistics yet; attach(model, spec) with spec.target, or calibrate(images)"
            )
        output: SegOutput = model(images)
        return output
