"""The container's recipe names what there is; a container itself is built by nobody here."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

from packaging.specifiers import SpecifierSet

from uda import opencv
from uda.cli import app
from uda.shipped import benchmarks

ROOT = Path(__file__).parent.parent
RECIPE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def copied() -> list[str]:
    """Paths of the checkout that the recipe copies."""
    return [path for line in re.findall(r"^COPY (.+) \S+$", RECIPE, re.M) for path in line.split()]


def test_what_it_copies_is_there_and_not_ignored() -> None:
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line[:1] == "!"}
    assert copied()
    assert set(copied()) == let_in
    for path in copied():
        assert (ROOT / path).exists(), path


def test_a_wheel_of_what_it_copies_is_whole(tmp_path: Path) -> None:
    for path in copied():
        source = ROOT / path
        shutil.copytree(source, tmp_path / path) if source.is_dir() else shutil.copy(source, tmp_path)
    build = ["-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", "dist", "."]
    subprocess.run([sys.executable, *build], cwd=tmp_path, check=True, capture_output=True)
    (wheel,) = (tmp_path / "dist").glob("uda_seg-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert "uda/cli/bench.py" in names
    assert {f"uda/benchmarks/{name}.yaml" for name in benchmarks()} <= names


def test_its_python_extras_and_system_libraries_are_the_projects() -> None:
    version = re.findall(r"^FROM python:(\S+?)-slim", RECIPE, re.M)
    assert SpecifierSet(PROJECT["requires-python"]).contains(version[0])
    assert f"Programming Language :: Python :: {version[0]}" in PROJECT["classifiers"]
    (extras,) = re.findall(r'"\.\[(.+)\]"', RECIPE)
    assert set(extras.split(",")) <= PROJECT["optional-dependencies"].keys()
    (libraries,) = re.findall(r"--no-install-recommends (.+) \\", RECIPE)
    assert f"apt install {libraries}" in Path(opencv.__file__).read_text(encoding="utf-8")


def test_it_runs_the_quickstart() -> None:
    (command,) = re.findall(r"^CMD \[(.+)\]$", RECIPE, re.M)
    program, subcommand, name, *options = re.findall(r'"(.+?)"', command)
    assert program in PROJECT["scripts"]
    known = {info.name: info for info in app.registered_commands}
    assert subcommand in known
    assert name in benchmarks()
    assert options == ["--out", "runs", "--workers", "2"], "the options of make quickstart"
    quickstart = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "bench benchmarks/quickstart.yaml --out runs --workers $(WORKERS)" in quickstart
