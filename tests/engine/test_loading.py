"""What a trainer leaves is a model that everything else opens."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.bench import tiny
from tests.test_cli import call
from uda.data import Cityscapes, Kitti
from uda.engine import Settings, Trainer, evaluate
from uda.methods import ClassMix, Supervised
from uda.models import Segmenter, load


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_data(tmp_path_factory.mktemp("streets"))


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Trainer]:
    out = tmp_path_factory.mktemp("runs") / "mine"
    settings = Settings(steps=2, crop=(64, 64), batch_size=1, device="cpu", batch_norm="per_domain")
    model = Segmenter(19, decoder="FPN", weights=None)
    trainer = Trainer(model, [Supervised(), ClassMix()], settings, out=out)
    trainer.fit(Cityscapes(data / "cityscapes"), Kitti(data / "kitti").unlabelled())
    return out, trainer


def test_student_and_teacher_come_back_as_the_trainer_scores_them(data: Path, trained: tuple[Path, Trainer]) -> None:
    out, trainer = trained
    assert trainer.update.teacher is not None
    kitti = Kitti(data / "kitti", split="val")
    for name, model in (("student", trainer.model), ("teacher", trainer.update.teacher.model)):
        loaded = load(out, network=name)  # type: ignore[arg-type]
        assert loaded.space.names == kitti.space.names
        again, scored = evaluate(loaded, kitti), evaluate(model, kitti)
        assert (again.confusions == scored.confusions).all()
        torch.testing.assert_close(torch.from_numpy(again.losses), torch.from_numpy(scored.losses))


def test_a_run_without_a_benchmark_is_scored_and_predicted_from_anywhere(
    data: Path,
    trained: tuple[Path, Trainer],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    out, _ = trained
    monkeypatch.chdir(tmp_path)
    kitti = ["--kind", "kitti", "--root", data / "kitti", "--split", "val"]
    assert call("eval", out, *kitti, "--test-time", "PredictionTimeBN") == 0
    assert call("eval", out / "checkpoint.pt", *kitti, "--evaluate", "model=teacher") == 0
    assert call("predict", out, data / "kitti/training/image_2", "--out", "predicted") == 0
    assert len(list((tmp_path / "predicted/train_ids").glob("*.png"))) == 6
    capfd.readouterr()
    assert call("eval", out) == 2
    assert "this model comes without data sets of its own; --kind and --root say" in capfd.readouterr().err
    assert call("eval", out, *kitti, "--space", "cityscapes19") == 2
    assert "has its own label space; leave --space out" in capfd.readouterr().err
    assert call("predict", tmp_path / "nothing", data, "--out", "x") == 2
    assert "nothing: no such folder" in capfd.readouterr().err
