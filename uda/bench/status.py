"""What of a benchmark is running where: nothing is started, and nothing is changed."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from uda import claims
from uda.bench.plan import ERROR
from uda.bench.slurm import FOLDER, read_jobs
from uda.bench.work import Job, folder_of, jobs_of, last_line
from uda.claims import Holder, Watch
from uda.config import BenchConfig
from uda.engine.tensorboard import last_scalars

State = Literal["done", "running", "silent", "failed", "submitted", "left"]
PATIENCE = 2.5
"""Heartbeats for which a claim of another machine is listened to."""


@dataclass(frozen=True)
class CellStatus:
    """One cell."""

    name: str
    state: State
    """``silent``: claimed by a process that is dead, or of which no heartbeat came while this looked; ``submitted``: a
    job of Slurm that has not begun, or has ended without a word; ``left``: not begun, or stopped half-way."""
    holder: Holder | None = None
    """Who works on it."""
    step: int = 0
    """Training steps done, of ``steps``, as far as they are logged."""
    steps: int = 0
    message: str = ""
    """Why it failed; the job that it was submitted as."""


def statuses(
    benchmarks: Sequence[tuple[BenchConfig, Collection[str] | None]],
    *,
    out: Path | str = "runs",
    seeds: Collection[int] | None = None,
    prefixed: bool = True,
) -> list[CellStatus]:
    """What each cell of some benchmarks is at; takes some heartbeats where other machines work on them.

    Args:
        benchmarks: each with the rows that are asked for (``None``: all); see :func:`uda.bench.run.run_together`.
        out: as are the others.
        seeds: only these.
        prefixed: begin a cell's name with its benchmark's.
    """
    jobs = jobs_of(benchmarks, Path(out), seeds, prefixed)
    submitted = read_jobs(folder_of(jobs, Path(out)) / FOLDER)
    watch = Watch()
    _listen(watch, [job.folder / cell.name for job in jobs for cell in job.cells])
    return [_status(job, index, watch, submitted) for job in jobs for index in range(len(job.cells))]


def _listen(watch: Watch, folders: list[Path]) -> None:
    """Look at claims until each has been heard or is of this machine, or long enough."""
    end = time.monotonic() + PATIENCE * claims.BEAT
    quiet = [folder for folder in folders if _may_speak(watch, folder)]
    while quiet and time.monotonic() < end:
        time.sleep(claims.LOOK)
        quiet = [folder for folder in quiet if _may_speak(watch, folder)]


def _may_speak(watch: Watch, folder: Path) -> bool:
    looks = watch.look(folder)
    return looks is not None and not looks.heard and not looks.holder.here


def _status(job: Job, index: int, watch: Watch, submitted: dict[str, str]) -> CellStatus:
    cell = job.cells[index]
    name, folder = job.prefix + cell.name, job.folder / cell.name
    steps = cell.settings.steps if cell.settings else 0
    step = last_scalars(folder).get("step", -1) + 1 if steps else 0
    looks = watch.look(folder)
    if looks is not None:
        alive = not looks.holder.dead and (looks.heard or looks.holder.here)
        return CellStatus(name, "running" if alive else "silent", looks.holder, step, steps)
    if not job.is_left(cell):
        return CellStatus(name, "done", None, steps, steps)
    if (folder / ERROR).is_file():
        return CellStatus(name, "failed", None, step, steps, last_line(folder / ERROR))
    if name in submitted:
        return CellStatus(name, "submitted", None, step, steps, f"job {submitted[name]}")
    return CellStatus(name, "left", None, step, steps)
