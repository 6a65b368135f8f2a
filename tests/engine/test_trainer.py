"""The trainer's own promises: shared passes, finite losses, resuming only its own run, closed settings."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from uda.engine import CheckpointError, NonFiniteLoss, Settings, Trainer
from uda.engine.grouping import share_groups, unique_labels
from uda.engine.tensorboard import read_scalars
from uda.methods import L1, MinEnt, RareClassSampling, Supervised
from uda.methods.base import Method
from uda.step import Step
from uda.testing import Killed, TinyDataset, TinySegmenter, assert_same, killed_at, tiny_target


def settings(**changes: Any) -> Settings:
    plain: dict[str, Any] = {"steps": 4, "crop": (32, 64), "device": "cpu", "log_every": 1, "checkpoint_every": 2}
    return Settings(**{**plain, **changes})


class Reads(Method):
    def __init__(self, *views: str) -> None:
        super().__init__()
        self.reads = frozenset(views)


class Poison(Method):
    """A loss that is fine until a step."""

    reads = frozenset({"source"})
    needs_target = False

    def __init__(self, *, at: int, gradient: bool = False) -> None:
        super().__init__()
        self.at, self.gradient = at, gradient

    def losses(self, step: Step) -> dict[str, Tensor]:
        mean = step.predict("source").logits.mean()
        if step.index < self.at:
            return {"term": mean}
        # sqrt has an infinite slope at zero: a finite loss with a gradient that is not
        return {"term": (mean - mean.detach()).sqrt() if self.gradient else mean / 0 * 0}


def test_overlapping_reads_share_a_backward() -> None:
    methods = [Reads("source"), Reads(), Reads("target"), Reads("mixed"), Reads("target", "source")]
    assert share_groups(methods) == [[0, 2, 4], [1], [3]]


def test_labels_are_unique() -> None:
    assert unique_labels([Reads(), Supervised(), Reads()]) == ["Reads", "Supervised", "Reads2"]


@pytest.mark.parametrize("gradient", [False, True])
def test_non_finite_stops_and_names_term_and_files(tmp_path: Path, gradient: bool) -> None:
    source = TinyDataset()
    trainer = Trainer(TinySegmenter(), [Supervised(), Poison(at=3, gradient=gradient)], settings(), out=tmp_path)
    with pytest.raises(NonFiniteLoss, match="gradient norm" if gradient else "Poison/term") as stop:
        trainer.fit(source)
    assert "step 3" in str(stop.value)
    assert any(name in str(stop.value) for name in source.names)
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert state["step"] == 2
    assert all(torch.isfinite(tensor).all() for tensor in state["model"].values() if tensor.is_floating_point())


class PoisonedNetwork(Method):
    """An own network whose loss is fine until a step."""

    needs_target = False

    def __init__(self, *, at: int) -> None:
        super().__init__()
        self.at, self.layer = at, torch.nn.Linear(1, 1)

    def optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def own_losses(self, step: Step) -> dict[str, Tensor]:
        loss = self.layer(torch.ones(1, 1)).sum()
        return {"fine": loss.square(), "own": loss if step.index < self.at else loss * float("nan")}


def test_non_finite_own_loss_stops_before_it_is_saved(tmp_path: Path) -> None:
    trainer = Trainer(TinySegmenter(), [Supervised(), PoisonedNetwork(at=3)], settings(), out=tmp_path)
    with pytest.raises(NonFiniteLoss, match=r"step 3: PoisonedNetwork/own is nan; the batch: tiny"):
        trainer.fit(TinyDataset())
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert all(tensor.isfinite().all() for tensor in state["methods"]["PoisonedNetwork"].values())


def test_folder_of_another_run_is_refused_with_what_differs(tmp_path: Path) -> None:
    Trainer(TinySegmenter(), [Supervised()], settings(), out=tmp_path).fit(TinyDataset())
    with pytest.raises(
        CheckpointError, match=r"another run.*\nsettings.lr: 0.0001 -> 0.5; settings.clip: None -> 1.0$"
    ):
        Trainer(TinySegmenter(), [Supervised()], settings(lr=0.5, clip=1.0), out=tmp_path).fit(TinyDataset())


def test_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(b"PK nonsense")
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt: cannot be read"):
        Trainer(TinySegmenter(), [Supervised()], settings(), out=tmp_path).fit(TinyDataset())


def test_complete_run_is_scored_again_without_training(tmp_path: Path) -> None:
    data = {"target": tiny_target()}
    first = Trainer(TinySegmenter(), [Supervised()], settings(), out=tmp_path, evaluate_on=data).fit(TinyDataset())
    lines = read_scalars(tmp_path)
    again = Trainer(TinySegmenter(), [Supervised()], settings(), out=tmp_path, evaluate_on=data)
    second = again.fit(TinyDataset())
    assert (first["target"].confusions == second["target"].confusions).all()
    assert read_scalars(tmp_path) == lines


def test_workers_do_not_change_the_run() -> None:
    states = []
    for workers in (0, 2):
        torch.manual_seed(0)
        trainer = Trainer(TinySegmenter(), [Supervised()], settings(workers=workers))
        trainer.fit(TinyDataset())
        states.append(trainer.model.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(states[0].values(), states[1].values(), strict=True))


@pytest.mark.parametrize(
    "changes", [{"precision": "bf16"}, {"precision": "fp16"}, {"channels_last": True}, {"clip": 0.1}]
)
def test_options_change_training_but_not_much(changes: dict[str, Any]) -> None:
    runs = []
    for options in ({}, changes):
        torch.manual_seed(0)
        trainer = Trainer(TinySegmenter(dropout=0.0), [Supervised()], settings(lr=1e-3, **options))
        trainer.fit(TinyDataset())
        runs.append(torch.cat([p.detach().flatten() for p in trainer.model.parameters()]))
    difference = (runs[0] - runs[1]).abs().max()
    assert 0 < difference < 0.1 if "channels_last" not in changes else difference < 1e-4


def test_l1_shrinks_weights() -> None:
    sums = []
    for weight in (0.0, 1.0):
        torch.manual_seed(0)
        trainer = Trainer(TinySegmenter(), [Supervised(), L1(weight=weight)], settings(optimizer="sgd", lr=1e-3))
        trainer.fit(TinyDataset())
        sums.append(float(trainer.model.head.weight.detach().abs().sum()))  # type: ignore[union-attr]
    assert sums[1] < sums[0]


def test_missing_target_is_an_error() -> None:
    with pytest.raises(ValueError, match="Reads need target images"):
        Trainer(TinySegmenter(), [Reads("target")], settings()).fit(TinyDataset())


def test_wrong_class_count_is_an_error() -> None:
    with pytest.raises(ValueError, match="the model has 4 classes, the source tiny/source has 5"):
        Trainer(TinySegmenter(4), [Supervised()], settings()).fit(TinyDataset())


def test_schedule_ends_low_and_warms_up(tmp_path: Path) -> None:
    Trainer(TinySegmenter(), [Supervised()], settings(steps=20, warmup=4), out=tmp_path).fit(TinyDataset())
    rates = [line["lr"] / 1e-4 for line in read_scalars(tmp_path) if "lr" in line]
    assert rates[0] < 1e-3 < rates[3] < rates[4]
    assert rates[4] == max(rates)
    assert rates[-1] == pytest.approx((1 / 20) ** 0.9)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"steps": 0}, "steps"),
        ({"crop": (8, 64)}, "crop"),
        ({"warmup": 4}, "warmup"),
        ({"lrr": 1.0}, "lrr"),
        ({"lr": float("inf")}, "lr"),
        ({"precision": "fp8"}, "precision"),
        ({"activation_checkpointing": "some"}, "activation_checkpointing"),
        ({"compile": {"mod": "default"}}, "mod"),
        ({"compile": {"backend": "eager", "mode": "max-autotune"}}, "mode .max-autotune. is of backend .inductor."),
        ({"optimizer": "adamv"}, "no optimizer 'adamv'; the nearest is 'adamw'"),
        ({"optimizer": {"sgd": {"momentun": 0.9}}}, "'sgd' has no argument 'momentun'; the nearest is 'momentum'"),
        ({"optimizer": {"sgd": {"lr": 0.9}}}, "lr of 'sgd' is a setting of its own"),
        ({"optimizer": {"sgd": {}, "adamw": {}}}, "a name or .* got 2 names"),
        ({"optimizer": "torch.optim:SDG"}, "torch.optim has no 'SDG'; the nearest is 'SGD'"),
        ({"optimizer": "torch.nn:Linear"}, "is no optimizer"),
        ({"schedule": "polly"}, "no schedule 'polly'; the nearest is 'poly'"),
        ({"schedule": {"poly": {"power": -1}}}, "power is -1"),
        ({"schedule": {"poly": {"powr": 1}}}, "has no argument 'powr'; the nearest is 'power'"),
        ({"teacher": {"decay": 3}}, "decay is 3"),
    ],
)
def test_settings_are_closed_and_checked(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        settings(**wrong)


def halving(step: int) -> float:
    """A schedule of somebody's own."""
    return float(0.5**step)


def test_optimiser_and_schedule_by_place(tmp_path: Path) -> None:
    options = {"optimizer": {"torch.optim:RMSprop": {"alpha": 0.9}}, "schedule": f"{__name__}:halving"}
    trainer = Trainer(TinySegmenter(), [Supervised()], settings(**options), out=tmp_path)
    trainer.fit(TinyDataset())
    assert isinstance(trainer.update.optimizer, torch.optim.RMSprop)
    assert trainer.update.optimizer.param_groups[0]["alpha"] == 0.9
    rates = [line["lr"] for line in read_scalars(tmp_path) if "lr" in line]
    assert rates == pytest.approx([1e-4 * halving(step) for step in range(4)])
    torchs = {"torch.optim.lr_scheduler:ExponentialLR": {"gamma": 0.1}}
    run = Trainer(TinySegmenter(), [Supervised()], settings(schedule=torchs))
    run.fit(TinyDataset())
    assert run.update.optimizer.param_groups[0]["lr"] == pytest.approx(1e-8)


def test_optimiser_and_schedule_as_objects() -> None:
    model = TinySegmenter()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer = Trainer(model, [Supervised()], settings(), optimizer=optimizer, schedule=lambda step: 1.0)
    trainer.fit(TinyDataset())
    assert trainer.update.optimizer is optimizer
    assert optimizer.param_groups[0]["lr"] == 0.1


# ---- fit, twice -----------------------------------------------------------------------------------------------------


def test_fit_again_scores_again_and_goes_on_after_an_interruption() -> None:
    trainer = Trainer(TinySegmenter(), [Supervised()], settings(), evaluate_on={"source": TinyDataset()})
    first = trainer.fit(TinyDataset())["source"]
    trainer.evaluate_on = {"target": tiny_target()}
    assert set(trainer.fit(TinyDataset())) == {"target"}
    assert (first.confusions != trainer.evaluations["target"].confusions).any()

    bars = iter([killed_at(2), lambda steps: steps])
    states = []
    for progress in (lambda steps: steps, lambda steps: next(bars)(steps)):
        torch.manual_seed(0)
        run = Trainer(TinySegmenter(), [Supervised(), MinEnt()], settings(), progress=progress)
        with contextlib.suppress(Killed):
            run.fit(TinyDataset(), tiny_target())
        run.fit(TinyDataset(), tiny_target())
        states.append(run.state_dict())
    assert_same(*states)


def test_fit_on_other_data_is_refused() -> None:
    trainer = Trainer(TinySegmenter(), [Supervised()], settings())
    trainer.fit(TinyDataset())
    with pytest.raises(ValueError, match=r"trained on other data; .* source.seed: 1 -> 5"):
        trainer.fit(TinyDataset(seed=5))


# ---- a checkpoint is kept -------------------------------------------------------------------------------------------


def test_a_failing_evaluation_costs_no_checkpoint(tmp_path: Path) -> None:
    class Unreadable(TinyDataset):
        def label(self, index: int) -> Tensor:
            raise OSError("the disk is gone")

    broken = {"target": Unreadable()}
    with pytest.raises(OSError, match="disk is gone"):
        Trainer(TinySegmenter(), [Supervised()], settings(), out=tmp_path, evaluate_on=broken).fit(TinyDataset())
    again = Trainer(TinySegmenter(), [Supervised()], settings(), out=tmp_path, evaluate_on={"target": tiny_target()})
    assert set(again.fit(TinyDataset())) == {"target"}
    assert again.step_index == 4


def test_what_is_called_after_each_step() -> None:
    steps: list[tuple[int, bool]] = []
    run = Trainer(
        TinySegmenter(), [Supervised()], settings(log_every=2),
        on_step=lambda update, logs: steps.append((update.index, bool(logs))),
    )  # fmt: skip
    run.fit(TinyDataset())
    assert steps == [(1, False), (2, True), (3, False), (4, True)]


def test_two_ways_to_draw_the_source_are_refused() -> None:
    methods = [Supervised(), RareClassSampling(), RareClassSampling(temperature=0.1)]
    with pytest.raises(ValueError, match=r"RareClassSampling and RareClassSampling2 both say how source images"):
        Trainer(TinySegmenter(), methods, settings()).fit(TinyDataset())


def test_micro_batches_are_parts_of_the_large_batch() -> None:
    """The same samples, in the same order, whether a step takes them at once or in parts; also at an epoch's end."""
    large, parts = (
        Trainer(TinySegmenter(), [Supervised()], settings(batch_size=size, accumulate=count)).pairs(TinyDataset())
        for size, count in ((4, 1), (2, 2))
    )
    for step in range(5):
        whole = large[step]["source"].names
        assert whole == parts[2 * step]["source"].names + parts[2 * step + 1]["source"].names
