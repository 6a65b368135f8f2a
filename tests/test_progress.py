"""What the console shows while runs train."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from rich.console import Console
from rich.progress import Progress

from tests.bench import tiny
from uda import progress as module
from uda.bench import Event, run
from uda.bench.plan import make_plan
from uda.bench.work import Job, Task, Work
from uda.config import load_config
from uda.engine import Settings, Trainer
from uda.engine.tensorboard import last_scalars
from uda.methods import Supervised
from uda.progress import StepProgress, bars, columns, losses_of
from uda.testing import TinyDataset, TinySegmenter


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, to be set."""
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def test_plain_lines_come_now_and_then(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    lines = StepProgress(seconds=10)
    for done in range(1, 31):
        lines.step("fda/seed0", done, 100, {"Supervised/segmentation": 1 / done} if done % 5 == 0 else {})
        lines.step("[red]/seed1", done, 30, {})
        clock[0] += 0.5
    out, err = capsys.readouterr()
    assert out == ""
    # from step 1 at 100 s, two a second: step 21 comes at 110 s
    assert err.splitlines() == [
        "fda/seed0: 21/100, 0:00:40 left, 2 it/s, Supervised/segmentation 0.05",
        "[red]/seed1: 21/30, 0:00:04 left, 2 it/s",
    ]


def test_a_resumed_run_has_the_rate_of_this_call(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    lines = StepProgress(seconds=0)
    lines.step("a", 1000, 2000, {})
    clock[0] += 8
    lines.step("a", 1002, 2000, {})
    assert capsys.readouterr().err.splitlines()[-1] == "a: 1002/2000, 1:06:32 left, 4 s/it"


def test_a_terminal_has_a_line_a_run_until_it_ends() -> None:
    console = Console(file=io.StringIO(), width=150, force_terminal=True, color_system=None)
    with Progress(*columns(), console=console, auto_refresh=False) as progress:
        lines = StepProgress(progress)
        lines.step("[red]fda", 1, 10, {})
        lines.step("[red]fda", 5, 10, {"Supervised/segmentation": 0.25})
        lines.step("[red]fda", 6, 10, {})
        assert [(task.description, task.completed) for task in progress.tasks] == [("  [red]fda", 6)]
        progress.refresh()
        lines.end("[red]fda")
        lines.end("never began")
        assert progress.tasks == []
    text = console.file.getvalue()
    assert "[red]fda" in text
    assert "6/10" in text
    assert "Supervised/segmentation 0.25" in text


def test_no_terminal_has_no_bars() -> None:
    with bars() as shown:
        assert shown is None


def test_a_trainer_shows_its_losses_where_it_is_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.StepProgress.__init__, "__kwdefaults__", {"seconds": 0.0})
    settings = Settings(steps=3, crop=(32, 32), log_every=1, device="cpu")
    for shown in (True, None):
        torch.manual_seed(0)
        Trainer(TinySegmenter(), [Supervised()], settings, progress=shown).fit(TinyDataset())
        lines = capsys.readouterr().err.splitlines()
        assert len([line for line in lines if "Supervised/segmentation" in line]) == (3 if shown else 0)


def test_a_benchmark_tells_its_steps(tmp_path: Path) -> None:
    events: list[Event] = []
    data = tiny.write_data(tmp_path / "data")
    content = tiny.content(data, methods={"source_only": ["Supervised"]}, oracle=False, warm_start=None)
    run(content, out=tmp_path, report=events.append)
    steps = [event for event in events if event.kind == "step"]
    assert [(event.cell, event.step, event.steps) for event in steps] == [
        ("source_only/seed0", 1, 2), ("source_only/seed0", 2, 2)
    ]  # fmt: skip
    assert set(steps[-1].losses) == {"Supervised/segmentation"}
    # of other processes the same is known by what they log
    config, told = load_config(content), list[Event]()
    cells = make_plan(config)
    job = Job(config, cells, tmp_path / "tiny")
    work = Work([job], False, told.append)
    work.running = [Task(job, cell) for cell in cells]
    seen: dict[str, int] = {}
    work.look(seen)
    work.look(seen)
    assert [(event.cell, event.step, event.steps) for event in told] == [("source_only/seed0", 2, 2)]
    assert told[0].losses == pytest.approx(dict(steps[-1].losses))


def test_the_last_record_is_found_in_a_log_that_is_being_written(tmp_path: Path) -> None:
    assert last_scalars(tmp_path) == {}
    record = '{"step": 7, "lr": 0.1, "loss/a": 2.0}\n'
    log = tmp_path / "scalars.jsonl"
    log.write_text('{"step": 1, "lr": 0.1}\n' * 9000 + record + '{"step": 7, "miou/target": 0.5}\n{"step": 8, "l')
    assert losses_of(last_scalars(tmp_path)) == {"a": 2.0}
    log.write_bytes(b"\xff\x00" * 100)
    assert last_scalars(tmp_path) == {}
