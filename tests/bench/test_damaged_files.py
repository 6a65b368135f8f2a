"""Every file of a finished benchmark cut, empty, random or gone: it is named, and the table ends the same.

The files are those that a run leaves, so a new one is tried by itself.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.bench import tiny
from tests.bench.test_damage import DAMAGE, again, same_scores
from uda.bench import BenchResult, run, write_tables
from uda.bench.restore import open_run
from uda.models import load

ROWS = ("warm_start", "fda", "adabn")
"""One of each kind of cell."""
UNREAD = ("tensorboard",)
"""Folders that nothing of the library reads back."""


def files(folder: Path) -> Iterator[Path]:
    """The files below a folder, relative to it: of pictures, of which there are many, the first of each domain."""
    for path in sorted(folder.rglob("*")):
        numbered = path.parent.name == "pictures" and not path.stem.endswith("_0")
        if path.is_file() and not numbered:
            yield path.relative_to(folder)


def tried(place: int) -> list[tuple[str, Callable[[Path], None]]]:
    """Two of the ways to do damage, in turn: over all rows each way meets each kind of file, in half the time."""
    ways = list(DAMAGE.items())
    return [ways[(place + step) % len(ways)] for step in (0, 2)]


def is_named(path: Path, damage: str, said: str, result: BenchResult) -> bool:
    """Whether a reader learns of the damage: by the file's name, or since the cell is done again."""
    if any(part in UNREAD for part in path.parts):
        return True
    if damage == "removed" and path.name in ("result.json", "model.json"):
        # without the one a cell is an unfinished one, without the other one of an older version
        return path.name == "model.json" or path.parent.relative_to(result.folder).as_posix() in result.ran
    return f"{path}: " in said


@pytest.mark.soak
@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("row", ROWS)
def test_every_damaged_file_is_named_and_the_table_ends_the_same(
    row: str, finished: BenchResult, copy: Path, data: Path
) -> None:
    original, cell = finished.folder / row / "seed0", copy / "tiny" / row / "seed0"
    every = list(files(original))
    assert len(every) > 5
    faults = []
    for place, path in enumerate(every):
        for name, damage in tried(place + ROWS.index(row)):
            if (original / path).stat().st_size == 0 and name != "removed":
                continue
            damage(cell / path)
            result, said = again(copy, data)
            write_tables(result.config, result.folder, result.table)
            if not is_named(cell / path, name, said, result):
                faults.append(f"{path} {name}: not named in {said!r}")
            if not same_scores(result, finished):
                faults.append(f"{path} {name}: another table")
            if row != "adabn" and path.name != "checkpoint.pt" and (path.name, name) != ("model.json", "removed"):
                assert open_run(cell).seed == 0
                assert load(cell) is not None
            shutil.rmtree(cell)
            shutil.copytree(original, cell)
    assert faults == []


@pytest.mark.slow
def test_a_folder_that_is_gone_is_made_again(finished: BenchResult, copy: Path, data: Path) -> None:
    for folder in ("evaluations", "pictures", "tensorboard"):
        shutil.rmtree(copy / "tiny/fda/seed0" / folder)
    result, said = again(copy, data)
    assert "evaluations/target.npz: is missing" in said
    assert same_scores(result, finished)
    shutil.rmtree(copy / "tiny/oracle")
    assert run(tiny.content(data), out=copy).ran == ["oracle/seed0"]
