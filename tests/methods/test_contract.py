"""The contract fails for methods that break it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from uda.methods.base import Method
from uda.step import Step
from uda.testing.methods import MethodContract


class Term(Method):
    """A correct method: a small loss on the target."""

    reads = frozenset({"target"})

    def __init__(self, *, weight: float = 0.1) -> None:
        super().__init__()
        self.weight = weight

    def losses(self, step: Step) -> dict[str, Tensor]:
        return {"term": self.weight * step.predict("target").logits.square().mean()}


class GlobalRandom(Term):
    def prepare(self, step: Step) -> None:
        torch.rand(1)


class ForgetsItsState(Term):
    """Counts steps in an attribute that no checkpoint holds."""

    count = 0

    def losses(self, step: Step) -> dict[str, Tensor]:
        self.count += 1
        return {"term": self.count * step.predict("target").logits.square().mean()}


class Vector(Term):
    def losses(self, step: Step) -> dict[str, Tensor]:
        return {"term": step.predict("target").logits.square().mean((1, 2, 3))}


class NoGradient(Term):
    def losses(self, step: Step) -> dict[str, Tensor]:
        return {"term": step.detached("target").logits.square().mean()}


class Undeclared(Term):
    """Predicts a view that its reads do not list."""

    reads = frozenset({"source"})


def contract(kind: type[Method]) -> MethodContract:
    test = MethodContract()
    test.make = kind  # type: ignore[assignment]
    return test


def test_a_correct_method_passes(tmp_path: Path) -> None:
    test = contract(Term)
    test.test_random_numbers_come_from_the_step()
    test.test_resumes_to_the_same_numbers(tmp_path)
    test.test_gradients_reach_their_owners_only()


def test_global_random_numbers() -> None:
    with pytest.raises(AssertionError):
        contract(GlobalRandom).test_random_numbers_come_from_the_step()


def test_state_outside_of_the_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        contract(ForgetsItsState).test_resumes_to_the_same_numbers(tmp_path)


@pytest.mark.parametrize(
    ("kind", "error"),
    [(Vector, ValueError), (NoGradient, ValueError), (Undeclared, RuntimeError)],
)
def test_terms(kind: type[Method], error: type[Exception]) -> None:
    with pytest.raises(error):
        contract(kind).test_gradients_reach_their_owners_only()


def test_unchecked_numbers() -> None:
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        contract(Term).test_every_number_of_the_constructor_is_checked()
