"""TENT: test-time entropy minimisation (Wang et al., ICLR 2021, section 3), made dense.

Each batch is predicted with its own batch-norm statistics, and the scale and shift of the batch-norm layers take a step
down the gradient of the mean entropy of all pixels. As published, what is returned was predicted before the last step,
and the adaptation goes on from batch to batch until ``reset``.

The paper: SGD with rate 0.00025 and momentum 0.9 on ImageNet (the defaults here), Adam with 0.001 elsewhere, and for
segmentation ten steps an image, reset after each (``steps=10`` and a protocol with ``reset="image"``). On a network
trained on Cityscapes and KITTI, Adam at 0.001 destroyed the network, and 0.0001 with ``statistics="source"`` was best.

Departures: ``statistics="source"`` keeps the stored statistics, which a batch of one may need. A layer that sees one
value a channel (the image pooling of an ASPP with a batch of one) uses its stored statistics in any case.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from uda.functional.entropy import softmax_entropy
from uda.functional.normalisation import affine_parameters
from uda.methods.base import TestTimeMethod
from uda.methods.support.adaptation import OPTIMIZERS, STATISTICS, build_optimizer, learning, statistics_of
from uda.methods.support.checks import in_range, one_of, positive, whole
from uda.types import SegOutput

if TYPE_CHECKING:
    from torch import Tensor

    from uda.types import TaskSpec


class TENT(TestTimeMethod):
    """Predict, and minimise the entropy by the batch-norm layers' scale and shift.

    Args:
        lr: learning rate, above 0.
        steps: gradient steps a batch, at least 1.
        optimizer: ``"sgd"`` or ``"adam"``.
        momentum: of SGD, in [0, 1].
        statistics: ``"batch"``: of each batch (the paper); ``"source"``: those the model has stored.

    Raises:
        ValueError: a value out of its range; from ``attach``: a model without batch-norm scale and shift.
    """

    adapts_on_scored = True

    def __init__(
        self,
        *,
        lr: float = 0.00025,
        steps: int = 1,
        optimizer: str = "sgd",
        momentum: float = 0.9,
        statistics: str = "batch",
    ) -> None:
        super().__init__()
        self.lr = positive("lr", lr)
        self.steps = whole("steps", steps, 1)
        self.optimizer = one_of("optimizer", optimizer, OPTIMIZERS)
        self.momentum = in_range("momentum", momentum, 0.0, 1.0)
        self.statistics = one_of("statistics", statistics, STATISTICS)
        self.starts_from = "PredictionTimeBN" if statistics == "batch" else None
        self._optimizer: torch.optim.Optimizer | None = None

    def attach(self, model: nn.Module, spec: TaskSpec | None = None) -> None:
        if not affine_parameters(model):
            raise ValueError(f"{type(model).__name__} has no batch-norm layer with scale and shift to adapt")
        super().attach(model, spec)
        self.reset()

    def reset(self) -> None:
        """Return the model to its state at ``attach``, and forget the optimiser's moments."""
        super().reset()
        self._optimizer = build_optimizer(self.optimizer, affine_parameters(self.attached()), self.lr, self.momentum)

    def forward(self, images: Tensor) -> SegOutput:
        """Predict ``(N, 3, H, W)`` images in [0, 1] and adapt.

        Raises:
            RuntimeError: no model.
        """
        model = self.attached()
        if self._optimizer is None:
            raise RuntimeError("TENT has no optimiser; call attach(model)")
        for _ in range(self.steps):
            with learning(model, affine_parameters(model)), statistics_of(model, self.statistics):
                output: SegOutput = model(images)
                self._optimizer.zero_grad(set_to_none=True)
                softmax_entropy(output.logits.float()).mean().backward()  # type: ignore[no-untyped-call]
            self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return output.detach()
