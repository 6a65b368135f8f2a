"""Stochastic weight averaging: the mean of the right steps, whatever interrupts the run; it is scored and loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from uda.engine import Settings, Trainer, Update, checkpoint, evaluate
from uda.engine.checkpoint import CheckpointError
from uda.engine.settings import WeightAverage
from uda.methods import L1, Supervised
from uda.models.pretrained import CHECKPOINT
from uda.testing.methods import Killed, killed_at, settings
from uda.testing.tiny import TinyDataset, TinySegmenter

STEPS = 6
AVERAGED: dict[str, Any] = {"steps": STEPS, "average": {"start": 0.5}, "checkpoint_every": 1}


def trained(out: Path | None = None, progress: Any = None, **changes: Any) -> tuple[Trainer, list[dict[str, Any]]]:
    """A run, and the state of the trained network after each of its steps."""
    torch.manual_seed(0)
    states: list[dict[str, Any]] = []

    def keep(update: Update, logs: Any) -> None:
        states.append({name: value.clone() for name, value in update.model.state_dict().items()})

    run = Trainer(
        TinySegmenter(5),
        [Supervised()],
        settings(**{**AVERAGED, **changes}),
        out=out,
        progress=progress,
        on_step=keep,
        evaluate_on={"source": TinyDataset()},
    )
    run.fit(TinyDataset())
    return run, states


def mean_of(states: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        name: torch.stack([state[name] for state in states]).mean(0) if value.is_floating_point() else value
        for name, value in states[-1].items()
    }


@pytest.mark.parametrize(("spec", "steps"), [({"start": 0.5}, [3, 4, 5]), ({"start": 0.0, "every": 2}, [1, 3, 5])])
def test_the_average_is_that_of_the_steps_that_count(spec: dict[str, Any], steps: list[int]) -> None:
    run, states = trained(average=spec)
    for name, value in mean_of([states[at] for at in steps]).items():
        torch.testing.assert_close(run.scored.state_dict()[name], value, msg=name)
    assert run.scored is not run.model
    # training itself is that of a run without
    plain, _ = trained(average=None)
    assert plain.scored is plain.model
    assert all(torch.equal(value, states[-1][name]) for name, value in plain.model.state_dict().items())


def test_what_is_scored_and_loaded_is_the_average(tmp_path: Path) -> None:
    run, states = trained(tmp_path)
    average = mean_of(states[3:])
    torch.testing.assert_close(dict(checkpoint.load(tmp_path / CHECKPOINT)["model"]), average)
    network = TinySegmenter(5)
    network.load_state_dict(average)
    scored = evaluate(network, TinyDataset())
    assert (scored.confusions == run.evaluations["source"].confusions).all()


@pytest.mark.parametrize("step", [1, 4, 5])  # at 5 the average is of several networks, so it is not the trained one
def test_killed_before_or_inside_the_average_it_ends_alike(tmp_path: Path, step: int) -> None:
    reference, _ = trained()
    with pytest.raises(Killed):
        trained(tmp_path, progress=killed_at(step))
    run, _ = trained(tmp_path)
    for network in ("scored", "model"):
        expected = getattr(reference, network).state_dict()
        assert all(torch.equal(value, expected[name]) for name, value in getattr(run, network).state_dict().items())
    assert run.update.state_dict()["average"]["n_averaged"] == 3


def test_a_longer_run_averages_other_steps_so_it_cannot_go_on_from_a_shorter_one(tmp_path: Path) -> None:
    trained(tmp_path, schedule="constant")
    torch.manual_seed(0)
    longer = settings(**AVERAGED | {"steps": 9}, schedule="constant")
    run = Trainer(TinySegmenter(5), [Supervised()], longer, out=tmp_path)
    with pytest.raises(CheckpointError, match="another length"):
        run.fit(TinyDataset(), extend=True)


def test_the_settings_of_an_average() -> None:
    assert Settings(steps=8).average is None
    assert Settings(steps=8, average=True).average == WeightAverage(start=0.75, every=1)
    assert [step for step in range(1, 9) if WeightAverage(start=0.25, every=3).takes(step, 8)] == [5, 8]
    with pytest.raises(ValidationError, match="start"):
        Settings(steps=8, average={"start": 1.0})
    with pytest.raises(ValueError, match="score is 'teacher'"):
        Trainer(TinySegmenter(5), [Supervised()], settings(average=True, teacher={}), score="teacher")


def test_an_l1_penalty_moves_each_weight_by_rate_times_weight_times_sign() -> None:
    torch.manual_seed(0)
    model = TinySegmenter(5)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    rates = {"lr": 0.1, "head_multiplier": 1.0, "weight_decay": 0.0, "schedule": "constant", "clip": None}
    # the loss weighs nothing, so the penalty's step is all that happens
    run = Trainer(
        model, [Supervised(weight=0.0), L1(weight=0.02)],
        settings(steps=1, optimizer={"sgd": {"momentum": 0.0}}, **rates),
    )  # fmt: skip
    run.fit(TinyDataset())
    for name, value in model.named_parameters():
        step = 0.1 * 0.02 * before[name].sign() if value.ndim > 1 else 0.0
        torch.testing.assert_close(value.detach(), before[name] - step, msg=name)
