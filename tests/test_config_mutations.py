"""Configs with one entry changed at random: a config, or one line that begins with the file's name, and at once."""

from __future__ import annotations

import copy
import datetime
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.bench import tiny
from tests.test_run_config import SHORTEST
from uda.config import ConfigError, load_config, load_factorial, load_matrix, load_run
from uda.config.search import SEARCH, load_search
from uda.presets import PRESETS

MUTATIONS = 300
LONGEST = 3.0
"""Seconds of processor time that reading may take; a tenth is usual."""
BENCHMARKS = sorted((Path(__file__).parent.parent / "benchmarks").glob("*.yaml"))
ROOTS = {"cityscapes": "a", "kitti": "b", "ika": "c", "camvid": "d"}
VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 10**30, 1.5, -0.0, 1e308, float("nan"), float("inf"), "", " ", "x", "²", "\u0000",
    "\ud7ff\u202e", "x" * 5000, "${x}", "${", "../..", "=1+1", "[/x]", "1e-4", [], {}, [[]], [None], [0.5, "x"],
    ["a", "a"], {"a": {"b": 1}}, {1: 2}, {None: None}, {"name": "x"}, {"kind": []}, datetime.date(2024, 1, 1), b"\xff",
]  # fmt: skip

Place = tuple[Any, ...]


def places(value: Any, path: Place = ()) -> Iterator[Place]:
    """The paths of all entries, the whole included."""
    yield path
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from places(child, (*path, key))


def at(value: Any, path: Place) -> Any:
    for key in path:
        value = value[key]
    return value


def delete(container: Any, key: Any, draw: random.Random) -> None:
    del container[key]


def retype(container: Any, key: Any, draw: random.Random) -> None:
    container[key] = copy.deepcopy(draw.choice(VALUES))


def rename(container: Any, key: Any, draw: random.Random) -> None:
    names = [*container, "x", "kind", "name", "methods", "settings", "", "..", "source", "²", 3, None, True, "a.b", "é"]
    if isinstance(container, dict):
        container[draw.choice(names)] = container.pop(key)
    else:
        container.append(container[key])


def nest(container: Any, key: Any, draw: random.Random) -> None:
    value = container[key]
    container[key] = draw.choice([[value], {"x": value}, {key: value}, [value, value], [[value]], {"name": value}])


CHANGES: list[Callable[[Any, Any, random.Random], None]] = [delete, retype, rename, nest]


def read(path: Path) -> str:
    """What reading the file ends with: ``ok``, or the message; anything else is a fault."""
    raw = yaml.safe_load(path.read_text())
    kind = raw.get("kind") if isinstance(raw, dict) else None
    single = isinstance(raw, dict) and ("method" in raw or "methods" not in raw)
    start = time.process_time()
    try:
        if kind == "matrix":
            load_matrix(path, ROOTS)
        elif kind == "factorial":
            load_factorial(path, ROOTS)
        elif isinstance(raw, dict) and SEARCH in raw:
            load_search(path, ROOTS)
        elif single:
            load_run(path, ROOTS)
        else:
            load_config(path, ROOTS)
    except ConfigError as error:
        message = str(error)
        assert message.startswith(f"{path}: "), message
        assert "\n" not in message, message
        assert len(message) < 3000, message
        return message
    finally:
        assert time.process_time() - start < LONGEST
    return "ok"


def originals() -> dict[str, Any]:
    """Every config that there is: shipped ones, those of tests, a single run of every preset."""
    shipped = {path.stem: yaml.safe_load(path.read_text()) for path in BENCHMARKS}
    runs = {f"run {name}": {**SHORTEST, "method": {"preset": name}} for name in list(PRESETS)[:3]}
    full = tiny.content(
        Path("data"), evaluate={"scale": 0.5, "domains": {"ika": {"flip": True}}, "classes": {"few": ["road", "sky"]}},
        space={"base": "cityscapes19", "merge": {"vehicle": ["car", "truck"]}, "select": ["road", "sky", "vehicle"]},
        oracle={"steps": 3, "labels": "target"}, streets={"domains": {"kitti": {"splits": {"train": 3}}}},
    )  # fmt: skip
    folder = {"kind": "folder", "root": "a", "classes": ["road", {"name": "sky", "colour": [1, 2, 3], "ids": [7, 8]}]}
    teacher = {
        "steps": 9,
        "teacher": {"decay": 0.9},
        "schedule": {"poly": {"power": 0.9}},
        "optimizer": {"sgd": {}},
        "compile": {"mode": "default", "dynamic": True},
    }
    return {
        **shipped, **runs, "tiny": tiny.content(Path("data")), "full": full,
        "shortest": SHORTEST, "folder": {**SHORTEST, "source": folder, "settings": teacher},
    }  # fmt: skip


@pytest.mark.slow
def test_every_mutation_is_a_config_or_one_line(tmp_path: Path) -> None:
    draw = random.Random(20)
    every = originals()
    path = tmp_path / "mine.yaml"
    read_whole = [name for name in every if _written(path, every[name]) and read(path) == "ok"]
    assert read_whole == list(every), "before any change all are configs"
    ends: dict[str, int] = {}
    for number in range(MUTATIONS):
        name = draw.choice(list(every))
        mutated = copy.deepcopy(every[name])
        place = draw.choice([path for path in places(mutated) if path])
        change = draw.choice(CHANGES)
        change(at(mutated, place[:-1]), place[-1], draw)
        _written(path, mutated)
        try:
            end = read(path)
        except Exception as error:
            raise AssertionError(f"mutation {number}: {change.__name__} {place} of {name}") from error
        ends[end] = ends.get(end, 0) + 1
    assert MUTATIONS // 10 < ends["ok"] < MUTATIONS // 2
    assert len(ends) > MUTATIONS // 4, "mistakes have messages of their own"


def _written(path: Path, content: Any) -> bool:
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return True
