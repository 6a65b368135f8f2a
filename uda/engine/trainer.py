"""The loop around :class:`~uda.engine.Update`: pairs, logs, checkpoints, evaluation. It knows no method."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from uda.claims import Claim, HeldError, claimed
from uda.data.pairs import Pairs, RareClasses
from uda.data.transforms import CropWarning
from uda.engine import checkpoint
from uda.engine.evaluate import Evaluation, check_labelled, evaluate
from uda.engine.grouping import unique_labels
from uda.engine.identity import defaults_of, describe_differences, differences, plain, run_identity
from uda.engine.inference import PLAIN, Inference
from uda.engine.optimisation import segmenter_optimizer
from uda.engine.schedules import Schedule, build_schedule
from uda.engine.settings import Settings
from uda.engine.tensorboard import RunLog
from uda.engine.update import OptimizerLike, Update, treatment_of
from uda.engine.waiting import DataWaitWarning, Waiting
from uda.files import PART
from uda.methods.base import Method, check_learning
from uda.models.batch_norm import add_target_norms, domain_statistics
from uda.models.pretrained import CHECKPOINT, write_description
from uda.processes import Processes
from uda.progress import StepProgress, bars, losses_of
from uda.types import LabelledDataset, TaskSpec, UnlabelledDataset, View

T = TypeVar("T")


class Trainer:
    """Trains a segmenter with a list of methods.

    Args:
        model: images ``(N, 3, H, W)`` -> :class:`SegOutput`; a :class:`~uda.models.Segmenter` or an adapted module.
        methods: act in this order. ``[Supervised()]`` is source-only training.
        settings: everything else about the run; ``Settings(steps=...)`` at least.
        out: run folder for checkpoints, scalars and TensorBoard; ``None`` keeps nothing. A folder that holds a
            checkpoint of the same run is continued, and :func:`uda.models.load` gives its network.
        evaluate_on: labelled data sets by name, scored at ``settings.eval_every`` and at the end. Their labels are
            read here only and never reach a method. With batch norm ``per_domain`` the one called ``source`` is scored
            with the source's statistics, all others with the target's.
        evaluate_along: scored at ``settings.eval_every`` in place of ``evaluate_on``, which is then scored at the end
            alone: a few images of each are enough for a curve (``miou_along/<name>`` in the run's log).
        progress: wraps the iterable of steps, for a progress bar of one's own; ``True``: a line with step, rate, time
            left and losses, live on a terminal and in a notebook, else written every ten seconds.
        on_step: called after each step with the update and its logs (empty where none are written), once the step's
            checkpoint lies on disk.
        optimizer: in place of the settings'; see :class:`~uda.engine.Update`.
        schedule: likewise.
        inference: how the data sets of ``evaluate_on`` are predicted, for all or by name; by default in one plain pass.
        score: which network is scored, the ``"student"`` (with ``settings.average`` the average of its weights, once
            there is one) or its EMA ``"teacher"``.
        labelled: what the pictures of the labelled images are called in TensorBoard, where they are not the source's.

    Attributes:
        update: the :class:`~uda.engine.Update` that makes the steps.
        waited: share of the last call's training time that was spent on waiting for data, in [0, 1]
            (:mod:`uda.engine.waiting`); ``None`` before the second step. TensorBoard has it as ``time/waiting``.

    Raises:
        TypeError: the model is no segmenter.
        ValueError: no methods, methods that want different teachers, or none where the teacher is to be scored.
    """

    def __init__(
        self,
        model: nn.Module,
        methods: Sequence[Method],
        settings: Settings,
        *,
        out: Path | str | None = None,
        evaluate_on: Mapping[str, LabelledDataset] | None = None,
        evaluate_along: Mapping[str, LabelledDataset] | None = None,
        progress: Callable[[Iterable[int]], Iterable[int]] | bool | None = None,
        on_step: Callable[[Update, Mapping[str, Tensor]], None] | None = None,
        optimizer: OptimizerLike | None = None,
        schedule: Schedule | None = None,
        inference: Inference | Mapping[str, Inference] = PLAIN,
        score: Literal["student", "teacher"] = "student",
        labelled: str = "source",
    ) -> None:
        from accelerate import PartialState  # not before there is something to train

        self.settings = s = settings
        self.out = Path(out) if out is not None else None
        self.evaluate_on = dict(evaluate_on or {})
        self.evaluate_along = None if evaluate_along is None else dict(evaluate_along)
        self.state = PartialState(cpu=s.device == "cpu")
        self.processes = Processes.current()
        if self.processes is not None:
            check_share(s, self.processes)
        ((optimizer_name, arguments),) = s.optimizer.items()
        if treatment_of(methods, s.batch_norm) == "per_domain":
            add_target_norms(model)  # before the optimiser, which is to have them
        self.update = Update(
            model,
            methods,
            total_steps=s.steps,
            optimizer=optimizer
            or segmenter_optimizer(
                model,
                optimizer_name,
                arguments,
                lr=s.lr,
                head_multiplier=s.head_multiplier,
                weight_decay=s.weight_decay,
                decayed=s.decayed,
            ),
            schedule=schedule or build_schedule(*next(iter(s.schedule.items()))),
            warmup=s.warmup,
            clip=s.clip,
            precision=s.precision,
            channels_last=s.channels_last,
            activation_checkpointing=s.activation_checkpointing,
            compile=s.compile,
            batch_norm=s.batch_norm,
            accumulate=s.accumulate,
            teacher=s.teacher_spec,
            average=s.average,
            processes=self.processes,
            sync_batch_norm=s.sync_batch_norm,
            device=s.device if s.device and self.processes is None else self.state.device,
            seed=s.seed,
        )
        if score == "teacher" and self.update.teacher_spec is None:
            raise ValueError(f"score is 'teacher', but {', '.join(self.update.labels)} train without one")
        if score == "teacher" and s.average is not None:
            raise ValueError("score is 'teacher', but settings.average has the average of the student's weights scored")
        self.inference, self.score, self.labelled = inference, score, labelled
        self.evaluations: dict[str, Evaluation] = {}
        self.waited: float | None = None
        self._claim: Claim | None = None
        self.identity: dict[str, Any] = {}
        self.rank, self.world = (0, 1) if self.processes is None else (self.processes.rank, self.processes.world)
        self._shown = progress is True and self.rank == 0
        self._progress = progress if callable(progress) else (lambda steps: steps)
        self._on_step = on_step or (lambda update, logs: None)
        self._injected = {"optimizer": plain(optimizer), "schedule": plain(schedule)}

    @property
    def model(self) -> nn.Module:
        """The segmenter."""
        return self.update.model

    @property
    def scored(self) -> nn.Module:
        """The network that is scored, see ``score``.

        Raises:
            RuntimeError: the teacher before :meth:`fit`.
        """
        if self.score == "student":
            return self.update.final
        if self.update.teacher is None:
            raise RuntimeError("there is no teacher before fit")
        return self.update.teacher.model

    @property
    def methods(self) -> list[Method]:
        """The methods, in the order in which they act."""
        return self.update.methods

    @property
    def device(self) -> torch.device:
        """Where the run trains."""
        return self.update.device

    @property
    def step_index(self) -> int:
        """Optimiser steps done."""
        return self.update.index

    def fit(
        self, source: LabelledDataset, target: UnlabelledDataset | None = None, *, extend: bool = False
    ) -> dict[str, Evaluation]:
        """Train to ``settings.steps`` and score the last iterate.

        Called again with the same data it goes on from where it was (after an interruption), or scores a finished run
        once more. Warns where no method learns from images, and where crops are much larger than the images of the
        first batch (:meth:`uda.data.transforms.TrainTransform.misfit`), and once where it waits for data for more than
        a fifth of its time.

        Args:
            source: labelled images.
            target: images of the target domain. A labelled data set is reduced to its unlabelled view at once; a run
                of methods that need no target never opens one of its images.
            extend: let ``out`` hold the checkpoint of the same run with fewer steps, and go on to this one's. Only
                where neither schedule nor methods depend on the length of the run: the result is then that of a run
                that was as long from the start.

        Returns:
            The evaluations of the last iterate by name (also in ``evaluations``).

        Raises:
            ValueError: the source was opened without labels; methods need target images and there are none; model and
                source differ in their classes; or this trainer has trained on other data before.
            NonFiniteLoss: a loss or gradient is not finite. The last good checkpoint stays.
            CheckpointError: ``out`` holds the checkpoint of a different run, or another trainer works there.
            LostError: another process has taken the run over, as this one was stopped for minutes.
        """
        try:
            check_learning(self.methods)
        except ValueError as error:
            warnings.warn(str(error), stacklevel=2)
        with self._alone():
            return self._fit(source, target, extend)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other trainers out of the run's folder, and remove what killed ones left half-written."""
        if self.out is None:
            yield
            return
        folder = self.out
        with ExitStack() as held:
            self._first(lambda: self._take(folder, held))
            try:
                yield
            finally:
                self._claim = None

    def _take(self, folder: Path, held: ExitStack) -> None:
        """Claim the run's folder, and clear what a killed process left half written."""
        try:
            self._claim = held.enter_context(claimed(folder, note=lambda line: warnings.warn(line, stacklevel=8)))
        except HeldError as error:
            raise checkpoint.CheckpointError(f"{folder}: another trainer is working there ({error.holder})") from None
        # of this folder alone: one below it may be another run's, which is writing
        for part in folder.glob(f".*{PART}"):
            part.unlink(missing_ok=True)

    def save(self) -> None:
        """Write the checkpoint now; between two steps (in ``on_step``), where training may be stopped after it.

        Where several processes train, all of them call it, and the first writes.

        Raises:
            NonFiniteLoss: the weights are not finite. The last good checkpoint stays.
            LostError: another process has taken the run over, see :mod:`uda.claims`.
            ValueError: the trainer keeps nothing, as it has no ``out``.
        """
        if self.out is None:
            raise ValueError("a trainer without out has no folder to save in")
        self.update.check_finite()  # a checkpoint that cannot be gone on from must not replace one that can
        state, path = self.state_dict(), self.out / CHECKPOINT
        self._first(lambda: self._write(state, path))

    def _write(self, state: dict[str, Any], path: Path) -> None:
        if self._claim is not None:
            self._claim.check()
        checkpoint.save(state, path)

    def _first(self, act: Callable[[], T]) -> T:
        """What the first process gives, which alone touches the run's folder."""
        return act() if self.processes is None else self.processes.first(act)

    @property
    def writes(self) -> bool:
        """Whether this process writes the run's files: the first, where several train."""
        return self.out is not None and self.rank == 0

    def _fit(self, source: LabelledDataset, target: UnlabelledDataset | None, extend: bool) -> dict[str, Evaluation]:
        check_labelled(source)
        if isinstance(target, LabelledDataset):
            target = target.unlabelled()
        if not any(method.needs_target for method in self.methods):
            target = None
        elif target is None:
            raise ValueError(f"{', '.join(self.update.labels)} need target images; fit(source, target)")
        self._begin(source, target, extend)
        folder = self.out if self.writes else None
        with closing(RunLog(folder, start=self.step_index)) as log, bars(quiet=not self._shown) as shown:
            trained = self._train(source, target, log, StepProgress(shown) if self._shown else None)
        if not trained:  # the run was complete before: its log holds the numbers already
            self._evaluate(RunLog(None))
        return self.evaluations

    def _begin(self, source: LabelledDataset, target: UnlabelledDataset | None, extend: bool) -> None:
        """Set up on the first call; see that later ones are about the same data."""
        before = self.identity
        if not before:
            self.update.setup(TaskSpec.of(self.model, source.space, source=source, target=target, draws_source=True))
            self.model.space = source.space
        identity = run_identity(self.model, self.methods, self.settings, source, target, self.update.teacher_spec)
        self.identity = {**identity, "injected": self._injected}
        if self.processes is not None and not self.settings.sync_batch_norm:
            # how many images share their statistics is then a matter of how many processes there are
            self.identity["processes"] = self.world
        if not before:
            self._resume(extend)
            if self.out is not None and self.writes:
                write_description(self.model, self.out)
        elif changes := differences(before, self.identity, {}):
            self.identity = before
            raise ValueError(
                "this trainer has trained on other data; make a new one with model=trainer.model to go on from its "
                f"weights: {describe_differences(changes)}"
            )

    def _train(
        self, source: LabelledDataset, target: UnlabelledDataset | None, log: RunLog, shown: StepProgress | None
    ) -> bool:
        """Do the steps that are left; whether there were any."""
        s, start = self.settings, self.step_index
        if start >= s.steps:
            return False
        log.text("settings", s.model_dump_json(indent=2))
        waiting = Waiting()
        loader = self.pairs(source, target).loader(
            start * s.accumulate, s.steps * s.accumulate, workers=s.workers, pin=self.device.type == "cuda"
        )
        batches = self._looked_at(waiting.batches(loader))
        for index in self._progress(range(start, s.steps)):
            done, last = index + 1, index + 1 == s.steps
            written = done % s.log_every == 0 or last
            logs: dict[str, Tensor] = {}
            for _ in range(s.accumulate):
                logs = self.update(next(batches), log=written)
            logs = logs if written else {}
            self.waited = waiting.share
            if written:
                self._tell_waiting(waiting, log)
            if self._claim is not None and self._claim.lost:
                self._claim.check()  # curves are whoever's who took over
            self._after(logs, log, source, index)
            self._on_step(self.update, logs)
            if shown is not None:
                shown.step(self.out.name if self.out else "training", done, s.steps, losses_of(logs))
        return True

    def _tell_waiting(self, waiting: Waiting, log: RunLog) -> None:
        if self.waited is not None:
            log.timing("time/waiting", self.waited, self.step_index - 1)
        advice = waiting.advice(self.settings.workers) if self.rank == 0 else None
        if advice is not None:
            warnings.warn(advice, DataWaitWarning, stacklevel=5)

    def _looked_at(self, batches: Iterable[dict[str, View]]) -> Iterator[dict[str, View]]:
        """The batches; of the first, the sizes of the images are compared with the crops."""
        for number, batch in enumerate(batches):
            if number == 0:
                sizes = {name: [window.size for window in view.windows] for name, view in batch.items()}
                for line in self.settings.misfits(sizes):
                    warnings.warn(line, CropWarning, stacklevel=5)
            yield batch

    def pairs(self, source: LabelledDataset, target: UnlabelledDataset | None = None) -> Pairs:
        """The batches that :meth:`fit` trains on, by the index of the micro-batch.

        Raises:
            ValueError: two methods say how source images are drawn.
        """
        s = self.settings
        return Pairs(
            source,
            target,
            *s.transforms,
            batch_size=s.batch_size // self.world,
            accumulate=s.accumulate,
            seed=s.seed,
            rank=self.rank,
            world=self.world,
            rare_class=source_sampling(self.methods),
        )

    def _after(self, logs: Mapping[str, Tensor], log: RunLog, source: LabelledDataset, index: int) -> None:
        s, done, last = self.settings, index + 1, index + 1 == self.settings.steps
        if logs:
            log.scalars({tag: float(value) for tag, value in logs.items()}, index)
        if (last or (s.image_every and done % s.image_every == 0)) and self.update.step is not None:
            log.step_pictures(self.update.step, source.space.colours, {"source": self.labelled})
        due, saves = bool(s.eval_every) and done % s.eval_every == 0, last or done % s.checkpoint_every == 0
        if due or saves:
            self.update.assert_together()
        try:
            if self.evaluate_along is not None and (last or due):
                scores = {name: self._scores(name, dataset) for name, dataset in self.evaluate_along.items()}
                log.scalars({f"miou_along/{name}": result.miou() for name, result in scores.items()}, index)
            if last or (due and self.evaluate_along is None):
                self._evaluate(log)
        finally:
            # after the curves, which a resumed run does not write again, but whatever an evaluation runs into
            if self.out is not None and saves:
                self.save()

    def _evaluate(self, log: RunLog) -> None:
        self.evaluations = {}
        for name, dataset in self.evaluate_on.items():
            result = self.evaluations[name] = self._scores(name, dataset)
            iou = zip(result.class_names, result.iou(), strict=True)
            scores = {f"iou_{name}/{cls}": float(value) for cls, value in iou if value == value}
            log.scalars(
                {f"miou/{name}": result.miou(), f"eval_loss/{name}": result.loss(), **scores}, self.step_index - 1
            )
        if self.step_index == self.settings.steps:
            metrics = {f"miou/{name}": result.miou() for name, result in self.evaluations.items()}
            log.hyper_parameters(self._hyper_parameters(), metrics)

    def _scores(self, name: str, dataset: LabelledDataset) -> Evaluation:
        return evaluate(
            self.scored,
            dataset,
            inference=self.inference if isinstance(self.inference, Inference) else self.inference.get(name, PLAIN),
            device=self.device,
            precision=self.settings.precision,
            domain=domain_statistics(name),
            processes=self.processes,
        )

    def _hyper_parameters(self) -> dict[str, Any]:
        values = {key: value for key, value in self.identity["settings"].items() if not isinstance(value, dict)}
        for label, arguments in self.identity["methods"].items():
            values |= {f"{label}.{key}": value for key, value in arguments.items()}
        return values

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on, and which run it is: tensors, numbers and strings only."""
        return {"identity": self.identity, **self.update.state_dict()}

    def _resume(self, extend: bool) -> None:
        if self.out is None:
            return
        path = self.out / CHECKPOINT
        state = self._first(lambda: checkpoint.load(path) if path.is_file() else None)
        if state is None:
            return
        changes = differences(state.get("identity", {}), self.identity, defaults_of(self.methods))
        if [text.split(":")[0] for text in changes] == ["settings.steps"]:
            self._check_extension(path, state, changes[0], extend)
        elif changes:
            raise checkpoint.CheckpointError(
                f"{path}: belongs to another run; continue it with its own values, or choose another folder\n"
                f"{describe_differences(changes)}"
            )
        self.update.load_state_dict(state)

    def _check_extension(self, path: Path, state: Mapping[str, Any], difference: str, extend: bool) -> None:
        """Training longer than the checkpoint's run was meant to be: on request, and where it makes no difference."""
        longer = self.settings.steps >= state["step"]
        depends = "the schedule" if self.update.schedule.needs_total else "a method" if state["asked_total"] else ""
        if extend and longer and not depends:
            return
        hint = "pass extend=True to train on" if longer and not depends else "it cannot be changed afterwards"
        reason = f", and {depends} depends on it" if depends else ""
        raise checkpoint.CheckpointError(f"{path}: the run has another length{reason}; {hint}\n{difference}")


def check_share(settings: Settings, processes: Processes) -> None:
    """See that a run can be shared by some processes.

    Raises:
        ValueError: a batch that does not split evenly, or one device for all.
    """
    if settings.batch_size % processes.world:
        raise ValueError(
            f"batch_size is {settings.batch_size}, must be a multiple of the {processes.world} processes that train "
            "together: it is the batch of all of them"
        )
    if settings.device is not None and ":" in settings.device:
        raise ValueError(
            f"device is {settings.device!r}, must be 'cpu', 'cuda' or left out for {processes.world} processes, which "
            "have a device each"
        )


def source_sampling(methods: Sequence[Method]) -> RareClasses | None:
    """How the methods of a run want source images drawn; ``None``: by epochs.

    Raises:
        ValueError: two of them have a say.
    """
    wanted = {
        label: sampling
        for label, method in zip(unique_labels(methods), methods, strict=True)
        if (sampling := method.source_sampling())
    }
    if len(wanted) > 1:
        raise ValueError(f"{' and '.join(wanted)} both say how source images are drawn; a run has one way")
    return next(iter(wanted.values()), None)
