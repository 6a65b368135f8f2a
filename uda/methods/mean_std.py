"""Colour transfer by mean and standard deviation of each RGB channel; the first document's colour normalisation.

Source images get the target's moments before anything else looks at them; from target to source at prediction it is
:mod:`uda.methods.colour_at_test`. It has no paper.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from uda.functional.colour import image_stats, match_mean_std
from uda.methods.base import Method
from uda.methods.support.restyle import restyle_source
from uda.methods.support.statistics import Statistics, check_statistics, resolve_statistics

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from uda.step import Step
    from uda.types import TaskSpec


class MeanStd(Method):
    """Match mean and standard deviation of each RGB channel; not clipped.

    Args:
        statistics: of the target: ``"dataset"`` (measured on the run's target images), ``"image"`` (of each paired
            target image), ``"cityscapes"`` or ``"kitti"`` (published), or numbers: three means and three deviations
            of images in [0, 1].
        source_statistics: of the source, in the same way; ``"image"`` is each source image's own.

    The defaults make one map for the whole data set. Statistics of single images also remove what the image shows, and
    on real images took the gain away (docs/colour.md).

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

    def prepare(self, step: Step) -> None:
        restyle_source(step, self.restyle)

    def restyle(self, images: Tensor, style: Tensor, generator: torch.Generator) -> Tensor:
        """``(N, 3, H, W)`` images in [0, 1] with the moments of the target or of the style images; draws nothing."""
        return match_mean_std(
            images,
            *_moments(self.source_mean, self.source_std, images),
            *_moments(self.target_mean, self.target_std, style),
        )


def _moments(mean: Tensor | None, std: Tensor | None, images: Tensor) -> tuple[Tensor, Tensor]:
    """The measured statistics, or those of each image."""
    return image_stats(images) if mean is None or std is None else (mean, std)
