"""Damaged files of a benchmark: each is named, and only what is damaged is done again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.bench import tiny
from uda.bench import BenchResult, Event, Table, run, write_tables
from uda.bench.restore import load_model, open_run
from uda.config import ConfigError
from uda.engine import Evaluation
from uda.engine.checkpoint import CheckpointError


def again(out: Path, data: Path, **changes: Any) -> tuple[BenchResult, str]:
    """The benchmark called once more, and everything that it said."""
    events: list[Event] = []
    result = run(tiny.content(data, **changes), out=out, report=events.append)
    assert result.failed == {}
    return result, "\n".join(event.message for event in events)


def scores(table: Table) -> dict[str, Any]:
    """What a damaged file may not change: every score with its interval, by row and domain."""
    return {
        row.name: {name: (score.miou, score.to_control) for name, score in row.scores.items()} for row in table.rows
    }


def same_scores(first: BenchResult, second: BenchResult) -> bool:
    return repr(scores(first.table)) == repr(scores(second.table))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def random_bytes(path: Path) -> None:
    path.write_bytes(np.random.default_rng(0).bytes(max(64, path.stat().st_size)))


DAMAGE: dict[str, Callable[[Path], None]] = {
    "cut": cut, "empty": empty, "random": random_bytes, "removed": lambda path: path.unlink(),
}  # fmt: skip


@pytest.mark.parametrize("name", ["result.json", "evaluations/target.npz"])
@pytest.mark.parametrize("damage", ["cut", "empty", "random"])
def test_a_damaged_result_is_named_and_scored_again_without_training(
    name: str, damage: str, finished: BenchResult, copy: Path, data: Path, no_training: None
) -> None:
    path = copy / "tiny/fda/seed0" / name
    DAMAGE[damage](path)
    result, said = again(copy, data)
    assert result.ran == ["fda/seed0"]
    assert f"{path}: " in said
    assert "scored again" in said
    assert same_scores(result, finished)


def test_json_of_another_form_is_damage_too(finished: BenchResult, copy: Path, data: Path, no_training: None) -> None:
    path = copy / "tiny/fda/seed0/result.json"
    content = json.loads(path.read_text())
    for wrong in ([], {**content, "scores": 3}, {key: content[key] for key in content if key != "seconds"}):
        path.write_text(json.dumps(wrong))
        result, said = again(copy, data)
        assert result.ran == ["fda/seed0"]
        assert f"{path}: " in said
        assert same_scores(result, finished)


def test_a_lost_evaluation_is_made_again(finished: BenchResult, copy: Path, data: Path, no_training: None) -> None:
    path = copy / "tiny/adabn/seed0/evaluations/ika.npz"
    path.unlink()
    result, said = again(copy, data)
    assert f"{path}: is missing; scored again" in said
    assert result.ran == ["adabn/seed0"]
    assert same_scores(result, finished)


def test_an_evaluation_whose_parts_do_not_fit_is_damage(
    finished: BenchResult, copy: Path, data: Path, no_training: None
) -> None:
    path = copy / "tiny/fda/seed0/evaluations/target.npz"
    whole = Evaluation.load(path)
    Evaluation(whole.confusions[:, :3, :3], whole.losses, whole.names, whole.class_names).save(path)
    result, said = again(copy, data)
    assert f"{path}: " in said
    assert same_scores(result, finished)


@pytest.mark.parametrize("damage", ["cut", "empty", "random", "removed"])
def test_a_damaged_description_is_written_again_and_the_training_kept(
    damage: str, finished: BenchResult, copy: Path, data: Path, no_training: None
) -> None:
    path = copy / "tiny/fda/seed0/cell.json"
    before = path.read_text()
    DAMAGE[damage](path)
    result, said = again(copy, data)
    assert f"{path}: " in said
    assert path.read_text() == before
    assert same_scores(result, finished)


def test_a_damaged_description_does_not_let_another_training_in(copy: Path, data: Path) -> None:
    empty(copy / "tiny/fda/seed0/cell.json")
    settings = {**tiny.content(data)["settings"], "lr": 5e-4}
    with pytest.raises(ConfigError, match=r"trained with another config.*\nsettings.lr: 0.001 -> 0.0005"):
        run(tiny.content(data, settings=settings, warm_start=None), out=copy, methods=["fda"])
    assert run(tiny.content(data, settings=settings), out=copy, methods=["fda"], fresh=True).failed == {}


@pytest.mark.parametrize("line", [b"\xff\xfe\x00", b"5\n", b'{"step": "x"}\n', b"[]\n", b'{"step": 1, "loss/'])
def test_a_bad_line_of_the_curves_is_named(line: bytes, finished: BenchResult, copy: Path, data: Path) -> None:
    path = copy / "tiny/fda/seed0/scalars.jsonl"
    path.write_bytes(line + b"\n" + path.read_bytes())
    result, said = again(copy, data)
    assert result.ran == []
    assert f"{path}: " in said
    assert same_scores(result, finished)
    assert "loss Supervised" in write_tables(result.config, result.folder, result.table)["html"].read_text()


def misshape(path: Path) -> None:
    state = torch.load(path, weights_only=True)
    name = next(iter(state["model"]))
    state["model"][name] = torch.zeros(2, 3)
    torch.save(state, path)


@pytest.mark.parametrize("damage", [cut, empty, random_bytes, misshape])
def test_a_damaged_checkpoint_is_trained_again_where_something_needs_it(
    damage: Callable[[Path], None], finished: BenchResult, copy: Path, data: Path
) -> None:
    path = copy / "tiny/source_only/seed0/checkpoint.pt"
    damage(path)
    (copy / "tiny/adabn/seed0/result.json").unlink()
    result, said = again(copy, data)
    assert f"{path}: " in said
    assert "trained again" in said
    assert set(result.ran) == {"source_only/seed0", "adabn/seed0"}
    assert same_scores(result, finished)
    assert open_run(path.parent).checkpoint == path


@pytest.mark.parametrize("damage", [cut, misshape])
def test_a_half_trained_cell_with_a_damaged_checkpoint_starts_again(
    damage: Callable[[Path], None], finished: BenchResult, copy: Path, data: Path
) -> None:
    folder = copy / "tiny/fda/seed0"
    (folder / "result.json").unlink()
    damage(folder / "checkpoint.pt")
    result, said = again(copy, data)
    assert f"{folder / 'checkpoint.pt'}: " in said
    assert result.ran == ["fda/seed0"]
    assert same_scores(result, finished)


def test_a_finished_cell_keeps_its_scores_without_its_checkpoint(
    finished: BenchResult, copy: Path, data: Path, no_training: None
) -> None:
    for damage in DAMAGE.values():
        path = copy / "tiny/fda/seed0/checkpoint.pt"
        if path.is_file():
            damage(path)
        result, said = again(copy, data)
        assert result.ran == []
        assert f"{path}: " in said
        assert same_scores(result, finished)


def test_pictures_and_recorded_config(finished: BenchResult, copy: Path, data: Path, no_training: None) -> None:
    folder = copy / "tiny/fda/seed0"
    picture = sorted((folder / "pictures").iterdir())[0]
    cut(picture)
    empty(folder / "config.yaml")
    result, said = again(copy, data)
    assert result.ran == []
    assert f"{picture}: " in said
    assert f"{folder / 'config.yaml'}: " in said
    assert open_run(folder).config == finished.config
    write_tables(result.config, result.folder, result.table)
    assert str(folder / "config.yaml") not in again(copy, data)[1]


def test_many_alike_are_one_line(copy: Path, data: Path) -> None:
    for path in copy.rglob("pictures/*.png"):
        path.unlink()
    _, said = again(copy, data)
    assert "and 29 more: is missing" in said
    assert said.count("\n") < 4


def test_opening_a_damaged_run_names_the_file(copy: Path) -> None:
    folder = copy / "tiny/fda/seed0"
    misshape(folder / "checkpoint.pt")
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt: .*another shape") as caught:
        load_model(folder)
    assert "\n" not in str(caught.value)
    empty(folder / "cell.json")
    with pytest.raises(ConfigError, match=r"cell\.json: is empty"):
        open_run(folder)
