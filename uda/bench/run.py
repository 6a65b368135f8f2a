"""Run a benchmark: only what is missing, several cells side by side, one failure never stops the others."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypedDict, Unpack

from uda.bench import build
from uda.bench.cell import Progress, share_cell, write_config
from uda.bench.identity import Identities
from uda.bench.labelled import check_labels
from uda.bench.plan import CONFIG, Cell, make_plan
from uda.bench.ranks import Leader, check_batches, check_processes, follow, is_launched, join
from uda.bench.restore import load_model, open_run
from uda.bench.stored import RETRAINED, REWRITTEN, Damage, damages, describe, evaluation_file, has_training, read_result
from uda.bench.table import Table, make_table
from uda.bench.work import Event, Job, Work, folder_of, jobs_of, only_warn
from uda.claims import HeldError, Watch, claimed, clear
from uda.config import BenchConfig, ConfigError, StreetsSpec, load_config, streets_folder
from uda.data.statistics import image_sizes
from uda.engine import Evaluation
from uda.engine.identity import describe_differences
from uda.files import make_folder, remove_parts
from uda.models.pretrained import CHECKPOINT, write_description

LOOKED_AT = 8
"""Images of a data set whose sizes are compared with the crop."""
Engine = Callable[[Work, Path], None]
"""Told what is left and the folder of it all; comes back when it is done or has failed."""
LEFT_AFTER = 3600.0
"""Seconds after which a file that is being written was left by a kill; others may be writing tables."""


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
    waited: float | None = None
    """Share of the training time that was spent on waiting for data, in [0, 1]."""
    label_free: dict[str, dict[str, Any]] | None = None
    """What can be said without labels of the target, see :func:`uda.bench.label_free.look`; ``None`` with them."""
    failed: dict[str, str] = field(default_factory=dict)
    """Cells that failed (the run, its warm start), with the reason in one line."""


class RunOptions(TypedDict, total=False):
    """How cells are run; :func:`run` says what each means."""

    workers: int
    processes: int
    fresh: bool
    extend: bool
    report: Callable[[Event], None]
    progress: Progress | None
    engine: Engine | None


def run(
    config: BenchConfig | Path | str | Mapping[str, Any],
    *,
    out: Path | str = "runs",
    roots: Mapping[str, str] | None = None,
    workers: int = 1,
    processes: int = 1,
    methods: Collection[str] | None = None,
    seeds: Collection[int] | None = None,
    fresh: bool = False,
    extend: bool = False,
    report: Callable[[Event], None] = only_warn,
    progress: Progress | None = None,
    engine: Engine | None = None,
) -> BenchResult:
    """Run what is missing of a benchmark and tabulate it.

    Others may call this with the same folder at the same time, from any machine that sees it: cells that they work on
    are waited for, and taken over where their machine has gone silent (:mod:`uda.claims`).

    A finished cell is left as it is, a half-trained one continues from its last checkpoint, a failed one is tried
    again. A cell whose folder holds training of *another* config is an error; ``fresh`` throws such cells away.

    Args:
        config: a config, or what :func:`uda.config.load_config` reads.
        out: the runs go to ``out/<config name>/<method>/seed<k>``.
        roots: values of the config's ``${name}`` variables.
        workers: cells side by side, each in a process of its own with an equal share of the cores; 1 runs them here.
        processes: that train each cell together, each with its share of every batch; the run is the same. They are
            of the machine that does the cell.
        methods: only these rows (and what they start from).
        seeds: only these.
        fresh: delete the cells whose training was configured differently, instead of refusing.
        extend: train cells on that differ in having fewer steps, where their schedule and methods allow it.
        report: told what happens; by default only what is a warning is said, as one of Python's.
        progress: wraps the training steps; used with one worker.
        engine: does the cells elsewhere, such as :class:`uda.bench.slurm.Slurm`.

    Raises:
        ConfigError: the config is wrong, or cells of another config are in the way.
        DataError: a data set is missing or damaged.
        KeyboardInterrupt: passed on; finished cells and checkpoints stay.
    """
    config = config if isinstance(config, BenchConfig) else load_config(config, roots)
    (result,) = run_together(
        [(config, methods)], out=out, workers=workers, processes=processes, seeds=seeds, fresh=fresh, extend=extend,
        report=report, progress=progress, engine=engine, prefixed=False,
    )  # fmt: skip
    return result


def run_together(
    benchmarks: Sequence[tuple[BenchConfig, Collection[str] | None]],
    *,
    out: Path | str = "runs",
    seeds: Collection[int] | None = None,
    prefixed: bool = True,
    **options: Unpack[RunOptions],
) -> list[BenchResult]:
    """Run what is missing of several benchmarks, whose cells share the workers, and tabulate each.

    Nothing is trained before every one of them is seen to be right.

    Args:
        benchmarks: of different names, each with the rows that are to be run (``None``: all).
        out: each benchmark's runs go to ``out/<config name>``.
        seeds: only these.
        prefixed: begin a cell's name in reports with its benchmark's.
        options: as of :func:`run`; ``workers`` do cells of any of them side by side.

    Raises:
        ConfigError: cells of another config are in the way, or ``workers`` is below 1.
        DataError: a data set is missing or damaged.
        KeyboardInterrupt: passed on; finished cells and checkpoints stay.
    """
    jobs = jobs_of(benchmarks, Path(out), seeds, prefixed)
    work = work_on(jobs, Path(out), **options)
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
    processes: int = 1,
    fresh: bool = False,
    extend: bool = False,
    report: Callable[[Event], None] = only_warn,
    progress: Progress | None = None,
    stop: Callable[[], bool] | None = None,
) -> TrainResult:
    """Train one row with one seed, after the warm start if there is one, and score it; go on with what is there.

    Args:
        config: what :func:`uda.config.load_run` reads.
        row: of the config.
        seed: any.
        out: the run goes to ``out/<config name>/<row>/seed<seed>``, as a benchmark's does.
        processes: that train together, each with its share of every batch; the run is the same.
        fresh: see :func:`run`.
        extend: see :func:`run`.
        report: told what happens; by default only what is a warning is said, as one of Python's.
        progress: wraps the training steps.
        stop: asked after each training step; where it says so, training ends after a checkpoint, without scores. Of a
            launcher's processes all have one or none.

    Raises:
        ConfigError: no such row, or a run of another config is in the way.
        DataError: a data set is missing or damaged.
        KeyboardInterrupt: passed on; checkpoints stay.
    """
    cells = make_plan(config, [row], [seed])
    job = Job(config, cells, Path(out) / config.name)
    work = work_on(
        [job], Path(out), processes=processes, fresh=fresh, extend=extend, report=report, progress=progress, stop=stop
    )
    folder = job.folder / f"{row}/seed{seed}"
    result = read_result(folder)
    if result is None or work.failed:
        return TrainResult(folder, {}, failed=work.failed)
    evaluations = {domain: Evaluation.load(evaluation_file(folder, domain)) for domain in config.domains}
    return TrainResult(folder, evaluations, result.get("waited_for_data"), result.get("label_free"))


def work_on(
    jobs: list[Job],
    out: Path,
    *,
    workers: int = 1,
    processes: int = 1,
    fresh: bool = False,
    extend: bool = False,
    report: Callable[[Event], None] = only_warn,
    progress: Progress | None = None,
    engine: Engine | None = None,
    stop: Callable[[], bool] | None = None,
) -> Work:
    """Do what is missing of some benchmarks, beside whoever else works in their folders.

    The processes of a launcher do it together: the first says which cell comes next.

    Args:
        jobs: the benchmarks, with the cells that are asked for.
        out: the folder that all of theirs are in.
        workers: see :func:`run`, as are the others.
        processes: that train each cell together.
        fresh: delete the cells whose training was configured differently, instead of refusing.
        extend: train cells on that differ in having fewer steps.
        report: told what happens.
        progress: wraps the training steps; used with one worker.
        engine: does the work, in place of this process and its workers.
        stop: asked after each training step; where it says so, the work ends after a checkpoint. With one worker.
            Of a launcher's processes all have one or none.

    Raises:
        ConfigError: ``workers`` is below 1, or processes do not go together with the batches, the GPUs here or the
            launcher.
    """
    if workers < 1:
        raise ConfigError(f"workers must be at least 1, got {workers}")
    options: dict[str, Any] = {
        "fresh": fresh, "extend": extend, "report": report, "progress": progress, "engine": engine, "stop": stop,
    }  # fmt: skip
    if not is_launched():
        for job in jobs:
            check_processes(processes, job.cells, here=engine is None)
        return _lead(jobs, out, workers, processes, **options)
    if processes > 1 or workers > 1:
        option, number = ("processes", processes) if processes > 1 else ("workers", workers)
        raise ConfigError(f"{option} is {number}, must be 1 under a launcher (torchrun, accelerate launch)")
    together = join(jobs[0].config.settings.device)
    if together is None:
        raise ConfigError("the launcher's processes did not meet; WORLD_SIZE is set, and there is no process group")
    for job in jobs:
        check_batches(together.world, job.cells)
    if together.rank > 0:
        tasks = {job.prefix + cell.name: (job, cell) for job in jobs for cell in job.cells}

        def share(name: str) -> None:
            job, cell = tasks[name]
            share_cell(job.config, job.cells, cell, job.folder, extend, stop)

        follow(together, share)
        return Work(jobs, extend, report)
    leader = Leader(together)
    try:
        work = _lead(jobs, out, 1, 1, **options, leader=leader)
    except Exception as error:
        leader.failed(error)
        raise
    leader.next(None)
    return work


def _lead(
    jobs: list[Job],
    out: Path,
    workers: int,
    processes: int,
    *,
    fresh: bool,
    extend: bool,
    report: Callable[[Event], None],
    progress: Progress | None,
    engine: Engine | None,
    stop: Callable[[], bool] | None,
    leader: Leader | None = None,
) -> Work:
    for job in jobs:
        _prepare(job, workers, fresh, extend, report)
    number, cells = sum(len(job.todo) for job in jobs), sum(len(job.cells) for job in jobs)
    folder = folder_of(jobs, out)
    report(Event("plan", message=f"{number} of {cells} cells to do in {folder}", total=number))
    warned: list[str] = []
    for job in jobs:
        if job.todo:
            build.check(job.config)
            check_labels(job.config)
            warned += _misfits(job.config, job.todo)
    for line in dict.fromkeys(warned):
        report(Event("warning", message=line))
    work = Work(jobs, extend, report, stop, processes)
    if engine is not None:
        engine(work, folder)
    elif workers == 1:
        work.here(progress, leader)
    else:
        work.side_by_side(workers)
    return work


def see_that_folder_is_there(folder: Path) -> None:
    """Make a benchmark's folder.

    Raises:
        ConfigError: it cannot be made.
    """
    try:
        make_folder(folder)
    except OSError as error:
        if not folder.is_dir():
            unwritable = error.strerror or type(error).__name__
            raise ConfigError(f"{folder}: cannot be written ({unwritable}); use another --out") from error


def why_unwritable(folder: Path) -> str:
    """Why nothing can be written in a folder (read-only media); empty where something can."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return ""
    except OSError as error:
        return error.strerror or type(error).__name__


def _prepare(job: Job, workers: int, fresh: bool, extend: bool, report: Callable[[Event], None]) -> None:
    """Write the streets, say what is damaged, clear what is stale, and see what there is to do."""
    config, cells, folder = job.config, job.cells, job.folder
    see_that_folder_is_there(folder)
    if config.streets is not None:
        _make_streets(config.streets, workers, report)
    identities = job.identities
    damaged = _find_damages(config, cells, folder)
    remove_parts(folder, older_than=LEFT_AFTER)
    _clear_stale(identities, folder, fresh, extend)
    job.todo, lost = _with_lost_needs(
        identities, [cell for cell in cells if not identities.is_done(cell, folder)], folder
    )
    again = {damage.path for damage in lost}
    job.again = {damage.path.parent.relative_to(folder).as_posix() for damage in lost}
    for line in describe([*(damage for damage in damaged if damage.path not in again), *lost]):
        report(Event("note", message=line))
    rewritten = [damage for damage in damaged if damage.remedy == REWRITTEN and damage.path.parent.is_dir()]
    # what is finished can be shown from where nothing can be written
    if (job.todo or rewritten) and (unwritable := why_unwritable(folder)):
        _see_that_all_is_done(folder, unwritable, job.todo, cells)
        report(Event("note", message=f"{folder}: cannot be written ({unwritable}); it is shown as it is"))
    for damage in rewritten:
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
    """Damaged files of all cells, those that this call leaves alone included; what others write is not looked at."""
    planned, watch = {cell.name for cell in cells}, Watch()
    others = [cell for cell in make_plan(config) if cell.name not in planned]
    left = "left as it is, for its cell is not among the rows and seeds of this call"

    def of(some: list[Cell]) -> Iterator[Damage]:
        return (d for cell in some if watch.holder(folder / cell.name) is None for d in damages(cell, folder))

    return [*of(cells), *(replace(damage, remedy=left) for damage in of(others))]


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
        with _claimed(root / name):
            # others may have done the same, and train there already what is to be trained
            if has_training(root / name) and identities.changes(identities.cells[name], root / name):
                clear(root / name)


@contextlib.contextmanager
def _claimed(folder: Path) -> Iterator[None]:
    try:
        with claimed(folder):
            yield
    except HeldError as error:
        raise ConfigError(f"{error}; wait for it, or use another --out") from None


def _is_length(difference: str) -> bool:
    """Whether a difference is in the number of steps, of the cell itself or of the network that it starts from."""
    return difference.split(":")[0] in ("settings.steps", "base.settings.steps")
