"""Searches as configs: a single run's config with a section that says what is varied and by what it is judged.

::

    source: {kind: cityscapes, root: data/cityscapes, split: train}
    source_val: {kind: cityscapes, root: data/cityscapes, split: val}
    target: {kind: folder, root: frames}
    method: [Supervised, {FDA: {beta: 0.01}}]
    settings: {steps: 2000}
    search:
      objective: source_miou
      trials: 30
      space:
        settings.lr: {low: 1.0e-5, high: 1.0e-3, log: true}
        settings.augment.flip: [0, 0.5]
        method.FDA.beta: {low: 0.005, high: 0.1, log: true}
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, ValidationError, field_validator, model_validator

from uda.config.content import read_content
from uda.config.names import as_name, check_name
from uda.config.reader import load_run
from uda.config.records import BenchConfig
from uda.config.runs import METHOD, is_run
from uda.config.specs import ConfigError
from uda.engine.settings import Closed
from uda.registry import nearest, short

SEARCH = "search"
"""The key that makes a run's config one of a search."""
OBJECTIVES: dict[str, Literal["maximize", "minimize"]] = {
    "source_miou": "maximize",
    "source_loss": "minimize",
    "target_entropy": "minimize",
    "target_confidence": "maximize",
    "target_sure": "maximize",
    "peeking_target_miou": "maximize",
}
"""By what trials can be judged; the last reads labels of the target, which nobody has who needs this library."""
PEEKING = "peeking_target_miou"
Objective = Literal[
    "source_miou", "source_loss", "target_entropy", "target_confidence", "target_sure", "peeking_target_miou"
]


class Range(Closed):
    """Numbers between two bounds; whole ones where both bounds are."""

    low: int | float
    """The smallest."""
    high: int | float
    """The largest, above ``low``."""
    log: bool = False
    """Draw the logarithm evenly, for rates and weights; both bounds are then above 0."""

    @model_validator(mode="after")
    def _in_order(self) -> Range:
        if not self.low < self.high:
            raise ValueError(f"low must be below high, got {self.low} and {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"log needs bounds above 0, got low {self.low}")
        return self

    @property
    def whole(self) -> bool:
        """Whether only whole numbers are meant."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def ends(self) -> list[Any]:
        """Values that are tried for being right before anything runs."""
        return [self.low, self.high]


class Choices(Closed):
    """Some values of any kind; a list alone is short for it."""

    choices: list[Any] = Field(min_length=2)
    """Different values."""

    @field_validator("choices")
    @classmethod
    def _different(cls, value: list[Any]) -> list[Any]:
        texts = [json.dumps(choice, sort_keys=True) for choice in value]
        if len(set(texts)) < len(texts):
            raise ValueError(f"choices must be different, got {value}")
        return value

    @property
    def ends(self) -> list[Any]:
        """Values that are tried for being right before anything runs."""
        return self.choices


def _kind(value: Any) -> str:
    """Which of the two an entry of the space is, so that a mistake in it is said of that."""
    return "Choices" if isinstance(value, Choices) or (isinstance(value, Mapping) and "choices" in value) else "Range"


Dimension = Annotated[Annotated[Range, Tag("Range")] | Annotated[Choices, Tag("Choices")], Discriminator(_kind)]


class SearchSpec(Closed):
    """What a search varies, how, and by what it judges."""

    space: dict[str, Dimension] = Field(min_length=1)
    """Dotted key of the config -> bounds or choices; ``method.NAME.ARGUMENT`` is an argument of one of the methods."""
    objective: Objective = "source_miou"
    """What is best: ``source_miou`` or ``source_loss`` on ``source_val``; ``target_entropy``, ``target_confidence`` or
    ``target_sure`` (share of pixels with confidence above 0.9) on the target's training images, without labels;
    ``peeking_target_miou`` reads the target's labels: on half of the sequences of ``target_val``, so that the other
    half says what it is worth."""
    trials: int = Field(20, ge=1)
    """How many in all; a larger number later goes on."""
    sampler: Literal["tpe", "random", "grid"] = "tpe"
    """Optuna's: tree-structured Parzen estimator, random, or every combination of the choices."""
    pruner: Literal["median", "none"] = "median"
    """Stop a trial whose objective is below the median of the earlier ones at the same step, after the first five."""
    looks: int = Field(4, ge=1)
    """How often a trial is looked at for that, its end included."""
    seed: int = Field(0, ge=0)
    """Of the sampler, and of every trial's training."""

    @field_validator("space", mode="before")
    @classmethod
    def _lists_are_choices(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        return {key: {"choices": entry} if isinstance(entry, list) else entry for key, entry in value.items()}

    @model_validator(mode="after")
    def _grid_of_choices(self) -> SearchSpec:
        ranges = [key for key, entry in self.space.items() if isinstance(entry, Range)]
        if self.sampler == "grid" and ranges:
            raise ValueError(f"space.{ranges[0]}: sampler grid needs choices, not bounds")
        return self


@dataclass(frozen=True)
class SearchConfig:
    """A checked search; :meth:`trial` is what one set of values is trained as."""

    name: str
    file: str
    content: dict[str, Any]
    """Of the run, without the search."""
    roots: dict[str, str]
    spec: SearchSpec

    def trial(self, values: Mapping[str, Any], name: str | None = None) -> tuple[BenchConfig, str]:
        """The run with some values in place: its config and row.

        Raises:
            ConfigError: one of them is wrong.
        """
        content = self.content_of(values)
        content.setdefault("curves", False)
        try:
            loaded = load_run(content, self.roots, changes={"name": name or self.name})
        except ConfigError as error:
            raise ConfigError(f"{self.file}: {str(error).removeprefix('config: ')}") from None
        self._see_that_objectives_can_be_measured(loaded[0])
        return loaded

    def content_of(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The content of a config that trains with some values, such as the best."""
        own, others = _split(values)
        content = {**self.content, METHOD: _with_arguments(self.content[METHOD], own, self.file)}
        return read_content(content, others)[1]

    def _see_that_objectives_can_be_measured(self, config: BenchConfig) -> None:
        needs = {"source_miou": "source_val", "source_loss": "source_val", PEEKING: "target_val"}
        key = needs.get(self.spec.objective)
        if key is not None and getattr(config, key) is None:
            raise ConfigError(
                f"{self.file}: {key}: is missing: search.objective {self.spec.objective} is measured there"
            )


def load_search(
    source: Path | str | Mapping[str, Any],
    roots: Mapping[str, str] | None = None,
    *,
    changes: Mapping[str, Any] | None = None,
) -> SearchConfig:
    """Read and check a search, every bound and choice included.

    Args:
        source: a YAML file, the name of one that comes with the library, or its content.
        roots: values of ``${name}`` variables.
        changes: single entries by dotted key.

    Raises:
        ConfigError: anything is wrong with it, in one line.
    """
    file, content = read_content(source, changes)
    section = content.pop(SEARCH, None)
    if not isinstance(section, Mapping):
        raise ConfigError(f"{file}: {SEARCH}: is missing: {{space: {{settings.lr: {{low: .., high: ..}}}}, ..}}")
    if not is_run(content) or content.get(METHOD) is None:
        raise ConfigError(f"{file}: {METHOD}: is missing: a search is of a single run, not of a benchmark's rows")
    try:
        spec = SearchSpec.model_validate(section)
    except ValidationError as error:
        raise ConfigError(f"{file}: {_first(error)}") from None
    name = content.pop("name", None) or as_name("search" if isinstance(source, Mapping) else Path(source).stem)
    try:
        check_name(name)
    except ValueError as error:
        raise ConfigError(f"{file}: name: {error}") from None
    config = SearchConfig(name, file, content, dict(roots or {}), spec)
    config.trial({})
    for key, entry in spec.space.items():
        for value in entry.ends:
            try:
                config.trial({key: value})
            except ConfigError as error:
                message = str(error).removeprefix(f"{file}: ")
                raise ConfigError(f"{file}: {SEARCH}.space.{key}: {short(value)}: {message}") from None
    return config


def _first(error: ValidationError) -> str:
    """The first mistake of a section, by its key."""
    entry = error.errors()[0]
    place = [str(part) for part in entry["loc"] if part not in ("Range", "Choices")]
    message = entry["msg"].removeprefix("Value error, ")
    known = list(SearchSpec.model_fields)
    if entry["type"] == "extra_forbidden" and len(place) == 1:
        message = f"unknown key; {nearest(place[0], known)}"
    return f"{'.'.join([SEARCH, *place])}: {message}, got {short(entry['input'])}"


def _split(values: Mapping[str, Any]) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Arguments of methods by method, and other entries."""
    own: dict[str, dict[str, Any]] = {}
    others: dict[str, Any] = {}
    for key, value in values.items():
        head, *rest = key.split(".")
        if head == METHOD and len(rest) >= 2:
            own.setdefault(rest[0], {})[".".join(rest[1:])] = value
        else:
            others[key] = value
    return own, others


def _with_arguments(method: Any, own: Mapping[str, Mapping[str, Any]], file: str) -> Any:
    """A run's method with arguments changed, of a list or of a preset."""
    if isinstance(method, Mapping) and "preset" in method:
        flat = {f"{name}.{key}": value for name, arguments in own.items() for key, value in arguments.items()}
        return {**method, "change": {**(method.get("change") or {}), **flat}} if flat else method
    if isinstance(method, Mapping):
        return {**method, "methods": _with_arguments(method.get("methods"), own, file)}
    if not isinstance(method, Sequence) or isinstance(method, str):
        return method
    names = [next(iter(entry)) if isinstance(entry, Mapping) and entry else str(entry) for entry in method]
    for name in own:
        if name not in names:
            raise ConfigError(f"{file}: {METHOD}: no method {name!r} in it; {nearest(name, names)}")
    changed = []
    for name, entry in zip(names, method, strict=True):
        arguments = dict(entry[name] or {}) if isinstance(entry, Mapping) else {}
        changed.append({name: {**arguments, **own[name]}} if name in own else entry)
    return changed


def is_better(objective: str, value: float, other: float) -> bool:
    """Whether a value of an objective is better than another; any is better than NaN."""
    if math.isnan(other):
        return not math.isnan(value)
    return value > other if OBJECTIVES[objective] == "maximize" else value < other
