"""Papers as data: which methods with which arguments, settings and model make up a published recipe.

A preset has ``paper``, ``steps`` (iterations as published; ``None`` where the paper counts epochs or rounds),
``methods`` (``{name: arguments}`` in order), ``settings`` (fields of ``uda.engine.Settings`` that differ from its
defaults) and ``model`` (of ``uda.models.build_model``). ``preset(name, changes)`` changes single entries; leave a
method out to see what it is worth. ``python -m uda.presets DAFormer`` prints one with every argument written out.

Departures that hold for all of them: source and target have one crop size, and steps are the length of the schedule
(AdaptSegNet, ADVENT, CLAN and FDA stop early in a longer one). Rare class sampling's thresholds are shares of the image
instead of pixels. The encoder of DAFormer, HRDA and MIC is MiT-B5, which is for non-commercial use;
``model: {encoder: mit_b5}`` names it, the default is the library's own.

Not checked against the papers: learning rates and batch sizes of CBST, CRST and ProDA, the steps of CLAN, FDA and
AdaptSegNet, and HRDA's ignored rows.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from typing import Any

import torch
import yaml

from uda.engine import Settings, Trainer
from uda.methods import find_method, method, parameters
from uda.models import build_model
from uda.registry import nearest

Preset = dict[str, Any]
PARTS = ("methods", "settings", "model")
"""What of a preset makes up a run."""

_DEEPLAB: dict[str, Any] = {"name": "deeplabv2_resnet101", "aux": False}
_DEEPLAB_AUX: dict[str, Any] = {"name": "deeplabv2_resnet101", "aux": True}
_SGD: dict[str, Any] = {
    "optimizer": {"sgd": {"momentum": 0.9}}, "lr": 2.5e-4, "weight_decay": 5e-4, "schedule": {"poly": {"power": 0.9}},
}  # fmt: skip
_WHOLE: dict[str, Any] = {"scale": [1.0, 1.0], "flip": 0.0}
"""The largest window of the crop's shape, as it is."""
_ALONE: dict[str, Any] = {**_SGD, "batch_size": 1, "crop": [512, 1024], "augment": _WHOLE}
"""AdaptSegNet's training, which ADVENT, CLAN, MaxSquare and FDA took over: one whole image of each domain a step."""
_GTA_512: dict[str, Any] = {"batch_size": 2, "crop": [512, 512]}
"""Crops of GTA5 at 1280x720 and of Cityscapes at 1024x512; twice that for HRDA, whose shares are the same."""


def _shares(flip: float) -> dict[str, Any]:
    """Fixed crops: 512 of 720 rows in the source, all 512 in the target."""
    return {"augment": {"scale": [0.711, 0.711], "flip": flip}, "target_augment": {"scale": [1.0, 1.0], "flip": flip}}


_TEACHER: dict[str, Any] = {"decay": 0.999, "update": "before", "mode": "train"}
"""DAFormer's, which HRDA and MIC took over."""
_DAFORMER_RUN: dict[str, Any] = {
    **_GTA_512, **_shares(0.5), "optimizer": {"adamw": {}}, "lr": 6e-5, "head_multiplier": 10.0, "weight_decay": 0.01,
    "schedule": {"poly": {"power": 1.0}}, "warmup": 1500,
}  # fmt: skip
_HRDA_RUN: dict[str, Any] = {**_DAFORMER_RUN, "crop": [1024, 1024]}
_HRDA_MODEL: dict[str, Any] = {"name": "hrda", "base": "daformer", "crop": [512, 512], "class_attention": True}
_ROWS = {"ignore_top": 15, "ignore_bottom": 120}
_ROWS_1024 = {"ignore_top": 30, "ignore_bottom": 240}
_DAFORMER_MIX: dict[str, Any] = {"classes": "batch", "jitter": 0.2, "teacher": _TEACHER}


def _daformer() -> list[dict[str, Any]]:
    return [
        {"Supervised": {"average": "all"}},
        {"RareClassSampling": {"temperature": 0.01}},
        {"FeatureDistance": {}},
        {"ClassMix": {**_DAFORMER_MIX, **_ROWS}},
    ]


def _hrda() -> list[dict[str, Any]]:
    return [
        {"Supervised": {"weight": 0.9, "average": "all"}},
        {"RareClassSampling": {"temperature": 0.01}},
        {"HRDA": {"view": "source", "weight": 0.1}},
        {"FeatureDistance": {}},
        {"ClassMix": {"weight": 0.9, **_DAFORMER_MIX, **_ROWS_1024}},
        {"HRDA": {"view": "mixed", "weight": 0.1}},
    ]


def _on_deeplab(
    paper: str, steps: int | None, name: str, arguments: dict[str, Any], aux: bool, **settings: Any
) -> Preset:
    """The supervised loss and one method on DeepLabV2."""
    return {
        "paper": paper,
        "steps": steps,
        "methods": [{"Supervised": {"aux_weight": 0.1}}, {name: arguments}],
        "settings": {**_ALONE, **settings},
        "model": _DEEPLAB_AUX if aux else _DEEPLAB,
    }


_MULTI = {"level": "multi", "weight": 0.001, "aux_weight": 0.0002}
_CRST_RUN: dict[str, Any] = {"batch_size": 2, "lr": 5e-5, "augment": {"scale": [0.7, 1.0], "flip": 0.5}}

_TABLE: dict[str, Preset] = {
    "AdaptSegNet": _on_deeplab("Tsai et al., CVPR 2018", 150_000, "AdaptSegNet", _MULTI, True),
    "AdaptSegNet-single": _on_deeplab("Tsai et al., CVPR 2018", 150_000, "AdaptSegNet", {"level": "single"}, False),
    "MinEnt": _on_deeplab("Vu et al., CVPR 2019 (ADVENT)", 120_000, "MinEnt", _MULTI, True),
    "AdvEnt": _on_deeplab("Vu et al., CVPR 2019 (ADVENT)", 120_000, "AdvEnt", _MULTI, True),
    "CLAN": _on_deeplab("Luo et al., CVPR 2019", 100_000, "CLAN", {}, True),
    "MaxSquare": _on_deeplab("Chen et al., ICCV 2019", None, "MaxSquare", {"weighting": "plain"}, True),
    "MaxSquare-IW": _on_deeplab(
        "Chen et al., ICCV 2019", None, "MaxSquare", {"weighting": "image", "level": "multi"}, True
    ),
    "FDA": _on_deeplab("Yang and Soatto, CVPR 2020", 100_000, "FDA", {"beta": 0.01, "entropy_weight": 0.005}, False),
    "CBST": _on_deeplab("Zou et al., ECCV 2018; starts from a source network", None, "CBST", {}, False, **_CRST_RUN),
    "CRST": _on_deeplab("Zou et al., ICCV 2019; starts from a source network", None, "CRST", {}, False, **_CRST_RUN),
    "ProDA": _on_deeplab(
        "Zhang et al., CVPR 2021; starts from an adapted network", None, "ProDA", {}, False,
        batch_size=4, lr=1e-4, crop=[512, 896], augment={"scale": [0.7, 0.9], "flip": 0.5},
    ),
    "DACS": {
        "paper": "Tranheden et al., WACV 2021",
        "steps": 250_000,
        "methods": [{"Supervised": {}}, {"ClassMix": {"classes": "image", "jitter": 0.25}}],
        "settings": {**_SGD, **_GTA_512, **_shares(0.0)},
        "model": _DEEPLAB,
    },
    "DAFormer": {
        "paper": "Hoyer et al., CVPR 2022",
        "steps": 40_000,
        "methods": _daformer(),
        "settings": _DAFORMER_RUN,
        "model": {"name": "daformer"},
    },
    "HRDA": {
        "paper": "Hoyer et al., ECCV 2022",
        "steps": 40_000,
        "methods": _hrda(),
        "settings": _HRDA_RUN,
        "model": _HRDA_MODEL,
    },
    "MIC-DAFormer": {
        "paper": "Hoyer et al., CVPR 2023",
        "steps": 40_000,
        "methods": [*_daformer(), {"MIC": {"block": 32, **_ROWS}}],
        "settings": _DAFORMER_RUN,
        "model": {"name": "daformer"},
    },
    "MIC-HRDA": {
        "paper": "Hoyer et al., CVPR 2023",
        "steps": 40_000,
        "methods": [
            *_hrda(),
            {"MIC": {"weight": 0.9, "block": 64, **_ROWS_1024}},
            {"HRDA": {"view": "masked", "weight": 0.1}},
        ],
        "settings": _HRDA_RUN,
        "model": _HRDA_MODEL,
    },
}  # fmt: skip


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


PRESETS: dict[str, Preset] = {name: resolved(content) for name, content in _TABLE.items()}
"""Every preset by name, resolved."""


def preset(name: str, changes: Mapping[str, Any] | None = None) -> Preset:
    """A preset's own copy: ``paper``, ``steps``, ``methods``, ``settings`` and ``model``.

    Args:
        name: of :data:`PRESETS`.
        changes: single entries by dotted key: ``ClassMix.threshold``, ``settings.lr``, ``model.encoder``; a method
            that occurs twice is ``HRDA`` and ``HRDA2``, as in the logs. A method's name alone with a mapping changes
            several of its arguments, with ``None`` it leaves the method out; one that is not there is added at the end.

    Raises:
        ValueError: no preset of that name, or no such entry; the message has the nearest and the known ones.
    """
    if name not in PRESETS:
        raise ValueError(f"no preset {name!r}; {nearest(name, PRESETS)}")
    chosen = copy.deepcopy(PRESETS[name])
    for key, value in (changes or {}).items():
        head, dot, rest = str(key).partition(".")
        if head in ("settings", "model") and (dot or isinstance(value, Mapping)):
            chosen[head] |= {rest: value} if dot else dict(value)
        else:
            _change_method(name, chosen, head, {rest: value} if dot else value)
    return chosen


def _change_method(preset_name: str, chosen: Preset, label: str, value: Any) -> None:
    """Change, leave out or add one method of a preset."""
    labels: dict[str, int] = {}
    for index, spec in enumerate(chosen["methods"]):
        (method_name,) = spec
        count = sum(next(iter(earlier)) == method_name for earlier in chosen["methods"][:index])
        labels[method_name if count == 0 else f"{method_name}{count + 1}"] = index
    if label in labels and value is None:
        del chosen["methods"][labels[label]]
        return
    if not isinstance(value, Mapping):
        raise ValueError(
            f"changes of preset {preset_name!r}: {label!r} takes a mapping of arguments or null, got {value!r}"
        )
    if label not in labels:
        try:
            find_method(label)
        except ValueError as error:
            known = [*labels, "settings", "model"]
            raise ValueError(f"preset {preset_name!r} has no {label!r}; {nearest(label, known)}") from error
        chosen["methods"].append({label: _arguments(label, value)})
        return
    spec = chosen["methods"][labels[label]]
    ((method_name, arguments),) = spec.items()
    known_arguments = parameters(method_name)
    for key in value:
        if key not in known_arguments:
            raise ValueError(f"{method_name} has no argument {key!r}; {nearest(key, known_arguments)}")
    spec[method_name] = _arguments(method_name, {**arguments, **value})


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
        steps: of the run; the paper's by default.
        seed: of the run and of the model's new layers.
        options: further arguments of :class:`~uda.engine.Trainer` (``out``, ``evaluate_on``, ...).

    Raises:
        ValueError: an unknown preset or entry, or no ``steps`` where the paper has none.
    """
    recipe = preset(name, changes)
    length = steps or recipe["settings"].pop("steps", None) or recipe["steps"]
    if length is None:
        raise ValueError(f"preset {name!r} has no number of steps ({recipe['paper']}); say how many")
    torch.manual_seed(seed)
    model = build_model(recipe["model"].pop("name"), num_classes, **recipe["model"])
    methods: Any = [method(key, **arguments) for spec in recipe["methods"] for key, arguments in spec.items()]
    return Trainer(model, methods, Settings(**{**recipe["settings"], "steps": length, "seed": seed}), **options)


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


if __name__ == "__main__":
    main(sys.argv[1:])
