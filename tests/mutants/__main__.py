"""Runs the tests against deliberately wrong lines: ``python -m tests.mutants [-j WORKERS] [TEXT]``.

Each mutant of ``mutants.yaml`` (those whose file or line contains TEXT) is put into a copy of the repository, and its
tests are run there; it is killed if one fails. Exits with 1 where a mutant survives.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue
from typing import Any, TypeVar

import yaml

ROOT = Path(__file__).parent.parent.parent
LEFT_OUT = shutil.ignore_patterns(".git", ".venv", "runs", "__pycache__", ".*_cache", "*.egg-info", "data")
SECONDS = 300
T = TypeVar("T")


def read() -> list[dict[str, Any]]:
    """The mutants."""
    mutants: list[dict[str, Any]] = yaml.safe_load((Path(__file__).parent / "mutants.yaml").read_text(encoding="utf-8"))
    return mutants


def copy_to(folder: Path) -> Path:
    """A copy of what the tests need."""
    for name in ("uda", "tests", "benchmarks", "experiments", "docs"):
        ignore = None if name in ("uda", "tests") else LEFT_OUT
        shutil.copytree(ROOT / name, folder / name, ignore=ignore or shutil.ignore_patterns("__pycache__"))
    for file in ROOT.glob("*.*"):
        if file.is_file():
            shutil.copy(file, folder)
    return folder


def killed(mutant: dict[str, Any], folder: Path) -> bool:
    """Whether a test fails with the mutant in the copy at ``folder``."""
    path = folder / mutant["file"]
    right = path.read_text(encoding="utf-8")
    if right.count(mutant["old"]) != 1:
        raise SystemExit(
            f"{mutant['file']}: {mutant['old']!r} is there {right.count(mutant['old'])} times; mend the list"
        )
    try:
        path.write_text(right.replace(mutant["old"], mutant["new"]), encoding="utf-8")
        return run(mutant["tests"].split(), folder) != 0
    finally:
        path.write_text(right, encoding="utf-8")


def run(tests: list[str], folder: Path) -> int:
    """The exit code of some tests in a copy; one that hangs has failed."""
    environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-m", "not slow", "-p", "no:cacheprovider", *tests]
    try:
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return -1
    if done.returncode not in (0, 1, 2):
        raise SystemExit(f"{' '.join(tests)}: {done.stdout.decode()[-400:]}")
    return done.returncode


def main() -> int:
    """Run the mutants; the number that survived."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("text", nargs="?", default="")
    parser.add_argument("-j", "--workers", type=int, default=1)
    options = parser.parse_args()
    mutants = [mutant for mutant in read() if options.text in f"{mutant['file']} {mutant['old']}"]
    started, survived = time.monotonic(), []
    with tempfile.TemporaryDirectory() as place, ThreadPoolExecutor(options.workers) as pool:
        copies: Queue[Path] = Queue()
        for number in range(options.workers):
            copies.put(copy_to(Path(place) / str(number)))

        def with_copy(work: Callable[[Path], T]) -> T:
            folder = copies.get()
            try:
                return work(folder)
            finally:
                copies.put(folder)

        # a test that fails anyway kills nothing
        wanted = sorted({mutant["tests"] for mutant in mutants})
        for tests, code in zip(
            wanted, pool.map(lambda tests: with_copy(lambda folder: run(tests.split(), folder)), wanted), strict=True
        ):
            if code != 0:
                raise SystemExit(f"{tests}: fails without any mutant")
        for mutant, dead in zip(
            mutants, pool.map(lambda mutant: with_copy(lambda folder: killed(mutant, folder)), mutants), strict=True
        ):
            print(f"{'killed  ' if dead else 'SURVIVED'} {mutant['file']}: {mutant['old'].strip()[:90]}", flush=True)
            survived += [] if dead else [mutant]
    dead_count = len(mutants) - len(survived)
    print(f"{dead_count} of {len(mutants)} killed in {time.monotonic() - started:.0f} s")
    return len(survived)


if __name__ == "__main__":
    sys.exit(min(1, main()))
