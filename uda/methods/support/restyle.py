"""Restyling the source with target images, before anything else looks at it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from uda.step import Step

Restyle = Callable[["Tensor", "Tensor", "torch.Generator"], "Tensor"]
"""(images, as many style images, CPU generator), ``(N, 3, H, W)`` in [0, 1] each -> restyled images."""


def restyle_source(step: Step, restyle: Restyle) -> None:
    """Replace the source view's images; its labels stay, as no pixel moves.

    Each source image gets a target image of the step as its style, drawn at random.
    """
    view, target = step.view("source"), step.view("target").images
    style = target[pairing(len(view.images), len(target), step.generator)]
    step.put("source", replace(view, images=restyle(view.images, style, step.generator)))


def pairing(sources: int, targets: int, generator: torch.Generator) -> Tensor:
    """``(sources,)`` int64: a random target image for each source image, each used equally often where it goes up."""
    rounds = -(-sources // targets)
    return torch.cat([torch.randperm(targets, generator=generator) for _ in range(rounds)])[:sources]
