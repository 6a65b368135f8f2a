"""One optimiser step of a composition of methods: no data, no files, no loop.

Three seams, each called from one line and made to be overridden: :meth:`Update.forward` takes a view through the
network, :meth:`Update.backpropagate` scales a total and takes it back, :meth:`Update.average` averages gradients over
processes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from uda.engine.averaging import RunningAverage
from uda.engine.checkpoint import rng_state, set_rng_state
from uda.engine.compiling import Compiled
from uda.engine.graph import check_scalar, reached, released_graphs_explained, trains_nothing
from uda.engine.grouping import share_groups, shared_teacher, unique_labels
from uda.engine.optimisation import add_parameters, segmenter_optimizer
from uda.engine.precision import PRECISIONS, autocast, widened
from uda.engine.schedules import Poly, RunSchedule, Schedule, set_lr
from uda.engine.settings import CompileSpec, WeightAverage
from uda.methods.base import Method
from uda.models.batch_norm import TREATMENTS, add_target_norms, normalising, view_domain
from uda.models.recompute import Part, parts_of, recomputing
from uda.models.synced_norm import synced_batch_norm
from uda.models.teacher import Teacher
from uda.processes import Processes, passing
from uda.step import Phase, Step
from uda.types import SegOutput, TaskSpec, TeacherSpec, View, as_segmenter

OptimizerLike = Optimizer | Callable[[Iterable[nn.Parameter]], Optimizer]
"""An optimiser over the model's parameters, or what makes one of them (``partial(torch.optim.NAdam, lr=1)``)."""


def treatment_of(methods: Sequence[Method], batch_norm: str) -> str:
    """A treatment of batch norm for a run: without target images there is nothing to keep apart."""
    views = frozenset().union(*(method.reads | method.looks for method in methods))
    apart = any(view_domain(name) == "target" for name in views)
    return batch_norm if apart or batch_norm == "frozen" else "shared"


def _holds(optimizer: Optimizer, parameters: Iterable[nn.Parameter]) -> bool:
    members = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    return all(id(parameter) in members for parameter in parameters)


class NonFiniteLoss(FloatingPointError):
    """A loss term or gradient became NaN or infinite; the message names it, the step and the batch's files."""


class Update:
    """One optimiser step of a network and a list of methods; the caller keeps the loop.

    A call goes: teacher (``update="before"``), ``prepare`` of every method, ``losses``, back through the network,
    ``own_losses``, average, clip, optimisers, teacher (``"after"``), ``after_step``. Nothing is changed before all
    terms and gradients are known to be finite.

    Args:
        model: a segmenter (:class:`~uda.types.SegmenterLike`); :func:`uda.models.adapt` makes one of any network.
        methods: act in this order. ``[Supervised()]`` is source-only training.
        total_steps: optimiser steps of the whole run, which schedules and methods depend on.
        optimizer: of the segmenter: an optimiser over its parameters, or a function or class that makes one of them;
            AdamW with the library's parameter groups by default (:func:`~uda.engine.segmenter_optimizer`). Parameters
            of methods that have no optimiser of their own join it.
        schedule: factor of the rates: ``poly(0.9)``, a function of the step (or of step and total), or a torch
            scheduler, its class or a partial of it.
        warmup: steps of linear warm-up, over any schedule that is a function.
        clip: norm to which the gradient of everything that ``optimizer`` moves is clipped.
        precision: ``"bf16"`` runs networks and losses under autocast. ``"fp16"`` runs the segmenter and its teacher
            under autocast, losses and own networks in float32, and scales totals on their way back; a step whose
            gradients overflow is passed over: it counts in ``index``, but no weight, rate or average moves.
        channels_last: memory format of model and images.
        activation_checkpointing: what of the network is computed again on the way back, in place of keeping its
            activations: ``"none"``, the ``"encoder"`` or ``"all"`` (:mod:`uda.models.recompute`). The same numbers.
        compile: how torch.compile compiles the passes of network and teacher, ``True`` for its defaults; with
            ``activation_checkpointing`` each part that is computed again by itself. The numbers differ by rounding.
        batch_norm: how batch norm treats the views of the two domains: ``"shared"``, ``"frozen"``, ``"source"`` or
            ``"per_domain"`` (:mod:`uda.models.batch_norm`).
        accumulate: calls (micro-batches) that make one optimiser step; their gradients are averaged.
        teacher: the EMA teacher, where the methods' own wishes shall not count.
        average: stochastic weight averaging over the last part of the run; :attr:`final` is then the average.
        processes: that train together, each with its slice of every batch (:meth:`~uda.processes.Processes.current`).
            The numbers are those of one process with the whole batch, up to rounding and the draws of dropout layers.
        sync_batch_norm: whether batch norm takes its statistics from all processes' images, as one process would; else
            each normalises with its own, and the first process' stored statistics are the run's.
        device: where everything goes; that of the model's parameters by default.
        seed: of the methods' random numbers and, in :meth:`setup`, of torch's global ones (own networks, dropout);
            ``None`` leaves the global ones alone.

    Attributes:
        labels: the methods' unique names in the logs.
        index: optimiser steps done, with those that were passed over.
        skipped: steps that were passed over, as gradients overflowed in ``"fp16"``.
        step: the :class:`~uda.step.Step` of the last call.
        teacher: the EMA teacher, if a method needs one (after :meth:`setup`).
        own_optimizers: optimisers of the methods' own networks by label.
        weight_average: the average of the weights, if one was asked for.

    Raises:
        TypeError: the model is no segmenter, or the optimiser is none.
        ValueError: no methods, a value out of its range, or methods that want different teachers.
    """

    def __init__(
        self,
        model: nn.Module,
        methods: Sequence[Method],
        *,
        total_steps: int,
        optimizer: OptimizerLike | None = None,
        schedule: Schedule | None = None,
        warmup: int = 0,
        clip: float | None = None,
        precision: str = "fp32",
        channels_last: bool = False,
        activation_checkpointing: str = "none",
        compile: CompileSpec | bool | None = None,
        batch_norm: str = "shared",
        accumulate: int = 1,
        teacher: TeacherSpec | None = None,
        average: WeightAverage | None = None,
        processes: Processes | None = None,
        sync_batch_norm: bool = True,
        device: torch.device | str | None = None,
        seed: int | None = 0,
    ) -> None:
        if not methods:
            raise ValueError("methods is empty; [Supervised()] is source-only training")
        for name, value in (("total_steps", total_steps), ("accumulate", accumulate)):
            if value < 1:
                raise ValueError(f"{name} is {value!r}, must be at least 1")
        for name, choice, options in (
            ("precision", precision, PRECISIONS),
            ("batch_norm", batch_norm, TREATMENTS),
        ):
            if choice not in options:
                raise ValueError(f"{name} is {choice!r}, must be one of {', '.join(map(repr, options))}")
        as_segmenter(model)
        self.batch_norm = treatment_of(methods, batch_norm)
        if self.batch_norm == "per_domain":
            add_target_norms(model)
        self.device = torch.device(device) if device is not None else next(model.parameters()).device
        memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.model = model.to(self.device).to(memory_format=memory_format)  # type: ignore[call-overload]
        self.methods = list(methods)
        self.labels = unique_labels(self.methods)
        self.groups = share_groups(self.methods)
        self.total_steps, self.accumulate, self.clip, self.seed = total_steps, accumulate, clip, seed
        self.precision, self.channels_last = precision, channels_last
        self.processes, self._synced = processes, processes if sync_batch_norm else None
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=precision == "fp16")
        self.skipped, self._skipped_last, self._unscaled = 0, False, False
        self._parts = parts_of(self.model, activation_checkpointing)
        self._compile(CompileSpec() if compile is True else compile or None)
        self.teacher_spec = teacher or shared_teacher(self.methods, self.labels)
        self.generator = torch.Generator().manual_seed(0 if seed is None else seed)
        self.teacher: Teacher | None = None
        self.weight_average = RunningAverage(self.model, average, total_steps) if average is not None else None
        self.own_optimizers: dict[str, Optimizer] = {}
        self.index = 0
        self.step: Step | None = None
        self.asked_total = average is not None  # which steps are averaged depends on it
        self._wanted: tuple[OptimizerLike | None, Schedule, int] = (optimizer, schedule or Poly(), warmup)
        self._schedule: RunSchedule | None = None
        self._micro_batch = 0
        self._summed: dict[str, tuple[Tensor, int]] = {}
        self._unchecked: dict[str, Tensor] = {}

    # ---- set-up -------------------------------------------------------------------------------------------------

    def _compile(self, spec: CompileSpec | None) -> None:
        self._compiled_parts: dict[int, Compiled] = {}
        self._compile_spec = None if spec is None else spec.model_dump()
        self._student: Callable[[Tensor], SegOutput] = self.model
        if self._compile_spec is None:
            return
        # a function of its own: a copy or an evaluation of the network is not compiled, and its state has no other keys
        self._student = Compiled(lambda images: self.model(images), self._compile_spec)

    def _made(self, part: Part, call: Callable[..., Any]) -> Callable[..., Any]:
        # a graph keeps the hooks of its first pass, and an adapted network has others at each
        hooked = any(module._forward_hooks or module._forward_pre_hooks for module in part.modules)
        if self._compile_spec is None or hooked:
            return call
        if id(part) not in self._compiled_parts:
            self._compiled_parts[id(part)] = Compiled(call, self._compile_spec)
        return self._compiled_parts[id(part)]

    def setup(self, spec: TaskSpec) -> None:
        """Let every method build its networks and state, make the optimisers and the teacher; once, before all else.

        The model is put in train mode; later changes of its mode are the caller's.

        Args:
            spec: ``TaskSpec.of(model, space, source=..., target=...)``; model, device and length are filled in here.

        Raises:
            ValueError: a method cannot do this task (from its ``setup``), or needs target images and gets none.
        """
        if self._schedule is not None:
            raise RuntimeError("setup was called already; make a new Update for another task")
        if self.seed is not None:
            torch.manual_seed(self.seed)
        self.spec = replace(spec, model=as_segmenter(self.model), device=self.device, total_steps=self.total_steps)
        self.model.train()
        for label, method in zip(self.labels, self.methods, strict=True):
            method.setup(self.spec)
            method.to(self.device)
            own = method.optimizer()
            if own is not None:
                self.own_optimizers[label] = own
        self._make_optimizer()
        if self.teacher_spec is not None:
            self.teacher = teacher = Teacher(self.model, **vars(self.teacher_spec))
            self._taught: Callable[[Tensor], SegOutput] = teacher
            if self._compile_spec is not None:
                self._taught = Compiled(lambda images: teacher(images), self._compile_spec)
        self._begin_together()
        self._graph_views = frozenset().union(*(method.reads for method in self.methods))
        self._kept_views = frozenset().union(*(method.looks for method in self.methods))

    def _begin_together(self) -> None:
        """Start from the first process' numbers; torch's global draws (dropout) are each process' own from now on."""
        if self.processes is None:
            return
        self.processes.broadcast_(list(self._shared_state().values()))
        if self.seed is not None:
            self._seed_layers()

    def _seed_layers(self) -> None:
        # the first process draws as one process would
        if self.processes is not None and self.processes.rank > 0:
            torch.manual_seed(hash((self.seed or 0, self.index, self.processes.rank)) % 2**63)

    def _shared_state(self) -> dict[str, Tensor]:
        """All tensors that must be the same on all processes."""
        modules = {"model": self.model, "teacher": self.teacher, **dict(zip(self.labels, self.methods, strict=True))}
        state = {
            f"{label}.{name}": value
            for label, module in modules.items()
            if module is not None
            for name, value in module.state_dict().items()
            if isinstance(value, Tensor)
        }
        optimizers = {"the optimiser": self.optimizer, **self.own_optimizers}
        for label, optimizer in optimizers.items():
            for number, values in optimizer.state_dict()["state"].items():
                tensors = {key: value for key, value in values.items() if isinstance(value, Tensor)}
                state |= {f"{label}.{number}.{key}": value for key, value in tensors.items()}
        return state

    def assert_together(self) -> None:
        """See that networks, teacher, methods, optimisers and random numbers are the same on all processes, by hash.

        Raises:
            RuntimeError: something differs by more than rounding; it is named.
        """
        if self.processes is None:
            return
        if self._synced is None:
            # the stored statistics were each process' own until now
            teacher = () if self.teacher is None else self.teacher.buffers()
            self.processes.broadcast_([*self.model.buffers(), *teacher])
        generator = {"generator": self.generator.get_state()}
        self.processes.assert_equal(f"step {self.index}", {**self._shared_state(), **generator})

    def _make_optimizer(self) -> None:
        wanted, schedule, warmup = self._wanted
        if wanted is None:
            optimizer = segmenter_optimizer(self.model)
        elif isinstance(wanted, Optimizer):
            optimizer = wanted
            if self.batch_norm == "per_domain" and not _holds(optimizer, self.model.parameters()):
                raise ValueError(
                    "the optimiser was made before the target's batch-norm parameters; call "
                    "uda.models.add_target_norms(model) first, or give the optimiser's class"
                )
        else:
            optimizer = wanted(self.model.parameters())
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"optimizer gave {type(optimizer).__name__}, must be a torch optimiser")
        owned = {id(p) for own in self.own_optimizers.values() for group in own.param_groups for p in group["params"]}
        before = len(optimizer.param_groups)
        for label, method in zip(self.labels, self.methods, strict=True):
            add_parameters(optimizer, method, label, leave_out=owned)
        if len(optimizer.param_groups) > before and isinstance(schedule, LRScheduler):
            joined = ", ".join(str(group["name"]) for group in optimizer.param_groups[before:])
            raise ValueError(
                f"parameters of methods ({joined}) join the optimiser, whose torch scheduler is already built; give "
                "the scheduler's class or a functools.partial of it instead"
            )
        self.optimizer = optimizer
        self._schedule = RunSchedule(schedule, optimizer, self.total_steps, warmup)

    @property
    def schedule(self) -> RunSchedule:
        """The schedule at work.

        Raises:
            RuntimeError: before :meth:`setup`.
        """
        if self._schedule is None:
            raise RuntimeError(
                f"{', '.join(self.labels)}: setup is missing; call update.setup(TaskSpec.of(model, space)) first"
            )
        return self._schedule

    @property
    def final(self) -> nn.Module:
        """The network that the run is for: the average of the weights once there is one, else the trained network."""
        average = None if self.weight_average is None else self.weight_average.model
        return self.model if average is None else average

    def parameters(self) -> list[nn.Parameter]:
        """What the segmenter's optimiser may move now: trainable parameters of the model and of methods that join it.

        Found anew at each step, so that parameters can be frozen and unfrozen in between.
        """
        members = {id(p) for group in self.optimizer.param_groups for p in group["params"]}
        joined = (p for method in self.methods for p in method.parameters() if id(p) in members)
        return [p for p in (*self.model.parameters(), *joined) if p.requires_grad]

    # ---- the seams ----------------------------------------------------------------------------------------------

    def forward(self, name: str, view: View) -> SegOutput:
        """Seam: take a view through the network, with gradient where the caller records it."""
        recorded = bool(self._parts) and torch.is_grad_enabled()
        student = self.model if recorded else self._student
        with (
            self._passing(),
            normalising(self.model, view_domain(name), self.batch_norm),
            recomputing(self._parts, self._passing, self._made),
        ):
            return widened(student(view.images))

    def teach(self, name: str, view: View) -> SegOutput:
        """Seam: take a view through the teacher, without gradient.

        Raises:
            RuntimeError: there is none.
        """
        if self.teacher is None:
            raise RuntimeError("this run has no teacher; a method that needs one sets teacher = TeacherSpec(...)")
        with self._passing(), normalising(self.teacher, view_domain(name), self.batch_norm):
            return widened(self._taught(view.images))

    @contextmanager
    def _passing(self) -> Iterator[None]:
        with self.autocast(), passing(self.processes), synced_batch_norm(self._synced):
            yield

    def backpropagate(
        self,
        outputs: Sequence[Tensor],
        gradients: Sequence[Tensor | None],
        inputs: Sequence[Tensor],
        *,
        retain_graph: bool = False,
    ) -> None:
        """Seam: take totals (with gradient ``None``) and network outputs (with theirs) back to ``inputs``.

        Totals are divided by the number of micro-batches and, in ``"fp16"``, multiplied by the scale; a gradient that
        comes from a total is already.
        """
        share = 1 / self.accumulate
        output_gradients = [
            self.scaler.scale(torch.full_like(x, share)) if g is None else g
            for x, g in zip(outputs, gradients, strict=True)
        ]
        torch.autograd.backward(outputs, output_gradients, inputs=inputs, retain_graph=retain_graph)

    def average(self, parameters: Sequence[nn.Parameter]) -> None:
        """Seam: average the gradients of one network over processes; called once a step for each network.

        After its last backward and by hand: hooks that average as gradients arrive count on one backward pass a step.
        """
        if self.processes is not None:
            self.processes.average_gradients(parameters)

    def autocast(self) -> AbstractContextManager[Any]:
        """The precision that the segmenter and its teacher run in."""
        return autocast(self.device.type, self.precision)

    def _maths(self) -> AbstractContextManager[Any]:
        """The precision that methods compute in: entropies and their like leave float16's range."""
        return autocast(self.device.type, "fp32" if self.precision == "fp16" else self.precision)

    # ---- one step -----------------------------------------------------------------------------------------------

    def __call__(self, views: Mapping[str, View], *, log: bool = True) -> dict[str, Tensor]:
        """Train on one batch; with ``accumulate=k`` every k-th call makes the step.

        Args:
            views: usually ``"source"`` (with labels) and ``"target"``, on any device.
            log: whether the logs are wanted; without, only what costs nothing is in them.

        Returns:
            scalars by tag, on the device: ``loss/<Method>/<term>``, ``gradient_norm``, ``lr`` and what the methods log.
            With several micro-batches, the call that makes the step gives the means over them.

        Raises:
            RuntimeError: before :meth:`setup`.
            KeyError: a method asks for a view that is not there; the message names it.
            TypeError: a loss is no tensor. ValueError: a loss is no scalar, or trains nothing.
            NonFiniteLoss: a term or a gradient is not finite, and no weight has been changed; or an image is not, and
                nothing has: the batch may be passed over.
        """
        schedule, first = self.schedule, self._micro_batch == 0
        self._require_finite_images(views)
        if first:
            if self.teacher is not None and self.teacher.when == "before":
                self._update_teacher(self.teacher)
            self._zero()
        # the last step's tensors go before this one's are made
        self.step = None
        self.step = step = self._make_step(views, log)
        for label, method in zip(self.labels, self.methods, strict=True):
            with self._maths(), self._running(step, label, method, "prepare"):
                method.prepare(step)
        if not any(method.teacher_in_losses for method in self.methods):
            step.forget_taught()
        parameters = self.parameters()
        for group in self.groups:
            self._backward_group(step, group, parameters)
        self._look(step)
        for label, method in zip(self.labels, self.methods, strict=True):
            if label in self.own_optimizers:
                self._backward_own(step, label, method)
        self._micro_batch = (self._micro_batch + 1) % self.accumulate
        if self._micro_batch == 0:
            self._apply(step, parameters, schedule)
        with torch.no_grad():
            for label, method in zip(self.labels, self.methods, strict=True):
                with self._running(step, label, method, "after_step"):
                    method.after_step(step)
        self.asked_total |= step.asked_total
        return self._averaged(self._logs(step))

    def _running(self, step: Step, label: str, method: Method, phase: Phase) -> AbstractContextManager[None]:
        reads = method.reads if phase == "losses" else frozenset()
        return step.running(label, phase, reads, method.looks, own_images=phase in method.own_images)

    @contextmanager
    def _losses(self, step: Step, label: str, method: Method, phase: Phase) -> Iterator[None]:
        """Around losses: their counts of pixels are those of all processes, where each sees its own images."""
        together = self.processes if phase in method.own_images else None
        with self._maths(), passing(together), self._running(step, label, method, phase):
            yield

    def _zero(self) -> None:
        # every parameter, not the optimiser's alone: it may move a part of the network only
        for module in (self.model, *self.methods):
            for parameter in module.parameters():
                parameter.grad = None

    def _make_step(self, views: Mapping[str, View], log: bool) -> Step:
        return Step(
            self.model,
            {name: self._place(view) for name, view in views.items()},
            index=self.index,
            total=self.total_steps,
            generator=self.generator,
            teacher=self.teach if self.teacher is not None else None,
            graph_views=self._graph_views,
            kept_views=self._kept_views,
            forward=self.forward,
            logging=log,
            micro_batch=self._micro_batch,
            processes=self.processes,
        )

    def _place(self, view: View) -> View:
        view = view.to(self.device)
        if not self.channels_last:
            return view
        return replace(view, images=view.images.contiguous(memory_format=torch.channels_last))

    def _backward_group(self, step: Step, group: Sequence[int], parameters: Sequence[nn.Parameter]) -> None:
        """Losses of the methods that share views, each taken to the views' leaves, then all through the network once.

        What reaches the parameters by a way of its own (a weight penalty, a hooked layer, a method's own pass) goes
        back together with the views, so that their graphs may be shared.
        """
        names = frozenset().union(*(self.methods[at].reads for at in group))
        parameter_ids = set(map(id, parameters))
        direct: list[Tensor] = []
        for at in group:
            label, method = self.labels[at], self.methods[at]
            with self._losses(step, label, method, "losses"):
                terms = method.losses(step)
            leaves = step.leaves(names)
            total, at_leaves, at_parameters = self._sum(step, label, terms, set(map(id, leaves)), parameter_ids)
            if total is not None and at_leaves:
                self.backpropagate([total], [None], leaves, retain_graph=at_parameters)
            if total is not None and at_parameters:
                direct.append(total)
            del terms, total, leaves
        roots, gradients = step.release(names)
        if roots or direct:
            with released_graphs_explained([self.labels[at] for at in group]):
                self.backpropagate([*roots, *direct], [*gradients, *[None] * len(direct)], parameters)

    def _look(self, step: Step) -> None:
        """Make what methods look at without gradient, and nobody predicted, while the network is still the same."""
        for label, method in zip(self.labels, self.methods, strict=True):
            with step.running(label, "own_losses", (), method.looks, own_images=True):
                for name in sorted(method.looks):
                    step.detached(name)

    def _backward_own(self, step: Step, label: str, method: Method) -> None:
        with self._losses(step, label, method, "own_losses"):
            terms = method.own_losses(step)
        own = [p for group in self.own_optimizers[label].param_groups for p in group["params"] if p.requires_grad]
        total, _, _ = self._sum(step, label, terms, set(), set(map(id, own)))
        if total is not None:
            self.backpropagate([total], [None], own)

    def _sum(
        self,
        step: Step,
        label: str,
        terms: Mapping[str, Tensor],
        leaves: set[int],
        parameters: set[int],
    ) -> tuple[Tensor | None, bool, bool]:
        """The sum of a method's terms, and whether it reaches the leaves and the parameters."""
        if not isinstance(terms, Mapping):
            raise TypeError(f"{label}: losses are a mapping of names to scalar tensors, got {type(terms).__name__}")
        total: Tensor | None = None
        at_leaves = at_parameters = False
        for name, term in terms.items():
            key = f"{label}/{name}"
            check_scalar(key, term)
            self._unchecked[key] = self._unchecked.get(key, 0.0) + term.detach()
            step.log(f"loss/{key}", term)
            if not term.requires_grad:
                if bool(term.detach() != 0):
                    raise ValueError(trains_nothing(key))
                continue  # nothing to learn in this batch: no pixel was labelled, say
            leaf, parameter = reached(term, leaves, parameters)
            if not (leaf or parameter):
                raise ValueError(trains_nothing(key))
            at_leaves, at_parameters = at_leaves or leaf, at_parameters or parameter
            total = term if total is None else total + term
        return total, at_leaves, at_parameters

    def _apply(self, step: Step, parameters: list[nn.Parameter], schedule: RunSchedule) -> None:
        """Average, check, clip, and move everything."""
        self.average(parameters)
        own = {label: [p for g in o.param_groups for p in g["params"]] for label, o in self.own_optimizers.items()}
        for network in own.values():
            self.average(network)
        self._unscale(parameters)
        norm = self._norm(parameters)
        norms = {f"the gradient norm of {label}'s own network": self._norm(network) for label, network in own.items()}
        skips = self._overflows(norm, *norms.values())
        self._require_finite(step, {} if skips else {"the segmenter's gradient norm": norm, **norms})
        if self.scaler.is_enabled():
            step.log("fp16/scale", self.scaler.get_scale())
            step.log("fp16/skipped", self.skipped)
        if skips:
            step.close()
            self.index += 1
            return
        step.log("gradient_norm", norm)
        if self.clip is not None:
            nn.utils.clip_grads_with_norm_(parameters, self.clip, norm)
        step.close()
        factor = schedule.apply(self.moves)
        self.optimizer.step()
        for label, method in zip(self.labels, self.methods, strict=True):
            if label in self.own_optimizers:
                if method.scheduled:
                    set_lr(self.own_optimizers[label], factor)
                if any(p.grad is not None for p in own[label]):
                    self.own_optimizers[label].step()
        step.log("lr", self.optimizer.param_groups[0]["lr"])
        schedule.advance()
        if self.teacher is not None and self.teacher.when == "after":
            self._update_teacher(self.teacher)
        self.index += 1
        if self.weight_average is not None:
            self.weight_average.update(self.index)

    @property
    def moves(self) -> int:
        """Optimiser steps that moved the weights; schedule and teacher go by them."""
        return self.index - self.skipped

    def _update_teacher(self, teacher: Teacher) -> None:
        if self._skipped_last:
            return  # the student is the one that it was
        teacher.update(self.model, self.moves)

    def _unscale(self, parameters: Sequence[nn.Parameter]) -> None:
        """Take the scale from all gradients, before anything looks at them."""
        if not self.scaler.is_enabled():
            return
        optimizers = (self.optimizer, *self.own_optimizers.values())
        self._unscaled = False
        for optimizer in optimizers:
            if any(p.grad is not None for group in optimizer.param_groups for p in group["params"]):
                self.scaler.unscale_(optimizer)
                self._unscaled = True
        held = {id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}
        for parameter in parameters:
            if id(parameter) not in held and parameter.grad is not None:
                parameter.grad /= self.scaler.get_scale()

    def _overflows(self, *norms: Tensor) -> bool:
        """Whether scaled gradients overflowed, so that the step is to be passed over; the next scale is smaller.

        A gradient that is not finite at a scale of 1 or less is no matter of the scale, and an error as ever.
        """
        if not self.scaler.is_enabled() or not self._unscaled:
            return False
        before, finite = self.scaler.get_scale(), bool(torch.stack(norms).isfinite().all())
        self.scaler.update()
        self._skipped_last = not finite and before > 1 and self.scaler.get_scale() < before
        self.skipped += self._skipped_last
        return self._skipped_last

    def _norm(self, parameters: Sequence[nn.Parameter]) -> Tensor:
        norm: Tensor = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        return norm.to(self.device)  # of nothing it is a zero on the CPU

    def _require_finite(self, step: Step, more: Mapping[str, Tensor]) -> None:
        """Stop at the first term that is not finite; a device is waited for once for all of them."""
        values = {**self._unchecked, **more}
        self._unchecked = {}
        finite = bool(torch.stack([value.float().isfinite() for value in values.values()]).all())
        if finite:
            self._require_others_finite(True, "a loss or gradient")
            return
        self._require_others_finite(False, "")
        name, value = next((name, value.item()) for name, value in values.items() if not value.isfinite())
        files = ", ".join(file for view in step.view_names for file in step.view(view).names) or "unknown files"
        raise NonFiniteLoss(f"step {step.index}: {name} is {value}; the batch: {files}")

    def _require_others_finite(self, finite: bool, what: str) -> None:
        """Tell the other processes, and stop with the one that has to: it names what is not finite."""
        if self.processes is not None and any(self.processes.any([not finite])) and finite:
            raise NonFiniteLoss(f"step {self.index}: {what} of another process is not finite")

    def _require_finite_images(self, views: Mapping[str, View]) -> None:
        """Stop before anything has moved; a sum is cheap, and only where it shows something each image is looked at."""
        broken: list[str] = []
        if not all(math.isfinite(view.images.sum()) for view in views.values()):
            broken = [
                view.names[at] if at < len(view.names) else f"image {at} of {name}"
                for name, view in views.items()
                for at, image in enumerate(view.images)
                if not image.isfinite().all()
            ]
        self._require_others_finite(not broken, "an image")
        if broken:
            raise NonFiniteLoss(f"step {self.index}: pixels that are not finite in {', '.join(broken)}")

    def check_finite(self) -> None:
        """See that what a checkpoint would hold can be gone on from.

        Raises:
            NonFiniteLoss: a number of the network, its teacher, a method's own network or an optimiser is not finite;
                the message names it.
        """
        state: list[tuple[str, Tensor]] = [*self.model.state_dict().items()]
        for label, method in zip(self.labels, self.methods, strict=True):
            # not their buffers: a threshold that nothing has set yet is infinite
            state += [(f"{label} {name}", value.detach()) for name, value in method.named_parameters()]
        if self.teacher is not None:
            state += [(f"teacher {name}", value) for name, value in self.teacher.state_dict().items()]
        optimizers = {
            "the optimiser": self.optimizer,
            **{f"{k}'s optimiser": o for k, o in self.own_optimizers.items()},
        }
        for label, optimizer in optimizers.items():
            for values in optimizer.state_dict()["state"].values():
                state += [(f"{key} of {label}", value) for key, value in values.items() if isinstance(value, Tensor)]
        floating = [(name, value) for name, value in state if value.is_floating_point()]
        if not floating or torch.stack([value.isfinite().all().to(self.device) for _, value in floating]).all():
            return
        name = next(name for name, value in floating if not value.isfinite().all())
        raise NonFiniteLoss(f"step {self.index - 1}: {name} is not finite after the update; the rate may be too high")

    def _logs(self, step: Step) -> dict[str, Tensor]:
        if self.accumulate == 1:
            return step.logs
        for tag, value in step.logs.items():
            total, count = self._summed.get(tag, (torch.zeros_like(value), 0))
            self._summed[tag] = (total + value, count + 1)
        if self._micro_batch:
            return step.logs
        means = {tag: total / count for tag, (total, count) in self._summed.items()}
        self._summed = {}
        return means

    def _averaged(self, logs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Logs as means over processes: each has the losses of its own images, where a method allows it."""
        if self.processes is None or not logs:
            return logs
        values = torch.stack([value.to(self.device, torch.float32) for value in logs.values()])
        self.processes.average_([values])
        return dict(zip(logs, values, strict=True))

    # ---- state --------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on: tensors, numbers and strings only.

        Raises:
            RuntimeError: before :meth:`setup`, or between the micro-batches of one step.
        """
        schedule = self.schedule.state_dict()
        if self._micro_batch:
            raise RuntimeError(
                f"{self._micro_batch} of {self.accumulate} micro-batches are done; finish the step first"
            )
        average = None if self.weight_average is None else self.weight_average.state_dict()
        return {
            "step": self.index,
            # what is loaded as the run's network is the average once there is one
            "model": self.final.state_dict(),
            **({} if average is None else {"trained": self.model.state_dict(), "average": average}),
            "teacher": self.teacher.state_dict() if self.teacher is not None else None,
            "methods": {label: method.state_dict() for label, method in zip(self.labels, self.methods, strict=True)},
            "optimizer": self.optimizer.state_dict(),
            "own_optimizers": {label: optimizer.state_dict() for label, optimizer in self.own_optimizers.items()},
            "schedule": schedule,
            **({"scaler": self._scaler_state()} if self.scaler.is_enabled() else {}),
            "generator": self.generator.get_state(),
            "rng": rng_state() if self.processes is None else self._every_rng_state(self.processes),
            "asked_total": self.asked_total,
        }

    def _scaler_state(self) -> dict[str, Any]:
        return {"scaler": self.scaler.state_dict(), "skipped": self.skipped, "skipped_last": self._skipped_last}

    @staticmethod
    def _every_rng_state(processes: Processes) -> dict[str, Any]:
        first, *others = processes.objects(rng_state())
        return {**first, "others": others}

    def _load_rng_state(self, state: Mapping[str, Any]) -> None:
        rank = 0 if self.processes is None else self.processes.rank
        states = [state, *state.get("others", ())]
        if rank < len(states):
            set_rng_state(states[rank])
        else:
            self._seed_layers()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken.

        Raises:
            RuntimeError: before :meth:`setup`.
            ValueError: the state of other methods.
        """
        schedule = self.schedule
        if list(state["methods"]) != self.labels:
            raise ValueError(f"the state is of {', '.join(state['methods'])}, this run has {', '.join(self.labels)}")
        self.model.load_state_dict(state.get("trained", state["model"]))
        if self.weight_average is not None:
            self.weight_average.load_state_dict(state.get("average"))
        if self.teacher is not None:
            self.teacher.load_state_dict(state["teacher"])
        for label, method in zip(self.labels, self.methods, strict=True):
            method.load_state_dict(state["methods"][label])
        self.optimizer.load_state_dict(state["optimizer"])
        for label, optimizer in self.own_optimizers.items():
            optimizer.load_state_dict(state["own_optimizers"][label])
        schedule.load_state_dict(state["schedule"])
        if self.scaler.is_enabled() and (scaled := state.get("scaler")) is not None:
            self.scaler.load_state_dict(scaled["scaler"])
            self.skipped, self._skipped_last = scaled["skipped"], scaled["skipped_last"]
        self.generator.set_state(state["generator"].cpu())
        self.index, self.asked_total = state["step"], state["asked_total"]
        self._load_rng_state(state["rng"])
        self._micro_batch, self._summed, self._unchecked = 0, {}, {}
