"""A data set of one's own: folders or lists of images and labels, described in a few lines of YAML."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack

from uda.data import archives
from uda.data.base import FileDataset, Item, Options, image_files
from uda.data.classes import Class, LabelSpace
from uda.data.decode import IMAGE_SUFFIXES, LabelFormat
from uda.data.errors import DataError
from uda.data.label_spaces import CITYSCAPES19, CITYSCAPES34, LABEL_SPACES, label_space
from uda.registry import nearest

_CLASS_KEYS = ("name", "colour", "ids", "thing", "members")
_FORMATS = ("auto", "ids", "colours")


class Folder(FileDataset):
    """Images and labels in two folders, or pairs in a list file.

    ::

        kind: folder
        root: ~/recordings
        images: frames              # searched with its sub-folders; or a list file: "image" or "image label" a line
        labels: annotations         # same sub-folders and names
        label_suffix: _mask.png
        classes: [road, car, {name: sky, colour: [70, 130, 180], ids: [7, 8]}]

    Args:
        root: what ``images`` and ``labels`` are relative to; ``~`` is the home folder.
        split: put in place of ``{split}`` in ``images`` and ``labels``; otherwise only a name.
        images: folder, or text file of paths relative to ``root``, one image (and its label) a line; names may have
            blanks, with quotes where a line can be read in two ways, ``#`` begins a comment. Only a list may give
            several images one label. By default ``images``, and for images without labels ``root`` itself where there
            is no such folder.
        labels: folder; an image's label is there under the image's relative path. Not needed by a list of pairs.
        image_suffix: end of the images' names, taken off to find the label; by default the file extension.
        label_suffix: end of the labels' names.
        classes: what the labels hold: the name of a shipped label space, or a list in the order of the train ids of
            names and mappings with ``name``, ``colour``, ``ids``, ``thing`` and ``members``; ids are positions and
            colours a palette where not given. Needed unless ``labelled`` is false.
        void: ids and RGB colours that mean nothing and are ignored, beside id 255: ``[9, [0, 0, 0]]``.
        labels_as: ``ids``, ``colours`` or ``auto`` (by the file's channels).
        options: see :class:`uda.data.base.Options`.

    Raises:
        DataError: a folder or file is missing; it is named.
        ValueError: labels without ``classes``, or an option that is wrong.
    """

    kind = "folder"

    def __init__(
        self,
        root: str | Path,
        split: str = "all",
        *,
        images: str | None = None,
        labels: str = "labels",
        image_suffix: str = "",
        label_suffix: str = ".png",
        classes: str | LabelSpace | Sequence[str | Mapping[str, Any]] | None = None,
        void: Sequence[int | Sequence[int]] = (),
        labels_as: LabelFormat = "auto",
        **options: Unpack[Options],
    ) -> None:
        if labels_as not in _FORMATS:
            raise ValueError(f"labels_as must be one of {', '.join(_FORMATS)}, not {labels_as!r}")
        labelled = options.get("labelled", True)
        if classes is None and labelled:
            raise ValueError(
                "folder: classes is missing: what the labels hold, a list of names in the order of their ids or one of "
                f"{', '.join(LABEL_SPACES)}; images without labels have labelled: false "
                "(on the command line: --option 'classes=[road, car]', --option labelled=false)"
            )
        # nothing reads the labels of images without labels, in whatever classes they might be
        classes = CITYSCAPES19 if classes is None else classes
        named = isinstance(classes, str | LabelSpace)
        self.raw_space = label_space(classes) if isinstance(classes, str | LabelSpace) else inline_space(classes, void)
        self.default_space = self.raw_space
        if named and void:
            raise ValueError("void ids and colours belong to inline classes; a named label space has its own")
        self.label_format = labels_as
        self.splits = (split,)  # any name will do
        folder = Path(root).expanduser()
        if images is None:
            images = "images" if labelled or archives.is_dir(folder / "images") else "."
        self._images, self._labels = images.replace("{split}", split), labels.replace("{split}", split)
        self._suffixes = image_suffix, label_suffix
        super().__init__(folder, split, **options)

    def find(self) -> list[Item]:
        """The images below the folder by path, or those of the list in its order."""
        source = self.root / self._images
        if source.is_file() and source.suffix.lower() not in IMAGE_SUFFIXES:
            return self._listed(source)
        return [
            Item(path, self.root / self._labels / self._label_name(path.relative_to(source)))
            for path in image_files(source, self._suffixes[0])
        ]

    def _label_name(self, image: Path) -> Path:
        ending, label_suffix = self._suffixes
        return image.with_name(image.name.removesuffix(ending or image.suffix) + label_suffix)

    def _listed(self, source: Path) -> list[Item]:
        items: list[Item] = []
        self._labels_are_listed = True
        try:
            lines = source.read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise DataError(
                f"{source}: a list of images is a UTF-8 text ({error.reason} at byte {error.start})"
            ) from error
        for number, line in enumerate(lines, start=1):
            try:
                parts = self._entries(line)
            except ValueError as error:
                raise DataError(f"{source}, line {number}: {error}; quote names with blanks: 'my image.png'") from error
            if not parts:
                continue
            if len(parts) > 2:
                raise DataError(f"{source}, line {number}: expected 'image' or 'image label', not {len(parts)} entries")
            image = self.root / parts[0]
            if not archives.is_file(image):
                problem = f"{source}, line {number}: no such image: {image}"
                if self._strict:
                    raise DataError(problem)
                self.problems.append(problem)
                continue
            label = parts[1] if len(parts) == 2 else Path(self._labels) / self._label_name(Path(parts[0]))
            items.append(Item(image, self.root / label))
        return items

    def _entries(self, line: str) -> list[str]:
        """The image of a line and perhaps its label; where words do not fit, blanks are looked for inside the names.

        Raises:
            ValueError: an open quote, or files for several readings of the line.
        """
        problem: ValueError | None = None
        words: list[str] = []
        try:
            words = _words(line)
        except ValueError as error:  # an apostrophe is an open quote, and may be part of a name
            problem = error
        if problem is None and (len(words) < 2 or (len(words) == 2 and archives.is_file(self.root / words[0]))):
            return words
        plain = line.strip()
        blanks = [at for at, letter in enumerate(plain) if letter.isspace()]
        pairs = [[plain[:at].rstrip(), plain[at + 1 :].lstrip()] for at in blanks]
        readings = [[plain], *pairs]
        fitting = [reading for reading in readings if all(archives.is_file(self.root / name) for name in reading)]
        different = [reading for at, reading in enumerate(fitting) if reading not in fitting[:at]]
        if len(different) > 1:
            raise ValueError(f"may be {' or '.join(map(str, different[:2]))}, there are files for both")
        if problem is not None and not different:
            raise problem
        return different[0] if different else words


def _words(line: str) -> list[str]:
    """The words of a line; quotes hold blanks together, a backslash is one (Windows), ``#`` begins a comment."""
    lexer = shlex.shlex(line, posix=True)
    lexer.whitespace_split, lexer.escape = True, ""
    return list(lexer)


def inline_space(
    classes: Sequence[str | Mapping[str, Any]], void: Sequence[int | Sequence[int]] = (), name: str = "folder"
) -> LabelSpace:
    """A label space from plain names and mappings, as a config holds them.

    Raises:
        ValueError: an unknown key (with the nearest known one), a class without a name, or what
            :class:`LabelSpace` refuses.
    """
    label_classes: list[Class] = []
    for index, class_spec in enumerate(classes):
        fields: dict[str, Any] = {"name": class_spec} if isinstance(class_spec, str) else dict(class_spec)
        for key in fields:
            if key not in _CLASS_KEYS:
                raise ValueError(f"classes: entry {index} has an unknown key {key!r}; {nearest(str(key), _CLASS_KEYS)}")
        if "name" not in fields:
            raise ValueError(f"classes: entry {index} has no name")
        label_classes.append(
            Class(
                str(fields["name"]),
                tuple(fields.get("colour", _palette(str(fields["name"]), index))),
                tuple(fields.get("ids", (index,))),
                bool(fields.get("thing", False)),
                tuple(fields.get("members", ())),
            )
        )
    void_ids, void_colours = _void(void)
    return LabelSpace(name, tuple(label_classes), void_ids=void_ids, void_colours=void_colours)


def _void(void: Sequence[int | Sequence[int]]) -> tuple[tuple[int, ...], tuple[tuple[int, int, int], ...]]:
    """Ids and colours that mean nothing, apart."""
    ids: list[int] = []
    colours: list[tuple[int, int, int]] = []
    for entry in [void] if isinstance(void, (int, str)) else void:
        if type(entry) is int:
            ids.append(entry)
        elif isinstance(entry, Sequence) and [type(value) for value in entry] == [int] * 3:
            red, green, blue = entry
            if not all(0 <= value <= 255 for value in entry):
                raise ValueError(f"void: colour {list(entry)} is not three numbers in 0..255")
            colours.append((red, green, blue))
        else:
            raise ValueError(f"void: {entry!r} is neither an id nor an RGB colour such as [0, 0, 0]")
    return tuple(ids), tuple(colours)


def _palette(name: str, index: int) -> tuple[int, int, int]:
    if name in CITYSCAPES34.names:
        return CITYSCAPES34.classes[CITYSCAPES34.index(name)].colour
    # VOC's palette: the bits of the number spread over the channels, so neighbours differ
    red = green = blue = 0
    number = index + 1
    for bit in range(8):
        red |= (number & 1) << (7 - bit)
        green |= (number >> 1 & 1) << (7 - bit)
        blue |= (number >> 2 & 1) << (7 - bit)
        number >>= 3
    return red, green, blue
