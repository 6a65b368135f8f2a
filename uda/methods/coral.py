"""CORAL: alignment of feature covariances (Sun and Saenko, "Deep CORAL", ECCV-W 2016, equation 1).

|C_s - C_t|^2 / (4 D^2) of the bottleneck features' covariance matrices. Departures: those of
:mod:`uda.methods.support.feature_alignment`; ``means=True`` is the Transfer-Learning-Library's variant, which aligns
the means as well and has no factor 1/4.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from uda.functional.distances import coral, coral_tllib
from uda.methods.base import Method
from uda.methods.support.feature_alignment import Alignment

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from uda.step import Step


class Coral(Method):
    """Distance of the feature covariances.

    Args:
        weight: of the loss, at least 0.
        means: align the means as well, without the factor 1/4.
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
        weight: float = 1.0,
        means: bool = False,
        pixels: int = 4096,
        per_class: bool = False,
        threshold: float = 0.9,
    ) -> None:
        super().__init__()
        self.alignment = Alignment(
            self.distance, weight=weight, pixels=pixels, per_class=per_class, threshold=threshold
        )
        self.means = means

    def losses(self, step: Step) -> dict[str, Tensor]:
        return self.alignment.losses(step)

    def distance(self, source: Tensor, target: Tensor, generator: Generator) -> Tensor:
        """The covariance distance of ``(n, D)`` features; draws nothing."""
        return (coral_tllib if self.means else coral)(source, target)
