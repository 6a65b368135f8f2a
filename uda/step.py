"""One training step, evaluated lazily: every forward pass that the methods ask for is computed at most once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch

from uda.models.batch_norm import Domain, normalising
from uda.models.modes import evaluating
from uda.processes import Processes
from uda.types import SegOutput, View

if TYPE_CHECKING:
    from torch import Tensor, nn

Phase = Literal["prepare", "losses", "own_losses", "after_step"]
"""The hooks of a method, in the order in which a step calls them."""


class _Hook(NamedTuple):
    """Which method's hook is running, what it said it looks at, and whether it sees this process' images alone."""

    label: str
    phase: Phase
    reads: frozenset[str]
    looks: frozenset[str]
    own_images: bool


class _Views(NamedTuple):
    """Views by name: of this process' images and, where a hook asked for it, of all processes' together."""

    own: dict[str, View]
    whole: dict[str, View]


class Step:
    """The views of one iteration and the forward passes over them.

    With several processes each passes its own images through the networks. A method's hook sees the whole batch, as one
    process would: the views and outputs of all processes are put together when it first asks for them, so that batch
    statistics, draws and states are the same everywhere; a hook of ``Method.own_images`` sees this process' alone.

    Args:
        model: the student, images ``(N, 3, H, W)`` -> :class:`SegOutput`.
        views: what the loader gave, usually ``"source"`` and ``"target"``.
        index: zero-based iteration.
        total: iterations of the whole run.
        generator: the run's random numbers for methods, on the CPU; its state is saved with the run.
        teacher: takes a view through the EMA teacher, by its name; run without gradient; ``None`` without one.
        graph_views: every view that some method of the run predicts with gradient. ``detached`` of one of these
            shares the pass that has the graph instead of making a second one.
        kept_views: every view that some method looks at without gradient (``Method.looks``); the numbers of all others
            go with their graph.
        forward: takes a view through the student; by default ``model(view.images)``.
        logging: whether anybody reads the logs of this step.
        micro_batch: which of the batches this is whose gradients make one optimiser step together; 0 is the first.
        processes: that train together, where there are several; ``views`` are then this one's slice.
    """

    def __init__(
        self,
        model: nn.Module,
        views: Mapping[str, View],
        *,
        index: int,
        total: int,
        generator: torch.Generator,
        teacher: Callable[[str, View], SegOutput] | None = None,
        graph_views: Collection[str] = (),
        kept_views: Collection[str] = (),
        forward: Callable[[str, View], SegOutput] | None = None,
        logging: bool = True,
        micro_batch: int = 0,
        processes: Processes | None = None,
    ) -> None:
        self.index = index
        self.micro_batch = micro_batch
        self.generator = generator
        self.logging = logging
        self.logs: dict[str, Tensor] = {}
        self.asked_total = False
        """Whether anything of this step depended on the length of the run."""
        self._total = total
        self._model = model
        self._pass = forward or (lambda name, view: model(view.images))
        self._teacher = teacher
        self._processes = processes
        self._views = _Views(dict(views), {})
        self._original = _Views(dict(views), {})
        self._graph_views = frozenset(graph_views)
        self._kept_views = frozenset(kept_views)
        self._roots: dict[str, SegOutput] = {}
        self._student: dict[str, SegOutput] = {}
        self._whole_student: dict[str, SegOutput] = {}
        self._detached: dict[str, SegOutput] = {}
        self._whole_detached: dict[str, SegOutput] = {}
        self._dropped: set[str] = set()
        self._taught: dict[str, SegOutput] = {}
        self._whole_taught: dict[str, SegOutput] = {}
        self._forgotten: set[str] = set()
        self._hook: _Hook | None = None
        self._updated = False

    @property
    def total(self) -> int:
        """Iterations of the whole run."""
        self.asked_total = True
        return self._total

    @property
    def progress(self) -> float:
        """Share of the run that is done, in [0, 1)."""
        return self.index / self.total

    @property
    def view_names(self) -> tuple[str, ...]:
        """The views there are so far."""
        return tuple(self._views.own)

    @property
    def original_names(self) -> tuple[str, ...]:
        """The views that the loader gave."""
        return tuple(self._original.own)

    def view(self, name: str) -> View:
        """A view as the methods before this one left it.

        Raises:
            KeyError: no view of that name; the message lists those there are.
        """
        return self._lookup(self._views, name)

    def original(self, name: str) -> View:
        """A view as the loader gave it, before any method restyled it."""
        return self._lookup(self._original, name)

    def _lookup(self, views: _Views, name: str) -> View:
        own = self._own_view(name, views)
        processes = self._together()
        if processes is None:
            return own
        if name not in views.whole:
            views.whole[name] = processes.whole_view(own)
        return views.whole[name]

    def _own_view(self, name: str, views: _Views | None = None) -> View:
        own = (views or self._views).own
        if name not in own:
            raise KeyError(
                f"{self._who()}there is no view {name!r} in this step, only {', '.join(sorted(own)) or 'none'}; "
                "views come from the loader or from the methods listed before (ClassMix puts 'mixed')"
            )
        return own[name]

    def _together(self) -> Processes | None:
        """The processes, where the running hook sees the images of all of them."""
        return None if self._hook is None or self._hook.own_images else self._processes

    def _who(self) -> str:
        return f"{self._hook.label}: " if self._hook is not None else ""

    def put(self, name: str, view: View) -> None:
        """Add a view or replace it (restyling).

        Raises:
            RuntimeError: the view was predicted or taught already, so the replacement would go unseen.
        """
        if name in {*self._student, *self._detached, *self._dropped, *self._taught, *self._forgotten}:
            raise RuntimeError(
                f"{self._who()}view {name!r} was already predicted in this step; put it before any method looks at it"
            )
        processes = self._together()
        self._views.whole.pop(name, None)
        if processes is not None:
            self._views.whole[name] = view
            try:
                view = processes.own_view(view)
            except ValueError as error:
                raise ValueError(f"{self._who()}view {name!r}: {error}") from None
        self._views.own[name] = view

    def predict(self, name: str) -> SegOutput:
        """The student's output with gradient; one forward pass however often it is asked for.

        Its tensors are leaves, where the losses leave their gradients: each method's graph ends there and is freed
        before the next method's is built, and what they left goes through the network once (:meth:`release`).
        What no parameter of the network can change (the features of a frozen encoder) takes no gradient.

        Raises:
            RuntimeError: the calling method does not list the view in its ``reads``, or its graph is gone already.
        """
        if self._hook is not None and (self._hook.phase != "losses" or name not in self._hook.reads):
            raise RuntimeError(
                f"{self._hook.label} predicts {name!r} with gradient in {self._hook.phase}(); that is for losses(), "
                f"for the views of its reads, which are {sorted(self._hook.reads)}"
            )
        if name in self._detached or name in self._dropped:
            raise RuntimeError(f"{self._who()}the graph of view {name!r} was released; use detached({name!r})")
        if name not in self._student:
            self._forward(name)
        processes = self._together()
        if processes is None:
            return self._student[name]
        if name not in self._whole_student:
            self._whole_student[name] = _leaves_like(processes.whole_output(self._roots[name]), self._roots[name])
        return self._whole_student[name]

    def _forward(self, name: str) -> None:
        self._roots[name] = self._pass(name, self._own_view(name))
        self._student[name] = _leaves_like(self._roots[name].detach(), self._roots[name])

    def detached(self, name: str) -> SegOutput:
        """The same numbers as :meth:`predict`, without gradient.

        Once the view's graph is gone, without the ``extra`` tensors too: maps at a quarter of the image are not kept.

        Raises:
            RuntimeError: the calling method does not list the view in its ``looks`` (or, in ``losses``, its ``reads``),
                or it is asked for after the update, when the network is another one.
        """
        own, processes = self._own_detached(name), self._together()
        if processes is None:
            return own
        if name in self._whole_student:
            return self._whole_student[name].detach()
        if name not in self._whole_detached:
            self._whole_detached[name] = processes.whole_output(own)
        return self._whole_detached[name]

    def _own_detached(self, name: str) -> SegOutput:
        hook = self._hook
        if hook is not None and name not in hook.looks and not (hook.phase == "losses" and name in hook.reads):
            raise RuntimeError(
                f"{hook.label} looks at {name!r} in {hook.phase}(), but its looks are {sorted(hook.looks)}; list the "
                "view there, so that its numbers are made before the update and kept"
            )
        if name in self._student:
            return self._student[name].detach()
        if name in self._detached:
            return self._detached[name]
        if self._updated or name in self._dropped:
            raise RuntimeError(f"{self._who()}the output of view {name!r} is gone; list the view in looks to keep it")
        if name in self._graph_views and (hook is None or hook.phase in ("prepare", "losses")):
            self._forward(name)
            return self._student[name].detach()
        with torch.no_grad():
            self._detached[name] = _without_extra(self._pass(name, self._own_view(name)))
        return self._detached[name]

    def teach(self, name: str) -> SegOutput:
        """The shared EMA teacher's output, without gradient.

        Raises:
            RuntimeError: the run has no teacher (no method says which it needs), or the output was dropped because no
                method says ``teacher_in_losses``.
        """
        if name in self._forgotten:
            raise RuntimeError(
                f"{self._who()}the teacher's output of {name!r} was dropped; set teacher_in_losses = True to keep it"
            )
        if self._teacher is None:
            raise RuntimeError(
                f"{self._who()}this run has no teacher; a method that calls teach() sets teacher = TeacherSpec(...)"
            )
        if name not in self._taught:
            with torch.no_grad():
                self._taught[name] = self._teacher(name, self._own_view(name))
        processes = self._together()
        if processes is None:
            return self._taught[name]
        if name not in self._whole_taught:
            self._whole_taught[name] = processes.whole_output(self._taught[name])
        return self._whole_taught[name]

    def infer(self, images: Tensor, domain: Domain = "target", *, model: nn.Module | None = None) -> SegOutput:
        """The student on any images in evaluation mode: no gradient, no batch-norm update, not memoised.

        For passes over a whole data set (self-training rounds, prototype initialisation). ``domain`` is whose
        batch-norm statistics serve, where the model keeps two sets; ``model`` another network (a frozen copy).
        """
        model = model or self._model
        with evaluating(model), normalising(model, domain), torch.no_grad():
            output: SegOutput = model(images)
            return output

    def forget_taught(self) -> None:
        """Drop the teacher's outputs, before the graphs of the losses need the memory."""
        self._forgotten |= self._taught.keys()
        self._taught, self._whole_taught = {}, {}

    def leaves(self, names: Collection[str]) -> list[Tensor]:
        """The tensors of the predicted views among ``names``, where losses on them leave their gradients."""
        return [
            leaf
            for name in sorted(names)
            for outputs in (self._student, self._whole_student)
            if name in outputs
            for leaf in outputs[name].tensors()
            if leaf.requires_grad
        ]

    def release(self, names: Collection[str]) -> tuple[list[Tensor], list[Tensor]]:
        """Let go of the graphs of these views, and hand over what is left to do with them.

        The numbers of the views that some method looks at stay for :meth:`detached`.

        Args:
            names: views; those that were not predicted do not matter.

        Returns:
            the network's outputs that losses left a gradient at, and these gradients.
        """
        roots: list[Tensor] = []
        gradients: list[Tensor] = []
        for name in sorted(names):
            if name not in self._student:
                continue
            student = self._student.pop(name)
            left = self._gradients(student, self._whole_student.pop(name, None))
            for root, gradient in zip(self._roots.pop(name).tensors(), left, strict=True):
                if gradient is not None:
                    roots.append(root)
                    gradients.append(gradient)
            self._whole_detached.pop(name, None)
            if name in self._kept_views:
                self._detached[name] = _without_extra(student.detach())
            else:
                self._dropped.add(name)
        return roots, gradients

    def _gradients(self, student: SegOutput, whole: SegOutput | None) -> list[Tensor | None]:
        """What losses left at each tensor of an output.

        Gradients are averaged over processes afterwards. A loss of the whole batch is the same on each of them and its
        gradient at this one's images is here alone, so that it counts ``world`` times.
        """
        gradients = [leaf.grad for leaf in student.tensors()]
        if self._processes is None:
            return gradients
        if whole is not None:
            for at, leaf in enumerate(whole.tensors()):
                if leaf.grad is not None:
                    of_images = leaf.shape != student.tensors()[at].shape
                    of_own = self._processes.own(leaf.grad) * self._processes.world if of_images else leaf.grad
                    before = gradients[at]
                    gradients[at] = of_own if before is None else before + of_own
        # where some process goes back all must, as batch norm exchanges sums on the way
        reached = self._processes.any([gradient is not None for gradient in gradients])
        for at, leaf in enumerate(student.tensors()):
            if reached[at] and gradients[at] is None:
                gradients[at] = torch.zeros_like(leaf)
        return gradients

    def close(self) -> None:
        """Say that the network is about to change: no output is made from now on, only what there is can be read."""
        self._updated = True

    @contextmanager
    def running(
        self,
        label: str,
        phase: Phase,
        reads: Collection[str] = (),
        looks: Collection[str] = (),
        own_images: bool = False,
    ) -> Iterator[None]:
        """Inside, one method's hook runs: it may predict its ``reads`` and look at its ``looks``, and its logs are its
        own; errors name it. With ``own_images`` it sees those of this process alone."""
        outer, self._hook = self._hook, _Hook(label, phase, frozenset(reads), frozenset(looks), own_images)
        try:
            yield
        finally:
            self._hook = outer

    def log(self, name: str, value: Tensor | float) -> None:
        """Record a scalar, kept on its device until somebody writes it.

        Inside a method's hook the method's label goes behind the first part of the name
        (``pseudo_label/coverage`` -> ``pseudo_label/ClassMix/coverage``) or, where there is one part, before it.

        Raises:
            RuntimeError: the step has a value of that name already.
        """
        if not self.logging:
            return
        if self._hook is not None:
            first, slash, rest = name.partition("/")
            name = f"{first}/{self._hook.label}/{rest}" if slash else f"{self._hook.label}/{name}"
        if name in self.logs:
            raise RuntimeError(f"{name!r} is logged twice in one step; the second value would hide the first")
        self.logs[name] = value.detach() if isinstance(value, torch.Tensor) else torch.tensor(float(value))


def _leaves_like(output: SegOutput, roots: SegOutput) -> SegOutput:
    """A detached output as leaves that take gradient where the network's own tensors do."""
    for leaf, root in zip(output.tensors(), roots.tensors(), strict=True):
        leaf.requires_grad_(root.requires_grad)
    return output


def _without_extra(output: SegOutput) -> SegOutput:
    return output._replace(extra=None)
