"""Processes of two machines: ``python -m tests.bench.machines KIND CONFIG OUT WORKERS`` is one of another machine."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from uda import claims
from uda.bench import Event, run, work
from uda.bench.factorial import run_factorial
from uda.bench.matrix import run_matrix
from uda.bench.search import run_search, study
from uda.methods import Method

KINDS: dict[str, Callable[..., Any]] = {
    "bench": run, "matrix": run_matrix, "factorial": run_factorial, "search": run_search
}  # fmt: skip


class Hang(Method):
    """Stops in its second step while a file is there; fails there where another one is."""

    def __init__(self, *, flag: str) -> None:
        super().__init__()
        self.flag = Path(flag)

    def losses(self, step: Any) -> dict[str, torch.Tensor]:
        while step.index == 1 and self.flag.exists():
            self.flag.with_suffix(".here").write_text("")
            time.sleep(0.02)
        if self.flag.with_suffix(".fail").exists():
            raise RuntimeError("boom elsewhere")
        return {}


class Slow(Method):
    """Takes a while, and notes in a file at which step each process began."""

    needs_target = False

    def __init__(self, *, notes: str, seconds: float = 0.25) -> None:
        super().__init__()
        self.notes, self.seconds, self.begun = Path(notes), seconds, False

    def losses(self, step: Any) -> dict[str, torch.Tensor]:
        if not self.begun:
            self.begun = True
            with self.notes.open("a") as file:
                file.write(f"{step.index}\n")
        time.sleep(self.seconds)
        return {}


class Mortal(Method):
    """The second of several processes is killed in its second step."""

    needs_target = False

    def losses(self, step: Any) -> dict[str, torch.Tensor]:
        if step.index == 1 and os.environ.get("RANK") == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        return {}


def hasten(patch: Callable[[Any, str, float], None] = setattr) -> None:
    """Hearts that beat fast, and little patience."""
    for module, name, value in (
        (claims, "BEAT", 0.1), (claims, "SILENCE", 2.0), (claims, "LOOK", 0.05), (work, "POLL", 0.05),
        (work, "TICK", 0.02), (study, "POLL", 0.05), (study, "TICK", 0.02),
    ):  # fmt: skip
        patch(module, name, value)


def main(kind: str, config: str, out: str, workers: str) -> None:
    """Run a benchmark as another machine would, and print what this one did."""
    torch.set_num_threads(1)
    hasten()
    claims._machine = lambda: "another"  # type: ignore[assignment]
    claims.socket.gethostname = lambda: "far"

    events: list[Event] = []
    result = KINDS[kind](json.loads(Path(config).read_text()), out=out, workers=int(workers), report=events.append)
    print(json.dumps({"ran": own_work(events), "failed": result.failed}))


def own_work(events: list[Event]) -> list[str]:
    """The cells or trials that a process finished itself."""
    return [event.cell for event in events if event.kind == "done" and event.message != "by another process"]


if __name__ == "__main__":
    main(*sys.argv[1:])
