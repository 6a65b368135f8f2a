"""Batch norm over the batches of several processes, as over one batch.

Every call of ``F.batch_norm`` that normalises with its batch is replaced by one that takes mean and variance over all
processes: forwards one message with the sums, backwards another (torch's ``SyncBatchNorm`` does the same, on GPUs
only and by other layers in place of the network's own). It is done where layers call torch, so that layers of timm and
of others, which add an activation or a name, are synchronised as torch's own are, and the network stays as it is. Each
direction is one operator, which ``torch.compile`` takes into its graph as it is, messages and all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, distributed
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from uda.processes import Processes

_synced: ContextVar[bool] = ContextVar("synced", default=False)


@contextmanager
def synced_batch_norm(processes: Processes | None) -> Iterator[None]:
    """Inside, batch norm in train mode normalises with the statistics of the batches of all processes together.

    Args:
        processes: that pass the same network at the same time, with batches of any sizes; ``None`` changes nothing.
    """
    if processes is None:
        yield
        return
    token = _synced.set(True)
    try:
        with _Synced():
            yield
    finally:
        _synced.reset(token)


def is_synced() -> bool:
    """Whether a batch-norm layer that is called now has the values of several processes."""
    return _synced.get()


class _Synced(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return (_batch_norm if func is F.batch_norm else func)(*args, **(kwargs or {}))


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """``F.batch_norm`` of ``(N, C, ...)``, in train mode over all processes."""
    if not training:
        return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    output: Tensor
    output, mean, var, count = _normalise(input, weight, bias, eps)
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            running_var.lerp_((var * (count / (count - 1).clamp(min=1))).to(running_var.dtype), momentum)
    return output


@torch.library.custom_op("uda::synced_batch_norm", mutates_args=())
def _normalise(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The normalised values, mean and variance of each channel and the count of values, of all processes."""
    dims, shape = _layout(x)
    wide = x.to(_wide(x))
    own_var, own_mean = torch.var_mean(wide, dims, correction=0)
    own_count = own_mean.new_full((1,), x.numel() // x.shape[1])
    own = torch.cat([own_mean, own_var, own_count])
    every = [torch.empty_like(own) for _ in range(distributed.get_world_size())]
    distributed.all_gather(every, own)
    means, variances, counts = torch.stack(every).split([x.shape[1], x.shape[1], 1], 1)
    count = counts.sum()
    if count <= 1:
        raise ValueError(f"batch norm needs more than one value for each channel, got {tuple(x.shape)}")
    mean = (means * counts).sum(0) / count
    # from the spread around each process' own mean: the mean of squares would lose digits
    var = ((variances + (means - mean).square()) * counts).sum(0) / count
    normalised = (wide - mean.view(shape)) * (var + eps).rsqrt().view(shape)
    if weight is not None:
        normalised = normalised * weight.view(shape).to(normalised)
    if bias is not None:
        normalised = normalised + bias.view(shape).to(normalised)
    return _laid_out(normalised, x), mean, var, count


@_normalise.register_fake
def _(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    of_channels = x.new_empty((x.shape[1],), dtype=_wide(x))
    return torch.empty_like(x), of_channels, torch.empty_like(of_channels), of_channels.new_empty(())


@torch.library.custom_op("uda::synced_batch_norm_backward", mutates_args=())
def _gradients(
    gradient: Tensor, x: Tensor, weight: Tensor | None, mean: Tensor, var: Tensor, count: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the values, of scale and of shift; those of scale and shift are of this process' images alone."""
    dims, shape = _layout(x)
    dtype, scale = mean.dtype, (var + eps).rsqrt()
    wide, normalised = gradient.to(dtype), (x.to(dtype) - mean.view(shape)) * scale.view(shape)
    of_bias, of_weight = wide.sum(dims), (wide * normalised).sum(dims)
    sums = torch.cat([of_bias, of_weight])
    distributed.all_reduce(sums)
    mean_gradient, mean_product = (sums / count).split(x.shape[1])
    factor = scale if weight is None else scale * weight.to(dtype)
    of_input = (wide - mean_gradient.view(shape) - normalised * mean_product.view(shape)) * factor.view(shape)
    return _laid_out(of_input, x), of_weight, of_bias


@_gradients.register_fake
def _(
    gradient: Tensor, x: Tensor, weight: Tensor | None, mean: Tensor, var: Tensor, count: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(mean), torch.empty_like(mean)


def _keep(ctx: Any, inputs: Any, output: Any) -> None:
    x, weight, bias, ctx.eps = inputs
    _, mean, var, count = output
    ctx.mark_non_differentiable(mean, var, count)
    ctx.has_bias = bias is not None
    ctx.save_for_backward(x, weight, mean, var, count)


def _backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None, None]:
    x, weight, mean, var, count = ctx.saved_tensors
    of_input, of_weight, of_bias = _gradients(gradient, x, weight, mean, var, count, ctx.eps)
    # averaged over the processes later, as all parameters' are
    return of_input, None if weight is None else of_weight, of_bias if ctx.has_bias else None, None


_normalise.register_autograd(_backward, setup_context=_keep)


def _layout(x: Tensor) -> tuple[list[int], list[int]]:
    """The dimensions that are summed over, and the shape of numbers of the channels beside ``(N, C, ...)``."""
    return [0, *range(2, x.ndim)], [1, -1] + [1] * (x.ndim - 2)


def _wide(x: Tensor) -> torch.dtype:
    """Of the statistics of values."""
    return torch.float32 if x.dtype in (torch.float16, torch.bfloat16) else x.dtype


def _laid_out(values: Tensor, like: Tensor) -> Tensor:
    """Values in the type and memory layout of others, which a compiled graph counts on."""
    if values.dtype == like.dtype and values.stride() == like.stride():
        return values
    return torch.empty_like(like).copy_(values)
