r"""L1 penalty on the network's weights (Tibshirani, "Regression shrinkage and selection via the lasso", JRSS-B 1996).

Weights that no data holds up shrink to 0. Departures: norms, biases and position embeddings are left out, as they are
of the weight decay; the optimiser adds the gradient as it adds any other, without a proximal step, so that weights come
near 0 and seldom arrive.

$$ \mathcal{L} = \lambda \sum_i |w_i| $$
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from uda.methods.base import Method
from uda.methods.support.checks import not_negative

if TYPE_CHECKING:
    from torch import Tensor

    from uda.step import Step
    from uda.types import SegmenterLike, TaskSpec


class L1(Method):
    """The sum of the absolute weights.

    Args:
        weight: of the penalty, at least 0.

    Raises:
        ValueError: a value out of its range.
    """

    needs_target = False
    learns = False

    def __init__(self, *, weight: float = 1e-5) -> None:
        super().__init__()
        self.weight = not_negative("weight", weight)
        # in a tuple: the network is the run's, no part of this module
        self._network: tuple[SegmenterLike, ...] = ()

    def setup(self, spec: TaskSpec) -> None:
        self._network = (spec.network,)

    def losses(self, step: Step) -> dict[str, Tensor]:
        weights = [p for p in self._network[0].parameters() if p.requires_grad and p.ndim > 1]
        return {"weights": self.weight * torch.stack([p.abs().sum() for p in weights]).sum()} if weights else {}
