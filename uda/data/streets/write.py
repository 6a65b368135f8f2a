"""Writes street scenes in the layouts of real data sets, so that the readers of those read them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uda.data.base import STREETS
from uda.data.encode import write_image
from uda.data.errors import DataError
from uda.data.kitti import VAL_NUMBERS
from uda.data.label_spaces import CITYSCAPES34, IKA
from uda.data.streets.changes import differences, layout_of, resolve
from uda.data.streets.domains import Domain
from uda.data.streets.render import check_size, final_size, render
from uda.files import atomic_write

SPLITS: dict[str, int] = {"train": 32, "val": 8}
"""Images of each split unless told otherwise."""
_SPLIT_OFFSET = {"train": 0, "val": 1_000_000, "test": 2_000_000, "all": 3_000_000}
_CITY = {"train": "ahornstadt", "val": "birkenfeld", "test": "cedernheim"}
_KITTI_TRAIN = tuple(n for n in range(200) if n not in VAL_NUMBERS)
_KITTI_SHAPES = ((1.0, 1.0), (376 / 375, 1241 / 1242), (370 / 375, 1226 / 1242), (370 / 375, 1224 / 1242))
"""Heights and widths of the real images relative to the most frequent one, 375 x 1242."""


@dataclass(frozen=True)
class _Job:
    """One scene and the files it becomes, each with what is written in it: image, ids or colours."""

    domain: Domain
    seed: int
    index: int
    size: tuple[int, int]
    files: tuple[tuple[Path, str], ...]


def generate(
    out: str | Path,
    domain: str | Domain = "cityscapes",
    splits: Mapping[str, int] | None = None,
    size: tuple[int, int] | None = None,
    seed: int = 0,
    workers: int = 1,
) -> Path:
    """Writes a data set of street scenes.

    Args:
        out: folder to write in, new, empty or written by an earlier call for the same domain (the same base with the
            same changes), whose files are replaced. Each file is there whole or not at all. ``streets.json`` says
            which domain, seed and changes it holds.
        domain: ``"cityscapes"`` (``leftImg8bit``, ``gtFine``), ``"kitti"`` (``training/image_2``, ``semantic`` and
            ``semantic_rgb``; ``val`` takes the first of the 30 fixed numbers, ``train`` the first of the other 170;
            sizes vary slightly, as the real ones do) or ``"ika"`` (``input``, ``label``, ``rgb_to_class_id.py``; in a
            folder for each split, or in ``out`` itself for ``{"all": n}``). Or a domain that
            :func:`uda.data.streets.vary` made, in the layout of its base.
        splits: number of images for each split; ``SPLITS`` if None. A split's images do not depend on the other
            splits, nor on how many there are.
        size: height and width in pixels; the domain's default if None.
        seed: any integer from 0. The same arguments give the same bytes, whatever ``workers`` is.
        workers: processes.

    Returns:
        ``out``.

    Raises:
        ValueError: for an unknown domain or split, a number of images the layout has no room for, a wrong size, a
            negative seed, or less than one worker.
        DataError: the folder holds anything else: nothing is written.
    """
    domain = resolve(domain)
    layout = layout_of(domain)
    shape = check_size(domain.view.size if size is None else size)
    for name, value, least in (("seed", seed, 0), ("workers", workers, 1)):
        if value < least:
            raise ValueError(f"{name} is {value}; allowed: integers from {least}")
    root, counts = Path(out), _check_splits(layout, SPLITS if splits is None else splits)
    jobs = [job for split, count in counts.items() for job in _LAYOUTS[layout](domain, root, split, count, shape, seed)]
    for job in jobs:
        final_size(domain, job.size)  # sizes of a layout can vary
    check_empty(root, domain)
    with atomic_write(root / STREETS) as file:  # before anything else, so that a killed call can be repeated
        file.write(json.dumps(_description(domain, seed)))
    for folder in {path.parent for job in jobs for path, _ in job.files}:
        folder.mkdir(parents=True, exist_ok=True)
    if layout == "ika":
        with atomic_write(root / "rgb_to_class_id.py") as file:
            file.write(ika_table())
    if workers == 1 or len(jobs) < 2:
        for job in jobs:
            _run(job)
    else:
        # spawned, since forking a process that runs threads can hang
        with ProcessPoolExecutor(min(workers, len(jobs)), mp_context=get_context("spawn")) as pool:
            list(pool.map(_run, jobs, chunksize=max(1, len(jobs) // (workers * 4))))
    return root


def is_procedural(folder: str | Path) -> bool:
    """Whether :func:`generate` wrote the data set of a folder."""
    return bool(str(folder)) and (Path(folder) / STREETS).is_file()


def check_empty(folder: str | Path, domain: str | Domain) -> None:
    """See that procedural images replace nothing but procedural images; the names are those of real data sets.

    Args:
        folder: to write in.
        domain: what would be written; an earlier call's name of it and its seed do not matter, its changes do.

    Raises:
        DataError: a file, or a folder with content that no earlier call wrote for this domain.
    """
    folder, domain = Path(folder), resolve(domain)
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder}: is no folder")
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    wanted = _look(_description(domain, 0))
    try:
        written = _look(json.loads((folder / STREETS).read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        written = None
    if written != wanted:
        content = "other files" if written is None else f"street scenes in the look of {written[0]!r}{written[1]}"
        names = f"{wanted[0]} scenes{wanted[1]}"
        raise DataError(f"{folder}: holds {content}, which {names} might replace; choose an empty folder")


def _description(domain: Domain, seed: int) -> dict[str, Any]:
    """Content of ``streets.json``; that of an unchanged domain has neither base nor changes."""
    changed = {"base": layout_of(domain), "changes": differences(domain)} if differences(domain) else {}
    name = domain.name if changed else layout_of(domain)
    return {"domain": name, **changed, "seed": seed, "images": "procedural, each independent of the others"}


def _look(description: dict[str, Any]) -> tuple[str, str]:
    """Base and changes of a ``streets.json`` as messages name them; equal where both are equal."""
    changes = ", ".join(f"{key}={json.dumps(value)}" for key, value in sorted(description.get("changes", {}).items()))
    return description.get("base", description["domain"]), f" with {changes}" if changes else ""


def ika_table() -> str:
    """The text of ``rgb_to_class_id.py``: Cityscapes colours to the ids of the reduced classes, 255 for none."""
    lines = [
        f"    {c}: {i},  # {label_class.name}"
        for i, label_class in enumerate(IKA.classes)
        for c in label_class.label_colours or ()
    ]
    return "\n".join(["rgb_to_class_id = {", *lines, "    (0, 0, 0): 255,  # unlabeled", "}", ""])


def _check_splits(domain: str, splits: Mapping[str, int]) -> dict[str, int]:
    room = {
        "cityscapes": dict.fromkeys(_CITY, 1_000_000),
        "kitti": {"train": len(_KITTI_TRAIN), "val": len(VAL_NUMBERS)},
    }
    allowed = room.get(domain, dict.fromkeys(_SPLIT_OFFSET, 1_000_000))
    for split, count in splits.items():
        if split not in allowed:
            raise ValueError(f"split is {split!r}; allowed for {domain}: {', '.join(allowed)}")
        if not 0 <= count <= allowed[split]:
            raise ValueError(f"splits[{split!r}] is {count}; allowed for {domain}: 0 to {allowed[split]}")
    if "all" in splits and len(splits) > 1:
        raise ValueError(f"splits are {', '.join(splits)}; allowed for {domain}: 'all' alone, or train, val and test")
    return dict(splits)


def _cityscapes(domain: Domain, root: Path, split: str, count: int, size: tuple[int, int], seed: int) -> Iterator[_Job]:
    city = _CITY[split]
    for i in range(count):
        stem = f"{city}_000000_{i:06d}"
        image = root / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png"
        label = root / "gtFine" / split / city / f"{stem}_gtFine_labelIds.png"
        yield _Job(domain, seed, _SPLIT_OFFSET[split] + i, size, ((image, "image"), (label, "ids")))


def _kitti(domain: Domain, root: Path, split: str, count: int, size: tuple[int, int], seed: int) -> Iterator[_Job]:
    base = root / "training"
    for number in (VAL_NUMBERS if split == "val" else _KITTI_TRAIN)[:count]:
        high, wide = _KITTI_SHAPES[
            int(np.random.SeedSequence([seed, number]).generate_state(1)[0]) % len(_KITTI_SHAPES)
        ]
        name = f"{number:06d}_10.png"
        files = (
            (base / "image_2" / name, "image"),
            (base / "semantic" / name, "ids"),
            (base / "semantic_rgb" / name, "colours"),
        )
        yield _Job(domain, seed, number, (round(size[0] * high), round(size[1] * wide)), files)


def _ika(domain: Domain, root: Path, split: str, count: int, size: tuple[int, int], seed: int) -> Iterator[_Job]:
    base = root if split == "all" else root / split
    for i in range(count):
        stem = f"{split}_{i:06d}"
        files = (
            (base / "input" / f"{stem}.png", "image"),
            (base / "label" / f"{stem}_gtFine_labelColor.png", "colours"),
        )
        yield _Job(domain, seed, _SPLIT_OFFSET[split] + i, size, files)


_LAYOUTS: dict[str, Callable[[Domain, Path, str, int, tuple[int, int], int], Iterator[_Job]]] = {
    "cityscapes": _cityscapes,
    "kitti": _kitti,
    "ika": _ika,
}


def id_colours() -> NDArray[np.uint8]:
    """Cityscapes' colour of each raw id, ``(256, 3)`` uint8; black for ids that are none."""
    table = np.zeros((256, 3), np.uint8)
    for label_class in CITYSCAPES34.classes:
        table[list(label_class.ids)] = label_class.colour
    return table


def _run(job: _Job) -> None:
    image, ids = render(job.domain, job.seed, job.size, index=job.index)
    for path, what in job.files:
        pixels = image if what == "image" else ids if what == "ids" else id_colours()[ids]
        write_image(path, pixels)
