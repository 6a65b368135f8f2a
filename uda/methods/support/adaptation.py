"""What test-time methods that train share: which parameters learn, with which statistics, by which optimiser."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from uda.functional.normalisation import batch_statistics

if TYPE_CHECKING:
    from torch import Tensor

OPTIMIZERS = ("adam", "sgd")
STATISTICS = ("batch", "source")


def statistics_of(model: nn.Module, kind: str) -> AbstractContextManager[Any]:
    """Inside, batch norm uses the current batch's statistics (``"batch"``) or the stored ones (``"source"``)."""
    return batch_statistics(model) if kind == "batch" else nullcontext()


@contextmanager
def learning(model: nn.Module, parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Inside, gradients are recorded, and for these parameters of the model alone; afterwards all is as before."""
    before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        model.requires_grad_(False)
        for parameter in parameters:
            parameter.requires_grad_(True)
        with torch.enable_grad():
            yield
    finally:
        for parameter, value in before:
            parameter.requires_grad_(value)


def build_optimizer(
    name: str, parameters: Sequence[nn.Parameter], lr: float, momentum: float = 0.9
) -> torch.optim.Optimizer:
    """Adam with betas 0.9 and 0.999, or SGD with ``momentum``; no weight decay."""
    if name == "adam":
        return torch.optim.Adam(parameters, lr=lr)
    return torch.optim.SGD(parameters, lr=lr, momentum=momentum)


@torch.no_grad()
def restore_(model: nn.Module, source: Mapping[str, Tensor], share: float, generator: torch.Generator) -> None:
    """Set a random share of the model's parameters, number by number, back to those of a state.

    Args:
        model: changed in place.
        source: its parameters by name, as in a state dict.
        share: probability of each number, in [0, 1].
        generator: CPU generator.
    """
    for name, parameter in model.named_parameters():
        mask = torch.rand(parameter.shape, generator=generator) < share
        parameter.copy_(torch.where(mask.to(parameter.device), source[name], parameter))
