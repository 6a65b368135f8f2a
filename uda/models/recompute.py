"""Activation checkpointing: parts of a network keep their inputs alone and are computed again on the way back.

The numbers are those of a plain pass, bit for bit: the second computation sees the parameters, buffers and modes of the
first, draws the same random numbers, and what it does to buffers (batch norm's statistics) is thrown away.
:func:`torch.utils.checkpoint.checkpoint` does the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any, Literal, NamedTuple, Self, get_args

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

Recomputed = Literal["none", "encoder", "all"]
RECOMPUTED: tuple[str, ...] = get_args(Recomputed)
Call = Callable[..., Any]


class Part(NamedTuple):
    """What is computed again as a whole."""

    owner: nn.Module
    """Whose method it is."""
    method: str
    """``"forward"`` or another method of the owner that the network's pass calls."""
    modules: tuple[nn.Module, ...]
    """All modules that it goes through."""


def whole_part(module: nn.Module) -> Part:
    """A module's forward pass as one part."""
    return Part(module, "forward", tuple(module.modules()))


def blocks(network: nn.Module) -> list[Part]:
    """The blocks that a network repeats (residual, inverted, attention), each a part; the whole where it has none.

    A block is an element of a list of modules that has two layers with weights at least and no such block within.
    """
    return [whole_part(block) for block in _blocks(network)] or [whole_part(network)]


def _blocks(module: nn.Module) -> list[nn.Module]:
    inner: list[nn.Module] = []
    listed = isinstance(module, (nn.Sequential, nn.ModuleList, nn.ModuleDict))
    for child in module.children():
        below = _blocks(child)
        if not below and listed and not isinstance(child, nn.Sequential) and _weighted_layers(child) > 1:
            below = [child]
        inner += below
    return inner


def _weighted_layers(module: nn.Module) -> int:
    """Layers that multiply: those with a parameter of at least two axes."""
    return sum(any(p.ndim > 1 for p in part.parameters(recurse=False)) for part in module.modules())


def parts_of(model: nn.Module, what: str) -> list[Part]:
    """The parts of a segmenter that are computed again; ``recomputable`` of the network says which, if it has that.

    Any other network needs an ``encoder`` for ``"encoder"``; for ``"all"`` its blocks are taken, or all of it.

    Args:
        model: a segmenter.
        what: ``"none"``, the ``"encoder"``'s blocks, or ``"all"``: the decoder too.

    Raises:
        ValueError: another value, or a network whose encoder is not known.
    """
    if what not in RECOMPUTED:
        known = ", ".join(map(repr, RECOMPUTED))
        raise ValueError(f"activation_checkpointing is {what!r}, must be one of {known}")
    if what == "none":
        return []
    own: Callable[[str], list[Part]] | None = getattr(model, "recomputable", None)
    if own is not None:
        return own(what)
    if what == "all":
        return blocks(model)
    encoder = getattr(model, "encoder", None)
    if not isinstance(encoder, nn.Module):
        raise ValueError(unknown_encoder(model))
    return blocks(encoder)


def unknown_encoder(model: nn.Module) -> str:
    """The message about a network of which nobody says what its encoder is."""
    return (
        f"activation_checkpointing is 'encoder', but it is not known what of {type(model).__name__} is the encoder; "
        "'all' computes all of it again, block by block"
    )


@contextmanager
def recomputing(
    parts: Sequence[Part],
    around: Callable[[], AbstractContextManager[Any]] = nullcontext,
    made: Callable[[Part, Call], Call] = lambda part, call: call,
) -> Iterator[None]:
    """Inside, passes with gradient keep the inputs of ``parts`` in place of their activations.

    Args:
        parts: of the network that passes.
        around: the contexts of the pass, entered again around what is computed again.
        made: another function in place of a part's own (a compiled one), asked for at each call.
    """
    with ExitStack() as stack:
        for part in parts if torch.is_grad_enabled() else ():
            own = vars(part.owner)
            call = partial(_twice, part, getattr(part.owner, part.method), made, around)
            stack.callback(_put_back, own, part.method, own.get(part.method))
            own[part.method] = call
        yield


def _put_back(own: dict[str, Any], method: str, before: Any) -> None:
    if before is None:
        del own[method]
    else:
        own[method] = before


def _twice(
    part: Part,
    call: Call,
    made: Callable[[Part, Call], Call],
    around: Callable[[], AbstractContextManager[Any]],
    *args: Any,
    **kwargs: Any,
) -> Any:
    again = _Again(part, (args, kwargs), around)
    return checkpoint(made(part, call), *args, use_reentrant=False, context_fn=lambda: (nullcontext(), again), **kwargs)


class _Again:
    """Around the second computation of a part: everything that it reads is as it was at the first."""

    def __init__(self, part: Part, inputs: Any, around: Callable[[], AbstractContextManager[Any]]) -> None:
        self._part, self._around = part, around
        self._inputs = [(value, value._version) for value in tree_leaves(inputs) if isinstance(value, Tensor)]
        self._state = [
            (module, module.training, dict(module._parameters), dict(module._buffers)) for module in part.modules
        ]
        buffers = [value for *_, own in self._state for value in own.values() if value is not None]
        self._buffers = dict(zip(map(id, buffers), _copies(buffers), strict=True))
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        for value, version in self._inputs:
            if value._version != version:
                raise RuntimeError(
                    f"an input {tuple(value.shape)} of {type(self._part.owner).__name__} was changed in place after it "
                    "went in, so that activation_checkpointing cannot compute it again; switch the setting off"
                )
        self._stack.enter_context(self._around())
        buffers = dict(zip(self._buffers, _copies(list(self._buffers.values())), strict=True))
        for module, training, parameters, own in self._state:
            self._stack.callback(vars(module).update, {name: vars(module)[name] for name in _STATE})
            copied = {name: None if value is None else buffers[id(value)] for name, value in own.items()}
            vars(module).update(training=training, _parameters=parameters, _buffers=copied)
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.close()


_STATE = ("training", "_parameters", "_buffers")


@torch.no_grad()
def _copies(tensors: Sequence[Tensor]) -> list[Tensor]:
    copies = [torch.empty_like(tensor) for tensor in tensors]
    if copies:
        torch._foreach_copy_(copies, list(tensors))
    return copies
