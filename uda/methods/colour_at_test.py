"""Colour transfer at prediction: target images in the colours of the source that the model was trained on.

The transfers of ``MeanStd``, ``Reinhard``, ``HistogramMatching`` and ``ColourTransport``, the other way round; the
model does not change. The default, mean and deviation from data set to data set, is the one that helped on real images;
those of each image and Reinhard's did not, histogram matching was worse than nothing (docs/colour.md): its trap
(saturated skies, see there) bites harder here, as a few source images stand for all of them.

Departures: none of its own; those of the transfers hold.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from uda.functional.colour import image_stats, match_histograms, match_mean_std, reinhard
from uda.functional.transport import transport_colours
from uda.methods.base import TestTimeMethod
from uda.methods.support.checks import one_of, whole
from uda.methods.support.statistics import Statistics, check_statistics, resolve_statistics, spread

if TYPE_CHECKING:
    from torch import Tensor, nn

    from uda.types import SegOutput, TaskSpec

TRANSFERS = ("mean-std", "reinhard", "histogram", "transport")
"""Transfers by name."""
PIXELS = 4000
"""Colours of each image that a transport map is fitted on."""


class ColourAtTest(TestTimeMethod):
    """Restyle images to the source's colours and predict them with the unchanged model.

    Args:
        transfer: ``"mean-std"``, ``"reinhard"``, ``"histogram"`` or ``"transport"``.
        reference: with ``"mean-std"``, the statistics of the source: ``"dataset"`` (measured on the task's source),
            ``"cityscapes"`` or ``"kitti"`` (published), or numbers. The other transfers need images.
        statistics: with ``"mean-std"``, those of the incoming images: ``"image"`` (each its own), ``"dataset"``
            (measured on the task's unlabelled target), a published name, or numbers.
        images: source images, evenly spaced over the data set, whose colours the other transfers aim at together.

    Raises:
        ValueError: a value out of its range; from ``attach``: a data set is needed and the task does not give it.
    """

    def __init__(
        self,
        *,
        transfer: str = "mean-std",
        reference: Statistics = "dataset",
        statistics: Statistics = "dataset",
        images: int = 16,
    ) -> None:
        super().__init__()
        self.transfer = one_of("transfer", transfer, TRANSFERS)
        self.reference = check_statistics("reference", reference)
        self.statistics = check_statistics("statistics", statistics)
        self.images = whole("images", images, 1)
        self.needs_target = transfer == "mean-std" and statistics == "dataset"
        if reference == "image":
            raise ValueError(
                "reference is 'image', must be of the whole source: 'dataset', a published name or numbers"
            )
        if transfer != "mean-std" and reference != "dataset":
            raise ValueError(
                f"reference is {reference!r}, must be 'dataset' with transfer {transfer!r}, which needs images"
            )
        self._wanted: tuple[Tensor, Tensor] | None = None
        self._incoming: tuple[Tensor, Tensor] | None = None
        self._style: Tensor | None = None

    def attach(self, model: nn.Module, spec: TaskSpec | None = None) -> None:
        source, target = (spec.source, spec.target) if spec is not None else (None, None)
        if self.transfer == "mean-std":
            self._wanted = resolve_statistics(self.reference, source)
            self._incoming = resolve_statistics(self.statistics, target)
        elif source is None:
            raise ValueError(f"transfer {self.transfer!r} needs source images; attach(model, spec) with a source")
        else:
            self._style = mosaic([sample.as_float() for sample in spread(source, self.images)])
        super().attach(model, spec)

    @torch.no_grad()
    def forward(self, images: Tensor) -> SegOutput:
        output: SegOutput = self.attached()(self.restyle(images))
        return output

    def restyle(self, images: Tensor) -> Tensor:
        """``(N, 3, H, W)`` images in [0, 1] in the source's colours; what the model gets."""
        if self._wanted is not None:
            incoming = image_stats(images) if self._incoming is None else self._incoming
            return match_mean_std(images, *(moment.to(images) for moment in (*incoming, *self._wanted)))
        if self._style is None:
            raise RuntimeError(f"ColourAtTest has no colours to aim at with transfer {self.transfer!r}; call attach")
        style = self._style.to(images)
        if self.transfer == "reinhard":
            return reinhard(images, style)
        if self.transfer == "histogram":
            return match_histograms(images, style, quantise=True)
        # each image with a generator of its own: it has the same colours whatever was predicted before
        return torch.cat(
            [
                transport_colours(image[None], style, pixels=PIXELS, generator=torch.Generator().manual_seed(0))
                for image in images
            ]
        )


def mosaic(images: list[Tensor]) -> Tensor:
    """``(1, 3, h, w)``: images ``(3, H, W)`` side by side, none with more say than another."""
    size = images[0].shape[-2:]
    same = [F.interpolate(image[None], size=size, mode="nearest") for image in images]
    return torch.cat(same, dim=-1)
