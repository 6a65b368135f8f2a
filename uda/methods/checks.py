"""Checks of constructor arguments: what is wrong, by name, value and range."""

from __future__ import annotations

import math
from collections.abc import Sequence


def not_negative(name: str, value: float) -> float:
    """``value`` if it is a finite number of at least 0.

    Raises:
        ValueError: names the argument, the value and the range.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
        raise ValueError(f"{name} is {value!r}, must be a finite number >= 0")
    return value


def positive(name: str, value: float) -> float:
    """``value`` if it is a finite number above 0; ``ValueError`` otherwise."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value <= 0:
        raise ValueError(f"{name} is {value!r}, must be a finite number > 0")
    return value


def in_range(name: str, value: float, low: float, high: float) -> float:
    """``value`` if it is a number in [low, high]; ``ValueError`` otherwise."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise ValueError(f"{name} is {value!r}, must be in [{low}, {high}]")
    return value


def whole(name: str, value: int, low: int) -> int:
    """``value`` if it is a whole number of at least ``low``; ``ValueError`` otherwise."""
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise ValueError(f"{name} is {value!r}, must be a whole number >= {low}")
    return value


def one_of(name: str, value: str, options: Sequence[str]) -> str:
    """``value`` if it is one of the options; ``ValueError`` that lists them otherwise."""
    if value not in options:
        raise ValueError(f"{name} is {value!r}, must be one of {', '.join(map(repr, options))}")
    return value
