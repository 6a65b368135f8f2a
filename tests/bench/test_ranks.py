"""Cells that several processes train together: by ``--processes``, and under a launcher."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from tests.bench import tiny
from uda.bench import run
from uda.bench.cell import Outcome, run_cell
from uda.bench.plan import ERROR, make_plan
from uda.bench.ranks import Leader, run_cell_together
from uda.claims import take
from uda.config import ConfigError, load_config
from uda.engine import Evaluation
from uda.engine.launching import LaunchError
from uda.processes import Processes
from uda.testing.processes import together

MODEL = {"name": "segmenter", "decoder": "Unet", "weights": None}
"""Without dropout, whose draws are each process' own."""


def content(data: Path, **changes: Any) -> dict[str, Any]:
    settings = {
        **tiny.content(data)["settings"],
        "batch_size": 2,
        "eval_every": 1,
        "optimizer": "sgd",
        **changes.pop("settings", {}),
    }
    methods = {
        "source_only": ["Supervised"],
        "few": {"methods": ["Supervised"], "target_labels": {"count": 1}},
        "adabn": {"test_time": {"AdaBN": {"prior": 0.5}}},
    }
    plain = {"model": MODEL, "settings": settings, "methods": methods, "warm_start": None, "oracle": False}
    return tiny.content(data, **{**plain, **changes})


@pytest.fixture(scope="module")
def by_two(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished benchmark, each of its cells trained by two processes."""
    out = tmp_path_factory.mktemp("two")
    result = run(content(data), out=out, processes=2)
    assert result.failed == {}
    assert sorted(result.ran) == ["adabn/seed0", "few/seed0", "source_only/seed0"]
    return out


@pytest.mark.slow
def test_two_processes_give_the_benchmark_of_one(by_two: Path, data: Path, tmp_path: Path) -> None:
    alone = run(content(data), out=tmp_path)
    for name in ("source_only", "few", "adabn"):
        ours, theirs = by_two / "tiny" / name / "seed0", alone.folder / name / "seed0"
        assert {path.name for path in ours.iterdir() if "tfevents" not in path.name} == {
            path.name for path in theirs.iterdir() if "tfevents" not in path.name
        }
        scores, expected = (Evaluation.load(path / "evaluations/target.npz") for path in (ours, theirs))
        assert scores.names == expected.names
        # an untrained network of many batch norms makes percents of a rounding within two steps
        np.testing.assert_allclose(scores.losses, expected.losses, rtol=0.1)
        if name != "adabn":
            first, other = (json.loads((path / "scalars.jsonl").read_text().splitlines()[0]) for path in (ours, theirs))
            loss = "loss/Supervised/segmentation"
            assert first[loss] == pytest.approx(other[loss], rel=1e-5)
    result = json.loads((by_two / "tiny/source_only/seed0/result.json").read_text())
    assert result["processes"] == 2
    assert json.loads((alone.folder / "source_only/seed0/result.json").read_text())["processes"] == 1


@pytest.mark.slow
def test_what_two_processes_trained_is_done_for_one(by_two: Path, data: Path, no_training: None) -> None:
    assert run(content(data), out=by_two).ran == []


@pytest.mark.slow
def test_what_fails_in_one_process_is_said_and_the_next_cell_runs(data: Path, tmp_path: Path) -> None:
    shutil.copytree(data, tmp_path / "data")
    (image,) = sorted((tmp_path / "data/kitti/training/image_2").iterdir())[4:5]
    raw = content(tmp_path / "data", methods={"source_only": ["Supervised"]}, seeds=[0])
    image.write_bytes(image.read_bytes()[:200])
    result = run(raw, out=tmp_path / "runs", processes=2)
    (message,) = result.failed.values()
    assert "of 2: " in message
    assert image.name in message
    assert image.name in (result.folder / "source_only/seed0/error.txt").read_text()


def test_a_batch_that_does_not_split_is_refused_before_anything_runs(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"settings\.batch_size is 2, must be a multiple of the 3 processes"):
        run(content(data), out=tmp_path, processes=3)
    with pytest.raises(ConfigError, match="processes must be at least 1, got 0"):
        run(content(data), out=tmp_path, processes=0)
    assert not list(tmp_path.rglob("result.json"))


def test_gpus_are_counted_where_the_cells_are_run(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    raw = content(data, settings={"device": None})
    with pytest.raises(ConfigError, match="processes is 2, must be at most the 1 GPUs here"):
        run(raw, out=tmp_path, processes=2)
    handed: list[int] = []
    run(raw, out=tmp_path, processes=2, engine=lambda work, folder: handed.append(work.processes))
    assert handed == [2]
    with pytest.raises(ConfigError, match=r"settings\.batch_size is 2, must be a multiple of the 3 processes"):
        run(raw, out=tmp_path, processes=3, engine=lambda work, folder: handed.append(work.processes))


def test_a_cell_that_another_machine_was_faster_with_is_no_failure(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(content(data))
    cells = make_plan(config, ["source_only"], [0])
    (cell,) = cells
    folder = tmp_path / cell.name

    def launch(*_: Any, **__: Any) -> Outcome:
        raise LaunchError("process 0 of 2: RuntimeError")

    monkeypatch.setattr("uda.bench.ranks.launch", launch)
    claim = take(folder)
    assert claim is not None
    with claim:
        assert run_cell_together(2, config, cells, cell, tmp_path) == Outcome("held")
        with pytest.raises(RuntimeError, match="another process works there"):
            run_cell(config, cells, cell, tmp_path, raising=True)
    assert not (folder / ERROR).exists()
    failed = run_cell_together(2, config, cells, cell, tmp_path)
    assert failed.state == "failed"
    assert "process 0 of 2" in (folder / ERROR).read_text()
    assert run_cell(config, cells, cell, tmp_path) == Outcome("done")
    assert run_cell_together(2, config, cells, cell, tmp_path) == Outcome("elsewhere")
    with pytest.raises(RuntimeError, match="another process has finished it"):
        run_cell(config, cells, cell, tmp_path, raising=True)


# ---- under a launcher ------------------------------------------------------------------------------------------------


def launched(arguments: list[str], timeout: float = 240) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "uda.cli"]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=timeout, check=False)


@pytest.mark.slow
def test_a_launcher_trains_the_same_and_one_process_speaks(by_two: Path, data: Path, tmp_path: Path) -> None:
    config = tmp_path / "tiny.yaml"
    config.write_text(yaml.safe_dump(content(data)))
    call = launched(["bench", str(config), "--out", str(tmp_path / "runs")])
    assert call.returncode == 0, call.stderr
    assert call.stdout.count("GiB: peak of the run") == 1
    for name in ("source_only", "few", "adabn"):
        path = Path("tiny") / name / "seed0/evaluations/target.npz"
        scores, expected = Evaluation.load(tmp_path / "runs" / path), Evaluation.load(by_two / path)
        np.testing.assert_array_equal(scores.confusions, expected.confusions)
    again = launched(["bench", str(config), "--out", str(tmp_path / "runs")])
    assert "0 of 3 cells to do" in again.stderr


@pytest.mark.slow
def test_what_the_first_process_refuses_ends_all(by_two: Path, data: Path, tmp_path: Path) -> None:
    config = tmp_path / "tiny.yaml"
    config.write_text(yaml.safe_dump(content(data, settings={"lr": 0.5})))
    started = time.monotonic()
    call = launched(["bench", str(config), "--out", str(by_two)])
    assert call.returncode != 0
    assert "trained with another config" in call.stderr
    assert time.monotonic() - started < 120


def test_a_launcher_counts_the_processes(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "WORLD_SIZE", "2")
    for option in ("processes", "workers"):
        with pytest.raises(ConfigError, match=f"{option} is 2, must be 1 under a launcher"):
            run(content(data), out=tmp_path, **{option: 2})


def leads(fails: bool) -> list[str]:
    here = Processes.current()
    assert here is not None
    if here.rank > 0:
        from uda.bench.ranks import follow

        names: list[str] = []
        try:
            follow(here, names.append)
        except RuntimeError as error:
            names.append(str(error))
        return names
    leader = Leader(here)
    for name in ("a", "b"):
        leader.next(name)
        leader.trains = False
    if fails:
        leader.failed(ConfigError("in the way"))
    else:
        leader.next(None)
    return []


def test_followers_train_what_the_leader_says() -> None:
    assert together(leads, False)[1] == ["a", "b"]
    assert together(leads, True)[1] == ["a", "b", "the first process failed (ConfigError: in the way)"]
