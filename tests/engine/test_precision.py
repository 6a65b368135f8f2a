"""float16: scaled totals, steps that are passed over, and what comes out of the networks."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import StepLR

from tests.engine.test_update import Term, batch, make, weights
from uda.engine import NonFiniteLoss, Trainer, Update, poly
from uda.engine.precision import autocast, widened
from uda.methods import AdvEnt, ClassMix, Supervised
from uda.models import DeepLabV2
from uda.step import Step
from uda.testing import TinyDataset, TinySegmenter, assert_same, tiny_target
from uda.testing.methods import Killed, killed_at, settings
from uda.types import SegOutput, TeacherSpec

SGD = partial(torch.optim.SGD, lr=0.01)
TOO_LARGE = 2.0**60
"""A scale at which every gradient overflows."""


def fp16(*methods: Any, **options: Any) -> Update:
    return make(*methods, precision="fp16", optimizer=SGD, **options)


def scale_to(update: Update, scale: float) -> None:
    update.scaler.load_state_dict({**update.scaler.state_dict(), "scale": scale})


def test_gradients_that_float16_cannot_hold_come_through() -> None:
    """Of a loss of 1e-6 all of them are below float16's smallest number."""
    norms = {}
    for precision in ("fp32", "fp16"):
        update = make(
            Term(lambda step: {"x": 1e-6 * step.predict("source").logits.square().mean()}), precision=precision
        )
        norms[precision] = float(update(batch())["gradient_norm"])
    assert norms["fp16"] == pytest.approx(norms["fp32"], rel=0.02)
    assert norms["fp32"] < 1e-5


@pytest.mark.parametrize("accumulate", [1, 2])
def test_every_network_moves_as_in_float32(accumulate: int) -> None:
    """Clipped, over micro-batches, discriminators too: the scale is gone before anything is done with a gradient."""
    moved = {}
    for precision in ("fp32", "fp16"):
        update = make(
            Supervised(), AdvEnt(width=4, weight=0.1), ClassMix(),
            precision=precision, optimizer=SGD, clip=0.1, accumulate=accumulate, schedule=lambda step: 1.0,
        )  # fmt: skip
        before = weights(update)
        own = copy.deepcopy(update.methods[1].state_dict())
        for index in range(accumulate):
            update(batch(index))
        discriminator = [(value - own[name]).flatten() for name, value in update.methods[1].state_dict().items()]
        moved[precision] = weights(update) - before, torch.cat(discriminator)
        assert moved[precision][0].norm() == pytest.approx(0.01 * 0.1, rel=0.01)
    for half, full in zip(moved["fp16"], moved["fp32"], strict=True):
        assert 0 < (half - full).norm() < 0.05 * full.norm()


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("schedule", [poly(), partial(StepLR, step_size=1, gamma=0.5)], ids=["poly", "StepLR"])
def test_a_step_that_overflows_leaves_everything_as_it_was(when: Any, schedule: Any) -> None:
    """After it the run goes on as one without: weights, optimisers, teacher, rates; its batch is used up."""
    methods = (Supervised, lambda: AdvEnt(width=4), ClassMix)
    options = {"schedule": schedule, "teacher": TeacherSpec(update=when), "batch_norm": "frozen"}
    update, without = (fp16(*(make_method() for make_method in methods), **options) for _ in range(2))
    for run in (update, without):
        run(batch(0))
    scale_to(update, TOO_LARGE)
    before = copy.deepcopy({part: update.state_dict()[part] for part in ("model", "optimizer", "own_optimizers")})
    logs = update(batch(1))
    assert (update.index, update.skipped, update.moves) == (2, 1, 1)
    assert float(logs["fp16/skipped"]) == 1
    assert float(logs["fp16/scale"]) == TOO_LARGE / 2
    assert "gradient_norm" not in logs
    after = update.state_dict()
    assert_same(before, {part: after[part] for part in before})
    update.generator.set_state(without.generator.get_state())
    for run in (update, without):
        scale_to(run, 1024.0)
        run(batch(2))
        assert float(run.step.logs["gradient_norm"]) > 0
    for part in ("model", "teacher", "optimizer", "own_optimizers", "schedule"):
        assert_same(without.state_dict()[part], update.state_dict()[part], part)


def test_a_gradient_that_no_scale_makes_finite_is_an_error() -> None:
    class Steep(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
            return gradient * float("inf")

    update = fp16(Term(lambda step: {"x": Steep.apply(step.predict("source").logits).mean()}), total_steps=30)
    before = weights(update)
    for index in range(16):
        update(batch(index))
    assert update.skipped == 16
    with pytest.raises(NonFiniteLoss, match="the segmenter's gradient norm"):
        update(batch(16))
    assert torch.equal(weights(update), before)


def test_a_loss_that_is_not_finite_is_an_error_at_once() -> None:
    update = fp16(Term(lambda step: {"x": step.predict("source").logits.mean() * float("nan")}))
    with pytest.raises(NonFiniteLoss, match="Term/x is nan"):
        update(batch())


def test_methods_see_float32_and_weights_are_float32() -> None:
    seen: list[torch.dtype] = []

    def look(step: Step) -> dict[str, torch.Tensor]:
        outputs = step.predict("source"), step.teach("source"), step.detached("source")
        seen.extend(tensor.dtype for output in outputs for tensor in output.tensors() if tensor.is_floating_point())
        seen.append((outputs[0].features.flatten(1) @ outputs[0].features.flatten(1).T).dtype)
        return {"x": outputs[0].logits.mean()}

    update = fp16(Term(look), ClassMix(), model=TinySegmenter(aux=True))
    update(batch())
    assert set(seen) == {torch.float32}
    assert all(p.dtype == torch.float32 for p in update.model.parameters())


def test_nothing_to_learn_is_no_error() -> None:
    update = fp16(Term(lambda step: {"x": step.predict("source").logits.sum().detach() * 0}))
    assert float(update(batch())["gradient_norm"]) == 0
    assert update.skipped == 0


def test_a_killed_run_goes_on_to_the_same_numbers(tmp_path: Path) -> None:
    """With steps that are passed over before and after: the scale, its counter and the count of them are kept."""

    def run(name: str, **options: Any) -> Trainer:
        torch.manual_seed(0)
        methods = [Supervised(), AdvEnt(width=4), ClassMix()]
        run_settings = settings(
            precision="fp16", steps=6, schedule={"torch.optim.lr_scheduler:StepLR": {"step_size": 2}}
        )
        trainer = Trainer(TinySegmenter(), methods, run_settings, out=tmp_path / name, **options)
        scale_to(trainer.update, 2.0**36)
        return trainer

    whole, cut, again = run("whole"), run("cut", progress=killed_at(2)), run("cut")
    whole.fit(TinyDataset(), tiny_target())
    with pytest.raises(Killed):
        cut.fit(TinyDataset(), tiny_target())
    again.fit(TinyDataset(), tiny_target())
    assert whole.update.skipped > 2
    assert_same(whole.state_dict(), again.state_dict())


def test_a_real_network_and_an_evaluation() -> None:
    torch.manual_seed(0)
    model = DeepLabV2(5, weights=None, blocks=(1, 1, 1, 1), width=4)
    trainer = Trainer(model, [Supervised()], settings(precision="fp16", steps=2), evaluate_on={"target": tiny_target()})
    scores = trainer.fit(TinyDataset())
    assert scores["target"].loss() > 0
    assert trainer.update.moves + trainer.update.skipped == 2


def test_contexts_and_outputs() -> None:
    for precision, expected in (("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)):
        with autocast("cpu", precision):
            product = torch.rand(2, 2) @ torch.rand(2, 2)
        assert product.dtype == expected
        wide = torch.bfloat16 if precision == "bf16" else torch.float32
        assert widened(product).dtype == wide
        output = widened(SegOutput(product, product, None, {"box": torch.tensor([1, 2])}))
        assert output.logits.dtype == wide
        assert output.get("box").dtype == torch.int64
