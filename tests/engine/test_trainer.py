"""The trainer's own promises: shared passes, finite losses, resuming only its own run, closed settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.methods.tiny import TinyDataset, TinySegmenter, tiny_target
from uda.engine import CheckpointError, NonFiniteLoss, Settings, Trainer
from uda.engine.grouping import share_groups, unique_labels
from uda.engine.optimisation import lr_factor
from uda.engine.tensorboard import read_scalars
from uda.methods import Supervised
from uda.methods.base import Method
from uda.step import Step


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


def test_folder_of_another_run_is_refused(tmp_path: Path) -> None:
    Trainer(TinySegmenter(), [Supervised()], settings(), out=tmp_path).fit(TinyDataset())
    with pytest.raises(CheckpointError, match=r"another run.*settings"):
        Trainer(TinySegmenter(), [Supervised()], settings(lr=0.5), out=tmp_path).fit(TinyDataset())


def test_folder_of_other_method_values_is_refused(tmp_path: Path) -> None:
    Trainer(TinySegmenter(), [Supervised()], settings(), out=tmp_path).fit(TinyDataset())
    with pytest.raises(CheckpointError, match=r"another run.*methods.*aux_weight"):
        Trainer(TinySegmenter(), [Supervised(aux_weight=0.3)], settings(), out=tmp_path).fit(TinyDataset())


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


@pytest.mark.parametrize("changes", [{"precision": "bf16"}, {"channels_last": True}, {"l1": 1e-3}, {"clip": 0.1}])
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
    for l1 in (0.0, 1.0):
        torch.manual_seed(0)
        trainer = Trainer(TinySegmenter(), [Supervised()], settings(optimizer="sgd", lr=1e-3, l1=l1))
        trainer.fit(TinyDataset())
        sums.append(float(trainer.model.head.weight.detach().abs().sum()))  # type: ignore[union-attr]
    assert sums[1] < sums[0]


def test_missing_target_is_an_error() -> None:
    with pytest.raises(ValueError, match="Reads need target images"):
        Trainer(TinySegmenter(), [Reads("target")], settings()).fit(TinyDataset())


def test_wrong_class_count_is_an_error() -> None:
    with pytest.raises(ValueError, match="the model has 4 classes, the source tiny/source has 5"):
        Trainer(TinySegmenter(4), [Supervised()], settings()).fit(TinyDataset())


def test_schedule_ends_low_and_warms_up() -> None:
    run = settings(steps=100, warmup=10)
    factors = [lr_factor(index, run) for index in range(100)]
    assert factors[0] < 1e-3 < factors[9] < factors[10]
    assert factors[10] == max(factors)
    assert factors[-1] == pytest.approx(0.01**0.9)


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"crop": (8, 64)}, {"warmup": 4}, {"lrr": 1.0}, {"precision": "fp16"}])
def test_settings_are_closed_and_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        settings(**wrong)
