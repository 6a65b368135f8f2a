"""Statistics, the data check, contact sheets and mixtures."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from tests.data.contract import picture, write
from uda.data import CamVid, DataError, Kitti, Mixture, Unlabelled
from uda.data.balance import balanced
from uda.data.check import check, show
from uda.data.encode import write_image
from uda.data.mixture import JoinedImages
from uda.data.statistics import (
    KITTI_STATS,
    ChannelSums,
    channel_stats,
    class_counts,
    image_class_counts,
    image_sizes,
    published_stats,
)
from uda.types import LabelledDataset

REAL = Path(os.environ.get("UDA_DATA", "/nonexistent"))
needs_data = pytest.mark.skipif(not REAL.is_dir(), reason="UDA_DATA is not set")


@pytest.fixture
def camvid(tmp_path: Path) -> Path:
    """Three images of two sizes; class 0 everywhere but the last row (void) and one pixel of class 3."""
    for number, size in enumerate([(6, 8), (4, 10), (6, 8)]):
        label = np.zeros(size, np.uint8)
        label[-1], label[0, 0] = 11, 3
        write(tmp_path / f"train/{number}.png", picture(number, size))
        write(tmp_path / f"trainannot/{number}.png", label)
    return tmp_path


def test_channel_stats_are_those_of_all_pixels(camvid: Path) -> None:
    pixels = np.concatenate([picture(n, s).reshape(-1, 3) for n, s in enumerate([(6, 8), (4, 10), (6, 8)])]) / 255
    mean, std = channel_stats(CamVid(camvid))
    assert np.allclose(mean, pixels.mean(0), atol=1e-7)
    assert np.allclose(std, pixels.std(0), atol=1e-7)
    assert mean.shape == std.shape == (3,)
    limited = channel_stats(CamVid(camvid).unlabelled(), limit=1)
    assert np.allclose(limited.mean, picture(0, (6, 8)).reshape(-1, 3).mean(0) / 255, atol=1e-7)


def test_channel_stats_of_large_bright_images_do_not_overflow() -> None:
    sums = ChannelSums()
    for _ in range(3):
        sums.add(torch.full((3, 1024, 2048), 255, dtype=torch.uint8))
    mean, std = sums.stats()
    assert (mean == 1).all()
    assert (std == 0).all()
    with pytest.raises(ValueError, match="no pixels"):
        ChannelSums().stats()


def test_channel_stats_never_decode_labels(camvid: Path) -> None:
    data = CamVid(camvid)
    for path in (camvid / "trainannot").iterdir():
        path.unlink()
    assert channel_stats(data).mean.shape == (3,)


def test_class_counts(camvid: Path) -> None:
    counts = image_class_counts(CamVid(camvid))
    assert counts.dtype == torch.int64
    assert counts[:, 0].tolist() == [39, 29, 39]
    assert counts[:, 3].tolist() == [1, 1, 1]
    assert int(counts.sum()) == 110
    assert torch.equal(class_counts(CamVid(camvid)), counts.sum(0))
    assert class_counts(CamVid(camvid).remap("street8")).shape == (8,)


def test_published() -> None:
    assert published_stats("KITTI") is KITTI_STATS
    assert published_stats("cityscapes").std.tolist() == pytest.approx([0.176, 0.181, 0.178])
    with pytest.raises(ValueError, match="the nearest is 'kitti'"):
        published_stats("kity")


def test_check_counts(camvid: Path) -> None:
    seen: list[int] = []
    report = check(CamVid(camvid), lambda: seen.append(1))
    assert len(seen) == report.samples == 3
    assert report.sizes == {(6, 8): 2, (4, 10): 1}
    assert report.pixels[[0, 3]].tolist() == [107, 3]
    assert report.images_with[[0, 1, 3]].tolist() == [3, 0, 3]
    assert report.ignored == 26
    assert report.shares.sum() == pytest.approx(1)
    text = "\n".join(report.lines())
    for part in ("camvid/train: 3 samples", "8x6 (2), 10x4 (1)", "97.273% of pixels in     3 images", "no problems"):
        assert part in text


def test_check_collects_all_problems(camvid: Path) -> None:
    write(camvid / "trainannot/0.png", np.full((6, 8), 77, np.uint8))
    (camvid / "train/1.png").write_bytes(b"not an image")
    (camvid / "trainannot/2.png").unlink()
    write(camvid / "train/3.png", picture(0, (6, 8)))
    write(camvid / "trainannot/3.png", np.zeros((5, 8), np.uint8))
    report = check(CamVid(camvid, strict=False))
    text = "\n".join(report.lines())
    assert not report.ok
    assert report.unknown == {77: 48}
    assert "problems: 5" in text, "the four, and that no labelled pixel is left"
    for part in (
        "trainannot/0.png: unknown id 77 (48 pixels)",
        "1.png: cannot be decoded",
        "no label at",
        "label is 8x5",
    ):
        assert part in text
    assert "unknown id 77: 48 pixels" in text


def test_check_of_images_and_mixtures(camvid: Path) -> None:
    images = check(CamVid(camvid).unlabelled())
    assert images.space is None
    assert images.samples == 3
    assert images.ok
    mixed = check(Mixture([(CamVid(camvid), 1.0), (CamVid(camvid, limit=1), 0.5)]))
    assert mixed.samples == 4
    assert int(mixed.pixels.sum()) == 150


def test_contact_sheet(camvid: Path) -> None:
    data = CamVid(camvid)
    sheet = cv2.imread(str(show(data, camvid / "out/sheet.png", 2, width=40)))
    assert sheet.shape[1] == 2 * 44
    assert sheet.shape[0] > 2 * 20 + 30
    assert cv2.imread(str(show(data.unlabelled(), camvid / "images.png", 9, width=40))).shape[1] == 44
    covered = cv2.imread(str(show(data, camvid / "full.png", 1, width=8, opacity=1.0)))[:, :, ::-1]
    tile = covered[18:24, 12 + 2 : 12 + 10]
    assert (tile[1, 3] == data.space.colours[0]).all()
    assert (tile[0, 0] == data.space.colours[3]).all()
    assert (tile[-1] == picture(0, (6, 8))[-1]).all(), "ignored pixels show the image"
    for wrong in ({"count": 0}, {"count": 1, "opacity": 2.0}):
        with pytest.raises(ValueError, match="count must be"):
            show(data, camvid / "x.png", **wrong)


def test_mixture(camvid: Path) -> None:
    parts = CamVid(camvid), CamVid(camvid).subset([2])
    mixed = Mixture([(parts[0], 1.0), (parts[1], 0.5)])
    assert isinstance(mixed, LabelledDataset)
    assert len(mixed) == len(list(mixed)) == 4
    assert [sample.weight for sample in mixed] == [1.0, 1.0, 1.0, 0.5]
    assert mixed.names == ["train/0.png", "train/1.png", "train/2.png", "train/2.png"]
    assert torch.equal(mixed[3].image, parts[0][2].image)
    assert torch.equal(mixed[-1].image, mixed[3].image)
    assert torch.equal(mixed.label(3), mixed[3].label)
    assert [s.weight for s in mixed.subset([3, 0])] == [1.0, 0.5]
    assert mixed.remap("street8")[0].label.max() <= 255
    assert mixed.remap("street8").space.num_classes == 8
    view = mixed.unlabelled()
    assert isinstance(view, JoinedImages)
    assert not isinstance(view, LabelledDataset)
    assert [sample.label for sample in view] == [None] * 4
    assert view.names == mixed.names
    for data in (mixed, view):
        with pytest.raises(IndexError):
            data[4]
    assert Mixture([(mixed, 0.5)])[3].weight == 0.25


def test_wrong_mixtures(camvid: Path) -> None:
    data = CamVid(camvid)
    with pytest.raises(ValueError, match="at least one"):
        Mixture([])
    with pytest.raises(ValueError, match="weight"):
        Mixture([(data, -1.0)])
    with pytest.raises(ValueError, match="weight"):
        Mixture([(data, float("nan"))])
    with pytest.raises(ValueError, match="remap one of them"):
        Mixture([(data, 1.0), (data.remap("street8"), 1.0)])
    with pytest.raises(ValueError, match="balance must be one of image, domain, weight, not 'size'"):
        balanced([(data, 1.0)], "size")
    with pytest.raises(ValueError, match="above 0"):
        balanced([(data, 0.0), (data, 1.0)], "weight")


def test_a_balance_is_of_the_identity_and_stays_in_other_spaces_and_subsets(camvid: Path) -> None:
    parts = [(CamVid(camvid), 1.0), (CamVid(camvid).subset([2]), 3.0)]
    plain = balanced(parts).identity()
    assert plain == Mixture(parts).identity(), "as in older runs"
    for balance, expected in {"domain": [0.5, 0.5], "weight": [0.25, 0.75]}.items():
        mixed = balanced(parts, balance)
        assert [part["share"] for part in mixed.identity()["parts"]] == expected
        assert mixed[3].weight == (1.0 if balance == "weight" else 3.0)
        assert mixed.subset([0, 3]).shares == mixed.remap("street8").shares == mixed.shares


def test_unlabelled_folder(camvid: Path) -> None:
    view = Unlabelled.folder(camvid / "train", limit=2)
    assert view.names == ["0.png", "1.png"]
    assert view.subset([1]).names == ["1.png"]
    with pytest.raises(DataError, match="no such folder"):
        Unlabelled.folder(camvid / "nowhere")


@needs_data
def test_real_kitti_is_sound() -> None:
    report = check(Kitti(REAL / "kitti", "all", strict=False))
    assert report.ok, report.problems[:3]
    assert report.samples == 200
    assert len(report.sizes) == 4
    # full-resolution statistics were published; half the resolution changes deviations slightly
    assert torch.allclose(report.stats.mean, KITTI_STATS.mean, atol=0.01)
    assert torch.allclose(report.stats.std, KITTI_STATS.std, atol=0.02)


@needs_data
def test_real_camvid_is_sound() -> None:
    report = check(CamVid(REAL / "camvid", "val", strict=False))
    assert report.ok, report.problems[:3]
    assert report.sizes == {(360, 480): 101}
    assert (report.pixels > 0).all()


def test_sizes_of_files_and_what_is_none(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", np.zeros((5, 7, 3), dtype=np.uint8))
    write_image(tmp_path / "b.jpg", np.zeros((9, 4, 3), dtype=np.uint8))
    files: Any = SimpleNamespace(image_files=[tmp_path / "a.png", tmp_path / "b.jpg"])
    assert image_sizes(files) == [(5, 7), (9, 4)]
    (tmp_path / "c.png").write_text("no image")
    for name, message in (("c.png", "cannot be decoded as an image"), ("d.png", "No such file")):
        with pytest.raises(DataError, match=f"{name}: {message}"):
            image_sizes(SimpleNamespace(image_files=[tmp_path / name]))
