"""Run the runs of a study, side by side, as ``uda bench`` runs any."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Unpack

from uda.bench.factorial.table import Study, make_study
from uda.bench.run import RunOptions, run_together
from uda.config import FactorialConfig, load_factorial


@dataclass
class FactorialResult:
    """What a call of :func:`run_factorial` did."""

    config: FactorialConfig
    folder: Path
    study: Study
    """Of every finished run in the folder, of this call or an earlier one."""
    failed: dict[str, str] = field(default_factory=dict)
    """Cells that failed, with the reason in one line; their names are folders below ``folder``."""


def run_factorial(
    config: FactorialConfig | Path | str | Mapping[str, Any],
    *,
    out: Path | str = "runs",
    roots: Mapping[str, str] | None = None,
    rows: Collection[str] | None = None,
    seeds: Collection[int] | None = None,
    **options: Unpack[RunOptions],
) -> FactorialResult:
    """Run what is missing of a study and estimate its effects; what :func:`uda.bench.run` says of cells holds for it.

    Args:
        config: a config, or what :func:`uda.config.load_factorial` reads.
        out: the runs go to ``out/<config name>/<run>/seed<k>``.
        roots: values of the config's ``${name}`` variables.
        rows: only these runs: ``source_only`` (all factors low), ``run02``, ...
        seeds: only these.
        options: ``workers``, ``processes``, ``fresh``, ``extend``, ``report``, ``progress`` and ``engine``, as of
            :func:`uda.bench.run`.

    Raises:
        ConfigError: the config is wrong, or cells of another config are in the way.
        DataError: a data set is missing or damaged.
        KeyboardInterrupt: passed on; finished cells and checkpoints stay.
    """
    config = config if isinstance(config, FactorialConfig) else load_factorial(config, roots)
    chosen = rows or [run.name for run in config.runs()]
    (result,) = run_together([(config.benchmark(), chosen)], out=out, seeds=seeds, prefixed=False, **options)
    return FactorialResult(config, result.folder, make_study(config, result.folder, seeds), result.failed)
