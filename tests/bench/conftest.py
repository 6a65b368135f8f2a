from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench import tiny
from uda.bench import BenchResult, run


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_data(tmp_path_factory.mktemp("streets"))


@pytest.fixture(scope="session")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> BenchResult:
    """A finished benchmark; copy its folder before changing anything in it."""
    return run(tiny.content(data), out=tmp_path_factory.mktemp("runs"))
