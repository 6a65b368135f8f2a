"""Run a benchmark: only what is missing, several cells side by side, one failure never stops the others."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import threading
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from filelock import FileLock, Timeout

from uda.bench import build
from uda.bench.cell import Progress, run_cell
from uda.bench.identity import Identities
from uda.bench.plan import Cell, has_training, make_plan, read_description, read_result
from uda.bench.table import Table, make_table
from uda.config import BenchConfig, ConfigError, load_config, streets_folder
from uda.engine import Evaluation
from uda.engine.identity import describe_differences

DIED = (
    "its process died: killed, out of memory, or started from a script without `if __name__ == '__main__':`; "
    "the next call continues it"
)


@dataclass(frozen=True)
class Event:
    """What happened to a cell, for whoever shows the progress."""

    kind: Literal["note", "plan", "start", "done", "failed"]
    cell: str = ""
    message: str = ""
    finished: int = 0
    """Cells that need nothing more, failed ones included."""
    total: int = 0


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
    report: Callable[[Event], None] = lambda event: None,
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
        report: told what happens.
        progress: wraps the training steps; used with one worker.

    Raises:
        ConfigError: the config is wrong, or cells of another config are in the way.
        DataError: a data set is missing or damaged.
        KeyboardInterrupt: passed on; finished cells and checkpoints stay.
    """
    if workers < 1:
        raise ConfigError(f"workers must be at least 1, got {workers}")
    config = config if isinstance(config, BenchConfig) else load_config(config, roots)
    cells = make_plan(config, methods, seeds)
    folder, work = _locked(config, cells, Path(out), workers, fresh, extend, report, progress)
    return BenchResult(config, folder, make_table(config, folder, seeds), work.ran, work.failed)


def train(
    config: BenchConfig,
    row: str,
    *,
    seed: int = 0,
    out: Path | str = "runs",
    fresh: bool = False,
    extend: bool = False,
    report: Callable[[Event], None] = lambda event: None,
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
        report: told what happens.
        progress: wraps the training steps.

    Raises:
        ConfigError: no such row, or a run of another config is in the way.
        DataError: a data set is missing or damaged.
        KeyboardInterrupt: passed on; checkpoints stay.
    """
    cells = make_plan(config, [row], [seed])
    root, work = _locked(config, cells, Path(out), 1, fresh, extend, report, progress)
    folder = root / f"{row}/seed{seed}"
    result = read_result(folder)
    if result is None or work.failed:
        return TrainResult(folder, {}, failed=work.failed)
    saved = {domain: folder / "evaluations" / f"{domain}.npz" for domain in config.domains}
    evaluations = {domain: Evaluation.load(path) for domain, path in saved.items()}
    return TrainResult(folder, evaluations, result.get("label_free"))


def _locked(
    config: BenchConfig,
    cells: list[Cell],
    out: Path,
    workers: int,
    fresh: bool,
    extend: bool,
    report: Callable[[Event], None],
    progress: Progress | None,
) -> tuple[Path, _Work]:
    """Do what is missing of some cells, alone in the benchmark's folder."""
    folder = out / config.name
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):
            return folder, _do(config, cells, folder, workers, fresh, extend, report, progress)
    except Timeout:
        raise ConfigError(f"{folder}: another run is working there; wait for it, or use another --out") from None


def _do(
    config: BenchConfig,
    cells: list[Cell],
    folder: Path,
    workers: int,
    fresh: bool,
    extend: bool,
    report: Callable[[Event], None],
    progress: Progress | None,
) -> _Work:
    if config.streets is not None:
        report(Event("note", message=f"street scenes in {streets_folder(config.streets)}"))
        build.make_streets(config.streets, workers=workers)
    identities = Identities(config, cells)
    _clear_stale(identities, folder, fresh, extend)
    todo = [cell for cell in cells if not identities.is_done(cell, folder)]
    report(Event("plan", message=f"{len(todo)} of {len(cells)} cells to do in {folder}", total=len(todo)))
    if todo:
        build.check(config)
    work = _Work(config, cells, folder, todo, extend, report)
    if workers == 1:
        work.here(progress)
    else:
        work.side_by_side(workers)
    return work


def _clear_stale(identities: Identities, root: Path, fresh: bool, extend: bool) -> None:
    """Refuse or delete cells that hold training of another config; one that failed before its first checkpoint holds
    none."""
    stale: dict[str, list[str]] = {}
    for cell in identities.cells.values():
        described = read_description(root / cell.name)
        if described is None or not has_training(root / cell.name):
            continue
        differences = identities.differences(cell, described)
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


class _Work:
    """The cells that are left, and how far they are."""

    def __init__(
        self,
        config: BenchConfig,
        cells: list[Cell],
        folder: Path,
        todo: list[Cell],
        extend: bool,
        report: Callable[[Event], None],
    ) -> None:
        self.config, self.cells, self.folder, self.extend, self.report = config, cells, folder, extend, report
        self.waiting = list(todo)
        self.running: list[Cell] = []
        self.total = len(todo)
        self.ran: list[str] = []
        self.failed: dict[str, str] = {}

    def start(self) -> Cell | None:
        """The next cell whose needs are done, if any; those whose needs failed fail too."""
        for cell in list(self.waiting):
            lost = [need for need in cell.needs if need in self.failed]
            if lost:
                self.waiting.remove(cell)
                self.finish(cell, f"not run, because {lost[0]} failed")
            elif not {unfinished.name for unfinished in self.waiting + self.running} & set(cell.needs):
                self.waiting.remove(cell)
                self.running.append(cell)
                self.tell("start", cell)
                return cell
        return None

    def finish(self, cell: Cell, error: str | None) -> None:
        self.running = [running for running in self.running if running != cell]
        if error is None:
            self.ran.append(cell.name)
            self.tell("done", cell)
        else:
            self.failed[cell.name] = error
            self.tell("failed", cell, error)

    def tell(self, kind: Literal["start", "done", "failed"], cell: Cell, message: str = "") -> None:
        finished = len(self.ran) + len(self.failed)
        self.report(Event(kind, cell.name, message, finished=finished, total=self.total))

    def here(self, progress: Progress | None) -> None:
        while (cell := self.start()) is not None:
            self.finish(cell, run_cell(self.config, self.cells, cell, self.folder, progress, self.extend))

    def side_by_side(self, workers: int) -> None:
        while self.waiting:
            self.pool(workers)

    def pool(self, workers: int) -> None:
        """Work until nothing is left or a process died; a dead one takes only the cells that were running with it."""
        context = multiprocessing.get_context("spawn")
        threads = max(1, _cores() // workers)
        pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(threads,))
        futures: dict[Future[str | None], Cell] = {}
        try:
            while True:
                while len(futures) < workers and (cell := self.start()) is not None:
                    arguments = (self.config, self.cells, cell, self.folder, None, self.extend)
                    futures[pool.submit(run_cell, *arguments)] = cell
                if not futures:
                    return
                for future in wait(futures, return_when=FIRST_COMPLETED).done:
                    self.finish(futures[future], future.result())
                    del futures[future]
        except BrokenProcessPool:
            for cell in self.running:
                self.finish(cell, DIED)
        except KeyboardInterrupt:
            # a public way to do this comes with Python 3.14
            for process in list((pool._processes or {}).values()):
                process.terminate()
            raise
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _start_worker(threads: int) -> None:
    torch.set_num_threads(threads)
    parent = multiprocessing.parent_process()

    def follow() -> None:
        # a worker that outlived a killed parent would train on in a folder that the next call takes over
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
