"""Look at a data set before training on it: every problem at once as plain text, and a contact sheet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from uda.data.base import FileDataset
from uda.data.classes import LabelSpace
from uda.data.encode import overlay
from uda.data.errors import LossyLabelError
from uda.data.mixture import JoinedImages, Mixture
from uda.data.statistics import ChannelStats, ChannelSums
from uda.files import atomic_write
from uda.opencv import cv2
from uda.types import IGNORE, LabelledDataset, UnlabelledDataset

_BAR = 24
_LISTED = 20
_EXAMPLES = 3
_SHADES = 32
"""Unknown values of one file from which on it is not the classes that are incomplete."""
_MARK = ("Software", "uda data show")


@dataclass
class CheckReport:
    """What :func:`check` found."""

    name: str
    space: LabelSpace | None
    """``None`` for images without labels."""
    samples: int = 0
    """Samples looked at."""
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    """(height, width) -> images."""
    pixels: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    """``(C,)`` pixels of each class."""
    images_with: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    """``(C,)`` images that hold each class."""
    ignored: int = 0
    """Pixels that no class covers."""
    unknown: Counter[Any] = field(default_factory=Counter)
    """Raw id or colour that the files' label space does not know -> pixels."""
    stats: ChannelStats | None = None
    """Channel statistics of all images that could be decoded."""
    mapping: list[str] = field(default_factory=list)
    """How the files' classes become those of ``space``."""
    problems: list[str] = field(default_factory=list)
    """Everything that would stop a training run, each naming a file."""
    lossy: list[str] = field(default_factory=list)
    """Label files that are refused because they are compressed with loss; one of the ``problems`` names them all."""
    blurred: dict[str, int] = field(default_factory=dict)
    """Label file -> unknown colours, where these are so many that the file must have been compressed with loss or
    resized before; one of the ``problems`` names them all."""

    @property
    def ok(self) -> bool:
        """Whether a training run could use all of it."""
        return not self.problems

    @property
    def shares(self) -> npt.NDArray[np.float64]:
        """``(C,)`` share of each class among the labelled pixels."""
        return self.pixels / max(int(self.pixels.sum()), 1)

    def lines(self) -> list[str]:
        """The report as plain text."""
        sizes = ", ".join(f"{width}x{height} ({count})" for (height, width), count in self.sizes.most_common(8))
        more = f" and {len(self.sizes) - 8} more" if len(self.sizes) > 8 else ""
        result = [f"{self.name}: {self.samples} samples", f"sizes (width x height): {sizes or 'none'}{more}"]
        if self.stats is not None:
            mean, std = (" ".join(f"{value:.3f}" for value in part.tolist()) for part in self.stats)
            result.append(f"channels (RGB in 0..1): mean {mean}, std {std}")
        if self.space is not None:
            result += self._class_lines(self.space)
        for value, count in self.unknown.most_common(_LISTED):
            result.append(f"unknown {'colour' if isinstance(value, tuple) else 'id'} {value}: {count} pixels")
        if len(self.unknown) > _LISTED:
            result.append(f"and {len(self.unknown) - _LISTED} more unknown values")
        result.append(f"problems: {len(self.problems)}" if self.problems else "no problems")
        result += [f"  {problem}" for problem in self.problems[:_LISTED]]
        if len(self.problems) > _LISTED:
            result.append(f"  and {len(self.problems) - _LISTED} more")
        return result

    def _class_lines(self, space: LabelSpace) -> list[str]:
        total = int(self.pixels.sum()) + self.ignored
        result = [f"label space {space.name}: {space.num_classes} classes; {self.ignored / max(total, 1):.2%} ignored"]
        width = max(len(name) for name in space.names)
        top = max(float(self.shares.max()), 1e-12)
        for index, name in enumerate(space.names):
            share, bar = self.shares[index], "#" * round(_BAR * self.shares[index] / top)
            result.append(
                f"  {name:<{width}} {share:8.3%} of pixels in {self.images_with[index]:5d} images {bar}".rstrip()
            )
        return [*result, *(f"  map: {line}" for line in self.mapping)]


def check(dataset: UnlabelledDataset, progress: Callable[[], None] | None = None) -> CheckReport:
    """Decode every sample and collect what is wrong, instead of stopping at the first problem.

    Unknown ids and colours, labels of another size and broken files are found here; images without a label are,
    where the data set was opened with ``strict=False``.

    Args:
        dataset: a reader, a mixture or anything else that gives samples.
        progress: called after each sample.
    """
    space: LabelSpace | None = dataset.space if isinstance(dataset, LabelledDataset) else None
    report = CheckReport(dataset.name, space)
    classes = space.num_classes if space is not None else 0
    counts, present = np.zeros(256, dtype=np.int64), np.zeros(256, dtype=np.int64)
    sums = ChannelSums()
    if isinstance(dataset, FileDataset) and dataset.raw_space != dataset.space:
        report.mapping = [line for line in dataset.mapping.lines() if not _plain(line)]
    for part in _parts(dataset):
        report.problems += part.problems if isinstance(part, FileDataset) else []
        for index in range(len(part)):
            _look(part, index, report, sums, counts, present)
            if progress is not None:
                progress()
    _lossy_problems(report)
    report.pixels, report.images_with, report.ignored = counts[:classes], present[:classes], int(counts[IGNORE])
    report.stats = sums.stats() if sums.pixels else None
    if space is not None and report.samples and not report.pixels.any():
        report.problems.append(f"{dataset.name}: no pixel is of any class of {space.name!r}")
    return report


def _look(
    part: UnlabelledDataset,
    index: int,
    report: CheckReport,
    sums: ChannelSums,
    counts: npt.NDArray[np.int64],
    present: npt.NDArray[np.int64],
) -> None:
    try:
        sample, unknown = part.scan(index) if isinstance(part, FileDataset) else (part[index], [])
    except LossyLabelError as error:
        report.lossy.append(str(error))
        return
    except (ValueError, OSError) as error:
        report.problems.append(str(error))
        return
    report.samples += 1
    report.sizes[sample.image.shape[1], sample.image.shape[2]] += 1
    sums.add(sample.image)
    report.unknown.update(dict(unknown))
    skipped = isinstance(part, FileDataset) and part.unknown == "ignore"
    file = part.items[index].label if isinstance(part, FileDataset) else sample.name
    if len(unknown) > _SHADES and not skipped:
        report.blurred[str(file)] = len(unknown)
    elif not skipped:
        for value, pixels in unknown:
            what = "colour" if isinstance(value, tuple) else "id"
            report.problems.append(f"{file}: unknown {what} {value} ({pixels} pixels)")
    if sample.label is not None:
        label_counts = np.bincount(sample.label.numpy().ravel(), minlength=256)
        counts += label_counts
        present += label_counts > 0


def _lossy_problems(report: CheckReport) -> None:
    """One line for all files with the same fault, instead of one a file or pixel."""
    if len(report.lossy) == 1:
        report.problems += report.lossy
    elif report.lossy:
        examples = "; ".join(report.lossy[:_EXAMPLES])
        report.problems.append(f"{len(report.lossy)} label files are compressed with loss, such as {examples}")
    if report.blurred:
        files = sorted(report.blurred, key=lambda file: -report.blurred[file])
        examples = ", ".join(f"{file} ({report.blurred[file]})" for file in files[:_EXAMPLES])
        report.problems.append(
            f"{len(files)} label file{'s' if len(files) > 1 else ''} with more than {_SHADES} unknown ids or colours "
            f"each, as after lossy compression or smooth resizing: {examples}"
        )


def _parts(dataset: UnlabelledDataset) -> Iterator[UnlabelledDataset]:
    if isinstance(dataset, Mixture):
        for part, _ in dataset.parts:
            yield from _parts(part)
    elif isinstance(dataset, JoinedImages):
        for images in dataset.parts:
            yield from _parts(images)
    else:
        yield dataset


def _plain(line: str) -> bool:
    new, olds = line.split(" <- ")
    return new == olds


def show(
    dataset: UnlabelledDataset, out: str | Path, count: int = 8, *, width: int = 480, opacity: float = 0.6
) -> Path:
    """Write a contact sheet: a row for each sample, the image and the image under its label colours; and a legend.

    Args:
        dataset: a reader, a mixture, or images alone (then one column).
        out: the PNG to write; its folder is made if need be.
        count: samples, spread evenly over the data set.
        width: of a column in pixels.
        opacity: of the label colours, in [0, 1]; ignored pixels stay uncovered.

    Raises:
        ValueError: ``count`` below 1 or ``opacity`` outside of [0, 1].
        OSError: the file cannot be written.
    """
    if count < 1 or not 0 <= opacity <= 1:
        raise ValueError(f"count must be at least 1 and opacity in [0, 1], not {count} and {opacity}")
    space: LabelSpace | None = dataset.space if isinstance(dataset, LabelledDataset) else None
    count = min(count, len(dataset))
    rows: list[npt.NDArray[np.uint8]] = []
    seen: set[int] = set()
    for index in (number * len(dataset) // count for number in range(count)):
        sample = dataset[index]
        image = np.ascontiguousarray(sample.image.permute(1, 2, 0).numpy())
        tiles = [image]
        if space is not None and sample.label is not None:
            label = sample.label.numpy()
            seen.update(np.unique(label).tolist())
            tiles.append(overlay(image, label, space.colours, opacity))
        height = max(1, round(width * image.shape[0] / image.shape[1]))
        fitted = [cv2.resize(tile, (width, height), interpolation=cv2.INTER_AREA) for tile in tiles]
        rows.append(
            np.concatenate([_titled(fitted[0], sample.name), *(_titled(tile, "") for tile in fitted[1:])], axis=1)
        )
    if space is not None:
        rows.append(_legend(space, sorted(seen - {IGNORE}), rows[0].shape[1]))
    mark = PngInfo()
    mark.add_text(*_MARK)
    with atomic_write(out, binary=True) as file:
        Image.fromarray(np.concatenate(rows, axis=0)).save(file, "PNG", pnginfo=mark)
    return Path(out)


def is_sheet(path: Path) -> bool:
    """Whether a file is a contact sheet of :func:`show`, by a text inside of it."""
    try:
        with Image.open(path) as image:
            return bool(image.info.get(_MARK[0]) == _MARK[1])
    except Exception:  # Pillow's decoders raise what they like
        return False


def _titled(tile: npt.NDArray[Any], title: str) -> npt.NDArray[np.uint8]:
    bordered = cv2.copyMakeBorder(tile, 18, 2, 2, 2, cv2.BORDER_CONSTANT, value=(255, 255, 255))
    cv2.putText(bordered, title[-60:], (4, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1, cv2.LINE_AA)
    return np.asarray(bordered, dtype=np.uint8)


def _legend(space: LabelSpace, classes: list[int], width: int) -> npt.NDArray[np.uint8]:
    columns = max(1, width // 160)
    strip = np.full((20 * -(-max(len(classes), 1) // columns) + 4, width, 3), 255, dtype=np.uint8)
    for place, index in enumerate(classes):
        x, y = 4 + place % columns * (width // columns), 4 + place // columns * 20
        strip[y : y + 14, x : x + 14] = space.colours[index]
        cv2.putText(
            strip, space.names[index], (x + 20, y + 12), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1, cv2.LINE_AA
        )
    return strip
