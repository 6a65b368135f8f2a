"""Colour transfer in a decorrelated space (Reinhard et al., "Color transfer between images", IEEE CG&A 2001).

Each source image gets mean and standard deviation of a random target image of the step. Departure: CIE Lab is the
default, as image libraries do it; the paper's l-alpha-beta is ``space="lalphabeta"``.

One image's statistics stand for its own weather: at prediction on real images this changed nothing, where ``MeanStd``
between data sets took a quarter of the loss away (docs/colour.md).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast, get_args

from uda.functional.colour import Space, reinhard
from uda.methods.base import Method
from uda.methods.support.checks import one_of
from uda.methods.support.restyle import restyle_source

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from uda.step import Step


class Reinhard(Method):
    """Match mean and standard deviation in a decorrelated colour space.

    Args:
        space: ``"lab"`` (CIE Lab) or ``"lalphabeta"`` (the paper's).

    Raises:
        ValueError: an unknown space.
    """

    def __init__(self, *, space: Space = "lab") -> None:
        super().__init__()
        self.space = cast("Space", one_of("space", space, get_args(Space)))

    def prepare(self, step: Step) -> None:
        restyle_source(step, self.restyle)

    def restyle(self, images: Tensor, style: Tensor, generator: torch.Generator) -> Tensor:
        """``(N, 3, H, W)`` images in [0, 1] in the colours of as many style images; draws nothing."""
        return reinhard(images.float().clamp(0, 1), style.float().clamp(0, 1), self.space)
