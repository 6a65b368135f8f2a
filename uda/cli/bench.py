"""``uda bench`` and ``uda train``."""

from __future__ import annotations

import math
import os
import shlex
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.markup import escape

from uda.cli.common import (
    FAILED,
    bars,
    changes,
    console,
    guarded,
    integers,
    key_values,
    roots,
    say,
    settings_of,
    yaml_value,
)
from uda.progress import StepProgress

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from uda.bench import Event, TrainResult
    from uda.bench.slurm import Slurm
    from uda.config import BenchConfig

CONFIG = typer.Argument(
    None, help="A benchmark config (YAML), or the name of one that comes with uda (--list).", show_default=False
)
OUT = typer.Option(Path("runs"), "--out", "-o", help="Runs go to OUT/<name of the config>/<method>/seed<k>.")
ROOT = typer.Option([], "--root", help="NAME=PATH for ${NAME} in the config; repeatable.", show_default=False)
SET = typer.Option(
    [], "--set", help="KEY=VALUE in place of an entry of the config, such as settings.steps=200; repeatable.",
    show_default=False,
)  # fmt: skip
SETTINGS = typer.Option(
    None, "--settings",
    help="A YAML file, or a machine that comes with uda, whose `settings:` go before the config's; --set before both.",
    show_default=False,
)  # fmt: skip
ENGINES = ("local", "slurm")
PROCESSES = typer.Option(
    1, "--processes", min=1,
    help="Processes of this machine that train a run together (one for each GPU); the run is the same.",
)  # fmt: skip
COMMON = 4
"""Classes that a line names."""
QUIET = typer.Option(
    False, "--quiet", "-q", help="Show no progress; results and what went wrong are shown all the same."
)
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
    change: list[str] = SET,
    settings: str = SETTINGS,
    preset: list[str] = typer.Option(
        [], "--preset", "-p", help="Add a published recipe (uda.presets) as a row; repeatable.", show_default=False
    ),
    workers: int = typer.Option(
        1, "--workers", "-j", min=1, help="Cells side by side, with an equal share of the cores."
    ),
    processes: int = PROCESSES,
    only: list[str] = typer.Option([], "--only", help="Only this row (and what it starts from); repeatable."),
    seeds: str = typer.Option(None, "--seeds", help="Only these seeds, such as 0,1."),
    fresh: bool = FRESH,
    extend: bool = EXTEND,
    quiet: bool = QUIET,
    record: Path = typer.Option(None, "--record", help="Write results.md, .csv and .json there, for keeping."),
    plan: float = typer.Option(
        None, "--plan", min=0.01, help="Run nothing: say how many seeds a difference of so many points of mIoU needs."
    ),
    like: Path = typer.Option(
        None, "--like", help="With --plan: the results.json whose noise counts, instead of this benchmark's cells."
    ),
    cost: bool = typer.Option(
        False,
        "--cost",
        help="Run short runs alone, and say what seconds, memory and disk the benchmark will take here.",
    ),
    engine: str = typer.Option(
        "local", "--engine", help="local: this machine; slurm: jobs of a Slurm cluster (pip install 'uda-seg[slurm]')."
    ),
    slurm: list[str] = typer.Option(
        [],
        "--slurm",
        help="KEY=VALUE of the jobs, such as time=12:00:00, gpus_per_node=1, partition=gpu; repeatable.",
        show_default=False,
    ),
    status: bool = typer.Option(False, "--status", help="Run nothing: say what is running where, and what is left."),
    listed: bool = typer.Option(False, "--list", help="Run nothing: list the benchmarks that come with uda."),
) -> None:
    """Run what is missing of a benchmark (methods x seeds on a shift, a matrix, a study of factors) and show its table.

    A finished cell is never run again, an interrupted one goes on from its last checkpoint, a failed one does not stop
    the others. The same command may run on any number of machines that share OUT: each works on what no other does.
    """
    if listed:
        _list()
        return
    if config is None:
        hint = "a config's file or name is needed; uda bench --list has those that come with uda"
        raise typer.BadParameter(hint, param_hint="CONFIG")
    _say_what_is_hidden(config)
    from uda.bench import record as write_record
    from uda.bench import run, write_tables
    from uda.bench.render import terminal
    from uda.config import kind_of, load_config

    changed = settings_of(settings) | changes(change)
    kind = kind_of(config, changed)
    if status:
        _status(config, changed, roots(root, config, changed), preset, out, only or None, integers(seeds, "--seeds"))
        return
    works_there = _engine(engine, slurm, workers)
    if kind in ("matrix", "factorial"):
        options = {
            "--plan": plan,
            "--like": like,
            "--cost": cost or None,
            **({"--preset": preset or None} if kind == "factorial" else {}),
        }
        _see_that_none_is_given(options, kind)
        run_all = _factorial if kind == "factorial" else partial(_matrix, presets=preset)
        run_all(
            config, changed, roots(root, config, changed), record, quiet, out=out, workers=workers, processes=processes,
            rows=only or None, seeds=integers(seeds, "--seeds"), fresh=fresh, extend=extend,
            engine=works_there,
        )  # fmt: skip
        return
    loaded = load_config(config, roots(root, config, changed), changes=changed, presets=preset)
    if plan is not None:
        _plan(loaded, out / loaded.name, plan, like)
        return
    if cost:
        _cost(loaded, out / loaded.name, workers, only or None, integers(seeds, "--seeds"), quiet)
        return
    quiet = quiet or is_follower()
    with bars(quiet) as progress:
        view = View(progress, quiet=quiet)
        result = run(
            loaded, out=out, workers=workers, processes=processes, methods=only or None,
            seeds=integers(seeds, "--seeds"), fresh=fresh, extend=extend, report=view.report, engine=works_there,
        )  # fmt: skip
    if is_follower():
        return
    console().print(terminal(result.table))
    command = shlex.join(["uda", *sys.argv[1:]])
    try:
        paths = write_tables(loaded, result.folder, result.table, command)
        say(f"written: {', '.join(str(path) for path in paths.values())}")
    except OSError as error:
        # the table stands above all the same
        say(f"not written: {error.filename} ({error.strerror}); --out and --record can name other folders")
    say(f"curves: tensorboard --logdir {result.folder}")
    if record is not None:
        write_record(loaded, result.folder, result.table, record, command=command)
        say(f"recorded in {record}")
    fail(result.failed, result.folder)


@guarded
def train(
    config: Path = typer.Argument(
        None, help="The config (YAML) of a single run or of a benchmark; not needed with --source, --target, --preset.",
        show_default=False,
    ),
    method: str = typer.Option(
        None, "--method", "-m", help="Of a benchmark config: the row, or oracle; by default source_only."
    ),
    preset: str = typer.Option(
        None, "--preset", "-p", help="A published recipe (uda.presets) as the method, in place of the config's."
    ),
    source: str = typer.Option(None, "--source", help="KIND:PATH, labelled; replaces the config's source."),
    target: str = typer.Option(None, "--target", help="KIND:PATH, its labels are not read; replaces the config's."),
    seed: int = typer.Option(0, "--seed", min=0, help="Any seed; need not be one of the config's."),
    processes: int = PROCESSES,
    out: Path = OUT,
    root: list[str] = ROOT,
    change: list[str] = SET,
    settings: str = SETTINGS,
    fresh: bool = FRESH,
    extend: bool = EXTEND,
    quiet: bool = QUIET,
) -> None:  # fmt: skip
    """Train one method with one seed: from a config of source, target and method, a preset, or a benchmark's row.

    The target needs no labels. Called again it goes on from the last checkpoint; a finished run is only shown.
    """
    from uda.bench import train as train_row
    from uda.config import load_run

    if config is not None:
        _say_what_is_hidden(config)
    entries: dict[str, Any] = {}
    for key, text in (("source", source), ("target", target)):
        if text is not None:
            entries[key] = _data(text, f"--{key}")
    content, changed = {} if config is None else config, {**entries, **settings_of(settings), **changes(change)}
    loaded, row = load_run(content, roots(root, content, changed), row=method, recipe=preset, changes=changed)
    quiet = quiet or is_follower()
    with bars(quiet) as progress:
        view = View(progress, quiet=quiet)
        result = train_row(
            loaded, row, seed=seed, out=out, processes=processes, fresh=fresh, extend=extend, report=view.report
        )
    if is_follower():
        return
    fail(result.failed, result.folder.parent.parent)
    for line in _scores(loaded, result):
        print(line)
    if result.waited is not None:
        say(f"waited for data: {100 * result.waited:.0f} % of the training time")
    print(f"run folder: {result.folder}")
    print(f"curves: tensorboard --logdir {result.folder}")


def _matrix(
    config: Path,
    changed: dict[str, Any],
    named_roots: dict[str, str],
    record: Path | None,
    quiet: bool,
    *,
    presets: list[str],
    **options: Any,
) -> None:
    """Run what is missing of a matrix, show it, write it down."""
    from uda.bench import write_tables
    from uda.bench.matrix import run_matrix, write_matrix
    from uda.bench.matrix.render import terminal
    from uda.config import load_matrix

    loaded = load_matrix(config, named_roots, changes=changed, presets=presets)
    quiet = quiet or is_follower()
    with bars(quiet) as progress:
        result = run_matrix(loaded, report=View(progress, quiet=quiet).report, **options)
    if is_follower():
        return
    console().print(terminal(result.matrix))
    command = shlex.join(["uda", *sys.argv[1:]])
    try:
        for part in result.parts:
            write_tables(part.config, part.folder, part.table, command)
        paths = write_matrix(loaded, result.folder, result.matrix, command=command)
        say(f"written: {', '.join(map(str, paths.values()))}; report.html of each benchmark in its folder beside them")
    except OSError as error:
        say(f"not written: {error.filename} ({error.strerror}); --out and --record can name other folders")
    say(f"curves: tensorboard --logdir {result.folder}")
    if record is not None:
        write_matrix(loaded, result.folder, result.matrix, record, command)
        say(f"recorded in {record}")
    fail(result.failed, result.folder)


def _factorial(
    config: Path,
    changed: dict[str, Any],
    named_roots: dict[str, str],
    record: Path | None,
    quiet: bool,
    **options: Any,
) -> None:
    """Run what is missing of a study of factors, show it, write it down."""
    from uda.bench.factorial import run_factorial, write_study
    from uda.bench.factorial.render import terminal
    from uda.config import load_factorial

    loaded = load_factorial(config, named_roots, changes=changed)
    quiet = quiet or is_follower()
    with bars(quiet) as progress:
        result = run_factorial(loaded, report=View(progress, quiet=quiet).report, **options)
    if is_follower():
        return
    console().print(terminal(result.study))
    command = shlex.join(["uda", *sys.argv[1:]])
    try:
        paths = write_study(loaded, result.folder, result.study, command=command)
        say(f"written: {', '.join(map(str, paths.values()))}")
    except OSError as error:
        say(f"not written: {error.filename} ({error.strerror}); --out and --record can name other folders")
    if record is not None:
        write_study(loaded, result.folder, result.study, record, command)
        say(f"recorded in {record}")
    fail(result.failed, result.folder)


def _engine(name: str, slurm: list[str], workers: int) -> Slurm | None:
    """What does the cells; ``None``: this process."""
    if name not in ENGINES:
        raise ValueError(f"--engine is {name!r}; known: {', '.join(ENGINES)}")
    if name == "local":
        if slurm:
            raise ValueError("--slurm is of --engine slurm")
        return None
    if workers > 1:
        raise ValueError("--workers is of --engine local; --slurm array_parallelism=N says how many jobs run at once")
    from uda.bench.slurm import Slurm, import_submitit

    import_submitit()
    # a time limit such as 12:00:00 is a number in YAML
    texts = key_values(slurm, "--slurm")
    return Slurm({key: text if key == "time" else yaml_value(text, f"--slurm {key}") for key, text in texts.items()})


def _status(
    config: Path,
    changed: dict[str, Any],
    named_roots: dict[str, str],
    presets: list[str],
    out: Path,
    only: list[str] | None,
    seeds: list[int] | None,
) -> None:
    """Show what each cell is at."""
    import rich.table

    from uda.bench.matrix.run import benchmarks_of
    from uda.bench.status import statuses
    from uda.config import kind_of, load_config, load_factorial, load_matrix

    kind, prefixed = kind_of(config, changed), False
    benchmarks: list[tuple[BenchConfig, list[str] | None]]
    if kind == "matrix":
        matrix = load_matrix(config, named_roots, changes=changed, presets=presets)
        name, benchmarks, out, prefixed = matrix.name, benchmarks_of(matrix, only), out / matrix.name, True
    elif kind == "factorial":
        study = load_factorial(config, named_roots, changes=changed)
        name, benchmarks = study.name, [(study.benchmark(), only or [run.name for run in study.runs()])]
    else:
        loaded = load_config(config, named_roots, changes=changed, presets=presets)
        name, benchmarks = loaded.name, [(loaded, only)]
    cells = statuses(benchmarks, out=out, seeds=seeds, prefixed=prefixed)
    grid = rich.table.Table(title=name)
    for title in ("cell", "state", "steps", "where"):
        grid.add_column(title, justify="right" if title == "steps" else "left")
    for cell in cells:
        steps = f"{cell.step}/{cell.steps}" if cell.steps else ""
        since = f"{cell.holder}, since {cell.holder.since}" if cell.holder else cell.message
        grid.add_row(cell.name, cell.state, steps, escape(since))
    console().print(grid)
    counts = Counter(cell.state for cell in cells)
    say(", ".join(f"{number} {state}" for state, number in counts.items()) + f" of {len(cells)} cells")


def _see_that_none_is_given(options: Mapping[str, Any], kind: str) -> None:
    """Refuse what is of benchmarks of one shift alone."""
    for option, value in options.items():
        if value is not None:
            raise ValueError(f"{option} is of a benchmark of one shift, not of a {kind}")


def _list() -> None:
    """Show the configs that come with the library, a line each."""
    from uda.shipped import benchmarks, summary

    known = benchmarks()
    for name, path in known.items():
        print(f"{name:{max(map(len, known))}}  {summary(path)}")


def _say_what_is_hidden(config: Path) -> None:
    """Say that a local file goes before a config of the library, where one does."""
    from uda.shipped import config_file, hides

    if hides(config) is not None:
        say(f"{config_file(config)}: the local file, not the benchmark {str(config)!r} that comes with uda")


def _data(text: str, option: str) -> dict[str, Any]:
    """A data set's spec from ``KIND:PATH``."""
    kind, colon, path = text.partition(":")
    if not colon or not kind or not path:
        raise ValueError(f"{option} takes KIND:PATH, such as cityscapes:data/cityscapes or folder:frames, got {text!r}")
    return {"kind": kind, "root": path}


def _scores(config: BenchConfig, result: TrainResult) -> Iterator[str]:
    """What a run is worth, in lines."""
    for domain, evaluation in result.evaluations.items():
        spec = config.domains[domain]
        data = " ".join([spec.kind, *([str(spec.arguments["split"])] if "split" in spec.arguments else [])])
        yield f"{domain}: mIoU {100 * evaluation.miou():.1f} % ({data}, {len(evaluation.names)} images)"
    if result.label_free is None:
        return
    from uda.bench.label_free import SHEET

    for domain, values in result.label_free.items():
        if values.get("seen"):
            miou = "unknown" if values["miou"] is None else f"{100 * values['miou']:.1f} %"
            yield f"{domain}: mIoU {miou} on {values['images']} of its training images (no source_val is given)"
        classes = sorted(values["shares"].items(), key=lambda item: -item[1])[:COMMON]
        yield (
            f"{domain}: confidence {values['confidence']:.2f}, entropy {values['entropy']:.2f}, "
            f"{100 * values['sure']:.0f} % of the pixels sure; mostly "
            + ", ".join(f"{name} {100 * share:.0f} %" for name, share in classes)
        )
    yield "The target has no labels, so nothing here says how often its predictions are right; look at them:"
    yield f"{result.folder / SHEET}"


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


def _cost(
    config: BenchConfig, folder: Path, workers: int, only: list[str] | None, seeds: list[int] | None, quiet: bool
) -> None:
    """Show what every cell takes here, beside what finished cells took, and how long all take with more workers."""
    import tempfile

    import rich.table

    from uda.bench.cost import measure_costs, taken, wall_seconds

    seeds = seeds or config.seeds
    with tempfile.TemporaryDirectory(prefix="uda-cost-") as short, bars(quiet) as progress:
        report = View(progress, quiet=quiet).report
        costs, once = measure_costs(config, Path(short), workers=workers, methods=only, report=report)
    grid = rich.table.Table(title=f"{config.name}: a cell, measured with {workers} side by side")
    for title in ("cell", "start s", "step s", "steps", "scores s", "checkpoints s", "in all s", "took s", "memory GB"):
        grid.add_column(title, justify="left" if title == "cell" else "right")
    for row in costs:
        took = taken(row, folder, seeds)
        grid.add_row(
            row.name.rpartition("/")[0], f"{row.start:.1f}", f"{row.step:.3f}", str(row.steps), f"{row.scoring:.1f}",
            f"{row.saving:.1f}", f"{row.seconds:.0f}", "" if took is None else f"{took:.0f}", f"{row.memory / 1e9:.2f}",
        )  # fmt: skip
    console().print(grid)
    disk = len(seeds) * sum(row.disk for row in costs)
    say(f"{len(costs) * len(seeds)} cells leave {disk / 1e9:.1f} GB of checkpoints.")
    for number in sorted({1, workers, 8, 64}):
        minutes = wall_seconds(costs, len(seeds), number, once) / 60
        like = "one such worker" if number == 1 else f"{number} such workers"
        say(f"{like}: {minutes:.0f} minutes" if minutes < 600 else f"{like}: {minutes / 60:.0f} hours")
    say("took: mean of the cells that are done in the benchmark's folder, whatever machine made them.")


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
