"""A matrix written down: text, table, page and picture."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from uda.bench.matrix import render
from uda.bench.matrix.table import Matrix
from uda.bench.plain_page import page
from uda.bench.record import as_png, plain_values, texts, write_all
from uda.config import MatrixConfig


def write_matrix(
    config: MatrixConfig, folder: Path, matrix: Matrix, out: Path | None = None, command: str = ""
) -> dict[str, Path]:
    """Write ``matrix.md``, ``.csv``, ``.json``, ``.png`` and, beside the runs, ``.html``; their paths by suffix.

    Args:
        config: the matrix.
        folder: its runs.
        matrix: its results; without a finished row there is no picture and no page.
        out: where to write for keeping, such as ``benchmarks/results/<name>``; by default beside the runs.
        command: what repeats it.

    Raises:
        OSError: one cannot be written; the error's ``filename`` is its path, and the others are there.
    """
    files = texts(render.markdown(matrix), render.to_csv(matrix), summary(config, folder, matrix, command))
    if matrix.rows:
        files["png"] = png(matrix)
    if matrix.rows and out is None:  # the page refers to the benchmarks' own
        files["html"] = html(config, matrix, command)
    return write_all(out or folder, {f"matrix.{suffix}": written for suffix, written in files.items()})


def png(matrix: Matrix) -> bytes:
    """The picture of :func:`uda.plots.matrix`; of the same matrix the same bytes."""
    from uda import plots  # which reads this package

    return as_png(plots.matrix(matrix))


def html(config: MatrixConfig, matrix: Matrix, command: str = "") -> str:
    """One self-contained page: the picture, differences, classes, how it was measured; nothing runs in it."""
    from uda import plots
    from uda.plots.svg import as_svg

    return page(
        "matrix/matrix.html.j2", config, matrix, render.opening(matrix), command,
        picture=as_svg(matrix.name, lambda theme: plots.matrix(matrix, title="", theme=theme)),
        sentences=render.sentences(matrix),
        class_titles=render.class_titles(matrix),
        classes=[(domain, list(render.class_rows(matrix, domain))) for domain in matrix.domains],
        parts=[part.config.name for part in config.parts()],
    )  # fmt: skip


def summary(config: MatrixConfig, folder: Path, matrix: Matrix, command: str) -> dict[str, Any]:
    """The result as plain values: command, config, versions, machine, time, and every square."""
    plain = (
        "name",
        "kind",
        "trained_on",
        "target",
        "methods",
        "plain",
        "control",
        "seeds",
        "steps",
        "seconds_per_step",
    )
    classes = {domain.name: domain.class_names for domain in matrix.domains}
    rows = [
        {
            **{key: getattr(row, key) for key in plain},
            "squares": {
                name: {
                    **asdict(square), "loss": square.loss, "gain": square.gain,
                    "classes": dict(zip(classes[name], map(asdict, square.classes), strict=True)),
                }
                for name, square in row.squares.items()
            },
        }
        for row in matrix.rows
    ]  # fmt: skip
    benchmarks = [(part.config, folder / part.config.name) for part in config.parts()]
    own = {"rows": rows, "ties": {name: ties.groups for name, ties in matrix.ties.items()}}
    return plain_values(matrix, config, render.opening(matrix), command, config.seeds, benchmarks, own)
