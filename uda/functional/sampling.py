"""Which class the next source image is chosen for, and which images stand for a whole data set."""

from __future__ import annotations

from torch import Tensor


def rcs_probs(counts: Tensor, temperature: float = 0.01) -> tuple[Tensor, Tensor]:
    r"""Rare class sampling (DAFormer, Hoyer et al. 2022): softmax over classes of (1 - frequency) / temperature.

    $$ P(c) = \frac{e^{(1 - f_c) / T}}{\sum_k e^{(1 - f_k) / T}} $$

    Args:
        counts: ``(C,)`` pixels of each class in the data set.
        temperature: small: nearly always the rarest classes; large: all alike.

    Returns:
        ``(K,)`` int64 ids of the classes that occur, rarest first (ties by id), and their ``(K,)`` float32
        probabilities.

    Raises:
        ValueError: no class occurs, or ``temperature`` is not positive.

    Example:
        >>> import torch
        >>> from uda.functional import rcs_probs
        >>> classes, prob = rcs_probs(torch.tensor([75, 0, 25]), temperature=0.5)
        >>> classes.tolist(), [round(value, 4) for value in prob.tolist()]  # softmax of 0.75 / 0.5 and 0.25 / 0.5
        ([2, 0], [0.7311, 0.2689])
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    if not bool((counts > 0).any()):
        raise ValueError("no class occurs in the counts")
    order = counts.argsort(stable=True)
    classes = order[counts[order] > 0]
    frequency = counts[classes].double() / counts.sum()
    return classes, ((1 - frequency) / temperature).softmax(0).float()


def evenly_spaced(total: int, count: int) -> list[int]:
    """Indices of ``count`` of ``total`` things, each in the middle of its share of them; all where there are fewer.

    Example:
        >>> from uda.functional.sampling import evenly_spaced
        >>> evenly_spaced(100, 4), evenly_spaced(2, 4)
        ([12, 37, 62, 87], [0, 1])
    """
    count = min(count, total)
    return [int((at + 0.5) * total / count) for at in range(count)]
