"""Papers as data: which methods with which arguments, settings and model make up a published recipe.

A preset has ``paper``, ``steps`` (iterations as published; ``None`` where the paper counts epochs or rounds),
``methods`` (``{name: arguments}`` in order), ``settings`` (fields of ``uda.engine.Settings`` that differ from its
defaults) and ``model`` (of ``uda.models.build_model``). Change it like any dictionary; leave an entry out to see what
it is worth. ``python -m uda.methods.presets DAFormer`` prints one resolved, with every argument of every method.

Departures that hold for all of them: source and target have one crop size, and steps are the length of the schedule
(AdaptSegNet, ADVENT, CLAN and FDA stop early in a longer one). Rare class sampling's thresholds are shares of the image
instead of pixels. The encoder of DAFormer, HRDA and MIC is MiT-B5, which is for non-commercial use;
``model: {encoder: mit_b5}`` names it, the default is the library's own.

Not checked against the papers: learning rates and batch sizes of CBST, CRST and ProDA, the steps of CLAN, FDA and
AdaptSegNet, and HRDA's ignored rows.
"""

from __future__ import annotations

import copy
import difflib
import sys
from collections.abc import Sequence
from typing import Any

import yaml

from uda.methods import parameters

Preset = dict[str, Any]

_DEEPLAB: dict[str, Any] = {"name": "deeplabv2_resnet101", "aux": False}
_DEEPLAB_AUX: dict[str, Any] = {"name": "deeplabv2_resnet101", "aux": True}
_SGD: dict[str, Any] = {"optimizer": "sgd", "lr": 2.5e-4, "momentum": 0.9, "weight_decay": 5e-4, "power": 0.9}
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
_DAFORMER_RUN: dict[str, Any] = {
    **_GTA_512, **_shares(0.5), "optimizer": "adamw", "lr": 6e-5, "head_multiplier": 10.0, "weight_decay": 0.01,
    "schedule": "poly", "power": 1.0, "warmup": 1500, "rare_class_temperature": 0.01, "teacher": _TEACHER,
}  # fmt: skip
_HRDA_RUN: dict[str, Any] = {**_DAFORMER_RUN, "crop": [1024, 1024]}
_HRDA_MODEL: dict[str, Any] = {"name": "hrda", "base": "daformer", "crop": [512, 512], "class_attention": True}
_ROWS = {"ignore_top": 15, "ignore_bottom": 120}
_ROWS_1024 = {"ignore_top": 30, "ignore_bottom": 240}
_DAFORMER_MIX: dict[str, Any] = {"classes": "batch", "jitter": 0.2}


def _daformer() -> list[dict[str, Any]]:
    return [{"Supervised": {"average": "all"}}, {"FeatureDistance": {}}, {"ClassMix": {**_DAFORMER_MIX, **_ROWS}}]


def _hrda() -> list[dict[str, Any]]:
    return [
        {"Supervised": {"weight": 0.9, "average": "all"}},
        {"HRDA": {"view": "source", "weight": 0.1}},
        {"FeatureDistance": {}},
        {"ClassMix": {"weight": 0.9, **_DAFORMER_MIX, **_ROWS_1024}},
        {"HRDA": {"view": "mixed", "weight": 0.1}},
    ]


def _one(paper: str, steps: int | None, name: str, arguments: dict[str, Any], aux: bool, **settings: Any) -> Preset:
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
    "AdaptSegNet": _one("Tsai et al., CVPR 2018", 150_000, "AdaptSegNet", _MULTI, True),
    "AdaptSegNet-single": _one("Tsai et al., CVPR 2018", 150_000, "AdaptSegNet", {"level": "single"}, False),
    "MinEnt": _one("Vu et al., CVPR 2019 (ADVENT)", 120_000, "MinEnt", _MULTI, True),
    "AdvEnt": _one("Vu et al., CVPR 2019 (ADVENT)", 120_000, "AdvEnt", _MULTI, True),
    "CLAN": _one("Luo et al., CVPR 2019", 100_000, "CLAN", {}, True),
    "MaxSquare": _one("Chen et al., ICCV 2019", None, "MaxSquare", {"weighting": "plain"}, True),
    "MaxSquare-IW": _one("Chen et al., ICCV 2019", None, "MaxSquare", {"weighting": "image", "level": "multi"}, True),
    "FDA": _one("Yang and Soatto, CVPR 2020", 100_000, "FDA", {"beta": 0.01, "entropy_weight": 0.005}, False),
    "CBST": _one("Zou et al., ECCV 2018; starts from a source network", None, "CBST", {}, False, **_CRST_RUN),
    "CRST": _one("Zou et al., ICCV 2019; starts from a source network", None, "CRST", {}, False, **_CRST_RUN),
    "ProDA": _one(
        "Zhang et al., CVPR 2021; starts from an adapted network", None, "ProDA", {}, False,
        batch_size=4, lr=1e-4, crop=[512, 896], augment={"scale": [0.7, 0.9], "flip": 0.5},
        teacher={"decay": 0.999, "update": "after", "mode": "train"},
    ),
    "DACS": {
        "paper": "Tranheden et al., WACV 2021",
        "steps": 250_000,
        "methods": [{"Supervised": {}}, {"ClassMix": {"classes": "image", "jitter": 0.25}}],
        "settings": {
            **_SGD, **_GTA_512, **_shares(0.0), "teacher": {"decay": 0.99, "update": "after", "mode": "train"},
        },
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
    found = copy.deepcopy(content)
    found["methods"] = [
        {name: {**{key: one.default for key, one in parameters(name).items()}, **arguments}}
        for entry in found["methods"]
        for name, arguments in entry.items()
    ]
    return found


PRESETS: dict[str, Preset] = {name: resolved(content) for name, content in _TABLE.items()}
"""Every preset by name, resolved."""


def preset(name: str) -> Preset:
    """A preset's own copy: ``paper``, ``steps``, ``methods``, ``settings`` and ``model``.

    Raises:
        ValueError: no preset of that name; the message has the nearest and the known ones.
    """
    if name not in PRESETS:
        lower = {one.lower(): one for one in PRESETS}
        close = difflib.get_close_matches(name.lower(), lower, n=1)
        hint = f"the nearest is {lower[close[0]]!r}; " if close else ""
        raise ValueError(f"no preset {name!r}; {hint}known are {', '.join(PRESETS)}")
    return copy.deepcopy(PRESETS[name])


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
