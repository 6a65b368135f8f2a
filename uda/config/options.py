"""Types of the options of data sets, from the annotations of their readers; checked when a config is read."""

from __future__ import annotations

import inspect
import json
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Any, Literal, Union

from pydantic import TypeAdapter, ValidationError

from uda.data import DATASETS, FileDataset, Options, dataset_options
from uda.registry import nearest, short

_WORDS = {str: "a text", int: "a whole number", float: "a number", bool: "true or false", type(None): "nothing (null)"}
_LEAST = {"limit": 1}
"""Options that every reader takes, and their smallest value."""
_CLASS: dict[str, Any] = {
    "name": str, "colour": tuple[int, int, int], "ids": list[int], "thing": bool, "members": list[str],
}  # fmt: skip
"""What a class of a label space has in a config, where a name alone does not say all."""


class OptionError(ValueError):
    """What is wrong with an option: its key and the message."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(f"{key}: {message}")
        self.key, self.message = key, message


def check_options(kind: str, options: Mapping[str, Any]) -> None:
    """Compare the options of a data set with the annotations of its reader; what has none may be anything.

    Args:
        kind: of the data set, as in a config.
        options: by name, all of which the reader knows.

    Raises:
        OptionError: a value is of another type, or none of the splits.
        ValueError: no such kind.
    """
    reader = DATASETS[kind.lower() if kind.lower() in DATASETS else kind]
    annotations = _annotations(reader)
    for key in dataset_options(kind):
        if key not in options:
            continue
        value = options[key]
        if key == "classes" and isinstance(reader, type) and issubclass(reader, FileDataset) and value is not None:
            check_classes(value)
        elif key in annotations:
            check_type(key, annotations[key], value)
        if key in _LEAST and isinstance(value, int) and value < _LEAST[key]:
            raise OptionError(key, f"must be at least {_LEAST[key]}, got {value}")
        splits = splits_of(reader)
        if key == "split" and splits and value not in splits:
            raise OptionError(key, f"{kind} has no split {short(value)}; {nearest(str(value), splits)}")


def check_classes(value: Any) -> None:
    """See that classes are the name of a label space, or names and mappings.

    Raises:
        OptionError: an entry is of another form.
    """
    if isinstance(value, str):
        return
    if not isinstance(value, list | tuple) or not value:
        raise OptionError("classes", f"a list of names and mappings is needed, got {short(value)}")
    for at, entry in enumerate(value):
        if isinstance(entry, str):
            continue
        if not isinstance(entry, Mapping):
            raise OptionError(f"classes.{at}", f"a name or a mapping is needed, got {short(entry)}")
        for key in entry:
            if key not in _CLASS:
                raise OptionError(f"classes.{at}.{key}", f"unknown key; {nearest(str(key), _CLASS)}")
        if "name" not in entry:
            raise OptionError(f"classes.{at}.name", "is missing")
        for key, part in entry.items():
            check_type(f"classes.{at}.{key}", _CLASS[key], part)
            if part == []:
                raise OptionError(f"classes.{at}.{key}", "must not be empty")


def check_type(key: str, annotation: Any, value: Any) -> None:
    """See that a value is what YAML writes for an annotation: a list for a tuple, a text for a path.

    Raises:
        OptionError: it is not; the message says what is.
    """
    allowed = _in_yaml(annotation)
    try:
        # as JSON: strict about numbers, texts and booleans, but with lists for tuples
        TypeAdapter(allowed).validate_json(json.dumps(value, default=_path), strict=True)
    except (ValidationError, ValueError, TypeError):
        raise OptionError(key, f"{_described(allowed)} is needed, got {short(value)}") from None


def _path(value: Any) -> str:
    """A path as text; dates and whatever else YAML or Python has are refused by type."""
    if isinstance(value, Path):
        return str(value)
    raise TypeError(type(value).__name__)


def _annotations(reader: Callable[..., Any]) -> dict[str, Any]:
    """The resolved annotations of a reader's arguments; none where one cannot be resolved."""
    hints: dict[str, Any] = {}
    if isinstance(reader, type) and issubclass(reader, FileDataset):
        hints |= typing.get_type_hints(Options)
    called: Any = reader.__init__ if isinstance(reader, type) else reader  # type: ignore[misc]
    called = called if inspect.isroutine(called) else type(called).__call__
    scope = getattr(inspect.unwrap(called), "__globals__", {})
    for name, annotation in inspect.get_annotations(called).items():
        try:
            # one by one: a name that is there for type checkers alone hides no other
            hints[name] = eval(annotation, scope) if isinstance(annotation, str) else annotation
        except Exception:
            hints.pop(name, None)
    return hints


def splits_of(reader: Callable[..., Any]) -> tuple[str, ...]:
    """The splits that a reader says it has; none where any will do, or where it does not say."""
    if not (isinstance(reader, type) and issubclass(reader, FileDataset)):
        return ()
    says = any("splits" in vars(cls) for cls in reader.__mro__[: reader.__mro__.index(FileDataset)])
    return reader.splits if says else ()


def _in_yaml(annotation: Any) -> Any:
    """An annotation without what a config cannot hold: objects of classes of one's own."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal or annotation in _WORDS:
        return annotation
    if annotation is Path:
        return str
    if origin in (Union, types.UnionType):
        known = [_in_yaml(argument) for argument in arguments if _in_yaml(argument) is not Any or argument is Any]
        return reduce(or_, known) if known else Any
    if origin is tuple:
        return tuple[tuple(argument if argument is ... else _in_yaml(argument) for argument in arguments)]  # type: ignore[misc]
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return dict[str, _in_yaml(arguments[-1])]  # type: ignore[misc]
    if isinstance(origin, type) and issubclass(origin, Sequence | set | frozenset):
        return list[_in_yaml(arguments[0])]  # type: ignore[misc]
    return Any


def _described(annotation: Any) -> str:
    """What an annotation of :func:`_in_yaml` allows, in words."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation in _WORDS:
        return _WORDS[annotation]
    if origin is Literal:
        return " or ".join(map(repr, arguments))
    if origin is dict:
        return f"a mapping to {_described(arguments[-1])}"
    if origin is list:
        return f"a list of {_described(arguments[0])}"
    if origin is tuple:
        return f"a list of {' and '.join(_described(argument) for argument in arguments if argument is not ...)}"
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_described(argument) for argument in arguments))
    return "any value"
