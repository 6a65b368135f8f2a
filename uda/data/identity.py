"""What a data set *is*, for telling runs apart: its content, wherever it lies."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from uda.data import archives
from uda.types import Sample, UnlabelledDataset

PROBED = 3
"""Samples whose pixels stand for a data set that has no files to look at."""


def dataset_identity(dataset: UnlabelledDataset) -> dict[str, Any]:
    """Plain values that are equal for equal data: name, number of samples, content, classes and how labels are mapped.

    A data set says it itself by a method ``identity()``, as this library's do: by the names of its files relative to
    its root and their sizes in bytes, so that a moved folder is the same data. For any other, the names of its samples
    and the pixels of the first, the middle and the last stand for its content.
    """
    own = getattr(dataset, "identity", None)
    if callable(own):
        told: dict[str, Any] = own()
        return told
    count = len(dataset)
    probes = sorted({0, count // 2, count - 1}) if count else []
    names = getattr(dataset, "names", None)
    classes = getattr(getattr(dataset, "space", None), "names", None)
    return {
        "name": dataset.name,
        "samples": count,
        "content": digest([list(map(str, names or [])), [_of_sample(dataset[index]) for index in probes[:PROBED]]]),
        **({"classes": list(classes)} if classes is not None else {}),
    }


def files_identity(files: Iterable[Path], root: Path) -> str:
    """Digest of files by their paths below ``root`` and their sizes; a file that is gone counts with size -1."""
    sizes = ((file, archives.size(file)) for file in files)
    return digest([[_below(file, root), -1 if size is None else size] for file, size in sizes])


def digest(content: Any) -> str:
    """Sixteen hex digits of the hash of plain values, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _below(file: Path, root: Path) -> str:
    return file.relative_to(root).as_posix() if file.is_relative_to(root) else file.as_posix()


def _of_sample(sample: Sample) -> list[str]:
    tensors = [sample.image] if sample.label is None else [sample.image, sample.label]
    return [hashlib.sha256(tensor.contiguous().cpu().numpy().tobytes()).hexdigest()[:16] for tensor in tensors]
