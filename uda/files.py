"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import io
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

PART = ".part"
"""Ending of a file that is being written; one that stays was left by a kill."""


@contextmanager
def atomic_write(path: str | Path, *, binary: bool = False, durable: bool = True) -> Iterator[IO[Any]]:
    """A file that takes the place of ``path`` when the block ends; after an exception ``path`` is as it was.

    Content and folder are synced, so that even after a power cut the old or the new file is there, whole.

    Args:
        path: missing folders above it are made.
        binary: bytes instead of UTF-8 text (with ``\\n`` line ends everywhere).
        durable: ``False`` for what can be made anew and has a checksum: nothing waits for the disk.

    Raises:
        OSError: it cannot be written; the error's ``filename`` is ``path``, whoever wrote through the file.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with atomic_write(f"{folder}/scores.txt") as file:
        ...         _ = file.write("0.5")
        ...     Path(f"{folder}/scores.txt").read_text()
        '0.5'
    """
    path = Path(path)
    make_folder(path.parent)
    # a name of its own: two writers, of two processes or two threads, never share a part
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}{PART}")
    raw = None
    try:
        raw = _Raw(part, "w")
        buffered = io.BufferedWriter(raw)
        with buffered if binary else io.TextIOWrapper(buffered, encoding="utf-8", newline="\n") as file:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
        part.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        failure = error if isinstance(error, OSError) and error.filename in (None, str(part)) else raw and raw.failure
        # libraries that write through the file have errors of their own, which name neither the cause nor the file
        if failure and isinstance(error, Exception) and failure.errno is not None:
            raise OSError(failure.errno, failure.strerror, str(path)) from error
        raise
    if durable:
        _sync_folder(path.parent)


class _Raw(io.FileIO):
    """A file that remembers why writing failed."""

    failure: OSError | None = None

    def write(self, content: Any) -> int:
        try:
            return super().write(content)
        except OSError as error:
            self.failure = error
            raise


def remove_parts(folder: str | Path, *, older_than: float = 0.0) -> None:
    """Remove what killed writers left below a folder; nobody may be writing there.

    Args:
        folder: that may be missing.
        older_than: seconds; younger ones stay, for where somebody may be writing after all.
    """
    for part in Path(folder).rglob(f".*{PART}"):
        with contextlib.suppress(OSError):
            if time.time() - part.stat().st_mtime >= older_than:
                part.unlink()


def make_folder(folder: str | Path) -> None:
    """Make a folder and those above it that are missing, so that a power cut after the call leaves them there."""
    folder = Path(folder)
    missing = [above for above in (folder, *folder.parents) if not above.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for made in reversed(missing):
        _sync_folder(made.parent)


def _sync_folder(folder: Path) -> None:
    """Make a rename durable; file systems and platforms that cannot sync a folder are left alone."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def spreadsheet_safe(value: Any) -> Any:
    """A cell of a CSV file that no spreadsheet takes for a formula: a text that begins like one gets an apostrophe.

    Example:
        >>> spreadsheet_safe("=1+1"), spreadsheet_safe("-1.5"), spreadsheet_safe("road")
        ("'=1+1", '-1.5', 'road')
    """
    if not isinstance(value, str) or not value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value
