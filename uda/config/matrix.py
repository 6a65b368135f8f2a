"""Cross-data-set matrices as configs: train on each of several data sets and on all, score every one on every one.

A matrix is made of ordinary benchmarks (:meth:`MatrixConfig.parts`), one for each pair of data sets that something is
trained on or adapted between, and one for all together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import permutations
from typing import Any, Literal

from pydantic import BaseModel, Field, field_validator, model_validator

from uda.config.names import check_different, check_name, check_row
from uda.config.records import (
    ORACLE,
    SOURCE_ONLY,
    BenchConfig,
    CurvesSpec,
    DatasetSpec,
    EvaluateSpec,
    MethodEntry,
    StreetsSpec,
    named,
)
from uda.config.runs import SUPERVISED
from uda.data.balance import Balance
from uda.engine.settings import Closed, Settings
from uda.registry import nearest

KIND = "matrix"
"""``kind:`` of such a config; no other has the key."""


def is_matrix(content: Mapping[str, Any]) -> bool:
    """Whether a config's content is one of a matrix."""
    return "kind" in content


class MatrixDomain(Closed):
    """A data set that is trained on and scored on."""

    train: DatasetSpec
    """Labelled training images; where it is an adaptation row's target, its labels are not read."""
    val: DatasetSpec
    """Labelled images that are scored, by nothing else."""

    @field_validator("train", "val")
    @classmethod
    def _without_weight(cls, value: DatasetSpec) -> DatasetSpec:
        if value.weight != 1:
            raise ValueError("weight: how often a data set is drawn stands under combined.weights")
        return value


class CombinedSpec(Closed):
    """The row that trains on all data sets together, for as many steps as the others."""

    balance: Balance = "domain"
    """Draw every data set equally often (``domain``), whatever its size, every image (``image``), or every data set as
    often as ``weights`` say."""
    weights: dict[str, float] = Field(default={})
    """Domain -> how often it is drawn, in any unit; all of them, and with ``balance: weight`` alone."""

    @model_validator(mode="after")
    def _weights_with_weight(self) -> CombinedSpec:
        if bool(self.weights) != (self.balance == "weight"):
            raise ValueError(f"weights go with balance: weight, got balance: {self.balance} and weights {self.weights}")
        for name, weight in self.weights.items():
            if not 0 < weight < float("inf"):
                raise ValueError(f"weights.{name}: must be above 0 and finite, got {weight}")
        return self


class AdaptationEntry(MethodEntry):
    """An adaptation row, which stands in place of plain training; a benchmark's row and these keys."""

    source: str | None = None
    """Domain whose labels are trained on; by default each in turn."""
    target: str | None = None
    """Domain that is adapted to, without labels; by default each other in turn."""


@dataclass(frozen=True)
class Part:
    """One benchmark of a matrix: what is trained on one data set, or on all."""

    config: BenchConfig
    trained_on: tuple[str, ...]
    """Domains whose labels are trained on."""
    target: str
    """Domain that its adaptation rows adapt to."""
    plain: bool
    """Whether its source-only row is the matrix' row of plain training on these; another part has it otherwise."""
    columns: dict[str, str]
    """Domain of the matrix -> its name in the benchmark."""
    written: dict[str, str] = field(repr=False)
    """Key of the benchmark -> key of the matrix' config that says it."""


class MatrixConfig(Closed):
    """A matrix: train on each data set and on all together, score each on all."""

    kind: Literal["matrix"]
    """Tells it from a benchmark of one shift."""
    name: str
    """Names the folder of its benchmarks."""
    space: str | dict[str, Any]
    """Label space that everything is trained and scored in, as a benchmark's."""
    domains: dict[str, MatrixDomain] = Field(min_length=2)
    """Data sets that are trained on and scored on, by the name they get in the matrix."""
    unseen: dict[str, DatasetSpec] = Field(default={})
    """Labelled data sets that are scored and never trained on, by name."""
    streets: StreetsSpec | None = None
    """Procedural data to write first; ``${streets}`` stands for its folder."""
    model: dict[str, Any] = Field(default={})
    """Arguments of :func:`uda.models.build_model`, without the number of classes."""
    settings: Settings
    """Of every training, whatever it trains on."""
    warm_start: Settings | None = None
    """Source-only training that all rows of a source and seed start from, as a benchmark's."""
    seeds: list[int] = Field(default=[0, 1, 2], min_length=1)
    """Every row is trained once with each."""
    combined: CombinedSpec | None = CombinedSpec()
    """The row that trains on all domains together; ``false``: none."""
    rows: dict[str, AdaptationEntry] = Field(default={})
    """Adaptation rows by name: a list of methods, ``{preset: ..}`` or a row of a benchmark, with ``source`` and
    ``target`` where not all directions are meant."""
    controls: bool = False
    """Add the rows that adaptation rows are judged by, which pass the same images and learn from the source alone; by
    default they are compared to plain training."""
    evaluate: EvaluateSpec = EvaluateSpec()
    """How every row is scored; ``domains`` has the names of the matrix."""
    curves: CurvesSpec | None = CurvesSpec()
    """Scores along the way, as a benchmark's."""
    resamples: int = Field(default=2000, ge=100)
    """Of the bootstrap behind the intervals."""

    @field_validator("combined", "curves", mode="before")
    @classmethod
    def _switch(cls, value: Any, info: Any) -> Any:
        on: type[BaseModel] = CombinedSpec if info.field_name == "combined" else CurvesSpec
        return (on() if value else None) if isinstance(value, bool) else value

    @model_validator(mode="after")
    def _names(self) -> MatrixConfig:
        named("name", check_name, self.name)
        if len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise ValueError(f"seeds must be different and not negative, got {self.seeds}")
        for key, names in (("domains", self.domains), ("unseen", self.unseen)):
            for name in names:
                named(f"{key}.{name}", check_name, name)
                if name in ("source", "target"):
                    raise ValueError(f"{key}.{name}: every domain is source and target in turn; choose another")
        named("domains", check_different, self.columns)
        if len(self.columns) < len(self.domains) + len(self.unseen):
            both = set(self.domains) & set(self.unseen)
            raise ValueError(f"unseen: {both.pop()!r} is the name of a domain that is trained on; choose another")
        for name in self.rows:
            named(f"rows.{name}", check_row, name)
            if name in (SOURCE_ONLY, ORACLE, *self.columns, self.combined_name):
                raise ValueError(f"rows.{name}: is the name of plain training, or of a domain; choose another")
        named("rows", check_different, self.rows)
        named("domains", check_different, [part for part, *_ in self._pairs()] + [self.combined_name])
        return self

    @model_validator(mode="after")
    def _known_domains(self) -> MatrixConfig:
        for name, row in self.rows.items():
            for key in ("source", "target"):
                if (domain := getattr(row, key)) is not None and domain not in self.domains:
                    raise ValueError(f"rows.{name}.{key}: no domain {domain!r}; {nearest(domain, self.domains)}")
            if row.source is not None and row.source == row.target:
                raise ValueError(f"rows.{name}: adapts {row.source} to itself; source and target must differ")
        for path, domains in [("evaluate", self.evaluate.domains)] + [
            (f"rows.{name}.evaluate", row.evaluate.get("domains") or {}) for name, row in self.rows.items()
        ]:
            for domain in domains:
                if domain not in self.columns:
                    raise ValueError(f"{path}.domains: no domain {domain!r}; {nearest(domain, self.columns)}")
        if self.combined is not None and self.combined.weights and set(self.combined.weights) != set(self.domains):
            weights = ", ".join(self.combined.weights)
            raise ValueError(f"combined.weights: one for each of {', '.join(self.domains)} is needed, got {weights}")
        return self

    @property
    def columns(self) -> dict[str, DatasetSpec]:
        """What every row is scored on, by domain: those that are trained on, then the unseen."""
        return {**{name: domain.val for name, domain in self.domains.items()}, **self.unseen}

    @property
    def combined_name(self) -> str:
        """The name of training on all domains, and its benchmark's."""
        return "+".join(self.domains)

    def parts(self) -> list[Part]:
        """The benchmarks that it is made of: pair by pair, then all together."""
        parts = [self._pair(*pair) for pair in self._pairs()]
        return parts + ([self._combination(self.combined)] if self.combined is not None else [])

    def resolved(self) -> dict[str, Any]:
        """Plain values that :func:`load_matrix` reads back to an equal config."""
        content = self.model_dump(mode="json")
        for key in ("settings", "warm_start"):
            if content[key]:
                content[key].pop("seed")
        return content

    def _pairs(self) -> Iterator[tuple[str, str, str, bool]]:
        """(name, source, target, whether the plain row of the source is in it) of each pair that is needed."""
        hosts: set[str] = set()
        for source, target in permutations(self.domains, 2):
            plain = source not in hosts  # with the first other domain, so that further rows leave it where it is
            hosts.add(source)
            if plain or self._rows_of(source, target):
                yield f"{source}_to_{target}", source, target, plain

    def _rows_of(self, source: str, target: str) -> dict[str, AdaptationEntry]:
        return {
            name: row
            for name, row in self.rows.items()
            if row.source in (None, source) and row.target in (None, target)
        }

    def _pair(self, name: str, source: str, target: str, plain: bool) -> Part:
        rows = self._rows_of(source, target)
        own = {
            "name": name,
            "source": [self.domains[source].train],
            "methods": {
                row: entry.model_dump(mode="json", exclude={"source", "target"}) for row, entry in rows.items()
            },
        }
        return self._part(own, (source,), target, plain, {"source": f"domains.{source}.train"})

    def _combination(self, combined: CombinedSpec) -> Part:
        sources = [
            domain.train.model_copy(update={"weight": combined.weights.get(name, 1.0)})
            for name, domain in self.domains.items()
        ]
        own = {"name": self.combined_name, "source": sources, "balance": combined.balance, "methods": {}}
        written = {f"source.{at}": f"domains.{name}.train" for at, name in enumerate(self.domains)}
        first, second = list(self.domains)[:2]
        return self._part(own, tuple(self.domains), second, True, {**written, "balance": "combined.balance"}, first)

    def _part(
        self,
        own: dict[str, Any],
        trained_on: tuple[str, ...],
        target: str,
        plain: bool,
        written: dict[str, str],
        source: str | None = None,
    ) -> Part:
        source = source or trained_on[0]
        columns = {name: {source: "source", target: "target"}.get(name, name) for name in self.columns}
        where = {name: f"domains.{name}.val" if name in self.domains else f"unseen.{name}" for name in self.columns}
        methods = {
            name: {**row, "evaluate": _renamed(row["evaluate"], columns)} for name, row in own.pop("methods").items()
        }
        common = self.model_dump(
            include={"space", "streets", "model", "seeds", "controls", "curves", "resamples"}, mode="json"
        )
        config = BenchConfig.model_validate({
            **common,
            **own,
            "settings": self.settings, "warm_start": self.warm_start, "oracle": None,
            "source_val": self.domains[source].val,
            "target": self.domains[target].train, "target_val": self.domains[target].val,
            "unseen": {name: spec for name, spec in self.columns.items() if name not in (source, target)},
            "methods": {SOURCE_ONLY: {"methods": [{SUPERVISED: {}}]}, **methods},
            "evaluate": _renamed(self.evaluate.model_dump(), columns),
        })  # fmt: skip
        keys = {"source": f"{source}", "target": f"{target}"}
        written = {
            **written,
            **{f"{key}_val": where[name] for key, name in keys.items()},
            "target": f"domains.{target}.train",
            **{f"unseen.{name}": where[name] for name in config.unseen},
            **{f"methods.{name}": f"rows.{name}" for name in methods},
        }
        return Part(config, trained_on, target, plain, columns, written)


def _renamed(evaluate: dict[str, Any], columns: dict[str, str]) -> dict[str, Any]:
    """``evaluate`` with the domains' names in the benchmark."""
    if not evaluate.get("domains"):
        return evaluate
    return {**evaluate, "domains": {columns[name]: options for name, options in evaluate["domains"].items()}}
