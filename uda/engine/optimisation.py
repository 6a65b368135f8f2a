"""The segmenter's optimiser: by name with all of torch's arguments, encoder and heads apart, norms not decayed."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer

from uda.models.base import split_decay
from uda.registry import Registry, keyword_arguments, nearest

OPTIMIZERS: Registry[type[Optimizer]] = Registry(
    "optimizer",
    {"adamw": "torch.optim:AdamW", "sgd": "torch.optim:SGD"},
    accepts=lambda candidate: inspect.isclass(candidate) and issubclass(candidate, Optimizer),
)
"""Optimisers by the name that configs use; ``torch.optim:NAdam`` and any other class work as well."""
DEFAULTS: dict[str, dict[str, Any]] = {"adamw": {"fused": True}, "sgd": {"momentum": 0.9}}
"""Arguments that differ from torch's."""
GROUP_ARGUMENTS = ("params", "lr", "weight_decay")
"""Arguments that are the run's own settings, as they differ between the groups of parameters."""


def segmenter_optimizer(
    model: nn.Module,
    optimizer: str = "adamw",
    arguments: Mapping[str, Any] | None = None,
    *,
    lr: float = 1e-4,
    head_multiplier: float = 10.0,
    weight_decay: float = 0.01,
) -> Optimizer:
    """An optimiser over ``model.parameter_groups`` where it has them (encoder and heads apart), else over all of it.

    Frozen parameters are in it too: they have no gradient and stay, and train when they are unfrozen later.

    Args:
        model: a segmenter.
        optimizer: a name of :data:`OPTIMIZERS` or ``package.module:Class``.
        arguments: of its constructor, but for ``lr`` and ``weight_decay``.
        lr: of the encoder.
        head_multiplier: of the rate of everything else.
        weight_decay: not on norms, biases and position embeddings.

    Raises:
        ValueError: an unknown optimiser or argument (with the nearest known one).
    """
    groups: Any
    own: Any = getattr(model, "parameter_groups", None)
    if own is not None:
        groups = own(lr, head_multiplier=head_multiplier, weight_decay=weight_decay)
    else:
        groups = split_decay(model, "model", lr, weight_decay)
    build: Any = OPTIMIZERS[optimizer]
    return build(groups, lr=lr, **{**DEFAULTS.get(optimizer, {}), **check_arguments(optimizer, arguments or {})})  # type: ignore[no-any-return]


def check_arguments(optimizer: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """``arguments``, if the optimiser takes them.

    Raises:
        ValueError: an unknown optimiser or argument, or one that is a setting of its own.
    """
    known = keyword_arguments(OPTIMIZERS[optimizer].__init__, without=("self", *GROUP_ARGUMENTS))
    for name in arguments:
        if name in GROUP_ARGUMENTS:
            raise ValueError(f"{name} of {optimizer!r} is a setting of its own; write it beside the optimizer")
        if name not in known:
            raise ValueError(f"optimizer {optimizer!r} has no argument {name!r}; {nearest(name, known)}")
    return dict(arguments)


def add_parameters(optimizer: Optimizer, module: nn.Module, name: str, leave_out: set[int]) -> None:
    """Let the parameters of a method join the segmenter's optimiser, at the rate of its heads.

    Args:
        optimizer: of the segmenter.
        module: the method.
        name: of the new groups.
        leave_out: ids of parameters that have an optimiser of their own.
    """
    heads = [group for group in optimizer.param_groups if str(group.get("name", "")).startswith("head")]
    like = heads[0] if heads else optimizer.param_groups[0]
    known = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    left_out = [p for p in module.parameters() if not p.requires_grad or id(p) in leave_out | known]
    rate = like.get("initial_lr", like["lr"])
    for group in split_decay(module, name, rate, like.get("weight_decay", 0.0), without=left_out):
        optimizer.add_param_group(group)
