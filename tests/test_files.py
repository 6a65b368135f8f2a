"""Files are written whole or not at all."""

from __future__ import annotations

import ast
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from uda.files import atomic_write

PACKAGE = Path(__file__).parent.parent / "uda"


def test_missing_folders_are_made_and_line_ends_kept(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "a/b/c.txt") as file:
        file.write("one\ntwo\n")
    assert (tmp_path / "a/b/c.txt").read_bytes() == b"one\ntwo\n"
    assert [path.name for path in (tmp_path / "a/b").iterdir()] == ["c.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_after_an_error_the_old_file_is_there_and_nothing_else(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "x.bin"
    path.write_bytes(b"old")

    def write() -> None:
        with atomic_write(path, binary=True) as file:
            file.write(b"new")
            raise error

    with pytest.raises(error):
        write()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_content_is_synced_before_it_takes_the_name_and_the_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    sync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (events.append("sync"), sync(handle))[1])
    monkeypatch.setattr(Path, "replace", lambda self, to: (events.append("replace"), replace(self, to))[1])
    with atomic_write(tmp_path / "x") as file:
        file.write("x")
    assert events == ["sync", "replace", "sync"]


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="asks Linux which file a handle is of")
def test_new_folders_are_synced_into_theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(Path(os.readlink(f"/proc/self/fd/{handle}"))))
    with atomic_write(tmp_path / "a/b/x") as file:
        file.write("x")
    assert [path for path in synced if path.suffix != ".part"] == [tmp_path, tmp_path / "a", tmp_path / "a/b"]


def test_nothing_in_the_library_writes_by_itself() -> None:
    """All outputs go through here; what appends (curves), beats (claims) and asks the kernel (peak memory) does not."""
    allowed = {"claims.py", "files.py", "engine/tensorboard.py", "bench/cell.py"}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        writing = {node.func.attr for node in calls if isinstance(node.func, ast.Attribute)} & {
            "write_text", "write_bytes", "imwrite", "savez", "to_csv_file",
        }  # fmt: skip
        assert not writing or name in allowed, f"{name}: {writing}"


def test_threads_that_write_the_same_file_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "x"

    def write(number: int) -> None:
        with atomic_write(path) as file:
            file.write(f"{number}" * 1000)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(64)))
    text = path.read_text()
    assert text in {f"{number}" * 1000 for number in range(64)}
    assert list(tmp_path.iterdir()) == [path]
