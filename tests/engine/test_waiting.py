"""The share of its time that a run waits for data."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from uda.engine import Settings, Trainer, waiting
from uda.engine.waiting import DataWaitWarning, Waiting
from uda.methods import Supervised
from uda.testing import TinyDataset, TinySegmenter


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def slow(clock: Clock, seconds: float, count: int) -> Iterator[int]:
    for number in range(count):
        clock.now += 50.0 if number == 0 else seconds  # the first waits for processes to start
        yield number


@pytest.mark.parametrize(("load", "step", "share"), [(3.0, 1.0, 0.75), (1.0, 9.0, 0.1), (0.0, 2.0, 0.0)])
def test_the_share_of_waiting(load: float, step: float, share: float) -> None:
    clock = Clock()
    timed = Waiting(clock)
    said = []
    for number in timed.batches(slow(clock, load, 21)):
        assert timed.share is None or number > 0
        clock.now += 7.0 if number == 0 else step
        said.append(timed.advice(workers=1))
    assert number == 20
    assert timed.share == pytest.approx(share)
    lines = [line for line in said if line]
    assert len(lines) == (share > 0.2), "once, and only where it is much"
    if lines:
        assert lines[0].startswith("training waits for data 75 % of the time")
        assert "settings.workers: 4 instead of 1" in lines[0]
        assert said.index(lines[0]) * (load + step) >= 28, "not of the first seconds"


def test_no_batch_is_no_waiting() -> None:
    timed = Waiting()
    assert list(timed.batches(iter([]))) == []
    assert timed.share is None
    assert timed.advice(0) is None


def test_a_run_says_how_long_it_waited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "_LONG", 0.0)
    monkeypatch.setattr(waiting, "MUCH", 0.0)
    settings = Settings(steps=4, crop=(32, 64), device="cpu", log_every=1)
    trainer = Trainer(TinySegmenter(), [Supervised()], settings, out=tmp_path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.fit(TinyDataset())
    assert len([warning for warning in caught if warning.category is DataWaitWarning]) == 1
    assert trainer.waited is not None
    assert 0 < trainer.waited < 1
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("time/waiting")] == [1, 2, 3]
    assert "time/waiting" not in (tmp_path / "scalars.jsonl").read_text()
