"""ika's table of colours is read from Python source that is never run."""

from __future__ import annotations

from pathlib import Path

import pytest

from uda.data import DataError
from uda.data.ika import parse_colour_table, space_of_table


def parse(tmp_path: Path, text: str) -> dict[tuple[int, int, int], int]:
    path = tmp_path / "rgb_to_class_id.py"
    path.write_text(text)
    return parse_colour_table(path)


def test_table_is_found_among_other_code(tmp_path: Path) -> None:
    text = '''"""Colours."""
import numpy as np

NAMES = {"road": 0}
count: int = 3
rgb_to_class_id: dict[tuple, int] = {(128, 64, 128): 0, (244, 35, 232): 1}
more = {(0, 0, 0): -1}

def convert(x):
    return rgb_to_class_id[x]
'''
    assert parse(tmp_path, text) == {(128, 64, 128): 0, (244, 35, 232): 1, (0, 0, 0): -1}


def test_source_is_not_run(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    text = f"open({str(trap)!r}, 'w')\nraise SystemExit\nrgb_to_class_id = {{(1, 2, 3): 4}}\n"
    assert parse(tmp_path, text) == {(1, 2, 3): 4}
    assert not trap.exists()
    text = f"rgb_to_class_id = {{(1, 2, 3): open({str(trap)!r}, 'w')}}\n"
    with pytest.raises(DataError, match="rgb_to_class_id"):
        parse(tmp_path, text)
    assert not trap.exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rgb_to_class_id = {(1, 2, 3: 4}", "not a Python file"),
        ("x = 1", "no dictionary"),
        ("", "no dictionary"),
        ("t = {(1, 2, 300): 4}", r"line 1: \(1, 2, 300\) is not a colour"),
        ("t = {(1, 2, 3): 'road'}", "'road', not a whole number"),
        ("t = {(1, 2, 3): True}", "not a whole number"),
        ("t = {(1, 2, 3): 4, (1, 2, 3): 5}", "two ids, 4 and 5"),
        ("t = {(1, 2, 3): 4}\nu = {(1, 2, 3): 5}", "two ids, 4 and 5"),
        ("t = " + "(" * 500 + ")" * 500, "not a Python file"),
    ],
)
def test_bad_files(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        parse(tmp_path, text)
    assert "rgb_to_class_id.py" in str(error.value)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.py"):
        parse_colour_table(tmp_path / "none.py")


def test_space_of_foreign_colours() -> None:
    space = space_of_table({(1, 2, 3): 7, (128, 64, 128): 2, (0, 0, 0): 5})
    assert space.names == ("road", "class 7"), "in the order of the ids; a group of unlabelled pixels only is void"
    assert space.void_colours == ((0, 0, 0),)
    with pytest.raises(DataError, match="no class at all"):
        space_of_table({(0, 0, 0): 255})
