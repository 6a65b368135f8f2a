"""Every method composes with every other; all of them run together."""

from __future__ import annotations

from typing import Any

import pytest

from uda.methods import METHODS, Supervised, method, parameters
from uda.methods.base import Method
from uda.testing.methods import Recorder, train
from uda.testing.tiny import TinySegmenter

SMALL = {"width": 4, "pixels": 50, "samples": 50}
"""Sizes that a test can afford, for the methods that have them."""
NEEDED: dict[str, dict[str, Any]] = {"FDAMultiBand": {"models": [TinySegmenter(aux=True)]}, "L2SP": {"part": "all"}}
"""What a method cannot do without, by name."""
OTHERS = sorted(set(METHODS) - {"Supervised"})


def make(name: str) -> Method:
    small = {key: value for key, value in SMALL.items() if key in parameters(name)}
    built = method(name, **small, **NEEDED.get(name, {}))
    assert isinstance(built, Method)
    return built


def run_together(*names: str) -> None:
    run = train([Supervised(), *map(make, names)], steps=2, aux=True, trainer=Recorder, teacher={})
    assert run.step_index == 2
    assert all(value == value for logs in run.logs for value in logs.values()), names
    for label, one in zip(run.update.labels, run.methods, strict=True):
        tags = [tag for tag in run.logs[-1] if tag.startswith(f"loss/{label}/")]
        assert tags or not one.reads, f"{label} adds no loss beside {names}"


@pytest.mark.parametrize("first", OTHERS)
def test_with_every_later_one(first: str) -> None:
    for second in OTHERS[OTHERS.index(first) + 1 :]:
        run_together(first, second)


@pytest.mark.slow
@pytest.mark.parametrize("first", OTHERS)
def test_with_every_earlier_one(first: str) -> None:
    for second in OTHERS[: OTHERS.index(first)]:
        run_together(first, second)


def test_all_together() -> None:
    run_together(*OTHERS)
    run_together(*reversed(OTHERS))
