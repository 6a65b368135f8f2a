"""How many forward passes a step makes, and how many graphs are alive at once."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch

from uda.engine import Trainer, Update
from uda.methods import FDA, AdvEnt, ClassMix, MinEnt, Supervised
from uda.methods.base import Method
from uda.step import Step
from uda.testing.methods import train


class Counter(Trainer):
    """Counts the passes of each step, and the graphs alive whenever a new one begins and after each step."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, on_step=self.count, **kwargs)
        self.counted: list[tuple[int, int]] = []
        self.alive = 0
        self.graphs: list[weakref.ref[torch.Tensor]] = []
        self.model.passes.clear()
        self.model.register_forward_hook(self.watch)

    def count(self, update: Update, logs: Mapping[str, torch.Tensor]) -> None:
        taught = [] if update.teacher is None else update.teacher.model.passes
        self.counted.append((len(self.model.passes), len(taught)))
        assert not [graph for graph in self.graphs if graph() is not None], "a graph outlived its step"
        self.model.passes.clear()
        taught.clear()

    def watch(self, model: Any, inputs: Any, output: Any) -> None:
        if torch.is_grad_enabled():
            self.graphs.append(weakref.ref(output.logits))
            self.alive = max(self.alive, sum(graph() is not None for graph in self.graphs))


ADVENT = lambda: AdvEnt(width=4)  # noqa: E731


@pytest.mark.parametrize(
    ("methods", "student", "teacher"),
    [
        (lambda: [Supervised()], 1, 0),
        (lambda: [Supervised(), FDA()], 1, 0),
        (lambda: [Supervised(), ADVENT()], 2, 0),
        (lambda: [Supervised(), FDA(), ADVENT(), ClassMix()], 3, 1),
        (lambda: [Supervised(), FDA(), ADVENT(), ClassMix(), MinEnt()], 3, 1),
    ],
)
def test_passes(methods: Any, student: int, teacher: int) -> None:
    made: Sequence[Method] = methods()
    run = train(made, trainer=Counter)
    assert run.counted == [(student, teacher)] * 3
    assert run.alive == 1


def test_the_count_can_fail() -> None:
    """A method that looks at both domains at once keeps both graphs."""

    class Both(Method):
        reads = frozenset({"source", "target"})

        def losses(self, step: Step) -> dict[str, torch.Tensor]:
            return {"both": step.predict("source").logits.mean() + step.predict("target").logits.mean()}

    run = train([Both()], trainer=Counter)
    assert run.counted == [(2, 0)] * 3
    assert run.alive == 2
