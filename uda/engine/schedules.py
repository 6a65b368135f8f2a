"""Learning rates over a run: functions of the step, torch's schedulers, and one law of warm-up for all of them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from uda.functional.schedule import poly as decay
from uda.functional.schedule import warmup_factor
from uda.registry import Registry, keyword_arguments, nearest

Schedule = Callable[[int, int], float] | Callable[[int], float] | LRScheduler | type[LRScheduler] | functools.partial
"""What a run's ``schedule`` may be: a factor of the base rates as a function of the zero-based step, or of the step and
the run's length; or a torch scheduler, its class, or a partial of its class."""


@dataclass(frozen=True)
class Poly:
    """(1 - i/horizon)^power, from 1 to ``minimum``, as in DeepLab, AdaptSegNet, ADVENT (0.9) and DAFormer (1).

    Args:
        power: at least 0.
        horizon: steps after which the minimum is reached, the run's length by default. Published runs of 120 000 steps
            often decay over 250 000.
        minimum: the last factor, in [0, 1].

    Raises:
        ValueError: a value out of its range.
    """

    power: float = 0.9
    horizon: int | None = None
    minimum: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.power < float("inf"):
            raise ValueError(f"power is {self.power!r}, must be a finite number >= 0")
        if self.horizon is not None and self.horizon < 1:
            raise ValueError(f"horizon is {self.horizon!r}, must be at least 1")
        if not 0 <= self.minimum <= 1:
            raise ValueError(f"minimum is {self.minimum!r}, must be in [0, 1]")

    def __call__(self, index: int, total: int) -> float:
        """The factor at zero-based step ``index`` of a run of ``total``."""
        return decay(index, 1.0, self.horizon or total, self.power, minimum=self.minimum)

    @property
    def needs_total(self) -> bool:
        """Whether a longer run would have had other rates from the start."""
        return self.horizon is None


@dataclass(frozen=True)
class Constant:
    """1 at every step."""

    needs_total = False

    def __call__(self, index: int, total: int) -> float:
        """1."""
        return 1.0


def poly(power: float = 0.9, *, horizon: int | None = None, minimum: float = 0.0) -> Poly:
    """Polynomial decay, see :class:`Poly`."""
    return Poly(power, horizon, minimum)


def constant() -> Constant:
    """No decay."""
    return Constant()


SCHEDULES: Registry[Callable[..., Any]] = Registry(
    "schedule",
    {"poly": "uda.engine.schedules:Poly", "constant": "uda.engine.schedules:Constant"},
    accepts=callable,
)
"""Schedules by the name that configs use; ``torch.optim.lr_scheduler:CosineAnnealingLR`` and the like work as well."""


def build_schedule(name: str, arguments: Mapping[str, Any]) -> Schedule:
    """A schedule as configs write it: a name of :data:`SCHEDULES` or ``package.module:Name``, and arguments.

    A class is built with the arguments, a torch scheduler's class and a function keep them for later.

    Raises:
        ValueError: an unknown name or argument (with the nearest known one), or a value out of range.
    """
    build: Any = SCHEDULES[name]
    scheduler = isinstance(build, type) and issubclass(build, LRScheduler)
    own = ("optimizer",) if scheduler else () if isinstance(build, type) else _required(build)
    known = keyword_arguments(build, without=own)
    for key in arguments:
        if key not in known:
            raise ValueError(f"schedule {name!r} has no argument {key!r}; {nearest(key, known)}")
    if scheduler or not isinstance(build, type):
        return functools.partial(build, **arguments)
    schedule: Schedule = build(**arguments)
    return schedule


class RunSchedule:
    """A schedule at work: sets the rates of the run's optimisers at each step.

    Args:
        schedule: see :data:`Schedule`.
        optimizer: the segmenter's.
        total: optimiser steps of the run.
        warmup: steps of linear warm-up.

    Raises:
        ValueError: a torch scheduler of another optimiser, one that wants a metric, or one with ``warmup`` beside it.
        TypeError: no schedule at all.
    """

    def __init__(self, schedule: Schedule, optimizer: Optimizer, total: int, warmup: int = 0) -> None:
        self.total = total
        self.warmup = warmup
        self.optimizer = optimizer
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
        self.scheduler: LRScheduler | None = None
        self.function: Callable[[int, int], float] | None = None
        kind = schedule.func if isinstance(schedule, functools.partial) else schedule
        if isinstance(schedule, LRScheduler):
            self.scheduler = schedule
            if schedule.optimizer is not optimizer:
                raise ValueError("the torch scheduler belongs to another optimiser than the run's; give that one too")
        elif isinstance(kind, type) and issubclass(kind, LRScheduler):
            build: Any = schedule
            self.scheduler = build(optimizer)
        elif callable(schedule):
            self.function = _of_index_and_total(schedule)
        else:
            raise TypeError(f"schedule is {schedule!r}, must be a function of the step or a torch scheduler")
        if isinstance(self.scheduler, ReduceLROnPlateau):
            raise ValueError("ReduceLROnPlateau waits for a metric, which an update does not have")
        if self.scheduler is not None and warmup:
            raise ValueError(
                f"warmup is {warmup}, must be 0 with a torch scheduler; put LinearLR before it in a SequentialLR"
            )
        self.needs_total = bool(getattr(schedule, "needs_total", self.function is not None and _takes_total(schedule)))

    def apply(self, index: int) -> float:
        """Set the segmenter's rates for step ``index``; the factor that other optimisers follow."""
        if self.function is None:
            group = self.optimizer.param_groups[0]
            return float(group["lr"] / group["initial_lr"]) if group["initial_lr"] else 1.0
        factor = self.function(index, self.total) * warmup_factor(index, self.warmup)
        set_lr(self.optimizer, factor)
        return factor

    def advance(self) -> None:
        """After the optimiser's step: a torch scheduler moves on."""
        if self.scheduler is not None:
            self.scheduler.step()

    def state_dict(self) -> dict[str, Any]:
        """The torch scheduler's state; a function has none."""
        return {} if self.scheduler is None else _plain_state(self.scheduler.state_dict())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken."""
        if self.scheduler is not None:
            self.scheduler.load_state_dict(dict(state))


def set_lr(optimizer: Optimizer, factor: float) -> None:
    """Set every group to its base rate (the rate it was built with) times ``factor``."""
    for group in optimizer.param_groups:
        group.setdefault("initial_lr", group["lr"])
        group["lr"] = group["initial_lr"] * factor


def _required(function: Any) -> tuple[str, ...]:
    """Arguments that a call must give by position: of a schedule, the step and perhaps the run's length."""
    return tuple(
        parameter.name
        for parameter in inspect.signature(function).parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    )


def _takes_total(schedule: Any) -> bool:
    return len(_required(schedule)) > 1


def _of_index_and_total(schedule: Any) -> Callable[[int, int], float]:
    """A function of step and length, whichever of the two forms was given."""
    if _takes_total(schedule):
        function: Callable[[int, int], float] = schedule
        return function
    return lambda index, total: float(schedule(index))


def _plain_state(state: dict[str, Any]) -> dict[str, Any]:
    # a checkpoint holds plain values only: schedulers keep functions and the optimiser among their attributes
    plain = (bool, int, float, str, type(None))
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in state.items()
        if isinstance(value, plain)
        or (isinstance(value, (list, tuple)) and all(isinstance(element, plain) for element in value))
    }
