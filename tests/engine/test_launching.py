"""Processes of one machine that run a function together: results, failures, kills."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests.engine.test_processes import close, run_to
from uda.engine import LaunchError, launch
from uda.engine.checkpoint import load
from uda.engine.launching import cores
from uda.methods import AdvEnt, ClassMix, Supervised
from uda.testing import train

SECONDS = 20.0
"""From a process' death to the end of all; most of it is this machine's."""


def ranks(name: str) -> tuple[str, str, int]:
    from uda.bench.ranks import join
    from uda.processes import Processes

    join("cpu")
    here = Processes.current()
    return name, os.environ["RANK"], 1 if here is None else sum(here.objects(here.rank + 1))


def test_gives_what_the_first_process_gives() -> None:
    looks: list[float] = []
    assert launch(2, ranks, "run", look=lambda: looks.append(0)) == ("run", "0", 3)
    assert looks


def second_fails() -> None:
    if os.environ["RANK"] == "1":
        raise ValueError("a label\n of 77")
    time.sleep(600)


def second_is_killed() -> None:
    if os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(600)


@pytest.mark.slow
def test_says_which_process_failed_and_why() -> None:
    started = time.monotonic()
    with pytest.raises(LaunchError, match=r"^process 1 of 2: ValueError: a label of 77$") as caught:
        launch(2, second_fails)
    assert "second_fails" in caught.value.trace
    with pytest.raises(LaunchError, match=r"^process 1 of 2 was killed \(SIGKILL\), and the others were ended$"):
        launch(2, second_is_killed)
    assert time.monotonic() - started < 60, "the other process would sleep on"


def train_until(out: Path, kill_at: int | None) -> float:
    """The run of ``run_to``, in which the second process is killed at a step; when it ended."""

    def progress(steps: Iterable[int]) -> Iterator[int]:
        for step in steps:
            if step == kill_at and os.environ["RANK"] == "1":
                (out / "killed").write_text(str(time.time()))
                os.kill(os.getpid(), signal.SIGKILL)
            yield step

    methods = [Supervised(), AdvEnt(width=4), ClassMix()]
    train(methods, batch_size=4, dropout=0.0, steps=4, out=out, progress=progress)
    return time.time()


@pytest.mark.slow
def test_a_killed_process_ends_the_run_which_goes_on(tmp_path: Path) -> None:
    alone = run_to(tmp_path / "alone", None)
    (tmp_path / "cut").mkdir()
    with pytest.raises(LaunchError, match=r"process 1 of 2 was killed \(SIGKILL\)"):
        launch(2, train_until, tmp_path / "cut", 3)
    assert time.time() - float((tmp_path / "cut" / "killed").read_text()) < SECONDS
    assert load(tmp_path / "cut" / "checkpoint.pt")["step"] == 3
    launch(2, train_until, tmp_path / "cut", None)
    state = load(tmp_path / "cut" / "checkpoint.pt")
    close({key: value for key, value in state.items() if key in alone and key != "identity"},
          {key: value for key, value in alone.items() if key != "identity"})  # fmt: skip


def sleeps(folder: Path) -> None:
    (folder / os.environ["RANK"]).write_text(str(os.getpid()))
    time.sleep(600)


def is_alive(process: int) -> bool:
    try:
        return ") Z" not in Path(f"/proc/{process}/stat").read_text()  # one that nobody waited for is a zombie
    except OSError:
        return False


@pytest.mark.slow
def test_processes_end_with_their_parent(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from uda.engine import launch; "
        "from tests.engine.test_launching import sleeps\n"
        f"if __name__ == '__main__': launch(2, sleeps, Path({str(tmp_path)!r}))"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[2])
    deadline = time.monotonic() + 120
    while len(list(tmp_path.iterdir())) < 2 or not all(path.read_text() for path in tmp_path.iterdir()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    parent.kill()
    parent.wait()
    children = [int(path.read_text()) for path in tmp_path.iterdir()]
    while any(is_alive(child) for child in children):
        assert time.monotonic() < deadline, "a process outlived its parent"
        time.sleep(0.1)


def test_cores_are_those_of_this_process() -> None:
    assert 1 <= cores() <= (os.cpu_count() or 1)
