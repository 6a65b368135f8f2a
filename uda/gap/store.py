"""The working folder of an analysis: decoded images, and what was measured of them, so that a killed call goes on."""

from __future__ import annotations

import ctypes
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from uda.files import atomic_write
from uda.gap.measure import Measured
from uda.types import Sample

IDENTITY = "identity.json"
CHUNK = 8
"""Images that are finished together; what a kill can lose."""


class OtherAnalysisError(ValueError):
    """A working folder holds another analysis."""


class Store:
    """A folder of chunks, each written whole or not at all.

    Args:
        folder: made where it is missing.
        identity: what determines the numbers, JSON-able.

    Raises:
        OtherAnalysisError: the folder holds an unfinished analysis of anything else; what differs is named.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self.folder = folder
        record = folder / IDENTITY
        content = json.loads(json.dumps(identity))
        if record.is_file():
            try:
                earlier = json.loads(record.read_text(encoding="utf-8"))
            except ValueError:
                earlier = {}
            different = sorted(key for key in {*earlier, *content} if earlier.get(key) != content.get(key))
            if different:
                raise OtherAnalysisError(
                    f"{folder}: holds an unfinished analysis with another {', '.join(different)}; "
                    "finish it with its own arguments, or remove the folder"
                )
        with atomic_write(record) as file:
            file.write(json.dumps(content, indent=1, sort_keys=True))

    def chunk(self, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What ``make`` gives (tensors, numbers, texts in lists and mappings), from the folder where it is there."""
        path = self.folder / f"{name}.pt"
        if path.is_file():
            try:
                content: dict[str, Any] = torch.load(path, weights_only=True)
                return content
            except (RuntimeError, OSError, ValueError, EOFError):
                path.unlink()  # damaged: made again
        content = make()
        with atomic_write(path, binary=True) as file:
            torch.save(content, file)
        give_back_memory()
        return content

    def put_sample(self, domain: str, index: int, sample: Sample) -> None:
        """Keep a decoded image with its label."""
        content = {"image": sample.image, "label": sample.label, "name": sample.name}
        with atomic_write(self._sample(domain, index), binary=True) as file:
            torch.save(content, file)

    def sample(self, domain: str, index: int) -> Sample:
        """A decoded image that was kept."""
        content = torch.load(self._sample(domain, index), weights_only=True)
        return Sample(content["image"], content["label"], content["name"])

    def _sample(self, domain: str, index: int) -> Path:
        return self.folder / "images" / domain / f"{index:06d}.pt"


def remove_work(folder: str | Path) -> None:
    """Remove the working folder of a finished analysis."""
    shutil.rmtree(folder, ignore_errors=True)


class Shelf:
    """The decoded images of a domain as a data set without labels, for test-time methods."""

    def __init__(self, name: str, store: Store, domain: str, count: int) -> None:
        self.name = name
        self._store, self._domain, self._count = store, domain, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Sample:
        return self._store.sample(self._domain, index)._replace(label=None)

    def samples(self) -> Iterator[Sample]:
        """With labels, in order."""
        return (self._store.sample(self._domain, index) for index in range(self._count))


def give_back_memory() -> None:
    """Return what was freed to the system: glibc keeps what large arrays leave, several of them an image."""
    with suppress(OSError, AttributeError, TypeError):  # another C library has no such call
        ctypes.CDLL(None).malloc_trim(0)


def pack(measured: Measured) -> dict[str, Any]:
    """A record as what :class:`Store` keeps."""
    return {
        "columns": dict(measured.columns),
        "loss_sum": measured.loss_sum,
        "pixels": measured.pixels,
        "confusion": torch.from_numpy(measured.confusion),
        "regions": {name: torch.from_numpy(sums) for name, sums in measured.regions.items()},
        "features": torch.from_numpy(measured.features),
        "class_features": None if measured.class_features is None else torch.from_numpy(measured.class_features),
        "pictures": {
            name: torch.from_numpy(np.frombuffer(data, np.uint8).copy()) for name, data in measured.pictures.items()
        },
    }


def unpack(content: Mapping[str, Any], *, pictures: bool = False) -> Measured:
    """The record again, with its pictures only where they are wanted."""
    cells = content["class_features"]
    return Measured(
        dict(content["columns"]),
        content["loss_sum"],
        content["pixels"],
        content["confusion"].numpy(),
        {name: sums.numpy() for name, sums in content["regions"].items()},
        content["features"].numpy(),
        None if cells is None else cells.numpy(),
        {name: data.numpy().tobytes() for name, data in content["pictures"].items()} if pictures else {},
    )


def chunks(count: int, size: int) -> Sequence[range]:
    """``range(count)`` in pieces."""
    return [range(start, min(start + size, count)) for start in range(0, count, size)]
