"""Comparisons that are judged together, and rows that cannot be told apart."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from uda.bench.intervals.noise import LEVEL, Estimate, Floats
from uda.bench.intervals.scores import ImageScores


@dataclass(frozen=True)
class Adjusted:
    """A comparison as a member of a family."""

    estimate: Estimate
    p_value: float
    """On its own; NaN where there is no interval."""
    holm_p_value: float
    """Adjusted by Holm's procedure: below .05 in the whole family, at most one family in twenty errs anywhere."""
    low: float
    """Of Bonferroni's interval: all of the family's hold together in 95 of 100 families."""
    high: float

    @property
    def clear(self) -> bool:
        """Whether the difference is not 0, by Holm's procedure."""
        return self.holm_p_value < 1 - LEVEL

    @property
    def excludes_zero(self) -> bool:
        """Whether Bonferroni's interval excludes 0: Holm's procedure then calls it clear too, but not the reverse."""
        return self.low > 0 or self.high < 0


def holm_p_values(p_values: Sequence[float] | Floats) -> Floats:
    """Holm's adjusted p-values ``(m,)``; NaN stays NaN and is no member of the family."""
    p = np.asarray(p_values, dtype=np.float64)
    adjusted = np.full(p.shape, math.nan)
    members = np.flatnonzero(~np.isnan(p))
    order = members[np.argsort(p[members], kind="stable")]
    steps = p[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(steps))
    return adjusted


def bonferroni_interval(member: Estimate, family: int) -> tuple[float, float]:
    """A member's 95 % interval such that all of a family of that many hold together; NaN where the noise is unknown."""
    if member.noise is None:
        return math.nan, math.nan
    half = member.noise.half_width(1 - (1 - LEVEL) / family)
    return member.value - half, member.value + half


def holm_family(estimates: Sequence[Estimate]) -> list[Adjusted]:
    """Comparisons, of all rows and domains that a table compares, judged together: Holm's p, Bonferroni's intervals.

    Holm's procedure finds a little more than the intervals show; where the two differ, the p-value decides.
    """
    p_values = [member.p_value for member in estimates]
    holm = holm_p_values(p_values)
    size = int(np.sum(~np.isnan(p_values)))
    return [
        Adjusted(member, p, float(adjusted), *bonferroni_interval(member, size))
        for member, p, adjusted in zip(estimates, p_values, holm, strict=True)
    ]


@dataclass(frozen=True)
class Ties:
    """Rows that cannot be told apart.

    Attributes:
        order: all rows, best score first.
        groups: every largest set of rows of which no two are clearly different; a row may be in several.
        letters: by row, one letter for each of its groups: two rows cannot be told apart if they share a letter.
        pairs: each pair's difference, the better row first, adjusted over all pairs.
    """

    order: tuple[str, ...]
    groups: tuple[tuple[str, ...], ...]
    letters: dict[str, str]
    pairs: dict[tuple[str, str], Adjusted]


def holm_ties(scores: ImageScores, rows: Sequence[str] | None = None, *, pooled: bool = False) -> Ties:
    """Compare all pairs of rows, adjusted by Holm's procedure, and say which cannot be told apart.

    Pairs that share no seed count as not told apart, and pairs that share one are judged by image noise only.
    """
    order = tuple(sorted(rows or scores.rows, key=lambda row: -scores.score(row).value))
    names = list(combinations(order, 2))
    family = holm_family([scores.difference(*pair, pooled=pooled) for pair in names])
    pairs = dict(zip(names, family, strict=True))
    groups = tied_groups(order, [pair for pair, member in pairs.items() if member.clear])
    return Ties(order, groups, letter_display(order, groups), pairs)


def tied_groups(order: Sequence[str], different: Collection[tuple[str, str]]) -> tuple[tuple[str, ...], ...]:
    """All largest groups without a pair that is different, those with the first rows first.

    Insert and absorb (Piepho, "An algorithm for a letter-based representation of all-pairwise comparisons", JCGS 2004):
    a group that has a different pair is split into one without the one and one without the other, and groups inside
    others are dropped. Departure: his sweep, which thins out letters that are not needed, is left out.
    """
    groups = [frozenset(order)] if order else []
    for first, second in different:
        split = [group - {row} for group in groups if {first, second} <= group for row in (second, first)]
        whole = [group for group in groups if not {first, second} <= group]
        candidates = list(dict.fromkeys(whole + split))
        groups = [group for group in candidates if not any(group < other for other in candidates)]
    place = {row: at for at, row in enumerate(order)}
    as_rows = [tuple(sorted(group, key=place.__getitem__)) for group in groups]
    return tuple(sorted(as_rows, key=lambda group: [place[row] for row in group]))


def letter_display(order: Sequence[str], groups: Sequence[Sequence[str]]) -> dict[str, str]:
    """By row the letters of its groups, ``a`` for the first; ``aa`` stands after ``z`` and letters are then spaced."""
    names = [letter(at) for at in range(len(groups))]
    space = " " if len(groups) > 26 else ""
    return {row: space.join(name for name, group in zip(names, groups, strict=True) if row in group) for row in order}


def letter(at: int) -> str:
    """Of the group number ``at``: a to z, then aa."""
    return (letter(at // 26 - 1) if at >= 26 else "") + chr(ord("a") + at % 26)
