"""Data sets that are read from their zip archives."""

from __future__ import annotations

import os
import zipfile
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from tests.data.contract import picture, write
from uda.cli import main
from uda.data import ArchiveError, Cityscapes, DataError, Unlabelled, archives, load
from uda.data.pairs import Pairs
from uda.data.transforms import TrainTransform

NAME = "leftImg8bit/val/ulm/ulm_000000_000019_leftImg8bit.png"
LABEL = "gtFine/val/ulm/ulm_000000_000019_gtFine_labelIds.png"


def pack(archive: Path, contents: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    archive.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(archive, "w", compression) as file:
        for name, content in contents.items():
            file.writestr(name, content)
    return archive


def png(folder: Path, pixels: np.ndarray) -> bytes:
    return write(folder / "made.png", pixels).read_bytes()


@pytest.fixture
def contents(tmp_path: Path) -> dict[str, bytes]:
    image, label = png(tmp_path, picture(0, (40, 80))), png(tmp_path, np.full((40, 80), 7, np.uint8))
    return {NAME: image, LABEL: label, "README": b"read", "__MACOSX/._x.png": b""}


@pytest.mark.parametrize("form", ["an archive", "a folder around it", "a folder in it"])
def test_an_archive_is_a_root(tmp_path: Path, contents: dict[str, bytes], form: str) -> None:
    around = "" if form == "an archive" else "Cityscapes-1.0/"
    archive = pack(tmp_path / "all.zip", {f"{around}{name}": content for name, content in contents.items()})
    root = archive / "Cityscapes-1.0" if form == "a folder in it" else archive
    data = load("cityscapes", split="val", root=root)
    assert data.names == [NAME]
    assert (data[0].image.permute(1, 2, 0).numpy() == picture(0, (40, 80))).all()
    assert set(data[0].label.unique().tolist()) == {0}
    folder = Unlabelled.folder(root)
    assert folder.names == [f"{'' if root != archive else around}{LABEL}", f"{'' if root != archive else around}{NAME}"]


def test_what_is_unpacked_goes_before_an_archive(tmp_path: Path, contents: dict[str, bytes]) -> None:
    pack(tmp_path / "set/images.zip", contents)
    write(tmp_path / "set" / NAME, picture(3, (40, 80)))
    assert (Cityscapes(tmp_path / "set", "val")[0].image.permute(1, 2, 0).numpy() == picture(3, (40, 80))).all()


def test_errors_name_archive_and_member(tmp_path: Path, contents: dict[str, bytes]) -> None:
    archive = pack(tmp_path / "set/all.zip", contents)
    where = f"{archive}: member {NAME}"
    whole = archive.read_bytes()
    at = whole.index(contents[NAME]) + 60

    def message(content: bytes, number: int) -> str:
        archive.write_bytes(content)
        os.utime(archive, ns=(number, number))
        archives._looked.clear()
        with pytest.raises(DataError) as error:
            Cityscapes(tmp_path / "set", "val")[0]
        return str(error.value)

    flipped = message(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :], 1)
    assert flipped.startswith(where)
    assert "CRC" in flipped
    assert message(whole[: len(whole) // 2], 2).startswith(f"{archive}: damaged, or no zip archive")
    encrypted = bytearray(whole)
    for start, place in ((b"PK\1\2", 8), (b"PK\3\4", 6)):
        encrypted[whole.index(start) + place] |= 1
    assert "encrypted" in message(bytes(encrypted), 3)
    pack(archive, {**contents, NAME: b"no image"})
    assert f"{where}: cannot be decoded as an image" in message(archive.read_bytes(), 4)
    pack(archive, {**contents, LABEL: png(tmp_path, np.full((40, 80), 99, np.uint8))})
    unknown = message(archive.read_bytes(), 5)
    assert unknown.startswith(f"{archive}: member {LABEL}: unknown id 99 (3200 pixels)")
    pack(archive, {name: content for name, content in contents.items() if name != LABEL})
    assert "no label at" in message(archive.read_bytes(), 6)


def test_a_member_that_claims_to_be_huge_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = pack(tmp_path / "a.zip", {"x.png": b"1234"})
    monkeypatch.setattr(archives, "LARGEST", 3)
    with pytest.raises(ArchiveError, match=r"a.zip: member x.png has 4 bytes, at most 3 are read"):
        archives.read(archive / "x.png")


def test_a_changed_archive_is_noticed(tmp_path: Path, contents: dict[str, bytes]) -> None:
    archive = pack(tmp_path / "set/all.zip", contents)
    data = Cityscapes(tmp_path / "set", "val", cache=tmp_path / "cache")
    first = data[0].image
    archive.unlink()
    pack(archive, {**contents, NAME: png(tmp_path, picture(5, (40, 80)))})
    archives._looked.clear()
    assert (data[0].image != first).any()
    assert (data[0].image.permute(1, 2, 0).numpy() == picture(5, (40, 80))).all()


def _sum(folder: Path, cache: Path | None) -> int:
    return sum(int(sample.image.sum()) for _ in range(20) for sample in Unlabelled.folder(folder, cache=cache))


@pytest.mark.parametrize("packed", [True, False], ids=["archive", "files"])
def test_processes_share_an_archive_and_a_cache(tmp_path: Path, packed: bool) -> None:
    contents = {f"{n}.png": png(tmp_path, picture(n, (40, 80))) for n in range(6)}
    archive = pack(tmp_path / "all.zip", contents, zipfile.ZIP_DEFLATED)
    if not packed:
        zipfile.ZipFile(archive).extractall(archive := tmp_path / "all")
    expected = 20 * sum(int(picture(n, (40, 80)).sum()) for n in range(6))
    assert _sum(archive, None) == expected  # opens it before the fork
    with get_context("fork").Pool(2) as pool:
        assert pool.starmap(_sum, [(archive, None), (archive, None)]) == [expected] * 2
        assert pool.starmap(_sum, [(archive, tmp_path / "cache")] * 2) == [expected] * 2
    assert len(list((tmp_path / "cache").iterdir())) == 6, "an entry an image, and nothing half written"


def test_workers_read_archives(tmp_path: Path, contents: dict[str, bytes]) -> None:
    pack(tmp_path / "set/all.zip", contents)
    pairs = Pairs(Cityscapes(tmp_path / "set", "val"), None, TrainTransform(crop=(32, 64)), batch_size=1)
    loaded = list(pairs.loader(0, 3, workers=1))
    assert all((batch["source"].images == pairs[step]["source"].images).all() for step, batch in enumerate(loaded))


def test_commands_read_archives(tmp_path: Path, contents: dict[str, bytes], capsys: pytest.CaptureFixture[str]) -> None:
    pack(tmp_path / "set/all.zip", contents)
    sheet = tmp_path / "sheet.png"
    for command in (
        ["data", "check", "cityscapes", str(tmp_path / "set"), "--split", "val"],
        ["data", "check", "cityscapes", str(tmp_path / "set/all.zip"), "--split", "val"],
        ["data", "check", str(tmp_path / "set/all.zip/leftImg8bit")],
        ["data", "show", "cityscapes", str(tmp_path / "set"), "--split", "val", "--out", str(sheet)],
    ):
        with pytest.raises(SystemExit) as done:
            main(command)
        assert not done.value.code
        assert "80x40" in capsys.readouterr().out, command
    assert sheet.is_file()
