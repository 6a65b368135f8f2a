"""Batch norm over the batches of several processes, as over one batch.

Every call of ``F.batch_norm`` that normalises with its batch is replaced by one that takes mean and variance over all
processes: forwards one message with the sums, backwards another (torch's ``SyncBatchNorm`` does the same, on GPUs
only and by other layers in place of the network's own). It is done where layers call torch, so that layers of timm and
of others, which add an activation or a name, are synchronised as torch's own are, and the network stays as it is.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, distributed
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from uda.processes import Processes

_synced: ContextVar[bool] = ContextVar("synced", default=False)
_SIGNATURE = inspect.signature(F.batch_norm)


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
        if func is F.batch_norm:
            bound = _SIGNATURE.bind(*args, **(kwargs or {}))
            bound.apply_defaults()
            if bound.arguments["training"]:
                return _normalise(**{k: v for k, v in bound.arguments.items() if k != "training"})
        return func(*args, **(kwargs or {}))


def _normalise(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    momentum: float,
    eps: float,
) -> Tensor:
    """``F.batch_norm`` of ``(N, C, ...)`` in train mode, over all processes."""
    output, mean, var, count = _BatchNorm.apply(input, weight, bias, eps)  # type: ignore[no-untyped-call]
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            running_var.lerp_((var * (count / (count - 1).clamp(min=1))).to(running_var.dtype), momentum)
    return output  # type: ignore[no-any-return]


class _BatchNorm(Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        dims, shape = [0, *range(2, x.ndim)], [1, -1] + [1] * (x.ndim - 2)
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
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
        scale = (var + eps).rsqrt()
        normalised = (wide - mean.view(shape)) * scale.view(shape)
        if weight is not None:
            normalised = normalised * weight.view(shape).to(normalised)
        if bias is not None:
            normalised = normalised + bias.view(shape).to(normalised)
        ctx.save_for_backward(x, weight, mean, scale, count)
        ctx.mark_non_differentiable(mean, var, count)
        return normalised.to(x.dtype), mean, var, count

    @staticmethod
    @once_differentiable  # type: ignore[misc, no-untyped-call]
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None, None]:
        x, weight, mean, scale, count = ctx.saved_tensors
        dims, shape = [0, *range(2, x.ndim)], [1, -1] + [1] * (x.ndim - 2)
        dtype = mean.dtype
        gradient, normalised = gradient.to(dtype), (x.to(dtype) - mean.view(shape)) * scale.view(shape)
        of_bias, of_weight = gradient.sum(dims), (gradient * normalised).sum(dims)
        sums = torch.cat([of_bias, of_weight])
        distributed.all_reduce(sums)
        mean_gradient, mean_product = (sums / count).split(x.shape[1])
        factor = scale if weight is None else scale * weight.to(dtype)
        of_input = (gradient - mean_gradient.view(shape) - normalised * mean_product.view(shape)) * factor.view(shape)
        # those of scale and shift are of this process' images, as all parameters' are; they are averaged later
        return (
            of_input.to(x.dtype),
            of_weight.to(dtype) if ctx.needs_input_grad[1] else None,
            of_bias.to(dtype) if ctx.needs_input_grad[2] else None,
            None,
        )
