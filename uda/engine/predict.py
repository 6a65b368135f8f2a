"""Label maps for images of any origin: no labels needed, a broken file does not stop the rest."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from uda.data.base import image_files
from uda.data.decode import read_image
from uda.data.encode import overlay as blend
from uda.data.encode import write_image
from uda.data.errors import DataError
from uda.data.label_spaces import LabelSpace
from uda.engine.inference import PLAIN, Inference, check_passes, predict_logits
from uda.files import atomic_write
from uda.types import IGNORE

LEGEND = "legend.json"
"""What the ids in the maps mean; also the mark of an earlier :func:`predict`."""
FOLDERS = ("train_ids", "raw_ids", "overlay")
"""What :func:`predict` makes below ``out``."""


@dataclass
class PredictReport:
    """What :func:`predict` wrote, and which files it could not read."""

    written: list[Path] = field(default_factory=list)
    """One a image: its label map, or its overlay where no label map is written."""
    failed: dict[Path, str] = field(default_factory=dict)
    """File -> why."""


def find_images(root: Path, out: Path | None = None) -> list[Path]:
    """Image files below a folder in the order of their paths, or the one file that ``root`` is.

    Args:
        root: the folder or file.
        out: where predictions will be written; those of an earlier call are left out.

    Returns:
        What is named like an image; a dangling link is there too, for :func:`predict` to list.

    Raises:
        DataError: nothing there.
    """
    if root.is_file():
        return [root]
    if not root.is_dir():
        raise DataError(f"{root}: no such folder")
    own = out is not None and (out / LEGEND).is_file()
    written = [(out / name).resolve() for name in FOLDERS] if out is not None and own else []
    files = [path for path in image_files(root) if not any(path.resolve().is_relative_to(folder) for folder in written)]
    if not files:
        raise DataError(f"{root}: no images but predictions of an earlier call")
    return files


def raw_ids(space: LabelSpace) -> npt.NDArray[np.uint8]:
    """``(256,)`` uint8: train id -> raw id (the first of each class); 255 stays.

    Raises:
        ValueError: a class without a raw id in 0..254.
    """
    table = np.full(256, IGNORE, dtype=np.uint8)
    for index, label_class in enumerate(space.classes):
        known = [key for key in label_class.ids if 0 <= key < IGNORE]
        if not known:
            raise ValueError(
                f"class {label_class.name!r} of label space {space.name!r} has no raw id; ask for train ids"
            )
        table[index] = known[0]
    return table


def predict(
    model: nn.Module,
    files: Sequence[Path],
    out: Path,
    space: LabelSpace,
    *,
    root: Path | None = None,
    ids: Sequence[str] = ("train",),
    overlay: float | None = 0.5,
    inference: Inference = PLAIN,
    progress: Callable[[Iterable[Path]], Iterable[Path]] | None = None,
) -> PredictReport:
    """Predict images of any size and write what is asked for, each file whole or not at all.

    Args:
        model: images ``(N, 3, H, W)`` in [0, 1] -> :class:`SegOutput`, a test-time method included; set its mode first.
        files: images in any format that OpenCV reads.
        out: ``out/train_ids/*.png``, ``out/raw_ids/*.png``, ``out/overlay/*.jpg``, under the images' paths, and
            ``out/legend.json`` with the classes. Where two images would have one output (``a.png``, ``a.jpg``), the
            suffix stays in the names (``a.jpg.png``). Files of an earlier call are replaced.
        space: of the model's classes.
        root: what the images' paths are relative to; their own folders by default.
        ids: which label maps: ``"train"``, ``"raw"``, both or none.
        overlay: opacity of the colours over the image in [0, 1]; ``None`` writes no overlays.
        inference: how images are predicted; label maps always have the image's size.
        progress: wraps the files, for a progress bar.

    Raises:
        ValueError: raw ids of a label space that has none, an id name that is neither, or several passes through a
            test-time method that adapts to each.
        DataError: an output would replace an image, or a file that no earlier call wrote: nothing is written.
    """
    unknown = set(ids) - {"train", "raw"}
    if unknown:
        raise ValueError(f"ids are 'train' and 'raw', got {sorted(unknown)}")
    check_passes(inference, model)
    table = raw_ids(space) if "raw" in ids else None
    report, names = PredictReport(), _output_names(files, root)
    _check_outputs(files, out, {name for name, wanted in zip(FOLDERS, _wanted(ids, overlay), strict=True) if wanted})
    _write_legend(out, space)
    for file in progress(files) if progress else files:
        try:
            image = read_image(file)
            labels = label_map(model, image, inference)
        except (DataError, OSError) as error:
            report.failed[file] = str(error)
            continue
        name = names[file]
        outputs: list[tuple[Path, npt.NDArray[np.uint8]]] = []
        if "train" in ids:
            outputs.append((out / "train_ids" / f"{name}.png", labels))
        if table is not None:
            outputs.append((out / "raw_ids" / f"{name}.png", table[labels]))
        if overlay is not None:
            outputs.append((out / "overlay" / f"{name}.jpg", blend(image, labels, space.colours, overlay)))
        for path, content in outputs:
            write_image(path, content)
        report.written += [path for path, _ in outputs[:1]]
    return report


def label_map(
    model: nn.Module, image: npt.NDArray[np.uint8], inference: Inference = PLAIN, *, precision: str = "fp32"
) -> npt.NDArray[np.uint8]:
    """``(H, W)`` uint8 train ids of an image ``(H, W, 3)`` uint8 RGB, always at its own size.

    The other arguments are those of :func:`~uda.engine.inference.predict_logits`.
    """
    device = next(model.parameters()).device
    images = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].to(device).float() / 255
    logits = predict_logits(model, images, inference, precision=precision)
    return np.asarray(logits[0].argmax(0).cpu().numpy(), dtype=np.uint8)


def _wanted(ids: Sequence[str], overlay: float | None) -> tuple[bool, bool, bool]:
    """Which of :data:`FOLDERS` are written."""
    return "train" in ids, "raw" in ids, overlay is not None


def _check_outputs(files: Sequence[Path], out: Path, folders: Set[str]) -> None:
    """See that no output replaces an input, or something that is none of ours."""
    inside = {(out / name).resolve() for name in folders}
    for file in files:
        if any(file.resolve().is_relative_to(folder) for folder in inside):
            raise DataError(f"{out}: predictions there could replace the image {file}; choose another folder")
    if (out / LEGEND).is_file():
        return
    for name in sorted(folders):
        if (out / name).is_dir() and any((out / name).iterdir()):
            raise DataError(f"{out / name}: holds files that no earlier prediction wrote; choose another folder")


def _write_legend(out: Path, space: LabelSpace) -> None:
    """Write what the ids in the label maps mean."""
    raw = {label_class.name: list(label_class.ids) for label_class in space.classes}
    classes = [
        {"train_id": index, "name": name, "colour": [int(value) for value in colour], "raw_ids": raw[name]}
        for index, (name, colour) in enumerate(zip(space.names, space.colours, strict=True))
    ]
    with atomic_write(out / LEGEND) as file:
        file.write(json.dumps({"label_space": space.name, "ignored": IGNORE, "classes": classes}, indent=1) + "\n")


def _output_names(files: Sequence[Path], root: Path | None) -> dict[Path, Path]:
    """File -> its path below an output folder, without a suffix unless another file would have the same.

    The outputs' suffixes come on top, so that names differ where they differ without regard to case: some file systems
    do not tell ``A.png`` from ``a.png``.
    """
    paths = {file: file.relative_to(root) if root is not None and file != root else Path(file.name) for file in files}
    stems = {file: path.with_suffix("") for file, path in paths.items()}
    count = Counter(str(stem).lower() for stem in stems.values())
    names = {file: stem if count[str(stem).lower()] == 1 else paths[file] for file, stem in stems.items()}
    taken: set[str] = set()
    for file, name in names.items():
        unique, number = name, 2
        while str(unique).lower() in taken:
            unique, number = name.with_name(f"{name.name}-{number}"), number + 1
        taken.add(str(unique).lower())
        names[file] = unique
    return names
