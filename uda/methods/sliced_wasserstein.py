"""Optimal transport of features: the sliced Wasserstein distance (Bonneel et al., JMIV 2015) by POT.

Features are projected on random directions, where optimal transport is sorting; the loss is the root of the mean
squared transport cost. Lee et al. (CVPR 2019) use it between two classifiers' predictions, Damodaran et al. (ECCV 2018)
align features by optimal transport. Departures: those of
:mod:`uda.methods.support.feature_alignment`; new directions each step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from uda.functional.distances import random_projections, sliced_wasserstein
from uda.methods.base import Method
from uda.methods.support.checks import whole
from uda.methods.support.feature_alignment import Alignment

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from uda.step import Step


class SlicedWasserstein(Method):
    """Sliced 2-Wasserstein distance of the features.

    Args:
        weight: of the loss, at least 0.
        projections: random directions in each step.
        pixels: feature cells of each domain (with ``per_class``: of each class) that enter, at most; at least 2.
        per_class: compare each class's features on their own and average over the classes that both domains show.
        threshold: confidence from which a target pixel has a class, in [0, 1]; used with ``per_class``.

    Raises:
        ValueError: a value out of its range.
    """

    reads = frozenset({"source", "target"})

    def __init__(
        self,
        *,
        weight: float = 0.1,
        projections: int = 128,
        pixels: int = 1024,
        per_class: bool = False,
        threshold: float = 0.9,
    ) -> None:
        super().__init__()
        self.alignment = Alignment(
            self.distance, weight=weight, pixels=pixels, per_class=per_class, threshold=threshold
        )
        self.projections = whole("projections", projections, 1)

    def losses(self, step: Step) -> dict[str, Tensor]:
        return self.alignment.losses(step)

    def distance(self, source: Tensor, target: Tensor, generator: Generator) -> Tensor:
        """The distance of ``(n, D)`` and ``(m, D)`` features over directions drawn from the generator."""
        return sliced_wasserstein(source, target, random_projections(source.shape[1], self.projections, generator))
