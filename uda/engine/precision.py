"""Number formats of a network's passes: autocast, and the scale that keeps gradients within float16.

``"bf16"`` has float32's range, so that networks and losses run under it as they are. ``"fp16"`` ends at 65504 and at
6e-8: the network's passes alone run in it, what they give is float32 again, losses and methods' own networks are
computed in float32, and totals are multiplied by a scale before they go back (:class:`torch.amp.GradScaler`).
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Literal, TypeVar, get_args

import torch
from torch import Tensor

from uda.types import SegOutput

Precision = Literal["fp32", "bf16", "fp16"]
PRECISIONS: tuple[str, ...] = get_args(Precision)
_FORMATS = {"bf16": torch.bfloat16, "fp16": torch.float16}

Output = TypeVar("Output", SegOutput, Tensor)


def autocast(device_type: str, precision: str) -> AbstractContextManager[Any]:
    """The context of a network's pass.

    Args:
        device_type: ``"cpu"``, ``"cuda"``, ...
        precision: one of :data:`PRECISIONS`.
    """
    return torch.autocast(device_type, _FORMATS.get(precision, torch.bfloat16), enabled=precision in _FORMATS)


def widened(output: Output) -> Output:
    """What a pass in float16 gave as float32; anything else, bfloat16 too, stays as it is."""
    return output.map(_wide) if isinstance(output, SegOutput) else _wide(output)


def _wide(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype == torch.float16 else tensor
