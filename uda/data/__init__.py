"""Data sets, label spaces, augmentation and the pairs that a trainer goes through.

``load("kitti", split="val", space="ika")`` is a data set from its usual folder; ``dataset("kitti", root=...)`` finds a
reader by name, ``label_space("camvid11")`` a label space, ``wrap(...)`` takes any torch data set in.
Nothing is imported before it is asked for.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

from uda.registry import Registry, nearest

if TYPE_CHECKING:
    from uda.data.acdc import Acdc
    from uda.data.base import DataError, FileDataset, Item, Options, Unlabelled
    from uda.data.by_name import load
    from uda.data.camvid import CamVid
    from uda.data.cityscapes import Cityscapes
    from uda.data.errors import ArchiveError, DownloadError
    from uda.data.folder import Folder
    from uda.data.gta5 import Gta5
    from uda.data.identity import dataset_identity
    from uda.data.ika import Ika
    from uda.data.kitti import Kitti
    from uda.data.label_spaces import (
        CAMVID11,
        CITYSCAPES19,
        CITYSCAPES34,
        CITYSCAPES_CATEGORIES,
        GTA5,
        IKA,
        KITTI,
        STREET8,
        SYNTHIA13,
        SYNTHIA16,
        Class,
        LabelMapping,
        LabelSpace,
        common,
        label_space,
    )
    from uda.data.mixture import Mixture
    from uda.data.pairs import Pairs, RareClasses
    from uda.data.synthia import Synthia
    from uda.data.transforms import TrainTransform
    from uda.data.unions import UnionSpace, union_space
    from uda.data.wrapped import Wrapped, as_dataset, wrap

_SPACES = (
    *("CAMVID11", "CITYSCAPES19", "CITYSCAPES34", "CITYSCAPES_CATEGORIES", "GTA5", "IKA", "KITTI", "STREET8"),
    *("SYNTHIA13", "SYNTHIA16"),
    *("Class", "LabelMapping", "LabelSpace", "common", "label_space"),
)
_READERS = {
    "cityscapes": "Cityscapes",
    "kitti": "Kitti",
    "ika": "Ika",
    "camvid": "CamVid",
    "gta5": "Gta5",
    "synthia": "Synthia",
    "acdc": "Acdc",
    "folder": "Folder",
}
_PLACES = {
    **dict.fromkeys(_SPACES, "label_spaces"),
    **{cls: kind for kind, cls in _READERS.items()},
    **dict.fromkeys(("ArchiveError", "DownloadError"), "errors"),
    **dict.fromkeys(("DataError", "FileDataset", "Item", "Options", "Unlabelled"), "base"),
    **dict.fromkeys(("Wrapped", "as_dataset", "wrap"), "wrapped"),
    **dict.fromkeys(("Pairs", "RareClasses"), "pairs"),
    "load": "by_name",
    **dict.fromkeys(("UnionSpace", "union_space"), "unions"),
    "Mixture": "mixture",
    "TrainTransform": "transforms",
    "dataset_identity": "identity",
}

DATASETS: Registry[Callable[..., Any]] = Registry(
    "data set kind",
    {kind: f"uda.data.{kind}:{cls}" for kind, cls in _READERS.items()},
    group="uda.datasets",
    accepts=callable,
)
"""The readers by the name that configs use; any callable that gives a data set works by ``package.module:Name``."""


def dataset_options(kind: str) -> tuple[str, ...]:
    """The keyword arguments that a reader takes; ``ValueError`` with the nearest known name for an unknown one."""
    return tuple(inspect.signature(DATASETS[_key(kind)]).parameters)


def dataset(kind: str, **kwargs: Any) -> Any:
    """A data set by the name of its reader.

    Args:
        kind: one of :data:`DATASETS`, in any case, or ``package.module:Name`` of a class or function that gives a
            data set with a label space (:func:`wrap` gives one to any torch data set).
        kwargs: its arguments; of a reader ``root``, ``split``, those of :class:`Options` and its own.

    Raises:
        ValueError: an unknown kind or argument (with the nearest known one), or a wrong value.
        TypeError: what it gives has no label space.
        DataError: something is wrong with the files; the message names one.
    """
    known = dataset_options(kind)
    for name in kwargs:
        if name not in known:
            raise ValueError(f"data set {kind!r} has no option {name!r}; {nearest(name, known)}")
    if "root" in known and "root" not in kwargs:
        raise ValueError(f"data set {kind!r} needs a root folder")
    return import_module("uda.data.wrapped").as_dataset(DATASETS[_key(kind)](**kwargs), kind)


def _key(kind: str) -> str:
    return kind.lower() if kind.lower() in DATASETS else kind


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
    globals()[name] = value  # found once
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


__all__ = [
    "CAMVID11",
    "CITYSCAPES19",
    "CITYSCAPES34",
    "CITYSCAPES_CATEGORIES",
    "DATASETS",
    "GTA5",
    "IKA",
    "KITTI",
    "STREET8",
    "SYNTHIA13",
    "SYNTHIA16",
    "Acdc",
    "ArchiveError",
    "CamVid",
    "Cityscapes",
    "Class",
    "DataError",
    "DownloadError",
    "FileDataset",
    "Folder",
    "Gta5",
    "Ika",
    "Item",
    "Kitti",
    "LabelMapping",
    "LabelSpace",
    "Mixture",
    "Options",
    "Pairs",
    "RareClasses",
    "Synthia",
    "TrainTransform",
    "UnionSpace",
    "Unlabelled",
    "Wrapped",
    "as_dataset",
    "common",
    "dataset",
    "dataset_identity",
    "dataset_options",
    "label_space",
    "load",
    "union_space",
    "wrap",
]
