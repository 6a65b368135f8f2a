"""What a loss trains: a walk along the graph that autograd recorded."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor


def reached(term: Tensor, leaves: Collection[int], parameters: Collection[int]) -> tuple[bool, bool]:
    """Whether a loss term's gradient arrives at any of the leaves, and at any of the parameters.

    Args:
        term: a tensor that requires gradient.
        leaves: ``id`` of tensors.
        parameters: likewise.
    """
    leaf, parameter = id(term) in leaves, id(term) in parameters
    nodes: list[Any] = [term.grad_fn] if term.grad_fn is not None else []
    seen: set[Any] = set(nodes)
    while nodes and not (leaf and parameter):
        for node, _ in nodes.pop().next_functions:
            if node is None or node in seen:
                continue
            seen.add(node)
            variable = getattr(node, "variable", None)  # where a path ends: the tensor that gets the gradient
            if variable is None:
                nodes.append(node)
            else:
                leaf, parameter = leaf or id(variable) in leaves, parameter or id(variable) in parameters
    return leaf, parameter


def check_scalar(name: str, term: object) -> None:
    """Refuse what is no loss term.

    Raises:
        TypeError: no tensor.
        ValueError: not a single number.
    """
    if not isinstance(term, Tensor):
        raise TypeError(f"{name} is a {type(term).__name__}, must be a scalar tensor; float() and item() cut the graph")
    if term.ndim:
        raise ValueError(f"{name} has shape {tuple(term.shape)}, must be a scalar; take its mean or sum")


def trains_nothing(name: str) -> str:
    """The message about a term whose gradient arrives nowhere."""
    return (
        f"{name} trains nothing: its gradient reaches neither the outputs of step.predict() nor a trainable parameter "
        "of the network or of the method. It was detached, its layers are frozen, or it belongs in own_losses()"
    )


@contextmanager
def released_graphs_explained(labels: Collection[str]) -> Iterator[None]:
    """Say what torch's error about a graph that is gone means here."""
    try:
        yield
    except RuntimeError as error:
        if "second time" not in str(error):
            raise
        raise RuntimeError(
            f"a loss of {' or '.join(labels)} goes through the network's pass over a view whose graph was released; a "
            "method that looks inside a pass (by a hook) lists the view in its reads"
        ) from error
