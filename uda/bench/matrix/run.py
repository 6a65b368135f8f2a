"""Run the benchmarks of a matrix, their cells side by side, as ``uda bench`` runs any."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Unpack

from uda.bench.matrix.table import Matrix, make_matrix
from uda.bench.rows import rows_of
from uda.bench.run import BenchResult, RunOptions, run_together
from uda.config import SOURCE_ONLY, BenchConfig, ConfigError, MatrixConfig, load_matrix
from uda.config.matrix import Part
from uda.registry import nearest


@dataclass
class MatrixResult:
    """What a call of :func:`run_matrix` did."""

    config: MatrixConfig
    folder: Path
    matrix: Matrix
    """Of every finished cell in the folder, of this call or an earlier one."""
    parts: list[BenchResult] = field(default_factory=list)
    """Of the benchmarks that this call worked on."""
    failed: dict[str, str] = field(default_factory=dict)
    """Cells that failed, with the reason in one line; their names are folders below ``folder``."""


def run_matrix(
    config: MatrixConfig | Path | str | Mapping[str, Any],
    *,
    out: Path | str = "runs",
    roots: Mapping[str, str] | None = None,
    rows: Collection[str] | None = None,
    seeds: Collection[int] | None = None,
    **options: Unpack[RunOptions],
) -> MatrixResult:
    """Run what is missing of a matrix and tabulate it; what :func:`uda.bench.run` says of cells holds for these.

    Args:
        config: a config, or what :func:`uda.config.load_matrix` reads.
        out: the runs go to ``out/<config name>/<source>_to_<target>/<method>/seed<k>`` and
            ``out/<config name>/<all domains, joined by +>/source_only/seed<k>``.
        roots: values of the config's ``${name}`` variables.
        rows: only these: a domain's name (plain training on it), all joined by ``+``, an adaptation row's name.
        seeds: only these.
        options: ``workers``, ``processes``, ``fresh``, ``extend``, ``report``, ``progress`` and ``engine``, as of
            :func:`uda.bench.run`.

    Raises:
        ConfigError: the config is wrong, or cells of another config are in the way.
        DataError: a data set is missing or damaged.
        KeyboardInterrupt: passed on; finished cells and checkpoints stay.
    """
    config = config if isinstance(config, MatrixConfig) else load_matrix(config, roots)
    folder = Path(out) / config.name
    results = run_together(benchmarks_of(config, rows), out=folder, seeds=seeds, **options)
    failed = {f"{part.config.name}/{cell}": why for part in results for cell, why in part.failed.items()}
    return MatrixResult(config, folder, make_matrix(config, folder, seeds), results, failed)


def benchmarks_of(
    config: MatrixConfig, rows: Collection[str] | None = None
) -> list[tuple[BenchConfig, list[str] | None]]:
    """The benchmarks of a matrix, each with the rows of it that are asked for (``None``: all).

    Raises:
        ConfigError: a row that the matrix does not have.
    """
    known = [*config.domains, *([config.combined_name] if config.combined is not None else []), *config.rows]
    for name in rows or ():
        if name not in known:
            raise ConfigError(f"{config.name} has no row {name!r}; {nearest(name, known)}")
    chosen = [(part.config, _methods(part, rows)) for part in config.parts()]
    return [(benchmark, methods) for benchmark, methods in chosen if methods is None or methods]


def _methods(part: Part, rows: Collection[str] | None) -> list[str] | None:
    """The rows of a benchmark that are to be run; ``None``: all that it has."""
    if rows is None:
        others = [name for name in rows_of(part.config) if name != SOURCE_ONLY]
        return None if part.plain else others
    plain = [SOURCE_ONLY] if part.plain and "+".join(part.trained_on) in rows else []
    return plain + [name for name in part.config.methods if name in rows]
