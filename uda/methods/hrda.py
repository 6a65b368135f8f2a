r"""HRDA: the loss of the high-resolution detail crop (Hoyer et al., ECCV 2022, section 3.2, equations 10 and 11).

The network is :class:`uda.models.HrdaSegmenter` (model ``hrda``), whose logits are fused from context and detail. The
detail crop's own logits get a tenth of the loss, the fused logits the rest. Here the tenth is this method's, one for
each view that is trained on, and the rest is the weight 0.9 of the methods that own those views (``Supervised``,
``ClassMix``, ``MIC``); the preset ``HRDA`` lists them so. Views are separate methods because methods that share no view
never hold two graphs at once.

$$ \mathcal{L} = (1 - \lambda_d) \, \mathcal{L}_{ce}(\hat{y}_{fused}, y)
+ \lambda_d \, \mathcal{L}_{ce}(\hat{y}_{detail}, y_d) $$

Departures: none in the terms. MIC's weight does not scale the detail term in the published code, and so it is here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from uda.functional.losses import weighted_cross_entropy
from uda.methods.base import Method
from uda.methods.support.checks import not_negative, one_of

if TYPE_CHECKING:
    from torch import Tensor

    from uda.step import Step


class HRDA(Method):
    """Cross-entropy of the detail crop's logits, with the labels and pixel weights of its view.

    Args:
        view: ``"source"``, ``"mixed"`` (made by ``ClassMix``, which comes before) or ``"masked"`` (made by ``MIC``).
        weight: of the loss, at least 0.

    Raises:
        ValueError: a value out of its range; from ``losses``: a network without detail crop, or a view without labels.
    """

    own_images = frozenset({"losses"})

    def __init__(self, *, view: str = "source", weight: float = 0.1) -> None:
        super().__init__()
        self.view = one_of("view", view, ("source", "mixed", "masked"))
        self.weight = not_negative("weight", weight)
        self.reads = frozenset({view})
        self.needs_target = view != "source"

    def losses(self, step: Step) -> dict[str, Tensor]:
        view, output = step.view(self.view), step.predict(self.view)
        if "detail" not in (output.extra or {}):
            raise ValueError("HRDA needs a network that gives the logits of a detail crop: the model 'hrda'")
        detail = output.get("detail")
        if view.labels is None:
            raise ValueError(f"HRDA needs labels; the view {self.view!r} has none")
        top, bottom, left, right = output.get("detail_box").tolist()
        crop = (slice(None), slice(top, bottom), slice(left, right))
        weight = None if view.weight is None else view.weight[crop]
        loss = weighted_cross_entropy(detail, view.all_labels[crop], weight, groups=view.groups)
        return {f"detail_{self.view}": self.weight * loss}
