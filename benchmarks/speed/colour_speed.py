"""Colour and Fourier transfer beside plain references, in one process and on one CPU thread.

    python benchmarks/speed/colour_speed.py [--repeat 30] [--height 512] [--width 1024] [--batch 2]

Ours and the reference alternate, so that a busy machine slows both; the table gives medians of processor time, their
ratio and the ratio of minima. Images are smooth with noise, 8-bit levels. A row passes by its ratio of medians.
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Callable
from typing import Any, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")

import cv2
import numpy as np
import torch
from measuring import clock
from rich.console import Console
from rich.table import Table
from skimage import exposure

from uda.functional.colour import colour_stats, image_stats, match_histograms, match_mean_std, reinhard
from uda.functional.fourier import fda_source_to_target, half_width


class Row(NamedTuple):
    """One comparison: ``ours`` may take at most ``limit`` times the ``reference``."""

    name: str
    ours: Callable[[], Any]
    reference_name: str
    reference: Callable[[], Any]
    limit: float | None


def numpy_fda(source: np.ndarray, target: np.ndarray, beta: float) -> np.ndarray:
    """The plain formulation: full transforms, amplitude and phase, shift, swap, inverse."""
    fs, ft = np.fft.fft2(source), np.fft.fft2(target)
    phase = np.angle(fs)
    amplitude, style = (np.fft.fftshift(np.abs(f), axes=(-2, -1)) for f in (fs, ft))
    height, width = source.shape[-2:]
    b = half_width(height, width, beta)
    rows, columns = (slice(n // 2 - b, n // 2 + b + 1) for n in (height, width))
    amplitude[..., rows, columns] = style[..., rows, columns]
    amplitude = np.fft.ifftshift(amplitude, axes=(-2, -1))
    return np.fft.ifft2(amplitude * np.exp(1j * phase)).real


def photos(n: int, height: int, width: int, seed: int) -> torch.Tensor:
    """(N, 3, H, W) float32 images of 256 levels in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    small = torch.rand(n, 3, 12, 24, generator=generator)
    images = torch.nn.functional.interpolate(small, size=(height, width), mode="bicubic")
    noise = 0.05 * torch.randn(images.shape, generator=generator)
    return ((images + noise).clamp(0, 1) * 255).round() / 255


def opencv_round_trip(image: np.ndarray) -> np.ndarray:
    """Bare RGB to Lab to RGB of one (H, W, 3) image."""
    return cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2LAB), cv2.COLOR_LAB2RGB)


def fourier_rows(source: torch.Tensor, target: torch.Tensor) -> list[Row]:
    """FDA beside NumPy's full transform, which works in float64 on the 0..255 scale as the authors' does."""
    s, t = (x.double().numpy() * 255 for x in (source, target))
    rows = []
    for beta, times in ((0.01, 30), (0.05, 17), (0.09, 15)):
        error = np.abs(fda_source_to_target(source, target, beta).double().numpy() * 255 - numpy_fda(s, t, beta)).max()
        rows.append(
            Row(
                f"FDA, beta {beta} (max error {error:.1e} grey levels)",
                lambda beta=beta: fda_source_to_target(source, target, beta),
                "NumPy full FFT, whole batch",
                lambda beta=beta: numpy_fda(s, t, beta),
                1 / times,
            )
        )
    return rows


def colour_rows(source: torch.Tensor, target: torch.Tensor) -> list[Row]:
    """Histogram matching, Reinhard and mean/std beside scikit-image, OpenCV and one multiplication."""
    bytes_s, bytes_t = ((x * 255).round().byte() for x in (source, target))
    one, style = bytes_s[:1], bytes_t[:1]
    image, reference = (x[0].permute(1, 2, 0).contiguous().numpy() for x in (one, style))
    same = (
        match_histograms(one, style)[0].permute(1, 2, 0).numpy()
        == exposure.match_histograms(image, reference, channel_axis=-1)
    ).all()
    if not same:
        raise SystemExit("histogram matching differs from scikit-image's")
    rows = [
        Row(
            "match_histograms, uint8, one image (equal results)",
            lambda: match_histograms(one, style),
            "skimage.exposure.match_histograms",
            lambda: exposure.match_histograms(image, reference, channel_axis=-1),
            1.0,
        )
    ]
    for name, x, y in (("uint8", one, style), ("float32", source[:1], target[:1])):
        plain = x[0].permute(1, 2, 0).contiguous().numpy()
        stats = colour_stats(y)
        for what, wanted, limit in (
            ("target's statistics given", stats, 2.0),
            ("target image: a third conversion", y, None),
        ):
            rows.append(
                Row(
                    f"reinhard, {name}, {what}",
                    lambda x=x, wanted=wanted: reinhard(x, wanted),
                    f"OpenCV Lab round trip, {name}",
                    lambda plain=plain: opencv_round_trip(plain),
                    limit,
                )
            )
    given = tuple(s.mean(0) for s in (*image_stats(source), *image_stats(target)))
    wanted = image_stats(target)
    rows += [
        Row(
            "match_mean_std, statistics given, batch",
            lambda: match_mean_std(source, *given),
            "images * 2",
            lambda: source * 2,
            2.0,
        ),
        Row(
            "image_stats + match_mean_std, batch",
            lambda: match_mean_std(source, *image_stats(source), *wanted),
            "images * 2",
            lambda: source * 2,
            2.0,
        ),
    ]
    return rows


def timed(call: Callable[[], Any]) -> float:
    """Milliseconds of processor time of one call, after one that finds memory and caches as others left them."""
    call()
    return 1e3 * clock("cpu", call)


def main() -> None:
    """Measure every row and print the table; exit 1 if a limit is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("repeat", 30), ("height", 512), ("width", 1024), ("batch", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    source, target = (photos(args.batch, args.height, args.width, seed) for seed in (0, 1))
    table = Table(title=f"batch {args.batch}, {args.height} x {args.width}, one thread, {args.repeat} repetitions")
    for heading in ("ours", "ms", "reference", "ms ", "ours / ref", "minima", "limit", ""):
        table.add_column(heading, justify="left" if heading in ("ours", "reference") else "right")
    missed = 0
    for row in fourier_rows(source, target) + colour_rows(source, target):
        slow = row.limit is not None and row.limit < 0.5
        pairs = [
            (timed(row.ours), timed(row.reference)) for _ in range(max(5, args.repeat // 4) if slow else args.repeat)
        ]
        ours, reference = zip(*pairs, strict=True)
        ratio = statistics.median(ours) / statistics.median(reference)
        good = row.limit is None or ratio <= row.limit
        missed += not good
        table.add_row(
            row.name,
            f"{statistics.median(ours):.2f}",
            row.reference_name,
            f"{statistics.median(reference):.2f}",
            f"{ratio:.3f}",
            f"{min(ours) / min(reference):.3f}",
            "-" if row.limit is None else f"{row.limit:.2f}",
            "" if row.limit is None else "ok" if good else "MISSED",
        )
    Console(width=150).print(table)
    raise SystemExit(1 if missed else 0)


if __name__ == "__main__":
    main()
