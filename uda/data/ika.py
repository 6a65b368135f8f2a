"""ika's recordings: input images with colour-coded labels in reduced Cityscapes classes."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path
from typing import Unpack

from uda.data import archives
from uda.data.base import FileDataset, Item, Options, image_files
from uda.data.classes import Class, Colour, LabelSpace
from uda.data.errors import DataError
from uda.data.label_spaces import CITYSCAPES34, IKA

TABLE_NAME = "rgb_to_class_id.py"
_VOID_NAMES = frozenset({"unlabeled", "static", "dynamic"})
_MAX_TABLE_BYTES = 1_000_000


class Ika(FileDataset):
    """``input/X.png`` with ``label/X_gtFine_labelColor.png`` and a table of colours, ``rgb_to_class_id.py``.

    The table is parsed, never executed. Its groups of Cityscapes colours name the classes; where they are the 14 of
    :data:`uda.data.label_spaces.IKA` the samples come in that space, else in one made from the table. Without a table
    (neither in the split's folder nor in the root) the colours are those of :data:`IKA`.

    Splits: ``train``, ``val`` and ``test`` are folders ``<root>/<split>`` with ``input`` and ``label`` each; ``all`` is
    ``<root>`` itself where it holds ``input`` and ``label``, else all split folders together.
    """

    kind = "ika"
    splits = ("all", "train", "val", "test")
    raw_space = IKA
    default_space = IKA
    label_format = "colours"

    def __init__(self, root: str | Path, split: str = "all", **options: Unpack[Options]) -> None:
        super().__init__(root, split, **options)

    def find(self) -> list[Item]:
        """The split's images by name; takes the label space from the table of colours."""
        bases = [self.root] if self.split == "all" else [self.root / self.split]
        if self.split == "all" and not archives.is_dir(self.root / "input"):
            bases = [
                self.root / name for name in self.splits[1:] if archives.is_dir(self.root / name / "input")
            ] or bases
        if self.split != "all" and not archives.is_dir(bases[0]) and archives.is_dir(self.root / "input"):
            raise DataError(f"{bases[0]}: no such folder; {self.root / 'input'} has no splits: use split='all'")
        tables = [p for p in (*(base / TABLE_NAME for base in bases), self.root / TABLE_NAME) if archives.is_file(p)]
        if tables:
            self.raw_space = space_of_table(parse_colour_table(tables[0]))
            self.default_space = IKA if set(self.raw_space.names) == set(IKA.names) else self.raw_space
        return [
            Item(path, base / "label" / f"{path.stem}_gtFine_labelColor.png")
            for base in bases
            for path in image_files(base / "input", recursive=False)
        ]


def parse_colour_table(path: Path) -> dict[Colour, int]:
    """The ``{(r, g, b): id}`` dictionary that a Python file assigns, found without running the file.

    Several dictionaries of that form are taken together; all else in the file is passed over.

    Raises:
        DataError: the file is missing, no Python, has no such dictionary, or gives a colour two ids.
    """
    try:
        source = archives.read(path).decode("utf-8")
        if len(source) > _MAX_TABLE_BYTES:
            raise DataError(f"{path}: {len(source)} characters are too many for a table of colours")
        tree = ast.parse(source, filename=str(path))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: not a Python file ({error})") from error
    table: dict[Colour, int] = {}
    for node in tree.body:
        value = node.value if isinstance(node, ast.Assign | ast.AnnAssign) else None
        if not isinstance(value, ast.Dict):
            continue
        for colour, number in _colour_entries(value, path).items():
            if table.setdefault(colour, number) != number:
                raise DataError(f"{path}: colour {colour} has two ids, {table[colour]} and {number}")
    if not table:
        raise DataError(f"{path}: no dictionary of the form {{(r, g, b): id, ...}} is assigned in it")
    return table


def _colour_entries(node: ast.Dict, path: Path) -> dict[Colour, int]:
    ids: dict[Colour, int] = {}
    for key, value in zip(node.keys, node.values, strict=True):
        try:
            colour, number = ast.literal_eval(key) if key is not None else None, ast.literal_eval(value)
        except ValueError:
            colour, number = None, None
        line = f"{path}, line {value.lineno}"
        if not (isinstance(colour, tuple) and len(colour) == 3):
            return {}  # another dictionary, not of colours
        if not all(type(part) is int and 0 <= part <= 255 for part in colour):
            raise DataError(f"{line}: {colour} is not a colour of three numbers in 0..255")
        if type(number) is not int:
            raise DataError(f"{line}: the id of colour {colour} is {ast.unparse(value)}, not a whole number")
        if ids.setdefault(colour, number) != number:
            raise DataError(f"{line}: colour {colour} has two ids, {ids[colour]} and {number}")
    return ids


def space_of_table(table: Mapping[Colour, int]) -> LabelSpace:
    """The label space of a table of colours, its classes in the order of their ids.

    A class is named after the Cityscapes classes whose colours it has: as in :data:`IKA` where the group is the same,
    else by the one name or ``a+b``; a group of foreign colours is ``class <id>``. Negative ids, 255, and groups of
    only unlabelled, static and dynamic are void.
    """
    known = {
        colour: label_class.name for label_class in CITYSCAPES34.classes for colour in label_class.label_colours or ()
    }
    groups: dict[int, list[Colour]] = {}
    for colour, number in table.items():
        groups.setdefault(number, []).append(colour)
    ika = {frozenset(label_class.members): label_class for label_class in IKA.classes}
    classes: list[Class] = []
    void: list[Colour] = []
    for number, colours in sorted(groups.items()):
        named = [known[colour] for colour in colours if colour in known]
        members = tuple(dict.fromkeys(name for name in named if name not in _VOID_NAMES))
        if number < 0 or number == 255 or (named and not members):
            void += colours
            continue
        like = ika.get(frozenset(members))
        name = like.name if like else "+".join(members) or f"class {number}"
        thing = like.thing if like else False
        classes.append(Class(name, like.colour if like else colours[0], (number,), thing, members, tuple(colours)))
    if not classes:
        raise DataError("the table of colours names no class at all, only void ones")
    return LabelSpace("ika-table", tuple(classes), void_colours=tuple(void))
