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
    """
    regular = poly(iteration, base, total, power, minimum=minimum)
    if iteration >= warmup:
        return regular
    return regular * (1 - (1 - iteration / warmup) * (1 - ratio))
