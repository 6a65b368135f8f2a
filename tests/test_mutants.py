"""The list of deliberately wrong lines fits the code: a line that has changed is found here, not by `make mutants`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.mutants.__main__ import read

ROOT = Path(__file__).parent.parent
MUTANTS = read()


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: f"{mutant['file']}: {mutant['old'].strip()[:40]}")
def test_the_line_is_there_once_and_its_tests_are(mutant: dict[str, Any]) -> None:
    source = (ROOT / mutant["file"]).read_text(encoding="utf-8")
    assert source.count(mutant["old"]) == 1
    assert mutant["old"] != mutant["new"]
    compile(source.replace(mutant["old"], mutant["new"]), mutant["file"], "exec")
    for tests in mutant["tests"].split():
        assert (ROOT / tests).exists(), tests


def test_every_family_has_mutants() -> None:
    assert len(MUTANTS) >= 70
    folders = {mutant["file"].split("/")[1] for mutant in MUTANTS}
    assert folders >= {"methods", "functional", "models", "engine", "data", "metrics", "bench"}
