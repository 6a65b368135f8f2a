from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.bench import tiny
from uda.bench import BenchResult, run
from uda.engine import Update


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_data(tmp_path_factory.mktemp("streets"))


@pytest.fixture(scope="session")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> BenchResult:
    """A finished benchmark; copy its folder before changing anything in it."""
    return run(tiny.content(data), out=tmp_path_factory.mktemp("runs"))


@pytest.fixture
def copy(finished: BenchResult, tmp_path: Path) -> Path:
    """A copy of the finished runs, to do things to."""
    shutil.copytree(finished.folder.parent, tmp_path / "runs")
    return tmp_path / "runs"


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("this call trains a step")

    monkeypatch.setattr(Update, "__call__", refuse)
