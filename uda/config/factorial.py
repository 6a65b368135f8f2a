"""Studies of augmentation and regularisation as configs: factors at two levels, in a designed set of runs.

A study is made of one ordinary benchmark (:meth:`FactorialConfig.benchmark`), whose rows are the runs of the design
(:mod:`uda.config.designs`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from uda.config.content import changed_at
from uda.config.designs import MOST, Design, make_design
from uda.config.names import check_different, check_name
from uda.config.records import (
    SOURCE_ONLY,
    BenchConfig,
    CurvesSpec,
    DatasetSpec,
    EvaluateSpec,
    StreetsSpec,
    named,
)
from uda.config.runs import SUPERVISED
from uda.config.specs import Spec, build_method
from uda.data.balance import Balance
from uda.engine.settings import Closed, Settings
from uda.methods.base import Method
from uda.registry import nearest, short

KIND = "factorial"
"""``kind:`` of such a config."""
PLACES = ("settings", "model")
"""What a factor may change beside the methods' arguments."""
LEVELS = ("low", "high")


class Factor(Closed):
    """Something that is varied: entries of the config by dotted key, with their values at two levels.

    ``{low: {settings.augment.flip: 0}, high: {settings.augment.flip: 0.5}}``. A key begins with ``settings``, ``model``
    or a method's name (``Supervised.label_smoothing``).
    """

    low: dict[str, Any] = Field(min_length=1)
    """How the config is where the factor is at its low level: usually off."""
    high: dict[str, Any] = Field(min_length=1)
    """And at its high level; the same keys."""

    @model_validator(mode="after")
    def _two_levels(self) -> Factor:
        if set(self.low) != set(self.high):
            raise ValueError(
                f"low and high must set the same keys, got {', '.join(self.low)} and {', '.join(self.high)}"
            )
        if self.low == self.high:
            raise ValueError(f"low and high are the same, {short(self.low)}")
        return self

    def at(self, high: bool) -> dict[str, Any]:
        """The changes of a level."""
        return self.high if high else self.low


class DesignSpec(Closed):
    """Which runs there are: so many, or the fewest of a resolution."""

    runs: int | None = None
    """4, 8, 16, 32 or 64; by default the fewest that have the resolution."""
    resolution: int | None = Field(default=None, ge=3, le=7)
    """3 mixes main effects up with interactions of two factors, 4 these with each other, 5 neither; 4 where ``runs`` is
    not given either."""

    @model_validator(mode="after")
    def _one_of_both(self) -> DesignSpec:
        if self.runs is not None and self.resolution is not None:
            raise ValueError("runs or resolution, not both: the runs' design has the highest resolution there is")
        return self


@dataclass(frozen=True)
class StudyRun:
    """One run of a design."""

    name: str
    """Of the benchmark's row."""
    levels: dict[str, bool] = field(hash=False)
    """Factor -> whether it is at its high level."""


class FactorialConfig(Closed):
    """A study: what several factors do to the score, from runs in which all of them vary at once."""

    kind: Literal["factorial"]
    """Tells it from a benchmark of one shift."""
    name: str
    """Names the folder of its runs."""
    factors: dict[str, Factor] = Field(min_length=2, max_length=MOST)
    """What is varied, by name; each at two levels."""
    design: DesignSpec = DesignSpec()
    """Which combinations of the levels are run."""
    space: str | dict[str, Any]
    """Label space, as a benchmark's."""
    source: list[DatasetSpec] = Field(min_length=1)
    """Labelled training images, as a benchmark's."""
    balance: Balance = "image"
    """How often each of several source data sets is drawn, as a benchmark's."""
    source_val: DatasetSpec
    """Labelled source images that are scored."""
    target: DatasetSpec
    """Images of the other domain; only methods that adapt train on them."""
    target_val: DatasetSpec
    """Labelled target images that are scored."""
    unseen: dict[str, DatasetSpec] = Field(default={})
    """Further domains that are scored."""
    streets: StreetsSpec | None = None
    """Procedural data to write first; ``${streets}`` stands for its folder."""
    model: dict[str, Any] = Field(default={})
    """Arguments of :func:`uda.models.build_model`, without the number of classes."""
    settings: Settings
    """Of every run, but for what the factors change."""
    methods: list[Spec] = Field(default=[{SUPERVISED: {}}], min_length=1)
    """Of every run, but for what the factors change. A method that a factor turns on stands here with weight 0."""
    seeds: list[int] = Field(default=[0, 1, 2], min_length=1)
    """Every run of the design is trained once with each."""
    evaluate: EvaluateSpec = EvaluateSpec()
    """How every run is scored."""
    curves: CurvesSpec | None = None
    """Scores along the way, as a benchmark's; none by default."""
    resamples: int = Field(default=2000, ge=100)
    """Of the bootstrap behind the intervals."""

    @field_validator("curves", mode="before")
    @classmethod
    def _switch(cls, value: Any) -> Any:
        return (CurvesSpec() if value else None) if isinstance(value, bool) else value

    @model_validator(mode="after")
    def _factors(self) -> FactorialConfig:
        for name in self.factors:
            named(f"factors.{name}", check_name, name)
        named("factors", check_different, self.factors)
        named("design", lambda _: self.plan, self.design)
        taken: dict[str, str] = {}
        for name, factor in self.factors.items():
            for key in factor.low:
                self._see_that_it_is_a_place(name, key)
                other = next((known for known in taken if _overlap(key, known)), None)
                if other is not None:
                    raise ValueError(f"factors.{name}: changes {key}, as factor {taken[other]} does")
            taken |= dict.fromkeys(factor.low, name)
        return self

    def _see_that_it_is_a_place(self, factor: str, key: str) -> None:
        head, *rest = key.split(".")
        places = [*PLACES, *self._method_names]
        if head not in places:
            raise ValueError(f"factors.{factor}: no place {short(key)} to change; {nearest(head, places)}")
        if not rest or not all(rest):
            raise ValueError(f"factors.{factor}: {short(key)} is no entry; write {head}.NAME")
        if rest[0] in ("steps", "seed") and head == "settings":
            raise ValueError(f"factors.{factor}: {key} is the same for all runs of a study")

    @property
    def plan(self) -> Design:
        """The design."""
        return make_design(list(self.factors), self.design.runs, self.design.resolution or 4)

    @property
    def adapts(self) -> bool:
        """Whether a method trains on target images; source-only is then a row of its own beside the runs."""
        built = [build_method(spec) for spec in self.methods]
        return any(isinstance(method, Method) and method.needs_target for method in built)

    def runs(self) -> list[StudyRun]:
        """The runs of the design; the first has all factors at their low level, and is ``source_only``."""
        every = self.plan.levels()
        digits = len(str(len(every)))
        names = [f"run{number:0{digits}d}" for number in range(1, len(every) + 1)]
        if not self.adapts:
            names[0] = SOURCE_ONLY
        return [StudyRun(name, levels) for name, levels in zip(names, every, strict=True)]

    def changed(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """``settings``, ``model`` and ``methods`` as plain values, with some entries changed.

        Args:
            changes: by dotted key, as a factor's.

        Raises:
            ValueError: a key goes through something that is no mapping.
        """
        content: dict[str, Any] = {
            "settings": self.settings.model_dump(exclude={"seed"}),
            "model": dict(self.model),
            "methods": [dict(spec) for spec in self.methods],
        }
        for key, value in changes.items():
            path = key.split(".")
            if path[0] not in PLACES:
                path = ["methods", str(self._method_names.index(path[0])), *path]
            content = changed_at(content, path, value, key)
        return content

    def benchmark(self) -> BenchConfig:
        """The benchmark whose rows are the runs."""
        base = self.changed(self._changes(dict.fromkeys(self.factors, False)))
        methods: dict[str, Any] = {SOURCE_ONLY: {"methods": [{SUPERVISED: {}}]}}
        for run in self.runs():
            content = self.changed(self._changes(run.levels))
            settings = {key: value for key, value in content["settings"].items() if value != base["settings"][key]}
            model = None if content["model"] == base["model"] else content["model"]
            methods[run.name] = {"methods": content["methods"], "model": model, "settings": settings}
        common = self.model_dump(
            include={"name", "space", "balance", "source", "source_val", "target", "target_val", "unseen", "streets",
                     "seeds", "evaluate", "curves", "resamples"},
        )  # fmt: skip
        return BenchConfig.model_validate({
            **common, "settings": base["settings"], "model": base["model"], "methods": methods,
            "oracle": None, "controls": False,
        })  # fmt: skip

    def resolved(self) -> dict[str, Any]:
        """Plain values that :func:`load_factorial` reads back to an equal config."""
        content = self.model_dump(mode="json")
        content["settings"].pop("seed")
        return content

    def _changes(self, levels: Mapping[str, bool]) -> dict[str, Any]:
        return {key: value for name, high in levels.items() for key, value in self.factors[name].at(high).items()}

    @property
    def _method_names(self) -> Sequence[str]:
        return [next(iter(spec)) for spec in self.methods]


def _overlap(key: str, other: str) -> bool:
    """Whether one entry is the other or lies in it."""
    return f"{key}.".startswith(f"{other}.") or f"{other}.".startswith(f"{key}.")
