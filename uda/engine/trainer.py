"""The one trainer. It knows the ``Method`` protocol and no method."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch import Tensor, nn
from torch.optim import Optimizer

from uda.data.pairs import Pairs, RareClassSampling
from uda.data.transforms import TrainTransform
from uda.engine import checkpoint
from uda.engine.evaluate import Evaluation, evaluate
from uda.engine.grouping import plain_values, share_groups, unique_labels
from uda.engine.optimisation import lr_factor, segmenter_optimizer, set_lr
from uda.engine.settings import Settings
from uda.engine.tensorboard import RunLog
from uda.methods.base import Method
from uda.models.teacher import Teacher
from uda.step import Step
from uda.types import LabelledDataset, TaskSpec, UnlabelledDataset, View

CHECKPOINT = "checkpoint.pt"


class NonFiniteLoss(FloatingPointError):
    """A loss term or gradient became NaN or infinite; the message names it, the step and the batch's files."""


class Trainer:
    """Trains a segmenter with a list of methods.

    Args:
        model: images ``(N, 3, H, W)`` -> :class:`SegOutput`; a :class:`~uda.models.Segmenter` or an adapted module.
        methods: act in this order. ``[Supervised()]`` is source-only training.
        settings: everything else about the run; ``Settings(steps=...)`` at least.
        out: run folder for checkpoints, scalars and TensorBoard; ``None`` keeps nothing. A folder that holds a
            checkpoint of the same run is continued.
        evaluate_on: labelled data sets by name, scored at ``settings.eval_every`` and at the end. Their labels are
            read here only and never reach a method.
        progress: wraps the iterable of steps, for a progress bar.

    Raises:
        ValueError: no methods, or a method needs an auxiliary head that the model lacks (from its ``setup``).
    """

    def __init__(
        self,
        model: nn.Module,
        methods: Sequence[Method],
        settings: Settings,
        *,
        out: Path | str | None = None,
        evaluate_on: Mapping[str, LabelledDataset] | None = None,
        progress: Callable[[Iterable[int]], Iterable[int]] | None = None,
    ) -> None:
        if not methods:
            raise ValueError("methods is empty; [Supervised()] is source-only training")
        self.settings = settings
        self.out = Path(out) if out is not None else None
        self.evaluate_on = dict(evaluate_on or {})
        self.state = PartialState()
        if self.state.num_processes > 1:
            raise RuntimeError(
                f"this trainer runs one process, got {self.state.num_processes}; start it without a launcher"
            )
        self.device = torch.device(settings.device) if settings.device else self.state.device
        memory_format = torch.channels_last if settings.channels_last else torch.contiguous_format
        self.model = model.to(self.device).to(memory_format=memory_format)  # type: ignore[call-overload]
        self.methods = list(methods)
        self.labels = unique_labels(self.methods)
        self.groups = share_groups(self.methods)
        self.generator = torch.Generator().manual_seed(settings.seed)
        self.step_index = 0
        self.evaluations: dict[str, Evaluation] = {}
        self._progress = progress or (lambda steps: steps)
        self._parameters = [p for p in self.model.parameters() if p.requires_grad]
        self._decayed = [p for p in self._parameters if p.ndim > 1]
        self._unchecked: dict[str, Tensor] = {}

    def fit(self, source: LabelledDataset, target: UnlabelledDataset | None = None) -> dict[str, Evaluation]:
        """Train to ``settings.steps`` and score the last iterate.

        Args:
            source: labelled images.
            target: images of the target domain. A labelled data set is reduced to its unlabelled view at once; a run
                of methods that need no target never opens one of its images.

        Returns:
            The evaluations of the last iterate by name (also in ``evaluations``).

        Raises:
            NonFiniteLoss: a loss or gradient is not finite. The last good checkpoint stays.
            CheckpointError: ``out`` holds the checkpoint of a different run.
        """
        if isinstance(target, LabelledDataset):
            target = target.unlabelled()
        if not any(method.needs_target for method in self.methods):
            target = None
        elif target is None:
            raise ValueError(f"{', '.join(self.labels)} need target images; fit(source, target)")
        self._build(source, target)
        self._resume()
        with closing(RunLog(self.out, start=self.step_index)) as log:
            self._train(source, target, log)
        if not self.evaluations:  # the run was complete before: score it, its log already holds the numbers
            self._evaluate(RunLog(None))
        return self.evaluations

    def _train(self, source: LabelledDataset, target: UnlabelledDataset | None, log: RunLog) -> None:
        log.text("settings", self.settings.model_dump_json(indent=2))
        s = self.settings
        batches = iter(self._pairs(source, target).loader(self.step_index, s.steps, workers=s.workers))
        self.model.train()
        for index in self._progress(range(self.step_index, s.steps)):
            step = self._one_step(index, next(batches))
            self.step_index = index + 1
            self._after(step, log, source)

    def _pairs(self, source: LabelledDataset, target: UnlabelledDataset | None) -> Pairs:
        s = self.settings
        rare = RareClassSampling(temperature=s.rare_class_temperature) if s.rare_class_temperature else None
        return Pairs(
            source,
            target,
            TrainTransform(crop=s.crop, **s.augment.model_dump()),
            target_transform=TrainTransform(crop=s.crop, **(s.target_augment or s.augment).model_dump()),
            batch_size=s.batch_size,
            seed=s.seed,
            rare_class=rare,
        )

    def _build(self, source: LabelledDataset, target: UnlabelledDataset | None) -> None:
        # global seed before anything draws: own networks, dropout and the loader are functions of it
        torch.manual_seed(self.settings.seed)
        model: Any = self.model
        spec = TaskSpec(
            num_classes=model.num_classes,
            class_names=tuple(source.space.names),
            feature_channels=model.feature_channels,
            total_steps=self.settings.steps,
            has_aux=model.has_aux,
            thing_classes=tuple(source.space.thing_classes),
            crop_size=self.settings.crop,
            batch_size=self.settings.batch_size,
            model=self.model,
            source=source,
            target=target,
            device=self.device,
        )
        if source.space.num_classes != model.num_classes:
            raise ValueError(
                f"the model has {model.num_classes} classes, the source {source.name} has {source.space.num_classes}"
            )
        for method in self.methods:
            method.setup(spec)
            method.to(self.device)
        self.optimizer = segmenter_optimizer(self.model, self.settings)
        self.own_optimizers = [method.optimizer() for method in self.methods]
        wanted = any(method.needs_teacher for method in self.methods)
        self.teacher = Teacher(self.model, **self.settings.teacher.model_dump()) if wanted else None
        self.identity = self._identity()
        self.graph_views = frozenset().union(*(method.reads for method in self.methods))

    def _autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.precision == "bf16")

    def _one_step(self, index: int, views: Mapping[str, View]) -> Step:
        s, teacher = self.settings, self.teacher
        if teacher is not None and s.teacher.update == "before":
            teacher.update(self.model, index)
        step = Step(
            self.model,
            {name: self._place(view) for name, view in views.items()},
            index=index,
            total=s.steps,
            generator=self.generator,
            teacher=teacher,
            graph_views=self.graph_views,
        )
        factor = lr_factor(index, s)
        with self._autocast():
            for method in self.methods:
                method.prepare(step)
        if not any(method.teacher_in_losses for method in self.methods):
            step.forget_taught()
        self.optimizer.zero_grad(set_to_none=True)
        for group in self.groups:
            self._backward_group(step, group)
        self._regularise()
        self._require_finite(step, {"the segmenter's gradient norm": self._gradient_norm(step)})
        set_lr(self.optimizer, factor)
        self.optimizer.step()
        for label, method, optimizer in zip(self.labels, self.methods, self.own_optimizers, strict=True):
            if optimizer is not None:
                set_lr(optimizer, factor)
                self._own_update(step, label, method, optimizer)
        self._require_finite(step)
        if teacher is not None and s.teacher.update == "after":
            teacher.update(self.model, index)
        with torch.no_grad():
            for method in self.methods:
                method.after_step(step)
        step.log("lr", self.optimizer.param_groups[0]["lr"])
        return step

    def _place(self, view: View) -> View:
        view = view.to(self.device)
        if not self.settings.channels_last:
            return view
        return View(view.images.contiguous(memory_format=torch.channels_last), view.labels, view.weight, view.names)

    def _backward_group(self, step: Step, group: Sequence[int]) -> None:
        for at in group:
            method, label = self.methods[at], self.labels[at]
            with self._autocast(), step.reading(label, method.reads):
                total = self._sum(step, label, method.losses(step))
            leaves = step.leaves(method.reads)
            if total is not None and total.requires_grad and leaves:
                # only to the outputs: own networks never see this gradient, and it is not computed for them
                total.backward(inputs=leaves)  # type: ignore[no-untyped-call]
        step.backward(frozenset().union(*(self.methods[at].reads for at in group)), self._parameters)

    def _own_update(self, step: Step, label: str, method: Method, optimizer: Optimizer) -> None:
        with self._autocast():
            total = self._sum(step, label, method.own_losses(step))
        if total is None:
            return
        optimizer.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    def _sum(self, step: Step, label: str, terms: Mapping[str, Tensor]) -> Tensor | None:
        total: Tensor | None = None
        for name, term in terms.items():
            self._unchecked[f"{label}/{name}"] = term.detach()
            step.log(f"loss/{label}/{name}", term)
            total = term if total is None else total + term
        return total

    def _require_finite(self, step: Step, more: Mapping[str, Tensor] | None = None) -> None:
        """Stop at the first term since the last call that is not finite; a device is waited for once for all of them.

        Before the segmenter's update nothing of a bad step is in its weights; a bad own network is never saved.
        """
        values = {**self._unchecked, **(more or {})}
        self._unchecked = {}
        if not values or torch.stack([value.isfinite() for value in values.values()]).all():
            return
        name, value = next((name, value.item()) for name, value in values.items() if not value.isfinite())
        files = ", ".join(file for view in step.view_names for file in step.view(view).names) or "unknown files"
        raise NonFiniteLoss(f"step {step.index}: {name} is {value}; the batch: {files}")

    def _regularise(self) -> None:
        if self.settings.l1:
            for parameter in self._decayed:
                if parameter.grad is not None:
                    parameter.grad.add_(parameter.detach().sign(), alpha=self.settings.l1)

    def _gradient_norm(self, step: Step) -> Tensor:
        norm = nn.utils.get_total_norm([p.grad for p in self._parameters if p.grad is not None])
        step.log("gradient_norm", norm)
        if self.settings.clip is not None:
            nn.utils.clip_grads_with_norm_(self._parameters, self.settings.clip, norm)
        return norm

    def _after(self, step: Step, log: RunLog, source: LabelledDataset) -> None:
        s, done, last = self.settings, step.index + 1, step.index + 1 == self.settings.steps
        if done % s.log_every == 0 or last:
            log.scalars({tag: float(value) for tag, value in step.logs.items()}, step.index)
        if last or (s.image_every and done % s.image_every == 0):
            log.step_pictures(step, source.space.colours)
        if last or (s.eval_every and done % s.eval_every == 0):
            self._evaluate(log)
        if self.out is not None and (last or done % s.checkpoint_every == 0):
            checkpoint.save(self.state_dict(), self.out / CHECKPOINT)

    def _evaluate(self, log: RunLog) -> None:
        self.evaluations = {}
        for name, dataset in self.evaluate_on.items():
            result = evaluate(self.model, dataset, device=self.device, precision=self.settings.precision)
            self.evaluations[name] = result
            iou = zip(result.class_names, result.iou(), strict=True)
            scores = {f"iou_{name}/{cls}": float(value) for cls, value in iou if value == value}
            log.scalars(
                {f"miou/{name}": result.miou(), f"eval_loss/{name}": result.loss(), **scores}, self.step_index - 1
            )
        if self.step_index == self.settings.steps:
            metrics = {f"miou/{name}": result.miou() for name, result in self.evaluations.items()}
            log.hyper_parameters(self._hyper_parameters(), metrics)

    def _hyper_parameters(self) -> dict[str, Any]:
        values = self.settings.model_dump(exclude={"augment", "target_augment", "teacher"})
        for label, method in zip(self.labels, self.methods, strict=True):
            values |= {f"{label}.{key}": value for key, value in plain_values(method).items()}
        return values

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on: tensors, numbers and strings only."""
        return {
            "identity": self.identity,
            "step": self.step_index,
            "model": self.model.state_dict(),
            "teacher": self.teacher.state_dict() if self.teacher is not None else None,
            "methods": {label: method.state_dict() for label, method in zip(self.labels, self.methods, strict=True)},
            "optimizer": self.optimizer.state_dict(),
            "own_optimizers": [one.state_dict() if one is not None else None for one in self.own_optimizers],
            "generator": self.generator.get_state(),
            "rng": checkpoint.rng_state(),
        }

    def _identity(self) -> dict[str, str]:
        # the loader's position is the step alone, so workers and device may differ between the parts of a run
        settings = self.settings.model_dump_json(exclude={"workers", "device"})
        methods = json.dumps(
            {label: plain_values(method) for label, method in zip(self.labels, self.methods, strict=True)}
        )
        return {"settings": settings, "methods": methods, "model": type(self.model).__name__}

    def _resume(self) -> None:
        path = self.out / CHECKPOINT if self.out is not None else None
        if path is None or not path.is_file():
            return
        state = checkpoint.load(path)
        for key, mine in self.identity.items():
            if state["identity"][key] != mine:
                raise checkpoint.CheckpointError(
                    f"{path}: belongs to another run; its {key} are {state['identity'][key]}, this run's are {mine}"
                )
        self.model.load_state_dict(state["model"])
        if self.teacher is not None:
            self.teacher.load_state_dict(state["teacher"])
        for label, method in zip(self.labels, self.methods, strict=True):
            method.load_state_dict(state["methods"][label])
        self.optimizer.load_state_dict(state["optimizer"])
        for optimizer, saved in zip(self.own_optimizers, state["own_optimizers"], strict=True):
            if optimizer is not None:
                optimizer.load_state_dict(saved)
        self.generator.set_state(state["generator"].cpu())
        checkpoint.set_rng_state(state["rng"])
        self.step_index = state["step"]
