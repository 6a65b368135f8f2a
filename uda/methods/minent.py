"""MinEnt: direct entropy minimisation on the target (Vu et al., "ADVENT", CVPR 2019, section 3.1, equation 3).

Departure: logits are at image size whatever the network's stride, which is what the published code does as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from uda.functional.entropy import entropy_loss
from uda.methods.base import Method
from uda.methods.support.checks import LEVELS, Level, not_negative, one_of, require_aux

if TYPE_CHECKING:
    from torch import Tensor

    from uda.step import Step
    from uda.types import TaskSpec


class MinEnt(Method):
    """Normalised entropy of the target prediction.

    Args:
        level: ``"single"`` or ``"multi"`` (the auxiliary classifier as well; the model must have one).
        weight: of the main output's entropy, at least 0.
        aux_weight: of the auxiliary output's entropy, at least 0; used with ``level="multi"``.

    Raises:
        ValueError: a value out of its range; from ``setup``: ``"multi"`` on a model without auxiliary classifier.
    """

    reads = frozenset({"target"})
    own_images = frozenset({"losses"})

    def __init__(self, *, level: Level = "single", weight: float = 0.001, aux_weight: float = 0.0002) -> None:
        super().__init__()
        self.level = one_of("level", level, LEVELS)
        self.weight = not_negative("weight", weight)
        self.aux_weight = not_negative("aux_weight", aux_weight)

    def setup(self, spec: TaskSpec) -> None:
        require_aux(self, spec)

    def losses(self, step: Step) -> dict[str, Tensor]:
        weights = {"main": self.weight, "aux": self.aux_weight}
        outputs = step.predict("target").levels(self.level)
        return {f"entropy_{name}": weights[name] * entropy_loss(logits.softmax(1)) for name, logits in outputs.items()}
