"""What every method must do; a method's test inherits it.

class TestPiPa(MethodContract):
    make = lambda self: PiPa()
    invalid = ({"weight": -1.0},)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from uda.engine import Settings, Trainer, Update, evaluate
from uda.engine.checkpoint import load
from uda.methods import Supervised, method, parameters
from uda.methods.base import Method, TestTimeMethod
from uda.step import Step
from uda.testing.processes import together
from uda.testing.tiny import TinyDataset, TinySegmenter, tiny_target
from uda.types import IGNORE, TaskSpec, TeacherSpec, View, Window


def settings(**changes: Any) -> Settings:
    """A run of three steps on whole 32x64 images."""
    plain: dict[str, Any] = {
        "steps": 3, "batch_size": 2, "crop": (32, 64), "seed": 3, "device": "cpu",
        "log_every": 1, "checkpoint_every": 1,
        "optimizer": "sgd", "lr": 1e-2, "augment": {"scale": (0.5, 1.0), "flip": 0.5},
    }  # fmt: skip
    return Settings(**{**plain, **changes})


def train(
    methods: Sequence[Method],
    *,
    num_classes: int = 5,
    aux: bool = False,
    dropout: float = 0.1,
    out: Path | None = None,
    source: TinyDataset | None = None,
    target: Any = None,
    trainer: type[Trainer] = Trainer,
    progress: Callable[[Iterable[int]], Iterable[int]] | None = None,
    **changes: Any,
) -> Trainer:
    """Run the real trainer on the tiny network and data."""
    torch.manual_seed(0)
    run = trainer(TinySegmenter(num_classes, aux, dropout), methods, settings(**changes), out=out, progress=progress)
    run.fit(source or TinyDataset(num_classes=num_classes), tiny_target(num_classes) if target is None else target)
    return run


class Recorder(Trainer):
    """Keeps each step and its logs."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, on_step=self.record, **kwargs)
        self.steps: list[Step] = []
        self.logs: list[dict[str, float]] = []

    def record(self, update: Update, logs: Mapping[str, Tensor]) -> None:
        """Keep a step."""
        assert update.step is not None
        self.steps.append(update.step)
        self.logs.append({tag: float(value) for tag, value in logs.items()})


class Killed(Exception):
    """Ends a run between two steps."""


def killed_at(step: int) -> Callable[[Iterable[int]], Iterator[int]]:
    """A progress bar that ends the run before a step."""

    def progress(indices: Iterable[int]) -> Iterator[int]:
        for index in indices:
            if index == step:
                raise Killed
            yield index

    return progress


def one_step(
    run: Trainer, views: Mapping[str, View] | None = None, *, index: int | None = None, total: int | None = None
) -> Step:
    """One more step of a finished run, for calling a method's hooks by hand.

    Args:
        run: its networks and random numbers are used.
        views: two whole images a domain by default.
        index: of the step; the run's last by default.
        total: length that the step tells; the run's by default.
    """
    update = run.update
    if views is None:
        source, target = TinyDataset(num_classes=update.spec.num_classes), tiny_target(update.spec.num_classes)
        samples = [source[0], source[1]]
        labels = torch.stack([sample.label for sample in samples if sample.label is not None])
        height, width = samples[0].image.shape[-2:]
        windows = tuple(Window(number, (height, width), 0, 0, height, width) for number in range(2))
        images = torch.stack([sample.image for sample in samples]) / 255
        target_images = torch.stack([target[number].image for number in range(2)]) / 255
        views = {
            "source": View(images, labels, names=("s0", "s1"), windows=windows),
            "target": View(target_images, names=("t0", "t1"), windows=windows),
        }
    total = run.settings.steps if total is None else total
    index = total - 1 if index is None else index
    graph_views = frozenset().union(*(run_method.reads for run_method in update.methods))
    return Step(
        update.model, views, index=index, total=total, generator=update.generator,
        teacher=update.teach if update.teacher is not None else None,
        graph_views=graph_views,
    )  # fmt: skip


class GradientSpy(Update):
    """Sees that every way back through a graph leaves gradients where it should, and nowhere else."""

    def backpropagate(
        self,
        outputs: Sequence[Tensor],
        gradients: Sequence[Tensor | None],
        inputs: Sequence[Tensor],
        *,
        retain_graph: bool = False,
    ) -> None:
        """The seam, watched."""
        every = [p for module in (self.model, *self.methods) for p in module.parameters()]
        before = [None if p.grad is None else p.grad.clone() for p in every]
        super().backpropagate(outputs, gradients, inputs, retain_graph=retain_graph)
        asked = set(map(id, inputs))
        segmenter = set(map(id, self.parameters()))
        for parameter, grad in zip(every, before, strict=True):
            if id(parameter) not in asked:
                assert (parameter.grad is None) == (grad is None), "a gradient arrived where it does not belong"
                assert grad is None or (parameter.grad is not None and torch.equal(parameter.grad, grad))
        assert asked <= segmenter or not asked & segmenter, "one way back for the segmenter and an own network"


def trained_state(methods: Sequence[Method], changes: Mapping[str, Any]) -> tuple[dict[str, Tensor], bool]:
    """All tensors that a run leaves, by name, and whether it moved the network; called on every process."""
    run = train(methods, **changes)
    state = run.update.state_dict()
    tensors: dict[str, Tensor] = {}
    for part in ("model", "teacher", "methods"):
        tensors |= _tensors(state[part], part)
    torch.manual_seed(0)
    before = TinySegmenter(**{key: changes[key] for key in ("num_classes", "aux", "dropout") if key in changes})
    moved = any(not torch.equal(value, state["model"][name]) for name, value in before.named_parameters())
    return {name: value for name, value in tensors.items() if value.is_floating_point()}, moved


def _tensors(state: Any, name: str) -> dict[str, Tensor]:
    if isinstance(state, Tensor):
        return {name: state}
    children = state.items() if isinstance(state, Mapping) else enumerate(state) if isinstance(state, list) else ()
    return {key: value for child, part in children for key, value in _tensors(part, f"{name}.{child}").items()}


def with_supervised(tested: Method) -> list[Method]:
    """The method beside the supervised loss, or alone when that is what it is."""
    return [tested] if isinstance(tested, Supervised) else [Supervised(), tested]


def assert_same(left: Any, right: Any, where: str = "") -> None:
    """Nested states are equal, tensors bit by bit."""
    if isinstance(left, Tensor):
        assert torch.equal(left, right), where
    elif isinstance(left, Mapping):
        assert left.keys() == right.keys(), where
        for key in left:
            assert_same(left[key], right[key], f"{where}/{key}")
    elif isinstance(left, (list, tuple)):
        assert len(left) == len(right), where
        for index, (first, second) in enumerate(zip(left, right, strict=True)):
            assert_same(first, second, f"{where}/{index}")
    else:
        assert left == right, f"{where}: {left!r} {right!r}"


class MethodContract:
    """Inherit, and say how the method is made."""

    make: ClassVar[Callable[[Any], Method]]
    """``make = lambda self: Method(...)``; ``self`` is the test."""
    aux: bool = False
    """Whether the network must have an auxiliary classifier."""
    trains_segmenter: bool = True
    """Whether the method's ``losses`` has terms (a restyling method has none)."""
    invalid: Sequence[Mapping[str, Any]] = ()
    """Constructor arguments that must be refused, one a mapping."""
    settings: Mapping[str, Any] = {}
    """Changes of the run's settings that the method needs."""
    partners: ClassVar[Sequence[str]] = ("MeanStd", "AdvEnt", "ClassMix", "FeatureDistance")
    """Methods of other families that this one must run beside."""

    def train(self, methods: Sequence[Method], **changes: Any) -> Any:
        """A run with what this method needs."""
        return train(methods, **{"aux": self.aux, **self.settings, **changes})

    def test_smoke_step_has_finite_scalar_losses(self) -> None:
        run = self.train(with_supervised(self.make()), trainer=Recorder)
        label = run.update.labels[-1]
        for logs in run.logs:
            assert all(value == value and abs(value) < 1e6 for value in logs.values()), logs
            tags = [tag for tag in logs if tag.startswith(f"loss/{label}/")]
            assert bool(tags) == (self.trains_segmenter or label in run.update.own_optimizers)

    def test_gradients_reach_their_owners_only(self) -> None:
        """``losses`` trains the segmenter, ``own_losses`` the own networks, and neither touches the other's."""
        tested = self.make()
        run = self.train([tested], steps=1)
        torch.manual_seed(0)
        update = GradientSpy(TinySegmenter(5, self.aux), [self.make()], total_steps=3, seed=3)
        source, target = TinyDataset(), tiny_target().unlabelled()
        update.setup(TaskSpec.of(update.model, source.space, source=source, target=target, draws_source=True))
        (watched,) = update.methods
        weights = {name: p.detach().clone() for name, p in update.model.named_parameters()}
        own = {name: value.clone() for name, value in watched.state_dict().items()}
        for index in range(3):
            update(run.pairs(source, target)[index])
            for parameter in (p for o in update.own_optimizers.values() for g in o.param_groups for p in g["params"]):
                assert parameter.grad is not None, "an own network's parameter gets no gradient"
                assert parameter.grad.abs().sum() > 0, "an own network's parameter gets no gradient"
        moved = any(not torch.equal(p, weights[name]) for name, p in update.model.named_parameters())
        assert moved == self.trains_segmenter
        if update.own_optimizers:
            assert any(not torch.equal(value, own[name]) for name, value in watched.state_dict().items())

    def terms(self, run: Trainer, tested: Method, step: Step | None = None) -> dict[str, Tensor]:
        """The method's ``losses`` on one more step after a run."""
        step = step or one_step(run)
        label = type(tested).__name__
        with step.running(label, "prepare", (), tested.looks):
            tested.prepare(step)
        with step.running(label, "losses", tested.reads, tested.looks):
            return tested.losses(step)

    def test_resumes_to_the_same_numbers(self, tmp_path: Path) -> None:
        steps = 4
        whole = self.train(with_supervised(self.make()), out=tmp_path / "whole", steps=steps)
        with pytest.raises(Killed):
            self.train(with_supervised(self.make()), out=tmp_path / "cut", steps=steps, progress=killed_at(2))
        assert load(tmp_path / "cut" / "checkpoint.pt")["step"] == 2
        # another global seed and another first model: everything must come from the checkpoint
        torch.manual_seed(99)
        cut = Trainer(
            TinySegmenter(5, self.aux),
            with_supervised(self.make()),
            settings(**{**self.settings, "steps": steps}),
            out=tmp_path / "cut",
        )
        cut.fit(TinyDataset(), tiny_target())
        assert_same(whole.state_dict(), cut.state_dict())
        assert (tmp_path / "whole" / "scalars.jsonl").read_text() == (tmp_path / "cut" / "scalars.jsonl").read_text()

    def test_wrong_arguments_name_value_and_range(self) -> None:
        kind = type(self.make())
        for arguments in self.invalid:
            (name, value) = next(iter(arguments.items()))
            with pytest.raises(ValueError, match=name) as caught:
                kind(**arguments)
            values = value if isinstance(value, (list, tuple)) else [value]
            assert any(str(refused) in str(caught.value) for refused in values), caught.value

    def test_every_number_of_the_constructor_is_checked(self) -> None:
        """NaN is in no range; a method that accepts it checks nothing."""
        kind = type(self.make())
        for name, parameter in parameters(kind).items():
            if isinstance(parameter.default, (int, float)) and not isinstance(parameter.default, bool):
                with pytest.raises(ValueError, match=name):
                    kind(**{name: float("nan")})

    def test_is_found_by_name_and_an_unknown_argument_is_refused(self) -> None:
        kind = type(self.make())
        place = f"{kind.__module__}:{kind.__qualname__}"
        if all(parameter.default is not parameter.empty for parameter in parameters(kind).values()):
            assert isinstance(method(place), kind)
        with pytest.raises(ValueError, match="no argument 'no_such_thing'"):
            method(place, no_such_thing=1)

    def test_remembers_its_arguments(self) -> None:
        tested = self.make()
        assert set(tested.arguments) == set(parameters(type(tested)))

    @pytest.mark.parametrize("num_classes", [2, 19])
    def test_any_number_of_classes_and_a_batch_of_one(self, num_classes: int) -> None:
        run = self.train(with_supervised(self.make()), num_classes=num_classes, batch_size=1, steps=2)
        assert all(value.isfinite().all() for value in run.model.state_dict().values())

    def test_nothing_labelled_is_no_nan(self) -> None:
        """Every source pixel ignored, and predictions that no pseudo-label can come of."""
        source = TinyDataset(ignored=1.0)
        assert (source.label(0) == IGNORE).all()
        run = self.train(with_supervised(self.make()), source=source, trainer=Recorder)
        assert all(value == value for logs in run.logs for value in logs.values())
        assert all(value.isfinite().all() for value in run.model.state_dict().values())

    def test_half_precision_and_channels_last(self) -> None:
        run = self.train(with_supervised(self.make()), precision="bf16", channels_last=True, steps=2, trainer=Recorder)
        assert all(value == value for logs in run.logs for value in logs.values())
        assert all(value.dtype != torch.bfloat16 for value in run.state_dict()["model"].values())
        assert all(value.dtype != torch.bfloat16 for value in run.methods[-1].state_dict().values())

    def test_float16_and_activation_checkpointing(self) -> None:
        """Finite in float16; what is computed again on the way back changes no bit of the run."""
        states = []
        for what in ("none", "all"):
            changes = {"precision": "fp16", "activation_checkpointing": what, "steps": 3}
            run = self.train(with_supervised(self.make()), trainer=Recorder, **changes)
            assert all(value == value for logs in run.logs for value in logs.values())
            assert run.update.moves, "every step overflows"
            states.append(run.update.state_dict())
            assert all(value.dtype != torch.float16 for value in _tensors(states[-1], "").values())
        assert_same(*states)

    @pytest.mark.parametrize("batch_norm", ["frozen", "source", "per_domain"])
    def test_every_treatment_of_batch_norm(self, batch_norm: str) -> None:
        run = self.train(with_supervised(self.make()), batch_norm=batch_norm, steps=2, trainer=Recorder)
        assert all(value == value for logs in run.logs for value in logs.values())
        assert all(value.isfinite().all() for value in run.model.state_dict().values())

    def test_random_numbers_come_from_the_step(self) -> None:
        """The global generator may serve layers and loaders, never a method: ``prepare`` leaves it as it was."""
        tested = self.make()
        step = one_step(self.train([tested], steps=1))
        before = torch.get_rng_state()
        tested.prepare(step)
        assert torch.equal(before, torch.get_rng_state())

    def test_logs_cost_nothing_where_nobody_reads_them(self) -> None:
        """The same weights with and without logs, and no log where none is wanted."""
        states = []
        for log_every in (1, 1000):
            run = self.train(with_supervised(self.make()), trainer=Recorder, steps=2, log_every=log_every)
            states.append(run.state_dict()["model"])
        assert run.logs[0] == {}
        assert_same(*states)

    def test_micro_batches(self) -> None:
        """Two micro-batches a step: finite, one update a step, and the state may be taken after it."""
        run = self.train(with_supervised(self.make()), accumulate=2, steps=2, trainer=Recorder)
        assert run.update.index == 2
        assert all(value == value for logs in run.logs for value in logs.values())
        assert run.update.state_dict()["step"] == 2

    def test_two_processes_train_as_one(self) -> None:
        """With half of the batch each: the same network, teacher and state to 1e-6, and bit by bit on both."""
        changes = {"aux": self.aux, **self.settings, "batch_size": 4, "steps": 2, "dropout": 0.0}
        alone, _ = trained_state(with_supervised(self.make()), changes)
        (first, moved), (second, _) = together(trained_state, with_supervised(self.make()), changes)
        assert_same(first, second)
        assert first.keys() == alone.keys()
        assert moved, "no weight was trained, so that nothing was compared"
        for name, expected in alone.items():
            difference = float((first[name] - expected).abs().max()) if expected.numel() else 0.0
            assert torch.allclose(first[name], expected, rtol=1e-6, atol=1e-6), f"{name} differs by {difference}"

    def test_runs_beside_methods_of_other_families(self) -> None:
        """Before them and after them, with one teacher for all."""
        partners = [name for name in self.partners if name != type(self.make()).__name__]
        for reverse in (False, True):
            beside = [method(name, **({"width": 4} if name == "AdvEnt" else {})) for name in partners]
            listed = [*beside, self.make()]
            run = self.train(
                [Supervised(), *(reversed(listed) if reverse else listed)],
                teacher=vars(TeacherSpec()), steps=2, trainer=Recorder,
            )  # fmt: skip
            assert all(value == value for logs in run.logs for value in logs.values())


class TestTimeContract:
    """The same for test-time methods."""

    __test__ = False

    make: ClassVar[Callable[[Any], TestTimeMethod]]
    """``make = lambda self: Method(...)``; ``self`` is the test."""
    invalid: Sequence[Mapping[str, Any]] = ()
    """Constructor arguments that must be refused, one a mapping."""

    def attached(self) -> tuple[TestTimeMethod, TinySegmenter]:
        """The method on a network with statistics of the source, and that network."""
        torch.manual_seed(1)
        model = TinySegmenter().train()
        source, target = TinyDataset(), tiny_target().unlabelled()
        with torch.no_grad():
            for _ in range(10):
                model(torch.stack([source[index].image for index in range(4)]) / 255)
        tested, names = self.make(), tuple(source.space.names)
        tested.attach(model, TaskSpec(5, names, model.feature_channels, source=source, target=target))
        return tested, model

    def images(self, count: int = 2) -> Tensor:
        """Images of the target."""
        return torch.stack([tiny_target()[index].image for index in range(count)]) / 255

    @pytest.mark.parametrize("count", [1, 3])
    def test_predicts_at_image_size_and_leaves_the_images_alone(self, count: int) -> None:
        tested, _ = self.attached()
        images = self.images(count)
        before = images.clone()
        output = tested(images)
        assert output.logits.shape == (count, 5, *images.shape[-2:])
        assert output.logits.isfinite().all()
        assert not output.logits.requires_grad
        assert torch.equal(images, before)

    def test_reset_repeats_the_same_numbers(self) -> None:
        tested, _ = self.attached()
        first = [tested(self.images()).logits for _ in range(2)]
        tested.reset()
        again = [tested(self.images()).logits for _ in range(2)]
        assert_same(first, again)

    def test_says_whether_it_adapts_on_what_it_scores(self) -> None:
        """An image's prediction depends on other images, before it or beside it, where the method says so, only."""
        tested, _ = self.attached()
        tested(self.images())
        beside_others = tested(self.images()).logits[1]
        tested.reset()
        alone = tested(self.images()[1:]).logits[0]
        same = torch.allclose(alone, beside_others, rtol=1e-5, atol=1e-6)
        assert same != type(tested).adapts_on_scored

    def test_detach_brings_the_model_back(self) -> None:
        torch.manual_seed(1)
        tested, model = self.attached()
        tested(self.images())
        tested.detach_model()
        adapted = {name: value.clone() for name, value in model.state_dict().items()}
        unused, untouched = self.attached()
        unused.detach_model()
        assert_same(adapted, dict(untouched.state_dict()))
        assert model.training
        assert all(p.requires_grad for p in model.parameters())
        with pytest.raises(RuntimeError, match="call attach"):
            tested(self.images())

    def test_evaluates_like_a_model(self) -> None:
        tested, _ = self.attached()
        scores = evaluate(tested, tiny_target())
        assert scores.confusions.shape == (6, 5, 5)

    def test_wrong_arguments_name_value_and_range(self) -> None:
        kind = type(self.make())
        for arguments in self.invalid:
            (name, value) = next(iter(arguments.items()))
            with pytest.raises(ValueError, match=f"{name} is") as caught:
                kind(**arguments)
            assert str(value) in str(caught.value), caught.value
        for name, parameter in parameters(kind).items():
            if isinstance(parameter.default, (int, float)) and not isinstance(parameter.default, bool):
                with pytest.raises(ValueError, match=name):
                    kind(**{name: float("nan")})
