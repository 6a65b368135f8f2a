"""One identity of a run: what determines its weights, as plain values; used by resume and by benchmarks alike.

In it: the methods' constructor arguments with their defaults written out, the settings that touch the weights, the
content of the data sets (not where they lie), the model's shapes, the teacher. Not in it: paths, caches, devices,
loader workers, how often is logged, evaluated or saved.
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel
from torch import nn

from uda.data.identity import dataset_identity, digest
from uda.engine.grouping import unique_labels
from uda.engine.settings import Augment, Settings
from uda.methods.base import Method
from uda.types import LabelledDataset, TeacherSpec, UnlabelledDataset

SCHEMA = 4
"""Of the identity itself; another one is another run. Raise it when a new default changes what old settings meant.

3: AdaBN pools the target set, labels are resized nearest-exact, ProDA, SAC, CoTTA and MaxSquare train as their authors.
4: CBST, CRST and MRNet label whole images once and store the maps.
"""
INCIDENTAL = (
    *("workers", "device", "log_every", "image_every", "eval_every", "checkpoint_every"),
    *("activation_checkpointing", "compile"),
)
"""Settings that no weight depends on, but for rounding."""
NAMED_DIFFERENCES = 4
"""Differences that a message lists."""
UNKNOWN = None
"""A part that cannot be looked at now (data that is not there); it differs from nothing."""
DATA = ("source", "target", "data", "adapts_on")
"""Parts of an identity that may be unknown."""


def run_identity(
    model: nn.Module,
    methods: Sequence[Method],
    settings: Settings,
    source: LabelledDataset | Mapping[str, Any] | None,
    target: UnlabelledDataset | Mapping[str, Any] | None,
    teacher: TeacherSpec | None,
) -> dict[str, Any]:
    """The identity of a training run.

    Args:
        model: shapes are taken from it, no numbers; may be on the meta device.
        methods: as they were built.
        settings: of the run.
        source: the labelled data, or its identity, or ``None`` where it cannot be looked at.
        target: likewise; ``None`` too for a run without target.
        teacher: of the run.
    """
    return {
        "schema": SCHEMA,
        "model": model_identity(model),
        "methods": {
            label: plain(method.arguments) for label, method in zip(unique_labels(methods), methods, strict=True)
        },
        "settings": settings_identity(settings),
        "teacher": None if teacher is None else dataclasses.asdict(teacher),
        "source": _data(source),
        "target": _data(target),
    }


def defaults_of(methods: Sequence[Method]) -> dict[str, Any]:
    """The default values at their places in an identity: what an older record without the key stands for."""
    return {
        "methods": {
            label: plain(
                {
                    name: parameter.default
                    for name, parameter in inspect.signature(type(method).__init__).parameters.items()
                    if parameter.default is not parameter.empty
                }
            )
            for label, method in zip(unique_labels(methods), methods, strict=True)
        },
        # where images of the target have an augmentation of their own, its keys have defaults too
        "settings": {**settings_identity(Settings(steps=1)), "target_augment": Augment().model_dump(mode="json")},
        "teacher": dataclasses.asdict(TeacherSpec()),
    }


def model_identity(model: nn.Module) -> dict[str, Any]:
    """Class, number of parameters, a digest of the shapes of everything in the state, and the constructor's arguments.

    A weights file counts by its content; a network among the arguments (HRDA's base) by its own identity.
    """
    shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    identity = {
        "class": type(model).__name__,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "shapes": digest(shapes),
    }
    arguments = getattr(model, "arguments", None)
    if not isinstance(arguments, Mapping):
        return identity
    return {**identity, "arguments": {name: _model_argument(name, value) for name, value in arguments.items()}}


def _model_argument(name: str, value: Any) -> Any:
    if isinstance(value, nn.Module) and any(True for _ in value.parameters()):
        return model_identity(value)
    return plain(weights_value(value) if name == "weights" else value)


def weights_value(value: Any) -> Any:
    """A model's ``weights`` argument: a file as a path, which counts by its content, anything else as it is."""
    path = Path(value).expanduser() if isinstance(value, str) else value
    return path if isinstance(path, Path) and path.is_file() else value


def settings_identity(settings: Settings) -> dict[str, Any]:
    """The settings that touch the weights; the teacher stands beside them, resolved."""
    content: dict[str, Any] = settings.model_dump(mode="json", exclude={*INCIDENTAL, "teacher"})
    return content


def plain(value: Any) -> Any:
    """A value as numbers, strings, lists and mappings; files, tensors and networks by their content."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(child) for key, child in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted((plain(member) for member in value), key=str)
    if isinstance(value, (list, tuple)):
        return [plain(element) for element in value]
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain(dataclasses.asdict(value))
    if isinstance(value, Path):
        return {"file": value.name, "content": _hash(value.read_bytes()) if value.is_file() else "missing"}
    if isinstance(value, (torch.Tensor, np.ndarray)):
        return {"shape": list(value.shape), "content": _hash(_bytes(value))}
    if isinstance(value, nn.Module):
        state = {name: _hash(_bytes(tensor)) for name, tensor in value.state_dict().items()}
        return {"class": type(value).__name__, "content": digest(state)}
    return getattr(value, "__qualname__", type(value).__qualname__)


def differences(old: Mapping[str, Any], new: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[str]:
    """Where two identities differ, ``settings.lr: 0.0001 -> 0.001``, key by key; empty for the same run.

    A key that the older one lacks was added since: it differs only if it is not at its default.
    A part that is unknown in the new one differs from nothing.
    """
    if old.get("schema") != new["schema"]:
        return [f"schema: {old.get('schema', 1)} -> {new['schema']} (written by another version of uda)"]
    return list(_differences(old, new, defaults, ""))


def describe_differences(lines: Sequence[str]) -> str:
    """The first differences in one line."""
    more = f"; and {len(lines) - NAMED_DIFFERENCES} more" if len(lines) > NAMED_DIFFERENCES else ""
    return "; ".join(lines[:NAMED_DIFFERENCES]) + more


def _differences(old: Any, new: Any, default: Any, path: str) -> list[str]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        known = default if isinstance(default, Mapping) else {}
        lines: list[str] = []
        for key in dict.fromkeys([*old, *new]):
            place = f"{path}.{key}".lstrip(".")
            if key not in old:
                if key not in known or known[key] != new[key]:
                    lines.append(f"{place}: not there -> {_short(new[key])}")
            elif key not in new:
                lines.append(f"{place}: {_short(old[key])} -> not there")
            else:
                lines += _differences(old[key], new[key], known.get(key), place)
        return lines
    if _are_rows(old) and _are_rows(new) and len(old) == len(new):
        # by place, so that the one key that differs is named and not lost in what is cut
        return [
            line
            for place, (before, after) in enumerate(zip(old, new, strict=True))
            for line in _differences(before, after, None, f"{path}.{place}")
        ]
    if old == new or (new is UNKNOWN and path.rpartition(".")[2] in DATA):
        return []
    return [f"{path}: {_short(old)} -> {_short(new)}"]


def _are_rows(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(row, Mapping) for row in value)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _data(dataset: Any) -> Any:
    return dataset if dataset is None or isinstance(dataset, Mapping) else dataset_identity(dataset)


def _bytes(tensor: Any) -> bytes:
    if isinstance(tensor, torch.Tensor):
        tensor = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return np.ascontiguousarray(tensor).tobytes()


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
