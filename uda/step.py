"""One training step, evaluated lazily: every forward pass that the methods ask for is computed at most once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from uda.types import SegOutput, View

if TYPE_CHECKING:
    from torch import Tensor, nn


class Step:
    """The views of one iteration and the forward passes over them.

    Args:
        model: the student, images ``(N, 3, H, W)`` -> :class:`SegOutput`.
        views: what the loader gave, usually ``"source"`` and ``"target"``.
        index: zero-based iteration.
        total: iterations of the whole run.
        generator: the run's random numbers for methods, on the CPU; its state is saved with the run.
        teacher: images -> :class:`SegOutput` of the EMA teacher, run without gradient; ``None`` without one.
        graph_views: every view that some method of the run predicts with gradient. ``detached`` of one of these
            shares the pass that has the graph instead of making a second one.
    """

    def __init__(
        self,
        model: nn.Module,
        views: Mapping[str, View],
        *,
        index: int,
        total: int,
        generator: torch.Generator,
        teacher: Callable[[Tensor], SegOutput] | None = None,
        graph_views: Collection[str] = (),
    ) -> None:
        self.index = index
        self.total = total
        self.generator = generator
        self.logs: dict[str, Tensor] = {}
        self._model = model
        self._teacher = teacher
        self._views = dict(views)
        self._original = dict(views)
        self._graph_views = frozenset(graph_views)
        self._roots: dict[str, SegOutput] = {}
        self._student: dict[str, SegOutput] = {}
        self._released: dict[str, SegOutput] = {}
        self._taught: dict[str, SegOutput] = {}
        self._forgotten: set[str] = set()
        self._reader: tuple[str, frozenset[str]] | None = None

    @property
    def progress(self) -> float:
        """Share of the run that is done, in [0, 1)."""
        return self.index / self.total

    @property
    def view_names(self) -> tuple[str, ...]:
        """The views there are so far."""
        return tuple(self._views)

    @property
    def original_names(self) -> tuple[str, ...]:
        """The views that the loader gave."""
        return tuple(self._original)

    def view(self, name: str) -> View:
        """A view as the methods before this one left it.

        Raises:
            KeyError: no view of that name; the message lists those there are.
        """
        return self._lookup(self._views, name)

    def original(self, name: str) -> View:
        """A view as the loader gave it, before any method restyled it."""
        return self._lookup(self._original, name)

    def _lookup(self, views: Mapping[str, View], name: str) -> View:
        if name not in views:
            raise KeyError(f"no view {name!r} in this step; there are: {', '.join(sorted(views)) or 'none'}")
        return views[name]

    def put(self, name: str, view: View) -> None:
        """Add a view or replace it (restyling).

        Raises:
            RuntimeError: the view was predicted or taught already, so the replacement would go unseen.
        """
        if name in {*self._student, *self._released, *self._taught, *self._forgotten}:
            raise RuntimeError(
                f"view {name!r} was already predicted in this step; put it before any method looks at it"
            )
        self._views[name] = view

    def predict(self, name: str) -> SegOutput:
        """The student's output with gradient; one forward pass however often it is asked for.

        Its tensors are leaves: losses leave their gradients there, and :meth:`backward` takes them through the network.

        Raises:
            RuntimeError: the calling method does not list the view in its ``reads``, or its graph is gone already.
        """
        if self._reader is not None and name not in self._reader[1]:
            raise RuntimeError(
                f"{self._reader[0]} predicts {name!r} with gradient but its reads are {sorted(self._reader[1])}"
            )
        if name in self._released:
            raise RuntimeError(f"the graph of view {name!r} was released; use detached({name!r})")
        if name not in self._student:
            self._forward(name)
        return self._student[name]

    def _forward(self, name: str) -> None:
        # methods get leaves: each one's graph ends there and is freed before the next one's is built, and what they
        # leave in the leaves' gradients goes through the network once, in :meth:`backward`
        self._roots[name] = self._model(self.view(name).images)
        self._student[name] = self._roots[name].map(lambda tensor: tensor.detach().requires_grad_())

    def detached(self, name: str) -> SegOutput:
        """The same numbers as :meth:`predict`, without gradient."""
        if name in self._released:
            return self._released[name]
        if name in self._student:
            return self._student[name].detach()
        if name in self._graph_views:
            self._forward(name)
            return self._student[name].detach()
        with torch.no_grad():
            self._released[name] = self._model(self.view(name).images)
        return self._released[name]

    def teach(self, name: str) -> SegOutput:
        """The shared EMA teacher's output, without gradient.

        Raises:
            RuntimeError: the run has no teacher (no method says ``needs_teacher``), or the output was dropped because
                no method says ``teacher_in_losses``.
        """
        if name in self._forgotten:
            raise RuntimeError(f"the teacher's output of {name!r} was dropped; set teacher_in_losses = True to keep it")
        if self._teacher is None:
            raise RuntimeError("this run has no teacher; a method that calls teach() must set needs_teacher = True")
        if name not in self._taught:
            with torch.no_grad():
                self._taught[name] = self._teacher(self.view(name).images)
        return self._taught[name]

    def infer(self, images: Tensor) -> SegOutput:
        """The student on any images in evaluation mode: no gradient, no batch-norm update, not memoised.

        For passes over a whole data set (self-training rounds, prototype initialisation).
        """
        training = self._model.training
        self._model.eval()
        try:
            with torch.no_grad():
                output: SegOutput = self._model(images)
                return output
        finally:
            self._model.train(training)

    def forget_taught(self) -> None:
        """Drop the teacher's outputs, before the graphs of the losses need the memory."""
        self._forgotten |= self._taught.keys()
        self._taught = {}

    def leaves(self, names: Collection[str]) -> list[Tensor]:
        """The tensors of the predicted views among ``names``, where losses on them leave their gradients."""
        return [leaf for name in sorted(names) if name in self._student for leaf in self._student[name].tensors()]

    def backward(self, names: Collection[str], parameters: Sequence[Tensor]) -> None:
        """Take the gradients that losses left at these views through the network, then drop its graphs.

        The numbers of the views stay for :meth:`detached`.

        Args:
            names: views; those that were not predicted do not matter.
            parameters: what gets the gradients.
        """
        names = [name for name in sorted(names) if name in self._student]
        reached = [
            (root, leaf.grad)
            for name in names
            for root, leaf in zip(self._roots[name].tensors(), self._student[name].tensors(), strict=True)
            if leaf.grad is not None and root.requires_grad
        ]
        for name in names:
            self._released[name] = self._student.pop(name).detach()
            del self._roots[name]
        if reached:
            roots, gradients = zip(*reached, strict=True)
            del reached
            torch.autograd.backward(roots, gradients, inputs=parameters)

    @contextmanager
    def reading(self, who: str, reads: Collection[str]) -> Iterator[None]:
        """Allow gradient predictions of ``reads`` only, while one method computes its losses."""
        self._reader = (who, frozenset(reads))
        try:
            yield
        finally:
            self._reader = None

    def log(self, name: str, value: Tensor | float) -> None:
        """Record a scalar under ``name`` (kept on its device until the trainer writes it)."""
        self.logs[name] = value.detach() if isinstance(value, torch.Tensor) else torch.tensor(float(value))
