r"""AdaptSegNet: adversarial adaptation of the output space (Tsai et al., CVPR 2018).

A discriminator on the softmax output tells the domains apart; the segmenter makes target outputs look like source ones
(equation 4; equation 6 with the auxiliary classifier, ``level="multi"``). Source is labelled 0 and target 1, as in the
published code; each half of the discriminator's loss counts one half (equation 2).

$$ \min_{\theta} \mathcal{L}_{seg}(x^s, y^s) + \lambda_{adv} \mathcal{L}_D(p^t, 0),
\qquad \min_D \tfrac{1}{2} \mathcal{L}_D(p^s, 0) + \tfrac{1}{2} \mathcal{L}_D(p^t, 1) $$

Departure: without ``requires_grad`` toggling; the trainer's backward of the segmenter's losses does not reach the
discriminators, which then train on the same outputs, detached.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from uda.functional.adversarial import bce_loss, ls_loss
from uda.methods.base import Method
from uda.methods.support.checks import LEVELS, Level, not_negative, one_of, positive, require_aux, whole
from uda.models.discriminator import Discriminator
from uda.types import SOURCE, TARGET, SegOutput

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from uda.step import Step
    from uda.types import TaskSpec

OBJECTIVES = {"vanilla": bce_loss, "least-squares": ls_loss}


class AdaptSegNet(Method):
    """Output-space discriminators, one a level.

    Args:
        level: ``"single"`` or ``"multi"`` (the auxiliary classifier as well; the model must have one).
        objective: ``"vanilla"`` (binary cross-entropy) or ``"least-squares"``.
        weight: of the main output's adversarial loss, at least 0.
        aux_weight: of the auxiliary output's adversarial loss, at least 0; used with ``level="multi"``.
        lr: base learning rate of the discriminators (Adam with betas 0.9 and 0.99), above 0; it follows the run's
            schedule.
        width: channels of a discriminator's first layer.

    Raises:
        ValueError: a value out of its range; from ``setup``: ``"multi"`` on a model without auxiliary classifier.
    """

    reads = frozenset({"target"})
    looks = frozenset({"source", "target"})
    own_images = frozenset({"losses", "own_losses"})

    def __init__(
        self,
        *,
        level: Level = "single",
        objective: str = "vanilla",
        weight: float = 0.001,
        aux_weight: float = 0.0002,
        lr: float = 1e-4,
        width: int = 64,
    ) -> None:
        super().__init__()
        self.level = one_of("level", level, LEVELS)
        self.objective = one_of("objective", objective, tuple(OBJECTIVES))
        self.weight = not_negative("weight", weight)
        self.aux_weight = not_negative("aux_weight", aux_weight)
        self.lr = positive("lr", lr)
        self.width = whole("width", width, 1)
        self.discriminators = nn.ModuleDict()

    def setup(self, spec: TaskSpec) -> None:
        require_aux(self, spec)
        names = ("main",) if self.level == "single" else ("main", "aux")
        self.discriminators = nn.ModuleDict({name: Discriminator(spec.num_classes, self.width) for name in names})

    def optimizer(self) -> Optimizer | None:
        return torch.optim.Adam(self.discriminators.parameters(), lr=self.lr, betas=(0.9, 0.99))

    def losses(self, step: Step) -> dict[str, Tensor]:
        weights = {"main": self.weight, "aux": self.aux_weight}
        scores = self.score(step.predict("target"))
        return {f"adversarial_{name}": weights[name] * self._loss(d, SOURCE) for name, d in scores.items()}

    def own_losses(self, step: Step) -> dict[str, Tensor]:
        source, target = (self.score(step.detached(name)) for name in ("source", "target"))
        terms = {}
        for name in source:
            terms[f"discriminator_{name}_source"] = 0.5 * self._loss(source[name], SOURCE)
            terms[f"discriminator_{name}_target"] = 0.5 * self._loss(target[name], TARGET)
        return terms

    def score(self, output: SegOutput) -> dict[str, Tensor]:
        """Each level's discriminator on what it sees of a segmenter's output: ``(N, 1, h, w)``, no sigmoid."""
        outputs = output.levels(self.level)
        return {name: self.discriminators[name](self.look(logits.softmax(1))) for name, logits in outputs.items()}

    def look(self, prob: Tensor) -> Tensor:
        """What a discriminator gets of the probabilities ``(N, C, H, W)``: themselves."""
        return prob

    def _loss(self, scores: Tensor, domain: int) -> Tensor:
        return OBJECTIVES[self.objective](scores, domain)
