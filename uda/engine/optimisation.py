"""The segmenter's optimiser: by name with all of torch's arguments, encoder and heads apart, and what is decayed.

The networks' own groups leave norms, biases and position embeddings undecayed; the published codes do not:

* AdaptSegNet, ADVENT, CLAN, CRST, DACS, FDA, MaxSquare, MRNet and ProDA decay all that is trained (``"all"``).
* DAFormer, HRDA and MIC leave out what is called "norm" and belongs to no head: the layer norms of their encoder, MiT.
  Biases, and the heads' batch norms, are decayed (``"all_but_encoder_norms"``). A ResNet's batch norms are called "bn",
  and decayed: ``"all"``.
* SAC leaves out biases, those of batch norm as well, and decays its scales (``"all_but_biases"``).
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
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

Decayed = Literal["weights", "all", "all_but_encoder_norms", "all_but_biases"]
"""Which parameters have weight decay; ``"weights"`` is the networks' own choice: no norms, biases and positions."""
_NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


def segmenter_optimizer(
    model: nn.Module,
    optimizer: str = "adamw",
    arguments: Mapping[str, Any] | None = None,
    *,
    lr: float = 1e-4,
    head_multiplier: float = 10.0,
    weight_decay: float = 0.01,
    decayed: Decayed = "weights",
) -> Optimizer:
    """An optimiser over ``model.parameter_groups`` where it has them (encoder and heads apart), else over all of it.

    Frozen parameters are in it too: they have no gradient and stay, and train when they are unfrozen later.

    Args:
        model: a segmenter.
        optimizer: a name of :data:`OPTIMIZERS` or ``package.module:Class``.
        arguments: of its constructor, but for ``lr`` and ``weight_decay``.
        lr: of the encoder.
        head_multiplier: of the rate of everything else.
        weight_decay: of what is decayed.
        decayed: ``"weights"``, ``"all"``, ``"all_but_encoder_norms"`` or ``"all_but_biases"``, see the module.

    Raises:
        ValueError: an unknown optimiser or argument (with the nearest known one), or another ``decayed``.
    """
    groups: Any
    own: Any = getattr(model, "parameter_groups", None)
    if own is not None:
        groups = own(lr, head_multiplier=head_multiplier, weight_decay=weight_decay)
    else:
        groups = split_decay(model, "model", lr, weight_decay)
    groups = redecayed(groups, model, weight_decay, decayed)
    build: Any = OPTIMIZERS[optimizer]
    return build(groups, lr=lr, **{**DEFAULTS.get(optimizer, {}), **check_arguments(optimizer, arguments or {})})  # type: ignore[no-any-return]


def redecayed(
    groups: Sequence[dict[str, Any]], module: nn.Module, weight_decay: float, decayed: Decayed
) -> list[dict[str, Any]]:
    """Parameter groups with the same rates and weight decay on other parameters.

    Args:
        groups: of ``module``, named as :func:`~uda.models.base.split_decay` does.
        module: tells what is a norm and what a bias.
        weight_decay: of what is decayed.
        decayed: ``"weights"`` gives the groups back. Other groups remember their rule, for parameters that join. The
            encoder's groups are ``encoder`` and, where the parts are not known, ``model``.

    Raises:
        ValueError: another ``decayed``.
    """
    if decayed not in get_args(Decayed):
        raise ValueError(f"decayed is {decayed!r}, must be one of {', '.join(map(repr, get_args(Decayed)))}")
    if decayed == "weights":
        return list(groups)
    norms = {id(p) for part in module.modules() if isinstance(part, _NORMS) for p in part.parameters(recurse=False)}
    biases = {id(p) for name, p in module.named_parameters() if name.endswith("bias")}
    redone: dict[tuple[str, float, bool], dict[str, Any]] = {}
    for group in groups:
        name = str(group.get("name", "model")).removesuffix("/no_decay")
        exempt: set[int] = set()
        if decayed == "all_but_biases":
            exempt = biases
        elif decayed == "all_but_encoder_norms" and name in ("encoder", "model"):
            exempt = norms
        for parameter in group["params"]:
            bare = id(parameter) in exempt
            new = {"params": [], "weight_decay": 0.0 if bare else weight_decay, "decayed": decayed}
            new["name"] = f"{name}/no_decay" if bare else name
            redone.setdefault((name, group["lr"], bare), {**group, **new})["params"].append(parameter)
    return list(redone.values())


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
    """Let the parameters of a method join the segmenter's optimiser, at the rate and weight decay of its heads.

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
    rate, weight_decay = like.get("initial_lr", like["lr"]), like.get("weight_decay", 0.0)
    groups = split_decay(module, name, rate, weight_decay, without=left_out)
    for group in redecayed(groups, module, weight_decay, like.get("decayed", "weights")):
        optimizer.add_param_group(group)
