"""What a benchmark will cost: pieces measured by short runs, put together."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.bench import tiny
from tests.bench.test_ranks import content
from tests.test_cli import call
from uda.bench import cost
from uda.bench.cost import CellCost, measure_costs, shortened, taken, wall_seconds
from uda.bench.plan import make_plan
from uda.bench.stored import read_result
from uda.config import BenchConfig, ConfigError, load_config

START, STEP, PIXEL = 2.0, 0.5, 1e-4


def pretend(seconds: Callable[[BenchConfig, Any], float], failed: dict[str, str] | None = None) -> Any:
    """A ``run`` that trains nothing and writes how long cells took."""

    def run(config: BenchConfig, *, out: Path, **options: Any) -> Any:
        folder = Path(out) / config.name
        for cell in make_plan(config, options["methods"]):
            write(folder / cell.name, seconds(config, cell), 1000 + config.settings.steps)
        return SimpleNamespace(folder=folder, failed=failed or {})

    return run


def write(folder: Path, seconds: float, memory: int = 0) -> None:
    """A finished cell that took so long."""
    content = {"scores": {}, "seconds": seconds, "seconds_per_step": STEP, "peak_memory": memory}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "result.json").write_text(json.dumps(content))


def linear(config: BenchConfig, cell: Any) -> float:
    steps = cell.settings.steps if cell.settings else 0
    return START + STEP * steps + (PIXEL * cost._pixels(config) if cell.scoring else 0.0)


def test_pieces_are_told_apart_and_put_together(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "run", pretend(linear))
    config = load_config(tiny.content(data, seeds=[0, 1], settings={"steps": 100, "checkpoint_every": 40}))
    costs = {row.name: row for row in measure_costs(config, tmp_path / "short").cells}
    assert list(costs) == [cell.name for cell in make_plan(config, seeds=[0])]
    plain = config.model_copy(update={"curves": None})
    for cell in make_plan(plain, seeds=[0]):
        row = costs[cell.name]
        steps = cell.settings.steps if cell.settings else 0
        assert (row.start, row.step, row.steps) == pytest.approx((START, STEP if steps else 0, steps))
        assert row.memory == 1000 + cost.STEPS[1]
        along = cost._curve_pixels(config, cell, cost._pixels(config)) if cell.scoring else 0
        assert (along > 0) == bool(steps and cell.scoring)
        expected = linear(plain, cell) + PIXEL * along
        assert row.seconds == pytest.approx(expected - row.decoding)
    assert not (tmp_path / "short").exists()


def test_short_runs_pass_what_the_benchmark_passes(data: Path) -> None:
    config = load_config(tiny.content(data, settings={"steps": 100, "eval_every": 10}))
    short = shortened(config, 4, 1)
    both = [make_plan(each, seeds=[0]) for each in (short, config)]
    passed, whole = ({cell.method: cell.training.get("methods") for cell in plan} for plan in both)
    assert passed == whole
    assert {cell.settings.steps for cell in make_plan(short) if cell.settings} == {4}
    assert all(len(dataset) == 1 for dataset in cost._scored(short).values())
    assert short.curves is None
    assert short.settings.eval_every == 0
    assert short.settings.crop == config.settings.crop


@pytest.mark.slow
def test_real_short_runs_leave_nothing_but_their_costs(data: Path, tmp_path: Path) -> None:
    config = load_config(tiny.content(data))
    costs, _ = measure_costs(config, tmp_path / "short", methods=["source_only"])
    assert {row.name for row in costs} == {cell.name for cell in make_plan(config, ["source_only"], config.seeds[:1])}
    assert all(row.seconds > 0 and row.memory > 0 for row in costs)
    assert all(row.disk > 0 for row in costs if row.steps)
    assert list(tmp_path.iterdir()) == []


def test_a_short_run_that_fails_is_named(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "run", pretend(linear, {"fda/seed0": "too large"}))
    with pytest.raises(ConfigError, match="fda/seed0 fails after 4 steps: too large"):
        measure_costs(load_config(tiny.content(data)), tmp_path / "short")


def test_processes_start_anew_for_each_cell_that_trains(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared: list[int] = []

    def launch(processes: int, *arguments: Any) -> None:
        shared.append(processes)
        time.sleep(0.1)

    def run(config: BenchConfig, **options: Any) -> Any:
        shared.append(options["processes"])
        return pretend(linear)(config, **options)

    monkeypatch.setattr(cost, "run", run)
    monkeypatch.setattr(cost, "launch", launch)
    config = load_config(tiny.content(data))
    alone, together = (measure_costs(config, tmp_path / "short", processes=n).cells for n in (1, 2))
    assert shared == [1, 1, 1, 2, 2, 2, 2]
    assert {row.launch for row in alone} == {0.0}
    assert all((row.launch >= 0.1) == bool(row.steps) for row in together)
    assert [row.seconds for row in together] == pytest.approx([row.seconds for row in alone], rel=0.05)
    row = CellCost("a/seed0", (), 4, 0, 0, 0, 0, 0, 0, 0, launch=3)
    assert (row.seconds, wall_seconds([row], 2, 1)) == (4, 14)


@pytest.mark.soak
@pytest.mark.slow
def test_short_runs_are_those_of_several_processes(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[int] = []

    def read(folder: Path) -> Any:
        result = read_result(folder)
        trained.append(-1 if result is None else result["processes"])
        return result

    monkeypatch.setattr(cost, "read_result", read)
    raw = content(data, methods={"source_only": ["Supervised"]})
    costs, _ = measure_costs(load_config(raw), tmp_path / "short", processes=2)
    assert trained == [2, 2, 2]
    assert all(row.launch > 0 and row.step > 0 for row in costs)


def test_what_costs_are_not_measured_by_is_refused(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(tiny.content(data)))
    pytest.importorskip("submitit")
    for options in (["--engine", "slurm"], ["--plan", "2"], ["--record", "kept"], ["--fresh"], ["--extend"]):
        assert call("bench", path, "--out", tmp_path, "--cost", *options) == 2
        option = " ".join(options[:2]) if options[0] == "--engine" else options[0]
        assert f"{option} does not go with --cost, which measures on this machine" in capsys.readouterr().err
    assert call("bench", path, "--out", tmp_path, "--cost", "--processes", "2") == 2
    assert "settings.batch_size is 1, must be a multiple of the 2 processes" in capsys.readouterr().err
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert call("bench", path, "--out", tmp_path, "--cost") == 2
    assert "not under a launcher (torchrun)" in capsys.readouterr().err


def test_decoding_counts_where_there_is_a_cache(data: Path) -> None:
    content = tiny.content(data)
    plain = {**content, "source": {k: v for k, v in content["source"].items() if k != "cache"}}
    (count, seconds), _ = cost._decoded_images(load_config(plain))
    assert count == 3
    assert seconds == 0
    cached = {**content, "source": {**plain["source"], "cache": "memory"}}
    (_, seconds), _ = cost._decoded_images(load_config(cached))
    assert seconds > 0


def test_rounds_at_shares_of_a_run_are_no_part_of_a_step() -> None:
    rounds = 7.0
    few, more = ({"seconds_per_step": (STEP * (n - 2) + rounds) / (n - 2)} for n in cost.STEPS)
    assert cost._step_seconds(few, more) == pytest.approx(STEP)


def test_wall_time_is_bounded_by_work_and_by_the_longest_chain() -> None:
    first = CellCost("warm_start/seed0", (), 10, 0, 0, 0, 0, 0, 0, 0)
    rows = [CellCost(f"{name}/seed0", (first.name,), 4, 0, 0, 0, 0, 0, 0, 0) for name in "abc"]
    costs = [first, *rows]
    assert wall_seconds(costs, 1, 1) == 22
    assert wall_seconds(costs, 1, 3, once=1) == 15
    assert wall_seconds(costs, 2, 100) == 14
    assert wall_seconds(costs, 2, 2) == pytest.approx(22)


def test_what_finished_cells_took(tmp_path: Path) -> None:
    row = CellCost("a/seed0", (), 1, 0, 0, 0, 0, 0, 0, 0)
    assert taken(row, tmp_path, [0, 1]) is None
    for seed, seconds in enumerate((3.0, 5.0)):
        write(tmp_path / "a" / f"seed{seed}", seconds)
    assert taken(row, tmp_path, [0, 1]) == 4
