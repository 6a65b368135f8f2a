"""``uda bench`` and ``uda train``."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from uda.cli.common import FAILED, bars, console, guarded, integers, key_values, say, track

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from uda.bench import BenchResult, Event
    from uda.config import BenchConfig

CONFIG = typer.Argument(..., help="A benchmark config (YAML).", show_default=False)
OUT = typer.Option(Path("runs"), "--out", "-o", help="Runs go to OUT/<name of the config>/<method>/seed<k>.")
ROOT = typer.Option([], "--root", help="NAME=PATH for ${NAME} in the config; repeatable.", show_default=False)
FRESH = typer.Option(False, "--fresh", help="Delete cells that were trained with another config, instead of refusing.")
EXTEND = typer.Option(
    False,
    "--extend",
    help="Train on cells that have fewer steps; where schedule and methods do not depend on the length.",
)


@guarded
def bench(
    config: Path = CONFIG,
    out: Path = OUT,
    root: list[str] = ROOT,
    workers: int = typer.Option(
        1, "--workers", "-j", min=1, help="Cells side by side, with an equal share of the cores."
    ),
    only: list[str] = typer.Option([], "--only", help="Only this row (and what it starts from); repeatable."),
    seeds: str = typer.Option(None, "--seeds", help="Only these seeds, such as 0,1."),
    fresh: bool = FRESH,
    extend: bool = EXTEND,
    record: Path = typer.Option(None, "--record", help="Write results.md, .csv and .json there, for keeping."),
    plan: float = typer.Option(
        None, "--plan", min=0.01, help="Run nothing: say how many seeds a difference of so many points of mIoU needs."
    ),
    like: Path = typer.Option(
        None, "--like", help="With --plan: the results.json whose noise counts, instead of this benchmark's cells."
    ),
) -> None:
    """Run what is missing of a benchmark (methods x seeds on a shift) and show its table.

    A finished cell is never run again, an interrupted one goes on from its last checkpoint, a failed one does not stop
    the others.
    """
    from uda.bench import record as write_record
    from uda.bench import run, write_tables
    from uda.bench.render import terminal
    from uda.config import load_config

    loaded = load_config(config, key_values(root, "--root"))
    if plan is not None:
        _plan(loaded, out / loaded.name, plan, like)
        return
    with bars() as progress:
        view = _View(progress)
        result = run(
            loaded, out=out, workers=workers, methods=only or None, seeds=integers(seeds, "--seeds"), fresh=fresh,
            extend=extend, report=view.report, progress=view.steps,
        )  # fmt: skip
    console().print(terminal(result.table))
    paths = write_tables(loaded, result.folder, result.table)
    say(f"written: {', '.join(str(path) for path in paths.values())}")
    say(f"curves: tensorboard --logdir {result.folder}")
    if record is not None:
        write_record(loaded, result.folder, result.table, record, command=" ".join(["uda", *sys.argv[1:]]))
        say(f"recorded in {record}")
    _fail(result)


@guarded
def train(
    config: Path = CONFIG,
    method: str = typer.Option("source_only", "--method", "-m", help="A row of the config, or oracle."),
    seed: int = typer.Option(0, "--seed", min=0, help="Any seed; need not be one of the config's."),
    out: Path = OUT,
    root: list[str] = ROOT,
    fresh: bool = FRESH,
    extend: bool = EXTEND,
) -> None:
    """Train one method with one seed, as the benchmark would (warm start included), and show its scores.

    Called again it goes on from the last checkpoint; a finished run is only shown.
    """
    from uda.bench import run
    from uda.config import load_config

    loaded = load_config(config, key_values(root, "--root"))
    with bars() as progress:
        view = _View(progress)
        result = run(
            loaded, out=out, methods=[method], seeds=[seed], fresh=fresh, extend=extend, report=view.report,
            progress=view.steps,
        )  # fmt: skip
    folder = result.folder / method / f"seed{seed}"
    if not result.failed:
        for domain in result.table.domains:
            value = result.table.row(method).scores[domain.name].by_seed[seed]
            print(f"{domain.name}: mIoU {100 * value:.1f} % ({domain.data}, {domain.images} images)")
        print(f"run folder: {folder}")
        print(f"curves: tensorboard --logdir {folder}")
    _fail(result)


def _plan(config: BenchConfig, folder: Path, points: float, like: Path | None) -> None:
    """Show how many seeds a difference takes, row by row."""
    import rich.table

    from uda.bench.forecast import forecast, measured_noises

    noises, origin = measured_noises(config, folder, like)
    grid = rich.table.Table(title=f"{config.name}: seeds for a difference of {points:g} points to the control")
    for title in ("method", "control", "seeds needed", f"seen with {max(2, len(config.seeds))} seeds", "seen at best"):
        grid.add_column(title, justify="left" if title in ("method", "control") else "right")
    rows = forecast(config, noises, points / 100)
    for row in rows:
        needed = "never" if row.seeds == math.inf else f"{row.seeds:.0f}"
        name = row.row if row.measured else f"{row.row} *"
        grid.add_row(name, row.control, needed, f"{100 * row.least_now:.1f}", f"{100 * row.least_ever:.1f}")
    console().print(grid)
    say(f"noise measured in {origin}; on the target, one comparison alone, seen four times in five.")
    say("seen at best: on these images, however many seeds; only more images (or sequences) get below it.")
    if not all(row.measured for row in rows):
        say("*: no noise of its own; the median of the other rows.")


def _fail(result: BenchResult) -> None:
    for name, message in result.failed.items():
        say(f"failed: {name}: {message}\n  traceback: {result.folder / name / 'error.txt'}")
    if result.failed:
        raise typer.Exit(FAILED)


class _View:
    """Shows the cells of a run as a bar with the current cell's steps below, or as plain lines."""

    def __init__(self, progress: Progress | None) -> None:
        self.progress = progress
        self.task: TaskID | None = None
        self.cell = ""
        self.started: dict[str, float] = {}

    def report(self, event: Event) -> None:
        """Show one event."""
        if event.kind == "start":
            self.cell = event.cell
            self.started[event.cell] = time.monotonic()
        line = self.line(event)
        if self.progress is None:
            say(line)
            return
        if event.kind == "plan" and event.total:
            self.task = self.progress.add_task("cells", total=event.total)
        elif self.task is not None:
            self.progress.update(self.task, completed=event.finished)
        if event.kind != "start":
            self.progress.console.print(line, markup=False)

    def line(self, event: Event) -> str:
        """An event as plain text."""
        if event.kind in ("note", "plan"):
            return event.message
        place = f"[{event.finished}/{event.total}]"
        if event.kind == "start":
            return f"{place} {event.cell} ..."
        seconds = f" in {time.monotonic() - self.started[event.cell]:.0f} s" if event.cell in self.started else ""
        return f"{place} {event.cell} {event.kind}{seconds}" + (f": {event.message}" if event.message else "")

    def steps(self, steps: Iterable[int]) -> Iterator[int]:
        """Show how far the current cell is."""
        listed = list(steps)
        return track(listed, f"  {self.cell}", len(listed), self.progress)
