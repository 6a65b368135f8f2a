"""A folder of one's own: void colours, names with blanks, masks that were compressed with loss, the commands."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.test_cli import call
from uda.data import DataError
from uda.data.check import check
from uda.data.encode import write_image
from uda.data.folder import Folder

CLASSES = ["road", {"name": "car", "colour": [0, 0, 142]}]
ROAD = (128, 64, 128)


def picture(path: Path, *, seed: int = 0) -> None:
    write_image(path, np.random.default_rng(seed).integers(0, 256, (8, 12, 3), dtype=np.uint8))


def mask(path: Path) -> np.ndarray:
    """Road, car, black and red columns."""
    colours = np.array([ROAD, (0, 0, 142), (0, 0, 0), (255, 0, 0)], dtype=np.uint8)
    write_image(path, np.tile(np.repeat(colours, 3, axis=0), (8, 1, 1)))
    return np.tile(np.repeat(np.array([0, 1, 255, 255]), 3), (8, 1))


def test_void_colours_are_ignored(tmp_path: Path) -> None:
    picture(tmp_path / "images/a.png")
    expected = mask(tmp_path / "labels/a.png")
    data = Folder(tmp_path, classes=CLASSES, void=[7, [0, 0, 0], [255, 0, 0]])
    np.testing.assert_array_equal(data[0].label, expected)
    assert data.raw_space.void_ids == (7,)
    with pytest.raises(DataError, match=r"colour \(255, 0, 0\)"):
        Folder(tmp_path, classes=CLASSES, void=[[0, 0, 0]])[0]


@pytest.mark.parametrize(
    ("void", "message"),
    [
        (["black"], "void: 'black' is neither an id nor an RGB colour"),
        ([[0, 0]], r"void: \[0, 0\] is neither"),
        ([[0, 0, 256]], r"void: colour \[0, 0, 256\] is not three numbers in 0..255"),
        ([[0, 0, 142]], "means both"),
        ([True], "void: True is neither"),
        ("sky", "void: 'sky' is neither"),
    ],
)
def test_wrong_void(void: list[object], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        Folder(tmp_path, classes=CLASSES, void=void)


def test_a_list_with_blanks_in_names(tmp_path: Path) -> None:
    for name in ("my image 1.png", "plain.png", "Bob's car.png", "labels/my mask.png", "labels/plain.png"):
        picture(tmp_path / name)
    for name in ("my image 1.png", "Bob's car.png"):
        mask(tmp_path / "labels" / name)
    (tmp_path / "list.txt").write_text(
        "my image 1.png labels/my mask.png\nplain.png labels/my mask.png\nmy image 1.png\nBob's car.png\n"
        "'my image 1.png' labels/plain.png\nplain.png\n"
    )
    data = Folder(tmp_path, classes=CLASSES, images="list.txt")
    pairs = [(item.image.name, item.label.name) for item in data.items]
    assert pairs == [
        ("my image 1.png", "my mask.png"),
        ("plain.png", "my mask.png"),
        ("my image 1.png", "my image 1.png"),
        ("Bob's car.png", "Bob's car.png"),
        ("my image 1.png", "plain.png"),
        ("plain.png", "plain.png"),
    ]
    picture(tmp_path / "my image 1.png labels/my mask.png")  # the line as one name
    with pytest.raises(DataError, match=r"list.txt, line 1: may be .* there are files for both; quote names"):
        Folder(tmp_path, classes=CLASSES, images="list.txt")


def test_lossy_masks_are_named_once(tmp_path: Path) -> None:
    for number in range(5):
        picture(tmp_path / f"images/{number}.png")
        mask(tmp_path / f"labels/{number}.png")
    report = check(Folder(tmp_path, classes=CLASSES, void=[[0, 0, 0], [255, 0, 0]]))
    assert report.ok
    noise = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    for number in (1, 3):
        write_image(tmp_path / f"labels/{number}.png", noise)
    for number in (0, 2, 4):  # by the content, whatever the name says
        done, data = cv2.imencode(".jpg", noise)
        assert done
        (tmp_path / f"labels/{number}.png").write_bytes(data.tobytes())
    report = check(Folder(tmp_path, classes=CLASSES))
    lossy, blurred = report.problems[:2]
    assert lossy.startswith("3 label files are compressed with loss, such as ")
    assert str(tmp_path / "labels/0.png") in lossy
    assert blurred.startswith("2 label files with more than 32 unknown ids or colours each")
    assert f"{tmp_path / 'labels/1.png'} (96)" in blurred
    assert len(report.problems) == 3  # and that no pixel is of any class
    assert len(report.lines()) < 40


def test_the_commands_take_a_plain_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture(tmp_path / "images/a.png")
    mask(tmp_path / "labels/a.png")
    void = "void=[[0, 0, 0], [255, 0, 0]]"
    classes = "classes=[road, {name: car, colour: [0, 0, 142]}]"
    for kind in (["folder"], []):
        assert call("data", "check", *kind, tmp_path, "--set", classes, "--set", void) == 0
        out = capsys.readouterr().out
        assert "no problems" in out
        assert "car" in out
    assert call("data", "check", tmp_path) == 0
    captured = capsys.readouterr()
    assert "images alone; --set classes=" in captured.err
    assert "1 samples" in captured.out
    assert call("data", "check", tmp_path / "nowhere") == 2
    assert call("data", "check", tmp_path, "--set", "classes=[road]") == 1
