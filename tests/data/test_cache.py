"""The decoded cache: right after changes, crashes and concurrent writers."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from uda.data.cache import DiskCache, MemoryCache, NoCache, open_cache


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
