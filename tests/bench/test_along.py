"""Scores along the way: they are there, and nothing else depends on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.bench import tiny
from uda.bench import BenchResult, run
from uda.config import ConfigError, load_config
from uda.engine import Evaluation
from uda.engine.tensorboard import read_scalars

METHODS = {"source_only": ["Supervised"], "both": ["Supervised", "AdvEnt", "ClassMix"]}


def tiny_run(data: Path, out: Path, **changes: Any) -> BenchResult:
    settings = {**tiny.content(data)["settings"], "steps": 6, "checkpoint_every": 2}
    content = tiny.content(data, methods=METHODS, settings=settings, oracle=False, controls=False, unseen={}, **changes)
    result = run(content, out=out)
    assert result.failed == {}
    return result


def along(result: BenchResult) -> dict[int, float]:
    records = read_scalars(result.folder / "both/seed0")
    return {line["step"] + 1: line["miou_along/target"] for line in records if "miou_along/target" in line}


@pytest.mark.slow
def test_weights_and_scores_are_the_same_with_and_without(data: Path, tmp_path: Path) -> None:
    """Every number of the checkpoint: weights, teacher, optimisers, random states."""
    without = tiny_run(data, tmp_path / "without", curves=False)
    with_curves = tiny_run(data, tmp_path / "with", curves={"points": 3, "images": 2})
    assert along(without) == {}
    assert list(along(with_curves)) == [2, 4, 6]
    states = [
        flat(torch.load(result.folder / "both/seed0/checkpoint.pt", weights_only=True))
        for result in (without, with_curves)
    ]
    assert states[0].keys() == states[1].keys()
    assert sum(isinstance(value, torch.Tensor) for value in states[0].values()) > 100
    for name, value in states[0].items():
        other = states[1][name]
        assert torch.equal(value, other) if isinstance(value, torch.Tensor) else value == other, name
    for domain in ("source", "target"):
        scores = [
            Evaluation.load(result.folder / f"both/seed0/evaluations/{domain}.npz") for result in (without, with_curves)
        ]
        np.testing.assert_array_equal(scores[0].confusions, scores[1].confusions)
    # the last point is of the same network as the score, on the same images where there are no more
    assert list(along(tiny_run(data, tmp_path / "all", curves={"images": 99, "points": 1}))) == [6]


def flat(value: Any, path: str = "") -> dict[str, Any]:
    """A nested state by path."""
    if isinstance(value, dict):
        return {name: leaf for key, child in value.items() for name, leaf in flat(child, f"{path}.{key}").items()}
    if isinstance(value, (list, tuple)):
        return {name: leaf for at, child in enumerate(value) for name, leaf in flat(child, f"{path}.{at}").items()}
    return {path: value}


def test_by_default_there_is_a_curve_and_nothing_is_trained_again_without(
    finished: BenchResult, copy: Path, data: Path, no_training: None
) -> None:
    records = read_scalars(finished.folder / "fda/seed0")
    assert [line["step"] for line in records if "miou_along/target" in line] == [0, 1]
    last = [line["miou_along/target"] for line in records if "miou_along/target" in line][-1]
    assert last == pytest.approx(finished.table.row("fda").scores["target"].by_seed[0]), "all three images are of it"
    assert run(tiny.content(data, curves=False), out=copy).ran == []
    assert run(tiny.content(data, curves={"points": 9, "images": 1}), out=copy).ran == []


def test_everything_is_scored_along_where_the_settings_say_so(data: Path, tmp_path: Path) -> None:
    settings = {**tiny.content(data)["settings"], "eval_every": 1}
    content = tiny.content(data, settings=settings, methods={"source_only": ["Supervised"]}, oracle=False)
    records = read_scalars(run(content, out=tmp_path).folder / "source_only/seed0")
    assert [line["step"] for line in records if "miou/ika" in line] == [0, 1]
    assert not any("miou_along/target" in line for line in records)


def test_wrong_values_are_named() -> None:
    with pytest.raises(ConfigError, match=r"curves\.points.*0"):
        load_config(tiny.content(Path("data"), curves={"points": 0}))
