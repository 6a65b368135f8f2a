"""The segmenter's optimiser, and one law of learning rates for it and for every method's own optimiser."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from uda.engine.settings import Settings
from uda.functional.schedule import poly, warmup_poly
from uda.models.base import split_decay


def segmenter_optimizer(model: nn.Module, settings: Settings) -> Optimizer:
    """AdamW or SGD over ``model.parameter_groups`` where it has them (encoder and heads apart), else over all of it."""
    s = settings
    groups: Any
    own: Any = getattr(model, "parameter_groups", None)
    if own is not None:
        groups = own(s.lr, head_multiplier=s.head_multiplier, weight_decay=s.weight_decay)
    else:
        groups = split_decay(model, "model", s.lr, s.weight_decay)
    if s.optimizer == "sgd":
        return SGD(groups, lr=s.lr, momentum=s.momentum)
    return AdamW(groups, lr=s.lr, fused=True)


def lr_factor(index: int, settings: Settings) -> float:
    """What every base learning rate is multiplied with at zero-based step ``index``.

    ``poly``: (1 - i/steps)^power as in AdaptSegNet, ADVENT and DAFormer; with ``warmup`` DAFormer's linear ramp over
    it (mmcv's law, warm-up ratio 1e-6).
    """
    if settings.schedule == "constant":
        return min(1.0, (index + 1) / settings.warmup) if settings.warmup else 1.0
    if settings.warmup:
        return warmup_poly(index, 1.0, settings.steps, power=settings.power, warmup=settings.warmup, ratio=1e-6)
    return poly(index, 1.0, settings.steps, power=settings.power)


def set_lr(optimizer: Optimizer, factor: float) -> None:
    """Set every group to its base rate (the rate it was built with) times ``factor``."""
    for group in optimizer.param_groups:
        group.setdefault("initial_lr", group["lr"])
        group["lr"] = group["initial_lr"] * factor
