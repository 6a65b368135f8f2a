"""Which methods share a backward pass, what they are called in the logs, and what makes a run the same run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from uda.methods.base import Method


def unique_labels(methods: Sequence[Method]) -> list[str]:
    """Each method's class name, numbered where one occurs twice: the middle part of ``loss/Method/term``."""
    labels: list[str] = []
    for method in methods:
        name, count = type(method).__name__, sum(type(other) is type(method) for other in methods[: len(labels)])
        labels.append(name if count == 0 else f"{name}{count + 1}")
    return labels


def share_groups(methods: Sequence[Method]) -> list[list[int]]:
    """Positions of the methods that share a backward pass: those whose ``reads`` overlap, in listed order.

    Disjoint groups run forward, backward, release in turn, so one group's graph is alive at a time.
    """
    groups: list[tuple[set[str], list[int]]] = []
    for at, method in enumerate(methods):
        touching = [group for group in groups if group[0] & method.reads]
        views, members = set(method.reads), [at]
        for group in touching:
            views |= group[0]
            members = group[1] + members
            groups.remove(group)
        groups.append((views, sorted(members)))
    return [members for _, members in sorted(groups, key=lambda group: group[1][0])]


def plain_values(method: Method) -> dict[str, Any]:
    """A method's public hyper-parameters: its numbers, strings and tuples of these, as they are when it was built."""
    plain = (bool, int, float, str)

    def kept(value: Any) -> bool:
        return isinstance(value, plain) or (isinstance(value, tuple) and all(map(kept, value)))

    return {key: value for key, value in vars(method).items() if key[0] != "_" and key != "training" and kept(value)}
