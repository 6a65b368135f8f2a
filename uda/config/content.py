"""YAML files as plain values, with single entries changed from outside."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from uda.config.specs import ConfigError

VARIABLE = re.compile(r"\$\{(\w+)\}")
"""``${name}`` in a string of a config."""


def read_content(
    source: Path | str | Mapping[str, Any], changes: Mapping[str, Any] | None
) -> tuple[str, dict[str, Any]]:
    """The name of a config in messages, and its content with the changes made."""
    if isinstance(source, Mapping):
        file, content = "config" if source else "command line", copy.deepcopy(dict(source))
    else:
        path = Path(source)
        if not path.is_file():
            raise ConfigError(f"{path}: no such config file")
        try:
            # a SafeLoader that also refuses repeated keys; it builds plain values only
            content = yaml.load(path.read_text(encoding="utf-8"), Loader=Loader)
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
        file = str(path)
        if not isinstance(content, dict):
            raise ConfigError(f"{path}: a config is a mapping of keys, got {type(content).__name__}")
    for key, value in (changes or {}).items():
        content = _changed(content, key.split("."), value, f"{file}: {key}")
    return file, content


def variables(source: Path | str | Mapping[str, Any], changes: Mapping[str, Any] | None = None) -> set[str]:
    """Names of the ``${name}`` variables of a config.

    Raises:
        ConfigError: it cannot be read.
    """
    return set(_variables(read_content(source, changes)[1]))


def _variables(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield from VARIABLE.findall(value)
    elif isinstance(value, Mapping | list):
        for child in value.values() if isinstance(value, Mapping) else value:
            yield from _variables(child)


def _changed(content: Any, path: Sequence[str], value: Any, where: str) -> Any:
    """Nested mappings and lists with the entry at ``path`` set; mappings that are not there yet are made."""
    if not path:
        return value
    head, rest = path[0], path[1:]
    if isinstance(content, list) and head.isdigit() and int(head) < len(content):
        return [_changed(child, rest, value, where) if at == int(head) else child for at, child in enumerate(content)]
    if content is not None and not isinstance(content, dict):
        raise ConfigError(f"{where}: there is no {head!r} in {content!r}; set the whole of it")
    return {**(content or {}), head: _changed((content or {}).get(head), rest, value, where)}


def parse_value(text: str) -> Any:
    """A value as configs write it: YAML, in which ``1e-4`` is a number.

    Raises:
        ValueError: it is no YAML.
    """
    try:
        return yaml.load(text, Loader=Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"{text!r} is not valid YAML ({' '.join(str(error).split())})") from None


class Loader(yaml.SafeLoader):
    """Plain values only; a key that occurs twice is an error, and ``1e-4`` is a number (YAML 1.2)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for at, key in enumerate(keys):
            if key in keys[:at]:
                where = node.value[at][0].start_mark
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} occurs twice", where)
        return super().construct_mapping(node, deep)


Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
)
