"""Several machines on one folder: no cell is done twice, and a dead machine's cells are taken over."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from tests.bench import machines, tiny
from tests.bench.test_matrix import small
from tests.bench.test_search import content as search_content
from tests.test_factorial_config import content as factorial_content
from uda.bench import BenchResult, Event, run
from uda.bench.plan import ERROR, RESULT
from uda.bench.search import run_search
from uda.bench.work import Work, jobs_of
from uda.claims import Watch
from uda.config import load_config
from uda.engine import Evaluation

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    machines.hasten(monkeypatch.setattr)


class Far:
    """A benchmark at work on another machine."""

    def __init__(self, kind: str, content: dict[str, Any], out: Path, workers: int = 1) -> None:
        config = out / "config.json"
        config.write_text(json.dumps(content))
        command = [sys.executable, "-m", "tests.bench.machines", kind, str(config), str(out), str(workers)]
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(command, cwd=ROOT, **pipes)

    def done(self) -> dict[str, Any]:
        """What it says when it has ended."""
        out, error = self.process.communicate(timeout=240)
        assert self.process.returncode == 0, error
        told: dict[str, Any] = json.loads(out)
        return told


@pytest.fixture
def start() -> Iterator[Callable[..., Far]]:
    begun: list[Far] = []

    def begin(*arguments: Any, **options: Any) -> Far:
        begun.append(Far(*arguments, **options))
        return begun[-1]

    yield begin
    for far in begun:
        for process in psutil.Process(far.process.pid).children(recursive=True) if far.process.poll() is None else []:
            process.kill()
        far.process.kill()
        far.process.wait()


def study(data: Path) -> dict[str, Any]:
    text = json.dumps(factorial_content(curves=False)).replace('"data/', f'"{data.as_posix()}/')
    return json.loads(text)  # type: ignore[no-any-return]


def wait_for(path: Path) -> None:
    end = time.monotonic() + 120
    while not path.exists():
        assert time.monotonic() < end, f"{path} never came"
        time.sleep(0.02)


def assert_same_scores(folder: Path, other: Path, rows: tuple[str, ...]) -> None:
    for row in rows:
        path = Path(row) / "seed0/evaluations/target.npz"
        ours, theirs = Evaluation.load(folder / path), Evaluation.load(other / path)
        np.testing.assert_array_equal(ours.confusions, theirs.confusions)


def hanging(data: Path, tmp_path: Path) -> tuple[dict[str, Any], Path]:
    """A benchmark whose row ``hang`` stops while a file is there."""
    flag = tmp_path / "flag"
    flag.touch()
    hang = ["Supervised", {"tests.bench.machines:Hang": {"flag": str(flag)}}]
    settings = {**tiny.content(data)["settings"], "steps": 3, "checkpoint_every": 1}
    methods = {"source_only": ["Supervised"], "hang": hang}
    return tiny.content(data, methods=methods, settings=settings, oracle=False, warm_start=None), flag


@pytest.mark.parametrize(
    "kind", ["bench", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("matrix", "factorial"))]
)
def test_two_machines_share_the_cells_and_do_none_twice(
    kind: str, data: Path, tmp_path: Path, start: Callable[..., Far], finished: BenchResult
) -> None:
    content = {"bench": tiny.content, "matrix": small, "factorial": study}[kind](data)
    far = start(kind, content, tmp_path)
    time.sleep(2)  # it begins later, as it imports first
    events: list[Event] = []
    result = machines.KINDS[kind](content, out=tmp_path, report=events.append)
    here, there = machines.own_work(events), far.done()
    assert (result.failed, there["failed"]) == ({}, {})
    results = list(result.folder.rglob(RESULT))
    assert sorted(here + there["ran"]) == sorted(path.parent.relative_to(result.folder).as_posix() for path in results)
    assert not any(Watch().look(path.parent) for path in results)
    if kind == "bench":
        assert len(results) == 5
        assert_same_scores(result.folder, finished.folder, ("source_only", "oracle", "fda", "adabn"))


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_dead_machines_cell_is_gone_on_with_from_its_checkpoint(
    how: signal.Signals, data: Path, tmp_path: Path, start: Callable[..., Far]
) -> None:
    content, flag = hanging(data, tmp_path)
    far = start("bench", content, tmp_path)
    wait_for(flag.with_suffix(".here"))
    events: list[Event] = []

    def told(event: Event) -> None:
        events.append(event)
        if "waiting for hang/seed0" in event.message:
            assert f"process {far.process.pid} on far works on it" in event.message
            assert (tmp_path / "tiny/hang/seed0/checkpoint.pt").is_file()
            far.process.send_signal(how)
            flag.unlink()

    result = run(content, out=tmp_path, report=told)
    assert (result.ran[-1], result.failed) == ("hang/seed0", {})
    trained = [event.step for event in events if event.kind == "step" and event.cell == "hang/seed0"]
    # what it was told of the other's first step, and then its own, which begin after the checkpoint
    assert trained == [1, 2, 3]
    before = (tmp_path / "tiny/hang/seed0/checkpoint.pt").read_bytes()
    if how is signal.SIGSTOP:
        far.process.send_signal(signal.SIGCONT)
        there = far.done()
        assert (there["failed"], "hang/seed0" in there["ran"]) == ({}, False)
        assert (tmp_path / "tiny/hang/seed0/checkpoint.pt").read_bytes() == before, "who was stopped writes no more"
    whole = run(content, out=tmp_path / "whole")
    assert_same_scores(result.folder, whole.folder, ("source_only", "hang"))


@pytest.mark.slow
def test_a_killed_workers_cell_is_taken_over_by_another_machine(
    data: Path, tmp_path: Path, start: Callable[..., Far]
) -> None:
    content, flag = hanging(data, tmp_path)
    far = start("bench", content, tmp_path, workers=2)
    wait_for(flag.with_suffix(".here"))
    children = psutil.Process(far.process.pid).children(recursive=True)

    def told(event: Event) -> None:
        if "waiting for hang/seed0" in event.message:
            worker = json.loads(next((tmp_path / "tiny/hang/seed0/.claim").iterdir()).read_text())["process"]
            assert worker in {child.pid for child in children}
            flag.unlink()
            os.kill(worker, signal.SIGKILL)

    result = run(content, out=tmp_path, report=told)
    assert ("hang/seed0" in result.ran, result.failed) == (True, {})
    assert "its process died" in far.done()["failed"]["hang/seed0"]


def test_a_traceback_is_anothers_where_it_is_new(data: Path, tmp_path: Path) -> None:
    """Without a training, which the next test begins."""
    content = tiny.content(data, methods={"source_only": ["Supervised"]}, oracle=False, warm_start=None)
    (job,) = jobs_of([(load_config(content), None)], tmp_path, None, False)
    job.todo = job.cells
    error = job.folder / "source_only/seed0" / ERROR
    error.parent.mkdir(parents=True)
    error.write_text("RuntimeError: boom in an earlier call\n")
    work = Work([job], False, lambda event: None)
    (task,) = work.waiting
    assert not work.settle(task), "what an earlier call failed with is tried again"
    new = error.with_name("new")
    new.write_text("Traceback\nRuntimeError: boom elsewhere\n")
    new.replace(error)
    assert work.settle(task)
    assert (work.failed, work.waiting) == ({"source_only/seed0": "RuntimeError: boom elsewhere"}, [])


@pytest.mark.slow
def test_what_failed_on_another_machine_is_told_and_not_tried_at_once(
    data: Path, tmp_path: Path, start: Callable[..., Far]
) -> None:
    content, flag = hanging(data, tmp_path)
    content["methods"]["adabn"] = {"test_time": {"AdaBN": {"prior": 0.5}}}
    far = start("bench", content, tmp_path)
    wait_for(flag.with_suffix(".here"))

    def told(event: Event) -> None:
        if "waiting for hang/seed0" in event.message:
            flag.with_suffix(".fail").touch()
            flag.unlink()

    result = run(content, out=tmp_path, report=told)
    assert result.failed == {"hang/seed0": "RuntimeError: boom elsewhere"}
    assert far.done()["failed"] == result.failed
    flag.with_suffix(".fail").unlink()
    assert run(content, out=tmp_path).ran == ["hang/seed0"], "the next call tries it again"


@pytest.mark.slow
def test_machines_share_a_searchs_trials(data: Path, tmp_path: Path, start: Callable[..., Far]) -> None:
    space = {"settings.lr": [1e-3, 1e-2], "method.FDA.beta": [0.01, 0.05]}
    content = search_content(data, trials=4, steps=2, sampler="grid", space=space, pruner="none")
    alone = run_search(content, out=tmp_path / "alone")
    (tmp_path / "both").mkdir()
    far = start("search", content, tmp_path / "both")
    result = run_search(content, out=tmp_path / "both")
    there = far.done()
    ran = [f"trial{number:03d}" for number in result.ran] + there["ran"]
    assert sorted(ran) == [f"trial{number:03d}" for number in range(4)], "none twice, none too many"
    by_values = [{json.dumps(trial.values): trial.objectives for trial in each.trials} for each in (alone, result)]
    assert by_values[0] == by_values[1]


@pytest.mark.slow
def test_a_dead_machines_trial_is_gone_on_with(data: Path, tmp_path: Path, start: Callable[..., Far]) -> None:
    content, flag = search_content(data, trials=2, steps=3, pruner="none"), tmp_path / "flag"
    content["method"] = [*content["method"], {"tests.bench.machines:Hang": {"flag": str(flag)}}]
    content["settings"]["checkpoint_every"] = 1
    flag.touch()
    far = start("search", content, tmp_path)
    wait_for(flag.with_suffix(".here"))
    far.process.kill()
    flag.unlink()
    steps: list[tuple[str, int]] = []
    result = run_search(
        content, out=tmp_path, report=lambda e: steps.append((e.cell, e.step)) if e.kind == "step" else None
    )
    assert [trial.state for trial in result.trials] == ["finished"] * 2
    # what the other had logged, and then its own, which begin after the checkpoint
    assert [step for name, step in steps if name == "trial000"] == [1, 2, 3]
