"""Checks of constructor arguments: what is wrong, by name, value and range."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:
    from uda.types import TaskSpec

Level = Literal["single", "multi"]
"""Which outputs of the segmenter an output-space method looks at: the main one, or the auxiliary one as well."""
LEVELS: tuple[str, ...] = get_args(Level)


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


def shares_of_sides(name: str, value: Mapping[str, float]) -> dict[str, float]:
    """``value`` if it gives numbers in [0, 1) to some of top, bottom, left, right; ``ValueError`` otherwise."""
    known = isinstance(value, Mapping) and set(value) <= {"top", "bottom", "left", "right"}
    shares = list(value.values()) if known else [None]
    if not all(isinstance(share, (int, float)) and not isinstance(share, bool) and 0 <= share < 1 for share in shares):
        raise ValueError(f"{name} is {value!r}, must have shares in [0, 1) for some of top, bottom, left, right")
    return dict(value)


def require_aux(method: Any, spec: TaskSpec) -> None:
    """Refuse a multi-level method on a model without auxiliary classifier.

    Raises:
        ValueError: names the method and what to change.
    """
    if method.level == "multi" and not spec.has_aux:
        raise ValueError(
            f"{type(method).__name__}: level is 'multi', must be 'single' for a model without auxiliary classifier "
            "(or build the model with aux=True)"
        )
