"""Which methods share a backward pass and a teacher, and what they are called in the logs."""

from __future__ import annotations

from collections.abc import Sequence

from uda.methods.base import Method
from uda.types import TeacherSpec


def unique_labels(methods: Sequence[Method]) -> list[str]:
    """Each method's class name, numbered where one occurs twice: the middle part of ``loss/Method/term``."""
    labels: list[str] = []
    for method in methods:
        name = type(method).__name__
        count = sum(type(earlier).__name__ == name for earlier in methods[: len(labels)])
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


def shared_teacher(methods: Sequence[Method], labels: Sequence[str]) -> TeacherSpec | None:
    """The EMA teacher that the methods of a run need; ``None`` where none does.

    Raises:
        ValueError: two methods want different ones.
    """
    wanted = {label: method.teacher for label, method in zip(labels, methods, strict=True) if method.teacher}
    if len(set(wanted.values())) > 1:
        (first, first_spec), (second, second_spec) = next(
            (left, right) for left in wanted.items() for right in wanted.items() if left[1] != right[1]
        )
        raise ValueError(
            f"{first} wants a teacher with {first_spec}, {second} one with {second_spec}, and a run has one; give both "
            "the same (their argument `teacher`), or say which it is for all (`teacher` of the settings or of Update)"
        )
    return next(iter(wanted.values()), None)
