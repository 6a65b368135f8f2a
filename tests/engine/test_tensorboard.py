"""What stands on disk while a run goes on."""

from __future__ import annotations

from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from uda.engine import Settings, Trainer
from uda.engine.tensorboard import RunLog, read_scalars
from uda.methods import Supervised
from uda.testing.tiny import TinyDataset, TinySegmenter


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


def test_pictures_of_labelled_target_images_are_not_called_the_sources(tmp_path: Path) -> None:
    trainer = Trainer(
        TinySegmenter(), [Supervised()], Settings(steps=1, crop=(32, 32)), out=tmp_path, labelled="oracle"
    )
    trainer.fit(TinyDataset(), None)
    events = EventAccumulator(str(tmp_path / "tensorboard"), size_guidance={"images": 0})
    events.Reload()
    tags = events.Tags()["images"]
    assert {"oracle/input", "oracle/prediction", "oracle/label", "oracle/error"} <= set(tags)
    assert not [tag for tag in tags if tag.startswith("source")]
