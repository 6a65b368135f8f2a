"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

PART = ".part"
"""Ending of a file that is being written; one that stays was left by a kill."""


@contextmanager
def atomic_write(path: str | Path, *, binary: bool = False) -> Iterator[IO[Any]]:
    """A file that takes the place of ``path`` when the block ends; after an exception ``path`` is as it was.

    Content and folder are synced, so that even after a power cut the old or the new file is there, whole.

    Args:
        path: missing folders above it are made.
        binary: bytes instead of UTF-8 text (with ``\\n`` line ends everywhere).

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with atomic_write(f"{folder}/scores.txt") as file:
        ...         _ = file.write("0.5")
        ...     Path(f"{folder}/scores.txt").read_text()
        '0.5'
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # a name of its own: two writers, of two processes or two threads, never share a part
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}{PART}")
    options: dict[str, Any] = {"mode": "wb"} if binary else {"mode": "w", "encoding": "utf-8", "newline": "\n"}
    try:
        with part.open(**options) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make a rename durable; file systems and platforms that cannot sync a folder are left alone."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
