"""What is silently wrong is looked at: logits where probabilities are wanted."""

from __future__ import annotations

import torch
from torch import Tensor

ROUNDING = 0.01
"""How far a probability may lie outside of [0, 1]: means of bfloat16 probabilities do by less, logits by more."""
LOOKED_AT = 2**13
"""Values of a larger tensor that are looked at."""
_waited_for: set[str] = set()
"""Arguments that were looked at on a device that has to be waited for."""


def check_prob(name: str, prob: Tensor, function: str, *, ignored: float | None = None) -> None:
    """See that a tensor holds probabilities; sums over the classes are not looked at.

    On the CPU every call is checked: all values of a small tensor, of a larger one those of pixels on a regular grid
    (every class and image of them, about 8000 values), which takes 10 to 40 microseconds: less than 0.5 % of any
    function at crops of 256x512. On a GPU a look means to wait for the device, so only the first call of each function
    in a process is checked. Within ``torch.compile``, ``torch.export``, ``vmap`` and the capture of a CUDA graph
    nothing is, and nothing is there that would break the graph. NaN passes: whoever trains finds it by name.

    Args:
        name: of the argument.
        prob: floating point of any shape, in [0, 1] up to 0.01 of rounding; other types pass.
        function: whose argument it is.
        ignored: a further value that is allowed.

    Raises:
        ValueError: a value outside of [0, 1]; names the argument and the range of its values.

    Example:
        >>> import torch
        >>> from uda.functional import check_prob
        >>> logits = torch.tensor([[-2.0, 3.0]])
        >>> check_prob("prob", logits.softmax(1), "entropy_loss")
        >>> check_prob("prob", logits, "entropy_loss")
        Traceback (most recent call last):
        ValueError: prob of entropy_loss has values from -2 to 3, must be probabilities in [0, 1]; ...
    """
    if torch.compiler.is_compiling() or not prob.is_floating_point() or prob.numel() == 0 or prob.is_meta:
        return
    if prob.device.type != "cpu":
        key = f"{function}.{name}"
        if key in _waited_for or (prob.is_cuda and torch.cuda.is_current_stream_capturing()):
            return
        _waited_for.add(key)
    step = max(1, round((prob.numel() / LOOKED_AT) ** 0.5)) if prob.ndim > 1 else -(-prob.numel() // LOOKED_AT)
    sample = prob.detach()[..., ::step, ::step] if prob.ndim > 1 else prob.detach()[..., ::step]
    if ignored is not None:
        sample = sample.masked_fill(sample == ignored, 0)
    try:
        low, high = (bound.item() for bound in sample.aminmax())
    except RuntimeError:
        return  # within vmap or a tracer, where nobody can look
    if low < -ROUNDING or high > 1 + ROUNDING:
        raise ValueError(
            f"{name} of {function} has values from {low:.4g} to {high:.4g}, must be probabilities in [0, 1]; "
            "of logits take logits.softmax(1)"
        )
