"""CLAN: category-level adversarial adaptation (Luo et al., "Taking a Closer Look at Domain Shift", CVPR 2019).

Two classifiers that agree on a target pixel suggest that its class is aligned already. The discriminator looks at the
softmax of the sum of both classifiers' logits, and the adversarial loss of a target pixel weighs epsilon plus lambda
times their local disagreement, 1 - cosine of their probabilities. The weights set in after a
warm-up; before it and on the source the loss is plain. The weight map carries gradient to the segmenter and none to the
discriminator, whose score map is upsampled to the image. The segmenter's term fades out linearly over the run.

Departures: any batch size. The two classifiers are the model's main and auxiliary ones, which look at different
features; the paper's two look at the same, and a penalty on the cosine of their weights keeps them apart. It has no
meaning here and is left out. The paper trains both classifiers on the source with equal weight: ``Supervised`` with
``aux_weight=1``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from uda.functional.adversarial import clan_weight_map, weighted_bce_loss
from uda.methods.base import Method
from uda.methods.support.checks import in_range, not_negative, positive, whole
from uda.models.discriminator import Discriminator
from uda.types import SOURCE, TARGET, SegOutput

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from uda.step import Step
    from uda.types import TaskSpec


class CLAN(Method):
    """One discriminator on both classifiers' joint output, weighted where they disagree.

    Args:
        weight: of the adversarial loss, at least 0.
        local_weight: the paper's lambda_local, at least 0: 40 from GTA5, 10 from SYNTHIA.
        epsilon: weight of a pixel on which the classifiers agree, at least 0.
        warmup: share of the run without weight map, in [0, 1].
        damping: whether the segmenter's term fades to 0 at the end of the run.
        lr: base learning rate of the discriminator (Adam with betas 0.9 and 0.99), above 0; it follows the run's
            schedule.
        width: channels of the discriminator's first layer.

    Raises:
        ValueError: a value out of its range; from ``setup``: a model without auxiliary classifier.
    """

    reads = frozenset({"target"})
    looks = frozenset({"source", "target"})
    own_images = frozenset({"losses", "own_losses"})
    discriminator: nn.Module

    def __init__(
        self,
        *,
        weight: float = 0.001,
        local_weight: float = 40.0,
        epsilon: float = 0.4,
        warmup: float = 0.05,
        damping: bool = True,
        lr: float = 1e-4,
        width: int = 64,
    ) -> None:
        super().__init__()
        self.weight = not_negative("weight", weight)
        self.local_weight = not_negative("local_weight", local_weight)
        self.epsilon = not_negative("epsilon", epsilon)
        self.warmup = in_range("warmup", warmup, 0.0, 1.0)
        self.damping = damping
        self.lr = positive("lr", lr)
        self.width = whole("width", width, 1)

    def setup(self, spec: TaskSpec) -> None:
        if not spec.has_aux:
            raise ValueError("CLAN needs two classifiers and the model has one; build it with aux=True")
        self.discriminator = Discriminator(spec.num_classes, self.width)

    def optimizer(self) -> Optimizer | None:
        return torch.optim.Adam(self.discriminator.parameters(), lr=self.lr, betas=(0.9, 0.99))

    def losses(self, step: Step) -> dict[str, Tensor]:
        fading = 1 - step.progress if self.damping else 1.0
        return {"adversarial": self.weight * fading * self._loss(step, step.predict("target"), SOURCE, local=True)}

    def own_losses(self, step: Step) -> dict[str, Tensor]:
        source, target = step.detached("source"), step.detached("target")
        return {
            "discriminator_source": self._loss(step, source, SOURCE, local=False),
            "discriminator_target": self._loss(step, target, TARGET, local=True),
        }

    def _loss(self, step: Step, output: SegOutput, domain: int, *, local: bool) -> Tensor:
        logits, auxiliary = output.logits.float(), output.auxiliary.float()
        scores = self.discriminator((logits + auxiliary).softmax(1))
        disagreement = clan_weight_map(logits, auxiliary)
        if local and step.progress >= self.warmup:
            return weighted_bce_loss(scores, domain, disagreement, epsilon=self.epsilon, weight=self.local_weight)
        return weighted_bce_loss(scores, domain, torch.zeros_like(disagreement), epsilon=1.0, weight=0.0)
