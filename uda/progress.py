"""Progress on the console: bars on a terminal and in a notebook, a plain line now and then everywhere else."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

PLAIN_WIDTH = 160
"""Columns of tables where the output is no terminal."""
QUIET_SECONDS = 10.0
"""At least so long between two plain lines of progress."""


def console(*, stderr: bool = False) -> Console:
    """A console as wide as the terminal, or wide enough for a table where there is none."""
    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, width=None if stream.isatty() else PLAIN_WIDTH, highlight=False, soft_wrap=False)


def columns() -> tuple[ProgressColumn, ...]:
    """Of a bar: what it is about, how far it is, how long that takes, and what else is to be said."""
    return (
        TextColumn("{task.description}", markup=False),  # names may look like markup
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        _Note(),
    )


class _Note(ProgressColumn):
    """What a task's field ``note`` says, in one line that is cut where the terminal ends."""

    def render(self, task: Task) -> Text:
        return Text(task.fields.get("note", ""), no_wrap=True, overflow="ellipsis")


@contextmanager
def bars(quiet: bool = False) -> Iterator[Progress | None]:
    """A live display on a terminal or in a notebook; ``None`` where plain lines are written, or ``quiet``."""
    out = console(stderr=True)
    if quiet or not (out.is_terminal or out.is_jupyter):
        yield None
        return
    with Progress(*columns(), console=out) as progress:
        yield progress


@dataclass
class _Run:
    """A run that is shown."""

    first: int
    """Its steps when it was first heard of; a resumed run does not begin at 0."""
    started: float
    shown: float
    """When its last plain line was written."""
    task: TaskID | None = None
    losses: dict[str, float] = field(default_factory=dict)


class StepProgress:
    """Shows how far training runs are, one line a run: step, rate, time left, losses.

    Args:
        progress: what :func:`bars` gives; ``None``: a plain line a run every ``seconds``.
        seconds: see above.
    """

    def __init__(self, progress: Progress | None = None, *, seconds: float = QUIET_SECONDS) -> None:
        self.progress, self.seconds = progress, seconds
        self._runs: dict[str, _Run] = {}

    def step(self, run: str, done: int, total: int, losses: Mapping[str, float]) -> None:
        """A run has done so many of its steps; without new ``losses`` its last ones stay."""
        now = time.monotonic()
        shown = self._runs.get(run)
        if shown is None:
            shown = self._runs[run] = _Run(done, now, now)
            if self.progress is not None:
                shown.task = self.progress.add_task(f"  {run}", total=total, completed=done)
        shown.losses = dict(losses) or shown.losses
        rate = (done - shown.first) / (now - shown.started) if done > shown.first and now > shown.started else 0.0
        if self.progress is not None and shown.task is not None:
            self.progress.update(shown.task, completed=done, note=_note(rate, shown.losses))
        elif now - shown.shown >= self.seconds:
            shown.shown = now
            left = f"{timedelta(seconds=round((total - done) / rate))} left" if rate else ""
            parts = [part for part in (f"{run}: {done}/{total}", left, _note(rate, shown.losses)) if part]
            print(", ".join(parts), file=sys.stderr, flush=True)

    def end(self, run: str) -> None:
        """A run is over, whether it came to its end or not."""
        shown = self._runs.pop(run, None)
        if shown is not None and shown.task is not None and self.progress is not None:
            self.progress.remove_task(shown.task)


class MegabyteProgress:
    """Shows how much of a file is there, in megabytes: a bar, or a plain line now and then.

    Args:
        label: what is being done.
        progress: what :func:`bars` gives; ``None``: a plain line every ``seconds``.
        seconds: see above.
    """

    def __init__(self, label: str, progress: Progress | None = None, *, seconds: float = QUIET_SECONDS) -> None:
        self.label, self.progress, self.seconds = label, progress, seconds
        self._shown = time.monotonic()
        self._task: TaskID | None = None

    def __call__(self, done: int, total: int | None = None) -> None:
        """So many bytes are done, of so many if that is known."""
        megabytes, whole = done >> 20, None if total is None else total >> 20
        if self.progress is not None:
            if self._task is None:
                self._task = self.progress.add_task(self.label, total=whole, note="MB")
            self.progress.update(self._task, completed=megabytes, total=whole)
        elif time.monotonic() - self._shown >= self.seconds:
            self._shown = time.monotonic()
            print(f"{self.label}: {megabytes}{'' if whole is None else f'/{whole}'} MB", file=sys.stderr, flush=True)


def _note(rate: float, losses: Mapping[str, float]) -> str:
    speed = [f"{rate:.3g} it/s" if rate >= 1 else f"{1 / rate:.3g} s/it"] if rate else []
    return ", ".join([*speed, *(f"{name} {value:.3g}" for name, value in losses.items())])


def losses_of(logs: Mapping[str, object]) -> dict[str, float]:
    """The losses among a step's logs or a record of a run's scalars, without ``loss/`` before their names."""
    return {
        tag.removeprefix("loss/"): float(value)  # type: ignore[arg-type]
        for tag, value in logs.items()
        if tag.startswith("loss/")
    }
