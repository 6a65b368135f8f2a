"""Colour transfer: source images in the colours of the target, before anything else looks at them.

* ``MeanStd``: mean and standard deviation of each RGB channel.
* ``Reinhard``: the same in a decorrelated space (Reinhard et al., "Color transfer between images", IEEE CG&A 2001).
* ``HistogramMatching``: the histogram of each channel (Gonzalez and Woods; scikit-image's result).
* ``ColourTransport``: optimal transport, in :mod:`uda.methods.colour_transport`.

The labels stay, as no pixel moves. A style image is drawn at random from the step's target images, as in FDA. The same
transfers serve from target to source at prediction: :mod:`uda.methods.colour_at_test`.

Departures: none for histograms (scikit-image's numbers). Reinhard's CIE Lab is the default, as image libraries do it;
the paper's l-alpha-beta is ``space="lalphabeta"``. Mean and deviation of RGB have no paper.

Known trap: histogram matching tints images where a sky is saturated. The share of white pixels differs from image to
image, so the brightest of the source are stretched over the other's white, channel by channel, and colours shift
where nothing was wrong with them.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from typing import TYPE_CHECKING, cast, get_args

from uda.functional.colour import Space, image_stats, match_histograms, match_mean_std, reinhard
from uda.methods.base import Method
from uda.methods.checks import one_of
from uda.methods.fda import pairing
from uda.methods.statistics import Statistics, check_statistics, resolve_statistics

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from uda.step import Step
    from uda.types import TaskSpec


class ColourMethod(Method):
    """Restyles the source view with a random pairing of target images."""

    def prepare(self, step: Step) -> None:
        view, target = step.view("source"), step.view("target").images
        style = target[pairing(len(view.images), len(target), step.generator)]
        step.put("source", replace(view, images=self.restyle(view.images, style, step.generator)))

    @abstractmethod
    def restyle(self, images: Tensor, style: Tensor, generator: torch.Generator) -> Tensor:
        """``(N, 3, H, W)`` images in [0, 1] in the colours of as many style images."""


class MeanStd(ColourMethod):
    """Match mean and standard deviation of each RGB channel; not clipped.

    Args:
        statistics: of the target: ``"dataset"`` (measured on the run's target images), ``"image"`` (of each paired
            target image), ``"cityscapes"`` or ``"kitti"`` (published), or numbers: three means and three deviations
            of images in [0, 1].
        source_statistics: of the source, in the same way; ``"image"`` is each source image's own.

    Raises:
        ValueError: unknown or malformed statistics.
    """

    source_mean: Tensor | None
    source_std: Tensor | None
    target_mean: Tensor | None
    target_std: Tensor | None

    def __init__(self, *, statistics: Statistics = "dataset", source_statistics: Statistics = "dataset") -> None:
        super().__init__()
        self.statistics = check_statistics("statistics", statistics)
        self.source_statistics = check_statistics("source_statistics", source_statistics)

    def setup(self, spec: TaskSpec) -> None:
        for name, wanted, dataset in (
            ("target", self.statistics, spec.target),
            ("source", self.source_statistics, spec.source),
        ):
            moments = resolve_statistics(wanted, dataset)
            for part, value in zip(("mean", "std"), moments or (None, None), strict=True):
                self.register_buffer(f"{name}_{part}", value)

    def restyle(self, images: Tensor, style: Tensor, generator: torch.Generator) -> Tensor:
        return match_mean_std(
            images,
            *_moments(self.source_mean, self.source_std, images),
            *_moments(self.target_mean, self.target_std, style),
        )


def _moments(mean: Tensor | None, std: Tensor | None, images: Tensor) -> tuple[Tensor, Tensor]:
    """The measured statistics, or those of each image."""
    return image_stats(images) if mean is None or std is None else (mean, std)


class Reinhard(ColourMethod):
    """Match mean and standard deviation in a decorrelated colour space.

    Args:
        space: ``"lab"`` (CIE Lab) or ``"lalphabeta"`` (the paper's).

    Raises:
        ValueError: an unknown space.
    """

    def __init__(self, *, space: Space = "lab") -> None:
        super().__init__()
        self.space = cast("Space", one_of("space", space, get_args(Space)))

    def restyle(self, images: Tensor, style: Tensor, generator: torch.Generator) -> Tensor:
        return reinhard(images.float().clamp(0, 1), style.float().clamp(0, 1), self.space)


class HistogramMatching(ColourMethod):
    """Match the histogram of each channel; see the trap above.

    Args:
        quantise: match 256 levels, as on 8-bit images, without sorting; otherwise every distinct value.
    """

    def __init__(self, *, quantise: bool = True) -> None:
        super().__init__()
        self.quantise = quantise

    def restyle(self, images: Tensor, style: Tensor, generator: torch.Generator) -> Tensor:
        return match_histograms(images, style, quantise=self.quantise)
