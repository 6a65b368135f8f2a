"""Every method composes with every other; all of them run together."""

from __future__ import annotations

from typing import Any

import pytest
import torch

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


EAGER = {"backend": "eager"}


def weights(methods: list[Method], **changes: Any) -> dict[str, Any]:
    torch._dynamo.reset()
    run = train(methods, aux=True, teacher={}, **changes)
    return run.state_dict()["model"]


@pytest.mark.soak
@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_compiled(name: str) -> None:
    """A compiled network gives a method what the plain one does."""
    plain, compiled = (weights([Supervised(), make(name)], steps=1, **more) for more in ({}, {"compile": EAGER}))
    for key, value in plain.items():
        torch.testing.assert_close(compiled[key], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("changes", [{"compile": EAGER}, {"activation_checkpointing": "all", "accumulate": 2}], ids=str)
def test_all_together_compiled_and_computed_again(changes: dict[str, Any]) -> None:
    both = {"steps": 2, "accumulate": changes.get("accumulate", 1)}
    plain, changed = (weights([Supervised(), *map(make, OTHERS)], **{**both, **more}) for more in ({}, changes))
    for key, value in plain.items():
        torch.testing.assert_close(changed[key], value, rtol=1e-4, atol=1e-5)
