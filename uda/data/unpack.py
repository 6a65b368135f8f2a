"""Unpacks zip and tar archives from strangers: nothing outside of the folder, only plain files, no bombs."""

from __future__ import annotations

import contextlib
import errno
import io
import re
import shutil
import stat
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any

from uda.data.errors import ArchiveError
from uda.files import make_folder
from uda.registry import short

CHUNK = 1 << 20
"""Bytes that are read at once."""
_HEADER = 1 << 24
"""Bytes of one piece of a tar file at most; a header that claims more would be read into memory whole."""
_FREE_RATIO = 64 << 20
"""Bytes that any archive may unpack to, however small it is: a few empty label maps compress a thousandfold."""
SYSTEM = ("__MACOSX", ".DS_Store")
"""What a Mac adds to an archive."""


@dataclass(frozen=True)
class Limits:
    """What an archive may unpack to; counted while unpacking, whatever its headers say.

    Attributes:
        size: bytes of all files together.
        members: files and folders.
        ratio: unpacked bytes for each byte of the archive.
    """

    size: int = 100 << 30
    members: int = 500_000
    ratio: float = 100.0


def unpack(
    archive: str | Path, folder: str | Path, *, limits: Limits | None = None, tick: Callable[[int], None] | None = None
) -> int:
    """Unpack a zip or tar archive (plain, gzip, bzip2, xz) into a new folder.

    Links, devices, absolute paths, paths with ``..``, encrypted files, two names for the same file on any system
    (``a.png`` and ``A.png``), and more than ``limits`` are refused. Permissions and owners are not taken over. After
    an error the folder is gone.

    Args:
        archive: the file; its kind is told by its first bytes.
        folder: must not exist yet, or be empty.
        limits: see :class:`Limits`.
        tick: called with the bytes unpacked so far.

    Returns:
        Bytes of all files together.

    Raises:
        ArchiveError: no archive, a damaged one, or one of the above.
        FileExistsError: the folder has something in it.
        OSError: the disk is full, or a file cannot be written.
    """
    archive, folder = Path(archive), Path(folder)
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder}: is not empty; nothing is unpacked over it")
    make_folder(folder)
    unpacking = _Unpacking(archive, folder, limits or Limits(), tick or (lambda _: None))
    try:
        with archive.open("rb") as file:
            read = _reader(archive, file)
            for name, size, is_folder, content in read(unpacking):
                unpacking.add(name, size, is_folder, content)
        return unpacking.size
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, ValueError, RuntimeError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, ArchiveError):
            raise
        raise ArchiveError(f"{archive}: damaged, or of a kind that cannot be read ({error})") from error
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError) and error.errno is None:  # gzip's and bz2's own, of what they cannot read
            raise ArchiveError(f"{archive}: damaged ({error})") from error
        raise


_Member = tuple[str, int, bool, Callable[[], IO[bytes]]]


class _Unpacking:
    """Where members go, and what they have come to so far."""

    def __init__(self, archive: Path, folder: Path, limits: Limits, tick: Callable[[int], None]) -> None:
        self.archive, self.folder, self.limits, self.tick = archive, folder, limits, tick
        self.packed = archive.stat().st_size
        self.size = 0
        self.members = 0
        self.last = ""
        self._names: dict[str, tuple[str, bool]] = {}
        self._files: set[str] = set()

    def refuse(self, name: str, why: str) -> ArchiveError:
        return ArchiveError(f"{self.archive}: member {short(name)} {why}; nothing of the archive was unpacked")

    def count(self, name: str, size: int) -> None:
        """Refuse a total of bytes beyond the limits."""
        if size > self.limits.size:
            raise self.refuse(name, f"makes it more than {self.limits.size} bytes unpacked")
        if size > max(self.limits.ratio * self.packed, _FREE_RATIO):
            raise self.refuse(name, f"makes it more than {self.limits.ratio:g} times its size unpacked")

    def add(self, name: str, size: int, is_folder: bool, content: Callable[[], IO[bytes]]) -> None:
        """Write one member; ``size`` is what its header claims."""
        self.members += 1
        self.last = name
        if self.members > self.limits.members:
            raise self.refuse(name, f"is one of more than {self.limits.members}")
        path = self._path(name)
        if path is None:
            return
        self._claim(path, is_folder)
        place = self.folder / path
        if is_folder:
            place.mkdir(parents=True, exist_ok=True)
            return
        self.count(name, self.size + size)
        if size > shutil.disk_usage(self.folder).free:
            raise OSError(errno.ENOSPC, f"no room for the {size} bytes of {short(name)}", str(self.folder))
        place.parent.mkdir(parents=True, exist_ok=True)
        with content() as source, place.open("xb") as out:
            while chunk := source.read(CHUNK):
                self.size += len(chunk)
                self.count(name, self.size)
                out.write(chunk)
                self.tick(self.size)

    def _path(self, name: str) -> PurePosixPath | None:
        """The member's place below the folder; ``None`` for what a Mac adds."""
        plain = name.replace("\\", "/")  # some programs on Windows write them so
        path = PurePosixPath(plain)
        if path.is_absolute() or re.match("[A-Za-z]:", plain):
            raise self.refuse(name, "has an absolute path")
        if ".." in path.parts:
            raise self.refuse(name, "climbs out of its folder")
        if not all(map(str.isprintable, plain)):
            raise self.refuse(name, "has characters in its name that do not print")
        if any(part in SYSTEM for part in path.parts) or not path.parts:
            return None
        return path

    def _claim(self, path: PurePosixPath, is_folder: bool) -> None:
        """Note a name and the folders above it; refuse what would be the same file on some system."""
        for part in (*reversed(path.parents[:-1]), path):
            folder_here = is_folder or part != path
            key = unicodedata.normalize("NFC", str(part)).casefold()
            known, known_folder = self._names.setdefault(key, (str(part), folder_here))
            if known != str(part):
                raise self.refuse(str(part), f"and {known!r} are the same where case does not count")
            if known_folder != folder_here or (part == path and not is_folder and key in self._files):
                raise self.refuse(str(part), "is there twice")
        if not is_folder:
            self._files.add(key)


def _reader(archive: Path, file: IO[bytes]) -> Callable[[_Unpacking], Iterator[_Member]]:
    start = file.read(512)
    file.seek(0)
    if start.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return lambda unpacking: _zip(file, unpacking)
    if start.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ")) or start[257:262] == b"ustar":
        return lambda unpacking: _tar(file, start, unpacking)
    text = "a web page" if re.match(rb"\s*<(!doctype|html|\?xml)", start, re.IGNORECASE) else "neither zip nor tar"
    raise ArchiveError(f"{archive}: no archive, but {text}")


def _zip(file: IO[bytes], unpacking: _Unpacking) -> Iterator[_Member]:
    with zipfile.ZipFile(file) as whole:
        for member in whole.infolist():
            if member.flag_bits & 1:
                raise unpacking.refuse(member.filename, "is encrypted")
            kind = stat.S_IFMT(member.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise unpacking.refuse(member.filename, "is a link" if kind == stat.S_IFLNK else "is no plain file")
            yield member.filename, member.file_size, member.is_dir(), partial(whole.open, member)


def _tar(file: IO[bytes], start: bytes, unpacking: _Unpacking) -> Iterator[_Member]:
    import bz2
    import gzip
    import lzma

    plain: Any = file
    for magic, library in ((b"\x1f\x8b", gzip), (b"BZh", bz2), (b"\xfd7zXZ", lzma)):
        if start.startswith(magic):
            plain = library.open(file, "rb")
    try:
        with tarfile.open(fileobj=_Counted(plain, unpacking), mode="r:") as whole:
            for member in whole:
                if not (member.isreg() or member.isdir()):
                    link = member.islnk() or member.issym()
                    raise unpacking.refuse(member.name, "is a link" if link else "is no plain file")
                yield member.name, member.size, member.isdir(), partial(_content, whole, member)
    except lzma.LZMAError as error:
        raise ArchiveError(f"{unpacking.archive}: damaged ({error})") from error
    finally:
        if plain is not file:
            with contextlib.suppress(OSError):
                plain.close()


def _content(whole: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    content = whole.extractfile(member)
    assert content is not None  # it is a regular file
    return content


class _Counted(io.RawIOBase):
    """A tar file's unpacked bytes: headers count as well, and none is read into memory that is larger than any is."""

    def __init__(self, file: IO[bytes], unpacking: _Unpacking) -> None:
        self.file, self.unpacking = file, unpacking

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _HEADER:
            raise ArchiveError(f"{self.unpacking.archive}: a header of {size} bytes; nothing of it was unpacked")
        content = self.file.read(size)
        self.unpacking.count(self.unpacking.last, self.file.tell())
        return content

    def seek(self, offset: int, whence: int = 0) -> int:
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        return self.file.tell()
