"""Fifty random triples of methods in random order run together."""

from __future__ import annotations

import random

import pytest

from tests.methods.test_pairs import OTHERS, run_together

TRIPLES = [tuple(random.Random(seed).sample(OTHERS, 3)) for seed in range(50)]


@pytest.mark.parametrize("names", TRIPLES, ids="-".join)
def test_random_triple(names: tuple[str, ...]) -> None:
    run_together(*names)
