"""What all data set readers share: finding is theirs, decoding, mapping, caching and checking is here."""

from __future__ import annotations

import copy
import hashlib
import inspect
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self, TypedDict, Unpack

import numpy as np
import numpy.typing as npt
import torch

from uda.data import archives
from uda.data.cache import Cache, open_cache
from uda.data.classes import UNKNOWN, LabelSpace, Unknown, raise_unknown, unknown_values
from uda.data.decode import IMAGE_SUFFIXES, LabelFormat, read_image, read_label
from uda.data.errors import DataError
from uda.data.identity import files_identity
from uda.data.label_spaces import label_space
from uda.data.pixels import Pixels
from uda.registry import nearest
from uda.types import IGNORE, Sample

__all__ = ["DataError", "FileDataset", "Item", "Options", "Unlabelled", "image_files"]


class Options(TypedDict, total=False):
    """Keyword arguments that every reader takes.

    Attributes:
        space: label space (or its name) that the samples come in; each reader has its own default.
        aliases: old class name -> new one (``None``: ignored), where mapping to ``space`` by name is not what is
            wanted.
        cache: ``None``, ``"memory"``, or a folder for decoded arrays, which any number of processes and runs share.
        cache_limit: gigabytes that the folder may have; what has no room there is decoded every time. By default all
            that the disk has, less one.
        limit: only the first so many samples.
        unknown: ``"error"`` or ``"ignore"`` for ids and colours that the files' label space does not know.
        strict: raise for an image that is no file, has no label or one that another image has too; otherwise leave it
            out and list it in ``problems``.
        labelled: ``False`` does not look for label files at all; then only ``unlabelled()`` is of use.
    """

    space: LabelSpace | str | None
    aliases: Mapping[str, str | None] | None
    cache: str | Path | Cache | None
    cache_limit: float | None
    limit: int | None
    unknown: Unknown
    strict: bool
    labelled: bool


_DEFAULTS: dict[str, Any] = {
    **dict.fromkeys(("space", "aliases", "cache", "cache_limit", "limit")),
    "unknown": "error",
    "strict": True,
    "labelled": True,
}


@dataclass(frozen=True)
class Item:
    """One image file with its label file; ``label`` may not exist."""

    image: Path
    label: Path


STREETS = "streets.json"
"""File in the root of procedural data, whatever layout it is in."""


class Unlabelled:
    """Images only: it holds no path, space or object that leads to a label.

    Args:
        name: of the data set, for messages.
        root: what sample names are relative to.
        images: the files.
        cache: see :func:`uda.data.cache.open_cache`.
    """

    def __init__(self, name: str, root: Path, images: Sequence[Path], cache: str | Path | Cache | None = None) -> None:
        if not images:
            raise DataError(f"{root}: no images")
        self.name = name
        self.root = Path(root)
        self._images = tuple(images)
        self._cache = open_cache(cache)

    @classmethod
    def folder(
        cls, root: str | Path, *, cache: str | Path | Cache | None = None, limit: int | None = None
    ) -> Unlabelled:
        """All images below a folder, in the order of their names.

        Raises:
            DataError: the folder is missing or has no images, or what is named like one is no file.
        """
        images = image_files(Path(root))[: _limit(limit)]
        for path in images:
            if not archives.is_file(path):
                raise DataError(f"{path}: {_no_file(path)}")
        return cls(Path(root).name, Path(root), images, cache)

    @property
    def names(self) -> list[str]:
        """The images' files, relative to the root."""
        return [_relative(path, self.root) for path in self._images]

    def __len__(self) -> int:
        return len(self._images)

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        _keep_own_samples(cls)

    def __getitem__(self, index: int) -> Sample:
        return self._pixels(index).sample()

    def pixels(self, index: int) -> Pixels | Sample:
        """The image as the cache has it."""
        return self._pixels(index)

    def _pixels(self, index: int) -> Pixels:
        path = self._images[index]
        return Pixels(_image(path, self._cache), None, None, _relative(path, self.root))

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    def identity(self) -> dict[str, Any]:
        """What the images are, wherever they lie; see :func:`uda.data.identity.dataset_identity`."""
        return {"name": self.name, "samples": len(self), "content": files_identity(self._images, self.root)}

    def subset(self, indices: Sequence[int]) -> Unlabelled:
        """Some of the images, in the order given."""
        return Unlabelled(self.name, self.root, [self._images[index] for index in indices], self._cache)


class FileDataset(ABC):
    """Images with a label file each, decoded in the files' own label space and mapped to ``space``.

    A reader gives ``kind`` and ``find``, and the spaces and format of its files as class attributes or, where these
    depend on what is found, sets them in ``find``. Samples are ``(3, H, W)`` uint8 RGB with ``(H, W)`` int64 train
    ids. Labels are mapped from the raw classes of the files directly, so ``remap`` loses nothing that an earlier space
    left out.

    Args:
        root: folder of the data set.
        split: one of ``splits``.
        options: see :class:`Options`.

    Raises:
        DataError: a missing root or folder, an empty split, an image without its label; naming the file.
        ValueError: an unknown split or option, with the nearest known one.
    """

    kind: ClassVar[str]
    splits: tuple[str, ...] = ("train", "val")
    default_space: LabelSpace
    raw_space: LabelSpace
    label_format: LabelFormat = "auto"

    def __init__(self, root: str | Path, split: str = "train", **options: Unpack[Options]) -> None:
        unknown_options = set(options) - set(Options.__annotations__)
        if unknown_options:
            wrong = sorted(unknown_options)[0]
            raise ValueError(f"{self.kind} has no option {wrong!r}; {nearest(wrong, Options.__annotations__)}")
        if split not in self.splits:
            raise ValueError(f"{self.kind} has no split {split!r}; {nearest(split, self.splits)}")
        if options.get("unknown", "error") not in ("error", "ignore"):
            raise ValueError(f"unknown must be 'error' or 'ignore', not {options.get('unknown')!r}")
        self.root = Path(root)
        self.split = split
        self.name = f"{self.kind}/{split}"
        self.problems: list[str] = []
        self.unknown: Unknown = options.get("unknown", "error")
        self._cache = open_cache(options.get("cache"), options.get("cache_limit"))
        if not archives.is_dir(self.root):
            raise DataError(f"{self.root}: no such folder ({self.kind} data set)")
        self.labelled: bool = options.get("labelled", True)
        self._strict: bool = options.get("strict", True)
        self._labels_are_listed = False
        items = self.find()
        if not items:
            raise DataError(f"{self.root}: split {split!r} of {self.kind} has no images")
        items = self._with_files(items)
        self._items = items[: _limit(options.get("limit"))]
        self._aim(label_space(options.get("space") or self.default_space), options.get("aliases"))

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        _keep_own_samples(cls)
        # written out, so that configs, help and inspect see every option instead of **options
        own = [p for p in inspect.signature(cls.__init__).parameters.values() if p.kind is not p.VAR_KEYWORD][1:]
        shared = [inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY, default=d) for n, d in _DEFAULTS.items()]
        cls.__signature__ = inspect.Signature([*own, *shared])  # type: ignore[attr-defined]

    @abstractmethod
    def find(self) -> list[Item]:
        """The split's files in a fixed order; raises :class:`DataError` where the layout is not there."""

    def _with_files(self, items: list[Item]) -> list[Item]:
        """The items whose files are there; the others are an error or listed in ``problems``."""
        broken = [item for item in items if not archives.is_file(item.image)]
        if broken and self._strict:
            raise DataError(f"{broken[0].image}: {_no_file(broken[0].image)}")
        self.problems += [f"{item.image}: {_no_file(item.image)}" for item in broken]
        items = _without(items, broken)
        return self._with_labels(items) if self.labelled else items

    def _with_labels(self, items: list[Item]) -> list[Item]:
        items = [Item(item.image, _either_case(item.label)) for item in items]
        missing = [item for item in items if not archives.is_file(item.label)]
        if missing and self._strict:
            more = f" ({len(missing)} of {len(items)} images have none)" if len(missing) > 1 else ""
            raise DataError(f"{missing[0].image}: no label at {missing[0].label}{more}")
        self.problems += [f"{item.image}: no label at {item.label}" for item in missing]
        labelled = _without(items, missing)
        labelled = _without(labelled, self._sharing(labelled))
        if not labelled:
            raise DataError(f"{self.root}: none of the {len(items)} images of split {self.split!r} has a label")
        return labelled

    def _sharing(self, items: list[Item]) -> list[Item]:
        """Images that have one label by their names (``a.png``, ``a.jpg``): whose it is nobody knows."""
        if self._labels_are_listed:
            return []
        images: dict[Path, list[Item]] = {}
        for item in items:
            images.setdefault(item.label, []).append(item)
        sharing = [group for group in images.values() if len(group) > 1]
        problems = [
            f"{item.image}: has the same label as {next(other.image for other in group if other != item)}: {item.label}"
            for group in sharing
            for item in reversed(group)
        ]
        if problems and self._strict:
            raise DataError(problems[0])
        self.problems += problems
        return [item for group in sharing for item in group]

    def _aim(self, space: LabelSpace, aliases: Mapping[str, str | None] | None) -> None:
        self.space = space
        # without labels there is nothing to map, whatever the files' classes would be
        self.mapping = self.raw_space.mapping_to(space, aliases) if self.labelled else space.mapping_to(space)
        self._table = self.mapping.table

    @property
    def names(self) -> list[str]:
        """The images' files, relative to the root."""
        return [_relative(item.image, self.root) for item in self._items]

    @property
    def image_files(self) -> list[Path]:
        """The images' files."""
        return [item.image for item in self._items]

    @property
    def sequences(self) -> list[str]:
        """The video sequence, drive or place of each image: those of one are no independent samples.

        Procedural streets are: each image is a sequence of its own, as in a reader that says nothing else.
        """
        if (self.root / STREETS).is_file():
            return self.names
        return [self.sequence(name) for name in self.names]

    @classmethod
    def sequence(cls, name: str) -> str:
        """The sequence of an image by its file's name; a reader of videos says more than that."""
        return name

    @property
    def items(self) -> tuple[Item, ...]:
        """The files behind the samples."""
        return tuple(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> Sample:
        return self._pixels(index).sample()

    def pixels(self, index: int) -> Pixels | Sample:
        """The sample as the cache has it; a reader with samples of its own has these."""
        return self._pixels(index)

    def _pixels(self, index: int) -> Pixels:
        item = self._items[index]
        image, label = _image(item.image, self._cache), self._encoded(item.label)
        if image.shape[:2] != label.shape:
            raise DataError(_sizes(item, image.shape[:2], label.shape))
        return Pixels(image, label, self._table, _relative(item.image, self.root))

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    def label(self, index: int) -> torch.Tensor:
        """``(H, W)`` int64 train ids alone, without decoding the image (for counting)."""
        return torch.from_numpy(self._table[self._encoded(self._items[index].label)].astype(np.int64))

    def _encoded(self, path: Path) -> npt.NDArray[np.uint8]:
        # cached in the raw space, so that one cache serves every space that is mapped to
        def decode() -> npt.NDArray[np.uint8]:
            raw = read_label(path, self.label_format)
            encoded = self._encode(raw)
            if self.unknown == "error":
                raise_unknown(self.raw_space, raw, encoded, archives.described(path))
            encoded[encoded == UNKNOWN] = IGNORE
            return encoded

        return self._cache.get(path, f"label|{self.label_format}|{hash_space(self.raw_space)}|{self.unknown}", decode)

    def _encode(self, raw: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
        return self.raw_space.encode_colours(raw) if raw.ndim == 3 else self.raw_space.encode(raw)

    def scan(self, index: int) -> tuple[Sample, list[tuple[Any, int]]]:
        """A sample decoded without the cache and with unknown ids or colours ignored, and those with their pixels.

        Raises:
            DataError: as ``dataset[index]`` for everything but unknown values.
        """
        item = self._items[index]
        image = read_image(item.image)
        raw = read_label(item.label, self.label_format)
        encoded = self._encode(raw)
        if image.shape[:2] != encoded.shape:
            raise DataError(_sizes(item, image.shape[:2], encoded.shape))
        unknown = unknown_values(raw, encoded)
        encoded[encoded == UNKNOWN] = IGNORE
        label = torch.from_numpy(self._table[encoded].astype(np.int64))
        return Sample(torch.from_numpy(image).permute(2, 0, 1), label, _relative(item.image, self.root)), list(unknown)

    def unlabelled(self) -> Unlabelled:
        """The same images with no way to their labels."""
        return Unlabelled(self.name, self.root, [item.image for item in self._items], self._cache.fresh())

    def identity(self) -> dict[str, Any]:
        """What the data is, wherever it lies; see :func:`uda.data.identity.dataset_identity`."""
        files = [file for item in self._items for file in (item.image, *([item.label] if self.labelled else []))]
        return {
            "name": self.name,
            "samples": len(self),
            "content": files_identity(files, self.root),
            "classes": list(self.space.names),
            "label_map": self.mapping.lines(),
            "unknown": self.unknown,
        }

    def remap(self, space: LabelSpace | str, aliases: Mapping[str, str | None] | None = None) -> Self:
        """The same data in another label space; ``aliases`` names raw classes of the files."""
        remapped = copy.copy(self)
        remapped._aim(label_space(space), aliases)
        return remapped

    def subset(self, indices: Sequence[int]) -> Self:
        """Some of the samples, in the order given."""
        subset = copy.copy(self)
        subset._items = [self._items[index] for index in indices]
        if not subset._items:
            raise DataError(f"{self.root}: an empty subset of {self.name}")
        return subset


def image_files(folder: Path, suffix: str = "", *, recursive: bool = True) -> list[Path]:
    """What is named like an image below a folder, sorted by path; links to folders are followed, each folder once.
    A folder that is not on disk may lie in archives (:mod:`uda.data.archives`).

    Not all need be files: a dangling link or a folder called ``x.png`` is there too, for whoever opens it to refuse.

    Args:
        folder: where to look.
        suffix: end of the names, in any case.
        recursive: look into sub-folders.

    Raises:
        DataError: the folder does not exist, cannot be listed, or has none.
    """
    if not archives.is_dir(folder):
        raise DataError(f"{folder}: no such folder")

    def named(name: str) -> bool:
        lower = name.lower()
        return lower.endswith(IMAGE_SUFFIXES) and lower.endswith(suffix.lower())

    there = _entries(folder, recursive) if folder.is_dir() else archives.files_below(folder, recursive=recursive)
    files = sorted(path for path in there if named(path.name))
    if not files:
        raise DataError(f"{folder}: no images" + (f" that end in {suffix!r}" if suffix else ""))
    return files


def _entries(folder: Path, recursive: bool) -> Iterator[Path]:
    """What lies in a folder and below it; a link back to a folder that contains it ends there."""
    seen: set[str] = set()

    def refuse(error: OSError) -> None:
        raise DataError(f"{error.filename or folder}: {error.strerror or error}") from error

    for parent, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        seen.add(os.path.realpath(parent))
        yield from (Path(parent, name) for name in (*files, *folders))
        folders[:] = sorted(name for name in folders if os.path.realpath(Path(parent, name)) not in seen)
        if not recursive:
            return


def hash_space(space: LabelSpace) -> str:
    """A short text that is equal for equal spaces, in every process."""
    return hashlib.sha256(repr((space, space.void_ids, space.void_colours)).encode()).hexdigest()[:16]


def _without(items: list[Item], others: list[Item]) -> list[Item]:
    left_out = set(others)
    return [item for item in items if item not in left_out]


def _either_case(path: Path) -> Path:
    """The path, or where nothing is there the one with its suffix in the other case (``.PNG``)."""
    other = path.with_suffix(path.suffix.swapcase())
    return other if not archives.is_file(path) and archives.is_file(other) else path


def _no_file(path: Path) -> str:
    """Why a path is no file."""
    if path.is_dir():
        return "is named like an image and is a folder"
    return "is a link to a file that is not there" if path.is_symlink() else "is no file"


def _sizes(item: Item, image: tuple[int, ...], label: tuple[int, ...]) -> str:
    return f"{item.label}: label is {label[1]}x{label[0]} but {item.image} is {image[1]}x{image[0]} (width x height)"


def _limit(limit: int | None) -> int | None:
    if limit is not None and (type(limit) is not int or limit < 1):
        raise ValueError(f"limit is a whole number of at least 1, not {limit!r}")
    return limit


def _relative(path: Path, root: Path) -> str:
    name = path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()
    # names are printed and written; one that is not UTF-8 on disk would stop both
    return name.encode("utf-8", "backslashreplace").decode()


def _image(path: Path, cache: Cache) -> npt.NDArray[np.uint8]:
    return cache.get(path, "image", lambda: read_image(path))


def _keep_own_samples(cls: Any) -> None:
    """A class that makes samples of its own is read through these."""
    if "__getitem__" in vars(cls) and "pixels" not in vars(cls):
        cls.pixels = cls.__getitem__
