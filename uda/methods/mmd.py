"""MMD: maximum mean discrepancy of features with several Gaussian kernels (Long et al., "DAN", ICML 2015).

Departures: those of :mod:`uda.methods.support.feature_alignment`; one layer instead of several; equal kernel weights.
The Transfer-Learning-Library adds 2 / (n - 1) to the loss; here it is the unbiased estimate itself, which may be
negative. Memory and time grow with the square of ``pixels``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from uda.functional.distances import mkmmd
from uda.methods.base import Method
from uda.methods.support.checks import positive
from uda.methods.support.feature_alignment import Alignment

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from uda.step import Step


class MMD(Method):
    """Multi-kernel maximum mean discrepancy of the features.

    Args:
        weight: of the loss, at least 0.
        bandwidths: multipliers of the mean squared distance, one for each kernel, each above 0.
        linear: the O(n) estimate over neighbours instead of all pairs.
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
        bandwidths: Sequence[float] = (0.5, 1.0, 2.0),
        linear: bool = False,
        pixels: int = 512,
        per_class: bool = False,
        threshold: float = 0.9,
    ) -> None:
        super().__init__()
        self.alignment = Alignment(
            self.distance, weight=weight, pixels=pixels, per_class=per_class, threshold=threshold
        )
        if not bandwidths:
            raise ValueError("bandwidths is empty, must be at least one number > 0")
        self.bandwidths = tuple(positive(f"bandwidths[{at}]", value) for at, value in enumerate(bandwidths))
        self.linear = linear

    def losses(self, step: Step) -> dict[str, Tensor]:
        return self.alignment.losses(step)

    def distance(self, source: Tensor, target: Tensor, generator: Generator) -> Tensor:
        """The discrepancy of ``(n, D)`` features, as many of each domain; draws nothing."""
        constant = 2 / (len(source) - 1)
        return mkmmd(source, target, self.bandwidths, linear=self.linear) - constant
