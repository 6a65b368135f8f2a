"""What an analysis measures, and how it is made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from uda.gap.fixes import Fix
from uda.gap.interventions import Plan
from uda.gap.latent import Projection
from uda.gap.measure import Measured
from uda.gap.style import Style

Floats = npt.NDArray[np.float64]
Progress = Callable[[str, int], Any]
"""A label and how many there will be -> a context manager that gives a function to call after each."""


@dataclass(frozen=True)
class Options:
    """How an analysis is made.

    Raises:
        ValueError: a value out of its range.
    """

    budget: int = 4000
    """Forward passes up to which all combinations of factors are tried; beyond, two orders are drawn for each image."""
    prior: float = 0.5
    """Share of the model's own statistics where batch norm is a factor, in [0, 1]."""
    projection: Projection = "pca"
    by_class: bool = False
    """Pool features by class as well."""
    batch_size: int = 4
    seed: int = 0
    causes: bool = True
    """Whether to edit images; without, only what one pass gives is measured."""

    def __post_init__(self) -> None:
        for name, least in (("budget", 1), ("batch_size", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}, must be at least {least}")
        if not 0 <= self.prior <= 1:
            raise ValueError(f"prior is {self.prior}, must be in [0, 1]")


@dataclass(frozen=True)
class DomainResult:
    """What was measured on one data set."""

    name: str
    files: tuple[str, ...]
    sequences: tuple[str, ...]
    before: list[Measured]
    style: Style
    labelled: bool
    after: list[Measured] | None = None

    def losses(self) -> Floats:
        """``(n,)`` mean loss of each image; NaN without labels."""
        return np.array([row.columns["loss"] for row in self.before])


@dataclass(frozen=True)
class FixResult:
    """Target images under a fix."""

    fix: Fix
    losses: Floats
    """``(n,)``."""
    confusions: npt.NDArray[np.int64]
    """``(n, C, C)``."""


@dataclass(frozen=True)
class Gap:
    """Everything that an analysis measured; :func:`uda.gap.report.summarise` makes numbers and sentences of it."""

    class_names: tuple[str, ...]
    palette: npt.NDArray[np.uint8]
    source: DomainResult | None
    source_style: Style
    source_name: str
    target: DomainResult
    options: Options
    plan: Plan | None = None
    differences: dict[str, float] = field(default_factory=dict)
    """Factor -> how far the domains differ in it, see :meth:`uda.gap.factors.Editor.differences`."""
    harmful: tuple[str, ...] = ()
    """Factors whose edit does harm beside the others; they take no part in the shares."""
    shares: dict[str, Floats] = field(default_factory=dict)
    """Factor -> ``(n,)`` what it takes off each target image's loss (Shapley)."""
    alone: dict[str, tuple[Floats, npt.NDArray[np.int64]]] = field(default_factory=dict)
    """Factor -> losses ``(n,)`` and confusions ``(n, C, C)`` of the target so edited."""
    fixes: list[FixResult] = field(default_factory=list)
    after_name: str | None = None
    missing: dict[str, str] = field(default_factory=dict)
    """Part -> why it could not be measured."""
    trained_on_source: bool = False
    """Whether the source's images are ones that the model was trained on."""
    pictures: Callable[[str, str, int], dict[str, bytes]] | None = None
    """Domain, state (``before``, ``after``), image -> its pictures; while the working folder is there."""
