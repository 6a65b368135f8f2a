"""What the finished cells of a benchmark's folder say, read back."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from uda.bench.identity import Identities
from uda.bench.intervals import ImageScores
from uda.bench.plan import WARM_START, make_plan
from uda.bench.stored import evaluation_file, read_result
from uda.config import BenchConfig, DatasetSpec, streets_folder
from uda.engine import Evaluation

FREQUENT = 0.01
"""A class is frequent in a domain if at least this share of its labelled pixels is of it."""


@dataclass(frozen=True)
class Domain:
    """One evaluation set, and which of its classes the means run over."""

    name: str
    data: str
    """The data set in a few words."""
    images: int
    class_names: tuple[str, ...]
    pixels: npt.NDArray[np.int64]
    """``(C,)`` labelled pixels of each class."""
    sequences: tuple[str, ...] = ()
    """Of each image, the recording that it is of; those of one are no independent samples. Empty where not known."""
    sizes: tuple[str, ...] = ()
    """The sizes of its images, such as ``96x192``; empty where not known."""
    procedural: bool = False
    """Whether its images are drawn by :mod:`uda.data.streets`, and not photographs."""
    label_map: tuple[str, ...] = ()
    """How the files' classes became these, one a line, where that is more than their names."""

    @property
    def labelled(self) -> npt.NDArray[np.bool_]:
        """``(C,)`` classes that occur in the labels: those of the mean."""
        return self.pixels > 0

    @property
    def frequent(self) -> npt.NDArray[np.bool_]:
        """``(C,)`` classes with at least 1 % of the labelled pixels."""
        return self.pixels >= max(1, FREQUENT * int(self.pixels.sum()))

    @property
    def groups(self) -> npt.NDArray[np.int64] | None:
        """``(n,)`` the number of each image's sequence; ``None``: every image is its own."""
        if len(set(self.sequences)) in (0, self.images):
            return None
        return np.asarray(np.unique(self.sequences, return_inverse=True)[1], dtype=np.int64)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a table, a matrix and a study of factors have in common."""

    name: str
    domains: tuple[Domain, ...]
    """The target first, then the source, then the others; of a matrix its columns. None without a finished cell."""
    notes: tuple[str, ...]
    """What a reader must know to trust the numbers, one statement a line."""
    versions: dict[str, str]
    machine: str
    date: str
    """Of the last finished cell, ISO 8601 in UTC; empty where it is not known."""
    commits: tuple[str, ...]
    """Of the code that the cells were measured with; none where it was installed."""

    @property
    def procedural(self) -> tuple[str, ...]:
        """The data sets whose images are drawn, and not photographs."""
        return tuple(domain.name for domain in self.domains if domain.procedural)


def origin_of(cells: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Versions, machine, date and commits of some cells' results, for :class:`Measured`."""
    first = cells[0] if cells else {}
    return {
        "versions": first.get("versions", {}),
        "machine": first.get("machine", ""),
        "date": max((result.get("date", "") for result in cells), default=""),
        "commits": tuple(sorted({result["commit"] for result in cells if result.get("commit")})),
    }


@dataclass(frozen=True)
class Results:
    """The finished cells of a config.

    Attributes:
        cells: by row and seed: the cell's ``result.json``.
        evaluations: by row, seed and domain.
        domains: the target first, then the source, then the others; none without a finished cell.
    """

    cells: dict[str, dict[int, dict[str, Any]]]
    evaluations: dict[str, dict[int, dict[str, Evaluation]]]
    domains: tuple[Domain, ...]

    @property
    def every(self) -> list[dict[str, Any]]:
        """The results of all cells."""
        return [result for by_seed in self.cells.values() for result in by_seed.values()]

    def scores(
        self, domain: Domain, *, classes: npt.NDArray[np.bool_] | None = None, draws: int, rows: Collection[str]
    ) -> ImageScores:
        """The scores of some rows on a domain, and every difference between them."""
        confusions: Mapping[str, Mapping[int, npt.NDArray[np.int64]]] = {
            row: {seed: scores[domain.name].confusions for seed, scores in self.evaluations[row].items()}
            for row in rows
        }
        return ImageScores(confusions, classes=classes, groups=domain.groups, draws=draws)


def read_results(config: BenchConfig, folder: Path, seeds: Collection[int] | None = None) -> Results:
    """Read every finished cell of a benchmark's folder; cells of another config do not enter.

    Args:
        config: the benchmark.
        folder: the benchmark's folder.
        seeds: further seeds than the config's.

    Raises:
        ValueError: cells were scored on different images.
    """
    planned = make_plan(config, seeds=sorted({*config.seeds, *(seeds or ())}))
    identities = Identities(config, planned)
    cells: dict[str, dict[int, dict[str, Any]]] = {}
    evaluations: dict[str, dict[int, dict[str, Evaluation]]] = {}
    for cell in planned:
        result = read_result(folder / cell.name)
        if cell.method.startswith(WARM_START) or result is None or not identities.is_done(cell, folder):
            continue
        cells.setdefault(cell.method, {})[cell.seed] = result
        evaluations.setdefault(cell.method, {})[cell.seed] = {
            domain: Evaluation.load(evaluation_file(folder / cell.name, domain)) for domain in cell.scoring
        }
    first = next((result for by_seed in cells.values() for result in by_seed.values()), {})
    order = ["target", "source", *config.unseen] if evaluations else []
    return Results(cells, evaluations, tuple(_domain(config, name, evaluations, first) for name in order))


def _domain(
    config: BenchConfig,
    name: str,
    evaluations: dict[str, dict[int, dict[str, Evaluation]]],
    result: dict[str, Any],
) -> Domain:
    every = [scores[name] for by_seed in evaluations.values() for scores in by_seed.values()]
    first = every[0]
    if any(evaluation.names != first.names for evaluation in every):
        raise ValueError(f"{config.name}: cells were scored on different images of {name!r}; run with --fresh")
    about = result.get("data", {}).get(name, {})
    return Domain(
        name,
        describe_data(config.domains[name]),
        len(first.names),
        first.class_names,
        first.confusion.sum(axis=1),
        tuple(about.get("sequences", ())),
        tuple(about.get("sizes", ())),
        "procedural" in about.get("origin", ()) or _is_of_streets(config, config.domains[name]),
        tuple(result.get("label_maps", {}).get(name, ())),
    )


def _is_of_streets(config: BenchConfig, spec: DatasetSpec) -> bool:
    """Whether a config has a domain's images drawn; older results do not say it."""
    if config.streets is None or "root" not in spec.arguments:
        return False
    return Path(spec.arguments["root"]).is_relative_to(streets_folder(config.streets))


def describe_data(spec: DatasetSpec) -> str:
    """A data set in a few words."""
    arguments = spec.arguments
    limit = f", first {arguments['limit']}" if arguments.get("limit") else ""
    return " ".join(str(part) for part in (spec.kind, arguments.get("split")) if part) + limit
