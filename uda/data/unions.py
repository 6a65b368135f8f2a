"""Label spaces whose labels may name several classes at once, for data sets that are coarser than the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from uda.data.base import FileDataset
from uda.data.classes import LabelMapping, LabelSpace


@dataclass(frozen=True)
class UnionSpace(LabelSpace):
    """A label space and unions of its classes, which labels may name as well: union u has the train id C + u.

    A model of this space has its C classes alone; what a union's pixels teach is the sum of their probabilities
    (:func:`uda.functional.marginal_cross_entropy_map`). Made by :func:`union_space`.

    Args:
        unions: train ids that each union covers.

    Raises:
        ValueError: as :class:`LabelSpace`, or more than 250 classes and unions.
    """

    unions: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.classes) + len(self.unions) > 250:
            raise ValueError(
                f"label space {self.name!r}: {len(self.classes)} classes and {len(self.unions)} unions; together at "
                "most 250 are possible"
            )

    @property
    def union_names(self) -> tuple[str, ...]:
        """``car+truck`` by order."""
        return tuple("+".join(self.names[index] for index in union) for union in self.unions)

    def mapping_from(self, old: LabelSpace, aliases: Mapping[str, str | None] | None = None) -> LabelMapping:
        """How labels of another space become labels of this one.

        A class goes where ``aliases`` sends it (``None``: ignored), else by its ``members`` (the name alone says
        little: CamVid's cars are Cityscapes' cars, trucks and buses): to the class that covers it, or to the union of
        all classes that it covers. One that has no member in common with any class goes to that of its name, or is
        ignored.

        Raises:
            ValueError: an alias from or to a class that does not exist; a class that covers a part of another and more
                besides; a union that this space does not have; nothing maps at all.
        """
        homes = _homes(self, old, aliases)
        for name, home in homes.items():
            if len(home) > 1 and home not in self.unions:
                union = "+".join(self.names[index] for index in home)
                raise ValueError(f"{name!r} of {old.name!r} is {union}, which {self.name!r} was made without")
        if not any(homes.values()):
            raise ValueError(f"no class of {old.name!r} maps to {self.name!r}; give aliases (old name: new name)")
        every: dict[tuple[int, ...], str] = {(index,): name for index, name in enumerate(self.names)}
        every |= dict(zip(self.unions, self.union_names, strict=True))
        return UnionMapping(old, self, tuple((name, every[home] if home else None) for name, home in homes.items()))


@dataclass(frozen=True)
class UnionMapping(LabelMapping):
    """A mapping of train ids to a :class:`UnionSpace`, where a class may become a union of several."""

    @property
    def _targets(self) -> tuple[str, ...]:
        return (*self.new.names, *(self.new.union_names if isinstance(self.new, UnionSpace) else ()))

    @property
    def table(self) -> npt.NDArray[np.uint8]:
        table = LabelMapping(self.old, self.new, tuple((old, None) for old, _ in self.pairs)).table
        for old, new in self.pairs:
            if new is not None:
                table[self.old.index(old)] = self._targets.index(new)
        return table

    @property
    def missing(self) -> tuple[str, ...]:
        """Classes of the new space that nothing maps to, neither alone nor in a union."""
        reached = {self._targets.index(new) for _, new in self.pairs if new is not None}
        unions = self.new.unions if isinstance(self.new, UnionSpace) else ()
        covered = {index for u, union in enumerate(unions) if self.new.num_classes + u in reached for index in union}
        return tuple(name for index, name in enumerate(self.new.names) if index not in reached | covered)

    def lines(self) -> list[str]:
        """The mapping as text, one class or union of the new space a line."""
        olds = {new: [old for old, to in self.pairs if to == new] for new in self._targets}
        rows = [f"{new} <- {', '.join(names) or '(nothing)'}" for new, names in olds.items()]
        return [*rows, f"ignored <- {', '.join(self.dropped)}"] if self.dropped else rows


def union_space(
    space: LabelSpace, *parts: tuple[LabelSpace, Mapping[str, str | None] | None] | LabelSpace
) -> UnionSpace:
    """A space with every union of its classes that coarser spaces need.

    Args:
        space: the finest, whose classes the model has.
        parts: the coarser spaces, each alone or with its aliases (class of it -> class of ``space``).

    Raises:
        ValueError: a wrong alias, or a class that covers a part of a class of ``space`` and more besides.
    """
    unions: dict[tuple[int, ...], None] = {}
    for part in parts:
        old, aliases = (part, None) if isinstance(part, LabelSpace) else part
        unions |= {home: None for home in _homes(space, old, aliases).values() if len(home) > 1}
    plain = {field.name: getattr(space, field.name) for field in fields(LabelSpace)}
    return UnionSpace(**plain, unions=tuple(unions))


def raw_spaces(datasets: Sequence[Any]) -> list[LabelSpace]:
    """The spaces that the files of readers and wrapped data sets are in.

    Raises:
        ValueError: a data set that does not say.
    """
    for dataset in datasets:
        if not isinstance(getattr(dataset, "raw_space", None), LabelSpace):
            raise ValueError(
                f"{dataset.name} ({type(dataset).__name__}) does not say which label space its files are in"
            )
    return [dataset.raw_space for dataset in datasets]


def check_covered(dataset: Any, aliases: Mapping[str, str | None] | None = None) -> None:
    """See that no class of a data set is lost in a :class:`UnionSpace` without anybody having said so.

    Classes that the reader leaves out by default (Cityscapes' "ego vehicle") are none of these.

    Raises:
        ValueError: names the classes and what to write.
    """
    default = dataset.default_space if isinstance(dataset, FileDataset) else dataset.raw_space
    void = set(dataset.raw_space.mapping_to(default).dropped) | {old for old, new in (aliases or {}).items() if not new}
    lost = [name for name in dataset.mapping.dropped if name not in void]
    if lost:
        raise ValueError(
            f"{dataset.name}: {', '.join(map(repr, lost))} neither in a class of {dataset.space.name!r} nor a union of "
            f"some; give aliases ({lost[0]}: a class of {', '.join(dataset.space.names)}; or null: ignored)"
        )


def _homes(space: LabelSpace, old: LabelSpace, aliases: Mapping[str, str | None] | None) -> dict[str, tuple[int, ...]]:
    """Train ids in ``space`` that each class of ``old`` covers; none: it is ignored."""
    renames = dict(aliases or {})
    homes: dict[str, tuple[int, ...]] = {
        name: () if new is None else (space.index(new),) for name, new in renames.items() if old.index(name) >= 0
    }
    for label_class in old.classes:
        if label_class.name not in renames:
            homes[label_class.name] = _home(space, old, label_class.name)
    return {name: homes[name] for name in old.names}


def _home(space: LabelSpace, old: LabelSpace, name: str) -> tuple[int, ...]:
    known = {member for new in space.classes for member in new.members}
    members = set(old.classes[old.index(name)].members) & known  # no class is lost with what the space does not know
    touched = [index for index, new in enumerate(space.classes) if members & set(new.members)]
    if not touched:
        return (space.index(name),) if name in space.names else ()
    partly = [index for index in touched if not set(space.classes[index].members) <= members]
    if not partly or (len(touched) == 1 and members <= set(space.classes[touched[0]].members)):
        return tuple(touched)
    raise ValueError(
        f"{name!r} of {old.name!r} covers {', '.join(sorted(members))}, a part of "
        f"{space.names[partly[0]]!r} of {space.name!r} and more besides, so it is no union of classes; give aliases "
        f"({name}: a class of {space.name!r}; or null: ignored)"
    )
