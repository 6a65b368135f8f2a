"""Batch-norm statistics at test time: AdaBN (Li et al. 2017), their blend with the source's, TENT's parameters.

Modules are changed only inside the context managers, and are as before when these end. A layer that sees a single value
for each channel (an image-pooling branch with one image) has no batch statistics: it uses its stored ones instead of
raising.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class Statistics(NamedTuple):
    """Mean and variance of a batch-norm layer, ``(C,)`` each.

    Example:
        >>> import torch
        >>> from uda.functional import Statistics
        >>> mean, var = Statistics(torch.zeros(2), torch.ones(2))
        >>> mean.tolist(), var.tolist()
        ([0.0, 0.0], [1.0, 1.0])
    """

    mean: Tensor
    var: Tensor


def batch_norms(module: nn.Module) -> dict[str, _BatchNorm]:
    """The batch-norm layers that keep running statistics, by their path in the module.

    Example:
        >>> from torch import nn
        >>> from uda.functional import batch_norms
        >>> list(batch_norms(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))))
        ['1']
    """
    return {
        name: layer
        for name, layer in module.named_modules()
        if isinstance(layer, _BatchNorm) and layer.running_mean is not None
    }


def affine_parameters(module: nn.Module) -> list[nn.Parameter]:
    """Scale and shift of every batch-norm layer: what TENT trains (Wang et al. 2021).

    Example:
        >>> from torch import nn
        >>> from uda.functional import affine_parameters
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        >>> [tuple(parameter.shape) for parameter in affine_parameters(network)]
        [(4,), (4,)]
    """
    layers = [layer for layer in module.modules() if isinstance(layer, _BatchNorm) and layer.affine]
    return [parameter for layer in layers for parameter in (layer.weight, layer.bias)]


def running_statistics(module: nn.Module) -> dict[str, Statistics]:
    """A copy of the stored statistics of every layer of :func:`batch_norms`.

    Example:
        >>> from torch import nn
        >>> from uda.functional import running_statistics
        >>> statistics = running_statistics(nn.Sequential(nn.BatchNorm2d(2)))
        >>> statistics["0"].mean.tolist(), statistics["0"].var.tolist()
        ([0.0, 0.0], [1.0, 1.0])
    """
    return {
        name: Statistics(layer.running_mean.clone(), layer.running_var.clone())  # type: ignore[union-attr]
        for name, layer in batch_norms(module).items()
    }


def load_statistics(module: nn.Module, statistics: Mapping[str, Statistics]) -> None:
    """Store statistics in the layers of the given paths; other layers keep theirs.

    Raises:
        KeyError: a path that is no batch-norm layer of the module.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from uda.functional import Statistics, load_statistics
        >>> network = nn.Sequential(nn.BatchNorm2d(1))
        >>> load_statistics(network, {"0": Statistics(torch.tensor([2.0]), torch.tensor([3.0]))})
        >>> network[0].running_mean.item(), network[0].running_var.item()
        (2.0, 3.0)
    """
    layers = batch_norms(module)
    unknown = sorted(set(statistics) - set(layers))
    if unknown:
        raise KeyError(f"no batch-norm layer with running statistics at: {', '.join(unknown)}")
    for name, (mean, var) in statistics.items():
        layer = layers[name]
        layer.running_mean.copy_(mean)  # type: ignore[union-attr]
        layer.running_var.copy_(var)  # type: ignore[union-attr]


def reset_statistics(module: nn.Module) -> None:
    """Forget the stored statistics: mean 0, variance 1.

    Example:
        >>> from torch import nn
        >>> from uda.functional import reset_statistics
        >>> network = nn.Sequential(nn.BatchNorm2d(1))
        >>> _ = network[0].running_mean.fill_(5)
        >>> reset_statistics(network)
        >>> network[0].running_mean.item()
        0.0
    """
    for layer in batch_norms(module).values():
        layer.reset_running_stats()


def blend_statistics(
    source: Mapping[str, Statistics], target: Mapping[str, Statistics], prior: float
) -> dict[str, Statistics]:
    r"""prior * source + (1 - prior) * target, for means and variances alike (Schneider et al. 2020).

    $$ \bar{\mu} = a \, \mu_s + (1 - a) \, \mu_t, \qquad \bar{\sigma}^2 = a \, \sigma_s^2 + (1 - a) \, \sigma_t^2 $$

    Args:
        source: statistics of the trained network.
        target: re-estimated ones; a layer that is missing here keeps the source's.
        prior: in [0, 1]; 0 is plain AdaBN, 1 the source network.

    Raises:
        ValueError: ``prior`` is not in [0, 1].

    Example:
        >>> import torch
        >>> from uda.functional import Statistics, blend_statistics
        >>> source = {"bn": Statistics(torch.tensor([0.0]), torch.tensor([1.0]))}
        >>> target = {"bn": Statistics(torch.tensor([2.0]), torch.tensor([3.0]))}
        >>> mean, var = blend_statistics(source, target, prior=0.25)["bn"]
        >>> mean.item(), var.item()
        (1.5, 2.5)
    """
    _check_prior(prior)
    return {
        name: Statistics(mean.lerp(target[name].mean, 1 - prior), var.lerp(target[name].var, 1 - prior))
        if name in target
        else Statistics(mean, var)
        for name, (mean, var) in source.items()
    }


def _check_prior(prior: float) -> None:
    if not 0 <= prior <= 1:
        raise ValueError(f"prior must be in [0, 1], got {prior}")


def _values(inputs: Tensor) -> int:
    """Values for each channel."""
    return inputs.numel() // max(inputs.shape[1], 1)


@contextmanager
def _attributes(layers: Iterable[nn.Module], **values: Any) -> Iterator[None]:
    """The layers with some attributes set, put back at the end."""
    before = [(layer, {name: getattr(layer, name) for name in values}) for layer in layers]
    try:
        for layer, _ in before:
            for name, value in values.items():
                setattr(layer, name, value)
        yield
    finally:
        for layer, old in before:
            for name, value in old.items():
                setattr(layer, name, value)


def _use_stored_for_single_values(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    layer.training = _values(inputs[0]) > 1


@contextmanager
def _train_mode(module: nn.Module, **values: Any) -> Iterator[None]:
    """Batch-norm layers in training mode except where they see a single value; everything else is left alone."""
    layers = batch_norms(module).values()
    with ExitStack() as stack:
        stack.enter_context(_attributes(layers, training=True, **values))
        for layer in layers:
            stack.enter_context(layer.register_forward_pre_hook(_use_stored_for_single_values))
        yield


@contextmanager
def batch_statistics(module: nn.Module, *, prior: float = 0.0) -> Iterator[None]:
    """Inside, batch-norm layers normalise with the statistics of the current batch; the stored ones do not change.

    Args:
        module: any network; layers other than batch norm keep their mode.
        prior: weight of the stored statistics, blended in at every layer as in :func:`blend_statistics`. At 0 gradients
            flow through the batch statistics, as TENT needs; above 0 the statistics are constants.

    Raises:
        ValueError: ``prior`` is not in [0, 1].

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from uda.functional import batch_statistics
        >>> network = nn.Sequential(nn.BatchNorm2d(1)).eval()
        >>> with batch_statistics(network):
        ...     output = network(torch.tensor([1.0, 3.0]).view(1, 1, 1, 2))
        >>> [round(value, 2) for value in output.flatten().tolist()], network[0].running_mean.item()
        ([-1.0, 1.0], 0.0)
    """
    _check_prior(prior)
    if prior == 0:
        with _train_mode(module, track_running_stats=False):
            yield
        return
    stored: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def swap_in(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        mean, var = layer.running_mean, layer.running_var
        stored[layer] = (mean, var)  # type: ignore[assignment]
        if _values(inputs[0]) > 1:
            batch_var, batch_mean = _var_mean(inputs[0], unbiased=False)
            layer.running_mean = mean.lerp(batch_mean.to(mean), 1 - prior)  # type: ignore[operator, union-attr, arg-type]
            layer.running_var = var.lerp(batch_var.to(var), 1 - prior)  # type: ignore[operator, union-attr, arg-type]

    def swap_out(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        layer.running_mean, layer.running_var = stored.pop(layer)

    layers = batch_norms(module).values()
    with ExitStack() as stack:
        stack.enter_context(_attributes(layers, training=False))
        stack.callback(_restore, stored)
        for layer in layers:
            stack.enter_context(layer.register_forward_pre_hook(swap_in))
            stack.enter_context(layer.register_forward_hook(swap_out))
        yield


def _restore(stored: dict[nn.Module, tuple[Tensor, Tensor]]) -> None:
    """Put back the statistics of layers whose forward pass raised."""
    for layer, (mean, var) in stored.items():
        layer.running_mean, layer.running_var = mean, var


def _var_mean(inputs: Tensor, *, unbiased: bool) -> tuple[Tensor, Tensor]:
    dims = [axis for axis in range(inputs.dim()) if axis != 1]
    return torch.var_mean(inputs.detach().float(), dims, correction=int(unbiased))


@contextmanager
def updating_statistics(module: nn.Module, *, momentum: float | None = 0.1) -> Iterator[None]:
    """Inside, layers normalise with the batch and move their stored statistics towards it, which stay when it ends.

    Args:
        module: any network; layers other than batch norm keep their mode.
        momentum: weight of a batch (its variance unbiased); ``None`` for the plain mean of all batches since the reset.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from uda.functional import updating_statistics
        >>> network = nn.Sequential(nn.BatchNorm2d(1)).eval()
        >>> with updating_statistics(network, momentum=0.5):
        ...     output = network(torch.tensor([1.0, 3.0]).view(1, 1, 1, 2))
        >>> network[0].running_mean.item()  # halfway from 0 to 2
        1.0
    """
    with _train_mode(module, momentum=momentum):
        yield


def pooled_statistics(module: nn.Module, batches: Iterable[Tensor]) -> dict[str, Statistics]:
    """The statistics of every layer over all images together: AdaBN's (Li et al. 2017, section 3.2).

    Mean and variance of a channel run over every position of every image, so that the variance *between* images counts;
    large images weigh more. The module does not change; use :func:`load_statistics` on the result or on its blend with
    the source's.

    Departure: while they are collected, each layer normalises with its batch's own statistics (one pass). Exact ones
    would take a pass for each layer; passes that normalise with the statistics of the pass before drift instead: on a
    Cityscapes-trained ESPNet and KITTI the loss went from 1.15 to 2.8 and 4.0.

    Args:
        module: the network, in the mode (dropout) that it is to be used in.
        batches: ``(N, 3, H, W)`` each.

    Returns:
        by path; a layer that saw no batch with more than one value for each channel is missing.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from uda.functional import pooled_statistics
        >>> batches = [torch.zeros(1, 1, 2, 2), torch.full((1, 1, 2, 2), 4.0)]
        >>> pooled = pooled_statistics(nn.Sequential(nn.BatchNorm2d(1)), batches)["0"]
        >>> pooled.mean.item(), pooled.var.item()  # no image varies in itself
        (2.0, 4.0)
    """
    sums: dict[str, tuple[Tensor, Tensor, int]] = {}

    def add(name: str, inputs: Tensor) -> None:
        values = inputs.double().movedim(1, 0).flatten(1)
        total, squares, count = sums.get(name, (values.new_zeros(()), values.new_zeros(()), 0))
        sums[name] = (total + values.sum(1), squares + values.square().sum(1), count + values.shape[1])

    _each_input(module, batches, add)
    pooled = {}
    for name, (total, squares, count) in sums.items():
        mean = total / count
        pooled[name] = Statistics(mean.float(), (squares / count - mean.square()).clamp(min=0).float())
    return pooled


def collect_statistics(module: nn.Module, batches: Iterable[Tensor]) -> dict[str, Statistics]:
    """The mean of the batches' statistics: what tent's ``norm.py`` leaves with a cumulative average.

    Batches weigh the same whatever their size, variances are unbiased, and the variance between batches is left out,
    which :func:`pooled_statistics` has. The module does not change.

    Args:
        module: the network, in the mode (dropout) that it is to be used in.
        batches: ``(N, 3, H, W)`` each.

    Returns:
        by path; a layer that saw no batch with more than one value for each channel is missing.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from uda.functional import collect_statistics
        >>> batch = torch.tensor([1.0, 3.0]).view(1, 1, 1, 2)
        >>> collect_statistics(nn.Sequential(nn.BatchNorm2d(1)), [batch, batch + 2])["0"].mean.item()
        3.0
    """
    sums: dict[str, tuple[Tensor, Tensor, int]] = {}

    def add(name: str, inputs: Tensor) -> None:
        var, mean = _var_mean(inputs, unbiased=True)
        old_mean, old_var, count = sums.get(name, (torch.zeros_like(mean), torch.zeros_like(var), 0))
        sums[name] = (old_mean + mean, old_var + var, count + 1)

    _each_input(module, batches, add)
    return {name: Statistics(mean / count, var / count) for name, (mean, var, count) in sums.items()}


def _each_input(module: nn.Module, batches: Iterable[Tensor], add: Callable[[str, Tensor], None]) -> None:
    """Run the module with batch statistics and hand on what each layer gets, by the layer's path."""

    def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hand_on(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if _values(inputs[0]) > 1:
                add(name, inputs[0].detach())

        return hand_on

    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(batch_statistics(module))
        for name, layer in batch_norms(module).items():
            stack.enter_context(layer.register_forward_pre_hook(hook(name)))
        for batch in batches:
            module(batch)
