"""Presets for use: resolved, changed, as a trainer, printed."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from typing import Any

import torch
import yaml

from uda.engine import Inference, Settings, Trainer
from uda.methods import find_method, method, parameters
from uda.methods.base import check_learning
from uda.models import build_model
from uda.presets.sources import WRITTEN
from uda.registry import nearest

Preset = dict[str, Any]
PARTS = ("methods", "settings", "model", "evaluate")
"""What of a preset makes up a run."""


def resolved(content: Preset) -> Preset:
    """A copy of a preset with every argument of every method written out.

    Raises:
        ValueError: an unknown method.
    """
    complete = copy.deepcopy(content)
    complete["methods"] = [
        {name: _arguments(name, arguments)} for spec in complete["methods"] for name, arguments in spec.items()
    ]
    return complete


def _arguments(name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    every = {key: parameter.default for key, parameter in parameters(name).items()}
    for key, value in arguments.items():
        default = every.get(key)
        every[key] = {**asdict(default), **value} if is_dataclass(default) and isinstance(value, Mapping) else value  # type: ignore[arg-type]
    return {key: asdict(value) if is_dataclass(value) else value for key, value in every.items()}  # type: ignore[arg-type]


PRESETS: dict[str, Preset] = {name: resolved(content) for name, content in WRITTEN.items()}
"""Every preset by name, resolved."""


def preset(name: str, changes: Mapping[str, Any] | None = None) -> Preset:
    """A preset's own copy, see :mod:`uda.presets`.

    Args:
        name: of :data:`PRESETS`.
        changes: single entries by dotted key: ``ClassMix.threshold``, ``settings.augment.flip``, ``model.encoder``,
            ``evaluate.flip``; a method that occurs twice is ``HRDA`` and ``HRDA2``, as in the logs. A method's name
            alone with a mapping changes several of its arguments, with ``None`` it leaves the method out; one that is
            not there is added at the end.

    Raises:
        ValueError: no preset of that name, or no such entry; the message has the nearest and the known ones.
    """
    if name not in PRESETS:
        raise ValueError(f"no preset {name!r}; {nearest(name, PRESETS)}")
    chosen = copy.deepcopy(PRESETS[name])
    for key, value in (changes or {}).items():
        head, *path = str(key).split(".")
        if head in ("settings", "model", "evaluate") and (path or isinstance(value, Mapping)):
            chosen[head] = _with(chosen[head], path, value) if path else {**chosen[head], **value}
        else:
            _change_method(name, chosen, head, path, value)
    return chosen


def _with(content: Any, path: Sequence[str], value: Any) -> Any:
    """A copy of nested mappings with the entry at ``path`` set."""
    if not path:
        return value
    below = dict(content) if isinstance(content, Mapping) else {}
    return {**below, path[0]: _with(below.get(path[0]), path[1:], value)}


def _change_method(preset_name: str, chosen: Preset, label: str, path: Sequence[str], value: Any) -> None:
    """Change, leave out or add one method of a preset."""
    labels: dict[str, int] = {}
    for index, spec in enumerate(chosen["methods"]):
        (method_name,) = spec
        count = sum(next(iter(earlier)) == method_name for earlier in chosen["methods"][:index])
        labels[method_name if count == 0 else f"{method_name}{count + 1}"] = index
    if label in labels and value is None and not path:
        del chosen["methods"][labels[label]]
        return
    if not path and not isinstance(value, Mapping):
        raise ValueError(
            f"changes of preset {preset_name!r}: {label!r} takes a mapping of arguments or null, got {value!r}"
        )
    if label not in labels:
        try:
            find_method(label)
        except ValueError as error:
            known = [*labels, "settings", "model", "evaluate"]
            raise ValueError(f"preset {preset_name!r} has no {label!r}; {nearest(label, known)}") from error
        chosen["methods"].append({label: _arguments(label, _with({}, path, value))})
        return
    spec = chosen["methods"][labels[label]]
    ((method_name, arguments),) = spec.items()
    known_arguments = parameters(method_name)
    for key in path[:1] or value:
        if key not in known_arguments:
            raise ValueError(f"{method_name} has no argument {key!r}; {nearest(key, known_arguments)}")
    spec[method_name] = _arguments(method_name, _with(arguments, path, value) if path else {**arguments, **value})


def preset_trainer(
    name: str,
    num_classes: int,
    *,
    changes: Mapping[str, Any] | None = None,
    steps: int | None = None,
    seed: int = 0,
    **options: Any,
) -> Trainer:
    """A trainer of a published recipe.

    Args:
        name: of :data:`PRESETS`.
        num_classes: classes of the model.
        changes: see :func:`preset`.
        steps: of the run; the paper's by default. The warm-up and a horizon keep their lengths.
        seed: of the run and of the model's new layers.
        options: further arguments of :class:`~uda.engine.Trainer` (``out``, ``evaluate_on``, ...).

    Raises:
        ValueError: an unknown preset or entry, or methods that train nothing.
    """
    recipe = preset(name, changes)
    length = steps or recipe["settings"].pop("steps", None) or recipe["steps"]
    methods: Any = [method(key, **arguments) for spec in recipe["methods"] for key, arguments in spec.items()]
    try:
        check_learning(methods)
    except ValueError as error:
        raise ValueError(f"preset {name!r} with these changes: {error}") from error
    torch.manual_seed(seed)
    model = build_model(recipe["model"].pop("name"), num_classes, **recipe["model"])
    settings = Settings(**{**recipe["settings"], "steps": length, "seed": seed})
    scoring = {"score": recipe["evaluate"].pop("model", "student"), "inference": Inference(**recipe["evaluate"])}
    return Trainer(model, methods, settings, **{**scoring, **options})


def describe(name: str) -> str:
    """A preset as YAML, resolved."""
    return yaml.dump({name: preset(name)}, Dumper=_Plain, sort_keys=False, width=100)


class _Plain(yaml.SafeDumper):
    """Without anchors for what is written twice."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def main(names: Sequence[str]) -> None:
    """Print presets, all of them without names."""
    for name in names or PRESETS:
        print(describe(name))
