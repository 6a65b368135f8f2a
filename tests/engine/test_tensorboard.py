"""What stands on disk while a run goes on."""

from __future__ import annotations

from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from uda.engine.tensorboard import RunLog, read_scalars


def test_scalars_are_on_disk_when_the_call_returns(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    for step in range(30):
        log.scalars({"loss/Supervised/segmentation": float(step)}, step)
    # not closed: the process may be killed here, and a checkpoint that follows must not be newer than the curves
    events = EventAccumulator(str(tmp_path / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    assert [one.value for one in events.Scalars("loss/Supervised/segmentation")] == list(range(30))
    assert [line["step"] for line in read_scalars(tmp_path)] == list(range(30))
    log.close()
