"""Data sets, label spaces, augmentation and the pairs that a trainer goes through.

``dataset("kitti", root=...)`` finds a reader by name, ``label_space("camvid11")`` a label space.
"""

from __future__ import annotations

import inspect
from typing import Any

from uda.data.acdc import Acdc
from uda.data.base import DataError, FileDataset, Item, Options, Unlabelled
from uda.data.camvid import CamVid
from uda.data.cityscapes import Cityscapes
from uda.data.errors import nearest
from uda.data.folder import Folder
from uda.data.gta5 import Gta5
from uda.data.ika import Ika
from uda.data.kitti import Kitti
from uda.data.label_spaces import (
    CAMVID11,
    CITYSCAPES19,
    CITYSCAPES34,
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
from uda.data.synthia import Synthia

__all__ = [
    "CAMVID11",
    "CITYSCAPES19",
    "CITYSCAPES34",
    "DATASETS",
    "GTA5",
    "IKA",
    "KITTI",
    "STREET8",
    "SYNTHIA13",
    "SYNTHIA16",
    "Acdc",
    "CamVid",
    "Cityscapes",
    "Class",
    "DataError",
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
    "Synthia",
    "Unlabelled",
    "common",
    "dataset",
    "dataset_options",
    "label_space",
]

DATASETS: dict[str, type[FileDataset]] = {
    reader.kind: reader for reader in (Cityscapes, Kitti, Ika, CamVid, Gta5, Synthia, Acdc, Folder)
}
"""The readers by the name that configs use."""


def dataset_options(kind: str) -> tuple[str, ...]:
    """The keyword arguments that a reader takes; ``ValueError`` with the nearest known name for an unknown one."""
    if kind.lower() not in DATASETS:
        raise ValueError(f"no data set kind {kind!r}; {nearest(kind.lower(), DATASETS)}")
    return tuple(inspect.signature(DATASETS[kind.lower()]).parameters)


def dataset(kind: str, **kwargs: Any) -> FileDataset:
    """A data set by the name of its reader.

    Args:
        kind: one of :data:`DATASETS`, in any case.
        kwargs: the reader's arguments: ``root``, ``split``, those of :class:`Options` and its own.

    Raises:
        ValueError: an unknown kind or argument (with the nearest known one), or a wrong value.
        DataError: something is wrong with the files; the message names one.
    """
    known = dataset_options(kind)
    for name in kwargs:
        if name not in known:
            raise ValueError(f"data set {kind!r} has no option {name!r}; {nearest(name, known)}")
    if "root" not in kwargs:
        raise ValueError(f"data set {kind!r} needs a root folder")
    return DATASETS[kind.lower()](**kwargs)
