"""Histogram matching of each RGB channel (Gonzalez and Woods, "Digital Image Processing"; scikit-image's numbers).

Each source image gets the histograms of a random target image of the step.

Known trap: it tints images where a sky is saturated. The share of white pixels differs from image to image, so the
brightest of the source are stretched over the other's white, channel by channel, and colours shift where nothing was
wrong with them. At prediction on real images it was clearly worse than nothing (docs/colour.md).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from uda.functional.colour import match_histograms
from uda.methods.base import Method
from uda.methods.support.restyle import restyle_source

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from uda.step import Step


class HistogramMatching(Method):
    """Match the histogram of each channel; see the trap above.

    Args:
        quantise: match 256 levels, as on 8-bit images, without sorting; otherwise every distinct value.
    """

    def __init__(self, *, quantise: bool = True) -> None:
        super().__init__()
        self.quantise = quantise

    def prepare(self, step: Step) -> None:
        restyle_source(step, self.restyle)

    def restyle(self, images: Tensor, style: Tensor, generator: torch.Generator) -> Tensor:
        """``(N, 3, H, W)`` images in [0, 1] with the histograms of as many style images; draws nothing."""
        return match_histograms(images, style, quantise=self.quantise)
