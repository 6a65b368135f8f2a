"""The command line: ``uda data|train|eval|bench|search|gap|predict|export|methods``.

Nothing here imports torch before a command runs, so that help is quick. Exit codes: 0 all went well, 1 something failed
in the work (a cell, an unreadable image, a problem in a data set), 2 the input is wrong, 130 interrupted.
"""

from __future__ import annotations

import io
import os
import sys

import typer

from uda.cli import bench, common, data, evaluate, export, gap, methods, predict, search

app = typer.Typer(
    name="uda",
    help="Unsupervised domain adaptation of semantic segmentation.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(data.app, name="data")
app.command("train")(bench.train)
app.command("eval")(evaluate.evaluate)
app.command("bench")(bench.bench)
app.command("search")(search.search)
app.command("gap")(gap.gap)
app.command("predict")(predict.predict)
app.command("export")(export.export)
app.command("methods")(methods.methods)


def _version(value: bool) -> None:
    if value:
        from uda import __version__

        print(f"uda {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    debug: bool = typer.Option(False, "--debug", help="Show the whole traceback of an error (may stand anywhere)."),
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Show the version."),
) -> None:
    common.set_debug(debug)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; the entry point of the ``uda`` script."""
    words = sys.argv[1:] if arguments is None else arguments
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # so that package.module:Name finds what lies beside a config, workers too
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name need not be text
    # accepted after the command too, where people write it
    rest = [word for word in words if word != "--debug"]
    app(["--debug", *rest] if len(rest) < len(words) else rest, prog_name="uda")


__all__ = ["app", "main"]
