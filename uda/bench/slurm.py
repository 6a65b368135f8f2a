"""The cells of a benchmark as jobs of Slurm, through submitit: an array a level, each after those that it starts from.

A job is one cell, worked on as :mod:`uda.bench.work` does it anywhere: with a claim, beside other processes, results
and tracebacks in the cell's folder. At its time limit (or where it is preempted) it writes its checkpoint and is queued
again, to go on from there. What is gathered is what lies in the folders; Slurm is asked only why a job left nothing.
"""

from __future__ import annotations

import json
import multiprocessing
import re
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from uda.bench.plan import make_plan
from uda.bench.ranks import all_on_cpus
from uda.bench.run import work_on
from uda.bench.work import POLL, Event, Job, Task, Work
from uda.claims import claimed
from uda.config import BenchConfig, ConfigError
from uda.files import atomic_write
from uda.registry import nearest

FOLDER = ".slurm"
"""In the benchmark's folder: scripts and logs of the jobs, by their ids."""
JOBS = "jobs.json"
"""In there: the last job of each cell."""
DEFAULTS: dict[str, Any] = {"time": 240, "job_name": "uda"}
"""Where nothing else is asked for; a limit costs nothing but the start, as jobs go on after it."""
REQUEUES = 1000
"""Time limits that a job may meet; each goes on from the last one's checkpoint."""
STOPPING = 60.0
"""Seconds for a training step and a checkpoint before a job's time is over; Slurm warns 90 seconds before."""
GRACE = 30.0
"""Seconds after a job's end in which what it wrote may still be on its way through a network disk."""
OWN = ("python", "max_num_timeout")
"""Parameters that are not Slurm's: the command that starts Python, and time limits that a job may meet."""


@dataclass(frozen=True)
class Slurm:
    """Runs cells as jobs: an engine of :func:`uda.bench.run`.

    Args:
        parameters: of ``submitit.SlurmExecutor`` (``partition``, ``gpus_per_node``, ``cpus_per_task``, ``mem``,
            ``array_parallelism``, ...); ``time`` in minutes, or as Slurm writes it (``1-12:00:00``);
            ``max_num_timeout``: how often a job may meet it; ``python``: what starts Python there, such as
            ``apptainer exec --nv uda.sif python``.
        cluster: ``"local"`` and ``"debug"`` are submitit's stand-ins on this machine.
    """

    parameters: Mapping[str, Any] = field(default_factory=dict)
    cluster: Literal["slurm", "local", "debug"] = "slurm"

    def __call__(self, work: Work, folder: Path) -> None:
        """Submit what is left and has no job yet, and wait for all of it.

        Raises:
            ConfigError: submitit is not installed, this is no Slurm cluster, or a parameter is wrong.
        """
        self.see_that_gpus_suffice(work)
        executor = self.executor(folder)
        jobs = _submit(executor, work, folder / FOLDER)
        _gather(work, jobs)

    def see_that_gpus_suffice(self, work: Work) -> None:
        """See that each of the processes that train a cell gets a GPU, before a job waits for its turn only to fail.

        Raises:
            ConfigError: the jobs ask for GPUs, but for fewer.
        """
        asked = str(self.parameters.get("gpus_per_node", "")).rpartition(":")[2]  # a number, or TYPE:NUMBER
        fewer = asked.isdecimal() and int(asked) < work.processes
        if fewer and not all_on_cpus([task.cell for task in work.waiting]):
            raise ConfigError(
                f"--slurm gpus_per_node is {self.parameters['gpus_per_node']}, must be at least the {work.processes} "
                "processes that train a cell together, or settings.device cpu"
            )

    def executor(self, folder: Path) -> Any:
        """A submitit executor with the parameters.

        Raises:
            ConfigError: see :meth:`__call__`.
        """
        submitit = import_submitit()
        options = {**DEFAULTS, **self.parameters}
        options["time"] = minutes(options["time"])
        own = {"max_num_timeout": REQUEUES, **{name: options.pop(name) for name in OWN if name in options}}
        if self.cluster == "debug":
            return submitit.DebugExecutor(folder / FOLDER)
        if self.cluster == "local":
            executor = submitit.LocalExecutor(folder / FOLDER, **own)
            executor.update_parameters(timeout_min=options["time"], signal_delay_s=options.get("signal_delay_s", 30))
            return executor
        known = sorted(submitit.SlurmExecutor._valid_parameters())
        for name in options:
            if name not in known:
                raise ConfigError(f"--slurm has no {name!r}; {nearest(name, [*known, *OWN])}")
        try:
            executor = submitit.SlurmExecutor(folder / FOLDER, **own)
        except RuntimeError:
            raise ConfigError(
                "--engine slurm: there is no srun here; call it on a login node of the cluster, or use --engine local"
            ) from None
        executor.update_parameters(**options)
        return executor


def import_submitit() -> Any:
    """submitit; an extra of this package.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return import_module("submitit")
    except ImportError as error:
        raise ConfigError("--engine slurm needs the package submitit: pip install 'uda-seg[slurm]'") from error


def minutes(limit: int | str) -> int:
    """A time limit as Slurm writes it (``90``, ``MM:SS``, ``HH:MM:SS``, ``D-HH[:MM[:SS]]``) in whole minutes.

    Raises:
        ConfigError: it is none, or below a minute.

    Example:
        >>> minutes(90), minutes("1-12:00:00"), minutes("00:90:00"), minutes("90:00")
        (90, 2160, 90, 90)
    """
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", str(limit))
    total = 0.0
    if match:
        days, *parts = match.groups()
        first, second, third = (int(part or 0) for part in parts)
        if days or parts[2]:
            total = 1440 * int(days or 0) + 60 * first + second + third / 60
        else:
            total = first + second / 60
    if total < 1:
        raise ConfigError(f"--slurm time is {limit!r}, must be minutes or a limit such as 12:00:00 or 1-12:00:00")
    return int(total)


class CellJob:
    """One cell, to be called in a job; submitit calls :meth:`checkpoint` before the job's time is over.

    Args:
        config: the benchmark.
        cell: its name.
        folder: the benchmark's.
        extend: see :func:`uda.bench.run`.
        processes: of the job's node that train the cell together.
    """

    def __init__(self, config: BenchConfig, cell: str, folder: Path, extend: bool, processes: int = 1) -> None:
        self.config, self.cell, self.folder, self.extend, self.processes = config, cell, folder, extend, processes
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return CellJob, (self.config, self.cell, self.folder, self.extend, self.processes)

    def __call__(self) -> dict[str, str]:
        """Do the cell, and what it starts from where nobody has; the failures by cell."""
        failed: dict[str, str] = {}
        raised: list[BaseException] = []

        def target() -> None:
            try:
                failed.update(self._work())
            except BaseException as error:
                raised.append(error)

        # beside the main thread, which is where the signal comes, and which then waits for the checkpoint
        self._thread = threading.Thread(target=target, name=self.cell, daemon=True)
        self._thread.start()
        while self._thread.is_alive():
            self._thread.join(0.2)
        if raised:
            raise raised[0]
        return failed

    def _work(self) -> dict[str, str]:
        seed = int(self.cell.rpartition("/seed")[2])
        plan = {cell.name: cell for cell in make_plan(self.config, seeds=[seed])}
        names = [self.cell]
        for name in names:
            names += plan[name].needs
        cells = [cell for cell in plan.values() if cell.name in names]
        job = Job(self.config, cells, self.folder)
        return work_on(
            [job], self.folder, processes=self.processes, extend=self.extend, report=_print, stop=self._stop.is_set
        ).failed

    def checkpoint(self) -> Any:
        """Stop after the step that is being done, with a checkpoint, and say what is to be queued again."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(STOPPING)
            ranks = [child for child in multiprocessing.active_children() if not child.daemon]
            for rank in ranks if self._thread.is_alive() else ():
                rank.kill()  # Python would wait for them at its end
        again, arguments = self.__reduce__()
        return import_submitit().helpers.DelayedSubmission(again(*arguments))


def _print(event: Event) -> None:
    """Into the job's log."""
    if event.kind != "step":
        print(*(part for part in (event.kind, event.cell, event.message) if part), flush=True)


def _levels(tasks: list[Task]) -> list[list[Task]]:
    """The tasks, each in the level after those that it needs."""
    by_name, level = {task.name: task for task in tasks}, dict[str, int]()

    def of(task: Task) -> int:
        if task.name not in level:
            level[task.name] = 1 + max((of(by_name[need]) for need in task.needs if need in by_name), default=-1)
        return level[task.name]

    highest = max(map(of, tasks), default=-1)
    return [[task for task in tasks if level[task.name] == number] for number in range(highest + 1)]


def _submit(executor: Any, work: Work, folder: Path) -> dict[str, Any]:
    """Give every task that is left a job; those that have one in the queue keep it."""
    with claimed(folder, wait=True):
        before = _before(executor, folder)
        jobs = {task.name: before[task.name] for task in work.waiting if task.name in before}
        if jobs:
            work.report(Event("note", message=f"{len(jobs)} cells have been submitted before"))
        for tasks in _levels([task for task in work.waiting if task.name not in jobs]):
            calls = [
                CellJob(t.job.config, t.cell.name, t.job.folder.absolute(), work.extend, work.processes) for t in tasks
            ]
            after = _arrays(jobs[need] for task in tasks for need in task.needs if need in jobs)
            if _is_slurm(executor):
                # not afterok: what a cell starts from may fail or be done elsewhere, and the cell's own job sees to it
                executor.update_parameters(dependency=f"afterany:{':'.join(after)}" if after else None)
            submitted = executor.submit_array(calls)
            jobs |= {task.name: job for task, job in zip(tasks, submitted, strict=True)}
            # written at once: a kill before the next level must not have these submitted again
            _record(folder, {task.name: jobs[task.name].job_id for task in tasks})
            waits = f", after {', '.join(after)}" if after else ""
            work.report(Event("note", message=f"job {', '.join(_arrays(submitted))}: {len(tasks)} cells{waits}"))
    return jobs


def _arrays(jobs: Iterable[Any]) -> list[str]:
    """The ids of jobs, of an array the array's."""
    return sorted({job.job_id.partition("_")[0] for job in jobs})


def _is_slurm(executor: Any) -> bool:
    return isinstance(executor, import_submitit().SlurmExecutor)


def _before(executor: Any, folder: Path) -> dict[str, Any]:
    """By task: the jobs of earlier calls that have not ended."""
    if not _is_slurm(executor):
        return {}
    jobs = {name: executor.job_class(folder, number) for name, number in read_jobs(folder).items()}
    return {name: job for name, job in jobs.items() if not job.done(force_check=False)}


def read_jobs(folder: Path) -> dict[str, str]:
    """By task: the id of its last job, from the folder of the jobs' logs."""
    try:
        content: dict[str, str] = json.loads((folder / JOBS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content


def _record(folder: Path, ids: dict[str, str]) -> None:
    with atomic_write(folder / JOBS) as file:
        json.dump({**read_jobs(folder), **ids}, file, indent=2)


def _gather(work: Work, jobs: dict[str, Any]) -> None:
    """Wait until every task is done or has failed, and say so as if it had been worked on here."""
    ended: dict[str, float] = {}
    told: dict[str, int] = {}
    while work.waiting:
        for task in list(work.waiting):
            if not work.is_ready(task) or not work.is_free(task) or work.settle(task):
                continue
            job = jobs[task.name]
            if not job.done():
                ended.pop(task.name, None)
            elif time.monotonic() - ended.setdefault(task.name, time.monotonic()) >= GRACE:
                work.fail(task, f"job {job.job_id} ended ({job.state}) without a result; its log: {job.paths.stderr}")
        if work.waiting:
            work.wait(told, POLL)
