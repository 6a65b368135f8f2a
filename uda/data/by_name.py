"""Loading data in one line: a data set by its name, from its usual folder, in any label space."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from uda.data import DATASETS, archives, dataset, dataset_options
from uda.data.catalogue import CATALOGUE, default_root, how_to_get, install
from uda.data.classes import LabelSpace
from uda.data.errors import DataError
from uda.registry import short


def load(
    name: str,
    *,
    split: str | None = None,
    space: LabelSpace | str | None = None,
    root: str | Path | None = None,
    download: bool = False,
    **options: Any,
) -> Any:
    """A data set by its name, in the folder where it usually is.

    Args:
        name: one of :data:`uda.data.DATASETS`, in any case, or ``package.module:Name`` of a class or function that
            gives a data set with a label space.
        split: of its own ones; the reader's default if left out.
        space: label space of the samples, or its name; the reader's own if left out.
        root: its folder; ``$UDA_DATA/<name>`` by default, and ``data/<name>`` where that variable is not set.
        download: fetch it where it is not in its folder, if anybody may (:func:`uda.data.catalogue.install`).
        options: further arguments of the reader, see :func:`uda.data.dataset`.

    Returns:
        A labelled data set of ``(3, H, W)`` uint8 images and ``(H, W)`` int64 labels; ``unlabelled()`` of it gives
        images alone.

    Raises:
        ValueError: an unknown name, split, space or option, with the nearest known one.
        DataError: there is no such folder (with what to do), or something is wrong with its files.
        DownloadError: it cannot be fetched.

    Example:
        >>> import tempfile
        >>> from uda.data.streets import DOMAINS, generate
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = generate(folder, DOMAINS["kitti"], splits={"val": 1}, size=(32, 64))
        ...     load("kitti", split="val", space="ika", root=folder)[0].label.shape
        torch.Size([32, 64])
    """
    options = options | {key: value for key, value in (("split", split), ("space", space)) if value is not None}
    if "root" not in dataset_options(name):
        if root is None:
            return _in_space(name, options)
        raise ValueError(f"data set {short(name)} has no root; it is made, not read from a folder")
    return dataset(name, root=find_root(name, root, download), **options)


def _in_space(name: str, options: dict[str, Any]) -> Any:
    """A data set that is made by a function: mapped to a space that the function itself knows nothing of."""
    later = {} if "space" in dataset_options(name) else {key: options.pop(key) for key in ("space",) if key in options}
    made = dataset(name, **options)
    return made.remap(later["space"]) if later else made


def find_root(
    name: str,
    root: str | Path | None = None,
    download: bool = False,
    fetch: Callable[..., Any] = install,
) -> Path:
    """The folder of a data set, or a zip archive, which is there.

    Args:
        name: of its reader.
        root: the folder, if it is another than :func:`uda.data.catalogue.default_root`.
        download: fetch it where the folder is not there.
        fetch: does that, called with name and folder.

    Raises:
        DataError: it is not there; with what to do.
    """
    kind = name.lower() if name.lower() in DATASETS else name
    if root is None and kind not in CATALOGUE:
        raise ValueError(f"data set {short(name)} has no folder of its own; give root= the folder that holds it")
    folder = Path(root).expanduser() if root is not None else default_root(kind)
    if download and kind in CATALOGUE:
        fetch(kind, folder)
    if not archives.is_dir(folder):
        raise DataError(f"{folder}: no such folder ({kind} data set); {how_to_get(kind, folder)}")
    return folder
