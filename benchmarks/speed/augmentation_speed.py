"""Colour jitter and blur beside kornia's as DACS and MIC use them, on one CPU thread.

    pip install --no-deps --target kornia_site kornia kornia_rs  # no dependency of uda
    PYTHONPATH=kornia_site python benchmarks/speed/augmentation_speed.py [--repeat 15]

The reference is what both codes do with an image (DACS' ``transformsgpu.py``, MIC's ``dacs_transforms.py``): take
the normalisation back, a new jitter, normalise, a new ``GaussianBlur2d``; every repetition draws anew. The jitter is
the one that was ``ColorJitter`` when they were written and is ``ColorJiggle`` today. Ours draws anew too, and needs no
normalisation. Both alternate; times are medians of processor time. Before anything is timed, ours with the numbers that
kornia drew must give kornia's image. Exit code 1 if ours is slower, or without kornia.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import time
import warnings

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

from uda.functional.augment import StrongAugmentation, blur_kernel_size, strong_augment, strong_augment_each

# of the normalised images: (name, side, strength, mean, standard deviation on the scale of 255)
USES = (
    ("DACS", 512, 0.25, (104.0, 116.7, 122.7), (1.0, 1.0, 1.0)),
    ("MIC on DAFormer", 512, 0.2, (123.7, 116.3, 103.5), (58.4, 57.1, 57.4)),
    ("MIC on HRDA", 1024, 0.2, (123.7, 116.3, 103.5), (58.4, 57.1, 57.4)),
)
TOLERANCE = 2e-3
"""Largest difference of grey values in [0, 1]; hue near grey is ill conditioned."""


def as_authors(images: Tensor, mean: Tensor, std: Tensor, jitter: nn.Module, sigma: float) -> Tensor:
    """A normalised image, augmented; kornia's modules are made anew each time."""
    import kornia

    images = images * std / 255 + mean / 255
    images = jitter(images)
    images = (images - mean / 255) / (std / 255)
    sides = tuple(blur_kernel_size(side) for side in images.shape[-2:])
    return kornia.filters.GaussianBlur2d(kernel_size=sides, sigma=(sigma, sigma))(images)


def drawn(jitter: nn.Module, sigma: float) -> StrongAugmentation:
    """What kornia's jitter drew last."""
    numbers = jitter._params  # kornia keeps them there for its own replay
    names = ("brightness", "contrast", "saturation", "hue")
    brightness, contrast, saturation, hue = (float(numbers[f"{name}_factor"][0]) for name in names)
    # turns of hue are radians in some versions
    hue = hue / (2 * math.pi) if abs(hue) > 0.5 else hue
    return StrongAugmentation(brightness, contrast, saturation, hue, tuple(numbers["order"].tolist()), sigma)


def main() -> None:
    """Measure every use and print the table; exit 1 if ours is slower."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=15)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    try:
        import kornia
    except ModuleNotFoundError as error:
        raise SystemExit(f"no module {error.name!r}; --help says how to install kornia beside uda") from error
    torch.set_num_threads(1)
    title = f"jitter and blur of one image beside kornia {kornia.__version__}, one thread, {args.repeat} repetitions"
    table = Table(title=title, title_justify="left")
    for heading in ("as in", "side", "ours ms", "kornia ms", "ratio", "largest difference", ""):
        table.add_column(heading, justify="left" if heading == "as in" else "right")
    missed = 0
    for name, side, strength, *statistics_of_images in USES:
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in statistics_of_images)
        generator = torch.Generator().manual_seed(0)
        coarse = torch.rand(1, 3, 12, 24, generator=generator)
        image = F.interpolate(coarse, (side, side), mode="bicubic").clamp(0, 1)
        normalised = (image - mean / 255) / (std / 255)
        torch.manual_seed(0)
        worst, times = 0.0, ([], [])  # type: tuple[float, tuple[list[float], list[float]]]
        for number in range(args.repeat + 3):
            sigma = 0.15 + float(torch.rand(1, generator=generator))
            start = time.process_time()
            jitter = kornia.augmentation.ColorJiggle(
                brightness=strength, contrast=strength, saturation=strength, hue=strength
            )
            theirs = as_authors(normalised, mean, std, jitter, sigma)
            middle = time.process_time()
            strong_augment_each(image, generator, strength=strength, jitter_probability=1, blur_probability=1)
            end = time.process_time()
            if number < 3:
                mine = strong_augment(image, parameters=drawn(jitter, sigma))
                worst = max(worst, float((mine - (theirs * std / 255 + mean / 255)).abs().max()))
            else:
                times[0].append((end - middle) * 1e3)
                times[1].append((middle - start) * 1e3)
        ours, reference = (statistics.median(values) for values in times)
        good = ours <= reference and worst <= TOLERANCE
        missed += not good
        cells = (f"{ours:.1f}", f"{reference:.1f}", f"{ours / reference:.3f}", f"{worst:.1e}")
        table.add_row(name, str(side), *cells, "ok" if good else "MISSED")
    Console(width=130).print(table)
    raise SystemExit(1 if missed else 0)


if __name__ == "__main__":
    main()
