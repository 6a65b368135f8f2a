r"""AdvEnt: adversarial entropy minimisation (Vu et al., "ADVENT", CVPR 2019, section 3.2, equations 6 to 8).

AdaptSegNet's game on the weighted self-information maps -p log p instead of the probabilities. No departures other than
those of :mod:`uda.methods.adaptsegnet`.

$$ \min_{\theta} \mathcal{L}_{seg}(x^s, y^s) + \lambda_{adv} \mathcal{L}_D(I^t, 0),
\qquad \min_D \tfrac{1}{2} \mathcal{L}_D(I^s, 0) + \tfrac{1}{2} \mathcal{L}_D(I^t, 1) $$
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from uda.functional.entropy import self_information
from uda.methods.adaptsegnet import AdaptSegNet
from uda.methods.support.checks import Level

if TYPE_CHECKING:
    from torch import Tensor


class AdvEnt(AdaptSegNet):
    """Discriminators on self-information maps, one a level.

    Args:
        level: ``"single"`` or ``"multi"`` (the auxiliary classifier as well; the model must have one).
        weight: of the main output's adversarial loss, at least 0.
        aux_weight: of the auxiliary output's adversarial loss, at least 0; used with ``level="multi"``.
        lr: base learning rate of the discriminators, above 0; it follows the run's schedule.
        width: channels of a discriminator's first layer.

    Raises:
        ValueError: a value out of its range; from ``setup``: ``"multi"`` on a model without auxiliary classifier.
    """

    def __init__(
        self,
        *,
        level: Level = "single",
        weight: float = 0.001,
        aux_weight: float = 0.0002,
        lr: float = 1e-4,
        width: int = 64,
    ) -> None:
        super().__init__(level=level, weight=weight, aux_weight=aux_weight, lr=lr, width=width)

    def look(self, prob: Tensor) -> Tensor:
        """The self-information maps, in [0, 1] and of the shape of ``prob``."""
        return self_information(prob)
