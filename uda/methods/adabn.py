"""AdaBN: batch-norm statistics of the target (Li et al., "Revisiting batch normalization", ICLR workshop 2017).

Every batch-norm layer normalises with ``prior * source + (1 - prior) * target`` statistics. Prior 0 is AdaBN; the blend
is that of Schneider et al., NeurIPS 2020, equation 3, with prior = N / (N + n). On a Cityscapes-trained network and
KITTI, prior 0.5 cut the loss far more than 0.

Target statistics are those of the batch at hand (biased variance, as in training), or are gathered beforehand: then the
mean over batches of their means and unbiased variances, in one pass (:mod:`uda.functional.normalisation`).

Departure: a layer that sees one value a channel (the image pooling of an ASPP with a batch of one) has no variance to
take and keeps the source's statistics for that batch.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from uda.functional.normalisation import (
    Statistics,
    batch_norms,
    batch_statistics,
    blend_statistics,
    collect_statistics,
    load_statistics,
    running_statistics,
)
from uda.methods.base import TestTimeMethod
from uda.methods.support.checks import in_range, one_of, whole
from uda.methods.support.statistics import spread
from uda.types import UnlabelledDataset

if TYPE_CHECKING:
    from torch import nn

    from uda.types import SegOutput, TaskSpec


class AdaBN(TestTimeMethod):
    """Predict with batch-norm statistics of the target.

    Args:
        prior: share of the source statistics, in [0, 1]; 0 is the paper's AdaBN, 1 the unchanged model.
        statistics: ``"batch"``: of each batch that is predicted; ``"dataset"``: gathered once by :meth:`calibrate`,
            which ``attach`` calls with the task's unlabelled target images where it gets them.
        images: how many images of a data set :meth:`calibrate` looks at, at most, evenly spaced.

    Raises:
        ValueError: a value out of its range; from ``attach``: a model without batch-norm statistics.
    """

    def __init__(self, *, prior: float = 0.0, statistics: str = "batch", images: int = 200) -> None:
        super().__init__()
        self.prior = in_range("prior", prior, 0.0, 1.0)
        self.statistics = one_of("statistics", statistics, ("batch", "dataset"))
        self.images = whole("images", images, 1)
        self._fixed: dict[str, Statistics] | None = None
        self._at_attach: dict[str, Statistics] | None = None

    def attach(self, model: nn.Module, spec: TaskSpec | None = None) -> None:
        super().attach(model, spec)
        if not batch_norms(model):
            raise ValueError(f"{type(model).__name__} has no batch-norm layer with running statistics to adapt")
        if self.statistics == "dataset" and spec is not None and spec.target is not None:
            self.calibrate(spec.target)
        self._at_attach = self._fixed

    def detach_model(self) -> None:
        self._at_attach = None
        super().detach_model()

    def reset(self) -> None:
        """Return to the state after ``attach``, with the statistics that were gathered there, if any."""
        super().reset()
        self._fixed = self._at_attach
        load_statistics(self.attached(), self._fixed or {})

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
            batches = (image[None].float() / 255 for image in spread(images, self.images))
        else:
            batches = images
        super().reset()
        target = collect_statistics(model, (batch.to(device) for batch in batches))
        if not target:
            raise ValueError("calibrate was given no images")
        self._fixed = blend_statistics(running_statistics(model), target, self.prior)
        load_statistics(model, self._fixed)

    @torch.no_grad()
    def forward(self, images: Tensor) -> SegOutput:
        """Predict ``(N, 3, H, W)`` images in [0, 1].

        Raises:
            RuntimeError: no model, or ``statistics="dataset"`` and none gathered yet.
        """
        model: Any = self.attached()
        if self._fixed is None and self.statistics == "dataset":
            raise RuntimeError("AdaBN(statistics='dataset') has none yet; attach(model, spec) or calibrate(images)")
        with nullcontext() if self._fixed is not None else batch_statistics(model, prior=self.prior):
            output: SegOutput = model(images)
        return output
