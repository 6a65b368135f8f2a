"""Every method composes with every other, in both orders."""

from __future__ import annotations

from itertools import permutations

import pytest

from tests.methods.contract import Recorder, train
from uda.methods import METHODS, Supervised, method

SMALL = {"width": 4, "pixels": 50, "samples": 50}
"""Sizes that a test can afford, for the methods that have them."""
OTHERS = sorted(set(METHODS) - {"Supervised"})


def make(name: str):
    from uda.methods import parameters

    return method(name, **{key: value for key, value in SMALL.items() if key in parameters(name)})


@pytest.mark.parametrize("first", OTHERS)
def test_with_every_other(first: str) -> None:
    for second in OTHERS:
        if second == first:
            continue
        run = train([Supervised(), make(first), make(second)], steps=2, aux=True, trainer=Recorder)
        assert run.step_index == 2
        assert all(value == value for logs in run.logs for value in logs.values()), (first, second)


def test_all_together() -> None:
    run = train([Supervised(), *map(make, OTHERS)], steps=2, aux=True, trainer=Recorder)
    assert all(value == value for logs in run.logs for value in logs.values())
    assert len(list(permutations(OTHERS, 2))) == len(OTHERS) * (len(OTHERS) - 1)


def test_supervised_may_come_last() -> None:
    first = train([Supervised(), method("MinEnt")], steps=2)
    last = train([method("MinEnt"), Supervised()], steps=2)
    assert first.step_index == last.step_index == 2
