"""A cache of decoded arrays, so that training is not bound by decoding PNGs.

Entries are keyed by what is decoded and by the file's path, size and time of change, so a file that changes is decoded
again. Cached arrays are read-only.
"""

from __future__ import annotations

import hashlib
import os
import time
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from numpy.lib.format import open_memmap

from uda.data.errors import DataError
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
        if key is None:
            return decode()
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

    Files are written under another name and moved into place, so a killed writer leaves no half of one. Each ends with
    a checksum of its array and key, looked at when a process first opens it: a file that is damaged or of something
    else is decoded and written again. A folder that cannot be written (full, read-only) costs a warning and the time of
    decoding.

    Raises:
        DataError: ``folder`` is a file.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._checked: set[str] = set()
        self._warned = False
        if self.folder.exists() and not self.folder.is_dir():
            raise DataError(f"cache {self.folder}: is a file; a folder is needed")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for leftover in self.folder.glob(f"*{PART}"):
                if time.time() - leftover.stat().st_mtime > _STALE_SECONDS:
                    leftover.unlink(missing_ok=True)
        except OSError as error:
            self._warn(error)

    def get(self, path: Path, kind: str, decode: Callable[[], Array]) -> Array:
        """The array mapped from disk, decoded and written on the first call."""
        key = _key(path, kind)
        if key is None:
            return decode()
        digest = hashlib.sha256(os.fsencode(key)).digest()
        name = f"{digest.hex()[:40]}.npy"
        mapped = self._mapped(name, digest)
        if mapped is not None:
            return mapped
        array = decode()
        try:
            with atomic_write(self.folder / name, binary=True) as file:
                plain = np.ascontiguousarray(array)
                np.save(file, plain, allow_pickle=False)
                file.write(_checksum(plain, digest))
        except OSError as error:
            self._warn(error)
        return array

    def _mapped(self, name: str, digest: bytes) -> Array | None:
        """The array of a file, if it is whole and the one that is asked for."""
        try:
            mapped: Array = open_memmap(self.folder / name, mode="r")
            if name not in self._checked:
                with (self.folder / name).open("rb") as file:
                    file.seek(-_CHECKSUM, 2)
                    if file.read() != _checksum(mapped, digest):
                        return None
                self._checked.add(name)
        except Exception:  # NumPy raises what its parser meets in a damaged header
            return None
        return mapped

    def _warn(self, error: OSError) -> None:
        if not self._warned:
            self._warned = True
            reason = error.strerror or str(error)
            warnings.warn(f"cache {self.folder}: cannot be written ({reason}); images are decoded anew", stacklevel=4)

    def fresh(self) -> DiskCache:
        """Another view of the same folder."""
        return DiskCache(self.folder)


_CHECKSUM = 12


def _checksum(array: Array, digest: bytes) -> bytes:
    """What stands at the end of a file: of the pixels and their form, and of which file they are."""
    form = zlib.crc32(f"{array.dtype.str} {array.shape}".encode())
    return zlib.crc32(np.ascontiguousarray(array).data, form).to_bytes(4, "little") + digest[:8]


def open_cache(cache: str | Path | Cache | None) -> Cache:
    """``None``: no cache; ``"memory"``; anything else: a folder, made if need be; a cache object stays as it is."""
    if cache is None:
        return NoCache()
    if cache == "memory":
        return MemoryCache()
    if isinstance(cache, str | Path):
        return DiskCache(cache)
    return cache


def _key(path: Path, kind: str) -> str | None:
    """What an entry stands for; ``None`` for a file that is not there, which decoding says better."""
    try:
        state = path.stat()
    except OSError:
        return None
    return f"{path.resolve()}|{state.st_mtime_ns}|{state.st_size}|{kind}"
