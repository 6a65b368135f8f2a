"""Label maps for images of any origin: no labels needed, a broken file does not stop the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from uda.data.decode import IMAGE_SUFFIXES, read_image
from uda.data.errors import DataError
from uda.data.label_spaces import LabelSpace
from uda.types import IGNORE, SegOutput


@dataclass
class PredictReport:
    """What :func:`predict` wrote, and which files it could not read."""

    written: list[Path] = field(default_factory=list)
    """One a image: its label map, or its overlay where no label map is written."""
    failed: dict[Path, str] = field(default_factory=dict)
    """File -> why."""


def find_images(root: Path) -> list[Path]:
    """Image files below a folder in the order of their paths, or the one file that ``root`` is.

    Raises:
        DataError: nothing there.
    """
    if root.is_file():
        return [root]
    if not root.is_dir():
        raise DataError(f"{root}: no such folder")
    found = sorted(path for path in root.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
    if not found:
        raise DataError(f"{root}: no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return found


def raw_ids(space: LabelSpace) -> npt.NDArray[np.uint8]:
    """``(256,)`` uint8: train id -> raw id (the first of each class); 255 stays.

    Raises:
        ValueError: a class without a raw id in 0..254.
    """
    table = np.full(256, IGNORE, dtype=np.uint8)
    for index, one in enumerate(space.classes):
        known = [key for key in one.ids if 0 <= key < IGNORE]
        if not known:
            raise ValueError(f"class {one.name!r} of label space {space.name!r} has no raw id; ask for train ids")
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
    progress: Callable[[Iterable[Path]], Iterable[Path]] | None = None,
) -> PredictReport:
    """Predict images of any size and write what is asked for, each file whole or not at all.

    Args:
        model: images ``(N, 3, H, W)`` in [0, 1] -> :class:`SegOutput`, a test-time method included; set its mode first.
        files: images in any format that OpenCV reads.
        out: ``out/train_ids/*.png``, ``out/raw_ids/*.png``, ``out/overlay/*.jpg``, under the images' paths.
        space: of the model's classes.
        root: what the images' paths are relative to; their own folders by default.
        ids: which label maps: ``"train"``, ``"raw"``, both or none.
        overlay: opacity of the colours over the image in [0, 1]; ``None`` writes no overlays.
        progress: wraps the files, for a progress bar.

    Raises:
        ValueError: raw ids of a label space that has none, or an id name that is neither.
    """
    unknown = set(ids) - {"train", "raw"}
    if unknown:
        raise ValueError(f"ids are 'train' and 'raw', got {sorted(unknown)}")
    table = raw_ids(space) if "raw" in ids else None
    report, device = PredictReport(), next(model.parameters()).device
    for file in progress(files) if progress else files:
        try:
            image = read_image(file)
            labels = _labels(model, image, device)
        except (DataError, OSError) as error:
            report.failed[file] = str(error)
            continue
        name = file.relative_to(root) if root is not None and file != root else Path(file.name)
        outputs: list[tuple[Path, npt.NDArray[np.uint8]]] = []
        if "train" in ids:
            outputs.append((out / "train_ids" / name.with_suffix(".png"), labels))
        if table is not None:
            outputs.append((out / "raw_ids" / name.with_suffix(".png"), table[labels]))
        if overlay is not None:
            mixed = (1 - overlay) * image + overlay * space.colourise(labels)
            outputs.append((out / "overlay" / name.with_suffix(".jpg"), mixed.round().astype(np.uint8)[:, :, ::-1]))
        for path, content in outputs:
            _write(path, content)
        report.written += [path for path, _ in outputs[:1]]
    return report


def _labels(model: nn.Module, image: npt.NDArray[np.uint8], device: torch.device) -> npt.NDArray[np.uint8]:
    images = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].to(device).float() / 255
    with torch.no_grad():
        output = model(images)
    logits = output.logits if isinstance(output, SegOutput) else output
    return np.asarray(logits[0].argmax(0).cpu().numpy(), dtype=np.uint8)


def _write(path: Path, content: npt.NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    done, data = cv2.imencode(path.suffix, np.ascontiguousarray(content))
    if not done:
        raise OSError(f"{path}: cannot be encoded")
    part = path.with_name(path.name + ".part")
    part.write_bytes(data.tobytes())
    part.replace(path)
