"""The file that a config is read from: every error about a key of it begins with its name."""

from __future__ import annotations

import types
import typing
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from uda.config.specs import ConfigError
from uda.registry import nearest, printable, short

T = TypeVar("T", bound=BaseModel)
MESSAGE = 2000
"""Letters of a message at most: a list of what is known is long, a value never is."""
WORD = 200
"""Letters of a word of it."""


class ConfigFile:
    """One file, and what is wrong with it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.written: dict[str, str] = {}
        """Key -> what the file calls it, where that differs."""

    def fail(self, path: str, message: str) -> ConfigError:
        """The error to raise about the key at ``path``."""
        for key, written in self.written.items():
            path = written + path.removeprefix(key) if path == key or path.startswith(f"{key}.") else path
        # what was written may come back from any depth
        message = printable(" ".join(printable(word, WORD) for word in message.split()), MESSAGE)
        return ConfigError(f"{self.name}: {printable(path)}: {message}" if path else f"{self.name}: {message}")

    def known_keys(self, model: type[BaseModel], content: Any, path: str) -> None:
        """See that ``content`` is a mapping with keys of the record alone; :meth:`fail` makes the error."""
        if not isinstance(content, dict):
            raise self.fail(path, f"a mapping of {', '.join(model.model_fields)} is needed, got {short(content)}")
        for key in content:
            if key not in model.model_fields:
                raise self.fail(f"{path}.{key}".lstrip("."), f"unknown key; {nearest(str(key), model.model_fields)}")

    def validate(self, model: type[T], content: Any, path: str) -> T:
        """The record of what is written at ``path``; :meth:`fail` makes the error."""
        try:
            return model.model_validate(content)
        except ValidationError as error:
            raise self.explain(model, error, path) from None
        except (TypeError, OverflowError) as error:
            # what is chosen by name (a schedule, an optimiser) compares its arguments with numbers
            raise self.fail(path, f"a value is of another type than is needed ({error})") from error

    def explain(self, model: type[BaseModel], error: ValidationError, path: str) -> ConfigError:
        """The first of pydantic's errors as one line, with the keys that are known at its place."""
        first = error.errors()[0]
        where = ".".join(str(part) for part in (*([path] if path else []), *first["loc"]))
        message = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            message = f"unknown key; {nearest(str(first['loc'][-1]), _fields_at(model, first['loc'][:-1]))}"
        elif first["type"] == "missing":
            message = "is missing"
        elif first["type"] != "value_error" and not isinstance(first["input"], dict):
            message = f"{message}, got {short(first['input'])}"
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        return self.fail(where, message + more)


def _fields_at(model: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    """Field names of the record at a place inside ``model``; keys of mappings and lists are skipped."""
    record: Any = model
    for part in path:
        if part in record.model_fields:
            records = list(_records_in(record.model_fields[part].annotation))
            record = records[0] if records else record
    return list(record.model_fields)


def _records_in(annotation: Any) -> typing.Iterator[type[BaseModel]]:
    plain = isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias)
    if plain and issubclass(annotation, BaseModel):
        yield annotation
    for argument in typing.get_args(annotation):
        yield from _records_in(argument)
