"""A run killed with SIGKILL at any step ends with the same numbers as one that was never killed."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from uda.engine.tensorboard import read_scalars

STEPS = 24


def run(out: Path, *kills: str) -> dict[str, Any]:
    out.mkdir()
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-m", "tests.engine.kill_run", str(out), *kills], check=True, cwd=root)
    state: dict[str, Any] = torch.load(out / "end.pt", weights_only=True)
    return state


def assert_same(actual: Any, expected: Any, where: str = "") -> None:
    assert type(actual) is type(expected), where
    if isinstance(expected, torch.Tensor):
        assert torch.equal(actual, expected), where
    elif isinstance(expected, dict):
        assert actual.keys() == expected.keys(), where
        for key in expected:
            assert_same(actual[key], expected[key], f"{where}.{key}")
    elif isinstance(expected, list | tuple):
        assert len(actual) == len(expected), where
        for index, pair in enumerate(zip(actual, expected, strict=True)):
            assert_same(*pair, f"{where}[{index}]")
    else:
        assert actual == expected, where


def tensorboard_scalars(out: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(out / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    tags = [tag for tag in events.Tags()["scalars"] if not tag.startswith("time/")]  # which no two runs have alike
    return {tag: [(one.step, one.value) for one in events.Scalars(tag)] for tag in tags}


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("resume") / "never-killed"
    return out, run(out)


def check(out: Path, state: dict[str, Any], reference: tuple[Path, dict[str, Any]]) -> None:
    assert_same(state, reference[1])
    assert read_scalars(out) == read_scalars(reference[0])
    assert tensorboard_scalars(out) == tensorboard_scalars(reference[0])


def test_reference_is_complete(reference: tuple[Path, dict[str, Any]]) -> None:
    lines = read_scalars(reference[0])
    assert {line["step"] for line in lines if "gradient_norm" in line} == set(range(STEPS))
    assert [line["step"] for line in lines if "miou/target" in line] == [5, 11, 17, 23]


@pytest.mark.parametrize("kills", [("0", "7"), pytest.param(("10w", "23"), marks=pytest.mark.slow)], ids="-".join)
def test_killed_run_ends_the_same(tmp_path: Path, kills: tuple[str, ...], reference: tuple[Path, Any]) -> None:
    out = tmp_path / "killed"
    check(out, run(out, *kills), reference)


@pytest.mark.soak
@pytest.mark.slow
def test_seven_kills_at_random_steps(tmp_path: Path, reference: tuple[Path, dict[str, Any]]) -> None:
    # growing steps, so that every kill happens; w kills while a checkpoint is being written (steps 5, 10, 15, 20, 24)
    draw = random.Random(5)
    kills = sorted(draw.sample(range(STEPS), 4)) + [STEPS - 1] * 2
    out = tmp_path / "killed"
    check(out, run(out, *map(str, kills), f"{STEPS}w"), reference)


@pytest.mark.soak
@pytest.mark.slow
def test_a_storm_of_kills_at_random_moments(tmp_path: Path, reference: tuple[Path, dict[str, Any]]) -> None:
    # by the clock, so that set-up, steps, evaluations, curves and checkpoints are all cut somewhere
    out = tmp_path / "killed"
    state = run(out, "storm", "2", "5")
    assert int((out / "kills.txt").read_text()) >= 2
    check(out, state, reference)
    assert len(read_scalars(out)) == len({(line["step"], "gradient_norm" in line) for line in read_scalars(out)})
    left_over = {path.name for path in out.iterdir()} - {path.name for path in reference[0].iterdir()}
    assert left_over == {"kills.txt"}, "half-written files stay"
