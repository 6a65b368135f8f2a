from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
import yaml

from tests.bench import tiny
from uda.bench import BenchResult, Event, run, write_tables
from uda.bench.cell import _Clock
from uda.bench.restore import load_model, open_run
from uda.config import ConfigError
from uda.engine import Evaluation, Settings
from uda.engine.tensorboard import read_scalars
from uda.methods import Method


class Boom(Method):
    """Fails in its first step."""

    def losses(self, step: Any) -> dict[str, torch.Tensor]:
        raise RuntimeError("boom at once")


BOOM = f"{__name__}:Boom"


def quiet(out: Path, data: Path, **changes: Any) -> Callable[..., BenchResult]:
    return lambda **options: run(tiny.content(data, **changes), out=out, **options)


def test_every_cell_has_its_result(finished: BenchResult) -> None:
    assert finished.failed == {}
    assert len(finished.ran) == 5
    assert [row.name for row in finished.table.rows] == ["source_only", "oracle", "fda", "adabn"]
    for name in ("source_only", "oracle", "fda", "adabn"):
        folder = finished.folder / name / "seed0"
        result = json.loads((folder / "result.json").read_text())
        assert result["versions"]["torch"] == torch.__version__.split("+")[0] or result["versions"]["torch"]
        assert {path.stem for path in (folder / "evaluations").iterdir()} == {"source", "target", "ika"}
        assert (folder / "config.yaml").is_file()
        assert (result["seconds_per_step"] is None) == (name == "adabn")
        assert result["steps"] == (0 if name == "adabn" else 2)
    assert result["peak_memory"] > 2**20


def test_scores_stand_in_the_runs_own_log_too(finished: BenchResult) -> None:
    for name in ("source_only", "fda"):
        records = read_scalars(finished.folder / name / "seed0")
        last = {tag: value for one in records if one["step"] == 1 for tag, value in one.items()}
        for domain in ("source", "target", "ika"):
            found = Evaluation.load(finished.folder / name / "seed0/evaluations" / f"{domain}.npz")
            assert last[f"miou/{domain}"] == pytest.approx(found.miou())
            assert found.miou() == pytest.approx(finished.table.row(name).scores[domain].by_seed[0])


def test_seconds_per_step_leave_out_warm_up_and_evaluation() -> None:
    clock = _Clock(None)
    clock.times = {0: 100.0, 1: 1.0, 2: 3.0, 3: 50.0, 4: 2.0, 5: 70.0}
    assert clock.seconds(Settings(steps=6, eval_every=4)) == 2.0
    assert clock.seconds(Settings(steps=6)) == 14.0
    clock.times = {}
    assert clock.seconds(Settings(steps=6)) is None
    assert list(clock(range(3))) == [0, 1, 2]
    assert len(clock.times) == 3


def test_test_size_and_batch_are_the_configs(copy: Path, data: Path, no_training: None) -> None:
    before = Evaluation.load(copy / "tiny/fda/seed0/evaluations/target.npz")
    again = run(tiny.content(data, evaluate={"scale": 0.5, "batch_size": 2}), out=copy)
    assert again.failed == {}
    after = Evaluation.load(copy / "tiny/fda/seed0/evaluations/target.npz")
    assert after.names == before.names
    assert not np.array_equal(after.losses, before.losses)


def test_second_call_does_nothing(finished: BenchResult, copy: Path, data: Path, no_training: None) -> None:
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*")}
    events: list[Event] = []
    again = run(tiny.content(data), out=copy, report=events.append)
    assert (again.ran, again.failed) == ([], {})
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("*")} == before
    assert [event.kind for event in events] == ["plan"]
    assert vars(again.table.row("fda"))["seeds"] == (0,)


def test_a_new_row_runs_alone(copy: Path, data: Path) -> None:
    methods = {**tiny.content(data)["methods"], "minent": ["Supervised", "MinEnt"]}
    assert run(tiny.content(data, methods=methods), out=copy).ran == ["bn_only/seed0", "minent/seed0"]


def test_a_lost_result_is_scored_again_without_training(
    finished: BenchResult, copy: Path, data: Path, no_training: None
) -> None:
    (copy / "tiny/fda/seed0/result.json").unlink()
    again = run(tiny.content(data), out=copy)
    assert again.ran == ["fda/seed0"]
    path = Path("fda/seed0/evaluations/target.npz")
    old, new = Evaluation.load(finished.folder / path), Evaluation.load(copy / "tiny" / path)
    np.testing.assert_array_equal(old.confusions, new.confusions)


def test_a_new_domain_is_scored_without_training(copy: Path, data: Path, no_training: None) -> None:
    unseen = {**tiny.content(data)["unseen"], "again": tiny.content(data)["source_val"]}
    again = run(tiny.content(data, unseen=unseen), out=copy)
    assert again.failed == {}
    scores = again.table.row("fda").scores
    assert scores["again"].miou.value == scores["source"].miou.value


def test_a_failed_cell_does_not_stop_the_others(copy: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    methods = {**tiny.content(data)["methods"], "boom": ["Supervised", BOOM], "minent": ["Supervised", "MinEnt"]}
    result = run(tiny.content(data, methods=methods), out=copy)
    assert result.ran == ["bn_only/seed0", "minent/seed0"]
    assert result.failed == {"boom/seed0": "RuntimeError: boom at once"}
    assert "boom at once" in (copy / "tiny/boom/seed0/error.txt").read_text()
    assert "No finished cell: boom." in result.table.notes
    # repaired, it is tried again, and its traceback goes
    monkeypatch.setattr(Boom, "losses", lambda self, step: {})
    assert run(tiny.content(data, methods=methods), out=copy).ran == ["boom/seed0"]
    assert not (copy / "tiny/boom/seed0/error.txt").exists()


def test_a_cell_that_failed_before_its_first_checkpoint_is_not_in_the_way(
    copy: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    methods = tiny.content(data)["methods"]
    wrong = {**methods, "weighted": [{"Supervised": {"class_weights": [1.0, 2.0]}}]}
    assert list(run(tiny.content(data, methods=wrong), out=copy).failed) == ["weighted/seed0"]
    (copy / "tiny/weighted/seed0/left").touch()
    mended = {**methods, "weighted": [{"Supervised": {"class_weights": [1.0] * 8}}]}
    assert run(tiny.content(data, methods=mended), out=copy).ran == ["weighted/seed0"]
    assert not (copy / "tiny/weighted/seed0/left").exists(), "nothing of the failure stays"


def test_what_needs_a_failed_cell_fails_with_it(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Boom, "needs_target", False)
    methods = {**tiny.content(data)["methods"], "source_only": [BOOM]}
    result = run(tiny.content(data, methods=methods, warm_start=None), out=tmp_path, methods=["adabn"])
    assert result.failed["adabn/seed0"] == "not run, because source_only/seed0 failed"


def test_training_of_another_config_is_never_mixed_in(copy: Path, data: Path) -> None:
    settings = {**tiny.content(data)["settings"], "lr": 5e-4}
    with pytest.raises(ConfigError, match=r"trained with another config.*--fresh.*\nsettings.lr: 0.001 -> 0.0005$"):
        run(tiny.content(data, settings=settings), out=copy)
    assert len(run(tiny.content(data, settings=settings), out=copy, methods=["source_only"], fresh=True).ran) == 2


def test_broken_data_ends_the_run_before_training(data: Path, tmp_path: Path, no_training: None) -> None:
    target = {**tiny.content(data)["target"], "root": str(tmp_path / "nowhere")}
    with pytest.raises(ValueError, match="nowhere"):
        run(tiny.content(data, target=target), out=tmp_path)
    with pytest.raises(ConfigError, match="encoder"):
        run(tiny.content(data, model={"weights": None, "encoder": "nonsense"}), out=tmp_path)


def test_page_is_self_contained(finished: BenchResult, copy: Path) -> None:
    paths = write_tables(finished.config, copy / "tiny", finished.table)
    page = paths["html"].read_text()
    assert "http:" not in page
    assert "https:" not in page
    assert "<script" not in page
    assert 'src="' not in page.replace('src="data:image/', "")
    # 2 or 3 pictures a domain, each with input and label, and of four rows prediction and errors
    assert page.count("data:image/jpeg") == 3 + 3 + 2
    assert page.count("data:image/png") == 8 * 9
    assert page.count("<svg") >= 1
    assert "loss Supervised/segmentation" in page
    assert "source_only" in paths["md"].read_text()


def test_trained_model_comes_back(finished: BenchResult) -> None:
    trained = open_run(finished.folder / "fda/seed0")
    state = torch.load(finished.folder / "fda/seed0/checkpoint.pt", weights_only=True)["model"]
    for name, value in load_model(trained).state_dict().items():
        assert torch.equal(value, state[name]), name
    assert open_run(finished.folder / "adabn/seed0").test_time == {"AdaBN": {"prior": 0.5}}
    with pytest.raises(ConfigError, match="not a run folder"):
        open_run(finished.folder)


def test_target_labels_are_read_by_oracle_and_scoring_alone(data: Path, tmp_path: Path) -> None:
    shutil.copytree(data, tmp_path / "data")
    for path in sorted((tmp_path / "data/kitti/training/semantic").glob("*.png")):
        if path.name.removesuffix("_10.png") not in {"000190", "000198", "000045"}:
            path.write_bytes(b"no image")
    result = run(tiny.content(tmp_path / "data", methods={"source_only": ["Supervised"], "fda": ["Supervised", "FDA"]}),
                 out=tmp_path / "runs")  # fmt: skip
    assert set(result.failed) == {"oracle/seed0"}


@pytest.mark.slow
def test_killed_call_takes_its_workers_along(data: Path, tmp_path: Path) -> None:
    config = tmp_path / "tiny.yaml"
    settings = {**tiny.content(data)["settings"], "steps": 100_000}
    config.write_text(yaml.safe_dump(tiny.content(data, settings=settings, warm_start=None)))
    command = [sys.executable, "-m", "uda.cli", "bench", str(config), "--out", str(tmp_path), "--workers", "2"]
    call = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    log = tmp_path / "tiny/source_only/seed0/scalars.jsonl"
    wait_for(lambda: log.is_file() and log.stat().st_size > 0)
    children = psutil.Process(call.pid).children(recursive=True)
    assert len(children) >= 2
    call.kill()
    call.wait()
    wait_for(lambda: not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children))


def wait_for(condition: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "never happened"
        time.sleep(0.2)


@pytest.mark.slow
def test_cells_side_by_side_give_the_same(finished: BenchResult, data: Path, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    result = run(tiny.content(data), out=tmp_path, workers=2)
    assert result.failed == {}
    assert torch.get_num_threads() == threads
    for name in ("source_only", "oracle", "fda", "adabn"):
        path = Path(name) / "seed0/evaluations/target.npz"
        ours, theirs = Evaluation.load(finished.folder / path), Evaluation.load(result.folder / path)
        np.testing.assert_array_equal(ours.confusions, theirs.confusions)


# ---- longer, moved, older -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_longer_benchmark_trains_on_where_that_makes_no_difference(data: Path, tmp_path: Path) -> None:
    methods = {"source_only": ["Supervised"], "fda": ["Supervised", "FDA"], "adabn": {"test_time": "AdaBN"}}
    settings = {**tiny.content(data)["settings"], "schedule": "constant"}
    rows: dict[str, Any] = {"methods": methods, "oracle": False, "warm_start": None}
    longer = {**rows, "settings": {**settings, "steps": 4}}
    run(tiny.content(data, **rows, settings=settings), out=tmp_path / "runs")
    with pytest.raises(ConfigError, match=r"use --extend to train on, or --fresh.*\nsettings.steps: 2 -> 4"):
        run(tiny.content(data, **longer), out=tmp_path / "runs")
    again = run(tiny.content(data, **longer), out=tmp_path / "runs", extend=True)
    assert (sorted(again.ran), again.failed) == (["adabn/seed0", "fda/seed0", "source_only/seed0"], {})
    whole = run(tiny.content(data, **longer), out=tmp_path / "whole")
    for row in methods:
        path = Path(row) / "seed0/evaluations/target.npz"
        ours, theirs = Evaluation.load(again.folder / path), Evaluation.load(whole.folder / path)
        np.testing.assert_array_equal(ours.confusions, theirs.confusions)


def test_a_longer_benchmark_is_refused_where_the_schedule_knows_the_length(copy: Path, data: Path) -> None:
    settings = {**tiny.content(data)["settings"], "steps": 4}
    again = run(tiny.content(data, settings=settings), out=copy, extend=True, methods=["source_only"])
    assert "the schedule depends on it" in again.failed["source_only/seed0"]


def test_moved_and_lost_data_leave_a_finished_benchmark_as_it_is(
    finished: BenchResult, copy: Path, data: Path, tmp_path: Path, no_training: None
) -> None:
    shutil.copytree(data, tmp_path / "moved")
    again = run(tiny.content(tmp_path / "moved", name="tiny"), out=copy)
    assert (again.ran, again.failed) == ([], {})
    lost = run(tiny.content(tmp_path / "nowhere", name="tiny"), out=copy)
    assert (lost.ran, lost.failed) == ([], {})
    assert lost.table.row("fda").scores["target"].by_seed == finished.table.row("fda").scores["target"].by_seed


def test_logging_more_often_trains_nothing_again(copy: Path, data: Path, no_training: None) -> None:
    settings = {**tiny.content(data)["settings"], "log_every": 2, "checkpoint_every": 1, "eval_every": 1, "workers": 1}
    assert run(tiny.content(data, settings=settings), out=copy).ran == []


def test_a_changed_default_in_code_is_noticed(copy: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    described = copy / "tiny/fda/seed0/cell.json"
    content = json.loads(described.read_text())
    content["identity"]["methods"]["FDA"]["eta"] = 3.0  # what was written out while 3 was the default
    described.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=r"methods.FDA.eta: 3.0 -> 2.0"):
        run(tiny.content(data), out=copy)


def test_runs_of_an_older_version_are_read_and_never_mixed_in(copy: Path, data: Path) -> None:
    folder = copy / "tiny/fda/seed0"
    described = json.loads((folder / "cell.json").read_text())
    del described["identity"]
    (folder / "cell.json").write_text(json.dumps({**described, "key": "0123456789abcdef"}))
    config = yaml.safe_load((folder / "config.yaml").read_text())
    old = {
        "optimizer": "adamw", "schedule": "poly", "power": 0.9, "momentum": 0.9, "l1": 0.0,
        "rare_class_temperature": None, "teacher": {"decay": 0.999, "update": "after", "mode": "train"},
    }  # fmt: skip
    for section in ("settings", "warm_start"):
        config[section] = {key: value for key, value in config[section].items() if key != "accumulate"} | old
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    trained = open_run(folder)
    assert trained.config.settings.schedule == {"poly": {"power": 0.9}}
    assert load_model(trained).num_classes == 8
    with pytest.raises(ConfigError, match=r"schema: 1 -> 4 \(written by another version of uda\)"):
        run(tiny.content(data), out=copy)
