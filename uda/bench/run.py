"""Run a benchmark: only what is missing, several cells side by side, one failure never stops the others."""

from __future__ import annotations

import contextlib
import shutil
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from uda.bench import build
from uda.bench.cell import Progress, run_cell, write_config
from uda.bench.identity import Identities
from uda.bench.labelled import check_labels
from uda.bench.plan import CONFIG, Cell, make_plan
from uda.bench.pool import DIED, pool
from uda.bench.restore import load_model, open_run
from uda.bench.stored import RETRAINED, REWRITTEN, Damage, damages, describe, evaluation_file, has_training, read_result
from uda.bench.table import Table, make_table
from uda.config import BenchConfig, ConfigError, StreetsSpec, load_config, streets_folder
from uda.data.statistics import image_sizes
from uda.engine import Evaluation
from uda.engine.identity import describe_differences
from uda.engine.tensorboard import last_scalars
from uda.files import make_folder, remove_parts
from uda.models.pretrained import CHECKPOINT, write_description
from uda.progress import losses_of

LOOKED_AT = 8
"""Images of a data set whose sizes are compared with the crop."""
LEFT_AFTER = 3600.0
"""Seconds after which a file that is being written was left by a kill; tables are written outside the lock."""


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
class BenchResult:
    """What a call of :func:`run` did."""

    config: BenchConfig
    folder: Path
    table: Table
    """Of every finished cell in the folder, of this call or an earlier one."""
    ran: list[str] = field(default_factory=list)
    """Cells that this call finished."""
    failed: dict[str, str] = field(default_factory=dict)
    """Cells that failed, with the reason in one line."""


@dataclass
class TrainResult:
    """What a call of :func:`train` did."""

    folder: Path
    """The run's: checkpoint, curves, result."""
    evaluations: dict[str, Evaluation]
    """By domain that has labels."""
    label_free: dict[str, dict[str, Any]] | None = None
    """What can be said without labels of the target, see :func:`uda.bench.label_free.look`; ``None`` with them."""
    failed: dict[str, str] = field(default_factory=dict)
    """Cells that failed (the run, its warm start), with the reason in one line."""


def run(
    config: BenchConfig | Path | str | Mapping[str, Any],
    *,
    out: Path | str = "runs",
    roots: Mapping[str, str] | None = None,
    workers: int = 1,
    methods: Collection[str] | None = None,
    seeds: Collection[int] | None = None,
    fresh: bool = False,
    extend: bool = False,
    report: Callable[[Event], None] = only_warn,
    progress: Progress | None = None,
) -> BenchResult:
    """Run what is missing of a benchmark and tabulate it.

    A finished cell is left as it is, a half-trained one continues from its last checkpoint, a failed one is tried
    again. A cell whose folder holds training of *another* config is an error; ``fresh`` throws such cells away.

    Args:
        config: a config, or what :func:`uda.config.load_config` reads.
        out: the runs go to ``out/<config name>/<method>/seed<k>``.
        roots: values of the config's ``${name}`` variables.
        workers: cells side by side, each in a process of its own with an equal share of the cores; 1 runs them here.
        methods: only these rows (and what they start from).
        seeds: only these.
        fresh: delete the cells whose training was configured differently, instead of refusing.
        extend: train cells on that differ in having fewer steps, where their schedule and methods allow it.
        report: told what happens; by default only what is a warning is said, as one of Python's.
        progress: wraps the training steps; used with one worker.

    Raises:
        ConfigError: the config is wrong, or cells of another config are in the way.
        DataError: a data set is missing or damaged.
        KeyboardInterrupt: passed on; finished cells and checkpoints stay.
    """
    config = config if isinstance(config, BenchConfig) else load_config(config, roots)
    (result,) = run_together(
        [(config, methods)], out=out, workers=workers, seeds=seeds, fresh=fresh, extend=extend, report=report,
        progress=progress, prefixed=False,
    )  # fmt: skip
    return result


def run_together(
    benchmarks: Sequence[tuple[BenchConfig, Collection[str] | None]],
    *,
    out: Path | str = "runs",
    workers: int = 1,
    seeds: Collection[int] | None = None,
    fresh: bool = False,
    extend: bool = False,
    report: Callable[[Event], None] = only_warn,
    progress: Progress | None = None,
    prefixed: bool = True,
) -> list[BenchResult]:
    """Run what is missing of several benchmarks, whose cells share the workers, and tabulate each.

    Nothing is trained before every one of them is seen to be right.

    Args:
        benchmarks: of different names, each with the rows that are to be run (``None``: all).
        out: see :func:`run`, as are the others.
        workers: cells of any of them side by side.
        seeds: only these.
        fresh: delete the cells whose training was configured differently, instead of refusing.
        extend: train cells on that differ in having fewer steps.
        report: told what happens.
        progress: wraps the training steps; used with one worker.
        prefixed: begin a cell's name in reports with its benchmark's.

    Raises:
        ConfigError: cells of another config are in the way, or ``workers`` is below 1.
        DataError: a data set is missing or damaged.
        KeyboardInterrupt: passed on; finished cells and checkpoints stay.
    """
    if workers < 1:
        raise ConfigError(f"workers must be at least 1, got {workers}")
    jobs = [
        Job(config, make_plan(config, methods, seeds), Path(out) / config.name, f"{config.name}/" if prefixed else "")
        for config, methods in benchmarks
    ]
    work = _locked(jobs, Path(out), workers, fresh, extend, report, progress)
    return [
        BenchResult(
            job.config, job.folder, make_table(job.config, job.folder, seeds), job.own(work.ran), job.own(work.failed)
        )
        for job in jobs
    ]


def train(
    config: BenchConfig,
    row: str,
    *,
    seed: int = 0,
    out: Path | str = "runs",
    fresh: bool = False,
    extend: bool = False,
    report: Callable[[Event], None] = only_warn,
    progress: Progress | None = None,
) -> TrainResult:
    """Train one row with one seed, after the warm start if there is one, and score it; go on with what is there.

    Args:
        config: what :func:`uda.config.load_run` reads.
        row: of the config.
        seed: any.
        out: the run goes to ``out/<config name>/<row>/seed<seed>``, as a benchmark's does.
        fresh: see :func:`run`.
        extend: see :func:`run`.
        report: told what happens; by default only what is a warning is said, as one of Python's.
        progress: wraps the training steps.

    Raises:
        ConfigError: no such row, or a run of another config is in the way.
        DataError: a data set is missing or damaged.
        KeyboardInterrupt: passed on; checkpoints stay.
    """
    cells = make_plan(config, [row], [seed])
    job = Job(config, cells, Path(out) / config.name)
    work = _locked([job], Path(out), 1, fresh, extend, report, progress)
    folder = job.folder / f"{row}/seed{seed}"
    result = read_result(folder)
    if result is None or work.failed:
        return TrainResult(folder, {}, failed=work.failed)
    evaluations = {domain: Evaluation.load(evaluation_file(folder, domain)) for domain in config.domains}
    return TrainResult(folder, evaluations, result.get("label_free"))


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

    def own(self, names: Any) -> Any:
        """The entries of a list or mapping by reported names that are of this job's cells, by the cells' own names."""
        mine = [name for name in names if name.startswith(self.prefix)]
        cut = {name: name.removeprefix(self.prefix) for name in mine}
        return {cut[name]: names[name] for name in mine} if isinstance(names, dict) else list(cut.values())


def _locked(
    jobs: list[Job],
    out: Path,
    workers: int,
    fresh: bool,
    extend: bool,
    report: Callable[[Event], None],
    progress: Progress | None,
) -> _Work:
    """Do what is missing of some benchmarks, alone in their folders."""
    with contextlib.ExitStack() as locks:
        for job in jobs:
            unwritable = lock_folder(job.folder, locks)
            _prepare(job, workers, fresh, extend, report, unwritable)
        number, cells = sum(len(job.todo) for job in jobs), sum(len(job.cells) for job in jobs)
        folder = jobs[0].folder if len(jobs) == 1 else out
        report(Event("plan", message=f"{number} of {cells} cells to do in {folder}", total=number))
        warned: list[str] = []
        for job in jobs:
            if job.todo:
                build.check(job.config)
                check_labels(job.config)
                warned += _misfits(job.config, job.todo)
        for line in dict.fromkeys(warned):
            report(Event("warning", message=line))
        work = _Work(jobs, extend, report)
        if workers == 1:
            work.here(progress)
        else:
            work.side_by_side(workers)
        return work


def lock_folder(folder: Path, locks: contextlib.ExitStack) -> str:
    """Lock a benchmark's folder; why it cannot be written, or empty."""
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        make_folder(folder)
        locks.enter_context(lock)
    except Timeout:
        raise ConfigError(f"{folder}: another run is working there; wait for it, or use another --out") from None
    except OSError as error:
        # read-only media: what is finished can be shown, and nobody else writes there either
        if not folder.is_dir():
            unwritable = error.strerror or type(error).__name__
            raise ConfigError(f"{folder}: cannot be written ({unwritable}); use another --out") from error
        return error.strerror or type(error).__name__
    return ""


def _prepare(
    job: Job, workers: int, fresh: bool, extend: bool, report: Callable[[Event], None], unwritable: str
) -> None:
    """Write the streets, say what is damaged, clear what is stale, and find what there is to do."""
    config, cells, folder = job.config, job.cells, job.folder
    if config.streets is not None:
        _make_streets(config.streets, workers, report)
    identities = Identities(config, cells)
    damaged = _find_damages(config, cells, folder)
    if not unwritable:
        remove_parts(folder, older_than=LEFT_AFTER)
    _clear_stale(identities, folder, fresh and not unwritable, extend)
    job.todo, lost = _with_lost_needs(
        identities, [cell for cell in cells if not identities.is_done(cell, folder)], folder
    )
    again = {damage.path for damage in lost}
    for line in describe([*(damage for damage in damaged if damage.path not in again), *lost]):
        report(Event("note", message=line))
    if unwritable:
        _see_that_all_is_done(folder, unwritable, job.todo, cells)
        report(Event("note", message=f"{folder}: cannot be written ({unwritable}); it is shown as it is"))
    for damage in damaged:
        if damage.remedy == REWRITTEN and damage.path.parent.is_dir():
            _write_again(config, damage.path)


def _misfits(config: BenchConfig, cells: list[Cell]) -> list[str]:
    """Crops that are far larger than the first images of source and target: a line each, once for all cells."""
    settings = [cell.settings for cell in cells if cell.settings is not None]
    if not settings:
        return []
    domains = {
        "source": build.open_source(config.source, config.space),
        "target": build.open_dataset(config.target, config.space),
    }
    sizes: dict[str, list[tuple[int, int]]] = {}
    for name, dataset in domains.items():
        with contextlib.suppress(OSError, ValueError):  # a file that cannot be read is the trainer's to name
            sizes[name] = image_sizes(dataset.unlabelled(), limit=LOOKED_AT)
    return list(dict.fromkeys(line for cell_settings in settings for line in cell_settings.misfits(sizes)))


def _write_again(config: BenchConfig, path: Path) -> None:
    """Write a file of a cell on which no score depends; where that fails, the next call says so again."""
    with contextlib.suppress(OSError, RuntimeError, ConfigError):
        if path.name == CONFIG:
            write_config(config, path.parent)
        else:
            run = open_run(path.parent)
            write_description(load_model(run), path.parent, run.space)


def _make_streets(section: StreetsSpec, workers: int, report: Callable[[Event], None]) -> None:
    """Write the street scenes; a finished benchmark is shown without them, and others miss them when they open them."""
    folder = streets_folder(section)
    report(Event("note", message=f"street scenes in {folder}"))
    try:
        build.make_streets(section, workers=workers)
    except OSError as error:
        report(Event("note", message=f"{folder}: street scenes cannot be written ({error.strerror or error})"))


def _see_that_all_is_done(folder: Path, unwritable: str, todo: list[Cell], cells: list[Cell]) -> None:
    if todo:
        raise ConfigError(
            f"{folder}: cannot be written ({unwritable}), and {len(todo)} of {len(cells)} cells are not done "
            f"({todo[0].name}); copy it to where it can be, and give that as --out"
        )


def _find_damages(config: BenchConfig, cells: list[Cell], folder: Path) -> list[Damage]:
    """Damaged files of all cells, those that this call leaves alone included."""
    planned = {cell.name for cell in cells}
    others = [cell for cell in make_plan(config) if cell.name not in planned]
    left = "left as it is, for its cell is not among the rows and seeds of this call"
    return [
        *(damage for cell in cells for damage in damages(cell, folder)),
        *(replace(damage, remedy=left) for cell in others for damage in damages(cell, folder)),
    ]


def _with_lost_needs(identities: Identities, todo: list[Cell], folder: Path) -> tuple[list[Cell], list[Damage]]:
    """The cells to do, with those whose checkpoint they start from or go on from and which is damaged, and these."""
    lost: list[Damage] = []
    work, seen = {cell.name: cell for cell in todo}, set[str]()
    queue = list(todo)
    while queue:
        cell = queue.pop()
        whole = cell.settings is not None and (folder / cell.name / CHECKPOINT).is_file()
        for name in (cell.name, *(() if whole else cell.needs)):
            other = identities.cells[name]
            if name in seen or other.settings is None or not has_training(folder / name):
                continue
            seen.add(name)
            if what := identities.checkpoint_damage(other, folder):
                lost.append(Damage(folder / name / CHECKPOINT, what, RETRAINED))
                work[name] = other
                # from the start, so from what it needs itself
                queue += [other, *(identities.cells[need] for need in other.needs)]
    return [cell for cell in identities.cells.values() if cell.name in work], lost


def _clear_stale(identities: Identities, root: Path, fresh: bool, extend: bool) -> None:
    """Refuse or delete cells that hold training of another config; one that failed before its first checkpoint holds
    none."""
    stale: dict[str, list[str]] = {}
    for cell in identities.cells.values():
        if not has_training(root / cell.name):
            continue
        differences = identities.changes(cell, root / cell.name)
        if differences and not (extend and all(_is_length(text) for text in differences)):
            stale[cell.name] = differences
    if stale and not fresh:
        name, differences = next(iter(stale.items()))
        more = f" and {len(stale) - 1} more" if len(stale) > 1 else ""
        length = all(_is_length(text) for text in differences)
        hint = "--extend to train on, or " if length else ""
        raise ConfigError(
            f"{root / name}{more}: trained with another config; use {hint}--fresh to delete these cells, or another "
            f"name or --out\n{describe_differences(differences)}"
        )
    for name in stale:
        shutil.rmtree(root / name)


def _is_length(difference: str) -> bool:
    """Whether a difference is in the number of steps, of the cell itself or of the network that it starts from."""
    return difference.split(":")[0] in ("settings.steps", "base.settings.steps")


@dataclass(frozen=True)
class _Task:
    """A cell of one of the benchmarks."""

    job: Job
    cell: Cell

    @property
    def name(self) -> str:
        return self.job.prefix + self.cell.name

    @property
    def needs(self) -> list[str]:
        return [self.job.prefix + need for need in self.cell.needs]


class _Work:
    """The cells that are left, and how far they are."""

    def __init__(self, jobs: list[Job], extend: bool, report: Callable[[Event], None]) -> None:
        self.extend, self.report = extend, report
        # what others wait for goes first, of all benchmarks
        tasks = [_Task(job, cell) for job in jobs for cell in job.todo]
        self.waiting = sorted(tasks, key=lambda task: task.cell.kind != "warm_start")
        self.running: list[_Task] = []
        self.total = len(self.waiting)
        self.ran: list[str] = []
        self.failed: dict[str, str] = {}

    def start(self) -> _Task | None:
        """The next cell whose needs are done, if any; those whose needs failed fail too."""
        for task in list(self.waiting):
            lost = [need for need in task.needs if need in self.failed]
            if lost:
                self.waiting.remove(task)
                self.finish(task, f"not run, because {lost[0]} failed")
            elif not {unfinished.name for unfinished in self.waiting + self.running} & set(task.needs):
                self.waiting.remove(task)
                self.running.append(task)
                self.tell("start", task)
                return task
        return None

    def finish(self, task: _Task, error: str | None) -> None:
        self.running = [running for running in self.running if running is not task]
        if error is None:
            self.ran.append(task.name)
            self.tell("done", task)
        else:
            self.failed[task.name] = error
            self.tell("failed", task, error)

    def tell(self, kind: Literal["start", "done", "failed"], task: _Task, message: str = "") -> None:
        finished = len(self.ran) + len(self.failed)
        self.report(Event(kind, task.name, message, finished=finished, total=self.total))

    def tell_step(self, task: _Task, step: int, steps: int, losses: Mapping[str, float]) -> None:
        self.report(
            Event(
                "step", task.name, finished=len(self.ran) + len(self.failed), total=self.total, step=step, steps=steps,
                losses=losses,
            )
        )  # fmt: skip

    def look(self, told: dict[str, int]) -> None:
        """Tell how far the cells of other processes are, by what they have logged; they say nothing themselves."""
        for task in self.running:
            settings = task.cell.settings
            record = last_scalars(task.job.folder / task.cell.name) if settings is not None else {}
            if settings is not None and record and told.get(task.name) != record["step"]:
                told[task.name] = record["step"]
                self.tell_step(task, record["step"] + 1, settings.steps, losses_of(record))

    def here(self, progress: Progress | None) -> None:
        while (task := self.start()) is not None:
            tell, job = partial(self.tell_step, task), task.job
            self.finish(task, run_cell(job.config, job.cells, task.cell, job.folder, progress, self.extend, tell))

    def side_by_side(self, workers: int) -> None:
        told: dict[str, int] = {}

        def call(task: _Task) -> tuple[Any, ...]:
            job = task.job
            return run_cell, job.config, job.cells, task.cell, job.folder, None, self.extend

        while self.waiting:
            pool(
                workers, self.start, call, self.finish, lambda task: self.finish(task, DIED), lambda: self.look(told)
            )  # fmt: skip
