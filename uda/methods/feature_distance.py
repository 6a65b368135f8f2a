"""DAFormer's feature distance: thing classes keep the features of ImageNet (Hoyer et al., CVPR 2022, section 3.3).

The Euclidean distance between the student's bottleneck features of source images and those of the frozen encoder as
pretrained (equation 12), averaged over the feature cells that one thing class fills to at least 75 % (equations 13 and
14). With encoders that were pretrained without labels on far more images it is said to harm (VFM-UDA++, 2025).

Departures: a batch without such a cell has loss 0, where the published code gives NaN. The frozen encoder sees the
source as the student does, restyled if a method before this one restyles it. HRDA's features are those of the context
resolution alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from uda.functional.features import class_cells, feature_distance
from uda.methods.base import Method
from uda.methods.support.checks import in_range, not_negative

if TYPE_CHECKING:
    from torch import Tensor

    from uda.step import Step
    from uda.types import TaskSpec


class FeatureDistance(Method):
    """Distance of the source features to those of the frozen pretrained encoder.

    Args:
        weight: of the distance, at least 0.
        min_ratio: least share of a feature cell's pixels that one class must have, in [0, 1].
        classes: names of the classes whose cells count; ``None`` for the label space's things.

    Raises:
        ValueError: a value out of its range; from ``setup``: an unknown class, a label space without things, or a model
            without pretrained encoder.
    """

    reads = frozenset({"source"})
    needs_target = False
    own_images = frozenset({"losses"})

    def __init__(self, *, weight: float = 0.005, min_ratio: float = 0.75, classes: Sequence[str] | None = None) -> None:
        super().__init__()
        self.weight = not_negative("weight", weight)
        self.min_ratio = in_range("min_ratio", min_ratio, 0.0, 1.0)
        self.classes = None if classes is None else tuple(classes)
        self._ids: tuple[int, ...] = ()
        self._num_classes = 0
        # in a tuple: read again from its file at every start, so it is no part of the state
        self._frozen: tuple[Any, ...] = ()

    def setup(self, spec: TaskSpec) -> None:
        for name in self.classes or ():
            if name not in spec.class_names:
                raise ValueError(f"classes has {name!r}, must be of {', '.join(spec.class_names)}")
        self._num_classes = spec.num_classes
        chosen = None if self.classes is None else tuple(map(spec.class_names.index, self.classes))
        self._ids = spec.thing_classes if chosen is None else chosen
        if not self._ids:
            raise ValueError("classes is empty and the label space marks no class as a thing; name some")
        if not hasattr(spec.model, "pretrained_encoder"):
            raise ValueError(
                f"FeatureDistance needs a model with pretrained_encoder(); {type(spec.model).__name__} has none"
            )
        model: Any = spec.model
        self._frozen = (model.pretrained_encoder().to(spec.device),)

    def losses(self, step: Step) -> dict[str, Tensor]:
        view, features = step.view("source"), step.predict("source").features
        if view.labels is None:
            raise ValueError("FeatureDistance needs source labels; this source view has none")
        cells = class_cells(
            view.labels,
            (features.shape[-2], features.shape[-1]),
            self._ids,
            num_classes=self._num_classes,
            min_ratio=self.min_ratio,
        )
        step.log("cells", cells.float().mean())
        reference = self._frozen[0](view.images)
        return {"feature_distance": self.weight * feature_distance(features.float(), reference.float(), cells)}
