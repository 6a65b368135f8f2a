"""What CORAL, MMD and sliced Wasserstein share: which bottleneck features of the two domains are compared.

All three papers align whole images' feature vectors; for segmentation a vector is a cell of the bottleneck map, and a
random subset of the batch's cells stands for the domain. Class by class (``per_class``), source cells are sorted by
their labels and target cells by confident predictions, each cell by the class that fills it; a class with too few cells
in either domain sits the step out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from uda.functional.features import cell_labels
from uda.functional.pseudo_labels import confident_labels
from uda.methods.base import Method
from uda.methods.checks import in_range, not_negative, whole
from uda.types import IGNORE

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from uda.step import Step

LEAST_CELLS = 8
"""Fewest cells of a class, in each domain, that say anything of its features."""


class FeatureAlignment(Method):
    """A distance between the source's and the target's bottleneck features.

    Args:
        weight: of the loss, at least 0.
        pixels: feature cells of each domain (with ``per_class``: of each class) that enter, at most; at least 2.
        per_class: compare each class's features on their own and average over the classes that both domains show.
        threshold: confidence from which a target pixel has a class, in [0, 1]; used with ``per_class``.

    Raises:
        ValueError: a value out of its range.
    """

    reads = frozenset({"source", "target"})

    def __init__(self, *, weight: float, pixels: int, per_class: bool, threshold: float) -> None:
        super().__init__()
        self.weight = not_negative("weight", weight)
        self.pixels = whole("pixels", pixels, 2)
        self.per_class = per_class
        self.threshold = in_range("threshold", threshold, 0.0, 1.0)

    def distance(self, source: Tensor, target: Tensor, generator: Generator) -> Tensor:
        """The scalar distance of ``(n, D)`` and ``(m, D)`` float32 features."""
        raise NotImplementedError

    def losses(self, step: Step) -> dict[str, Tensor]:
        source, target = (step.predict(name).features.float() for name in ("source", "target"))
        with torch.autocast(source.device.type, enabled=False):
            if not self.per_class:
                return {"distance": self.weight * self._between(rows(source), rows(target), step.generator)}
            distances = self._class_distances(step, source, target)
        step.log(f"{type(self).__name__}/classes", len(distances))
        return {"distance": self.weight * torch.stack(distances).mean()} if distances else {}

    def _class_distances(self, step: Step, source: Tensor, target: Tensor) -> list[Tensor]:
        labels = step.view("source").labels
        if labels is None:
            raise ValueError(f"{type(self).__name__}: per_class is True and the source view has no labels")
        logits = step.predict("target").logits
        predicted, confidence = confident_labels(logits.float())
        predicted = predicted.masked_fill(confidence < self.threshold, IGNORE)
        classes = logits.shape[1]
        of_source = cell_labels(labels, source.shape[-2:], classes).flatten()
        of_target = cell_labels(predicted, target.shape[-2:], classes).flatten()
        in_source, in_target = (torch.bincount(one, minlength=256)[:classes] for one in (of_source, of_target))
        shown = ((in_source >= LEAST_CELLS) & (in_target >= LEAST_CELLS)).nonzero().flatten().tolist()
        return [
            self._between(rows(source)[of_source == one], rows(target)[of_target == one], step.generator)
            for one in shown
        ]

    def _between(self, source: Tensor, target: Tensor, generator: Generator) -> Tensor:
        # as many of each: one of the distances needs it, and the others lose nothing
        count = min(len(source), len(target), self.pixels)
        chosen = [torch.randperm(len(one), generator=generator)[:count].to(one.device) for one in (source, target)]
        return self.distance(source[chosen[0]], target[chosen[1]], generator)


def rows(features: Tensor) -> Tensor:
    """``(N, D, h, w)`` features as ``(N h w, D)``."""
    return features.movedim(1, -1).flatten(0, 2)
