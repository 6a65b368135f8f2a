"""torch.compile of a network's passes in training; the network, its state and its evaluation stay as they are."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch

from uda.registry import nearest

GRAPHS = 64
"""Graphs of one function at most, before torch runs it as it is: modes, treatments of batch norm, sizes multiply."""


class CompileError(RuntimeError):
    """A backend cannot compile here; the message names the setting."""


class Compiled:
    """A function that torch compiles at its first call, for each kind of input once.

    Dropout draws what it draws uncompiled.

    Args:
        call: of tensors.
        spec: ``mode``, ``backend`` and ``dynamic``, see :class:`~uda.engine.settings.CompileSpec`.

    Raises:
        ValueError: no such backend.
    """

    def __init__(self, call: Callable[..., Any], spec: Mapping[str, Any]) -> None:
        self.spec = dict(spec)
        options: dict[str, Any] = {"backend": spec["backend"], "dynamic": spec["dynamic"]}
        # a backend's name is looked up by torch at the first call, when data is loaded and steps are counted already
        known = torch._dynamo.list_backends(None)
        if spec["backend"] not in known:
            raise ValueError(f"compile has no backend {spec['backend']!r}; {nearest(spec['backend'], known)}")
        if spec["backend"] == "inductor":
            from torch._inductor import list_mode_options

            # not torch's `mode`, which excludes options: without fallback_random dropout draws other numbers
            options["options"] = {**list_mode_options(spec["mode"], spec["dynamic"]), "fallback_random": True}
        more = {"recompile_limit": GRAPHS, "isolate_recompiles": True}
        there = inspect.signature(torch.compile).parameters
        options |= {name: value for name, value in more.items() if name in there}  # torch 2.11 has neither
        self._compiled: Callable[..., Any] = torch.compile(call, **options)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the function gives.

        Raises:
            CompileError: the backend cannot compile it here.
        """
        try:
            return self._compiled(*args, **kwargs)
        except Exception as error:
            if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                raise
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise CompileError(
                f"compile: backend {self.spec['backend']!r} cannot compile the network here ({reason}); inductor "
                "needs a C++ compiler on a CPU and Triton on a GPU; compile: false, or {backend: aot_eager} to try "
                "without"
            ) from error
