"""What a benchmark has to do: one cell a method and seed, what each depends on, and which of them is done."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, Literal

from uda.bench.rows import PlannedRow, rows_of
from uda.config import SOURCE_ONLY, BenchConfig, ConfigError
from uda.config.names import WARM_START as WARM_START
from uda.data.identity import digest
from uda.engine.settings import Settings
from uda.functional.sampling import evenly_spaced

RESULT = "result.json"
"""A cell's done marker: written last, whole or not at all."""
DESCRIPTION = "cell.json"
"""What a cell's folder holds, written before the first step."""
CONFIG = "config.yaml"
"""The benchmark's config, as it was when the cell was last worked on."""
PICTURES = 3
"""Images of each domain whose predictions are kept for the report."""
ERROR = "error.txt"
"""The traceback of a cell that failed."""
WARM_SEED = 1_000_003
"""Added to the seed of a warm start, so that source-only does not see its first batches a second time."""


@dataclass(frozen=True)
class Cell:
    """One unit of work, with everything that its result depends on."""

    method: str
    seed: int
    kind: Literal["warm_start", "train", "test_time"]
    training: dict[str, Any] = field(hash=False)
    """How the weights are made, as the config says it."""
    scoring: dict[str, dict[str, Any]] = field(hash=False)
    """By domain: how it is scored."""
    settings: Settings | None = field(default=None, hash=False)
    """Of the training run; ``None`` where there is none."""
    needs: tuple[str, ...] = ()
    """Names of the cells whose checkpoint this one starts from."""

    @property
    def name(self) -> str:
        """``method/seedK``, also its folder inside the benchmark's."""
        return f"{self.method}/seed{self.seed}"


def make_plan(
    config: BenchConfig, methods: Collection[str] | None = None, seeds: Collection[int] | None = None
) -> list[Cell]:
    """The cells of a benchmark, each after those it needs.

    Args:
        config: the benchmark.
        methods: only these rows, and what they start from; all by default.
        seeds: only these; need not be among the config's.

    Raises:
        ConfigError: a row that the config does not have.
    """
    rows = rows_of(config)
    for name in methods or ():
        if name not in rows:
            raise ConfigError(f"{config.name} has no row {name!r}; known: {', '.join(rows)}")
    cells: dict[str, Cell] = {}
    for seed in config.seeds if seeds is None else seeds:
        for row in rows.values():
            if methods is None or row.name in methods:
                _add(cells, config, rows, row, seed)
    ordered = sorted(cells.values(), key=lambda cell: (cell.kind != "warm_start", cell.kind == "test_time"))
    return ordered


def _add(cells: dict[str, Cell], config: BenchConfig, rows: dict[str, PlannedRow], row: PlannedRow, seed: int) -> Cell:
    name, entry = row.name, row.entry
    if (known := cells.get(f"{name}/seed{seed}")) is not None:
        return known
    scoring = _scoring(config, row)
    if entry.trains:
        model = entry.model if entry.model is not None else config.model
        settings = Settings.model_validate({**config.settings.model_dump(), **entry.settings, "seed": seed})
        warm = _warm_start(cells, config, model, seed)
        training = {
            **_common(config, model, settings),
            "target": config.target.model_dump(mode="json"),
            "methods": entry.methods,
            "labels": row.labels,
            "warm_start": warm.name if warm else None,
        }
        if entry.target_labels is not None:
            training["target_labels"] = entry.target_labels.model_dump(mode="json")
        cell = Cell(name, seed, "train", training, scoring, settings, (warm.name,) if warm else ())
    else:
        base = _add(cells, config, rows, rows[SOURCE_ONLY], seed)
        cell = Cell(name, seed, "test_time", {"base": base.name}, scoring, None, (base.name,))
    cells[cell.name] = cell
    return cell


def _warm_start(cells: dict[str, Cell], config: BenchConfig, model: dict[str, Any], seed: int) -> Cell | None:
    if config.warm_start is None:
        return None
    settings = config.warm_start.model_copy(update={"seed": seed + WARM_SEED})
    name = WARM_START if model == config.model else f"{WARM_START}-{digest(model)[:8]}"
    source_only = config.methods[SOURCE_ONLY].methods
    cell = Cell(name, seed, "warm_start", {**_common(config, model, settings), "methods": source_only}, {}, settings)
    return cells.setdefault(cell.name, cell)


def _common(config: BenchConfig, model: dict[str, Any], settings: Settings) -> dict[str, Any]:
    return {
        "space": config.space,
        "source": [spec.model_dump(mode="json") for spec in config.source],
        "model": model,
        "settings": settings.model_dump(mode="json"),
    }


def _scoring(config: BenchConfig, row: PlannedRow) -> dict[str, dict[str, Any]]:
    spec = config.evaluate_of(row.entry)
    return {
        domain: {"test_time": row.entry.test_time, "evaluate": spec.on(domain).model_dump(mode="json")}
        for domain in config.domains
    }


def picture_indices(number: int) -> list[int]:
    """Which images of a data set of this size are shown in the report."""
    return evenly_spaced(number, PICTURES)
