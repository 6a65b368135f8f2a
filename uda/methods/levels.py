"""Single- and multi-level output-space methods: which outputs of the segmenter a method looks at."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:
    from torch import Tensor

    from uda.types import SegOutput, TaskSpec

Level = Literal["single", "multi"]
LEVELS: tuple[str, ...] = get_args(Level)


def level_logits(output: SegOutput, level: str) -> dict[str, Tensor]:
    """``{"main": logits}``, and ``"aux"`` with ``level="multi"``; each ``(N, C, H, W)``."""
    if level == "single":
        return {"main": output.logits}
    assert output.aux is not None  # require_aux has looked
    return {"main": output.logits, "aux": output.aux}


def require_aux(method: Any, spec: TaskSpec) -> None:
    """Refuse a multi-level method on a model without auxiliary classifier.

    Raises:
        ValueError: names the method and what to change.
    """
    if method.level == "multi" and not spec.has_aux:
        raise ValueError(
            f"{type(method).__name__}: level is 'multi', must be 'single' for a model without auxiliary classifier "
            "(or build the model with aux=True)"
        )
