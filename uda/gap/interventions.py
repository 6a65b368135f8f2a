"""What the loss is when the target's images are edited, and when batch norm knows them: the game that is shared out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from threading import Lock

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from uda.engine.scoring import predict_and_loss
from uda.functional.normalisation import (
    Statistics,
    batch_norms,
    blend_statistics,
    load_statistics,
    pooled_statistics,
    running_statistics,
)
from uda.gap.columns import as_float
from uda.gap.factors import BATCH_NORM, Editor
from uda.gap.sampling import (
    Coalition,
    all_coalitions,
    coalitions_of,
    exact_shapley,
    orders_for,
    shapley_of_orders,
)
from uda.gap.style import Style, as_images, as_pixels
from uda.gap.threads import in_threads
from uda.metrics import confusion
from uda.types import Sample

Floats = npt.NDArray[np.float64]
CPU_PIXELS = 2**18
"""In a batch on a CPU, which gains nothing from more: glibc asks the system for every tensor above 32 MB anew, and its
first touch took five times as long as a batch's forward pass and loss."""
Predict = Callable[[Tensor, tuple[int, int]], Tensor]
"""Images ``(N, 3, h, w)`` and the size that is scored -> logits ``(N, C, ...)``, of that size or the network's own."""


@dataclass(frozen=True)
class Plan:
    """Which coalitions of factors are tried on which image."""

    factors: tuple[str, ...]
    exact: bool
    """All subsets on every image; else two antithetic orders drawn for each image."""
    seed: int

    @classmethod
    def of(cls, factors: Sequence[str], images: int, budget: int, seed: int) -> Plan:
        """Exact where all subsets on all images take no more passes than ``budget``."""
        return cls(tuple(factors), images * 2 ** len(factors) <= budget, seed)

    def orders(self, image: int) -> tuple[tuple[str, ...], ...]:
        """Of one image, where the plan is not exact."""
        return orders_for(self.factors, image, self.seed)

    def coalitions(self, image: int) -> list[Coalition]:
        """That are tried on an image, besides the empty one."""
        if self.exact:
            tried = all_coalitions(self.factors)
        else:
            tried = coalitions_of(self.orders(image))
        return [coalition for coalition in tried if coalition]

    def shares(self, values: dict[Coalition, float], image: int) -> dict[str, float]:
        """What each factor takes off the loss of an image."""
        if not self.factors:
            return {}
        if self.exact:
            return exact_shapley(values, self.factors)
        return shapley_of_orders(values, self.orders(image))


class Interventions:
    """Tries coalitions of factors on a network.

    Args:
        model: in evaluation mode; its batch-norm statistics are the same again after every call.
        predict: how it is asked.
        source: style to bring images to.
        target: style of the target's images.
        calibration: target images that batch norm is calibrated on, edited like those that are predicted, and on which
            edits are measured.
        resize: images as they are edited -> as the network is to see them.
        prior: share of the model's own statistics in those, in [0, 1].
        batch_size: images of one size that go through the model together.
    """

    def __init__(
        self,
        model: nn.Module,
        predict: Predict,
        source: Style,
        target: Style,
        calibration: Iterable[Sample],
        *,
        resize: Callable[[Tensor], Tensor],
        prior: float,
        batch_size: int,
    ) -> None:
        self.model, self.prior = model, prior
        self._batch_size, self._resize = batch_size, resize
        self._predict = predict
        self._calibration = [as_float(as_pixels(sample.image)) for sample in calibration]
        self.editor = Editor(source, target, self._calibration)
        self._own = {name: Statistics(s.mean.clone(), s.var.clone()) for name, s in running_statistics(model).items()}
        self._adapted: dict[Coalition, dict[str, Statistics]] = {}
        self._asking = Lock()
        self._device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))

    def factors(self) -> tuple[str, ...]:
        """The image factors in which the domains differ, and batch norm where the model has it."""
        own = (BATCH_NORM,) if batch_norms(self.model) and self._calibration else ()
        return (*self.editor.active(), *own)

    def try_on(
        self, samples: Sequence[Sample], indices: Sequence[int], coalitions: Sequence[Sequence[Coalition]]
    ) -> tuple[list[dict[Coalition, float]], list[dict[Coalition, npt.NDArray[np.int64]]]]:
        """Loss of each image under each of its coalitions, and confusion matrices for those of a single factor.

        Args:
            samples: labelled.
            indices: of the images, which seed the noise that is added.
            coalitions: of each image.
        """
        losses: list[dict[Coalition, float]] = [{} for _ in samples]
        matrices: list[dict[Coalition, npt.NDArray[np.int64]]] = [{} for _ in samples]
        tried = dict.fromkeys(coalition for own in coalitions for coalition in own)
        with_norm = sorted((c for c in tried if BATCH_NORM in c), key=sorted)
        for state in (frozenset[str](), *with_norm):
            load_statistics(self.model, self._statistics(state))
            wanted = [[c for c in own if c == state or not (state or BATCH_NORM in c)] for own in coalitions]
            tasks = zip(samples, indices, wanted, strict=True)
            for k, (tried_losses, confusions) in enumerate(in_threads(self._try_image, tasks)):
                losses[k] |= tried_losses
                matrices[k] |= confusions
        load_statistics(self.model, self._own)
        return losses, matrices

    def _try_image(
        self, task: tuple[Sample, int, Sequence[Coalition]]
    ) -> tuple[dict[Coalition, float], dict[Coalition, npt.NDArray[np.int64]]]:
        """One image under coalitions that go with the statistics that the model has now."""
        sample, index, coalitions = task
        losses: dict[Coalition, float] = {}
        matrices: dict[Coalition, npt.NDArray[np.int64]] = {}
        by_edits = {coalition - {BATCH_NORM}: coalition for coalition in coalitions}
        edits = self.editor.each(as_float(as_pixels(sample.image)), by_edits, seed=index)
        at_most = self._batch_size
        if self._device.type == "cpu":
            height, width = sample.image.shape[-2:]
            at_most = max(1, min(at_most, CPU_PIXELS // (height * width)))
        for batch in _same_size(edits, at_most):
            # the network takes one batch at a time, and one batch of logits is held
            with self._asking, torch.no_grad():
                images = as_images([pixels for _, pixels in batch]).to(self._device)
                size = (int(sample.image.shape[-2]), int(sample.image.shape[-1]))
                for (edited, _), logits in zip(batch, self._predict(images, size), strict=True):
                    coalition = by_edits[edited]
                    assert sample.label is not None
                    label = sample.label.to(logits.device)
                    classes, losses[coalition] = predict_and_loss(logits, label)
                    if len(coalition) == 1:
                        matrices[coalition] = confusion(classes, label, len(logits)).cpu().numpy()
        return losses, matrices

    def _statistics(self, coalition: Coalition) -> dict[str, Statistics]:
        if BATCH_NORM not in coalition:
            return self._own
        images = coalition - {BATCH_NORM}
        if images not in self._adapted:
            load_statistics(self.model, self._own)
            edited = (
                self._resize(as_images([self.editor.apply(pixels, images, seed=k)]).to(self._device))
                for k, pixels in enumerate(self._calibration)
            )
            pooled = pooled_statistics(self.model, edited)
            self._adapted[images] = {**self._own, **blend_statistics(self._own, pooled, self.prior)}
        return self._adapted[images]


def _same_size(
    edits: Iterable[tuple[Coalition, npt.NDArray[np.float32]]], at_most: int
) -> Iterator[list[tuple[Coalition, npt.NDArray[np.float32]]]]:
    """Edited images in a row that have one size, at most so many together."""
    for _, group in groupby(edits, key=lambda edit: edit[1].shape):
        while batch := list(islice(group, at_most)):
            yield batch
