"""A cache of decoded arrays, so that training is not bound by decoding PNGs.

Entries are keyed by what is decoded and by the file's path, size and time of change, so a file that changes is decoded
again. Cached arrays are read-only.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from uda.files import PART, atomic_write

Array = npt.NDArray[Any]
_STALE_SECONDS = 3600.0


class Cache(Protocol):
    """Where decoded arrays are kept."""

    def get(self, path: Path, kind: str, decode: Callable[[], Array]) -> Array:
        """The array of ``path`` decoded as ``kind``; ``decode`` is called when it is not there."""
        ...

    def fresh(self) -> Cache:
        """An empty cache of the same sort, sharing nothing in memory (an unlabelled view must not see labels)."""
        ...


class NoCache:
    """Decodes every time."""

    def get(self, path: Path, kind: str, decode: Callable[[], Array]) -> Array:
        """Call ``decode``."""
        return decode()

    def fresh(self) -> NoCache:
        """Another one."""
        return NoCache()


class MemoryCache:
    """Keeps everything in the process; each loader worker holds its own, so it suits few workers or small sets."""

    def __init__(self) -> None:
        self._arrays: dict[str, Array] = {}

    def get(self, path: Path, kind: str, decode: Callable[[], Array]) -> Array:
        """The array from memory, decoded on the first call."""
        key = _key(path, kind)
        if key not in self._arrays:
            array = decode()
            array.setflags(write=False)
            self._arrays[key] = array
        return self._arrays[key]

    def fresh(self) -> MemoryCache:
        """An empty one."""
        return MemoryCache()

    def __getstate__(self) -> dict[str, Any]:
        return {"_arrays": {}}  # a worker that is started afresh decodes for itself instead of being sent everything


class DiskCache:
    """Keeps ``.npy`` files that are mapped into memory, shared by all processes and runs.

    Files are written under another name and moved into place, so a killed writer leaves no half of one; one that is
    broken all the same is decoded and written again.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        for leftover in self.folder.glob(f"*{PART}"):
            if time.time() - leftover.stat().st_mtime > _STALE_SECONDS:
                leftover.unlink(missing_ok=True)

    def get(self, path: Path, kind: str, decode: Callable[[], Array]) -> Array:
        """The array mapped from disk, decoded and written on the first call."""
        array_file = self.folder / f"{hashlib.sha256(_key(path, kind).encode()).hexdigest()[:40]}.npy"
        try:
            mapped: Array = np.load(array_file, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError):
            array = decode()
            with atomic_write(array_file, binary=True) as file:
                np.save(file, np.ascontiguousarray(array), allow_pickle=False)
            return array
        return mapped

    def fresh(self) -> DiskCache:
        """Another view of the same folder."""
        return DiskCache(self.folder)


def open_cache(cache: str | Path | Cache | None) -> Cache:
    """``None``: no cache; ``"memory"``; anything else: a folder, made if need be; a cache object stays as it is."""
    if cache is None:
        return NoCache()
    if cache == "memory":
        return MemoryCache()
    if isinstance(cache, str | Path):
        return DiskCache(cache)
    return cache


def _key(path: Path, kind: str) -> str:
    state = path.stat()
    return f"{path.resolve()}|{state.st_mtime_ns}|{state.st_size}|{kind}"
