"""How batch norm treats the images of the two domains in training; a setting of the run, never a method's side effect.

* ``"shared"``: every pass normalises with its own batch and moves the one set of stored statistics (AdaptSegNet,
  ADVENT, DACS, DAFormer and most others). Whoever passes target images moves the statistics that evaluation uses.
* ``"frozen"``: every pass uses the stored statistics, which never change (CBST, CRST, ProDA and others, whose networks
  stay in evaluation mode).
* ``"source"``: every pass normalises with its own batch, and the source's alone moves the stored statistics.
* ``"per_domain"``: a second set of statistics, scale and shift for the target (domain-specific batch normalisation,
  Chang et al., CVPR 2019, section 3); each domain's images are trained and evaluated with their own.

In all of them a pass holds images of one view, so that domains never share a batch. Departure from Chang et al.: the
target's set starts from the source's, as a network that was trained before does.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, get_args

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

if TYPE_CHECKING:
    from torch import Tensor

Treatment = Literal["shared", "frozen", "source", "per_domain"]
TREATMENTS: tuple[str, ...] = get_args(Treatment)
Domain = Literal["source", "target"]
_BUFFERS = ("running_mean", "running_var")
_PARAMETERS = ("weight", "bias")
_PREFIX = "target_"
_NOW = "_domain"
"""Attribute of a layer with two sets: whose is in place."""


def view_domain(name: str) -> Domain:
    """The domain whose statistics a view belongs to: the source's are those called so, all others are the target's.

    Mixed and masked images are target images, with something pasted or hidden.
    """
    return "source" if name.startswith("source") else "target"


def domain_statistics(name: str) -> Domain:
    """The domain whose statistics fit an evaluation set by its name: the source's own, for all others the target's.

    A third domain, never trained on, gets the target's: the network was adapted to be used there.
    """
    return "source" if name == "source" else "target"


def add_target_norms(model: nn.Module) -> None:
    """Give every batch-norm layer a second set of statistics, scale and shift, a copy of its own; once, in place.

    They are buffers and parameters called ``target_running_mean``, ..., ``target_bias``, part of the state.
    """
    for layer in _layers(model):
        if _has_set(layer):
            continue
        for name in _BUFFERS:
            value: Tensor | None = getattr(layer, name)
            layer.register_buffer(_PREFIX + name, None if value is None else value.detach().clone())
        for name in _PARAMETERS:
            parameter: nn.Parameter | None = getattr(layer, name)
            copied = None if parameter is None else nn.Parameter(parameter.detach().clone(), parameter.requires_grad)
            layer.register_parameter(_PREFIX + name, copied)


def has_target_norm(module: nn.Module) -> bool:
    """Whether any layer has a set of its own for the target."""
    return any(_has_set(layer) for layer in _layers(module))


def needs_target_norms(state: dict[str, Tensor]) -> bool:
    """Whether a state dict is of a model with :func:`add_target_norms`."""
    return any(name.rpartition(".")[2] == f"{_PREFIX}running_mean" for name in state)


def place_norms(model: nn.Module, domain: Domain) -> None:
    """From now on, layers with a set for each domain normalise as that domain's; others are as they were."""
    for layer in _layers(model):
        if _has_set(layer) and getattr(layer, _NOW, "source") != domain:
            _swap(layer, domain)


@contextmanager
def normalising(model: nn.Module, domain: Domain, treatment: str = "shared") -> Iterator[None]:
    """Inside, batch norm treats what passes as images of a domain; afterwards the layers are as before.

    Args:
        model: whose batch-norm layers.
        domain: of the images.
        treatment: see the head of this file; a model with a target's set uses it whatever is said here.
    """
    layers = _layers(model)
    swapped = [layer for layer in layers if _has_set(layer) and getattr(layer, _NOW, "source") != domain]
    still = [layer for layer in layers if layer.training] if treatment == "frozen" else []
    unmoved = layers if treatment == "source" and domain == "target" else []
    momenta = [layer.momentum for layer in unmoved]
    for layer in swapped:
        _swap(layer, domain)
    for layer in still:
        layer.training = False
    for layer in unmoved:
        layer.momentum = 0.0
    try:
        yield
    finally:
        for layer in swapped:
            _swap(layer, "source" if domain == "target" else "target")
        for layer in still:
            layer.training = True
        for layer, momentum in zip(unmoved, momenta, strict=True):
            layer.momentum = momentum


def _layers(module: nn.Module) -> list[_BatchNorm]:
    return [layer for layer in module.modules() if isinstance(layer, _BatchNorm)]


def _has_set(layer: _BatchNorm) -> bool:
    return f"{_PREFIX}running_mean" in layer._buffers


def _swap(layer: _BatchNorm, domain: Domain) -> None:
    # the tensors change places, so that in-place updates and gradients go to the right set
    for name in _BUFFERS:
        own, other = layer._buffers[name], layer._buffers[_PREFIX + name]
        layer._buffers[name], layer._buffers[_PREFIX + name] = other, own
    for name in _PARAMETERS:
        mine, theirs = layer._parameters[name], layer._parameters[_PREFIX + name]
        layer._parameters[name], layer._parameters[_PREFIX + name] = theirs, mine
    setattr(layer, _NOW, domain)
