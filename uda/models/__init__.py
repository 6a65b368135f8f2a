"""Segmenters, the mean teacher and the domain discriminator."""

from __future__ import annotations

import difflib
from collections.abc import Callable
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
        ValueError: no such model; the message lists those there are.
    """
    if name not in MODELS:
        nearest = difflib.get_close_matches(name, MODELS, n=1)
        hint = f" (did you mean {nearest[0]}?)" if nearest else ""
        raise ValueError(f"no model {name!r}{hint}; known: {', '.join(MODELS)}")
    return MODELS[name](num_classes, **options)
