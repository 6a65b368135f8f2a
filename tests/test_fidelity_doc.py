"""docs/fidelity.md is written by a script; it must not fall behind the code."""

from __future__ import annotations

import re
from pathlib import Path

from experiments.fidelity_table import toolbox_rows
from uda.methods import METHODS, TEST_TIME_METHODS

ROOT = Path(__file__).parent.parent
DOCUMENT = (ROOT / "docs" / "fidelity.md").read_text()
AGAIN = "run: python experiments/fidelity_table.py"


def test_every_method_has_a_row() -> None:
    methods = DOCUMENT.partition("## Recorded functions")[0]
    rows = set(re.findall(r"^\| `(\w+)` \|", methods, re.MULTILINE))
    assert rows == {*METHODS, *TEST_TIME_METHODS}, AGAIN


def test_functions_that_nothing_calls_are_marked_as_toolbox() -> None:
    assert "\n".join(toolbox_rows()) in DOCUMENT, AGAIN


def test_every_recorded_function_has_a_row_and_passed() -> None:
    cases: dict[str, int] = {}
    for path in (ROOT / "tests" / "data" / "golden").glob("*/*.npz"):
        name = f"{path.parent.name}/{path.stem.rpartition('_')[0]}"
        cases[name] = cases.get(name, 0) + 1
    rows = re.findall(r"^\| `(\w+/\w+)` \| (.+) \| (\d+)/(\d+) \|$", DOCUMENT, re.MULTILINE)
    assert {name: int(passed) for name, _, passed, _ in rows} == cases, AGAIN
    assert all(passed == count for _, _, passed, count in rows)
    assert all("`" in ours for _, ours, _, _ in rows), "a recorded function without one of ours"
