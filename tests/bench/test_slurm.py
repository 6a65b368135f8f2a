"""Cells as jobs: submitted once, after what they need, queued again at their limit, gathered as on one machine."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.bench import machines, test_ranks, tiny
from tests.bench.test_machines import assert_same_scores
from tests.bench.test_matrix import small
from tests.bench.test_run import BOOM
from tests.test_cli import call
from uda.bench import BenchResult, Event, run, slurm, work
from uda.bench.matrix import run_matrix
from uda.bench.slurm import FOLDER, CellJob, Slurm, minutes, read_jobs
from uda.bench.work import Work
from uda.config import ConfigError, load_config
from uda.engine import Evaluation

submitit = pytest.importorskip("submitit")
submission = pytest.importorskip("submitit.core.submission")
test_core = pytest.importorskip("submitit.core.test_core")
SIGNALS = (signal.SIGUSR2, signal.SIGTERM, signal.SIGCONT)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    machines.hasten(monkeypatch.setattr)
    monkeypatch.setattr(slurm, "POLL", 0.1)
    monkeypatch.setattr(slurm, "GRACE", 0.0)


@pytest.fixture
def mock() -> Iterator[Any]:
    """submitit's commands of Slurm, of which none is there; handlers of signals come back."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    mocked = test_core.MockedSubprocess(known_cmds=["srun"])
    with mocked.context():
        yield mocked
    submitit.SlurmJob.watcher.clear()
    for number, handler in before.items():
        signal.signal(number, handler)


def process(mocked: Any, number: str, folder: Path) -> None:
    """What Slurm does with a job: start it."""
    array, _, task = number.partition("_")
    names = {"SLURM_ARRAY_JOB_ID": array, "SLURM_ARRAY_TASK_ID": task} if task else {}
    with mocked.job_context(number), pytest.MonkeyPatch.context() as patch:
        for name, value in names.items():
            patch.setenv(name, value)
        submission.process_job(folder)


def run_queue(mocked: Any, monkeypatch: pytest.MonkeyPatch, folder: Path) -> list[str]:
    """Where the caller would wait, the queue moves on by a job; the order in which they ran."""
    ran: list[str] = []

    def wait(self: Work, told: dict[str, int], seconds: float | None = None) -> None:
        queued = [number for number in read_jobs(folder / FOLDER).values() if number not in ran]
        assert queued, "waits for nothing"
        ran.append(queued[0])
        process(mocked, queued[0], folder / FOLDER)

    monkeypatch.setattr(Work, "wait", wait)
    return ran


def test_a_benchmark_is_an_array_after_its_warm_starts(
    mock: Any, data: Path, tmp_path: Path, finished: BenchResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = run_queue(mock, monkeypatch, tmp_path / "tiny")
    events: list[Event] = []
    engine = Slurm({"time": "1-00:00:00", "partition": "gpu", "gpus_per_node": 1, "array_parallelism": 2})
    result = run(tiny.content(data), out=tmp_path, engine=engine, report=events.append)
    assert result.failed == {}
    assert_same_scores(result.folder, finished.folder, ("source_only", "oracle", "fda", "adabn"))
    scripts = [(tmp_path / "tiny" / FOLDER / f"{number}_submission.sh").read_text() for number in (12, 13, 14)]
    assert ran == ["12", "13_0", "13_1", "13_2", "14"]
    for script, array, after in zip(scripts, (None, "0-2%2", None), (None, "12", "13"), strict=True):
        assert re.findall(r"--array=(\S+)", script) == ([array] if array else [])
        assert re.findall(r"--dependency=(\S+)", script) == ([f"afterany:{after}"] if after else [])
        for part in ("--time=1440\n", "--partition=gpu\n", "--gpus-per-node=1\n", "--signal=USR2@90\n"):
            assert part in script
    notes = [event.message for event in events if event.kind == "note"]
    assert notes == ["job 12: 1 cells", "job 13: 3 cells, after 12", "job 14: 1 cells, after 13"]
    assert {event.message for event in events if event.kind == "done"} == {"by another process"}
    # all is done: nothing is submitted
    again = run(tiny.content(data), out=tmp_path, engine=engine)
    assert (again.failed, mock.job_count) == ({}, 15)


@pytest.mark.slow
def test_a_matrix_is_one_array(mock: Any, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = small(data)
    ran = run_queue(mock, monkeypatch, tmp_path / raw["name"])
    result = run_matrix(raw, out=tmp_path, engine=Slurm())
    assert result.failed == {}
    assert len(ran) == len(list(result.folder.rglob("result.json"))) > 2
    assert {number.partition("_")[0] for number in ran} == {"12"}


def test_what_fails_is_gathered_as_on_one_machine(
    mock: Any, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_queue(mock, monkeypatch, tmp_path / "tiny")
    methods = {"source_only": ["Supervised"], "boom": ["Supervised", BOOM]}
    content = tiny.content(data, methods=methods, warm_start=None, oracle=False)
    result = run(content, out=tmp_path, engine=Slurm())
    assert result.failed == {"boom/seed0": "RuntimeError: boom at once"}
    assert [row.name for row in result.table.rows] == ["source_only"]
    assert "boom at once" in (tmp_path / "tiny/boom/seed0/error.txt").read_text()


def test_a_job_that_ends_without_a_word_is_named_with_its_log(mock: Any, data: Path, tmp_path: Path) -> None:
    content = tiny.content(data, methods={"source_only": ["Supervised"]}, oracle=False, warm_start=None)

    def told(event: Event) -> None:
        if event.message == "job 12: 1 cells":
            mock.set_job_state("12", "OUT_OF_MEMORY")

    result = run(content, out=tmp_path, engine=Slurm(), report=told)
    log = tmp_path / "tiny" / FOLDER / "12_0_log.err"
    assert result.failed == {"source_only/seed0": f"job 12 ended (OUT_OF_MEMORY) without a result; its log: {log}"}
    # it is no longer in the queue, so the next call submits it again
    with pytest.raises(KeyboardInterrupt):
        interrupted(content, tmp_path)
    assert read_jobs(tmp_path / "tiny" / FOLDER) == {"source_only/seed0": "13"}


def interrupted(content: dict[str, Any], out: Path) -> None:
    def wait(self: Work, told: dict[str, int], seconds: float | None = None) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Work, "wait", wait)
        run(content, out=out, engine=Slurm())


def test_what_is_in_the_queue_is_not_submitted_again(
    mock: Any, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = tiny.content(data, methods={"source_only": ["Supervised"]}, oracle=False)
    with pytest.raises(KeyboardInterrupt):
        interrupted(content, tmp_path)
    assert read_jobs(tmp_path / "tiny" / FOLDER) == {"warm_start/seed0": "12", "source_only/seed0": "13"}
    more = {**content, "methods": {"source_only": ["Supervised"], "fda": ["Supervised", "FDA"]}}
    ran = run_queue(mock, monkeypatch, tmp_path / "tiny")
    result = run(more, out=tmp_path, engine=Slurm())
    assert (result.failed, sorted(ran)) == ({}, ["12", "13", "14"])
    assert "--dependency=afterany:12\n" in (tmp_path / "tiny" / FOLDER / "14_submission.sh").read_text()


def test_a_row_trains_its_warm_start_where_that_job_was_lost(
    mock: Any, data: Path, tmp_path: Path, finished: BenchResult
) -> None:
    content = tiny.content(data, methods={"source_only": ["Supervised"]}, oracle=False)
    with pytest.raises(KeyboardInterrupt):
        interrupted(content, tmp_path)
    process(mock, "13", tmp_path / "tiny" / FOLDER)
    assert_same_scores(tmp_path / "tiny", finished.folder, ("source_only",))


def test_a_job_asks_its_cell_to_stop_and_waits_for_it(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a training, which the next test stops."""
    begun, stopped = threading.Event(), threading.Event()

    def work_on(jobs: Any, folder: Path, *, stop: Callable[[], bool], **_: Any) -> SimpleNamespace:
        begun.set()
        for _ in range(500):
            if stop():
                stopped.set()
                break
            time.sleep(0.01)
        return SimpleNamespace(failed={})

    monkeypatch.setattr(slurm, "work_on", work_on)
    cell = CellJob(load_config(tiny.content(data)), "source_only/seed0", tmp_path / "tiny", False)
    job = threading.Thread(target=cell, daemon=True)
    job.start()
    assert begun.wait(60)
    assert not stopped.is_set()
    queued = cell.checkpoint()
    assert stopped.is_set()
    assert queued.function.__reduce__() == cell.__reduce__()
    job.join(60)
    assert not job.is_alive()


@pytest.mark.slow
def test_a_job_trains_its_cell_by_several_processes(
    mock: Any, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = {"source_only": ["Supervised"], "adabn": {"test_time": {"AdaBN": {"prior": 0.5}}}}
    content = test_ranks.content(data, methods=rows)
    ran = run_queue(mock, monkeypatch, tmp_path / "tiny")
    result = run(content, out=tmp_path, engine=Slurm({"gpus_per_node": 2}), processes=2)
    assert (result.failed, ran) == ({}, ["12", "13"])
    alone = run(content, out=tmp_path / "alone")
    for name in rows:
        scores, expected = (
            Evaluation.load(folder / name / "seed0/evaluations/target.npz") for folder in (result.folder, alone.folder)
        )
        # as in test_ranks.py: an untrained network of many batch norms makes percents of a rounding
        np.testing.assert_allclose(scores.losses, expected.losses, rtol=0.1)
    assert json.loads((result.folder / "source_only/seed0/result.json").read_text())["processes"] == 2


def by_methods(data: Path, *methods: Any, steps: int) -> dict[str, Any]:
    """A benchmark of one row."""
    settings = {**tiny.content(data)["settings"], "steps": steps, "batch_size": 2}
    rows = {"source_only": ["Supervised", *methods]}
    return tiny.content(data, methods=rows, settings=settings, oracle=False, warm_start=None, unseen={})


@pytest.mark.slow
def test_a_killed_process_ends_its_job_and_is_said(
    mock: Any, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_queue(mock, monkeypatch, tmp_path / "tiny")
    content = by_methods(data, "tests.bench.machines:Mortal", steps=3)
    result = run(content, out=tmp_path, engine=Slurm(), processes=2)
    killed = "process 1 of 2 was killed (SIGKILL), and the others were ended"
    assert result.failed == {"source_only/seed0": killed}
    here = run(content, out=tmp_path / "here", processes=2)
    assert here.failed == {"source_only/seed0": f"{killed}; the next call continues it"}


def test_jobs_that_ask_for_too_few_gpus_are_not_submitted(mock: Any, data: Path, tmp_path: Path) -> None:
    content = test_ranks.content(data, settings={"device": None})
    for gpus in (1, "a100:1"):
        with pytest.raises(ConfigError, match=f"--slurm gpus_per_node is {gpus}, must be at least the 2 processes"):
            run(content, out=tmp_path, engine=Slurm({"gpus_per_node": gpus}), processes=2)
    assert mock.job_count == 12


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_cell_stops_after_a_step_and_is_gone_on_with(data: Path, tmp_path: Path, processes: int) -> None:
    """What submitit calls at a time limit, from the handler of a signal in the main thread."""
    notes = tmp_path / "notes"
    # the launcher of several processes passes it on within a second
    seconds, steps = (0.02, 40) if processes == 1 else (0.5, 10)
    content = by_methods(data, {"tests.bench.machines:Slow": {"notes": str(notes), "seconds": seconds}}, steps=steps)
    cell = CellJob(load_config(content), "source_only/seed0", tmp_path / "tiny", False, processes)
    saved: list[Any] = []

    class TimeLimit(BaseException):
        """What submitit ends the process with, once the job is queued again."""

    def handler(*_: Any) -> None:
        saved.append(cell.checkpoint())
        raise TimeLimit

    before = signal.signal(signal.SIGUSR2, handler)
    watcher = """
import os, signal, sys, time
while not os.path.exists(sys.argv[1]):
    time.sleep(0.01)
time.sleep(0.3)
os.kill(int(sys.argv[2]), signal.SIGUSR2)
"""
    killer = subprocess.Popen([sys.executable, "-c", watcher, str(notes), str(os.getpid())])
    try:
        with pytest.raises(TimeLimit):
            cell()
    finally:
        killer.wait()
        signal.signal(signal.SIGUSR2, before)
    folder = tmp_path / "tiny/source_only/seed0"
    assert (folder / "checkpoint.pt").is_file()
    assert not (folder / "result.json").exists()
    assert not (folder / ".claim").exists(), "the next one need not wait for silence"
    assert saved[0].result() == {}
    begun = sorted(map(int, notes.read_text().split()))
    assert len(set(begun)) == 2, "the processes stopped after different steps"
    assert [begun.count(step) for step in sorted(set(begun))] == [processes] * 2
    assert begun[0] == 0
    fast = by_methods(data, {"tests.bench.machines:Slow": {"notes": str(notes), "seconds": 0.0}}, steps=steps)
    whole = run(fast, out=tmp_path / "whole", processes=processes)
    assert_same_scores(tmp_path / "tiny", whole.folder, ("source_only",))


def jobs_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that find what this one does; their hearts beat as usual, so that they need the usual patience."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.setattr(machines.claims, "SILENCE", 120.0)


@pytest.mark.soak
@pytest.mark.slow
def test_a_job_is_queued_again_at_its_time_limit(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """submitit's local executor: its signal, its pickle, its second start."""
    jobs_of_this_machine(monkeypatch)
    notes = tmp_path / "notes"
    content = by_methods(data, {"tests.bench.machines:Slow": {"notes": str(notes)}}, steps=100)
    engine = Slurm({"time": 1, "signal_delay_s": 35}, cluster="local")  # the signal comes after 25 seconds
    result = run(content, out=tmp_path, engine=engine)
    assert result.failed == {}
    begun = sorted({int(line) for line in notes.read_text().split()})
    assert begun[0] == 0
    assert len(begun) >= 2, "it had more time than it was to have"
    fast = by_methods(data, {"tests.bench.machines:Slow": {"notes": str(notes), "seconds": 0.0}}, steps=100)
    whole = run(fast, out=tmp_path / "whole")
    assert_same_scores(result.folder, whole.folder, ("source_only",))


@pytest.mark.slow
def test_jobs_of_this_machine_give_the_same(
    data: Path, tmp_path: Path, finished: BenchResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs_of_this_machine(monkeypatch)
    result = run(tiny.content(data), out=tmp_path, engine=Slurm(cluster="local"))
    assert result.failed == {}
    assert_same_scores(result.folder, finished.folder, ("source_only", "oracle", "fda", "adabn"))


@pytest.mark.slow
def test_jobs_in_this_process_give_the_same(data: Path, tmp_path: Path, finished: BenchResult) -> None:
    result = run(tiny.content(data), out=tmp_path, engine=Slurm(cluster="debug"))
    assert result.failed == {}
    assert_same_scores(result.folder, finished.folder, ("source_only", "oracle", "fda", "adabn"))


@pytest.mark.parametrize(
    ("limit", "expected"),
    [(90, 90), ("90", 90), ("90:00", 90), ("01:30:00", 90), ("1-12", 2160), ("1-12:30", 2190), ("1-12:30:30", 2190)],
)
def test_time_limits_are_read_as_slurm_reads_them(limit: int | str, expected: int) -> None:
    assert minutes(limit) == expected


@pytest.mark.parametrize("limit", ["", "soon", "0", "00:30", "-5", "1:2:3:4", None])
def test_what_is_no_time_limit_is_named(limit: Any) -> None:
    with pytest.raises(ConfigError, match=r"--slurm time is .*, must be minutes or a limit such as 12:00:00"):
        minutes(limit)


def test_wrong_options_are_one_line(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(tiny.content(data)))
    bench = ("bench", path, "--out", tmp_path)
    for options, message in (
        (["--engine", "pbs"], "--engine is 'pbs'; known: local, slurm"),
        (["--slurm", "time=3"], "--slurm is of --engine slurm"),
        (["--engine", "slurm", "--workers", "2"], "--slurm array_parallelism=N says how many jobs run at once"),
        (["--engine", "slurm"], "there is no srun here; call it on a login node of the cluster, or use --engine local"),
        (["--engine", "slurm", "--slurm", "partitoin=x"], "--slurm has no 'partitoin'; the nearest is 'partition'"),
        (["--engine", "slurm", "--slurm", "time=soon"], "--slurm time is 'soon'"),
    ):
        assert call(*bench, *options) == 2
        assert message in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "submitit", None)
    assert call(*bench, "--engine", "slurm") == 2
    assert "pip install 'uda-seg[slurm]'" in capsys.readouterr().err


def test_the_command_passes_its_options_on(
    mock: Any, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(tiny.content(data)))
    run_queue(mock, monkeypatch, tmp_path / "tiny")
    options = [f"--slurm={text}" for text in ("time=00:30:00", "mem=8GB", "python=apptainer exec uda.sif python")]
    assert call("bench", path, "--out", tmp_path, "--only", "source_only", "--engine", "slurm", *options) == 0
    script = (tmp_path / "tiny" / FOLDER / "13_submission.sh").read_text()
    for part in ("--time=30\n", "--mem=8GB\n", "apptainer exec uda.sif python -u -m submitit.core._submit"):
        assert part in script
    assert "source_only" in capsys.readouterr().out


def test_polls_miss_no_heartbeat() -> None:
    assert work.__dict__["POLL"] <= machines.claims.BEAT
