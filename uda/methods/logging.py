"""Scalars that several methods log under the same tags, so that the curves of their runs overlay."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from uda.types import IGNORE

if TYPE_CHECKING:
    from torch import Tensor

    from uda.step import Step


def log_pseudo_labels(step: Step, labels: Tensor, class_names: Sequence[str], coverage: Tensor | None = None) -> None:
    """Log ``pseudo_label/coverage`` and ``pseudo_label/share/<class>`` of a batch of pseudo-labels.

    Args:
        step: the current step.
        labels: ``(N, H, W)`` int64, ``IGNORE`` where the method takes no label.
        class_names: of the C classes.
        coverage: scalar, the share of pixels that the method is sure of; by default those that are not ignored. Where
            several methods of a run make pseudo-labels, the last one's numbers stay.
    """
    counts = torch.bincount(labels.flatten(), minlength=IGNORE + 1)[: len(class_names)].float()
    shares = counts / counts.sum().clamp(min=1)
    step.log("pseudo_label/coverage", counts.sum() / labels.numel() if coverage is None else coverage)
    for name, share in zip(class_names, shares, strict=True):
        step.log(f"pseudo_label/share/{name}", share)
