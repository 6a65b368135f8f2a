"""What lies in a cell's folder, read so that a damaged file is as good as none, and named."""

from __future__ import annotations

import json
import zipfile
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from uda.bench.plan import CONFIG, DESCRIPTION, RESULT, Cell, picture_indices
from uda.config import BenchConfig
from uda.config.content import parse
from uda.engine import Evaluation
from uda.engine.tensorboard import read_scalars
from uda.models.pretrained import CHECKPOINT, ModelError
from uda.models.pretrained import DESCRIPTION as MODEL
from uda.models.pretrained import read_description as read_model_description

CURVES = "scalars.jsonl"
LISTED = 3
"""Files of one name with the same damage that are named one by one."""
RESCORED = "scored again"
RETRAINED = "trained again"
REWRITTEN = "written again"
_PNG = (b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82")
"""How a PNG begins and ends."""


class _Result(BaseModel):
    """What a ``result.json`` has; older ones lack what has a default."""

    model_config = ConfigDict(extra="allow")

    scores: dict[str, Any]
    steps: int = 0
    seconds: float
    seconds_per_step: float | None
    waited_for_data: float | None = None
    peak_memory: int = 0
    threads: int | None = None
    machine: str = ""
    commit: str = ""
    date: str = ""
    versions: dict[str, str] = {}
    label_maps: dict[str, list[str]] = {}
    data: dict[str, dict[Literal["sizes", "sequences", "origin"], list[str]]] = {}
    label_free: dict[str, dict[str, Any]] | None = None


class _Description(BaseModel):
    """What a ``cell.json`` has; older ones lack the identity."""

    model_config = ConfigDict(extra="allow")

    kind: Literal["warm_start", "train", "test_time"]
    method: str
    seed: int
    needs: list[str]
    test_time: dict[str, dict[str, Any]] | None
    training: dict[str, Any]
    identity: dict[str, Any] = {}


@dataclass(frozen=True)
class Damage:
    """One damaged file of a cell, what is wrong with it, and what follows."""

    path: Path
    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.path}: {self.what}; {self.remedy}"


def read_result(folder: Path) -> dict[str, Any] | None:
    """A finished cell's result; ``None`` while there is none, or where it is damaged."""
    return _read(folder / RESULT, _Result)[0]


def read_description(folder: Path) -> dict[str, Any] | None:
    """What a cell's folder says that it holds; ``None`` for a new one, or where it is damaged."""
    return _read(folder / DESCRIPTION, _Description)[0]


def description_damage(folder: Path) -> str:
    """What is wrong with a folder's ``cell.json``; empty where nothing is, or where there is none."""
    return _read(folder / DESCRIPTION, _Description)[1] if (folder / DESCRIPTION).exists() else ""


def read_evaluation(folder: Path, domain: str) -> Evaluation | None:
    """The scores of a cell on a domain; ``None`` where there are none, or where they are damaged."""
    return _read_evaluation(evaluation_file(folder, domain))[0]


def evaluation_file(folder: Path, domain: str) -> Path:
    """Where the scores of a cell on a domain lie."""
    return folder / "evaluations" / f"{domain}.npz"


def has_training(folder: Path) -> bool:
    """Whether a cell's folder holds anything that took training or scoring to make."""
    return (folder / CHECKPOINT).is_file() or (folder / RESULT).is_file()


def damages(cell: Cell, root: Path) -> Iterator[Damage]:
    """The damaged files of a cell, and those that are missing though a file that is written later is there.

    A finished cell's checkpoint is looked at from outside only: that its weights fit is seen when something needs them.
    """
    folder = root / cell.name
    if not has_training(folder):
        return
    content, what = _read(folder / DESCRIPTION, _Description)
    if content is None:
        yield Damage(folder / DESCRIPTION, what, f"written again, and the cell {RESCORED}")
    if what := _config_damage(folder / CONFIG):
        yield Damage(folder / CONFIG, what, REWRITTEN)
    result, what = _read(folder / RESULT, _Result)
    if result is None and (folder / RESULT).exists():
        yield Damage(folder / RESULT, what, RESCORED)
    for domain in cell.scoring:
        path = evaluation_file(folder, domain)
        evaluation, what = _read_evaluation(path)
        if evaluation is None and (path.exists() or (result is not None and domain in result["scores"])):
            yield Damage(path, what, RESCORED)
        if evaluation is not None and result is not None:
            yield from _picture_damage(folder, domain, len(evaluation.names))
    # a half-trained cell's files are read when it goes on
    if cell.kind != "test_time" and result is not None:
        yield from _run_damage(folder, result)


def _run_damage(folder: Path, result: dict[str, Any]) -> Iterator[Damage]:
    checkpoint, curves, model = folder / CHECKPOINT, folder / CURVES, folder / MODEL
    if not zipfile.is_zipfile(checkpoint):
        what = "is damaged" if checkpoint.exists() else "is missing"
        yield Damage(checkpoint, what, f"the scores stand, and it is {RETRAINED} only where another cell needs it")
    if model.exists():  # a run of an older version has none
        try:
            read_model_description(folder)
        except ModelError as error:
            yield Damage(model, str(error).removeprefix(f"{model}: "), REWRITTEN)
    lines, records = _bytes(curves).splitlines(), read_scalars(folder) if curves.is_file() else []
    if len(records) < len(lines):
        what = f"{len(lines) - len(records)} of {len(lines)} lines are damaged"
    elif not records:
        what = "is empty" if curves.exists() else "is missing"
    else:
        what = "ends too early" if records[-1]["step"] + 1 < result.get("steps", 0) else ""
    if what:
        yield Damage(curves, what, "the curves go without; no score depends on it")


def _picture_damage(folder: Path, domain: str, images: int) -> Iterator[Damage]:
    for index in picture_indices(images):
        path = folder / "pictures" / f"{domain}_{index}.png"
        content = _bytes(path)
        if not (content.startswith(_PNG[0]) and content.endswith(_PNG[1])):
            what = "is damaged" if path.exists() else "is missing"
            yield Damage(path, what, "the report goes without; no score depends on it")


def describe(damaged: Iterable[Damage]) -> list[str]:
    """Damages as lines; many files of the same name with the same damage are one."""
    alike: dict[tuple[str, ...], list[Damage]] = defaultdict(list)
    for damage in damaged:
        name = damage.path.name if damage.path.parent.name != "pictures" else "pictures"
        alike[name, damage.what, damage.remedy].append(damage)
    lines = []
    for group in alike.values():
        if len(group) <= LISTED:
            lines += [str(damage) for damage in group]
            continue
        named = ", ".join(str(damage.path) for damage in group[:LISTED])
        lines.append(f"{named} and {len(group) - LISTED} more: {group[0].what}; {group[0].remedy}")
    return lines


def network_damage(state: Any, expected: dict[str, tuple[int, ...]]) -> str:
    """What is wrong with the network of a checkpoint, given the shapes of its tensors; empty where nothing is."""
    model = state.get("model") if isinstance(state, dict) else None
    if not isinstance(model, dict):
        return "holds no network"
    shapes = {name: tuple(getattr(value, "shape", ())) for name, value in model.items()}
    for name in dict.fromkeys([*expected, *shapes]):
        if shapes.get(name) != expected.get(name):
            here, there = _shape(shapes, name), _shape(expected, name)
            return f"its network is of another shape ({name}: {here}, must be {there})"
    return ""


def _shape(shapes: dict[str, tuple[int, ...]], name: str) -> str:
    return "x".join(map(str, shapes[name])) or "a number" if name in shapes else "not there"


def _bytes(path: Path) -> bytes:
    """The content of a file; empty where it cannot be read."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _read(path: Path, model: type[BaseModel]) -> tuple[dict[str, Any] | None, str]:
    """The content of a JSON file and ``""``, or ``None`` and what is wrong with it."""
    try:
        text = path.read_text(encoding="utf-8")
        content: dict[str, Any] = json.loads(text)
        model.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        return None, f"is damaged ({where}: {first['msg']})" if where else "is damaged (no mapping)"
    except (OSError, ValueError, RecursionError) as error:
        return None, _why(path, error)
    return content, ""


def _read_evaluation(path: Path) -> tuple[Evaluation | None, str]:
    try:
        evaluation = Evaluation.load(path)
    except Exception as error:  # zip, zlib, numpy and struct have errors of their own
        return None, _why(path, error)
    images, classes = len(evaluation.names), len(evaluation.class_names)
    whole = images > 0 and evaluation.confusions.dtype.kind in "iu" and evaluation.losses.dtype.kind == "f"
    if not whole or evaluation.confusions.shape != (images, classes, classes) or evaluation.losses.shape != (images,):
        return None, "is damaged (its parts do not fit together)"
    return evaluation, ""


def _config_damage(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
        content = _parsed(text)
    except (OSError, ValueError) as error:
        return _why(path, error)
    if not text.strip():
        return "is empty"
    # half a YAML file is YAML as well: the last key must be there, with its value
    whole = isinstance(content, dict) and next(reversed(BenchConfig.model_fields)) in content and text.endswith("\n")
    return "" if whole else "is damaged (no whole config)"


@lru_cache(maxsize=4)
def _parsed(text: str) -> Any:
    """Of most cells it is the same text."""
    return parse(text)


def _why(path: Path, error: Exception) -> str:
    if not path.exists():
        return "is missing"
    if isinstance(error, OSError) and error.errno is not None:
        return f"cannot be read ({error.strerror})"
    return "is empty" if path.stat().st_size == 0 else f"is damaged ({type(error).__name__})"
