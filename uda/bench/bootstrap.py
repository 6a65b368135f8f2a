"""Mean IoU with an interval: a bootstrap over images and seeds, from per-image confusion matrices.

A method's score is the mean over seeds of the mIoU that one confusion matrix over the whole data set gives. A resample
draws the seeds with replacement and the images with replacement, and scores again; the interval is the 2.5 % to 97.5 %
range of the resamples. Two methods are compared on the same draws (paired), so that what an image or a seed has in
common cancels.

The images are the same for every seed. One draw of images therefore serves all drawn seeds (``images="shared"``):
drawing anew for each (``"nested"``, as if every seed had images of its own) would divide the image noise by the number
of seeds and make intervals too narrow. Both levels are resampled either way. With one seed, the interval covers images
only; with two or three, the seeds' part of it is coarse.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from uda.metrics import class_counts, miou_of_counts

Floats = npt.NDArray[np.float64]
LEVEL = 0.95
"""Of every interval here."""


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval; NaN where there is none."""

    value: float
    low: float = float("nan")
    high: float = float("nan")

    @property
    def known(self) -> bool:
        """Whether there is a number at all."""
        return self.value == self.value

    @property
    def clear(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Draws:
    """What every resample drew; the same for all methods that are compared.

    Attributes:
        seeds: ``(R, S)`` positions of the drawn seeds.
        weights: ``(R, S, n)`` how often each image was drawn for each drawn seed; S is 1 where all share them.
    """

    seeds: npt.NDArray[np.int64]
    weights: npt.NDArray[np.int64]


def draw(
    seeds: int, images: int, *, resamples: int = 2000, seed: int = 0, mode: Literal["shared", "nested"] = "shared"
) -> Draws:
    """Draw seeds and images with replacement.

    Raises:
        ValueError: fewer than one seed, image or resample.
    """
    if min(seeds, images, resamples) < 1:
        raise ValueError(f"at least one seed, image and resample, got {seeds}, {images}, {resamples}")
    rng = np.random.default_rng(seed)
    chosen = rng.integers(seeds, size=(resamples, seeds))
    slots = seeds if mode == "nested" else 1
    weights = rng.multinomial(images, np.full(images, 1 / images), size=(resamples, slots))
    return Draws(chosen, weights)


def mean_iou(confusions: npt.NDArray[np.int64], classes: npt.NDArray[np.bool_] | None = None) -> float:
    """Mean over seeds of the mIoU of per-image confusion matrices ``(S, n, C, C)``, rows truth; in [0, 1].

    The mean runs over classes that occur in the labels (of those in ``classes``), so that every method has the same
    ones: a class that is predicted but never labelled costs the classes whose pixels it takes, and nothing more.
    NaN if there is no such class.
    """
    scores = [_scores(_counts(matrices).sum(axis=0, keepdims=True), classes)[0] for matrices in confusions]
    return float(np.mean(scores))


def resampled(confusions: npt.NDArray[np.int64], draws: Draws, classes: npt.NDArray[np.bool_] | None = None) -> Floats:
    """:func:`mean_iou` of every resample, ``(R,)``. A class without labelled pixels in a resample is left out of it."""
    counts = [_counts(matrices) for matrices in confusions]
    resamples, slots = draws.seeds.shape
    weights = draws.weights.astype(np.float64)
    if weights.shape[1] == 1:
        # every seed once over the shared images, then the drawn ones are picked
        per_seed = np.stack([_scores(weights[:, 0] @ seed_counts, classes) for seed_counts in counts], axis=1)
        return np.asarray(np.take_along_axis(per_seed, draws.seeds, axis=1).mean(axis=1), dtype=np.float64)
    total: Floats = np.zeros(resamples)
    for slot in range(slots):
        for at, seed_counts in enumerate(counts):
            rows = draws.seeds[:, slot] == at
            total[rows] += _scores(weights[rows, slot] @ seed_counts, classes)
    total /= slots
    return total


def interval(value: float, samples: Floats) -> Estimate:
    """A point estimate with the percentile interval of its resamples."""
    known = samples[np.isfinite(samples)]
    if not known.size:
        return Estimate(value)
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(value, float(low), float(high))


@dataclass(frozen=True)
class Comparison:
    """One method on one domain, in mIoU points of [0, 1]."""

    score: Estimate
    delta: Estimate
    """Method minus baseline, on the seeds that both have."""
    gap_closed: Estimate
    """(method - baseline) / (oracle - baseline); NaN unless the oracle is clearly above the baseline."""


def compare(
    method: Mapping[int, npt.NDArray[np.int64]],
    baseline: Mapping[int, npt.NDArray[np.int64]] | None = None,
    oracle: Mapping[int, npt.NDArray[np.int64]] | None = None,
    *,
    classes: npt.NDArray[np.bool_] | None = None,
    resamples: int = 2000,
) -> Comparison:
    """Score a method and compare it, paired by seed and image.

    Args:
        method: per-image confusion matrices ``(n, C, C)`` by seed.
        baseline: likewise, of source-only; seeds that only one of the two has do not enter the difference.
        oracle: likewise, of the model trained on the target's labels.
        classes: ``(C,)`` which classes the mean runs over; all by default.
        resamples: of the bootstrap.
    """
    nothing = Estimate(float("nan"))
    values, samples = _paired([method], resamples, classes)
    score = interval(values[0], samples[0])
    if not baseline or not set(method) & set(baseline):
        return Comparison(score, nothing, nothing)
    values, samples = _paired([method, baseline], resamples, classes)
    delta = interval(values[0] - values[1], samples[0] - samples[1])
    if not oracle or not set(method) & set(baseline) & set(oracle):
        return Comparison(score, delta, nothing)
    values, samples = _paired([method, baseline, oracle], resamples, classes)
    gap = interval(values[2] - values[1], samples[2] - samples[1])
    if not gap.low > 0:
        # a ratio over a gap that may be zero means nothing
        return Comparison(score, delta, nothing)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = (samples[0] - samples[1]) / (samples[2] - samples[1])
    closed = interval((values[0] - values[1]) / (values[2] - values[1]), ratios)
    return Comparison(score, delta, closed)


def _paired(
    methods: list[Mapping[int, npt.NDArray[np.int64]]], resamples: int, classes: npt.NDArray[np.bool_] | None
) -> tuple[list[float], list[Floats]]:
    seeds = sorted(set.intersection(*(set(by_seed) for by_seed in methods)))
    stacks = [np.stack([by_seed[seed] for seed in seeds]) for by_seed in methods]
    draws = draw(len(seeds), stacks[0].shape[1], resamples=resamples)
    return [mean_iou(stack, classes) for stack in stacks], [resampled(stack, draws, classes) for stack in stacks]


def _counts(confusions: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """``(n, C, C)`` -> ``(n, 3C)``: hits, labelled and predicted pixels of each class; all that IoU needs."""
    return class_counts(torch.from_numpy(confusions)).flatten(-2).double().numpy()


def _scores(counts: Floats, classes: npt.NDArray[np.bool_] | None) -> Floats:
    """``(R, 3C)`` summed counts -> ``(R,)`` mean IoU over classes with labelled pixels; NaN where there is none."""
    subset = None if classes is None else np.flatnonzero(classes).tolist()
    by_class = torch.from_numpy(counts).unflatten(-1, (3, -1))
    return np.asarray(miou_of_counts(by_class, subset, "labelled").numpy())
