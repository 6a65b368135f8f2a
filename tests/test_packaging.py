"""What is built from the repository is whole: a source distribution with its tests, a wheel that runs anywhere."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from uda.config import ConfigError, load_config
from uda.shipped import benchmarks, config_file, hides, summary

ROOT = Path(__file__).parent.parent
CONFIGS = sorted(path.stem for path in (ROOT / "benchmarks").glob("*.yaml"))
LEFT_OUT = {".git", "runs", "site", "data", "build", "dist", "uda_seg.egg-info"}


def python(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip


def test_every_config_of_the_library_has_a_name_and_a_line() -> None:
    known = benchmarks()
    assert list(known) == CONFIGS
    assert "quickstart" in known
    for name, path in known.items():
        assert 20 < len(summary(path)) <= 120, f"{name}: the first line says in a sentence what it is about"
        assert not summary(path).startswith(("#", "name:"))


def test_a_name_is_a_config_in_any_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_config("quickstart") == load_config(ROOT / "benchmarks" / "quickstart.yaml")
    (tmp_path / "quickstart").mkdir()  # such as a results folder: no file, so not meant
    assert config_file("quickstart") == benchmarks()["quickstart"]
    assert hides("quickstart") is None


@pytest.mark.parametrize("local", ["quickstart", "quickstart.yaml"])
def test_a_local_file_of_that_name_wins(local: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / local).write_text("name: mine\n")
    assert config_file("quickstart") == Path(local)
    assert hides("quickstart") == benchmarks()["quickstart"]
    done = python("-m", "uda.cli", "bench", "quickstart", cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert done.returncode == 2
    assert done.stderr.startswith(f"{local}: the local file, not the benchmark 'quickstart' that comes with uda\n")


def test_in_the_folder_of_the_configs_nothing_is_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT / "benchmarks")
    assert config_file("quickstart") == Path("quickstart.yaml")
    assert hides("quickstart") is None


def test_a_mistyped_name_gets_the_nearest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"^quikstart: no such config file, .*the nearest is 'quickstart'"):
        load_config("quikstart")
    with pytest.raises(ConfigError, match=r"no such config file$"):
        load_config("folder/quickstart.yaml")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The source distribution of the repository, what it unpacks to, and the wheel that is built from that."""
    folder = tmp_path_factory.mktemp("built")

    def ignore(place: str, names: list[str]) -> set[str]:
        caches = {name for name in names if name.endswith(("_cache", "__pycache__")) or name.startswith(".venv")}
        return caches | (LEFT_OUT & set(names) if Path(place) == ROOT else set())

    shutil.copytree(ROOT, folder / "repository", ignore=ignore)
    for hook, where in (("sdist", "repository"), ("wheel", "unpacked/*")):
        (project,) = folder.glob(where)
        done = python("-c", f"from setuptools import build_meta; build_meta.build_{hook}({str(folder)!r})", cwd=project)
        assert done.returncode == 0, done.stderr[-2000:]
        if hook == "sdist":
            (sdist,) = folder.glob("*.tar.gz")
            with tarfile.open(sdist) as archive:
                archive.extractall(folder / "unpacked", filter="data")
    (wheel,) = folder.glob("*.whl")
    (unpacked,) = folder.glob("unpacked/*")
    return {"sdist": sdist, "wheel": wheel, "unpacked": unpacked, "repository": folder / "repository"}


@pytest.mark.slow
def test_the_source_distribution_is_the_repository(built: dict[str, Path]) -> None:
    def files(root: Path) -> set[str]:
        listed = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
        return {path for path in listed if "__pycache__" not in path and ".egg-info/" not in path}

    assert built["sdist"].name.startswith("uda_seg-")
    missing = files(built["repository"]) - files(built["unpacked"]) - {".gitignore"}
    assert not missing, f"MANIFEST.in leaves out {sorted(missing)[:10]}"


@pytest.mark.slow
def test_the_wheel_has_configs_types_and_package_data(built: dict[str, Path]) -> None:
    with zipfile.ZipFile(built["wheel"]) as archive:
        names = set(archive.namelist())
    packaged = {path.relative_to(ROOT).as_posix() for path in (ROOT / "uda").rglob("*") if path.is_file()}
    packaged = {path for path in packaged if "__pycache__" not in path}
    assert packaged <= names, sorted(packaged - names)
    assert {"uda/py.typed", *(f"uda/benchmarks/{name}.yaml" for name in CONFIGS)} <= names
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"uda"}


@pytest.mark.slow
def test_the_installed_wheel_runs_in_any_directory(built: dict[str, Path], tmp_path: Path) -> None:
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    pip = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--disable-pip-version-check"]
    done = python(*pip, "--target", str(site), str(built["wheel"]), cwd=elsewhere)
    assert done.returncode == 0, done.stderr
    where = python("-c", "import uda; print(uda.__file__)", cwd=elsewhere, PYTHONPATH=str(site))
    assert Path(where.stdout.strip()).is_relative_to(site)
    listed = python("-m", "uda.cli", "bench", "--list", cwd=elsewhere, PYTHONPATH=str(site))
    assert [line.split()[0] for line in listed.stdout.splitlines()] == CONFIGS
    # the noise of recorded results stands in for cells that were never run
    like = ROOT / "benchmarks" / "results" / "quickstart" / "results.json"
    command = ["-m", "uda.cli", "bench", "quickstart", "--plan", "2", "--like", str(like)]
    planned = python(*command, cwd=elsewhere, PYTHONPATH=str(site))
    assert planned.returncode == 0, planned.stderr
    assert "seeds for a difference of 2 points" in planned.stdout
    assert "adabn" in planned.stdout
    assert (site / "bin" / "uda").is_file() or (site / "Scripts" / "uda.exe").is_file()
