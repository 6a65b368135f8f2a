"""Which images are of one recording."""

from __future__ import annotations

from pathlib import Path

import pytest

from uda.data import Acdc, CamVid, Cityscapes, Kitti, streets
from uda.data.base import FileDataset
from uda.data.kitti import FIRST_OF_DRIVE, VAL_NUMBERS

SAME: list[tuple[type[FileDataset], str, str, bool]] = [
    (CamVid, "train/0016E5_00390.png", "train/0016E5_08640.png", True),
    (CamVid, "train/0016E5_00390.png", "test/Seq05VD_f00030.png", False),
    (Cityscapes, "a/frankfurt_000001_000019_leftImg8bit.png", "a/frankfurt_000001_062396_leftImg8bit.png", True),
    (Cityscapes, "a/frankfurt_000001_000019_leftImg8bit.png", "a/frankfurt_000000_000294_leftImg8bit.png", False),
    (Acdc, "rgb_anon/fog/val/GOPR0475/GOPR0475_frame_1_rgb_anon.png", "rgb_anon/fog/val/GOPR0475/x.png", True),
    (Acdc, "rgb_anon/fog/val/GOPR0475/a.png", "rgb_anon/fog/val/GOPR0476/a.png", False),
    (Kitti, "training/image_2/000022_10.png", "training/image_2/000033_10.png", True),
    (Kitti, "training/image_2/000033_10.png", "training/image_2/000034_10.png", False),
    (Kitti, "training/image_2/000170_10.png", "training/image_2/000198_10.png", True),
    (Kitti, "testing/image_2/000022_10.png", "testing/image_2/000033_10.png", False),
]


@pytest.mark.parametrize(("reader", "first", "second", "same"), SAME)
def test_images_of_one_recording(reader: type[FileDataset], first: str, second: str, same: bool) -> None:
    assert (reader.sequence(first) == reader.sequence(second)) == same


def test_kittis_validation_images_are_of_nineteen_drives() -> None:
    drives = {Kitti.sequence(f"training/image_2/{number:06d}_10.png") for number in VAL_NUMBERS}
    assert len(drives) == 19
    assert list(FIRST_OF_DRIVE) == sorted(set(FIRST_OF_DRIVE))


@pytest.mark.parametrize("domain", ["cityscapes", "kitti"])
def test_procedural_streets_are_independent(tmp_path: Path, domain: str) -> None:
    streets.generate(tmp_path, domain, {"val": 3}, size=(64, 96))
    reader = {"cityscapes": Cityscapes, "kitti": Kitti}[domain](tmp_path, "val")
    assert reader.sequences == reader.names
