"""Learning rates as pure functions of the iteration."""

from __future__ import annotations

import math


def poly(iteration: int, base: float, total: int, power: float = 0.9, *, minimum: float = 0.0) -> float:
    """Polynomial decay: (base - minimum) (1 - i/total)^power + minimum.

    Args:
        iteration: zero-based i; from ``total`` on the rate stays at ``minimum``.
        base: rate at i = 0.
        total: the schedule's horizon in iterations, which may lie beyond the end of training.
        power: exponent; 0.9 in DeepLab, AdaptSegNet and ADVENT, 1 in DAFormer.
        minimum: rate at i = total.

    Raises:
        ValueError: ``total`` is not positive.

    Example:
        >>> from uda.functional import poly
        >>> [poly(iteration, 1.0, 100, power=1.0) for iteration in (0, 50, 100, 200)]
        [1.0, 0.5, 0.0, 0.0]
    """
    if total <= 0:
        raise ValueError(f"total must be positive, got {total}")
    left = max(1 - iteration / total, 0.0)
    return (base - minimum) * math.pow(left, power) + minimum


def warmup_poly(
    iteration: int,
    base: float,
    total: int,
    power: float = 1.0,
    *,
    warmup: int = 1500,
    ratio: float = 1e-6,
    minimum: float = 0.0,
) -> float:
    """:func:`poly` with a linear warm-up that multiplies the already decaying rate (DAFormer, as in mmcv).

    Args:
        iteration: zero-based i.
        base: rate of the schedule without warm-up at i = 0.
        total: the schedule's horizon in iterations.
        power: exponent of the decay.
        warmup: iterations of the warm-up; 0 for none.
        ratio: factor at i = 0, rising linearly to 1 at i = warmup.
        minimum: rate at i = total.

    Example:
        >>> from uda.functional import warmup_poly
        >>> [round(warmup_poly(iteration, 1.0, 100, warmup=10), 3) for iteration in (0, 5, 10, 50)]
        [0.0, 0.475, 0.9, 0.5]
    """
    return poly(iteration, base, total, power, minimum=minimum) * warmup_factor(iteration, warmup, ratio)


def warmup_factor(iteration: int, warmup: int, ratio: float = 1e-6) -> float:
    """The linear ramp from ``ratio`` to 1 over the first ``warmup`` iterations that multiplies a schedule (mmcv's law).

    Example:
        >>> from uda.functional import warmup_factor
        >>> [round(warmup_factor(iteration, 4), 3) for iteration in (0, 1, 2, 4, 100)]
        [0.0, 0.25, 0.5, 1.0, 1.0]
    """
    return 1.0 if iteration >= warmup else 1 - (1 - iteration / warmup) * (1 - ratio)
