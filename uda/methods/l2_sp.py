r"""L2-SP: stay near the weights that training started from (Li et al., "Explicit Inductive Bias for Transfer Learning
with Convolutional Networks", ICML 2018, equation 3).

alpha / 2 |w - w0|^2 for the weights that were trained before, beta / 2 |w|^2 for the new ones. It takes the place of
weight decay, which pulls everything to 0: set the run's ``weight_decay`` to 0 beside it. Departures: norms, biases and
position embeddings are left out. What was trained before is the encoder or, after a warm start, the whole network.

$$ \Omega(w) = \frac{\alpha}{2} \| w_S - w_S^0 \|_2^2 + \frac{\beta}{2} \| w_{\bar{S}} \|_2^2 $$
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from uda.methods.base import Method
from uda.methods.support.checks import not_negative, one_of

if TYPE_CHECKING:
    from torch import Tensor, nn

    from uda.step import Step
    from uda.types import SegmenterLike, TaskSpec


class L2SP(Method):
    """Squared distance to the starting point.

    Args:
        weight: alpha, of the distance to the starting point, at least 0.
        new_weight: beta, of the squared norm of all other weights, at least 0.
        part: ``"encoder"`` starts from trained weights and the rest is new, or ``"all"`` does.

    Raises:
        ValueError: a value out of its range; from ``setup``: a network without encoder.
    """

    needs_target = False
    learns = False

    def __init__(self, *, weight: float = 0.1, new_weight: float = 0.01, part: str = "encoder") -> None:
        super().__init__()
        self.weight = not_negative("weight", weight)
        self.new_weight = not_negative("new_weight", new_weight)
        self.part = one_of("part", part, ("encoder", "all"))
        # in tuples: the parameters are the network's, no part of this module
        self._old: tuple[nn.Parameter, ...] = ()
        self._network: tuple[SegmenterLike, ...] = ()

    def setup(self, spec: TaskSpec) -> None:
        self._network = (spec.network,)
        old = getattr(spec.network, "encoder", None) if self.part == "encoder" else spec.network
        if old is None:
            raise ValueError(f"part is 'encoder', must be 'all' for {type(spec.model).__name__}, which has none")
        self._old = tuple(p for p in old.parameters() if p.ndim > 1)
        for index, parameter in enumerate(self._old):
            self.register_buffer(f"start{index}", parameter.detach().clone())

    def losses(self, step: Step) -> dict[str, Tensor]:
        old = set(map(id, self._old))
        new = [p for p in self._network[0].parameters() if p.requires_grad and p.ndim > 1 and id(p) not in old]
        moved = [p - start for p, start in zip(self._old, self.buffers(), strict=True) if p.requires_grad]
        terms = {"distance": self.weight / 2 * squares(moved), "new": self.new_weight / 2 * squares(new)}
        return {name: term for name, term in terms.items() if isinstance(term, torch.Tensor)}


def squares(tensors: Sequence[Tensor]) -> Tensor | float:
    """The sum of all squared numbers; 0.0 of nothing."""
    return torch.stack([tensor.square().sum() for tensor in tensors]).sum() if tensors else 0.0
