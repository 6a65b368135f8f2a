"""What can be done at test time, and is tried: the cheapest fixes first."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import nn

from uda.engine.inference import Inference, ResizedImages
from uda.functional.normalisation import batch_norms
from uda.gap.style import Style
from uda.methods import AdaBN, ColourAtTest
from uda.methods.base import TestTimeMethod
from uda.types import SEGMENTER_ATTRIBUTES, LabelledDataset, TaskSpec, UnlabelledDataset

Make = Callable[[], TestTimeMethod]


@dataclass(frozen=True)
class Fix:
    """Something that changes predictions without training.

    Args:
        name: for people.
        config: the line of a config that does it.
        make: the test-time method, or ``None`` where only the way to predict changes.
        scale: resize of the images.
        looks_at_target: whether it looks at target images beforehand.
    """

    name: str
    config: str
    make: Make | None = None
    scale: float = 1.0
    looks_at_target: bool = False

    @property
    def key(self) -> str:
        """The name as a file's."""
        return re.sub(r"[^a-z0-9]+", "_", self.name.lower()).strip("_")

    @contextmanager
    def attached(
        self, model: nn.Module, source: LabelledDataset | None, target: UnlabelledDataset, inference: Inference
    ) -> Iterator[tuple[nn.Module, Inference]]:
        """The model with the fix, and how it is asked; afterwards the model is as before."""
        if self.scale != 1:
            inference = inference.model_copy(update={"scale": inference.scale * self.scale})
        if self.make is None:
            yield model, inference
            return
        method = self.make()
        method.attach(model, TaskSpec.at_test_time(model, source, ResizedImages(target, inference)))
        try:
            yield method, inference
        finally:
            method.detach_model()


def default_fixes(model: nn.Module, source: Style, target: Style, images: LabelledDataset | None = None) -> list[Fix]:
    """The fixes that are tried where nothing else is said, those that the model allows.

    Args:
        model: batch-norm fixes need batch norm; all but the resize need a segmenter (:func:`uda.models.adapt`).
        source: its style.
        target: its style.
        images: of the source, which Reinhard's and the histogram transfer need.
    """
    fixes: list[Fix] = []
    if all(hasattr(model, name) for name in SEGMENTER_ATTRIBUTES):
        numbers = (_numbers(source), _numbers(target))
        written = "{ColourAtTest: {}}" if images is not None else _published(*numbers)
        fixes.append(
            Fix(
                "mean and deviation of the data sets",
                written,
                lambda: ColourAtTest(reference=numbers[0], statistics=numbers[1]),
                looks_at_target=True,
            )
        )
        own = "{ColourAtTest: {statistics: image}}"
        fixes.append(
            Fix("mean and deviation of each image", own, lambda: ColourAtTest(reference=numbers[0], statistics="image"))
        )
        if images is not None:
            fixes += [
                Fix("Reinhard's transfer", "{ColourAtTest: {transfer: reinhard}}",
                    lambda: ColourAtTest(transfer="reinhard")),
                Fix("histogram matching", "{ColourAtTest: {transfer: histogram}}",
                    lambda: ColourAtTest(transfer="histogram")),
            ]  # fmt: skip
        if batch_norms(model):
            fixes += [
                Fix("AdaBN, prior 0.5", "{AdaBN: {prior: 0.5}}", lambda: AdaBN(prior=0.5), looks_at_target=True),
                Fix("AdaBN", "{AdaBN: {prior: 0.0}}", lambda: AdaBN(prior=0.0), looks_at_target=True),
            ]
    if source.size is not None and target.size is not None:
        scale = source.size[0] / target.size[0]
        if abs(scale - 1) > 0.02:
            fixes.append(Fix(f"resized by {scale:.3g} to the source's height", f"evaluate: {{scale: {scale:.4g}}}",
                             scale=scale))  # fmt: skip
    return fixes


def _numbers(style: Style) -> tuple[list[float], list[float]]:
    return [float(value) for value in style.mean], [float(value) for value in style.std]


def _published(reference: tuple[list[float], list[float]], statistics: tuple[list[float], list[float]]) -> str:
    def text(moments: tuple[list[float], list[float]]) -> str:
        return "[" + ", ".join("[" + ", ".join(f"{value:.4g}" for value in part) + "]" for part in moments) + "]"

    return f"{{ColourAtTest: {{reference: {text(reference)}, statistics: {text(statistics)}}}}}"
