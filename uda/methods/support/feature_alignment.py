"""What CORAL, MMD and sliced Wasserstein share: which bottleneck features of the two domains are compared.

All three papers align whole images' feature vectors; for segmentation a vector is a cell of the bottleneck map, and a
random subset of the batch's cells stands for the domain. Class by class (``per_class``), source cells are sorted by
their labels and target cells by confident predictions, each cell by the class that fills it; a class with too few cells
in either domain sits the step out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from uda.functional.features import cell_labels
from uda.functional.pseudo_labels import confident_labels
from uda.methods.support.checks import in_range, not_negative, whole
from uda.types import IGNORE

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from uda.step import Step

Distance = Callable[["Tensor", "Tensor", "Generator"], "Tensor"]
LEAST_CELLS = 8
"""Fewest cells of a class, in each domain, that say anything of its features."""


class Alignment:
    """A distance between the source's and the target's bottleneck features, as a loss.

    Args:
        distance: (source, target, CPU generator), ``(n, D)`` float32 features each, as many of both -> scalar.
        weight: of the loss, at least 0.
        pixels: feature cells of each domain (with ``per_class``: of each class) that enter, at most; at least 2.
        per_class: compare each class's features on their own and average over the classes that both domains show.
        threshold: confidence from which a target pixel has a class, in [0, 1]; used with ``per_class``.

    Raises:
        ValueError: a value out of its range.
    """

    def __init__(self, distance: Distance, *, weight: float, pixels: int, per_class: bool, threshold: float) -> None:
        self.distance = distance
        self.weight = not_negative("weight", weight)
        self.pixels = whole("pixels", pixels, 2)
        self.per_class = per_class
        self.threshold = in_range("threshold", threshold, 0.0, 1.0)

    def losses(self, step: Step) -> dict[str, Tensor]:
        """The loss of a method that reads source and target."""
        source, target = (step.predict(name).features.float() for name in ("source", "target"))
        with torch.autocast(source.device.type, enabled=False):
            if not self.per_class:
                return {"distance": self.weight * self.between(rows(source), rows(target), step.generator)}
            distances = self._class_distances(step, source, target)
        step.log("classes", len(distances))
        return {"distance": self.weight * torch.stack(distances).mean()} if distances else {}

    def _class_distances(self, step: Step, source: Tensor, target: Tensor) -> list[Tensor]:
        labels = step.view("source").labels
        if labels is None:
            raise ValueError("per_class is True and the source view has no labels")
        logits = step.predict("target").logits
        predicted, confidence = confident_labels(logits.float())
        predicted = predicted.masked_fill(confidence < self.threshold, IGNORE)
        classes = logits.shape[1]
        of_source = cell_labels(labels, source.shape[-2:], classes).flatten()
        of_target = cell_labels(predicted, target.shape[-2:], classes).flatten()
        in_source, in_target = (torch.bincount(cells, minlength=256)[:classes] for cells in (of_source, of_target))
        shown = ((in_source >= LEAST_CELLS) & (in_target >= LEAST_CELLS)).nonzero().flatten().tolist()
        return [
            self.between(rows(source)[of_source == index], rows(target)[of_target == index], step.generator)
            for index in shown
        ]

    def between(self, source: Tensor, target: Tensor, generator: Generator) -> Tensor:
        """The distance of a random subset of ``(n, D)`` source and ``(m, D)`` target features."""
        # as many of each: one of the distances needs it, and the others lose nothing
        count = min(len(source), len(target), self.pixels)
        chosen = [torch.randperm(len(x), generator=generator)[:count].to(x.device) for x in (source, target)]
        return self.distance(source[chosen[0]], target[chosen[1]], generator)


def rows(features: Tensor) -> Tensor:
    """``(N, D, h, w)`` features as ``(N h w, D)``."""
    return features.movedim(1, -1).flatten(0, 2)
