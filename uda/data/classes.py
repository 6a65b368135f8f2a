"""The classes of a label space: what the numbers and colours of a file mean, and how one set maps to another.

A *raw id* is the number in a file, a *train id* the index of a class in its space, ``0 .. num_classes - 1``;
``IGNORE`` (255) is everything that no class covers. The spaces that ship are in :mod:`uda.data.label_spaces`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from uda.data.encode import colourise
from uda.data.errors import DataError
from uda.registry import nearest
from uda.types import IGNORE

Colour = tuple[int, int, int]
Unknown = Literal["error", "ignore"]
UNKNOWN = 254
"""Marks a pixel of no known id or colour in the uint8 maps of :meth:`LabelSpace.encode`."""


@dataclass(frozen=True)
class Class:
    """One class of a label space.

    Args:
        name: unique in its space.
        colour: RGB in 0..255, to draw it with.
        ids: raw ids that mean this class in label files.
        thing: countable object (DAFormer's feature distance looks at these).
        members: names of the finer classes that it covers, in Cityscapes' vocabulary; its own name by default.
            They let spaces of different grain map to each other.
        label_colours: colours that mean this class in colour-coded label files; ``(colour,)`` by default.
    """

    name: str
    colour: Colour
    ids: tuple[int, ...] = ()
    thing: bool = False
    members: tuple[str, ...] = ()
    label_colours: tuple[Colour, ...] | None = None

    def __post_init__(self) -> None:
        for colour in (self.colour, *(self.label_colours or ())):
            if len(colour) != 3 or not all(0 <= value <= 255 for value in colour):
                raise ValueError(f"class {self.name!r}: colour {colour} is not three numbers in 0..255")
        object.__setattr__(self, "members", self.members or (self.name,))
        object.__setattr__(self, "label_colours", (self.colour,) if self.label_colours is None else self.label_colours)


@dataclass(frozen=True)
class LabelSpace:
    """A set of classes with their raw ids and colours.

    Args:
        name: how configs and messages call it.
        classes: in the order of their train ids; at most 250.
        void_ids: raw ids that are known to mean nothing that is trained on; 255 always is one.
        void_colours: likewise for colour-coded files.

    Raises:
        ValueError: no class or too many, a name, raw id or label colour that occurs twice.
    """

    name: str
    classes: tuple[Class, ...]
    void_ids: tuple[int, ...] = field(default=(), repr=False)
    void_colours: tuple[Colour, ...] = field(default=(), repr=False)

    def describe(self) -> dict[str, Any]:
        """Plain values that :meth:`from_description` makes an equal space of."""
        return asdict(self)

    @classmethod
    def from_description(cls, content: Mapping[str, Any]) -> LabelSpace:
        """The space that :meth:`describe` told of; lists stand for tuples, as JSON has them.

        Raises:
            ValueError: what the constructor refuses, or a value that is missing.
        """
        try:
            classes = tuple(
                Class(**{key: _tuples(value) for key, value in each.items()}) for each in content["classes"]
            )
            return cls(content["name"], classes, _tuples(content["void_ids"]), _tuples(content["void_colours"]))
        except (KeyError, TypeError) as error:
            raise ValueError(f"no description of a label space: {error}") from error

    def __post_init__(self) -> None:
        if not 0 < len(self.classes) <= 250:
            raise ValueError(f"label space {self.name!r}: {len(self.classes)} classes; between 1 and 250 are possible")
        names: set[str] = set()
        ids: dict[int, str] = dict.fromkeys(self.void_ids, "void")
        colours: dict[Colour, str] = dict.fromkeys(self.void_colours, "void")
        for label_class in self.classes:
            if label_class.name in names:
                raise ValueError(f"label space {self.name!r}: class {label_class.name!r} is defined twice")
            names.add(label_class.name)
            for key in label_class.ids:
                if key in ids:
                    raise ValueError(
                        f"label space {self.name!r}: id {key} means both {ids[key]!r} and {label_class.name!r}"
                    )
                ids[key] = label_class.name
            for colour in label_class.label_colours or ():
                if colour in colours:
                    raise ValueError(
                        f"label space {self.name!r}: colour {colour} means both {colours[colour]!r} and "
                        f"{label_class.name!r}"
                    )
                colours[colour] = label_class.name
        if any(not -32768 <= key <= 65535 for key in ids):
            raise ValueError(f"label space {self.name!r}: ids must be in -32768..65535")

    @property
    def num_classes(self) -> int:
        """How many classes are trained and scored."""
        return len(self.classes)

    @property
    def ignore(self) -> int:
        """The train id of pixels that are neither trained on nor scored, always 255."""
        return IGNORE

    @property
    def names(self) -> tuple[str, ...]:
        """Class names by train id."""
        return tuple(label_class.name for label_class in self.classes)

    @property
    def colours(self) -> npt.NDArray[np.uint8]:
        """``(C, 3)`` uint8 RGB by train id."""
        return np.array([label_class.colour for label_class in self.classes], dtype=np.uint8)

    @property
    def thing_classes(self) -> tuple[int, ...]:
        """Train ids of countable objects."""
        return tuple(index for index, label_class in enumerate(self.classes) if label_class.thing)

    def index(self, name: str) -> int:
        """The train id of a class; ``ValueError`` with the nearest known name if there is none."""
        if name not in self.names:
            raise ValueError(f"label space {self.name!r} has no class {name!r}; {nearest(name, self.names)}")
        return self.names.index(name)

    def encode(self, ids: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
        """Raw ids of any integer type and shape -> uint8 train ids, ``IGNORE`` for void, ``UNKNOWN`` for the rest."""
        table = _id_table(self)
        if ids.dtype == np.uint8:
            if ids.ndim == 2 and ids.size:
                from uda.opencv import cv2  # not before there is an image: label spaces are light

                return np.asarray(cv2.LUT(ids, table[:256]), dtype=np.uint8)
            narrow: npt.NDArray[np.uint8] = table[ids]
            return narrow
        wide = ids.astype(np.int64)
        inside = (wide >= -32768) & (wide <= 65535)
        return np.where(inside, table[np.where(inside, wide, 0)], np.uint8(UNKNOWN))

    def encode_colours(self, rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """``(H, W, 3)`` uint8 RGB -> ``(H, W)`` uint8 train ids, ``IGNORE`` for void, ``UNKNOWN`` for the rest."""
        return _colour_table(self)[_pack(rgb)]

    def from_ids(
        self, ids: npt.NDArray[Any], *, file: object = "an array", unknown: Unknown = "error"
    ) -> npt.NDArray[np.int64]:
        """Raw ids -> int64 train ids of the same shape.

        Raises:
            DataError: an id that the space does not know (with ``unknown="ignore"`` it becomes ``IGNORE``);
                the message names the file, the id and its number of pixels.
        """
        encoded = self.encode(ids)
        if unknown == "error":
            raise_unknown(self, ids, encoded, file)
        return _settle(encoded)

    def from_colours(
        self, rgb: npt.NDArray[np.uint8], *, file: object = "an array", unknown: Unknown = "error"
    ) -> npt.NDArray[np.int64]:
        """``(H, W, 3)`` uint8 RGB -> ``(H, W)`` int64 train ids by exact match.

        Raises:
            DataError: a colour that the space does not know (with ``unknown="ignore"`` it becomes ``IGNORE``);
                the message names the file, the colour and its number of pixels.
        """
        encoded = self.encode_colours(rgb)
        if unknown == "error":
            raise_unknown(self, rgb, encoded, file)
        return _settle(encoded)

    def colourise(self, labels: Any) -> npt.NDArray[np.uint8]:
        """Train ids ``(..., H, W)``, array or tensor -> uint8 RGB ``(..., H, W, 3)``; ignored pixels are black."""
        return colourise(labels, self.colours)

    def merge(self, name: str, groups: Mapping[str, Sequence[str]]) -> LabelSpace:
        """A coarser space: each group of classes becomes one, at the place and with the colour of its first.

        Args:
            name: of the new space.
            groups: new class name -> names of classes of this space; classes in no group stay as they are.

        Raises:
            ValueError: an unknown class, a class in two groups, an empty group, a new name that is taken.
        """
        home: dict[str, str] = {}
        for new, olds in groups.items():
            if not olds:
                raise ValueError(f"merging {self.name!r}: group {new!r} is empty")
            for old in olds:
                self.index(old)
                if old in home:
                    raise ValueError(f"merging {self.name!r}: class {old!r} is in both {home[old]!r} and {new!r}")
                home[old] = new
        merged: list[Class] = []
        for label_class in self.classes:
            new_name = home.get(label_class.name)
            if new_name is None:
                merged.append(label_class)
            elif label_class.name == groups[new_name][0]:
                merged.append(join(new_name, [self.classes[self.index(old)] for old in groups[new_name]]))
        return replace(self, name=name, classes=tuple(merged))

    def select(self, name: str, classes: Sequence[str]) -> LabelSpace:
        """Some of the classes, in the order given; the ids and colours of all others become void."""
        chosen = tuple(self.classes[self.index(class_name)] for class_name in classes)
        dropped = [label_class for label_class in self.classes if label_class.name not in set(classes)]
        ids = (key for label_class in dropped for key in label_class.ids)
        colours = (colour for label_class in dropped for colour in label_class.label_colours or ())
        return LabelSpace(name, chosen, (*self.void_ids, *ids), (*self.void_colours, *colours))

    def as_train_ids(self, name: str) -> LabelSpace:
        """The same classes for files that hold train ids already (``_labelTrainIds.png``)."""
        return replace(
            self, name=name, void_ids=(-1,), classes=tuple(replace(c, ids=(i,)) for i, c in enumerate(self.classes))
        )

    def mapping_to(self, other: LabelSpace, aliases: Mapping[str, str | None] | None = None) -> LabelMapping:
        """How labels of this space become labels of another.

        A class goes where ``aliases`` sends it (``None``: ignored), else to the class of the same name, else to the one
        whose ``members`` include all of its own, else it is ignored.

        Raises:
            ValueError: an alias from or to a class that does not exist, or nothing maps at all.
        """
        return other.mapping_from(self, aliases)

    def mapping_from(self, old: LabelSpace, aliases: Mapping[str, str | None] | None = None) -> LabelMapping:
        """:meth:`mapping_to` seen from the new space."""
        renames = dict(aliases or {})
        for name, new in renames.items():  # index() raises for a name that is not there
            _ = old.index(name), new is None or self.index(new)
        pairs: dict[str, str | None] = {}
        for label_class in old.classes:
            if label_class.name in renames or label_class.name in self.names:
                pairs[label_class.name] = renames.get(label_class.name, label_class.name)
            else:
                covers = [c.name for c in self.classes if set(label_class.members) <= set(c.members)]
                pairs[label_class.name] = covers[0] if len(covers) == 1 else None
        if not any(pairs.values()):
            raise ValueError(f"no class of {old.name!r} maps to {self.name!r}; give aliases (old name: new name)")
        return LabelMapping(old, self, tuple(pairs.items()))


@dataclass(frozen=True)
class LabelMapping:
    """A checked many-to-one mapping of train ids between two spaces; built by :meth:`LabelSpace.mapping_to`."""

    old: LabelSpace
    new: LabelSpace
    pairs: tuple[tuple[str, str | None], ...]
    """(class of the old space, class of the new one or ``None``: ignored)."""

    @property
    def table(self) -> npt.NDArray[np.uint8]:
        """``(256,)`` uint8: old train id -> new train id; ``UNKNOWN`` stays, everything else is ``IGNORE``."""
        table = np.full(256, IGNORE, dtype=np.uint8)
        table[UNKNOWN] = UNKNOWN
        for old, new in self.pairs:
            if new is not None:
                table[self.old.index(old)] = self.new.index(new)
        return table

    @property
    def missing(self) -> tuple[str, ...]:
        """Classes of the new space that nothing maps to."""
        return tuple(name for name in self.new.names if name not in {new for _, new in self.pairs})

    @property
    def dropped(self) -> tuple[str, ...]:
        """Classes of the old space that are ignored in the new one."""
        return tuple(old for old, new in self.pairs if new is None)

    def __call__(self, labels: Any) -> Any:
        """Int64 train ids of the old space, array or tensor of any shape -> the same kind in the new space."""
        mapped = _settle(self.table[np.asarray(labels)])
        return mapped if isinstance(labels, np.ndarray) else labels.new_tensor(mapped)

    def lines(self) -> list[str]:
        """The mapping as text, one class of the new space a line (for tables: the label map is a choice)."""
        olds = {new: [old for old, to in self.pairs if to == new] for new in self.new.names}
        rows = [f"{new} <- {', '.join(old) or '(nothing)'}" for new, old in olds.items()]
        return [*rows, f"ignored <- {', '.join(self.dropped)}"] if self.dropped else rows


def unknown_values(raw: npt.NDArray[Any], encoded: npt.NDArray[np.uint8]) -> list[tuple[int | Colour, int]]:
    """(raw id or colour, pixels) of everything that ``encoded`` marks as ``UNKNOWN``, most frequent first."""
    mask = encoded == UNKNOWN
    if not mask.any():
        return []
    values, counts = np.unique(raw[mask], axis=0, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    plain = (values[i].tolist() for i in order)
    keys: list[int | Colour] = [value if isinstance(value, int) else (value[0], value[1], value[2]) for value in plain]
    return list(zip(keys, counts[order].tolist(), strict=True))


def raise_unknown(
    space: LabelSpace,
    raw: npt.NDArray[Any],
    encoded: npt.NDArray[np.uint8],
    file: object,
    advice: str = "; unknown='ignore' skips it",
) -> None:
    """Raise :class:`DataError` if any pixel of ``encoded`` is ``UNKNOWN``."""
    unknown = unknown_values(raw, encoded)
    if unknown:
        what = "colour" if isinstance(unknown[0][0], tuple) else "id"
        listing = ", ".join(f"{value} ({count} pixels)" for value, count in unknown[:5])
        more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        raise DataError(f"{file}: unknown {what} {listing}{more} in label space {space.name!r}{advice}")


def _settle(encoded: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    result = encoded.astype(np.int64)
    result[encoded == UNKNOWN] = IGNORE
    return result


def join(name: str, classes: Sequence[Class]) -> Class:
    """One class that covers several, with the colour of the first."""
    return Class(
        name,
        classes[0].colour,
        tuple(key for label_class in classes for key in label_class.ids),
        all(label_class.thing for label_class in classes),
        tuple(dict.fromkeys(member for label_class in classes for member in label_class.members)),
        tuple(colour for label_class in classes for colour in label_class.label_colours or ()),
    )


def _pack(rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint32]:
    wide = rgb.astype(np.uint32)
    packed = wide[..., 0] << np.uint32(16) | wide[..., 1] << np.uint32(8) | wide[..., 2]
    return packed.astype(np.uint32, copy=False)


@lru_cache(maxsize=32)
def _id_table(space: LabelSpace) -> npt.NDArray[np.uint8]:
    # 65536 entries for ids from 0 and, at its end, 32768 for negative ones: numpy's own negative indexing finds them
    table = np.full(65536 + 32768, UNKNOWN, dtype=np.uint8)
    for index, label_class in enumerate(space.classes):
        table[list(label_class.ids)] = index
    table[list({IGNORE, *space.void_ids} - {key for label_class in space.classes for key in label_class.ids})] = IGNORE
    return table


@lru_cache(maxsize=4)
def _colour_table(space: LabelSpace) -> npt.NDArray[np.uint8]:
    table = np.full(1 << 24, UNKNOWN, dtype=np.uint8)
    for index, label_class in enumerate(space.classes):
        for red, green, blue in label_class.label_colours or ():
            table[red << 16 | green << 8 | blue] = index
    for red, green, blue in space.void_colours:
        table[red << 16 | green << 8 | blue] = IGNORE
    return table


def _tuples(value: Any) -> Any:
    """Tuples in place of lists, at any depth."""
    return tuple(_tuples(child) for child in value) if isinstance(value, list | tuple) else value
