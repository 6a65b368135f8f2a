"""Fractional factorial designs against brute force and the published word lengths."""

from __future__ import annotations

from itertools import combinations
from math import prod

import pytest

from uda.config.designs import WORDS, make_design

NAMES = tuple("abcdefghijklmnop")
CASES = [(runs, factors) for runs, by_number in WORDS.items() for factors in by_number]
PUBLISHED = {
    # runs, factors: words of 3, 4 and 5 factors (Chen, Sun and Wu 1993)
    (8, 5): (2, 1, 0), (16, 6): (0, 3, 0), (16, 7): (0, 7, 0), (16, 9): (4, 14, 8), (16, 11): (12, 26, 28),
    (32, 7): (0, 1, 2), (32, 8): (0, 3, 4), (32, 9): (0, 6, 8), (32, 10): (0, 10, 16), (32, 11): (0, 25, 0),
    (64, 8): (0, 0, 2), (64, 9): (0, 1, 4), (64, 10): (0, 2, 8),
}  # fmt: skip


def signs(levels: list[dict[str, bool]], effect: tuple[str, ...]) -> list[int]:
    return [prod(1 if run[factor] else -1 for factor in effect) for run in levels]


@pytest.mark.parametrize(("runs", "factors"), CASES)
def test_runs_are_different_balanced_and_orthogonal(runs: int, factors: int) -> None:
    design = make_design(NAMES[:factors], runs)
    levels = design.levels()
    assert len({tuple(run.values()) for run in levels}) == runs
    assert not any(levels[0].values())
    columns = [signs(levels, (name,)) for name in design.factors]
    assert all(sum(column) == 0 for column in columns)
    assert all(sum(a * b for a, b in zip(*pair, strict=True)) == 0 for pair in combinations(columns, 2))
    assert design.resolution >= 3


@pytest.mark.parametrize(("case", "lengths"), PUBLISHED.items())
def test_word_lengths_are_the_published_ones(case: tuple[int, int], lengths: tuple[int, ...]) -> None:
    runs, factors = case
    levels = make_design(NAMES[:factors], runs).levels()
    # by brute force: a product of factors that is the same in all runs
    counted = tuple(
        sum(len(set(signs(levels, word))) == 1 for word in combinations(NAMES[:factors], length))
        for length in (3, 4, 5)
    )
    assert counted == lengths
    words = make_design(NAMES[:factors], runs).words()
    assert tuple(sum(len(word) == length for word in words) for length in (3, 4, 5)) == lengths


@pytest.mark.parametrize(("runs", "factors"), [(4, 3), (8, 5), (16, 6), (16, 9), (32, 7)])
def test_aliases_are_the_effects_with_the_same_signs(runs: int, factors: int) -> None:
    design = make_design(NAMES[:factors], runs)
    levels = design.levels()
    every = [*combinations(design.factors, 1), *combinations(design.factors, 2)]
    column = {effect: signs(levels, effect) for effect in every}
    for effect in every:
        assert design.signs(effect) == column[effect]
        expected = [
            (sign, other)
            for other in every
            for sign in (1, -1)
            if other != effect and column[other] == [sign * value for value in column[effect]]
        ]
        assert sorted(design.aliases(effect)) == sorted(expected)
    clear = [pair for pair in every if len(pair) == 2 and not design.aliases(pair)]
    assert design.clear_interactions() == clear


def test_the_fewest_runs_of_a_resolution() -> None:
    for factors, resolution, runs in ((4, 4, 8), (8, 4, 16), (11, 4, 32), (11, 3, 16), (5, 5, 16), (3, 7, 8)):
        design = make_design(NAMES[:factors], resolution=resolution)
        assert design.runs == runs
        assert design.resolution is None or design.resolution >= resolution
    assert make_design(NAMES[:3], 8).resolution is None
    assert make_design(NAMES[:3], 8).clear_interactions() == [("a", "b"), ("a", "c"), ("b", "c")]


def test_designs_that_there_are_not() -> None:
    with pytest.raises(ValueError, match=r"no design of 11 factors in 8 runs; there are 16 runs \(resolution 3\), 32"):
        make_design(NAMES[:11], 8)
    with pytest.raises(ValueError, match="no design of 11 factors has resolution 5; there are 16 runs"):
        make_design(NAMES[:11], resolution=5)
    with pytest.raises(ValueError, match="two to 16 factors are needed, got 1"):
        make_design(["a"])
