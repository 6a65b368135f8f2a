"""What every method must do; each method's test inherits it.

class TestMinEnt(MethodContract):
    make = lambda self: MinEnt()
    invalid = ({"weight": -1},)
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.methods.tiny import TinyDataset, TinySegmenter, tiny_target
from uda.engine import Settings, Trainer, evaluate
from uda.engine.checkpoint import load
from uda.methods import Supervised, method, parameters
from uda.methods.base import Method, TestTimeMethod
from uda.step import Step
from uda.types import IGNORE, TaskSpec, View


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
    out: Path | None = None,
    source: TinyDataset | None = None,
    target: Any = None,
    trainer: type[Trainer] = Trainer,
    **changes: Any,
) -> Trainer:
    """Run the real trainer on the tiny network and data."""
    torch.manual_seed(0)
    run = trainer(TinySegmenter(num_classes, aux), methods, settings(**changes), out=out)
    run.fit(source or TinyDataset(num_classes=num_classes), tiny_target(num_classes) if target is None else target)
    return run


class Recorder(Trainer):
    """Keeps each step, and the gradients that the segmenter's update saw."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.steps: list[Step] = []
        self.logs: list[dict[str, float]] = []

    def _one_step(self, index: int, views: Mapping[str, View]) -> Step:
        step = super()._one_step(index, views)
        self.steps.append(step)
        self.logs.append({tag: float(value) for tag, value in step.logs.items()})
        return step


class Killed(Exception):
    """Ends a run between two steps."""


def killer(at: int) -> type[Trainer]:
    """A trainer that dies before step ``at``."""

    class Killer(Trainer):
        def _one_step(self, index: int, views: Mapping[str, View]) -> Step:
            if index == at:
                raise Killed
            return super()._one_step(index, views)

    return Killer


def with_supervised(one: Method) -> list[Method]:
    """The method beside the supervised loss, or alone when that is what it is."""
    return [one] if isinstance(one, Supervised) else [Supervised(), one]


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
        for index, (one, other) in enumerate(zip(left, right, strict=True)):
            assert_same(one, other, f"{where}/{index}")
    else:
        assert left == right, f"{where}: {left!r} {right!r}"


class MethodContract:
    """Inherit, and say how the method is made."""

    make: Callable[[Any], Method]
    """``make = lambda self: Method(...)``; ``self`` is the test."""
    aux: bool = False
    """Whether the network must have an auxiliary classifier."""
    trains_segmenter: bool = True
    """Whether the method's ``losses`` has terms (a restyling method has none)."""
    invalid: Sequence[Mapping[str, Any]] = ()
    """Constructor arguments that must be refused, one a mapping."""
    settings: Mapping[str, Any] = {}
    """Changes of the run's settings that the method needs."""

    def train(self, methods: Sequence[Method], **changes: Any) -> Any:
        return train(methods, **{"aux": self.aux, **self.settings, **changes})

    def test_smoke_step_has_finite_scalar_losses(self) -> None:
        run = self.train(with_supervised(self.make()), trainer=Recorder)
        label = run.labels[-1]
        for logs in run.logs:
            assert all(value == value and abs(value) < 1e6 for value in logs.values()), logs
            tags = [tag for tag in logs if tag.startswith(f"loss/{label}/")]
            assert bool(tags) == (self.trains_segmenter or run.own_optimizers[-1] is not None)

    def test_terms_are_scalars_with_gradient_to_the_segmenter_only(self) -> None:
        """The trainer's backward of ``losses`` leaves own networks without gradient, ``own_losses`` the segmenter."""
        test = self

        class Spy(Trainer):
            def _backward_group(self, step: Step, group: Sequence[int]) -> None:
                super()._backward_group(step, group)
                for one in self.methods:
                    assert all(p.grad is None for p in one.parameters()), "losses reached an own network"

            def _own_update(self, step: Step, label: str, one: Method, optimizer: torch.optim.Optimizer) -> None:
                before = [None if p.grad is None else p.grad.clone() for p in self.model.parameters()]
                own_before = copy.deepcopy(one.state_dict())
                super()._own_update(step, label, one, optimizer)
                for p, grad in zip(self.model.parameters(), before, strict=True):
                    assert (p.grad is None) == (grad is None)
                    assert grad is None or torch.equal(p.grad, grad), "own_losses reached the segmenter"
                assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in one.parameters() if p.requires_grad)
                assert any(not torch.equal(value, own_before[key]) for key, value in one.state_dict().items())
                for p in one.parameters():
                    p.grad = None

        one = test.make()
        run = self.train([one], trainer=Spy, steps=1)
        step = self._step(run)
        terms = self._terms(run, one, step)
        assert bool(terms) == self.trains_segmenter
        for name, term in terms.items():
            assert term.ndim == 0, name
            assert term.requires_grad, name
        if terms:
            run.optimizer.zero_grad()
            torch.stack(list(terms.values())).sum().backward(inputs=step.leaves(one.reads))
            step.backward(one.reads, run._parameters)
            assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in run._parameters)

    def _terms(self, run: Trainer, one: Method, step: Step | None = None) -> dict[str, Tensor]:
        """The method's ``losses`` on one more step after a run."""
        step = step or self._step(run)
        one.prepare(step)
        with step.reading(type(one).__name__, one.reads):
            return one.losses(step)

    def _step(self, run: Trainer, views: Mapping[str, View] | None = None) -> Step:
        if views is None:
            classes = run.model.num_classes
            source, target = TinyDataset(num_classes=classes), tiny_target(classes).unlabelled()
            samples = [source[0], source[1]]
            images, labels = (torch.stack(x) for x in zip(*((s.image / 255, s.label) for s in samples), strict=True))
            views = {
                "source": View(images, labels, names=("s0", "s1")),
                "target": View(torch.stack([target[0].image, target[1].image]) / 255, names=("t0", "t1")),
            }
        last = run.settings.steps - 1
        return Step(run.model, views, index=last, total=last + 1, generator=run.generator, teacher=run.teacher,
                    graph_views=run.graph_views)  # fmt: skip

    def test_resumes_to_the_same_numbers(self, tmp_path: Path) -> None:
        steps = 4
        whole = self.train(with_supervised(self.make()), out=tmp_path / "whole", steps=steps)
        with pytest.raises(Killed):
            self.train(with_supervised(self.make()), out=tmp_path / "cut", steps=steps, trainer=killer(2))
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
            assert any(str(one) in str(caught.value) for one in values), caught.value

    def test_every_number_of_the_constructor_is_checked(self) -> None:
        """NaN is in no range; a method that accepts it checks nothing."""
        kind = type(self.make())
        for name, parameter in parameters(kind).items():
            if isinstance(parameter.default, (int, float)) and not isinstance(parameter.default, bool):
                with pytest.raises(ValueError, match=name):
                    kind(**{name: float("nan")})

    def test_is_found_by_name_and_an_unknown_argument_is_refused(self) -> None:
        kind = type(self.make())
        known = parameters(kind)
        defaults = all(one.default is not one.empty for one in known.values())
        if defaults:
            assert isinstance(method(kind.__name__), kind)
        with pytest.raises(ValueError, match="no argument 'no_such_thing'"):
            method(kind.__name__, no_such_thing=1)

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

    def test_random_numbers_come_from_the_step(self) -> None:
        """The global generator may serve layers and loaders, never a method: ``prepare`` leaves it as it was."""
        one = self.make()
        run = self.train([one], steps=1)
        step = self._step(run)
        before = torch.get_rng_state()
        one.prepare(step)
        assert torch.equal(before, torch.get_rng_state())


class TestTimeContract:
    """The same for test-time methods."""

    __test__ = False

    make: Callable[[Any], TestTimeMethod]
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
        one, names = self.make(), tuple(source.space.names)
        one.attach(model, TaskSpec(5, names, model.feature_channels, 1, source=source, target=target))
        return one, model

    def images(self, count: int = 2) -> Tensor:
        """Images of the target."""
        return torch.stack([tiny_target()[index].image for index in range(count)]) / 255

    @pytest.mark.parametrize("count", [1, 3])
    def test_predicts_at_image_size_and_leaves_the_images_alone(self, count: int) -> None:
        one, _ = self.attached()
        images = self.images(count)
        before = images.clone()
        output = one(images)
        assert output.logits.shape == (count, 5, *images.shape[-2:])
        assert output.logits.isfinite().all()
        assert not output.logits.requires_grad
        assert torch.equal(images, before)

    def test_reset_repeats_the_same_numbers(self) -> None:
        one, _ = self.attached()
        first = [one(self.images()).logits for _ in range(2)]
        one.reset()
        again = [one(self.images()).logits for _ in range(2)]
        assert_same(first, again)

    def test_detach_brings_the_model_back(self) -> None:
        torch.manual_seed(1)
        one, model = self.attached()
        one(self.images())
        one.detach_model()
        adapted = {name: value.clone() for name, value in model.state_dict().items()}
        other, untouched = self.attached()
        other.detach_model()
        assert_same(adapted, dict(untouched.state_dict()))
        assert model.training
        assert all(p.requires_grad for p in model.parameters())
        with pytest.raises(RuntimeError, match="call attach"):
            one(self.images())

    def test_evaluates_like_a_model(self) -> None:
        one, _ = self.attached()
        scores = evaluate(one, tiny_target())
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
