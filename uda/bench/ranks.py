"""A cell of a benchmark that several processes train together: new ones of this machine, or those of a launcher."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path

import torch

from uda.bench.cell import Outcome, is_left, run_cell, share_cell
from uda.bench.identity import Identities
from uda.bench.plan import ERROR, Cell
from uda.claims import Watch
from uda.config import BenchConfig, ConfigError
from uda.engine.launching import LaunchError, is_told_to_stop, launch
from uda.engine.trainer import check_share
from uda.files import atomic_write
from uda.processes import Processes

WAIT = timedelta(days=7)
"""How long processes wait for each other: the first scores alone meanwhile, and a dead one is seen otherwise."""


def check_processes(processes: int, cells: Sequence[Cell], *, here: bool = True, batches: bool = True) -> None:
    """See that cells can be trained by so many processes of a machine.

    Args:
        processes: any number.
        cells: some of a plan.
        here: whether it is this machine, whose GPUs are counted.
        batches: whether theirs are those that will be.

    Raises:
        ConfigError: fewer than one, more than there are GPUs to train on, or a batch that does not split evenly.
    """
    if processes < 1:
        raise ConfigError(f"processes must be at least 1, got {processes}")
    if processes == 1:
        return
    if batches:
        check_batches(processes, cells)
    gpus = torch.cuda.device_count() if here else 0
    if gpus and processes > gpus and not all_on_cpus(cells):
        raise ConfigError(f"processes is {processes}, must be at most the {gpus} GPUs here, or settings.device cpu")


def all_on_cpus(cells: Sequence[Cell]) -> bool:
    """Whether cells are asked to train on no GPU."""
    return all(cell.settings is None or cell.settings.device == "cpu" for cell in cells)


def check_batches(processes: int, cells: Sequence[Cell]) -> None:
    """See that the batches of cells split evenly.

    Raises:
        ConfigError: one does not; named.
    """
    for cell in cells:
        if cell.settings is not None:
            try:
                check_share(cell.settings, Processes(0, processes))
            except ValueError as error:
                raise ConfigError(f"{cell.name}: settings.{error}") from None


def run_cell_together(
    processes: int,
    config: BenchConfig,
    cells: list[Cell],
    cell: Cell,
    root: Path,
    extend: bool = False,
    again: bool = False,
    look: Callable[[], None] = lambda: None,
    stop: Callable[[], bool] | None = None,
) -> Outcome:
    """:func:`~uda.bench.cell.run_cell` on several processes; one that trains nothing runs here.

    Args:
        processes: at least 2.
        config: see there, as are the others.
        cells: the plan.
        cell: to be run.
        root: the benchmark's folder.
        extend: train the checkpoint of a shorter run on.
        again: train it though it has its scores.
        look: called every second.
        stop: asked every second; where it says so, the checkpoint is written and training ends.
    """
    if cell.settings is None:
        return run_cell(config, cells, cell, root)
    asked = stop or (lambda: False)
    arguments = (config, cells, cell, root, extend, again, stop is not None)
    try:
        return launch(processes, _run_share, *arguments, look=look, stop=asked)
    except LaunchError as error:
        # those that outlasted the time to stop are ended, and go on from an earlier checkpoint
        if asked():
            return Outcome("stopped")
        # between the look at the cell and its start another machine may have been faster
        if Watch().holder(root / cell.name) is not None:
            return Outcome("held")
        if not is_left(Identities(config, cells), cell, root, again):
            return Outcome("elsewhere")
        with contextlib.suppress(OSError), atomic_write(root / cell.name / ERROR) as file:
            file.write(error.trace or f"{error}\n")
        return Outcome("failed", f"{error}; the next call continues it")


def _run_share(
    config: BenchConfig, cells: list[Cell], cell: Cell, root: Path, extend: bool, again: bool, stops: bool
) -> Outcome:
    """A process' part of a cell."""
    together, stop = join(config.settings.device), is_told_to_stop if stops else None
    if together is not None and together.rank > 0:
        share_cell(config, cells, cell, root, extend, stop)
        return Outcome("done")
    return run_cell(config, cells, cell, root, extend=extend, again=again, stop=stop, raising=True)


def join(device: str | None) -> Processes | None:
    """Meet the processes that the environment tells of, on the device that runs want; ``None`` where there are none."""
    from accelerate import PartialState

    PartialState(cpu=device == "cpu", timeout=WAIT)
    return Processes.current()


def is_launched() -> bool:
    """Whether a launcher (``torchrun``, ``accelerate launch``) started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


class Leader:
    """The first of a launcher's processes: it says which cell comes next, and the others train it with it.

    Args:
        together: the processes.
    """

    def __init__(self, together: Processes) -> None:
        self.together = together
        self.trains = False
        """Whether the others are in a cell and cannot be told anything."""

    def next(self, name: str | None) -> None:
        """Tell the others the cell; ``None`` ends their work."""
        self.together.first(lambda: name)
        self.trains = name is not None

    def failed(self, error: Exception) -> None:
        """End the work of the others with an error."""
        if not self.trains:
            with contextlib.suppress(Exception):
                self.together.first(lambda: _raise(error))


def follow(together: Processes, run: Callable[[str], None]) -> None:
    """Train what the first process says, until it says that nothing is left.

    Raises:
        RuntimeError: the first process failed.
    """
    nothing: Callable[[], str | None] = lambda: None  # noqa: E731
    while (name := together.first(nothing)) is not None:
        run(name)


def _raise(error: Exception) -> None:
    raise error
