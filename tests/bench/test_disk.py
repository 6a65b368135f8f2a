"""Disks that are full, broken or read-only: the other cells run, the table is shown, and the message names the path."""

from __future__ import annotations

import errno
import os
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import yaml

from tests.bench import tiny
from tests.test_cli import call
from uda import files
from uda.bench import BenchResult, Event, run
from uda.config import ConfigError
from uda.engine import Evaluation, checkpoint
from uda.files import atomic_write


@contextmanager
def small_disk(size: int) -> Iterator[None]:
    """Writing more than so many bytes into one file fails, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def full_below(monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    """No file below a folder can be made safe: its disk is full."""
    sync = os.fsync

    def fsync(handle: int) -> None:
        if part in os.readlink(f"/proc/self/fd/{handle}"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(handle)

    monkeypatch.setattr(os, "fsync", fsync)


@pytest.mark.parametrize("binary", [True, False])
def test_a_failed_write_names_its_file_and_leaves_nothing(binary: bool, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"old")

    def write() -> None:
        with atomic_write(path, binary=binary) as file:
            file.write(b"x" * 100_000 if binary else "x" * 100_000)

    with small_disk(50_000), pytest.raises(OSError, match=r"x'$") as caught:
        write()
    assert caught.value.filename == str(path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_checkpoint_that_does_not_fit_names_its_file(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    with small_disk(50_000), pytest.raises(OSError, match=r"checkpoint\.pt'$"):
        checkpoint.save({"x": torch.zeros(100_000)}, path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("broken", ["full", "a file is in the way", "error.txt is a folder"])
def test_one_unwritable_cell_does_not_stop_the_others(
    broken: str, copy: Path, data: Path, finished: BenchResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    for row in ("fda", "adabn"):
        shutil.rmtree(copy / f"tiny/{row}")
    cell = copy / "tiny/fda/seed0"
    if broken == "full":
        full_below(monkeypatch, "/fda/seed0")
    elif broken == "a file is in the way":
        cell.parent.write_text("mine")
    else:
        (cell / "error.txt/x").mkdir(parents=True)
    events: list[Event] = []
    result = run(tiny.content(data), out=copy, report=events.append)
    assert "adabn/seed0" in result.ran
    assert {row.name for row in result.table.rows} >= {"source_only", "oracle", "adabn"}
    if broken == "error.txt is a folder":
        assert result.failed == {}
    else:
        (message,) = result.failed.values()
        assert str(cell if broken == "full" else cell.parent) in message
        assert "the next call" in message
    assert not list(copy.rglob("*.part"))
    assert result.table.row("oracle").scores["target"].miou == finished.table.row("oracle").scores["target"].miou


def test_parts_that_a_kill_left_are_removed(copy: Path, data: Path) -> None:
    (copy / "tiny/fda/seed0/result.json").unlink()
    left = [copy / "tiny/fda/seed0/.checkpoint.pt.0123.part", copy / "tiny/fda/seed0/evaluations/.target.npz.0.part"]
    for path in left:
        path.write_bytes(b"x")
    assert run(tiny.content(data), out=copy).failed == {}
    assert not list(copy.rglob("*.part"))


def test_a_file_that_is_there_but_cannot_be_read_is_named(copy: Path, data: Path) -> None:
    for name in ("scalars.jsonl", "evaluations/target.npz", "config.yaml", "pictures/source_0.png"):
        path = copy / "tiny/fda/seed0" / name
        path.unlink()
        path.mkdir()
    events: list[Event] = []
    result = run(tiny.content(data), out=copy, report=events.append)
    said = "\n".join(event.message for event in events)
    assert "fda/seed0" in result.failed
    assert str(copy / "tiny/fda/seed0/evaluations/target.npz") in said
    assert Evaluation.load(copy / "tiny/adabn/seed0/evaluations/target.npz").names


def read_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing can be opened for writing any more."""
    opened = os.open

    def refuse(path: object, *args: object, **kwargs: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    def open_only(path: str, flags: int, *args: int, **kwargs: int) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            refuse(path)
        return opened(path, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", open_only)
    monkeypatch.setattr(files, "_Raw", refuse)


@pytest.fixture
def config(data: Path, tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(tiny.content(data), sort_keys=False))
    return path


def test_a_finished_benchmark_is_shown_from_read_only_media(
    copy: Path,
    config: Path,
    finished: BenchResult,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    no_training: None,
) -> None:
    (copy / "tiny/fda/seed0/config.yaml").write_text("")
    read_only(monkeypatch)
    events: list[Event] = []
    result = run(config, out=copy, report=events.append)
    assert (result.ran, result.failed) == ([], {})
    assert repr(result.table.rows) == repr(finished.table.rows)
    notes = "\n".join(event.message for event in events)
    assert f"{copy / 'tiny'}: cannot be written (Read-only file system)" in notes
    assert call("bench", config, "--out", copy) == 0
    shown = capsys.readouterr()
    assert "source_only" in shown.out
    assert f"not written: {copy / 'tiny/results.md'} (Read-only file system)" in shown.err
    assert not (copy / "tiny/results.md").exists()


def test_an_unfinished_benchmark_on_read_only_media_is_one_line(
    copy: Path, config: Path, monkeypatch: pytest.MonkeyPatch, no_training: None
) -> None:
    (copy / "tiny/fda/seed0/result.json").unlink()
    read_only(monkeypatch)
    with pytest.raises(ConfigError, match=r"tiny: cannot be written \(Read-only file system\), and 1 of 5 cells"):
        run(config, out=copy)


def test_a_folder_that_cannot_be_made_is_one_line(config: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"file/x/tiny: cannot be written \(Not a directory\)"):
        run(config, out=tmp_path / "file/x")


def test_a_table_that_cannot_be_written_is_shown_all_the_same(
    copy: Path, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (copy / "tiny/results.md").mkdir()
    assert call("bench", config, "--out", copy) == 0
    shown = capsys.readouterr()
    assert "source_only" in shown.out
    assert f"not written: {copy / 'tiny/results.md'} (Is a directory)" in shown.err
    assert (copy / "tiny/results.csv").is_file()
