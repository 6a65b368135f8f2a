"""Files of data sets that lie in a folder, or still in the zip archives that they were published in.

A path that is not on disk is looked for in the archives that lie in the nearest folder above it that is there:
``data/cityscapes/leftImg8bit/train/aachen/X.png`` is the member ``leftImg8bit/train/aachen/X.png`` of
``data/cityscapes/leftImg8bit_trainvaltest.zip`` where nobody unpacked that. An archive may be a root itself
(``data/semantics.zip/training/image_2``). Names, sizes and with them a run's identity are those of the unpacked files.
"""

from __future__ import annotations

import os
import time
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from uda.data.errors import ArchiveError, DataError
from uda.data.unpack import SYSTEM

SUFFIX = ".zip"
LARGEST = 1 << 30
"""Bytes of one member at most: no image is larger, whatever a header claims."""
_LOOKED_SECONDS = 1.0
"""How long a folder's archives are taken to be what they were."""


class Member(NamedTuple):
    """A file in an archive."""

    archive: Path
    name: str
    size: int
    checksum: int
    """CRC-32 of its content."""


def is_file(path: Path) -> bool:
    """Whether a file is there, on disk or in an archive."""
    return path.is_file() or member(path) is not None


def is_dir(path: Path) -> bool:
    """Whether a folder is there, on disk or in an archive; a zip archive is one."""
    if path.is_dir():
        return True
    if path.is_file():
        return path.suffix.lower() == SUFFIX
    return any(name in index.folders for index, name in _places(path))


def member(path: Path) -> Member | None:
    """Where a file that is not on disk lies, if in an archive.

    Raises:
        ArchiveError: an archive that would be looked into is damaged.
    """
    for index, folder in _places(path.parent):
        name = f"{folder}/{path.name}" if folder else path.name
        if name in index.members:
            return index.members[name]
    return None


def read(path: Path) -> bytes:
    """A file's content, from disk or from an archive.

    Raises:
        DataError: it is not there or cannot be read; the message names it.
        ArchiveError: likewise of a member of an archive, with both names.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        inside = member(path) if isinstance(error, FileNotFoundError | NotADirectoryError) else None
        if inside is None:
            raise DataError(f"{path}: {error.strerror or error}") from error
    return _content(inside)


def size(path: Path) -> int | None:
    """Bytes of a file, on disk or (unpacked) in an archive; ``None`` where there is none."""
    if path.is_file():
        return path.stat().st_size
    inside = member(path)
    return None if inside is None else inside.size


def state(path: Path) -> str | None:
    """What changes when a file's content does: of one on disk its time and size, of a member its checksum and size.

    ``None`` where there is no such file.
    """
    try:
        on_disk = path.stat()
    except OSError:
        inside = member(path)
        return inside and f"{inside.archive.resolve()}/{inside.name}|{inside.checksum:08x}|{inside.size}"
    return f"{path.resolve()}|{on_disk.st_mtime_ns}|{on_disk.st_size}"


def described(path: Path) -> str:
    """A file for a message: its path, or archive and member."""
    inside = None if path.exists() else member(path)
    return str(path) if inside is None else f"{inside.archive}: member {inside.name}"


def files_below(folder: Path, *, recursive: bool) -> list[Path]:
    """The files of a folder that lies in archives, by the paths that they have unpacked."""
    for index, name in _places(folder):
        start = f"{name}/" if name else ""
        below = [inside[len(start) :] for inside in index.members if inside.startswith(start)]
        if below:
            return sorted(folder / inside for inside in below if recursive or "/" not in inside)
    return []


@dataclass(frozen=True)
class _Index:
    """What an archive, or all archives of a folder, have in them."""

    members: dict[str, Member]
    folders: frozenset[str]
    around: tuple[str, ...]
    """Folders that hold all that an archive has."""


_Names = list[tuple[_Index, str]]
_indices: dict[Path, tuple[tuple[tuple[str, int, int], ...], _Index]] = {}
_looked: dict[Path, tuple[float, _Names]] = {}
_open: dict[tuple[int, Path], tuple[tuple[int, int], zipfile.ZipFile]] = {}
"""Handles by process: one that is shared after a fork has one position for both."""


def _places(folder: Path) -> _Names:
    """The index that may hold a folder that is not on disk, and the names that it may have there."""
    known, now = _looked.get(folder), time.monotonic()
    if known is not None and now - known[0] < _LOOKED_SECONDS:
        return known[1]
    names: _Names = []
    for above in (folder, *folder.parents):
        if above.is_dir():
            archives = _Archives.of_folder(above)
        elif above.is_file():
            archives = [above] if above.suffix.lower() == SUFFIX else []
        else:
            continue
        if archives:
            index = _index(above, archives)
            name = "/".join(folder.relative_to(above).parts)
            names = [(index, name), *((index, f"{around}/{name}".rstrip("/")) for around in index.around)]
            _looked[folder] = now, names  # where there are none, some may come at any moment
        break
    return names


class _Archives:
    """The archives of folders, listed anew when a folder changes."""

    listed: dict[Path, tuple[int, list[Path]]] = {}  # noqa: RUF012 - of the process

    @classmethod
    def of_folder(cls, folder: Path) -> list[Path]:
        changed = folder.stat().st_mtime_ns
        known = cls.listed.get(folder)
        if known is None or known[0] != changed:
            with os.scandir(folder) as entries:
                names = sorted(e.name for e in entries if e.name.lower().endswith(SUFFIX) and e.is_file())
            known = cls.listed[folder] = changed, [folder / name for name in names]
        return known[1]


def _index(place: Path, archives: list[Path]) -> _Index:
    known, states = _indices.get(place), tuple((str(archive), *_version(archive)) for archive in archives)
    if known is None or known[0] != states:
        contents = [_members(archive) for archive in archives]
        members = {name: inside for content in reversed(contents) for name, inside in content.items()}
        folders = {"/".join(parts[:n]) for name in members for parts in [name.split("/")] for n in range(len(parts))}
        tops = [{name.partition("/")[0] for name in content} for content in contents]
        index = _Index(members, frozenset(folders), tuple(sorted({min(top) for top in tops if len(top) == 1})))
        known = _indices[place] = states, index
    return known[1]


def _version(archive: Path) -> tuple[int, int]:
    on_disk = archive.stat()
    return on_disk.st_mtime_ns, on_disk.st_size


def _members(archive: Path) -> dict[str, Member]:
    """The files of an archive by name."""
    return {
        info.filename.replace("\\", "/"): Member(archive, info.filename, info.file_size, info.CRC)
        for info in _opened(archive).infolist()
        if not info.is_dir() and not any(part in SYSTEM for part in info.filename.split("/"))
    }


def _opened(archive: Path) -> zipfile.ZipFile:
    """An archive, opened once in each process, and anew where it changed."""
    key, version = (os.getpid(), archive), _version(archive)
    known = _open.get(key)
    if known is None or known[0] != version:
        try:
            known = version, zipfile.ZipFile(archive)
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ArchiveError(f"{archive}: damaged, or no zip archive ({reason})") from error
        _open[key] = known
    return known[1]


def _content(inside: Member) -> bytes:
    if inside.size > LARGEST:
        raise ArchiveError(
            f"{inside.archive}: member {inside.name} has {inside.size} bytes, at most {LARGEST} are read"
        )
    try:
        return _opened(inside.archive).read(inside.name)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, KeyError, RuntimeError, ValueError) as error:
        if isinstance(error, ArchiveError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise ArchiveError(f"{inside.archive}: member {inside.name}: {reason}") from error
