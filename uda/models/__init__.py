"""Segmenters, the mean teacher and the domain discriminator; nothing is imported before it is asked for."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

from uda.registry import Registry, keyword_arguments, nearest

if TYPE_CHECKING:
    from torch import nn

    from uda.models.adapter import SegmenterAdapter, adapt
    from uda.models.base import FrozenEncoder, Normalise, SegmentationNetwork
    from uda.models.batch_norm import add_target_norms, normalising
    from uda.models.daformer import DaformerHead, DaformerSegmenter
    from uda.models.deeplabv2 import AsppHead, DeepLabV2, deeplabv2_resnet101
    from uda.models.discriminator import Discriminator
    from uda.models.exporting import Export, ParityError, export
    from uda.models.hrda import HrdaSegmenter, average_slides, build_hrda, fuse_scales, slide_boxes
    from uda.models.modes import evaluating
    from uda.models.pretrained import load, save
    from uda.models.segmenter import Segmenter
    from uda.models.teacher import Teacher, ema_alpha, ema_update_
    from uda.models.weights import load_encoder_weights

_PLACES = {
    "AsppHead": "deeplabv2",
    "DaformerHead": "daformer",
    "DaformerSegmenter": "daformer",
    "DeepLabV2": "deeplabv2",
    "Discriminator": "discriminator",
    "Export": "exporting",
    "FrozenEncoder": "base",
    "HrdaSegmenter": "hrda",
    "Normalise": "base",
    "ParityError": "exporting",
    "SegmentationNetwork": "base",
    "Segmenter": "segmenter",
    "SegmenterAdapter": "adapter",
    "Teacher": "teacher",
    "adapt": "adapter",
    "add_target_norms": "batch_norm",
    "normalising": "batch_norm",
    "average_slides": "hrda",
    "deeplabv2_resnet101": "deeplabv2",
    "ema_alpha": "teacher",
    "ema_update_": "teacher",
    "evaluating": "modes",
    "export": "exporting",
    "fuse_scales": "hrda",
    "build_hrda": "hrda",
    "load": "pretrained",
    "load_encoder_weights": "weights",
    "save": "pretrained",
    "slide_boxes": "hrda",
}

MODELS: Registry[Callable[..., nn.Module]] = Registry(
    "model",
    {
        "segmenter": "uda.models.segmenter:Segmenter",
        "deeplabv2_resnet101": "uda.models.deeplabv2:deeplabv2_resnet101",
        "daformer": "uda.models.daformer:DaformerSegmenter",
        "hrda": "uda.models.hrda:build_hrda",
    },
    group="uda.models",
    accepts=callable,
)
"""Segmenters by the name that configs use; any other callable that takes a number of classes by its place."""


def build_model(name: str, num_classes: int, **options: Any) -> nn.Module:
    """A segmenter by its name in :data:`MODELS`, or by its place ``package.module:Name``.

    Args:
        name: of a class or function that takes the number of classes first.
        num_classes: classes C.
        options: its further arguments.

    Raises:
        ValueError: no such model or option; the message has the nearest and all there are.
        TypeError: what was built is no segmenter (:class:`~uda.types.SegmenterLike`).
    """
    from uda.types import as_segmenter

    build = MODELS[name]
    known = model_options(name)
    takes_any = any(p.kind is p.VAR_KEYWORD for p in inspect.signature(build).parameters.values())
    for key in options:
        # HRDA hands what it does not know on to its base network, which looks at it here
        if key not in known and not takes_any:
            raise ValueError(f"model {name!r} has no option {key!r}; {nearest(key, known)}")
    model = build(num_classes, **options)
    as_segmenter(model)
    vars(model)["built_as"] = {"name": name, "options": options}  # for uda.models.save
    return model


def model_options(name: str) -> dict[str, inspect.Parameter]:
    """The options of a model by name, but for the number of classes."""
    return dict(list(keyword_arguments(MODELS[name]).items())[1:])


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f"{__name__}.{_PLACES[name]}")
    value = getattr(module, name)
    globals()[name] = value  # found once
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


__all__ = [
    "MODELS",
    "AsppHead",
    "DaformerHead",
    "DaformerSegmenter",
    "DeepLabV2",
    "Discriminator",
    "Export",
    "FrozenEncoder",
    "HrdaSegmenter",
    "Normalise",
    "ParityError",
    "SegmentationNetwork",
    "Segmenter",
    "SegmenterAdapter",
    "Teacher",
    "adapt",
    "add_target_norms",
    "average_slides",
    "build_hrda",
    "build_model",
    "deeplabv2_resnet101",
    "ema_alpha",
    "ema_update_",
    "evaluating",
    "export",
    "fuse_scales",
    "load",
    "load_encoder_weights",
    "model_options",
    "normalising",
    "save",
    "slide_boxes",
]
