"""How a run is shown: a bar or plain lines while it works, what failed at its end; of a launcher's processes by one."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from uda.cli.common import FAILED, bars, say
from uda.progress import StepProgress

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from uda.bench import Event


@contextmanager
def reporting(quiet: bool) -> Iterator[Callable[[Event], None]]:
    """A function to tell a run's events, which are shown; nothing but notes where ``quiet``."""
    quiet = quiet or is_follower()
    with bars(quiet) as progress:
        yield View(progress, quiet=quiet).report


def fail(failed: Mapping[str, str], folder: Path) -> None:
    """Say what failed, and end with the exit code for that, where something did."""
    for name, message in failed.items():
        say(f"failed: {name}: {message}\n  traceback: {folder / name / 'error.txt'}")
    if failed:
        raise typer.Exit(FAILED)


def is_follower() -> bool:
    """Whether a launcher started this process, and another one of its speaks for it."""
    return os.environ.get("WORLD_SIZE", "1") != "1" and os.environ.get("RANK", "0") != "0"


class View:
    """Shows the cells of a run as a bar with those at work below, or as plain lines; notes alone where ``quiet``."""

    def __init__(self, progress: Progress | None, *, quiet: bool = False) -> None:
        self.progress, self.quiet = progress, quiet
        self.steps = StepProgress(progress)
        self.task: TaskID | None = None
        self.started: dict[str, float] = {}

    def report(self, event: Event) -> None:
        """Show one event."""
        if event.kind == "start":
            self.started[event.cell] = time.monotonic()
        if event.kind in ("done", "failed"):
            self.steps.end(event.cell)
        if self.quiet:
            if event.kind == "note":
                say(event.message)
        elif event.kind == "step":
            self.steps.step(event.cell, event.step, event.steps, event.losses)
        elif self.progress is None:
            say(self.line(event))
        else:
            self.move(self.progress, event)

    def move(self, progress: Progress, event: Event) -> None:
        """Show an event on a terminal."""
        if event.kind == "plan" and event.total:
            self.task = progress.add_task("cells", total=event.total)
        elif self.task is not None:
            progress.update(self.task, completed=event.finished)
        if event.kind != "start":
            progress.console.print(self.line(event), markup=False)

    def line(self, event: Event) -> str:
        """An event as plain text."""
        if event.kind == "warning":
            return f"warning: {event.message}"
        if event.kind in ("note", "plan"):
            return event.message
        place = f"[{event.finished}/{event.total}]"
        if event.kind == "start":
            return f"{place} {event.cell} ..."
        seconds = f" in {time.monotonic() - self.started[event.cell]:.0f} s" if event.cell in self.started else ""
        return f"{place} {event.cell} {event.kind}{seconds}" + (f": {event.message}" if event.message else "")
