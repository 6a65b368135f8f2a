"""``uda bench`` and ``uda train``."""

from __future__ import annotations

import math
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import typer
from rich.markup import escape

from uda.cli.common import changes, console, guarded, integers, key_values, roots, say, settings_of, yaml_value
from uda.cli.view import fail, is_follower, reporting

if TYPE_CHECKING:
    from uda.bench import TrainResult
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
    help="Processes of one machine that train a run together (one for each GPU); the run is the same.",
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
    from uda.config import kind_of

    changed = settings_of(settings) | changes(change)
    kind, named_roots = kind_of(config, changed), roots(root, config, changed)
    chosen: dict[str, Any] = {"rows": only or None, "seeds": integers(seeds, "--seeds")}
    if status:
        _status(kind, _load(kind, config, named_roots, changed, preset), out, **chosen)
        return
    works_there = _engine(engine, slurm, workers)
    if kind in ("matrix", "factorial"):
        alone = {"--plan": plan, "--like": like, "--cost": cost, "--preset": preset if kind == "factorial" else None}
        _refuse(alone, f"is of a benchmark of one shift, not of a {kind}")
    if cost:
        others = {"--plan": plan, "--like": like, "--record": record, "--fresh": fresh, "--extend": extend}
        why = "does not go with --cost, which measures on this machine, by short runs of its own"
        _refuse({"--engine slurm": works_there, **others}, why)
    loaded = _load(kind, config, named_roots, changed, preset)
    if plan is not None:
        _plan(loaded, out / loaded.name, plan, like)
    elif cost:
        _cost(loaded, out / loaded.name, quiet, workers=workers, processes=processes, **chosen)
    else:
        _run(
            _KINDS[kind](), loaded, record, quiet, out=out, workers=workers, processes=processes, fresh=fresh,
            extend=extend, engine=works_there, **chosen,
        )  # fmt: skip


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
    with reporting(quiet) as report:
        result = train_row(
            loaded, row, seed=seed, out=out, processes=processes, fresh=fresh, extend=extend, report=report
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


def _load(kind: str, config: Path, named_roots: dict[str, str], changed: dict[str, Any], presets: list[str]) -> Any:
    """A config of any kind."""
    from uda.config import load_config, load_factorial, load_matrix

    if kind == "factorial":
        return load_factorial(config, named_roots, changes=changed)
    load = load_matrix if kind == "matrix" else load_config
    return load(config, named_roots, changes=changed, presets=presets)


class _Kind(NamedTuple):
    """What configs of a kind have of their own in :func:`_run`."""

    run: Callable[..., Any]
    """With a config and the options of the command."""
    show: Callable[[Any], Any]
    """What a terminal shows of a result."""
    write: Callable[[Any, Any, str], str]
    """A config's result, into its folder, with the command: what was written."""
    record: Callable[[Any, Any, Path, str], Any]
    """The same for keeping, into another folder."""
    curves: bool = True
    """Whether it is said how to look at them."""


def _benchmark() -> _Kind:
    from uda.bench import record, run, write_tables
    from uda.bench.render import terminal

    return _Kind(
        run=lambda loaded, *, rows, **options: run(loaded, methods=rows, **options),
        show=lambda result: terminal(result.table),
        write=lambda loaded, result, command: _named(write_tables(loaded, result.folder, result.table, command)),
        record=lambda loaded, result, into, command: record(
            loaded, result.folder, result.table, into, command=command
        ),
    )  # fmt: skip


def _matrix() -> _Kind:
    from uda.bench import write_tables
    from uda.bench.matrix import run_matrix, write_matrix
    from uda.bench.matrix.render import terminal

    def write(loaded: Any, result: Any, command: str) -> str:
        for part in result.parts:
            write_tables(part.config, part.folder, part.table, command)
        paths = write_matrix(loaded, result.folder, result.matrix, command=command)
        return f"{_named(paths)}; report.html of each benchmark in its folder beside them"

    return _Kind(
        run=run_matrix,
        show=lambda result: terminal(result.matrix),
        write=write,
        record=lambda loaded, result, into, command: write_matrix(loaded, result.folder, result.matrix, into, command),
    )


def _factorial() -> _Kind:
    from uda.bench.factorial import run_factorial, write_study
    from uda.bench.factorial.render import terminal

    return _Kind(
        run=run_factorial,
        show=lambda result: terminal(result.study),
        write=lambda loaded, result, command: _named(
            write_study(loaded, result.folder, result.study, command=command)
        ),
        record=lambda loaded, result, into, command: write_study(loaded, result.folder, result.study, into, command),
        curves=False,
    )  # fmt: skip


# a single run's config is refused where it is loaded
_KINDS = {"benchmark": _benchmark, "run": _benchmark, "matrix": _matrix, "factorial": _factorial}


def _named(paths: Mapping[str, Path]) -> str:
    return ", ".join(map(str, paths.values()))


def _run(kind: _Kind, loaded: Any, record: Path | None, quiet: bool, **options: Any) -> None:
    """Run what is missing, show it, write it down, and say what failed."""
    with reporting(quiet) as report:
        result = kind.run(loaded, report=report, **options)
    if is_follower():
        return
    console().print(kind.show(result))
    command = shlex.join(["uda", *sys.argv[1:]])
    try:
        say(f"written: {kind.write(loaded, result, command)}")
    except OSError as error:
        # it stands above all the same
        say(f"not written: {error.filename} ({error.strerror}); --out and --record can name other folders")
    if kind.curves:
        say(f"curves: tensorboard --logdir {result.folder}")
    if record is not None:
        kind.record(loaded, result, record, command)
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


def _status(kind: str, loaded: Any, out: Path, rows: list[str] | None, seeds: list[int] | None) -> None:
    """Show what each cell is at."""
    import rich.table

    from uda.bench.matrix.run import benchmarks_of
    from uda.bench.status import statuses

    benchmarks: list[tuple[BenchConfig, list[str] | None]] = [(loaded, rows)]
    if kind == "matrix":
        benchmarks, out = benchmarks_of(loaded, rows), out / loaded.name
    elif kind == "factorial":
        benchmarks = [(loaded.benchmark(), rows or [run.name for run in loaded.runs()])]
    cells = statuses(benchmarks, out=out, seeds=seeds, prefixed=kind == "matrix")
    grid = rich.table.Table(title=loaded.name)
    for title in ("cell", "state", "steps", "where"):
        grid.add_column(title, justify="right" if title == "steps" else "left")
    for cell in cells:
        steps = f"{cell.step}/{cell.steps}" if cell.steps else ""
        since = f"{cell.holder}, since {cell.holder.since}" if cell.holder else cell.message
        grid.add_row(cell.name, cell.state, steps, escape(since))
    console().print(grid)
    counts = Counter(cell.state for cell in cells)
    say(", ".join(f"{number} {state}" for state, number in counts.items()) + f" of {len(cells)} cells")


def _refuse(options: Mapping[str, Any], why: str) -> None:
    """See that none of some options is there, each by its value; ``why`` follows its name."""
    for option, value in options.items():
        if value:
            raise ValueError(f"{option} {why}")


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
    config: BenchConfig,
    folder: Path,
    quiet: bool,
    *,
    workers: int,
    processes: int,
    rows: list[str] | None,
    seeds: list[int] | None,
) -> None:
    """Show what every cell takes here, beside what finished cells took, and how long all take with more workers."""
    import tempfile

    import rich.table

    from uda.bench.cost import measure_costs, taken, wall_seconds

    seeds = seeds or config.seeds
    with tempfile.TemporaryDirectory(prefix="uda-cost-") as short, reporting(quiet) as report:
        costs, once = measure_costs(
            config, Path(short), workers=workers, processes=processes, methods=rows, report=report
        )
    each = f", each by {processes} processes" if processes > 1 else ""
    grid = rich.table.Table(title=f"{config.name}: a cell, measured with {workers} side by side{each}")
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
