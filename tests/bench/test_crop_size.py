"""Crops much larger than the images are warned of, once and in plain words; crops that are a bit larger are not."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.bench import tiny
from tests.test_cli import call
from uda.bench import run
from uda.data.transforms import CropWarning, TrainTransform
from uda.engine import Settings, Trainer
from uda.methods import AdvEnt, Supervised
from uda.testing import TinyDataset, TinySegmenter, tiny_target
from uda.types import Sample

KITTI = ((370, 1224), (374, 1238), (375, 1242), (376, 1241))
FITS: list[tuple[dict[str, Any], tuple[int, int]]] = [
    *(({"crop": (512, 512)}, size) for size in KITTI),
    *(({"crop": (512, 1024)}, size) for size in KITTI),
    *(({"crop": (512, 512), "fit": "pixels", "scale": (0.5, 1.0)}, size) for size in KITTI),
    *(({"crop": (512, 512), "fit": "pixels", "scale": (0.5, 2.0)}, size) for size in KITTI),
    ({"crop": (96, 192)}, (96, 192)),
    ({"crop": (64, 64), "scale": (0.5, 0.5)}, (64, 96)),
    ({"crop": (96, 96), "scale": (0.8, 2.0)}, (64, 96)),
    ({"crop": (512, 512), "fit": "pixels", "scale": (1.0, 1.0), "resize": (720, 1280)}, (96, 192)),
]
FAR_TOO_LARGE: list[tuple[dict[str, Any], tuple[int, int], str]] = [
    ({"crop": (1024, 2048)}, (96, 192), r"1024x2048 is at most 96x192 pixels of .* 96x192, enlarged 10\.7 times"),
    ({"crop": (512, 512), "scale": (0.2, 0.2)}, (375, 1242), r"at most 75x75 pixels of .* 375x1242, enlarged 6\.83"),
    ({"crop": (1024, 2048), "fit": "pixels", "scale": (1.0, 1.0)}, (96, 192), r"96x192 pixels fills at most 0\.88 %"),
    ({"crop": (1024, 2048), "fit": "pixels", "scale": (0.5, 2.0)}, (96, 192), r"fills at most 3\.5 % .* 1024x2048"),
    ({"crop": (96, 192), "scale": (3.0, 4.0)}, (96, 192), r"fills at most 11 %"),
]


@pytest.mark.parametrize(("options", "size"), FITS, ids=str)
def test_what_fits_is_not_spoken_of(options: dict[str, Any], size: tuple[int, int]) -> None:
    assert TrainTransform(**options).misfit(size) is None


@pytest.mark.parametrize(("options", "size", "message"), FAR_TOO_LARGE, ids=str)
def test_what_is_far_too_large_is_said_with_its_numbers(
    options: dict[str, Any], size: tuple[int, int], message: str
) -> None:
    said = TrainTransform(**options).misfit(size)
    assert said is not None
    assert re.search(message, said)
    assert "\n" not in said


@pytest.mark.parametrize("options", [{"fit": "pixels", "scale": (0.5, 2.0)}, {"scale": (2.0, 3.0)}], ids=str)
def test_the_share_that_is_said_is_the_largest_of_many_crops(options: dict[str, Any]) -> None:
    transform = TrainTransform(crop=(200, 160), **options)
    sample = Sample(torch.zeros(3, 48, 40, dtype=torch.uint8), torch.zeros(48, 40, dtype=torch.int64), "x.png")
    shares = [float((transform(sample, seed).label == 0).float().mean()) for seed in range(60)]
    said = re.search(r"fills at most ([\d.]+) %", transform.misfit((48, 40)) or "")
    assert said is not None
    assert max(shares) == pytest.approx(float(said[1]) / 100, rel=0.15)


def settings(**changes: Any) -> Settings:
    return Settings(**{"steps": 2, "crop": (32, 64), "device": "cpu", **changes})


@pytest.mark.parametrize("changes", [{}, {"workers": 1}, {"batch_size": 1, "accumulate": 2}], ids=str)
def test_the_trainer_says_it_once_for_each_domain(changes: dict[str, Any]) -> None:
    trainer = Trainer(TinySegmenter(), [Supervised(), AdvEnt()], settings(crop=(96, 192), **changes))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.fit(TinyDataset(), tiny_target())
    said = [warning for warning in caught if issubclass(warning.category, CropWarning)]
    assert [str(warning.message).partition(":")[0] for warning in said] == [
        "settings.crop is far too large for the source",
        "settings.crop is far too large for the target",
    ]
    assert {warning.filename for warning in said} == {__file__}


def test_the_targets_own_crop_is_named_and_one_large_image_is_enough() -> None:
    own = settings(target_crop=(1024, 2048))
    sizes = {"source": [(96, 192)], "target": [(96, 192), (64, 96)]}
    assert [line.partition(":")[0] for line in own.misfits(sizes)] == [
        "settings.target_crop is far too large for the target"
    ]
    assert own.misfits({**sizes, "target": [(96, 192), (720, 1280)]}) == []
    assert own.misfits({"source": [(96, 192)]}) == []


@pytest.mark.slow
def test_a_benchmark_says_it_once_for_all_cells(tmp_path: Path, data: Path) -> None:
    content = tiny.content(data, seeds=[0, 1], controls=False, oracle=False, warm_start=None)
    large = {**content["settings"], "crop": [160, 160], "steps": 1}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = run({**content, "settings": large}, out=tmp_path / "large")
        large_warnings = [str(warning.message) for warning in caught if "far too large" in str(warning.message)]
    assert not result.failed
    assert len(large_warnings) == 2
    assert "160x160 is at most 64x64 pixels" in large_warnings[0]
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "settings.crop")
        assert not run({**content, "settings": {**large, "crop": [64, 64]}}, out=tmp_path / "fits").failed


def test_uda_train_says_it_in_a_line(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.yaml"
    content = {
        "source": {"kind": "cityscapes", "root": f"{data}/cityscapes", "split": "train"},
        "target": {"kind": "folder", "root": f"{data}/kitti/training/image_2"},
        "method": ["Supervised"],
        "model": {"weights": None},
        "settings": {"steps": 1, "crop": [160, 160], "batch_size": 1, "device": "cpu"},
    }
    file.write_text(yaml.safe_dump(content))
    assert call("train", file, "--out", tmp_path / "runs") == 0
    shown = capsys.readouterr()
    lines = [line for line in (shown.out + shown.err).splitlines() if line.startswith("warning: settings.crop is far")]
    assert len(lines) == 2
