"""YAML files as plain values, with single entries changed from outside."""

from __future__ import annotations

import copy
import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from uda.config.specs import ConfigError
from uda.registry import nearest, printable, short
from uda.shipped import benchmarks, config_file

VARIABLE = re.compile(r"\$\{(\w+)\}")
"""``${name}`` in a string of a config."""
LARGEST = 1_000_000
"""Bytes of a config file."""
DEEPEST = 100
"""Levels of a config, one in another."""
ENTRIES = 100_000
"""Entries of a config, with its aliases written out."""


def read_content(
    source: Path | str | Mapping[str, Any], changes: Mapping[str, Any] | None
) -> tuple[str, dict[str, Any]]:
    """The name of a config in messages, and its content with the changes made."""
    if isinstance(source, Mapping):
        file = "config" if source else "command line"
        _see_that_it_ends(source, file)
        content = copy.deepcopy(dict(source))
    else:
        file, content = str(source), _read(config_file(source))
        if not isinstance(content, dict):
            raise ConfigError(f"{file}: a config is a mapping of keys, got {type(content).__name__}")
    for key, value in (changes or {}).items():
        content = changed_at(content, key.split("."), value, f"{file}: {printable(key)}")
    return file, content


def _read(path: Path) -> Any:
    if path.is_dir():
        raise ConfigError(f"{path}: is a folder, not a config file")
    if not path.is_file():
        named = "" if len(path.parts) > 1 else f", nor a benchmark of that name; {nearest(path.name, benchmarks())}"
        raise ConfigError(f"{path}: no such config file{named}")
    try:
        if path.stat().st_size > LARGEST:
            raise ConfigError(f"{path}: larger than {LARGEST} bytes, so no config")
        return parse(path.read_text(encoding="utf-8-sig"))  # some editors begin a file with a byte-order mark
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not valid YAML: no UTF-8 text ({error.reason} at byte {error.start})") from error
    except NotYaml as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error


def _see_that_it_ends(value: Any, file: str) -> None:
    """Refuse a value from Python that contains itself, or is otherwise no config."""
    left, entries = [(value, 0)], 0
    while left:
        part, depth = left.pop()
        children = list(part.values()) if isinstance(part, Mapping) else part if isinstance(part, list | tuple) else ()
        entries += len(children)
        if depth > DEEPEST or entries > ENTRIES:
            raise ConfigError(f"{file}: more than {DEEPEST} levels or {ENTRIES} entries, so no config")
        left += [(child, depth + 1) for child in children]


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


def changed_at(content: Any, path: Sequence[str], value: Any, where: str) -> Any:
    """Nested mappings and lists with the entry at ``path`` set; mappings that are not there yet are made."""
    if not path:
        return value
    head, rest = path[0], path[1:]
    if isinstance(content, list) and head.isdecimal() and int(head) < len(content):
        return [changed_at(child, rest, value, where) if at == int(head) else child for at, child in enumerate(content)]
    if content is not None and not isinstance(content, dict):
        raise ConfigError(f"{where}: there is no {short(head)} in {short(content)}; set the whole of it")
    return {**(content or {}), head: changed_at((content or {}).get(head), rest, value, where)}


def parse_value(text: str) -> Any:
    """A value as configs write it: YAML, in which ``1e-4`` is a number.

    Raises:
        ValueError: it is no YAML.
    """
    try:
        return parse(text)
    except NotYaml as error:
        raise ValueError(f"{short(text)} is not valid YAML ({error})") from None


def parse(text: str) -> Any:
    """What a YAML text means.

    Raises:
        NotYaml: it is no YAML, or such that no config is; in one line.
    """
    try:
        # a SafeLoader that builds plain values only and refuses repeated keys and what does not end
        return yaml.load(text, Loader=Loader)
    except RecursionError:
        raise NotYaml(f"more than {DEEPEST} levels") from None
    except Exception as error:  # the values of tags and dates raise what they like
        raise NotYaml(printable(" ".join(str(error).split()), 300) or type(error).__name__) from None


class NotYaml(ValueError):
    """A text that is no YAML, or one that no config is."""


class Loader(yaml.SafeLoader):
    """Plain values only; a key that occurs twice is an error, and ``1e-4`` is a number (YAML 1.2)."""

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self._depth += 1
        if self._depth > DEEPEST:
            raise NotYaml(f"more than {DEEPEST} levels")
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def get_single_node(self) -> yaml.Node | None:
        node: yaml.Node | None = super().get_single_node()
        if node is not None:
            _entries(node, {})
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise NotYaml(f"{short(key)} cannot be a key")
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {short(key)} occurs twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def _entries(node: yaml.Node, known: dict[int, int | None]) -> int:
    """The entries below a node with its aliases written out; refuses what refers to itself or has too many."""
    if id(node) in known:
        number = known[id(node)]
        if number is None:
            raise NotYaml(f"an alias refers to itself (line {node.start_mark.line + 1})")
        return number
    known[id(node)] = None
    children = node.value if isinstance(node, yaml.CollectionNode) else []
    flat = [part for child in children for part in child] if isinstance(node, yaml.MappingNode) else children
    total = len(flat) + sum(_entries(child, known) for child in flat)
    if total > ENTRIES:
        raise NotYaml(f"more than {ENTRIES} entries")
    known[id(node)] = total
    return total


Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
)
