"""The decoded cache: right after changes, crashes and concurrent writers."""

from __future__ import annotations

import os
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from uda.data import DataError, Unlabelled
from uda.data.cache import RESERVE, DiskCache, MemoryCache, NoCache, open_cache


class Decoder:
    def __init__(self, value: int = 0) -> None:
        self.calls, self.value = 0, value

    def __call__(self) -> np.ndarray:
        self.calls += 1
        return np.full((3, 4), self.value, dtype=np.uint8)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "image.png"
    path.write_bytes(b"12345")
    return path


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_decodes_once_until_the_file_changes(tmp_path: Path, source: Path, kind: str) -> None:
    cache = open_cache("memory" if kind == "memory" else tmp_path / "c")
    decode = Decoder(1)
    for _ in range(3):
        assert (cache.get(source, "image", decode) == 1).all()
    assert decode.calls == 1
    assert (cache.get(source, "label", Decoder(2)) == 2).all(), "another kind is another entry"
    source.write_bytes(b"123456")
    assert (cache.get(source, "image", Decoder(3)) == 3).all()
    stat = source.stat()
    os.utime(source, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert (cache.get(source, "image", Decoder(4)) == 4).all()


def test_entries_cannot_be_written_to(tmp_path: Path, source: Path) -> None:
    for cache in (MemoryCache(), DiskCache(tmp_path / "c")):
        cache.get(source, "image", Decoder())
        with pytest.raises(ValueError, match="read-only"):
            cache.get(source, "image", Decoder())[0, 0] = 1


def test_disk_cache_is_shared_and_survives_damage(tmp_path: Path, source: Path) -> None:
    DiskCache(tmp_path / "c").get(source, "image", Decoder(5))
    decode = Decoder(6)
    assert (DiskCache(tmp_path / "c").get(source, "image", decode) == 5).all()
    assert decode.calls == 0
    (entry,) = (tmp_path / "c").glob("*.npy")
    for damage in (entry.read_bytes()[:-3], b"", b"no array"):
        entry.write_bytes(damage)
        assert (DiskCache(tmp_path / "c").get(source, "image", Decoder(7)) == 7).all()
    assert len(list((tmp_path / "c").iterdir())) == 1, "no temporary file is left"


def _write_forever(folder: str, path: str) -> None:
    number = 0
    while True:
        number += 1
        cache = DiskCache(folder)
        cache.get(Path(path), f"kind{number % 5}-{number}", lambda: np.full((400, 400), 9, dtype=np.uint8))


def test_killed_writer_leaves_only_whole_entries(tmp_path: Path, source: Path) -> None:
    folder = tmp_path / "c"
    process = get_context("fork").Process(target=_write_forever, args=(str(folder), str(source)))
    process.start()
    deadline = time.monotonic() + 20
    while len(list(folder.glob("*.npy"))) < 20 and time.monotonic() < deadline:
        time.sleep(0.005)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    entries = list(folder.glob("*.npy"))
    assert len(entries) >= 20
    assert all((np.load(entry) == 9).all() for entry in entries)


def test_stale_temporary_files_are_removed(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    folder.mkdir()
    old, new = folder / "old.part", folder / "new.part"
    for path in (old, new):
        path.write_bytes(b"x")
    os.utime(old, (time.time() - 7200,) * 2)
    DiskCache(folder)
    assert not old.exists()
    assert new.exists(), "another process may be writing it"


def test_a_foreign_entry_is_decoded_again(tmp_path: Path, source: Path) -> None:
    cache = DiskCache(tmp_path / "c")
    cache.get(source, "image", Decoder(1))
    (entry,) = (tmp_path / "c").glob("*.npy")
    cache.get(source, "label", Decoder(2))
    (other,) = set((tmp_path / "c").glob("*.npy")) - {entry}
    whole = entry.read_bytes()
    header = whole.index(b"(3, 4)")
    foreign = {
        "the entry of another file": other.read_bytes(),
        "another shape": whole[:header] + b"(2, 6)" + whole[header + 6 :],
        "another dtype": whole.replace(b"|u1", b"|i1"),
        "a middle that is gone": whole[:-40] + whole[-36:],
        "an archive": b"PK\x03\x04" + whole[4:],
        "a huge shape": whole.replace(b"(3, 4), }" + b" " * 7, b"(3, 99999999), }"),
        "a broken header": whole.replace(b"(3, 4), }", b"(3, 4),  "),
    }
    np.save(tmp_path / "plain.npy", np.zeros((3, 4), np.float64))
    foreign["a plain array"] = (tmp_path / "plain.npy").read_bytes()
    for name, content in foreign.items():
        assert content != whole, name
        entry.write_bytes(content)
        array = DiskCache(tmp_path / "c").get(source, "image", Decoder(7))
        assert (array.shape, array.dtype, int(array.max())) == ((3, 4), np.uint8, 7), name
        decode = Decoder(8)
        assert (DiskCache(tmp_path / "c").get(source, "image", decode) == 7).all(), name
        assert not decode.calls, f"{name}: not written again"


@pytest.mark.parametrize("kind", [None, "memory", "disk"])
def test_a_file_that_goes_while_it_is_used_is_named(tmp_path: Path, kind: str | None) -> None:
    image = tmp_path / "images/a.png"
    image.parent.mkdir()
    cv2.imwrite(str(image), np.zeros((4, 6, 3), np.uint8))
    images = Unlabelled.folder(image.parent, cache=tmp_path / "c" if kind == "disk" else kind)
    image.unlink()
    with pytest.raises(DataError, match=rf"{image}: No such file"):
        images[0]


def test_a_name_that_is_no_text_is_cached(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png"))
    path.write_bytes(b"12345")
    for cache in (MemoryCache(), DiskCache(tmp_path / "c")):
        assert (cache.get(path, "image", Decoder(1)) == 1).all()
        assert (cache.get(path, "image", Decoder(2)) == 1).all()


def test_many_readers_at_once(tmp_path: Path, source: Path) -> None:
    cache = DiskCache(tmp_path / "c")
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: cache.get(source, f"k{i % 4}", Decoder(i % 4))[0, 0], range(64)))
    assert found == [i % 4 for i in range(64)]


def test_open_cache() -> None:
    assert isinstance(open_cache(None), NoCache)
    memory = MemoryCache()
    assert open_cache(memory) is memory
    assert memory.fresh() is not memory


def entry(folder: Path) -> Path:
    (path,) = folder.glob("*.npy")
    return path


@pytest.mark.parametrize("damage", ["other array", "flipped", "cut", "other file's", "before checksums"])
def test_what_is_not_the_files_array_is_decoded_again(tmp_path: Path, source: Path, damage: str) -> None:
    folder = tmp_path / "cache"
    DiskCache(folder).get(source, "image", Decoder(1))
    path = entry(folder)
    whole = path.read_bytes()
    if damage == "other array":
        np.save(path, np.zeros((7, 7), np.float32))
    elif damage == "flipped":
        path.write_bytes(whole[:-14] + bytes([whole[-14] ^ 1]) + whole[-13:])
    elif damage == "cut":
        path.write_bytes(whole[:-15])
    elif damage == "other file's":
        other = tmp_path / "other.png"
        other.write_bytes(b"6")
        DiskCache(tmp_path / "second").get(other, "image", Decoder(9))
        path.write_bytes(entry(tmp_path / "second").read_bytes())
    else:
        path.write_bytes(whole[:-12])
    decode = Decoder(1)
    assert (DiskCache(folder).get(source, "image", decode) == 1).all()
    assert decode.calls == 1
    assert path.read_bytes() == whole  # written again
    assert (DiskCache(folder).get(source, "image", decode) == 1).all()
    assert decode.calls == 1


@pytest.mark.parametrize("fails", ["mkdir", "write"])
def test_a_cache_that_cannot_be_written_warns_once_and_decodes(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    def full(*args: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "mkdir", full) if fails == "mkdir" else monkeypatch.setattr(np, "save", full)
    decode = Decoder(1)

    def use() -> bool:
        cache = DiskCache(tmp_path / "cache")
        return all((cache.get(source, "image", decode) == 1).all() for _ in range(3))

    with pytest.warns(UserWarning, match=r"No space left on device.*decoded anew") as caught:
        right = use()
    assert right
    assert len(caught) == 1
    assert decode.calls == 3
    assert not list(tmp_path.rglob("*.part"))


def test_a_cache_stays_below_its_limit(tmp_path: Path) -> None:
    files = [tmp_path / f"{n}.png" for n in range(5)]
    for file in files:
        file.write_bytes(b"12345")
    decode = Decoder(1)

    def use() -> None:
        for cache in (open_cache(tmp_path / "c", limit=6e-7).fresh(), open_cache(tmp_path / "c", limit=6e-7)):
            for _ in range(3):
                assert all((cache.get(file, "image", decode) == 1).all() for file in files)

    with pytest.warns(UserWarning, match=r"4.56e-07 GB of cache_limit, 6e-07 GB, are used.*decoded anew") as caught:
        use()
    assert len(caught) == 2, "each says it once"
    assert [path.stat().st_size for path in (tmp_path / "c").iterdir()] == [152] * 3
    assert decode.calls == (5 + 2 + 2) + 3 * 2, "what is there stays of use"


def test_a_cache_leaves_room_on_the_disk(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=RESERVE + 151))
    with pytest.warns(UserWarning, match=r"No space left on device but for the 1 GB left free.*decoded anew"):
        DiskCache(tmp_path / "c").get(source, "image", Decoder(1))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=RESERVE + 152))
    DiskCache(tmp_path / "c").get(source, "image", Decoder(1))
    assert entry(tmp_path / "c").is_file()


@pytest.mark.parametrize("limit", [0, -1.0, float("inf"), float("nan")])
def test_a_limit_that_is_none(tmp_path: Path, limit: float) -> None:
    with pytest.raises(ValueError, match="cache_limit must be gigabytes above 0"):
        open_cache(tmp_path / "c", limit)
    with pytest.raises(ValueError, match="cache_limit is of a folder, and cache is 'memory'"):
        open_cache("memory", 2.0)


def test_a_file_is_no_cache(source: Path) -> None:
    with pytest.raises(DataError, match=f"cache {source}: is a file; a folder is needed"):
        open_cache(source)
