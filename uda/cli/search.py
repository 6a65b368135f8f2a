"""``uda search``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import typer

from uda.cli.bench import OUT, PROCESSES, QUIET, ROOT, SET
from uda.cli.common import changes, console, guarded, roots, say
from uda.cli.view import fail, reporting


@guarded
def search(
    config: Path = typer.Argument(
        ..., help="The config (YAML) of a single run with a section `search`, or the name of one that comes with uda."
    ),
    trials: int = typer.Option(None, "--trials", "-n", min=1, help="In all, in place of the config's; more go on."),
    workers: int = typer.Option(1, "--workers", "-j", min=1, help="Trials side by side, with a share of the cores."),
    processes: int = PROCESSES,
    out: Path = OUT,
    root: list[str] = ROOT,
    change: list[str] = SET,
    record: Path = typer.Option(None, "--record", help="Write search.md, .csv, .json, .png there too, for keeping."),
    quiet: bool = QUIET,
) -> None:
    """Search settings and arguments with Optuna, judged by what needs no labels of the target.

    Trials that ended are never run again, and one that was interrupted goes on from its last checkpoint.
    """
    from uda.bench.search import run_search, summarise, write_search
    from uda.bench.search.write import sentences
    from uda.config.search import load_search

    changed = changes(change) | ({} if trials is None else {"search.trials": trials})
    loaded = load_search(config, roots(root, config, changed), changes=changed)
    with reporting(quiet) as report:
        result = run_search(loaded, out=out, workers=workers, processes=processes, report=report)
    summary, command = summarise(result), shlex.join(["uda", *sys.argv[1:]])
    for line in sentences(summary):
        console().print(line, markup=False, highlight=False)
    say(f"written: {', '.join(str(path) for path in write_search(summary, command=command).values())}")
    if record is not None:
        write_search(summary, record, command)
        say(f"recorded in {record}")
    fail(result.failed, result.folder)
