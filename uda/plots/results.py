"""What figures draw, read from a table, a finished benchmark or a recorded result."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from uda.bench.intervals import Estimate
from uda.bench.render import control_difference
from uda.bench.run import BenchResult
from uda.bench.table import Table
from uda.registry import nearest

Results = Table | BenchResult | Path | str
"""A benchmark's table, what :func:`uda.bench.run` gave, or the path of a recorded ``results.json`` or its folder."""


@dataclass(frozen=True)
class ShownScore:
    """One row on one domain, as fractions."""

    miou: Estimate
    to_control: Estimate
    """With the joint interval; unknown where there is no control."""
    to_source_only: Estimate
    verdict: str


@dataclass(frozen=True)
class Shown:
    """What a figure needs of a benchmark."""

    name: str
    rows: dict[str, dict[str, ShownScore]]
    """By row, then by domain."""

    def see_domain(self, domain: str) -> None:
        """Raise ``ValueError``, with the nearest known, where no row has the domain."""
        known = list(dict.fromkeys(name for scores in self.rows.values() for name in scores))
        if domain not in known:
            raise ValueError(f"{self.name}: no domain {domain!r}; {nearest(domain, known)}")


def read_shown(results: Results) -> Shown:
    """The numbers of a benchmark.

    Raises:
        ValueError: a path has no recorded result; the message names the file.
    """
    if isinstance(results, BenchResult):
        results = results.table
    if isinstance(results, Table):
        rows = {
            row.name: {
                name: ShownScore(score.miou, control_difference(score), score.to_source_only, score.verdict)
                for name, score in row.scores.items()
            }
            for row in results.rows
        }
        return Shown(results.name, rows)
    path = Path(results)
    return _read_json(path / "results.json" if path.is_dir() else path)


def _read_json(path: Path) -> Shown:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        rows = {
            row["name"]: {
                name: ShownScore(
                    _estimate(score["miou"]), _joint(score["control_delta"]), _estimate(score["delta"]),
                    score["verdict"],
                )
                for name, score in row["scores"].items()
            }
            for row in content["rows"]
        }  # fmt: skip
        return Shown(content["name"], rows)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: is no recorded result ({type(error).__name__}: {error})") from error


def _estimate(plain: dict[str, Any]) -> Estimate:
    value, low, high = (math.nan if plain[key] is None else float(plain[key]) for key in ("value", "low", "high"))
    return Estimate(value, low, high, image_noise_only=plain["image_noise_only"])


def _joint(plain: dict[str, Any] | None) -> Estimate:
    if plain is None:
        return Estimate(math.nan)
    return _estimate({**plain["estimate"], "low": plain["low"], "high": plain["high"]})
