"""Rare class sampling of the source (Hoyer et al., "DAFormer", CVPR 2022, section 3.3, equations 9 and 10).

Source images are drawn by class, rare classes more often: with probability softmax((1 - f_c) / T) over the pixel
frequencies f_c, then an image that shows the class, then a crop in which it is seen. It acts where batches are drawn,
which is :class:`uda.data.pairs.Pairs`; the trainer asks the methods of a run for it. Departure: the paper's thresholds
are pixels of a GTA5 image (1914x1052) and a 512x512 crop, here they are shares, which hold at any size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from uda.methods.base import Method

if TYPE_CHECKING:
    from uda.data.pairs import RareClasses
    from uda.types import TaskSpec


class RareClassSampling(Method):
    """Draw source images by rare classes instead of by epochs.

    Args:
        temperature: T, above 0; small values prefer rare classes.
        min_share: share of an image's pixels above which it counts as showing a class, in [0, 1). Where no image has
            that much of a class, those with any pixel of it are drawn from.
        crop_share: share of a crop's pixels above which the class is seen in it, in [0, 1).
        tries: crops that are drawn at most; the last is taken whatever it shows; at least 1.

    Raises:
        ValueError: a value out of its range; from ``setup``: whoever draws the batches does not ask for it.
    """

    needs_target = False

    def __init__(
        self,
        *,
        temperature: float = 0.01,
        min_share: float = 3000 / (1914 * 1052),
        crop_share: float = 1500 / (512 * 512),
        tries: int = 10,
    ) -> None:
        super().__init__()
        from uda.data.pairs import RareClasses  # the readers stand behind it

        self._classes = RareClasses(temperature=temperature, min_share=min_share, crop_share=crop_share, tries=tries)

    def setup(self, spec: TaskSpec) -> None:
        if not spec.draws_source:
            raise ValueError(
                "RareClassSampling acts where source images are drawn: give Pairs(rare_class=method.source_sampling()) "
                "and TaskSpec.of(..., draws_source=True), or leave it out"
            )

    def source_sampling(self) -> RareClasses:
        return self._classes
