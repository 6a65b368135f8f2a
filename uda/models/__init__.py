"""Segmenters, the mean teacher and the domain discriminator."""

from uda.models.base import FrozenEncoder, Normalise, SegmentationNetwork
from uda.models.discriminator import Discriminator
from uda.models.segmenter import Segmenter
from uda.models.teacher import Teacher, ema_alpha, ema_update_
from uda.models.weights import load_encoder_weights

__all__ = [
    "Discriminator",
    "FrozenEncoder",
    "Normalise",
    "SegmentationNetwork",
    "Segmenter",
    "Teacher",
    "ema_alpha",
    "ema_update_",
    "load_encoder_weights",
]
