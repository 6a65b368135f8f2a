"""Archives: good ones come out as they are, each sort of evil one is refused and leaves nothing."""

from __future__ import annotations

import io
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from uda.data.errors import ArchiveError
from uda.data.unpack import Limits, unpack

FILES = {"set/a.png": b"\x89PNG" + bytes(range(256)) * 20, "set/deep/b.txt": b"text", "c": b""}


def zipped(path: Path, *members: tuple[str | zipfile.ZipInfo, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members:
            file.writestr(name, content, zipfile.ZIP_DEFLATED)
    return path


def tarred(path: Path, *members: tuple[str | tarfile.TarInfo, bytes], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as file:
        for member, content in members:
            info = tarfile.TarInfo(member) if isinstance(member, str) else member
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return path


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def zip_mode(name: str, mode: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return info


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", ["zip", "w", "w:gz", "w:bz2", "w:xz"])
def test_what_is_packed_comes_out(kind: str, tmp_path: Path) -> None:
    pack = zipped if kind == "zip" else lambda path, *members: tarred(path, *members, mode=kind)
    archive = pack(tmp_path / "no ending", *FILES.items())
    ticks: list[int] = []
    size = unpack(archive, tmp_path / "out", tick=ticks.append)
    assert content(tmp_path / "out") == FILES
    assert size == sum(map(len, FILES.values())) == ticks[-1]
    with pytest.raises(FileExistsError, match="is not empty"):
        unpack(archive, tmp_path / "out")
    assert content(tmp_path / "out") == FILES


def test_what_a_mac_adds_and_permissions_are_left_out(tmp_path: Path) -> None:
    members = [("a", b"1"), ("__MACOSX/._a", b"2"), (".DS_Store", b"3"), (zip_mode("run", stat.S_IFREG | 0o4777), b"4")]
    unpack(zipped(tmp_path / "x.zip", *members), tmp_path / "out")
    assert content(tmp_path / "out") == {"a": b"1", "run": b"4"}
    assert not (tmp_path / "out/run").stat().st_mode & 0o7111


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_folders_may_be_named_again_and_backslashes_are_folders(tmp_path: Path) -> None:
    unpack(zipped(tmp_path / "x.zip", ("d/", b""), ("d/a", b"1"), ("d/", b""), ("d\\b", b"2")), tmp_path / "out")
    assert content(tmp_path / "out") == {"d/a": b"1", "d/b": b"2"}


ESCAPES = ["../evil", "a/../../evil", "/evil", "C:\\evil", "C:evil", "..\\evil", "a\x1b[2Jb", "a/.."]


@pytest.mark.parametrize("name", ESCAPES)
@pytest.mark.parametrize("pack", [zipped, tarred])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_paths_that_lead_out(pack, name: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "here").mkdir()
    archive = pack(tmp_path / "here/x", ("fine", b"1"), (name, b"evil"))
    with pytest.raises(ArchiveError, match=r"absolute path|climbs out|do not print") as error:
        unpack(archive, tmp_path / "here/out")
    assert str(archive) in str(error.value)
    assert "\x1b" not in str(error.value)
    assert [path.name for path in tmp_path.rglob("*")] == ["here", "x"]


@pytest.mark.parametrize(
    ("member", "why"),
    [
        (special("l", tarfile.SYMTYPE, "/etc/passwd"), "is a link"),
        (special("l", tarfile.SYMTYPE, "fine"), "is a link"),
        (special("l", tarfile.LNKTYPE, "fine"), "is a link"),
        (special("l", tarfile.CHRTYPE), "is no plain file"),
        (special("l", tarfile.BLKTYPE), "is no plain file"),
        (special("l", tarfile.FIFOTYPE), "is no plain file"),
        (zip_mode("l", stat.S_IFLNK | 0o777), "is a link"),
        (zip_mode("l", stat.S_IFCHR), "is no plain file"),
        (zip_mode("l", stat.S_IFIFO), "is no plain file"),
    ],
)
def test_links_and_devices(member: tarfile.TarInfo | zipfile.ZipInfo, why: str, tmp_path: Path) -> None:
    pack = tarred if isinstance(member, tarfile.TarInfo) else zipped
    body = b"/etc/passwd" if pack is zipped else b""
    archive = pack(tmp_path / "x", ("fine", b"1"), (member, body), ("l/evil", b"2"))  # type: ignore[operator]
    with pytest.raises(ArchiveError, match=f"'l' {why}"):
        unpack(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("pack", [zipped, tarred])
@pytest.mark.parametrize(
    ("names", "why"),
    [
        (("a.png", "A.png"), "same where case does not count"),
        (("Train/a", "train/b"), "same where case does not count"),
        (("caf\u00e9", "cafe\u0301"), "same where case does not count"),
        (("a", "a"), "twice"),
        (("a", "a/b"), "twice"),
        (("a/b", "a"), "twice"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_names_of_one_file(pack, names: tuple[str, str], why: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    archive = pack(tmp_path / "x", *((name, b"1") for name in names))
    with pytest.raises(ArchiveError, match=why):
        unpack(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("pack", [zipped, tarred])
@pytest.mark.parametrize(
    ("limits", "why"),
    [
        (Limits(size=1 << 20), "more than 1048576 bytes"),
        (Limits(members=2), "one of more than 2"),
        (Limits(ratio=5), "more than 5 times its size"),
    ],
)
def test_bombs(pack, limits: Limits, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    if limits.ratio == 5:
        monkeypatch.setattr("uda.data.unpack._FREE_RATIO", 1 << 20)
    archive = pack(tmp_path / "x", *((f"{number}", bytes(1 << 20)) for number in range(3)))
    with pytest.raises(ArchiveError, match=why):
        unpack(archive, tmp_path / "out", limits=limits)
    assert not (tmp_path / "out").exists()
    unpack(archive, tmp_path / "out", limits=Limits(ratio=1e6))


def test_a_zip_whose_header_lies_about_its_size(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "x.zip", ("bomb", bytes(5 << 20)))
    true, claimed = (5 << 20).to_bytes(4, "little"), (10).to_bytes(4, "little")
    archive.write_bytes(archive.read_bytes().replace(true, claimed))
    with pytest.raises(ArchiveError, match=r"x\.zip"):
        unpack(archive, tmp_path / "out", limits=Limits(size=1 << 20))
    assert not (tmp_path / "out").exists()


def test_a_tar_header_of_many_bytes_is_not_read(tmp_path: Path) -> None:
    archive = tmp_path / "x.tar.gz"
    info = special("long", tarfile.XHDTYPE)
    with tarfile.open(archive, "w:gz") as file:
        body = bytes(20 << 20)
        info.size = len(body)
        file.fileobj.write(info.tobuf())  # type: ignore[union-attr]
        file.fileobj.write(body)  # type: ignore[union-attr]
    with pytest.raises(ArchiveError, match="a header of 20971520 bytes"):
        unpack(archive, tmp_path / "out")


def test_encrypted_and_damaged_ones(tmp_path: Path) -> None:
    good = zipped(tmp_path / "x.zip", ("secret", b"1234567890" * 50))
    data = bytearray(good.read_bytes())
    for header, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(header) + at] |= 1
    (tmp_path / "locked.zip").write_bytes(data)
    with pytest.raises(ArchiveError, match="'secret' is encrypted"):
        unpack(tmp_path / "locked.zip", tmp_path / "out")

    flipped = bytearray(good.read_bytes())
    flipped[flipped.index(b"secret") + 10] ^= 0xFF
    cut = tarred(tmp_path / "x.tar.gz", ("a", bytes(range(256)) * 400)).read_bytes()
    wrong = {
        "flipped.zip": bytes(flipped),
        "cut.zip": good.read_bytes()[:-30],
        "cut.tar.gz": cut[:-30],
        "cut.tar": tarred(tmp_path / "x.tar", ("a", bytes(5000)), mode="w").read_bytes()[:2000],
        "page.zip": b"\n<!DOCTYPE html><title>Login</title>",
        "empty.zip": b"",
        "text.zip": b"not found",
    }
    for name, raw in wrong.items():
        (tmp_path / name).write_bytes(raw)
        with pytest.raises(ArchiveError, match="a web page" if name == "page.zip" else name):
            unpack(tmp_path / name, tmp_path / "out")
        assert not (tmp_path / "out").exists(), name
    with pytest.raises(FileNotFoundError):
        unpack(tmp_path / "nowhere.zip", tmp_path / "out")


def test_a_full_disk_is_said_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from collections import namedtuple

    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("uda.data.unpack.shutil.disk_usage", lambda path: usage(100, 90, 10))
    with pytest.raises(OSError, match="no room for the 11 bytes of 'a'"):
        unpack(zipped(tmp_path / "x.zip", ("a", b"12345678901")), tmp_path / "out")
    assert not (tmp_path / "out").exists()
