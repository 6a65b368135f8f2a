"""Strong colour augmentation of the source: the control of methods that bring one.

DACS, DAFormer and MIC jitter and blur the images that they mix and mask (DACS, Tranheden et al., WACV 2021, section
4); source-only training with the same augmentation tells what of their gain is that. Departures: it acts on the source
view, which those papers train on as it is; every image draws its own.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from uda.functional.augment import strong_augment_each
from uda.methods.base import Method
from uda.methods.support.checks import in_range

if TYPE_CHECKING:
    from uda.step import Step


class StrongSource(Method):
    """Jitter and blur the source view as ``ClassMix`` and ``MIC`` do theirs; its labels stay.

    Args:
        jitter: strength of the colour jitter, in [0, 0.5].
        jitter_probability: in [0, 1].
        blur_probability: in [0, 1].

    Raises:
        ValueError: a value out of its range.
    """

    needs_target = False

    def __init__(self, *, jitter: float = 0.25, jitter_probability: float = 0.8, blur_probability: float = 0.5) -> None:
        super().__init__()
        self.jitter = in_range("jitter", jitter, 0.0, 0.5)
        self.jitter_probability = in_range("jitter_probability", jitter_probability, 0.0, 1.0)
        self.blur_probability = in_range("blur_probability", blur_probability, 0.0, 1.0)

    def prepare(self, step: Step) -> None:
        view = step.view("source")
        augmented = strong_augment_each(
            view.images,
            step.generator,
            strength=self.jitter,
            jitter_probability=self.jitter_probability,
            blur_probability=self.blur_probability,
        )
        step.put("source", replace(view, images=augmented))
