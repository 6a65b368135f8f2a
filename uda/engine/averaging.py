"""Stochastic weight averaging: the mean of the weights of a run's last part is what is scored (Izmailov et al.,
"Averaging Weights Leads to Wider Optima and Better Generalization", UAI 2018).

The mean is torch's :class:`~torch.optim.swa_utils.AveragedModel`, in which every averaged step counts alike. Departures
from the paper: the schedule stays the run's own (a constant rate is ``schedule: constant``; with one that falls to 0
the average has little to do), and the running statistics of batch norm are averaged as the weights are, where the paper
passes the training images once more. Counters are the last step's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from uda.engine.settings import WeightAverage


class RunningAverage:
    """The average of a network's weights and statistics over the last part of a run.

    Args:
        model: the network that is trained.
        spec: which steps are averaged.
        total: steps of the run.

    Attributes:
        model: the average, a network of its own; ``None`` until the first step that is averaged.
    """

    def __init__(self, model: nn.Module, spec: WeightAverage, total: int) -> None:
        self._trained, self.spec, self.total = model, spec, total
        self._average: AveragedModel | None = None

    @property
    def model(self) -> nn.Module | None:
        """See the class."""
        return None if self._average is None else self._average.module

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Average the weights after ``step`` (from 1) in, if it is one of those that count."""
        if not self.spec.takes(step, self.total):
            return
        if self._average is None:
            self._average = self._made()
        self._average.update_parameters(self._trained)
        for own, trained in zip(self._average.module.buffers(), self._trained.buffers(), strict=True):
            if not own.is_floating_point():
                own.copy_(trained)

    def state_dict(self) -> dict[str, Any] | None:
        """The average and how many steps are in it; ``None`` before the first."""
        return None if self._average is None else dict(self._average.state_dict())

    def load_state_dict(self, state: Mapping[str, Any] | None) -> None:
        """Go on where :meth:`state_dict` was taken."""
        self._average = None if state is None else self._made()
        if self._average is not None and state is not None:
            self._average.load_state_dict(dict(state))

    def _made(self) -> AveragedModel:
        return AveragedModel(self._trained, use_buffers=True).requires_grad_(False)
