"""The cells that are left of some benchmarks: which is next, who else works on them, and what came of them.

Any number of processes, on any number of machines, may do this with the same folders at once. Each works on the cells
that it has claimed (:mod:`uda.claims`), takes over those whose holder has gone silent, and learns from what lies in a
cell's folder what others have done: its result, or a traceback that was not there before.
"""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

from uda.bench.cell import Outcome, Progress, is_left, run_cell
from uda.bench.identity import Identities
from uda.bench.plan import ERROR, Cell, make_plan
from uda.bench.pool import DIED, pool
from uda.bench.ranks import Leader, run_cell_together
from uda.claims import Holder, Watch
from uda.config import BenchConfig
from uda.engine.tensorboard import last_scalars
from uda.progress import losses_of

POLL = 5.0
"""Seconds between two looks at a cell that another process works on; half a heartbeat, so that none is missed."""
TICK = 0.5
"""Seconds that are slept where there is nothing to do but to wait for others."""


@dataclass(frozen=True)
class Event:
    """What happened to a cell, for whoever shows the progress."""

    kind: Literal["note", "warning", "plan", "start", "step", "done", "failed"]
    cell: str = ""
    message: str = ""
    finished: int = 0
    """Cells that need nothing more, failed ones included."""
    total: int = 0
    step: int = 0
    """Training steps that the cell has done, of ``steps``."""
    steps: int = 0
    losses: Mapping[str, float] = field(default_factory=dict)
    """By name, as last logged; empty where this step logs none."""


def only_warn(event: Event) -> None:
    """Tell nothing but what somebody who looks at no progress has to know."""
    if event.kind == "warning":
        warnings.warn(event.message, stacklevel=2)


@dataclass
class Job:
    """A benchmark to work on."""

    config: BenchConfig
    cells: list[Cell]
    """Those of its plan that are asked for, and what they need."""
    folder: Path
    prefix: str = ""
    """Begins its cells' names in reports."""
    todo: list[Cell] = field(default_factory=list)
    """Of the cells, those that are not done."""
    again: set[str] = field(default_factory=set)
    """Of these, those that have their scores, but whose damaged checkpoint another cell starts from."""

    @cached_property
    def identities(self) -> Identities:
        """Of its cells."""
        return Identities(self.config, self.cells)

    def is_left(self, cell: Cell) -> bool:
        """Whether a cell still needs work."""
        return is_left(self.identities, cell, self.folder, cell.name in self.again)

    def own(self, names: Any) -> Any:
        """The entries of a list or mapping by reported names that are of this job's cells, by the cells' own names."""
        mine = [name for name in names if name.startswith(self.prefix)]
        cut = {name: name.removeprefix(self.prefix) for name in mine}
        return {cut[name]: names[name] for name in mine} if isinstance(names, dict) else list(cut.values())


def jobs_of(
    benchmarks: Sequence[tuple[BenchConfig, Collection[str] | None]],
    out: Path,
    seeds: Collection[int] | None,
    prefixed: bool,
) -> list[Job]:
    """The jobs of benchmarks, each with the rows that are asked for; their names begin the cells' names if prefixed."""
    return [
        Job(config, make_plan(config, rows, seeds), out / config.name, f"{config.name}/" if prefixed else "")
        for config, rows in benchmarks
    ]


def folder_of(jobs: list[Job], out: Path) -> Path:
    """The folder of what some benchmarks have in common: of a benchmark of its own, its own."""
    return jobs[0].folder if len(jobs) == 1 and not jobs[0].prefix else out


@dataclass(frozen=True)
class Task:
    """A cell of one of the benchmarks."""

    job: Job
    cell: Cell

    @property
    def name(self) -> str:
        """In reports."""
        return self.job.prefix + self.cell.name

    @property
    def needs(self) -> list[str]:
        """Names of the tasks that it starts from."""
        return [self.job.prefix + need for need in self.cell.needs]

    @property
    def folder(self) -> Path:
        """The cell's."""
        return self.job.folder / self.cell.name


class Work:
    """The cells that are left, and how far they are.

    Args:
        jobs: prepared: what is left of each stands in its ``todo``.
        extend: train the checkpoints of shorter runs on.
        report: told what happens.
        stop: asked after each training step and before each cell; where it says so, the work ends after a checkpoint.
        processes: that train each cell together.
    """

    def __init__(
        self,
        jobs: list[Job],
        extend: bool,
        report: Callable[[Event], None],
        stop: Callable[[], bool] | None = None,
        processes: int = 1,
    ) -> None:
        self.extend, self.report, self.stop, self.processes = extend, report, stop, processes
        # what others wait for goes first, of all benchmarks
        tasks = [Task(job, cell) for job in jobs for cell in job.todo]
        self.waiting = sorted(tasks, key=lambda task: task.cell.kind != "warm_start")
        self.running: list[Task] = []
        self.total = len(self.waiting)
        self.ran: list[str] = []
        self.elsewhere: list[str] = []
        """Those that other processes finished."""
        self.failed: dict[str, str] = {}
        self.holders: dict[str, Holder] = {}
        """Of the waiting cells, those on which others work."""
        self._watch, self._looked = Watch(), dict[str, float]()
        self._errors = {task.name: _error(task) for task in tasks}
        self._told: dict[str, Holder] = {}

    @property
    def stopped(self) -> bool:
        """Whether the work is to end before all is done."""
        return self.stop is not None and self.stop()

    def start(self) -> Task | None:
        """The next cell whose needs are done and on which nobody works, if any; those whose needs failed fail too."""
        if self.stopped:
            return None
        for task in list(self.waiting):
            if self.is_ready(task) and self.is_free(task) and not self.settle(task):
                self.waiting.remove(task)
                self.running.append(task)
                self.tell("start", task)
                return task
        return None

    def is_ready(self, task: Task) -> bool:
        """Whether what a waiting cell starts from is done; where that failed, the cell fails."""
        lost = [need for need in task.needs if need in self.failed]
        if lost:
            self.finish(task, Outcome("failed", f"not run, because {lost[0]} failed"))
            return False
        return not {unfinished.name for unfinished in self.waiting + self.running} & set(task.needs)

    def is_free(self, task: Task) -> bool:
        """Whether nobody works on a waiting cell, as far as the last look tells."""
        now = time.monotonic()
        if task.name not in self.holders or now - self._looked[task.name] >= POLL:
            self._looked[task.name] = now
            holder = self._watch.holder(task.folder)
            if holder is None:
                self.holders.pop(task.name, None)
            else:
                self.holders[task.name] = holder
        return task.name not in self.holders

    def settle(self, task: Task) -> bool:
        """Whether another process has finished a waiting cell on which nobody works, or has failed to."""
        if not task.job.is_left(task.cell):
            self.finish(task, Outcome("elsewhere"))
            return True
        error = _error(task)
        if error is None or error == self._errors[task.name]:
            return False
        self.finish(task, Outcome("failed", last_line(task.folder / ERROR)))
        return True

    def finish(self, task: Task, outcome: Outcome) -> None:
        """Note what came of a cell; one that others hold, or that was stopped, waits again."""
        self.running = [running for running in self.running if running is not task]
        self.waiting = [waiting for waiting in self.waiting if waiting is not task]
        if outcome.state == "done":
            self.ran.append(task.name)
            self.tell("done", task)
        elif outcome.state == "elsewhere":
            self.elsewhere.append(task.name)
            self.tell("done", task, "by another process")
        elif outcome.state == "failed":
            self.failed[task.name] = outcome.message
            self.tell("failed", task, outcome.message)
        else:
            self.waiting.append(task)

    def tell(self, kind: Literal["start", "done", "failed"], task: Task, message: str = "") -> None:
        """Report an event of a cell."""
        self.report(Event(kind, task.name, message, finished=self.finished, total=self.total))

    @property
    def finished(self) -> int:
        """Cells that need nothing more."""
        return len(self.ran) + len(self.elsewhere) + len(self.failed)

    def tell_step(self, task: Task, step: int, steps: int, losses: Mapping[str, float]) -> None:
        """Report how far a cell is."""
        self.report(
            Event("step", task.name, finished=self.finished, total=self.total, step=step, steps=steps, losses=losses)
        )

    def look(self, told: dict[str, int]) -> None:
        """Tell how far the cells of other processes are, by what they have logged; they say nothing themselves."""
        for task in [*self.running, *(task for task in self.waiting if task.name in self.holders)]:
            settings = task.cell.settings
            if settings is not None and (record := newly_logged(task.folder, told, task.name)):
                self.tell_step(task, record["step"] + 1, settings.steps, losses_of(record))

    def here(self, progress: Progress | None, leader: Leader | None = None) -> None:
        """Work in this process, under a launcher as the leader of the others."""
        told: dict[str, int] = {}
        while self.waiting and not self.stopped:
            task = self.start()
            if task is None:
                self.wait(told)
                continue
            tell, job = partial(self.tell_step, task), task.job
            again = task.cell.name in job.again
            cell = (job.config, job.cells, task.cell, job.folder)
            if self.processes > 1:
                look = partial(self.look, told)
                outcome = run_cell_together(self.processes, *cell, self.extend, again, look, self.stop)
            elif leader is not None and task.cell.settings is not None:
                leader.next(task.name)
                outcome = run_cell(*cell, progress, self.extend, tell, again, self.stop, raising=True)
                leader.trains = False
            else:
                outcome = run_cell(*cell, progress, self.extend, tell, again, self.stop)
            self.finish(task, outcome)

    def side_by_side(self, workers: int) -> None:
        """Work in so many processes."""
        told: dict[str, int] = {}

        def call(task: Task) -> tuple[Any, ...]:
            job = task.job
            cell, again = (job.config, job.cells, task.cell, job.folder), task.cell.name in job.again
            if self.processes > 1:
                return run_cell_together, self.processes, *cell, self.extend, again
            return run_cell, *cell, None, self.extend, None, again

        def lose(task: Task) -> None:
            self.finish(task, Outcome("failed", DIED))

        while self.waiting and not self.stopped:
            pool(workers, self.start, call, self.finish, lose, lambda: self.look(told))
            if self.waiting:
                self.wait(told)

    def fail(self, task: Task, why: str) -> None:
        """Note that a cell failed without a word of its own."""
        self.finish(task, Outcome("failed", why))

    def wait(self, told: dict[str, int], seconds: float | None = None) -> None:
        """Wait a little for those who work on what is left, and say once who they are."""
        for task in self.waiting:
            holder = self.holders.get(task.name)
            if holder is not None and self._told.get(task.name) != holder:
                self._told[task.name] = holder
                self.report(Event("note", message=f"waiting for {task.name}: {holder} works on it"))
        self.look(told)
        time.sleep(TICK if seconds is None else seconds)


def newly_logged(folder: Path, told: dict[str, int], name: str) -> dict[str, Any]:
    """What a run in a folder has logged last; empty where that was told before, by the step in ``told[name]``."""
    record = last_scalars(folder)
    if not record or told.get(name) == record["step"]:
        return {}
    told[name] = record["step"]
    return record


def _error(task: Task) -> tuple[int, int] | None:
    """Tells a cell's traceback from later ones; ``None`` without any."""
    try:
        status = (task.folder / ERROR).stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


def last_line(path: Path) -> str:
    """What a traceback ends with: the error."""
    with contextlib.suppress(OSError):
        lines = [line for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
        if lines:
            return lines[-1]
    return f"see {path}"
