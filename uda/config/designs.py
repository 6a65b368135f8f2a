"""Two-level fractional factorial designs: which levels of which factors are run together, and what that mixes up.

A design of 2^b runs has b basic factors, in all combinations, and sets every further one by a *word*, the product of
some of them (Box, Hunter and Hunter, "Statistics for Experimenters", 2nd edition 2005, chapter 6). The words here have
minimum aberration (Fries and Hunter, Technometrics 1980): the highest resolution there is, and then the fewest words of
that length. They were found by going through all choices (with 32 runs and 11 factors or more those of odd words) and
have the word lengths of Chen, Sun and Wu's catalogue (International Statistical Review 1993). Departure: signs are such
that the run of all low levels is always one of the design.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, product

WORDS: dict[int, dict[int, str]] = {
    4: {3: "ab"},
    8: {4: "abc", 5: "ab ac", 6: "ab ac bc", 7: "ab ac bc abc"},
    16: {
        5: "abcd", 6: "abc abd", 7: "abc abd acd", 8: "abc abd acd bcd", 9: "ab ac ad bcd abcd",
        10: "ab ac bc ad bcd abcd", 11: "ab ac bc ad bd acd bcd", 12: "ab ac bc ad bd acd bcd abcd",
        13: "ab ac bc abc ad bd abd cd acd", 14: "ab ac bc abc ad bd abd cd acd bcd",
        15: "ab ac bc abc ad bd abd cd acd bcd abcd",
    },
    32: {
        6: "abcde", 7: "abc abde", 8: "abc abd acde", 9: "abc abd abe acde", 10: "abc abd abe acde bcde",
        11: "abc abd acd abe ace ade", 12: "abc abd acd bcd abe ace ade", 13: "abc abd acd bcd abe ace bce ade",
        14: "abc abd acd bcd abe ace bce ade bde", 15: "abc abd acd bcd abe ace bce ade bde cde",
        16: "abc abd acd bcd abe ace bce ade bde cde abcde",
    },
    64: {7: "abcdef", 8: "abcd abef", 9: "abc abde acdf", 10: "abc abde abdf acef"},
}  # fmt: skip
"""Runs -> factors -> the words of those beyond the basic ones; a letter is a basic factor."""
MOST = 16
"""Factors of the largest design."""
Effect = tuple[str, ...]
"""A main effect as its factor, an interaction as its factors, in the design's order."""


@dataclass(frozen=True)
class Design:
    """A fraction of all combinations of two levels.

    Attributes:
        factors: in order; the first are the basic ones.
        columns: of each factor the basic ones that its level is the sum of, modulo 2, as a bit mask.
        runs: how many runs there are.
    """

    factors: tuple[str, ...]
    columns: tuple[int, ...]
    runs: int

    def levels(self) -> list[dict[str, bool]]:
        """By run: whether a factor is at its high level. The first run has all of them low."""
        return [
            {
                factor: (column & run).bit_count() % 2 == 1
                for factor, column in zip(self.factors, self.columns, strict=True)
            }
            for run in range(self.runs)
        ]

    @property
    def resolution(self) -> int | None:
        """Factors of the shortest product that is the same in all runs; ``None`` where all combinations are run.

        III: main effects are mixed up with two-factor interactions. IV: these with each other. V: with larger ones.
        """
        lengths = [len(word) for word in self.words()]
        return min(lengths, default=None)

    def words(self) -> list[Effect]:
        """The products of factors that are the same in all runs: the defining relation."""
        basics = self.runs.bit_length() - 1
        extra = range(basics, len(self.factors))
        words = []
        for chosen in product((False, True), repeat=len(extra)):
            members = [at for at, there in zip(extra, chosen, strict=True) if there]
            column = 0
            for at in members:
                column ^= self.columns[at]
            members += [at for at in range(basics) if column >> at & 1]
            if members:
                words.append(tuple(self.factors[at] for at in sorted(members)))
        return words

    def effects(self, order: int) -> list[Effect]:
        """All effects of so many factors."""
        return list(combinations(self.factors, order))

    def column(self, effect: Effect) -> int:
        """What tells effects apart: those of one column are estimated together."""
        column = 0
        for factor in effect:
            column ^= self.columns[self.factors.index(factor)]
        return column

    def signs(self, effect: Effect) -> list[int]:
        """By run 1 or -1: the product of the factors' levels, high being 1."""
        high = [sum(not levels[factor] for factor in effect) for levels in self.levels()]
        return [-1 if low % 2 else 1 for low in high]

    def aliases(self, effect: Effect) -> list[tuple[int, Effect]]:
        """The other effects of one or two factors that are estimated together with one, and their signs there."""
        own = self.column(effect)
        return [
            ((-1) ** (len(effect) + len(other)), other)
            for order in (1, 2)
            for other in self.effects(order)
            if other != effect and self.column(other) == own
        ]

    def clear_interactions(self) -> list[Effect]:
        """Two-factor interactions that are estimated together with no main effect and no other of them."""
        return [effect for effect in self.effects(2) if self.column(effect) and not self.aliases(effect)]


def make_design(factors: Sequence[str], runs: int | None = None, resolution: int = 4) -> Design:
    """The minimum-aberration design of some factors.

    Args:
        factors: two to sixteen names.
        runs: 4, 8, 16, 32 or 64; by default the fewest that have the resolution.
        resolution: least one of the design where ``runs`` is not given, 3 to 7; all combinations have any.

    Raises:
        ValueError: there is no such design; the message says which there are.
    """
    if not 2 <= len(factors) <= MOST:
        raise ValueError(f"two to {MOST} factors are needed, got {len(factors)}")
    known = {number: _design(tuple(factors), number) for number in WORDS if _is_known(len(factors), number)}
    if runs is not None:
        if runs not in known:
            raise ValueError(f"no design of {len(factors)} factors in {runs} runs; there are {_listed(known)}")
        return known[runs]
    for design in known.values():
        if design.resolution is None or design.resolution >= resolution:
            return design
    raise ValueError(f"no design of {len(factors)} factors has resolution {resolution}; there are {_listed(known)}")


def _is_known(factors: int, runs: int) -> bool:
    return runs == 2**factors or factors in WORDS[runs]


def _design(factors: tuple[str, ...], runs: int) -> Design:
    basics = runs.bit_length() - 1
    words = WORDS[runs].get(len(factors), "").split()
    columns = [1 << at for at in range(basics)] + [
        sum(1 << "abcdef".index(letter) for letter in word) for word in words
    ]
    return Design(factors, tuple(columns), runs)


def _listed(known: dict[int, Design]) -> str:
    return ", ".join(
        f"{runs} runs ({'all combinations' if design.resolution is None else f'resolution {design.resolution}'})"
        for runs, design in known.items()
    )
