"""How many seeds a difference needs, before a benchmark is run: from the noise of cells, or of a like record."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from uda.bench.intervals import Noise, detectable_difference, seeds_needed
from uda.bench.rows import rows_of
from uda.bench.table import Table, make_table
from uda.config import BenchConfig, ConfigError


@dataclass(frozen=True)
class Forecast:
    """What one row's difference to its control takes to be seen on the target, looked at alone, four times in five."""

    row: str
    control: str
    measured: bool
    """Whether the noise is this row's own; otherwise it is the median of the rows that have one."""
    least_now: float
    """Smallest difference that the config's number of seeds shows."""
    seeds: float
    """Seeds that the wanted difference takes; infinity where these images never show it."""
    least_ever: float
    """Smallest difference that these images show with any number of seeds."""


def forecast(config: BenchConfig, noises: Mapping[str, Noise], difference: float) -> list[Forecast]:
    """What every row of a config takes to show a difference on the target.

    Args:
        config: the benchmark.
        noises: of differences to controls, by row, of two seeds or more (:func:`measured_noises`).
        difference: mIoU in [0, 1].

    Raises:
        ConfigError: no noise is known.
        ValueError: the difference is not above 0.
    """
    if not difference > 0:
        raise ValueError(f"difference is {difference}, must be above 0")
    known = {name: noise for name, noise in noises.items() if noise.seeds > 1 and noise.image_df}
    if not known:
        raise ConfigError(
            f"{config.name}: no two seeds of a row and of its control are done, so the noise is not known; run two "
            "seeds of some rows first, or give the recorded results.json of a like benchmark"
        )
    typical = _typical(list(known.values()))
    rows = []
    for name, row in rows_of(config).items():
        if row.control is None:
            continue
        noise, seeds = known.get(name, typical), max(2, len(config.seeds))
        rows.append(
            Forecast(
                row=name,
                control=row.control,
                measured=name in known,
                least_now=detectable_difference(noise, seeds),
                seeds=seeds_needed(noise, difference),
                least_ever=detectable_difference(noise, math.inf),
            )
        )
    return rows


def _typical(noises: list[Noise]) -> Noise:
    """The noise of a row that nobody has measured: medians, of one seed's variance and of the rest."""
    middle = sorted(noises, key=lambda noise: noise.seed * noise.seeds)[len(noises) // 2]
    return Noise(
        seeds=middle.seeds,
        seed=middle.seed,
        seed_df=middle.seed_df,
        image=median(noise.image for noise in noises),
        image_df=median(noise.image_df for noise in noises),
    )


def measured_noises(config: BenchConfig, folder: Path, like: Path | None = None) -> tuple[dict[str, Noise], str]:
    """The noise of a benchmark's finished cells or, with ``like``, of recorded ones; and where it is from.

    Args:
        config: the benchmark.
        folder: its runs, which need not be there.
        like: ``results.json`` of a recorded benchmark on like data.

    Raises:
        ConfigError: ``like`` is no such file.
    """
    if like is not None:
        return noises_of_file(like), str(like)
    return noises_of_table(make_table(config, folder)), str(folder)


def noises_of_table(table: Table) -> dict[str, Noise]:
    """By row: the noise of the difference to its control on the target."""
    noises = {}
    for row in table.rows:
        control = row.scores["target"].to_control
        if control is not None and control.estimate.noise is not None:
            noises[row.name] = control.estimate.noise
    return noises


def noises_of_file(path: Path) -> dict[str, Noise]:
    """The same of a recorded ``results.json``.

    Raises:
        ConfigError: it is not there, or none.
    """
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
        differences = {row["name"]: row["scores"]["target"]["control_delta"] for row in rows}
        recorded = {name: (value or {}).get("estimate", {}).get("noise") for name, value in differences.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ConfigError(f"{path}: no results.json of a recorded benchmark ({reason})") from None
    return {name: Noise(**noise) for name, noise in recorded.items() if noise is not None}
