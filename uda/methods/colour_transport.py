"""Optimal transport of colours (Ferradans et al., "Regularized discrete optimal transport", SIIMS 2014), by POT.

A map is fitted between pixels sampled from a source and a target image (:mod:`uda.functional.transport`) and moves
every colour of the source image. Departure: the default is the closed-form map between the two Gaussians, which matches
the covariance of the channels as well; exact and entropic plans of the samples, the paper's, cost far more a step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast, get_args

import torch

from uda.functional.transport import Kind, fit_colour_map, sample_pixels
from uda.methods.checks import one_of, whole
from uda.methods.colour import ColourMethod

if TYPE_CHECKING:
    from torch import Tensor


class ColourTransport(ColourMethod):
    """Optimal transport of the colours of each source image onto those of its target image; not clipped.

    Args:
        kind: ``"linear"`` (between the two Gaussians), ``"emd"`` (exact plan) or ``"sinkhorn"`` (entropic plan).
        pixels: colours drawn from each image to fit the map, at least 4; the exact plan's cost grows with its square.

    Raises:
        ValueError: a value out of its range.
    """

    def __init__(self, *, kind: Kind = "linear", pixels: int = 1000) -> None:
        super().__init__()
        self.kind = cast("Kind", one_of("kind", kind, get_args(Kind)))
        self.pixels = whole("pixels", pixels, 4)

    def restyle(self, images: Tensor, style: Tensor, generator: torch.Generator) -> Tensor:
        return transport(images, style, self.kind, self.pixels, generator)


def transport(images: Tensor, style: Tensor, kind: Kind, pixels: int, generator: torch.Generator) -> Tensor:
    """Each of the ``(N, 3, H, W)`` images with a map of its own, fitted to its style image or to the only one."""
    pairs = zip(images.float(), style.float().expand(len(images), -1, -1, -1), strict=True)
    moved = []
    for image, other in pairs:
        cloud, wanted = (sample_pixels(one[None], pixels, generator) for one in (image, other))
        moved.append(fit_colour_map(cloud, wanted, kind)(image[None]))
    return torch.cat(moved).to(images.dtype)
