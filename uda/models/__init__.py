"""Segmenters, the mean teacher and the domain discriminator."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

from uda.models.adapter import SegmenterAdapter, adapt
from uda.models.base import FrozenEncoder, Normalise, SegmentationNetwork
from uda.models.daformer import DaformerHead, DaformerSegmenter
from uda.models.deeplabv2 import AsppHead, DeepLabV2, deeplabv2_resnet101
from uda.models.discriminator import Discriminator
from uda.models.hrda import HrdaOutput, HrdaSegmenter, average_slides, fuse_scales, slide_boxes
from uda.models.segmenter import Segmenter
from uda.models.teacher import Teacher, ema_alpha, ema_update_
from uda.models.weights import load_encoder_weights

__all__ = [
    "MODELS",
    "AsppHead",
    "DaformerHead",
    "DaformerSegmenter",
    "DeepLabV2",
    "Discriminator",
    "FrozenEncoder",
    "HrdaOutput",
    "HrdaSegmenter",
    "Normalise",
    "SegmentationNetwork",
    "Segmenter",
    "SegmenterAdapter",
    "Teacher",
    "adapt",
    "average_slides",
    "build_model",
    "deeplabv2_resnet101",
    "ema_alpha",
    "ema_update_",
    "fuse_scales",
    "hrda",
    "load_encoder_weights",
    "slide_boxes",
]


def hrda(
    num_classes: int,
    base: str = "daformer",
    crop: tuple[int, int] | None = None,
    class_attention: bool = True,
    embed_channels: int = 256,
    **options: Any,
) -> HrdaSegmenter:
    """HRDA over a network by name: ``crop`` and what follows as :class:`HrdaSegmenter`, ``options`` the base's.

    Raises:
        ValueError: no such base network.
    """
    if base == "hrda":
        raise ValueError("HRDA cannot be its own base")
    network = build_model(base, num_classes, **options)
    assert isinstance(network, SegmentationNetwork)
    return HrdaSegmenter(network, None if crop is None else (crop[0], crop[1]), class_attention, embed_channels)


MODELS: dict[str, Callable[..., nn.Module]] = {
    "segmenter": Segmenter,
    "deeplabv2_resnet101": deeplabv2_resnet101,
    "daformer": DaformerSegmenter,
    "hrda": hrda,
}
"""Every segmenter that a config can name."""


def build_model(name: str, num_classes: int, **options: Any) -> nn.Module:
    """A segmenter by its name in :data:`MODELS`; ``options`` are its constructor's.

    Raises:
        ValueError: no such model or option; the message has the nearest and all there are.
    """
    if name not in MODELS:
        raise ValueError(f"no model {name!r}{_nearest(name, MODELS)}")
    parameters = inspect.signature(MODELS[name]).parameters.values()
    known = [one.name for one in parameters if one.name != "num_classes" and one.kind is not one.VAR_KEYWORD]
    # HRDA hands what it does not know on to its base network, which looks at it here
    if all(one.kind is not one.VAR_KEYWORD for one in parameters):
        for key in options:
            if key not in known:
                raise ValueError(f"model {name!r} has no option {key!r}{_nearest(key, known)}")
    return MODELS[name](num_classes, **options)


def _nearest(name: str, known: Iterable[str]) -> str:
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1)
    return f"{f' (did you mean {close[0]}?)' if close else ''}; known: {', '.join(names)}"
