r"""Optimal transport of colours (Ferradans et al., "Regularized discrete optimal transport", SIIMS 2014), by POT.

A map is fitted between pixels sampled from a source and a target image (:mod:`uda.functional.transport`) and moves
every colour of the source image. Departure: the default is the closed-form map between the two Gaussians, which matches
the covariance of the channels as well; exact and entropic plans of the samples, the paper's, cost far more a step.

$$ \min_{\gamma \in \Pi} \sum_{i,j} \gamma_{ij} \| x_i - y_j \|^2, \qquad \hat{x} = T_{\gamma}(x) $$
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast, get_args

from uda.functional.transport import Kind, transport_colours
from uda.methods.base import Method
from uda.methods.support.checks import one_of, whole
from uda.methods.support.restyle import restyle_source

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from uda.step import Step


class ColourTransport(Method):
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

    def prepare(self, step: Step) -> None:
        restyle_source(step, self.restyle)

    def restyle(self, images: Tensor, style: Tensor, generator: torch.Generator) -> Tensor:
        """``(N, 3, H, W)`` images in [0, 1] with the colours of as many style images."""
        return transport_colours(images, style, self.kind, pixels=self.pixels, generator=generator)
