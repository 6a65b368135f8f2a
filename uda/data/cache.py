"""A cache of decoded arrays, so that training is not bound by decoding PNGs.

Entries are keyed by what is decoded and by the file's path, size and time of change (in a zip archive: by its
checksum), so a file that changes is decoded again. Cached arrays are read-only.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import time
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from numpy.lib.format import open_memmap

from uda.data import archives
from uda.data.errors import DataError
from uda.files import PART, atomic_write

Array = npt.NDArray[Any]
_STALE_SECONDS = 3600.0
GIGABYTE = 10**9
RESERVE = GIGABYTE
"""Bytes of the disk that a cache leaves free: a run that cannot write its checkpoint has lost more than time."""
_LOOK_EVERY = 64
"""Entries that a process writes before it looks anew at what all processes wrote."""


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
    else is decoded and written again. A folder that cannot be written (full, read-only) or has reached its limit costs
    a warning and the time of decoding; what is in it stays of use.

    An entry takes ``3 * H * W`` bytes for an image and ``H * W`` for a label: 8.4 MB for a pair of Cityscapes', 25 GB
    for its 2975 training images.

    Args:
        folder: made if need be.
        limit: gigabytes (1e9 bytes) of all entries together, to within the entries that processes write at a time;
            ``None``: what the disk has, less one gigabyte that stays free.

    Raises:
        DataError: ``folder`` is a file.
        ValueError: a limit that is not above 0.
    """

    def __init__(self, folder: str | Path, limit: float | None = None) -> None:
        if limit is not None and not 0 < limit < float("inf"):
            raise ValueError(f"cache_limit must be gigabytes above 0, not {limit!r}")
        self.folder = Path(folder)
        self.limit = limit
        self._used, self._writes = 0, 0
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
            self._check_room(array.nbytes + _AROUND)
            with atomic_write(self.folder / name, binary=True, durable=False) as file:
                plain = np.ascontiguousarray(array)
                np.save(file, plain, allow_pickle=False)
                file.write(_checksum(plain, digest))
        except OSError as error:
            self._warn(error)
        return array

    def _check_room(self, size: int) -> None:
        """Raise ``OSError`` where an entry would take more than is left, of the limit or of the disk."""
        if shutil.disk_usage(self.folder).free < size + RESERVE:
            raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)} but for the {RESERVE / GIGABYTE:g} GB left free")
        if self.limit is None:
            return
        if self._writes % _LOOK_EVERY == 0:
            with os.scandir(self.folder) as entries:
                self._used = sum(entry.stat().st_size for entry in entries if entry.name.endswith(".npy"))
        if self._used + size > self.limit * GIGABYTE:
            used = f"{self._used / GIGABYTE:.3g} GB"
            raise OSError(
                errno.EDQUOT, f"{used} of cache_limit, {self.limit:g} GB, are used, and the next has {size} bytes"
            )
        self._writes += 1
        self._used += size

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
        return DiskCache(self.folder, self.limit)


_CHECKSUM = 12
_AROUND = 128 + _CHECKSUM
"""Bytes of an entry beside its array: NumPy's header, and the checksum."""


def _checksum(array: Array, digest: bytes) -> bytes:
    """What stands at the end of a file: of the pixels and their form, and of which file they are."""
    form = zlib.crc32(f"{array.dtype.str} {array.shape}".encode())
    return zlib.crc32(np.ascontiguousarray(array).data, form).to_bytes(4, "little") + digest[:8]


def open_cache(cache: str | Path | Cache | None, limit: float | None = None) -> Cache:
    """``None``: no cache; ``"memory"``; anything else: a folder, made if need be; a cache object stays as it is.

    Raises:
        ValueError: a limit (see :class:`DiskCache`) where there is no folder, or one that is not above 0.
    """
    if isinstance(cache, str | Path) and cache != "memory":
        return DiskCache(cache, limit)
    if limit is not None:
        raise ValueError(f"cache_limit is of a folder, and cache is {cache!r}; give cache a folder")
    if cache is None:
        return NoCache()
    return MemoryCache() if isinstance(cache, str | Path) else cache


def _key(path: Path, kind: str) -> str | None:
    """What an entry stands for; ``None`` for a file that is not there, which decoding says better."""
    state = archives.state(path)
    return None if state is None else f"{state}|{kind}"
