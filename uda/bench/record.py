"""Results written down: the table in every form, and what is needed to measure it again."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from uda.bench import render
from uda.bench.plan import make_plan
from uda.bench.results import Measured
from uda.bench.stored import read_result
from uda.bench.table import Table
from uda.config import BenchConfig, FactorialConfig, MatrixConfig
from uda.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 150
"""Of pictures that are kept."""


def write_tables(config: BenchConfig, folder: Path, table: Table, command: str = "") -> dict[str, Path]:
    """Write ``results.md``, ``results.csv`` and ``report.html`` beside the runs; their paths by suffix.

    Args:
        config: the benchmark.
        folder: its runs.
        table: its results.
        command: what repeats it; stands in the page.

    Raises:
        OSError: one cannot be written; the error's ``filename`` is its path, and the others are there.
    """
    from uda.bench import report  # its figures read this package

    texts = {
        "results.md": render.markdown(table),
        "results.csv": render.to_csv(table),
        "report.html": report.html(config, folder, table, command),
    }
    return write_all(folder, texts)


def as_png(figure: Figure) -> bytes:
    """A figure as the bytes of a PNG file; of the same figure the same bytes."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=DPI, metadata={"Software": None})
    return file.getvalue()


def write_all(folder: Path, files: Mapping[str, str | bytes]) -> dict[str, Path]:
    """Write files of a folder, each whole or not at all; their paths by suffix.

    Args:
        folder: where.
        files: content by name.

    Raises:
        OSError: one cannot be written; the error's ``filename`` is its path, and the others are there.
    """
    failures: list[OSError] = []
    for name, content in files.items():
        try:
            with atomic_write(folder / name, binary=isinstance(content, bytes)) as file:
                file.write(content)
        except OSError as error:
            failures.append(error)
    if failures:
        raise failures[0]
    return {Path(name).suffix[1:]: folder / name for name in files}


def record(config: BenchConfig, folder: Path, table: Table, out: Path, command: str) -> None:
    """Write a benchmark's result for keeping: ``results.md``, ``results.csv``, ``results.json``, no images.

    Args:
        config: the benchmark.
        folder: its runs.
        table: its results.
        out: where to write, such as ``benchmarks/results/<name>``.
        command: what was called; stands in the result.
    """
    files = texts(render.markdown(table), render.to_csv(table), summary(config, folder, table, command))
    write_all(out, {f"results.{suffix}": text for suffix, text in files.items()})


def texts(markdown: str, lines: str, content: Mapping[str, Any]) -> dict[str, str | bytes]:
    """A result by suffix: as Markdown, which ends with what repeats it, as CSV, as JSON.

    Args:
        markdown: the result for reading.
        lines: the result as CSV.
        content: of :func:`plain_values`.
    """
    command, minutes = content["command"], content["training_seconds"] / 60
    origin = f"\nCommand: `{command}` ({minutes:.0f} minutes of cell time).\n" if command else ""
    return {"md": markdown + origin, "csv": lines, "json": json.dumps(content, indent=2) + "\n"}


def summary(config: BenchConfig, folder: Path, table: Table, command: str) -> dict[str, Any]:
    """The result as plain values: command, config, versions, machine, seeds, time, and every row's scores."""
    rows = []
    for row in table.rows:
        scores = {
            name: {
                "miou": asdict(score.miou), "delta": asdict(score.to_source_only),
                "control_delta": None if score.to_control is None else asdict(score.to_control),
                "gap_closed": asdict(score.gap_closed), "frequent_miou": asdict(score.frequent),
                "verdict": score.verdict, "adapted_on_scored": score.adapted_on_scored, "by_seed": score.by_seed,
                "means": {mean: asdict(estimate) for mean, estimate in score.means.items()},
            }
            for name, score in row.scores.items()
        }  # fmt: skip
        plain_keys = (
            "name", "methods", "baseline", "control", "added", "seeds", "steps", "seconds_per_step", "peak_memory",
        )  # fmt: skip
        rows.append({**{key: getattr(row, key) for key in plain_keys}, "scores": scores})
    own = {
        "rows": rows, "ties": table.ties.groups if table.ties else [],
        "learning_curve": None if table.learning is None else table.learning.plain(), "labelled": table.labelled,
    }  # fmt: skip
    return plain_values(table, config, render.opening(table), command, config.seeds, [(config, folder)], own)


def plain_values(
    result: Measured,
    config: BenchConfig | MatrixConfig | FactorialConfig,
    opening: Sequence[str],
    command: str,
    seeds: Sequence[int],
    benchmarks: Iterable[tuple[BenchConfig, Path]],
    own: Mapping[str, Any],
) -> dict[str, Any]:
    """A result as plain values: what all kinds of them say, with a kind's own between.

    Args:
        result: a table, a matrix or a study.
        config: of which it is.
        opening: sentences that stand before it.
        command: what repeats it.
        seeds: that it holds for.
        benchmarks: that it is made of, each with its folder; the time of their finished cells is summed.
        own: what results of another kind do not have.
    """
    cells = [read_result(folder / cell.name) for benchmark, folder in benchmarks for cell in make_plan(benchmark)]
    content = {
        "name": result.name, "headline": opening, "command": command, "date": result.date, "commits": result.commits,
        "machine": result.machine, "versions": result.versions, "seeds": seeds,
        "training_seconds": sum(cell["seconds"] for cell in cells if cell is not None),
        **own, "notes": result.notes, "config": config.resolved(),
    }  # fmt: skip
    plain: dict[str, Any] = finite(content)
    return plain


def finite(value: Any) -> Any:
    """NaN and infinity -> ``None``: JSON has neither."""
    if isinstance(value, dict):
        return {key: finite(child) for key, child in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(child) for child in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
