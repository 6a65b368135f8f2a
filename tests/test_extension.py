"""The example extension is installed, listed, proved and benchmarked, as a user's own would be."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXTENSION = Path(__file__).parent.parent / "experiments" / "extension"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a process in which the extension is installed."""
    folder = tmp_path_factory.mktemp("site")
    copied = shutil.copytree(EXTENSION, tmp_path_factory.mktemp("source") / "extension")  # a build leaves files
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    # no index: what the package is built with is there already
    subprocess.run([*pip, "--no-deps", "--no-build-isolation", "--target", str(folder), str(copied)], check=True)
    return {**os.environ, "PYTHONPATH": str(folder)}


def run(environment: dict[str, str], *arguments: str, cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], env=environment, cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_methods_are_listed_with_their_origin(installed: dict[str, str], tmp_path: Path) -> None:
    out = run(installed, "-m", "uda.cli", "methods", cwd=tmp_path)
    assert "InformationMaximisation(weight=0.1) from uda_extension.information:InformationMaximisation" in out
    assert "Liang et al." in out


@pytest.mark.slow
def test_its_own_tests_pass(installed: dict[str, str], tmp_path: Path) -> None:
    out = run(installed, "-m", "pytest", "-p", "no:cacheprovider", str(EXTENSION / "tests"), cwd=tmp_path)
    assert "passed" in out


@pytest.mark.soak
@pytest.mark.slow
def test_its_benchmark_runs_in_workers_too(installed: dict[str, str], tmp_path: Path) -> None:
    """Every name of the config is the extension's: method, data, network, label space; the optimiser is torch's."""
    config = tmp_path / "shapes.yaml"
    text = (EXTENSION / "shapes.yaml").read_text()
    config.write_text(text.replace("steps: 100", "steps: 6").replace("seeds: [0, 1]", "seeds: [0]"))
    out = run(installed, "-m", "uda.cli", "bench", str(config), "--workers", "2", cwd=tmp_path)
    for row in ("source_only", "information", "by_place"):
        assert row in out
    assert (tmp_path / "runs/shapes/by_place/seed0/result.json").is_file()
