"""A single run as a config: source, target, a method; no table around it.

::

    source: {kind: cityscapes, root: data/cityscapes, split: train}
    target: {kind: folder, root: ~/recordings}      # images, no labels
    method: {preset: DAFormer, change: {ClassMix.threshold: 0.9}}      # or [Supervised, AdvEnt]
    settings: {steps: 2000}

The other keys are a benchmark's, without those about rows and seeds. ``space`` is by default the source's own classes.
A preset's settings, model and evaluation hold where the config says nothing, entry by entry.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from uda.config.names import as_name
from uda.config.records import SOURCE_ONLY, BenchConfig
from uda.data import DATASETS, dataset_options
from uda.presets import preset
from uda.registry import nearest, short

METHOD = "method"
"""The key that a benchmark config does not have."""
_ROWS = ("methods", "seeds", "oracle", "controls", "resamples", "learning_curve")
KEYS = (METHOD, *(key for key in BenchConfig.model_fields if key not in _ROWS))
"""Keys of a single run's config."""
SUPERVISED = "Supervised"


class RunError(ValueError):
    """What is wrong with a single run's config: the key and the message."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key, self.message = key, message


def is_run(content: Mapping[str, Any]) -> bool:
    """Whether a config is one of a single run, not of a benchmark."""
    return METHOD in content or "methods" not in content


def as_benchmark(content: Mapping[str, Any], name: str) -> tuple[dict[str, Any], str]:
    """The benchmark of one row that a single run is.

    Args:
        content: of a single run's config, variables filled in.
        name: of the run, where the config has none.

    Returns:
        The content of a benchmark config, and the name of its row.

    Raises:
        RunError: a key that is unknown, missing or wrong.
    """
    for key in content:
        if key == "search":
            raise RunError(key, "is of a search: uda search takes it")
        if key not in KEYS:
            raise RunError(str(key), f"unknown key of a single run; {nearest(str(key), KEYS)}")
    for key in ("source", "target"):
        if content.get(key) is None:
            raise RunError(key, "is missing: {kind: .., root: ..} of a data set; or --" + key + " KIND:PATH")
    benchmark = {key: value for key, value in content.items() if key != METHOD}
    row, recipe = _row(content.get(METHOD))
    settings = benchmark.get("settings") or {}
    if recipe is not None:
        settings = _over({**recipe["settings"], "steps": recipe["steps"]}, settings)
        model = benchmark.get("model") or {}
        same = model.get("name", recipe["model"].get("name")) == recipe["model"].get("name")
        benchmark["model"] = {**recipe["model"], **model} if same else model
        benchmark["evaluate"] = {**recipe["evaluate"], **(benchmark.get("evaluate") or {})}
        row["methods"] = recipe["methods"]
    if row.get("target_labels") is None:
        benchmark["target"] = _images_of(benchmark["target"])
    benchmark["settings"] = settings
    benchmark.setdefault("name", as_name(name))
    if benchmark.get("space") is None:
        benchmark["space"] = _own_space(benchmark["source"])
    label = _label(row, content.get(METHOD))
    rows = {SOURCE_ONLY: {"methods": [SUPERVISED]}, label: row}
    return {**benchmark, "methods": rows, "oracle": False, "controls": False, "seeds": [0]}, label


def _row(value: Any) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The row of a method, and the recipe if it is a preset."""
    if isinstance(value, list):
        return {"methods": value}, None
    if not isinstance(value, Mapping) or not {"methods", "preset"} & set(value):
        if value is None:
            message = "is missing: a list such as [Supervised, AdvEnt], or {preset: NAME}; or --preset NAME"
        else:
            message = f"a list such as [Supervised, AdvEnt] or {{preset: NAME}} is needed, got {short(value)}"
        raise RunError(METHOD, message)
    row = dict(value)
    if "test_time" in row or "control" in row:
        key = "test_time" if "test_time" in row else "control"
        raise RunError(f"{METHOD}.{key}", "belongs to a benchmark's rows; a single run is trained")
    if "preset" not in row:
        return row, None
    name, changes = row.pop("preset"), row.pop("change", None) or {}
    labels = {key: row.pop(key) for key in ("target_labels",) if key in row}
    if row:
        raise RunError(f"{METHOD}.{next(iter(row))}", "goes with methods; what differs from a preset is under change")
    if not isinstance(changes, Mapping):
        raise RunError(f"{METHOD}.change", f"a mapping of entries is needed, got {short(changes)}")
    try:
        return labels, preset(str(name), changes)
    except ValueError as error:
        raise RunError(f"{METHOD}.preset", str(error)) from error


def _over(below: Mapping[str, Any], above: Any) -> Any:
    """``above`` in place of single entries of ``below``; what is chosen by name (an optimiser) is replaced whole."""
    if not isinstance(above, Mapping):
        return above
    merged = dict(below)
    for key, value in above.items():
        nested = key in ("augment", "target_augment") and isinstance(value, Mapping)
        merged[key] = {**(below.get(key) or {}), **value} if nested else value
    return merged


def _images_of(target: Any) -> Any:
    """The target's spec with labels that nobody looks for."""
    if not isinstance(target, Mapping) or "labelled" in target:
        return target
    kind = str(target.get("kind", ""))
    known = kind.lower() in DATASETS  # another reader need not know the option
    return {**target, "labelled": False} if known else target


def _own_space(source: Any) -> Any:
    """The source's own classes as the space of the run."""
    first = source[0] if isinstance(source, list) and source else source
    if not isinstance(first, Mapping):
        raise RunError("source", f"a mapping of kind, root and the reader's options is needed, got {short(first)}")
    kind, classes = str(first.get("kind")), first.get("classes")
    if classes is not None:
        return classes if isinstance(classes, str) else {"classes": classes}
    try:
        options = dataset_options(kind)
    except ValueError as error:
        raise RunError("source.kind", str(error)) from error
    if "classes" in options:
        raise RunError("source.classes", "is missing: what the labels hold, names in the order of their ids")
    space = getattr(DATASETS[kind.lower()], "default_space", None) if kind.lower() in DATASETS else None
    if space is None:
        raise RunError("space", f"is missing: the classes to train on, which the reader {short(kind)} does not say")
    return space.name


def _label(row: Mapping[str, Any], value: Any) -> str:
    """A name for the row: the preset's, or those of the methods that do more than source-only training does."""
    if isinstance(value, Mapping) and "preset" in value:
        return str(value["preset"])
    names = [str(next(iter(spec)) if isinstance(spec, Mapping) and spec else spec) for spec in row["methods"]]
    label = "+".join(name.rpartition(":")[2] for name in names if name != SUPERVISED)
    if not label and row.get("target_labels") is not None:
        return f"{SOURCE_ONLY}-labels"
    return as_name(label) if label else SOURCE_ONLY
