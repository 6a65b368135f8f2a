"""The reference of every YAML key, from the types that read configs; ``python docs/sitegen/yaml_keys.py`` prints it."""

from __future__ import annotations

import dataclasses
import inspect
import sys
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, Union

import yaml
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[2])]

from sitegen.markup import arguments, in_cell, library, markdown

from uda.config.factorial import DesignSpec, Factor, FactorialConfig
from uda.config.matrix import AdaptationEntry, CombinedSpec, MatrixConfig, MatrixDomain
from uda.config.options import splits_of
from uda.config.records import (
    BenchConfig,
    CurvesSpec,
    DatasetSpec,
    EvaluateSpec,
    LearningCurve,
    MethodEntry,
    OracleSpec,
    StreetsDomain,
    StreetsSpec,
    TargetLabels,
)
from uda.config.runs import KEYS, METHOD
from uda.config.search import Choices, Range, SearchSpec
from uda.data import DATASETS, Options, dataset_options
from uda.data.base import FileDataset
from uda.engine import Settings
from uda.engine.settings import Augment, CompileSpec, Spec, WeightAverage
from uda.models import MODELS, model_options
from uda.types import TeacherSpec

REQUIRED = "required"
SECTIONS = {
    "DatasetSpec": "data-sets", "StreetsSpec": "streets", "StreetsDomain": "streetsdomainsname", "Settings": "settings",
    "Augment": "settingsaugment-settingstarget_augment", "EvaluateSpec": "evaluate", "OracleSpec": "oracle",
    "MethodEntry": "a-row", "CurvesSpec": "curves", "TargetLabels": "a-rows-target_labels",
    "LearningCurve": "learning_curve", "MatrixDomain": "a-matrix-domain", "CombinedSpec": "combined",
    "AdaptationEntry": "a-row-of-a-matrix", "Factor": "a-factor", "DesignSpec": "design",
    "WeightAverage": "settingsaverage", "CompileSpec": "settingscompile", "SearchSpec": "search",
    "Range": "bounds-of-a-search", "Choices": "choices-of-a-search",
}  # fmt: skip
"""Record -> the anchor of its section."""


class Key(NamedTuple):
    """A key of a config: dotted name, type and default as YAML has them, and what it means."""

    name: str
    type: str
    default: str
    meaning: str


def keys_of(record: type[BaseModel]) -> Iterator[Key]:
    """The keys of a typed record."""
    for name, field in record.model_fields.items():
        least = [str(bound) for rule in field.metadata if (bound := _bound(rule))]
        default = REQUIRED if field.is_required() else shown(field.get_default(call_default_factory=True))
        written = ", ".join([in_yaml(field.annotation), *least])
        yield Key(name, written, default, markdown(field.description or "", record.__module__))


def keys_of_dataclass(cls: type, path: str) -> Iterator[Key]:
    """The keys of a dataclass whose fields have docstrings."""
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        docstring = library()[f"{path}.{field.name}"].docstring
        meaning = markdown(docstring.value, cls.__module__) if docstring else ""
        yield Key(field.name, in_yaml(hints[field.name]), shown(field.default), meaning)


def keys_of_reader(kind: str) -> Iterator[Key]:
    """The options of a kind of data set that not every kind has."""
    reader: Any = DATASETS[kind]
    common = typing.get_type_hints(Options)
    yield from _keys_of_call(reader, {name for name in dataset_options(kind) if name not in common})


def keys_of_options() -> Iterator[Key]:
    """The options that all kinds of data sets have."""
    meanings, hints = arguments("uda.data.base.Options"), typing.get_type_hints(Options)
    parameters = inspect.signature(DATASETS["folder"]).parameters
    for name, hint in hints.items():
        yield Key(name, in_yaml(hint), shown(parameters[name].default), meanings.get(name, ""))


def keys_of_model(name: str) -> Iterator[Key]:
    """The options of a model."""
    yield from _keys_of_call(MODELS[name], set(model_options(name)))


def _keys_of_call(thing: Any, names: set[str]) -> Iterator[Key]:
    path = f"{thing.__module__}.{thing.__qualname__}"
    meanings = arguments(path)
    if isinstance(thing, type) and issubclass(thing, FileDataset):
        meanings = {**arguments("uda.data.base.FileDataset"), **meanings}
    called = thing.__init__ if isinstance(thing, type) else thing
    hints = _hints(inspect.unwrap(called))
    splits = splits_of(thing) if isinstance(thing, type) else ()
    if splits:
        meanings["split"] = "One of " + ", ".join(f"`{split}`" for split in splits) + "."
    for name, parameter in inspect.signature(thing).parameters.items():
        if name in names:
            default = REQUIRED if parameter.default is parameter.empty else shown(parameter.default)
            yield Key(name, in_yaml(hints.get(name, Any)), default, meanings.get(name, ""))


def _hints(called: Any) -> dict[str, Any]:
    """Resolved annotations, one by one: a name that is there for type checkers alone hides no other."""
    hints = {}
    for name, annotation in inspect.get_annotations(called).items():
        try:
            hints[name] = eval(annotation, called.__globals__) if isinstance(annotation, str) else annotation
        except NameError:
            hints[name] = Any
    return hints


def _bound(rule: Any) -> str:
    signs = {"gt": "> ", "ge": "≥ ", "lt": "< ", "le": "≤ ", "min_length": "entries ≥ "}
    return ", ".join(
        f"{sign}{value}" for name, sign in signs.items() if (value := getattr(rule, name, None)) is not None
    )


def in_yaml(annotation: Any) -> str:
    """A type as a reader of YAML knows it."""
    words = {str: "text", int: "whole number", float: "number", bool: "true or false", type(None): "null", Path: "text"}
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation == Spec:
        return "name or `{name: {argument: value}}`"
    if annotation in words:
        return words[annotation]
    if origin is typing.Annotated:
        return in_yaml(inner[0])
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in inner)
    if origin in (Union, types.UnionType):
        flat = (part for argument in inner for part in in_yaml(argument).split(" or "))
        parts = [part for part in dict.fromkeys(flat) if part != "any value"]
        return " or ".join(parts) or "any value"
    if origin is tuple and ... not in inner:
        return "[" + ", ".join(map(in_yaml, inner)) + "]"
    if origin is not None and issubclass(origin, Mapping):
        return f"mapping of {in_yaml(inner[0])} to {in_yaml(inner[-1])}" if inner else "mapping"
    if origin is not None and inner:
        return f"list of {in_yaml(inner[0])}"
    if annotation is TeacherSpec:
        return "teacher's options"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"[mapping](#{SECTIONS[annotation.__name__]})"
    return "any value"


def shown(value: Any) -> str:
    """A default as YAML writes it."""
    if value is PydanticUndefined or value is dataclasses.MISSING:
        return REQUIRED
    if isinstance(value, BaseModel):
        return "its own defaults"
    if isinstance(value, TeacherSpec):
        value = dataclasses.asdict(value)
    try:
        text = yaml.safe_dump(_plain(value), default_flow_style=True, width=10**6, sort_keys=False)
    except yaml.YAMLError:
        text = getattr(value, "name", None) or repr(value)
    return f"`{text.removesuffix(chr(10)).removesuffix('...').strip()}`"


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, tuple | list | set | frozenset):
        return [_plain(entry) for entry in value]
    return str(value) if isinstance(value, Path) else value


def sections() -> dict[str, tuple[str, list[Key]]]:
    """Title -> what is to be said first, and the keys."""
    benchmark = list(keys_of(BenchConfig))
    own = {key.name for key in benchmark} - set(KEYS)
    method = Key(
        METHOD, "list of methods, or `{preset: NAME, change: {ENTRY: VALUE}}`", REQUIRED,
        "What is trained: methods in the order in which they act, or a published recipe.",
    )  # fmt: skip

    def by_default(key: Key) -> Key:
        """A key that a single run may leave out."""
        defaults = {"name": "the file's", "space": "the source's"}
        return key._replace(default=defaults.get(key.name, key.default))

    made: dict[str, tuple[str, list[Key]]] = {
        "A single run": (
            "What `uda train` takes: only `source`, `target` and `method` are needed, and `settings.steps` where the "
            "method is no preset.",
            [
                *(key for key in benchmark if key.name in ("source", "target")),
                method,
                *(by_default(key) for key in benchmark if key.name not in {*own, "source", "target"}),
            ],
        ),
        "A benchmark": ("What `uda bench` takes.", benchmark),
        "A row": ("Each of a benchmark's `methods:` is a list of methods or these keys.", list(keys_of(MethodEntry))),
        "A row's target_labels": ("", list(keys_of(TargetLabels))),
        "A matrix": (
            "What `uda bench` takes where `kind` is `matrix`; see [Matrices of data sets](matrix.md).",
            list(keys_of(MatrixConfig)),
        ),
        "A matrix' domain": ("", list(keys_of(MatrixDomain))),
        "A row of a matrix": (
            "Each of a matrix' `rows:` is a list of methods, or has a row's keys and these.",
            [key for key in keys_of(AdaptationEntry) if key.name not in MethodEntry.model_fields],
        ),
        "combined": ("", list(keys_of(CombinedSpec))),
        "A study": (
            "What `uda bench` takes where `kind` is `factorial`; see [What a factor is worth](howto/study.md).",
            list(keys_of(FactorialConfig)),
        ),
        "A factor": ("Each of a study's `factors:`.", list(keys_of(Factor))),
        "design": ("", list(keys_of(DesignSpec))),
        "search": (
            "What `uda search` takes beside a single run's keys; see [Search without target labels](howto/search.md).",
            list(keys_of(SearchSpec)),
        ),
        "Bounds of a search": ("An entry of `search.space`.", list(keys_of(Range))),
        "Choices of a search": ("Another entry; a list alone is short for it.", list(keys_of(Choices))),
        "settings": ("Of a run, of a row, and of `warm_start:`.", list(keys_of(Settings))),
        "settings.augment, settings.target_augment": ("", list(keys_of(Augment))),
        "settings.average": ("", list(keys_of(WeightAverage))),
        "settings.compile": ("", list(keys_of(CompileSpec))),
        "settings.teacher": ("", list(keys_of_dataclass(TeacherSpec, "types.TeacherSpec"))),
        "evaluate": ("Also `uda eval --evaluate NAME=VALUE`.", list(keys_of(EvaluateSpec))),
        "curves": ("", list(keys_of(CurvesSpec))),
        "learning_curve": ("", list(keys_of(LearningCurve))),
        "oracle": ("", list(keys_of(OracleSpec))),
        "streets": ("", list(keys_of(StreetsSpec))),
        "streets.domains.NAME": ("", list(keys_of(StreetsDomain))),
        "Data sets": (
            "`source`, `source_val`, `target`, `target_val` and each of `unseen`: these keys and those of the kind.",
            [
                *keys_of(DatasetSpec),
                *(key for key in keys_of_options() if key.name not in DatasetSpec.model_fields),
            ],
        ),
    }
    for kind in DATASETS.table:
        made[f"kind: {kind}"] = (_summary(DATASETS[kind]), list(keys_of_reader(kind)))
    for name in MODELS.table:
        made[f"model.name: {name}"] = (_summary(MODELS[name]), list(keys_of_model(name)))
    return made


def _summary(thing: Any) -> str:
    """What the docstring of a class or function begins with."""
    text = inspect.cleandoc(thing.__doc__ or "").split("\n\n")[0]
    return markdown(text, thing.__module__).removesuffix(":")


def page() -> str:
    """The page, in Markdown."""
    lines = ["# Every YAML key", "", "Made from the types that read configs. Dotted names are what `--set` takes:"]
    lines += [
        "`uda bench CONFIG --set settings.steps=500`. A method's arguments are on its page",
        "([Methods](methods/index.md)).",
        "",
    ]
    for title, (text, keys) in sections().items():
        lines += [f"## {title}", "", text, ""] if text else [f"## {title}", ""]
        if not keys:
            lines += ["No keys of its own.", ""]
            continue
        lines += ["| key | type | default | meaning |", "|---|---|---|---|"]
        lines += [
            f"| `{key.name}` | {in_cell(key.type)} | {in_cell(key.default)} | {in_cell(key.meaning)} |" for key in keys
        ]
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    print(page())
