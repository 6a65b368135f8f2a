"""Loading Cityscapes-size images beside the loaders of ADVENT's and DACS' authors and torchvision's, in one process.

    python benchmarks/speed/loader_speed.py [--from DIR] [--images 4] [--repeat 9] [--written-by pillow]

Makes pairs of PNG of 1024 x 2048 in Cityscapes' layout: procedural streets, or the photographs of a folder enlarged to
that size; with sensor noise, which makes a file as large as Cityscapes' (2.2 MB in the mean). Two works are measured,
each as its authors wrote it, with torchvision's data set and transforms, and with this library's from the files, from
its cache on disk and from the zip archives: ADVENT's (the whole image at 512 x 1024) and DACS' (a crop of 512 x 512 of
the image at 512 x 1024). Loaders take turns image by image, so that a busy machine slows all; the table has medians of
processor time on one core with all files in memory. Exit code 1 if ours is below twice the best of the others, or below
five times from the cache.

Theirs subtract a mean, and DACS' makes float64 on the way; ours leaves the normalisation to the model, gives float in
[0, 1] and resizes bilinearly in both works (ADVENT: bicubic). ``check`` says how far the pixels are apart.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from measuring import clock
from PIL import Image
from rich.console import Console
from rich.table import Table
from torchvision.datasets import Cityscapes as TorchvisionCityscapes
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from uda.data import CITYSCAPES19, CITYSCAPES34, Cityscapes
from uda.data.base import image_files
from uda.data.pairs import Pairs
from uda.data.streets import DOMAINS, generate
from uda.data.transforms import TrainTransform
from uda.opencv import cv2

SIZE, HALF, CROP = (1024, 2048), (512, 1024), 512
NOISE = 0.6
"""Standard deviation of the sensor noise in grey levels."""
TWICE, FIVE_TIMES = 2.0, 5.0
Loader = Callable[[int], Any]
Box = tuple[int, int]
"""Top and left of a crop, in pixels of the image at half its size."""


def advent(root: Path) -> Loader:
    """ADVENT's ``CityscapesDataSet.__getitem__`` (valeoai/ADVENT, Apache-2.0; its base_dataset.py, cityscapes.py)."""
    mean = np.array((104.00698793, 116.66876762, 122.67891434), dtype=np.float32)
    table = CITYSCAPES34.mapping_to(CITYSCAPES19).table[CITYSCAPES34.encode(np.arange(256, dtype=np.uint8))]
    map_vector = table[:34].astype(np.int64)
    files = pairs_of(root)

    def load(file: Path, interpolation: Image.Resampling, rgb: bool) -> np.ndarray:
        image: Any = Image.open(file)
        if rgb:
            image = image.convert("RGB")
        return np.asarray(image.resize(HALF[::-1], interpolation), np.float32)

    def item(index: int) -> Any:
        image_file, label_file = files[index]
        label = map_vector[load(label_file, Image.Resampling.NEAREST, False).astype(np.int64, copy=False)].copy()
        image = load(image_file, Image.Resampling.BICUBIC, True)
        image = image[:, :, ::-1] - mean
        image = image.transpose((2, 0, 1))
        return image.copy(), label, np.array(image.shape), image_file.name

    return item


def dacs(root: Path, place: Box | None = None) -> Loader:
    """DACS' ``cityscapesLoader.__getitem__`` with ``RandomCrop_city`` (vikolss/DACS, MIT; its cityscapes_loader.py and
    augmentations.py); ``scipy.misc``, which is gone, was Pillow with these conversions."""
    mean = np.array((104.00698793, 116.66876762, 122.67891434))
    void = [0, 1, 2, 3, 4, 5, 6, 9, 10, 14, 15, 16, 18, 29, 30]
    valid = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
    files = pairs_of(root)

    def augment(pixels: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        image, label = Image.fromarray(pixels), Image.fromarray(ids)
        width, height = image.size
        image = image.resize((int(width / 2), int(height / 2)), Image.Resampling.BILINEAR)
        label = label.resize((int(width / 2), int(height / 2)), Image.Resampling.NEAREST)
        top, left = place or (random.randint(0, int(height / 2) - CROP), random.randint(0, int(width / 2) - CROP))
        box = (left, top, left + CROP, top + CROP)
        return np.array(image.crop(box)), np.array(label.crop(box), dtype=np.uint8)

    def item(index: int) -> Any:
        image = np.array(np.array(Image.open(files[index][0])), dtype=np.uint8)
        label = np.array(np.array(Image.open(files[index][1])), dtype=np.uint8)
        for raw in void:
            label[label == raw] = 250
        for train, raw in enumerate(valid):
            label[label == raw] = train
        image, label = augment(image, label)
        pixels = np.array(Image.fromarray(image).resize((CROP, CROP), Image.Resampling.BILINEAR))[:, :, ::-1]
        pixels = (pixels.astype(np.float64) - mean).transpose(2, 0, 1)
        classes = np.unique(label)
        resized = Image.fromarray(label.astype(np.float32), mode="F").resize((CROP, CROP), Image.Resampling.NEAREST)
        ids = np.array(resized).astype(int)
        assert np.all(classes == np.unique(ids))
        assert np.all(np.unique(ids[ids != 250]) < 19)
        return torch.from_numpy(pixels).float(), torch.from_numpy(ids).long(), files[index][0].name

    return item


def torchvision(root: Path, crops: bool, place: Box | None = None) -> Loader:
    """torchvision's Cityscapes, resized as 8-bit tensors, which is its fastest way; labels mapped after the crop."""
    data = TorchvisionCityscapes(str(root), split="train", mode="fine", target_type="semantic")
    table = CITYSCAPES34.mapping_to(CITYSCAPES19).table[CITYSCAPES34.encode(np.arange(256, dtype=np.uint8))]
    ids = torch.from_numpy(table.astype(np.int64))
    order = sorted(range(len(data)), key=data.images.__getitem__)

    def item(index: int) -> Any:
        image, label = (F.pil_to_tensor(part) for part in data[order[index]])
        image = F.resize(image, list(HALF), antialias=True)
        label = F.resize(label, list(HALF), interpolation=InterpolationMode.NEAREST_EXACT)
        if crops:
            top, left = place or (random.randint(0, HALF[0] - CROP), random.randint(0, HALF[1] - CROP))
            image, label = (F.crop(part, top, left, CROP, CROP) for part in (image, label))
        return F.to_dtype(image.contiguous(), torch.float32, scale=True), ids[label[0].long()]

    return item


def ours(root: Path, crops: bool, cache: Path | None = None) -> Pairs:
    """This library's batches of one source image."""
    whole = TrainTransform(crop=HALF, scale=(1.0, 1.0), flip=0.0)
    part = TrainTransform(crop=(CROP, CROP), scale=(0.5, 0.5), fit="pixels", flip=0.0)
    return Pairs(Cityscapes(root, "train", cache=cache), None, part if crops else whole, batch_size=1)


def pairs_of(root: Path) -> list[tuple[Path, Path]]:
    """Images with their labels."""
    return [(item.image, item.label) for item in Cityscapes(root, "train").items]


def write(root: Path, images: int, photographs: Path | None, writer: str) -> float:
    """Make the pairs; the mean size of an image file in MB."""
    generate(root, DOMAINS["cityscapes"], splits={"train": images}, size=SIZE)
    sources = image_files(photographs) if photographs else []
    rng = np.random.default_rng(0)
    total = 0
    for number, (path, label) in enumerate(pairs_of(root)):
        file = sources[number * len(sources) // images] if sources else path
        pixels = cv2.resize(cv2.imread(str(file)), SIZE[::-1], interpolation=cv2.INTER_CUBIC)
        pixels = (pixels + rng.normal(0, NOISE, pixels.shape)).round().clip(0, 255).astype(np.uint8)
        for target, content in ((path, pixels), (label, cv2.imread(str(label), cv2.IMREAD_UNCHANGED))):
            if writer == "opencv":
                cv2.imwrite(str(target), content)
            else:
                Image.fromarray(content[..., ::-1] if content.ndim == 3 else content).save(target)
        total += path.stat().st_size
    return total / images / 1e6


def pack(root: Path, folder: Path) -> Path:
    """The pairs as Cityscapes' two archives."""
    folder.mkdir()
    for part in ("leftImg8bit", "gtFine"):
        with zipfile.ZipFile(folder / f"{part}_trainvaltest.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted((root / part).rglob("*.png")):
                archive.write(path, path.relative_to(root))
    return folder


def check(root: Path, packed: Path, cache: Path) -> Iterator[str]:
    """How far the results are apart; ours from files, cache and archives must be the same bit for bit."""
    for crops in (False, True):
        loaders = [ours(root, crops), ours(root, crops, cache), ours(packed, crops)]
        step = next(n for n in range(200) if place_of(loaders[0], n) is not None)
        place, index = place_of(loaders[0], step), loaders[0].indices(step)[0]
        views = [loader[step]["source"] for loader in (*loaders, loaders[1])]
        plain = views[0]
        for view in views[1:]:
            if not (torch.equal(view.images, plain.images) and torch.equal(view.labels, plain.labels)):
                raise SystemExit("ours differs between files, cache and archives")
        theirs = dacs(root, place)(index) if crops else advent(root)(index)
        bgr = torch.as_tensor(theirs[0]) + torch.tensor((104.00698793, 116.66876762, 122.67891434)).view(3, 1, 1)
        ids = torch.as_tensor(theirs[1])
        ids = ids.masked_fill(ids == 250, 255)
        reference = torchvision(root, crops, place)(index)
        for name, image, label in (
            ("DACS" if crops else "ADVENT", bgr.flip(0), ids),
            ("torchvision", reference[0] * 255, reference[1]),
        ):
            difference = (plain.images[0] * 255 - image).abs()
            same = float((plain.labels[0] == label).float().mean())
            yield (
                f"{name}: images differ by {float(difference.mean()):.2f} of 255 levels in the mean, "
                f"{float(difference[:, 1:-1, 1:-1].max()):.0f} at most inside; {100 * same:.4g} % of labels agree"
            )
            if same < 0.999 or difference.mean() > 3:
                raise SystemExit(f"{name} does other work")


def place_of(pairs: Pairs, step: int) -> Box | None:
    """Where a crop lies in the image at half its size; ``None`` between two of its pixels."""
    window = pairs[step]["source"].windows[0]
    return None if window.top % 2 or window.left % 2 else (window.top // 2, window.left // 2)


def measure(loaders: dict[str, Loader], images: int, repeat: int) -> dict[str, float]:
    """Median seconds of processor time of one image."""
    times: dict[str, list[float]] = {name: [] for name in loaders}
    for turn in range(-1, repeat):
        for index in range(images):
            for name, load in loaders.items():
                taken = clock("cpu", partial(load, index))
                if turn >= 0:  # the first turn fills caches and imports
                    times[name].append(taken)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    """Measure both works and print the tables; exit 1 if a limit is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--from", dest="photographs", type=Path, help="folder of photographs; procedural streets if not"
    )
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--repeat", type=int, default=9)
    parser.add_argument("--written-by", choices=("pillow", "opencv"), default="pillow", help="of the PNG files")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    console, missed = Console(width=120), False
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "files"
        size = write(root, args.images, args.photographs, args.written_by)
        packed, cache = pack(root, Path(folder) / "zip"), Path(folder) / "cache"
        what = f"photographs of {args.photographs}" if args.photographs else "procedural streets"
        console.print(f"{args.images} {what}, {SIZE[0]} x {SIZE[1]}, PNG by {args.written_by}: {size:.2f} MB an image")
        for line in check(root, packed, cache):
            console.print(line)
        for crops, work, author in ((False, "512 x 1024, whole image", advent), (True, "512 x 512 of half size", dacs)):
            others: dict[str, Loader] = {
                f"{author.__name__.upper()}, its authors": author(root),
                "torchvision": torchvision(root, crops),
            }
            mine = {
                "uda, files": ours(root, crops).__getitem__,
                "uda, cache on disk": ours(root, crops, cache).__getitem__,
                "uda, zip archives": ours(packed, crops).__getitem__,
            }
            times = measure(others | mine, args.images, args.repeat)
            best = min(times[name] for name in others)
            table = Table(title=f"{work}; median of {args.images * args.repeat} on one core")
            for heading in (
                "loader",
                "ms an image",
                "images a second and core",
                "to the best of the others",
                "limit",
                "",
            ):
                table.add_column(heading, justify="left" if heading == "loader" else "right")
            for name, seconds in times.items():
                limit = {"uda, files": TWICE, "uda, cache on disk": FIVE_TIMES}.get(name)
                good = limit is None or best / seconds >= limit
                missed |= not good
                table.add_row(
                    name, f"{seconds * 1e3:.1f}", f"{1 / seconds:.1f}", f"{best / seconds:.2f}",
                    "-" if limit is None else f"{limit:.0f}", "" if limit is None else "ok" if good else "MISSED",
                )  # fmt: skip
            console.print(table)
    raise SystemExit(1 if missed else 0)


if __name__ == "__main__":
    main()
