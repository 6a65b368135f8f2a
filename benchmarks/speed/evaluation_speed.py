"""Scoring a large image beside NumPy as ADVENT's evaluation uses it, and the intervals of a large table.

    python benchmarks/speed/evaluation_speed.py [--height 1024] [--width 2048] [--repeat 5] [--rows 30] [--images 500]

On one CPU thread and without a network: logits at an eighth of the image are given; printed is how many of
their neighbours differ in the class. Ours predicts and counts the confusion matrix, with the loss as every evaluation
does and without it; the reference (``eval_UDA.py``, ``func.py``) upsamples by PyTorch, predicts and counts by NumPy,
and takes no loss, which is added by PyTorch in a second row. All alternate; times are medians of processor time. The
intervals are those of ``uda.bench.intervals`` for every row's score and every row's difference to the first, of 19
classes and 5 seeds. Exit code 1 if a limit is missed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import cv2
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

from uda.bench.intervals import ImageScores
from uda.engine.scoring import most_probable, predict_and_loss
from uda.metrics import confusion
from uda.types import IGNORE

CLASSES, SEEDS = 19, 5
TIMES, SECONDS = 5.0, 10.0
"""How many times as fast scoring must be, and how long the intervals may take."""


def scene(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Smooth logits at an eighth of the size, and labels in blocks, some of them none."""
    generator = torch.Generator().manual_seed(0)
    coarse = F.interpolate(torch.randn(1, CLASSES, 16, 32, generator=generator), (height // 8, width // 8))
    logits = 3 * coarse + 0.3 * torch.randn(coarse.shape, generator=generator)
    blocks = torch.randint(0, CLASSES + 1, (1, 1, 32, 64), generator=generator).float()
    label = F.interpolate(blocks, (height, width))[0, 0].long()
    return logits, torch.where(label == CLASSES, IGNORE, label)


def ours(logits: Tensor, label: Tensor, with_loss: bool) -> np.ndarray:
    """What :func:`uda.engine.evaluate` does with the logits of an image."""
    classes = predict_and_loss(logits[0], label)[0] if with_loss else most_probable(logits[0], label.shape)
    return confusion(classes, label, CLASSES).numpy()


def reference(logits: Tensor, label: Tensor, with_loss: bool, align_corners: bool = True) -> np.ndarray:
    """The plain formulation: upsample, transpose, argmax, bincount."""
    upsample = nn.Upsample(size=tuple(label.shape), mode="bilinear", align_corners=align_corners)
    upsampled = upsample(logits)
    predicted = np.argmax(upsampled.cpu().data[0].numpy().transpose(1, 2, 0), axis=2).flatten()
    truth = label.numpy().flatten()
    valid = (truth >= 0) & (truth < CLASSES)
    if with_loss:
        F.cross_entropy(upsampled, label[None], ignore_index=IGNORE).item()
    bins = CLASSES * truth[valid].astype(int) + predicted[valid]
    return np.bincount(bins, minlength=CLASSES**2).reshape(CLASSES, CLASSES)


def processor_ms(call: Callable[[], Any]) -> float:
    """Milliseconds of processor time."""
    start = time.process_time()
    call()
    return (time.process_time() - start) * 1e3


def intervals(rows: int, images: int) -> float:
    """Seconds of processor time for the intervals of a table's scores and differences."""
    generator = np.random.default_rng(0)
    truth = generator.multinomial(2000, np.full(CLASSES, 1 / CLASSES), size=images)
    confusions: dict[str, dict[int, np.ndarray]] = {}
    for row in range(rows):
        share = generator.uniform(0.4, 0.9, size=CLASSES)
        by_seed = {}
        for seed in range(SEEDS):
            hits = generator.binomial(truth, share)
            matrices = np.zeros((images, CLASSES, CLASSES), dtype=np.int64)
            matrices[:, np.arange(CLASSES), np.arange(CLASSES)] = hits
            matrices[:, np.arange(CLASSES), (np.arange(CLASSES) + 1) % CLASSES] += truth - hits
            by_seed[seed] = matrices
        confusions[f"row {row}"] = by_seed
    start = time.process_time()
    scores = ImageScores(confusions)
    for row in scores.rows:
        scores.score(row)
        scores.difference(row, scores.rows[0], pooled=True)
    return time.process_time() - start


def main() -> None:
    """Measure both and print them; exit 1 if a limit is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("height", 1024), ("width", 2048), ("repeat", 5), ("rows", 30), ("images", 500)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    logits, label = scene(args.height, args.width)
    calls: dict[str, Callable[[], Any]] = {
        f"{whose}, {what}": partial(call, logits, label, with_loss)
        for with_loss, what in ((False, "without a loss"), (True, "with the loss"))
        for whose, call in (("ours", ours), ("NumPy", reference))
    }
    for with_loss in (False, True):
        assert (ours(logits, label, with_loss) == reference(logits, label, with_loss, align_corners=False)).all()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(args.repeat + 1):
        for name, call in calls.items():
            taken = processor_ms(call)
            if number:
                times[name].append(taken)
    medians = {name: statistics.median(values) for name, values in times.items()}
    title = f"scoring of {args.height} x {args.width}, {CLASSES} classes, one thread, {args.repeat} repetitions"
    table = Table(title=title, title_justify="left")
    for heading in ("", "ours ms", "NumPy ms", "times as fast", "limit", " "):
        table.add_column(heading, justify="right")
    missed = 0
    for what in ("without a loss", "with the loss"):
        own, other = medians[f"ours, {what}"], medians[f"NumPy, {what}"]
        good = other / own >= TIMES
        missed += not good
        times_as_fast = f"{other / own:.2f}"
        table.add_row(what, f"{own:.0f}", f"{other:.0f}", times_as_fast, f"{TIMES:g}", "ok" if good else "MISSED")
    console = Console(width=120)
    console.print(table)
    coarse = logits[0].argmax(0)
    differing = torch.cat([coarse.diff(dim=dim).ne(0).flatten() for dim in (0, 1)]).float().mean().item()
    console.print(f"of neighbouring logits {differing:.0%} differ in the class")
    seconds = intervals(args.rows, args.images)
    missed += seconds > SECONDS
    console.print(
        f"intervals of {args.rows} rows x {args.images} images x {CLASSES} classes x {SEEDS} seeds: {seconds:.1f} s, "
        f"at most {SECONDS:g}: {'ok' if seconds <= SECONDS else 'MISSED'}"
    )
    raise SystemExit(1 if missed else 0)


if __name__ == "__main__":
    main()
