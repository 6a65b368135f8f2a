"""Label maps for images of any origin: no labels needed, a broken file does not stop the rest."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from uda.data.base import image_files
from uda.data.decode import read_image
from uda.data.encode import data_uri, write_image
from uda.data.encode import overlay as blend
from uda.data.errors import DataError
from uda.data.label_spaces import LabelSpace
from uda.engine.inference import PLAIN, Inference, check_passes, predict_logits
from uda.engine.scoring import most_probable
from uda.files import atomic_write
from uda.functional.sampling import evenly_spaced
from uda.types import IGNORE

LEGEND = "legend.json"
"""What the ids in the maps mean; also the mark of an earlier :func:`predict`."""
FOLDERS = ("train_ids", "raw_ids", "overlay", "colour", "probabilities")
"""What :func:`predict` makes below ``out``."""
SHEET = "predictions.html"
"""The page with input, prediction and overlay of each image."""
SHEET_IMAGES = 200
"""At most so many on the page, evenly spaced: all of a long video would be more than a browser opens."""
SHEET_WIDTH = 640
"""Of its pictures, in pixels."""


@dataclass
class PredictReport:
    """What :func:`predict` wrote, and which files it could not read."""

    written: list[Path] = field(default_factory=list)
    """One a image: its label map, or the first of what else is written."""
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
    colour: bool = False,
    probabilities: bool = False,
    html: bool = False,
    inference: Inference = PLAIN,
    progress: Callable[[Iterable[Path]], Iterable[Path]] | None = None,
) -> PredictReport:
    """Predict images of any size and write what is asked for, each file whole or not at all.

    Args:
        model: images ``(N, 3, H, W)`` in [0, 1] -> :class:`SegOutput`, a test-time method included; set its mode first.
        files: images in any format that OpenCV reads.
        out: ``out/train_ids/*.png``, ``out/raw_ids/*.png``, ``out/overlay/*.jpg``, ``out/colour/*.png`` and
            ``out/probabilities/*.safetensors``, under the images' paths, ``out/predictions.html`` and
            ``out/legend.json`` with the classes. Where two images would have one output (``a.png``, ``a.jpg``), the
            suffix stays in the names (``a.jpg.png``). Files of an earlier call are replaced.
        space: of the model's classes.
        root: what the images' paths are relative to; their own folders by default.
        ids: which label maps: ``"train"``, ``"raw"``, both or none.
        overlay: opacity of the colours over the image in [0, 1]; ``None`` writes no overlays.
        colour: write the label maps in the classes' colours too.
        probabilities: write those of all classes too: the tensor ``probabilities``, ``(C, H, W)`` float16 in [0, 1] at
            the image's size, and the classes' names as JSON under ``classes`` in the file's metadata.
        html: write one page that needs no other file: input, prediction and overlay of at most 200 images, evenly
            spaced, and the classes with their shares of all pixels.
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
    wanted = ("train" in ids, "raw" in ids, overlay is not None, colour, probabilities)
    folders = {name for name, is_wanted in zip(FOLDERS, wanted, strict=True) if is_wanted}
    _check_outputs(files, out, folders, html)
    _write_legend(out, space)
    sheet = _Sheet(space, files, overlay) if html else None
    for file in progress(files) if progress else files:
        try:
            image = read_image(file)
            scores = _scores(model, image, inference, resized=probabilities)
        except (DataError, OSError) as error:
            report.failed[file] = str(error)
            continue
        labels = _labels(scores, image)
        name = names[file]
        outputs: list[tuple[Path, npt.NDArray[np.uint8]]] = []
        if "train" in ids:
            outputs.append((out / "train_ids" / f"{name}.png", labels))
        if table is not None:
            outputs.append((out / "raw_ids" / f"{name}.png", table[labels]))
        if overlay is not None:
            outputs.append((out / "overlay" / f"{name}.jpg", blend(image, labels, space.colours, overlay)))
        if colour:
            outputs.append((out / "colour" / f"{name}.png", space.colourise(labels)))
        for path, content in outputs:
            write_image(path, content)
        written = [path for path, _ in outputs]
        if probabilities:
            written.append(_write_probabilities(out / "probabilities" / f"{name}.safetensors", scores, space))
        report.written += written[:1]
        if sheet is not None:
            sheet.add(file, _shown(file, root), image, labels)
    if sheet is not None:
        sheet.write(out / SHEET)
    return report


def label_map(
    model: nn.Module, image: npt.NDArray[np.uint8], inference: Inference = PLAIN, *, precision: str = "fp32"
) -> npt.NDArray[np.uint8]:
    """``(H, W)`` uint8 train ids of an image ``(H, W, 3)`` uint8 RGB, always at its own size.

    The other arguments are those of :func:`~uda.engine.inference.predict_logits`.
    """
    return _labels(_scores(model, image, inference, precision, resized=False), image)


def _scores(
    model: nn.Module, image: npt.NDArray[np.uint8], inference: Inference, precision: str = "fp32", *, resized: bool
) -> Tensor:
    """``(C, h, w)`` logits of an image ``(H, W, 3)`` uint8 RGB, of its size where ``resized``."""
    device = next(model.parameters()).device
    images = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].to(device).float() / 255
    return predict_logits(model, images, inference, precision=precision, resized=resized)[0]


def _labels(scores: Tensor, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    return np.asarray(most_probable(scores, image.shape[:2]).cpu().numpy(), dtype=np.uint8)


def _write_probabilities(path: Path, scores: Tensor, space: LabelSpace) -> Path:
    half = scores.float().softmax(0).half().cpu().contiguous()
    with atomic_write(path, binary=True) as file:
        file.write(to_bytes({"probabilities": half}, {"classes": json.dumps(list(space.names))}))
    return path


def _shown(file: Path, root: Path | None) -> str:
    """An image's path as a page shows it; a name that is not UTF-8 on disk has its bytes written out."""
    path = file.relative_to(root) if root is not None and file != root else Path(file.name)
    return path.as_posix().encode("utf-8", "backslashreplace").decode()


class _Sheet:
    """The page of predictions: its pictures are made one by one, small, and written together."""

    def __init__(self, space: LabelSpace, files: Sequence[Path], opacity: float | None) -> None:
        self._space, self._opacity = space, 0.5 if opacity is None else opacity
        self._chosen = {files[index] for index in evenly_spaced(len(files), SHEET_IMAGES)}
        self._pixels = np.zeros(IGNORE + 1, dtype=np.int64)
        self._images = 0
        self._rows: list[dict[str, Any]] = []

    def add(self, file: Path, name: str, image: npt.NDArray[np.uint8], labels: npt.NDArray[np.uint8]) -> None:
        """Count an image's pixels, and keep its pictures if it is one of those on the page."""
        counts = np.bincount(labels.ravel(), minlength=IGNORE + 1)
        self._pixels += counts
        self._images += 1
        if file not in self._chosen:
            return
        mixed = blend(image, labels, self._space.colours, self._opacity)
        pictures = (
            ("input", data_uri(image, ".jpg", SHEET_WIDTH)),
            ("prediction", data_uri(self._space.colourise(labels), ".png", SHEET_WIDTH)),
            ("overlay", data_uri(mixed, ".jpg", SHEET_WIDTH)),
        )
        height, width = labels.shape
        size = {"width": min(width, SHEET_WIDTH), "height": max(1, round(height * min(1, SHEET_WIDTH / width)))}
        classes = self._shares(counts)[:5]
        self._rows.append(
            {"name": name, "pixels": f"{width}×{height}", **size, "pictures": pictures, "classes": classes}
        )

    def _shares(self, counts: npt.NDArray[np.int64]) -> list[tuple[str, str, float]]:
        """Class, colour and share in % of what is predicted, the most frequent first."""
        total = max(int(counts.sum()), 1)
        order = np.argsort(-counts[: len(self._space.names)], kind="stable")
        return [
            (self._space.names[index], "#" + bytes(self._space.colours[index]).hex(), 100 * int(counts[index]) / total)
            for index in order.tolist()
            if counts[index]
        ]

    def write(self, path: Path) -> None:
        """Write the page."""
        environment = jinja2.Environment(
            loader=jinja2.PackageLoader("uda.engine", "."), autoescape=True, undefined=jinja2.StrictUndefined
        )
        shares = self._shares(self._pixels)
        text = environment.get_template("predictions.html.j2").render(
            space=self._space.name, images=self._images, rows=self._rows, classes=shares,
            absent=[name for name in self._space.names if name not in {entry[0] for entry in shares}],
        )  # fmt: skip
        with atomic_write(path) as file:
            file.write(text)


def _check_outputs(files: Sequence[Path], out: Path, folders: Set[str], html: bool) -> None:
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
    if html and (out / SHEET).exists():
        raise DataError(f"{out / SHEET}: is there, and no earlier prediction wrote it; choose another folder")


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
