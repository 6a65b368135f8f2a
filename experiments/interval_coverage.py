"""How often the benchmark's intervals hold the truth, and its families of comparisons err: a simulation.

    python experiments/interval_coverage.py [--quick]

Draws benchmarks from a known world (per-image confusion counts of 19 classes, some in few images; image difficulty;
training seeds; sequences of similar images), makes each kind of interval from them, and counts how often it holds the
expected score. Prints its tables, and writes them and their picture to docs/statistics.md, between the marks
``<!-- NAME -->`` and ``<!-- end -->``. Deterministic; ten minutes on one core, or a minute with
``--quick``, which only prints.
"""

from __future__ import annotations

import argparse
import math
import re
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from scipy import special, stats

from uda.bench.intervals import (
    ImageScores,
    Noise,
    behrens_fisher_quantile,
    crossed_noise,
    degrees_of_images,
    detectable_difference,
    group_weights,
    holm_p_values,
    score_deviations,
    sum_groups,
)

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs" / "statistics.md"
PICTURE = ROOT / "docs" / "interval_coverage.png"
UNPRINTED = ("scores", "families, each")
"""Tables too long for the document."""
IN_IMAGES = np.array([
    1, 1, 1, 1, .95, .95, .98, .98, .9, .9, .85, .8, .6, .5, .4, .3, .2, .12, .08,
])  # fmt: skip
"""Share of the images that have a class: from road to train."""
PIXELS = 1000 * np.array([
    33, 22, 16, 7, 6, 4, 1.2, .9, .6, 1.2, .5, .15, 1.1, .4, .25, .3, .25, .15, .1,
])  # fmt: skip
"""Typical pixels of a class where it occurs."""
ACCURACY = np.array([
    3.2, 2.4, 2.3, 2.2, 1.3, 2.6, .4, .5, .2, .8, .6, .3, .2, 0, -.2, .1, .4, -.3, 0,
])  # fmt: skip
"""Logit of the share of a class's pixels that is right, on an average image; mIoU is then about 47 %."""
CLASSES = len(PIXELS)
SEEDS = 5
"""At most; fewer are the first of them."""
DRAWS = 400
"""Of image weights and of the bootstrap, fewer than in use for speed."""
WITHIN = 0.8
"""Share of what images differ by that a sequence has in common."""


@dataclass(frozen=True)
class Design:
    """The labelled images."""

    images: int
    lengths: tuple[int, ...] = ()
    """Of the sequences that they come in; single images by default."""

    @property
    def name(self) -> str:
        if not self.lengths:
            return f"{self.images} images"
        unequal = " unequal" if len(set(self.lengths)) > 1 else ""
        return f"{self.images} images in {len(self.lengths)}{unequal} sequences"

    @property
    def groups(self) -> np.ndarray | None:
        return np.repeat(np.arange(len(self.lengths)), self.lengths) if self.lengths else None


DESIGNS = (Design(30), Design(30, (5,) * 6), Design(30, (10, 10, 4, 2, 2, 1, 1)), Design(100), Design(100, (10,) * 10))
SEED_NOISE = {0.5: 0.005, 1.0: 0.035, 2.0: 0.08, 4.0: 0.17}
"""About that many mIoU points a difference varies by from seed to seed: standard deviation on logits that makes it."""
IMAGE_NOISE = {"low": 0.35, "high": 0.9}
"""What images do to one row and not to the others, standard deviation on logits."""


@dataclass(frozen=True)
class World:
    """Where benchmarks come from; everything is random but the rows' and classes' mean accuracy.

    The share of a class's pixels that is right in an image has the logit: class mean + row's effect + the image's
    difficulty (for all classes, and for each) + what the image does to this row alone + the seed's effect on this row
    (for all classes, and for each) and on all rows + what this seed does to this image.
    """

    design: Design
    seed_noise: tuple[float, ...]
    """By row, standard deviation of the seed's effect on a class."""
    image_noise: float
    row_effects: tuple[float, ...]
    """By row, of a drawn direction over classes."""
    kernel: np.ndarray = field(init=False)
    """``(C, C)`` what a class's wrong pixels are taken for."""

    def __post_init__(self) -> None:
        rng = np.random.default_rng(7)
        frequent = np.clip(PIXELS * IN_IMAGES / np.mean(PIXELS * IN_IMAGES), 0.3, 3)
        kernel = rng.dirichlet(0.02 + 0.3 * frequent, size=CLASSES)
        np.fill_diagonal(kernel, 0)
        object.__setattr__(self, "kernel", kernel / kernel.sum(axis=1, keepdims=True))

    def labels(self, rng: np.random.Generator, sets: int) -> tuple[np.ndarray, np.ndarray]:
        """Sets of images: labelled pixels ``(B, n, C)`` and difficulty ``(B, n, C)``."""
        occurs = self._over_images(rng, (sets,)) < stats.norm.ppf(IN_IMAGES)
        pixels = np.rint(PIXELS * np.exp(0.8 * self._over_images(rng, (sets,))))
        difficulty = 0.6 * self._over_images(rng, (sets,)) + 0.36 * self._over_images(rng, (sets,))[..., :1]
        return occurs * pixels, difficulty

    def seed_effects(self, rng: np.random.Generator, sets: int, seeds: int) -> np.ndarray:
        """``(B, rows, S, C)``."""
        rows = len(self.seed_noise)
        own = rng.standard_normal((sets, rows, seeds, 1)) + math.sqrt(3) * rng.standard_normal(
            (sets, rows, seeds, CLASSES)
        )
        shared = 0.3 * np.mean(self.seed_noise) * rng.standard_normal((sets, 1, seeds, CLASSES))
        return own * np.array(self.seed_noise)[:, None, None] + shared

    def hits(
        self, rng: np.random.Generator, labelled: np.ndarray, difficulty: np.ndarray, seed_effects: np.ndarray
    ) -> np.ndarray:
        """Right pixels ``(B, rows, S, n, C)``."""
        sets, rows, seeds, _ = seed_effects.shape
        direction = np.random.default_rng(8).standard_normal(CLASSES)
        row_effects = np.array(self.row_effects)[:, None] * direction
        logit = (ACCURACY + difficulty)[:, None] + row_effects[None, :, None]
        logit = logit + self.image_noise * self._over_images(rng, (sets, rows))
        logit = logit[:, :, None] + 0.35 * self._over_images(rng, (sets, rows, seeds)) + seed_effects[..., None, :]
        return np.rint(labelled[:, None, None] * special.expit(logit))

    def counts(self, labelled: np.ndarray, hits: np.ndarray) -> np.ndarray:
        """``(B, rows, S, n, 3, C)`` hits, labelled and predicted pixels."""
        everywhere = np.broadcast_to(labelled[:, None, None], hits.shape)
        return np.stack([hits, everywhere, hits + (everywhere - hits) @ self.kernel], axis=-2)

    def confusions(self, labelled: np.ndarray, hits: np.ndarray) -> np.ndarray:
        """``(B, rows, S, n, C, C)`` int64."""
        wrong = (labelled[:, None, None] - hits)[..., None] * self.kernel
        # rounded running sums, so that no pixel is lost
        matrices = np.diff(np.floor(np.cumsum(wrong, axis=-1) + 0.5), axis=-1, prepend=0).astype(np.int64)
        matrices[..., np.arange(CLASSES), np.arange(CLASSES)] += hits.astype(np.int64)
        return matrices

    def draw(self, rng: np.random.Generator, sets: int, seeds: int = SEEDS) -> np.ndarray:
        """:meth:`counts` of independent benchmarks."""
        labelled, difficulty = self.labels(rng, sets)
        return self.counts(labelled, self.hits(rng, labelled, difficulty, self.seed_effects(rng, sets, seeds)))

    def truth(self, rng: np.random.Generator, sets: int) -> np.ndarray:
        """``(rows, C)`` expected IoU of each class over new seeds and new images, where these have it."""
        total, times = np.zeros((len(self.seed_noise), CLASSES)), np.zeros(CLASSES)
        for _ in range(math.ceil(sets / 250)):
            ious = class_iou(self.draw(rng, 250, 2).sum(axis=3))
            total += np.nansum(ious, axis=(0, 2))
            times += (~np.isnan(ious[:, 0])).sum(axis=(0, 1))
        return total / times

    def _over_images(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        """Standard normal ``(..., n, C)``, alike within sequences."""
        own = rng.standard_normal((*shape, self.design.images, CLASSES))
        groups = self.design.groups
        if groups is None:
            return own
        common = rng.standard_normal((*shape, groups.max() + 1, CLASSES))[..., groups, :]
        return math.sqrt(WITHIN) * common + math.sqrt(1 - WITHIN) * own


def class_iou(counts: np.ndarray) -> np.ndarray:
    """``(..., 3, C)`` -> ``(..., C)``, NaN for a class without labelled pixels."""
    hits, labelled, predicted = np.moveaxis(counts, -2, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(labelled > 0, hits / (labelled + predicted - hits), np.nan)


def percentile_bootstrap(counts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """mIoU ``(R, rows, S)`` of images drawn with replacement, as the benchmark did before (``(rows, S, n, 3, C)``)."""
    images = counts.shape[2]
    weights = rng.multinomial(images, np.full(images, 1 / images), size=DRAWS).astype(float)
    summed = np.stack([weights @ flat for flat in counts.reshape(-1, images, 3 * CLASSES)], axis=1)
    scores = np.nanmean(class_iou(summed.reshape(DRAWS, *counts.shape[:2], 3, CLASSES)), axis=-1)
    return np.asarray(scores)


def percentiles(scores: np.ndarray, chosen: np.ndarray) -> tuple[float, float]:
    """95 % of the mean over drawn seeds ``(R, S)`` of ``(R, seeds)``."""
    low, high = np.quantile(np.take_along_axis(scores, chosen, axis=1).mean(axis=1), [0.025, 0.975])
    return float(low), float(high)


def plain_deviations(counts: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """:func:`score_deviations` by the Bayesian bootstrap as it is, without correction for small samples."""
    hits, labelled, predicted = counts.transpose(2, 0, 1, 3)
    summed = weights @ hits / (weights @ (labelled + predicted - hits))
    return np.asarray(summed.mean(axis=-1) - summed.mean(axis=(-2, -1))[:, None])


def satterthwaite(first: float, first_df: float, second: float, second_df: float) -> float:
    """Degrees of freedom of the sum of two variances (Satterthwaite, Biometrics Bulletin 1946)."""
    return (first + second) ** 2 / (first**2 / first_df + second**2 / second_df)


@cache
def _quantiles(seed_df: float, image_df: float) -> tuple[np.ndarray, np.ndarray]:
    shares = np.linspace(0, 1, 201)
    return shares, np.array([
        behrens_fisher_quantile(0.95, math.sqrt(share), seed_df, math.sqrt(1 - share), image_df) for share in shares
    ])  # fmt: skip


def half_width(noise: Noise) -> float:
    """:meth:`Noise.half_width`, from a table."""
    variance = noise.seed + noise.image
    if noise.seeds == 1:
        return math.sqrt(variance) * float(special.stdtrit(noise.image_df, 0.975))
    return math.sqrt(variance) * float(np.interp(noise.seed / variance, *_quantiles(noise.seed_df, noise.image_df)))


METHODS = {
    "percentile bootstrap": "seeds and images resampled, percentiles: as the benchmark did before",
    "seeds only": "t interval over seeds",
    "images only": "the new image noise, no seed noise: what one seed can say",
    "Satterthwaite": "seed variance + Bayesian bootstrap without correction, t with Satterthwaite's degrees of freedom",
    "Satterthwaite, corrected": "the same, from the new interval's variances",
    "groups ignored": "the new interval, every image taken as a sequence of its own",
    "new": "the interval of uda.bench.intervals",
}


def intervals(
    values: np.ndarray, deviations: dict[str, np.ndarray], image_df: dict[str, float]
) -> Iterator[tuple[str, float]]:
    """(method, half the width) of one number, all but the percentile bootstrap's.

    Args:
        values: ``(S,)`` by seed.
        deviations: ``(S, R)``, by how they were drawn.
        image_df: degrees of freedom of the images, likewise.
    """
    seeds = len(values)
    for method in ("new", "groups ignored"):
        if method in deviations:
            yield method, half_width(crossed_noise(values, deviations[method], image_df[method]))
    corrected, plain = (deviations[name].mean(axis=0).var(ddof=1) for name in ("new", "plain"))
    yield "images only", math.sqrt(corrected) * float(special.stdtrit(image_df["new"], 0.975))
    if seeds == 1:
        yield "Satterthwaite", math.sqrt(plain) * float(special.stdtrit(image_df["new"], 0.975))
        return
    variance = values.var(ddof=1) / seeds
    yield "seeds only", math.sqrt(variance) * float(special.stdtrit(seeds - 1, 0.975))
    noise = crossed_noise(values, deviations["new"], image_df["new"])
    for method, image in (("Satterthwaite", plain), ("Satterthwaite, corrected", noise.image)):
        df = satterthwaite(variance, seeds - 1, image, image_df["new"])
        yield method, math.sqrt(variance + image) * float(special.stdtrit(df, 0.975))


@dataclass
class Coverage:
    """Of one design and seed noise, by quantity (difference or score), method and number of seeds."""

    holds: dict[tuple[str, str, int], list[bool]] = field(default_factory=lambda: defaultdict(list))
    widths: dict[tuple[str, str, int], list[float]] = field(default_factory=lambda: defaultdict(list))
    seed_variance: list[float] = field(default_factory=list)
    image_variance: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """What image noise is: by quantity, product of two seeds' errors."""

    def share(self, quantity: str, method: str, seeds: int) -> float:
        """How often that interval holds the truth; NaN where it was not made."""
        holds = self.holds.get((quantity, method, seeds))
        return float(np.mean(holds)) if holds else math.nan

    def width(self, quantity: str, method: str, seeds: int) -> float:
        """Median of half the width, in points."""
        return 100 * float(np.median(self.widths[quantity, method, seeds]))


def measure_coverage(design: Design, seed_noise: float, replicates: int, truth_sets: int, seed: int = 0) -> Coverage:
    """Coverage over low and high image noise together, of a score and of the difference of two rows."""
    result = Coverage()
    for at, image_noise in enumerate(IMAGE_NOISE.values()):
        world = World(design, (SEED_NOISE[seed_noise],) * 2, image_noise, (0.0, 0.4))
        rng = np.random.default_rng([seed, at, design.images, len(design.lengths), round(10 * seed_noise)])
        truth = world.truth(rng, truth_sets)
        for _ in range(replicates // len(IMAGE_NOISE)):
            _measure(result, design, world.draw(rng, 1)[0], truth, rng)
    return result


def _measure(result: Coverage, design: Design, counts: np.ndarray, truth: np.ndarray, rng: np.random.Generator) -> None:
    """One benchmark of two rows: counts ``(2, S, n, 3, C)``."""
    scored = counts[0, 0, :, 1].sum(axis=0) > 0
    values = np.nanmean(class_iou(counts.sum(axis=2)), axis=-1)
    expected = truth[:, scored].mean(axis=1)
    resampled = percentile_bootstrap(counts, rng)
    models = counts[..., scored].reshape(-1, design.images, 3, scored.sum())
    grouped = sum_groups(models, design.groups)
    image_df = {"new": degrees_of_images(design.images, design.groups)}
    weights = group_weights(grouped.shape[1], DRAWS, seed=int(rng.integers(2**31)))
    shape = (2, SEEDS, DRAWS)
    noise = {
        "new": score_deviations(grouped, weights).reshape(shape),
        "plain": plain_deviations(grouped, weights).reshape(shape),
    }
    if design.groups is not None:
        image_df["groups ignored"] = design.images - 1
        single = group_weights(design.images, DRAWS, seed=int(rng.integers(2**31)))
        noise["groups ignored"] = score_deviations(models, single).reshape(shape)
    contrasts = {"difference": np.array([-1.0, 1.0]), "score": np.array([1.0, 0.0])}
    for quantity, contrast in contrasts.items():
        by_seed, target = contrast @ values, float(contrast @ expected)
        errors = by_seed - target
        if quantity == "difference":
            result.seed_variance.append(float(by_seed.var(ddof=1)))
        result.image_variance[quantity].append((errors.sum() ** 2 - (errors**2).sum()) / (SEEDS * (SEEDS - 1)))
        moved = {name: np.tensordot(contrast, deviations, 1) for name, deviations in noise.items()}
        scores = np.einsum("k,rks->rs", contrast, resampled)
        for seeds in range(1, SEEDS + 1):
            error = abs(float(errors[:seeds].mean()))
            chosen = rng.integers(seeds, size=(DRAWS, seeds))
            low, high = percentiles(scores, chosen)
            result.holds[quantity, "percentile bootstrap", seeds].append(low <= target <= high)
            result.widths[quantity, "percentile bootstrap", seeds].append((high - low) / 2)
            for method, half in intervals(by_seed[:seeds], {k: v[:seeds] for k, v in moved.items()}, image_df):
                result.holds[quantity, method, seeds].append(error <= half)
                result.widths[quantity, method, seeds].append(half)


# families of comparisons

EFFECT = 0.05
"""True difference that power is measured for."""
FAMILY_SEEDS = (2, 3, 5)
FAMILIES = {
    "1 point": (Design(30), 0.035, (1.0,)),
    "1 point, in 6 sequences": (Design(30, (5,) * 6), 0.035, (1.0,)),
    "4 points": (Design(30), 0.17, (1.0,)),
    "0.7 to 4 points": (Design(30), 0.06, (0.3, 1.0, 3.0)),
}
"""By the rows' seed noise: images, seed noise on logits, and what it is multiplied by from row to row."""
SIZES = {"8 rows, 1 domain": (8, 1), "24 rows, 3 domains": (24, 3)}


@dataclass
class Families:
    """Rates over simulated tables, all rows against a baseline; no row differs unless it says so."""

    any_error: dict[tuple[str, int, str], list[bool]] = field(default_factory=lambda: defaultdict(list))
    """By size, seeds and procedure: some row is wrongly called different."""
    power: dict[tuple[str, int, str], list[float]] = field(default_factory=lambda: defaultdict(list))
    """Share of rows called different of a third that are better by :data:`EFFECT`."""
    holds: dict[tuple[str, int, str], list[bool]] = field(default_factory=lambda: defaultdict(list))
    """Each interval on its own holds the truth."""
    loud: dict[tuple[str, int, str], list[bool]] = field(default_factory=lambda: defaultdict(list))
    """The same, of the third of the rows with the most seed noise."""


def measure_families(name: str, replicates: int, truth_sets: int, seed: int = 0) -> Families:
    """Tables of 24 rows and a baseline on three domains of 30 images, with one kind of seed noise."""
    design, scale, factors = FAMILIES[name]
    rows, domains = (max(numbers) for numbers in zip(*SIZES.values(), strict=True))
    # the baseline, row 0, is an average row
    factor = [factors[len(factors) // 2], *(factors[at % len(factors)] for at in range(rows))]
    world = World(design, tuple(scale * number for number in factor), IMAGE_NOISE["high"], (0.0,) * (rows + 1))
    rng = np.random.default_rng([seed, 99, *map(ord, name)])
    truths = {}
    for number in sorted(set(factor)):
        alike = World(design, (scale * number,) * 2, IMAGE_NOISE["high"], (0.0, 0.0))
        truths[number] = alike.truth(rng, truth_sets).mean(axis=0)
    loud = np.array(factor[1:]) == max(factor)
    result = Families()
    for _ in range(replicates):
        common = world.seed_effects(rng, 1, SEEDS)
        tables = []
        for _ in range(domains):
            effects = math.sqrt(0.5) * (common + world.seed_effects(rng, 1, SEEDS))
            labelled, difficulty = world.labels(rng, 1)
            matrices = world.confusions(labelled, world.hits(rng, labelled, difficulty, effects))[0]
            by_row = {str(row): dict(enumerate(by_seed)) for row, by_seed in enumerate(matrices)}
            table = ImageScores(by_row, groups=design.groups, draws=DRAWS, seed=int(rng.integers(2**31)))
            scored = labelled[0].sum(axis=0) > 0
            for row, by_seed in table.values.items():
                # unequal seed noise shifts a logit's mean a little; without the shift all rows are truly equal
                shift = float(truths[factor[int(row)]][scored].mean())
                table.values[row] = {run: value - shift for run, value in by_seed.items()}
            tables.append(table)
        for size, (some_rows, some_domains) in SIZES.items():
            for seeds in FAMILY_SEEDS:
                parts = [restricted(table, some_rows + 1, seeds) for table in tables[:some_domains]]
                _judge(result, (size, seeds), parts, loud[:some_rows], rng)
    return result


def restricted(table: ImageScores, rows: int, seeds: int) -> ImageScores:
    """The table as if it had only its first rows and seeds."""
    part = object.__new__(ImageScores)
    part.__dict__.update(table.__dict__)
    part.values = {str(row): {run: table.values[str(row)][run] for run in range(seeds)} for row in range(rows)}
    return part


def _judge(
    result: Families, key: tuple[str, int], tables: list[ImageScores], loud: np.ndarray, rng: np.random.Generator
) -> None:
    rows, better = [row for row in tables[0].rows if row != "0"], np.tile(np.arange(len(loud)) % 3 == 0, len(tables))
    for kind, pooled in (("own", False), ("pooled", True)):
        contrasts = [table.contrast({row: 1, "0": -1}, pooled=pooled) for table in tables for row in rows]
        values, noises = np.array([value for value, _ in contrasts]), [noise for _, noise in contrasts]

        def p_values(shift: np.ndarray, values: np.ndarray = values, noises: list[Noise] = noises) -> np.ndarray:
            return np.array([noise.p_value(value) for noise, value in zip(noises, values + shift, strict=True)])

        null, effect = p_values(0 * better), p_values(EFFECT * better)
        result.holds[*key, kind].extend(null >= 0.05)
        result.loud[*key, kind].extend(null[np.tile(loud, len(tables))] >= 0.05)
        procedures = {f"Holm, {kind} seed noise": holm_p_values}
        if pooled:
            procedures["each alone"] = np.asarray
        for procedure, adjust in procedures.items():
            result.any_error[*key, procedure].append(bool((adjust(null) < 0.05).any()))
            result.power[*key, procedure].append(float((adjust(effect)[better] < 0.05).mean()))
        if pooled:
            draws = max_t_draws(tables, rows, noises, rng)
            errors = np.array([noise.standard_error for noise in noises])
            result.any_error[*key, "max-t, pooled seed noise"].append(
                bool((step_down(draws, values / errors) < 0.05).any())
            )
            shifted = step_down(draws, (values + EFFECT * better) / errors)
            result.power[*key, "max-t, pooled seed noise"].append(float((shifted[better] < 0.05).mean()))
    if len(tables) == 1:
        differences = [tables[0].contrast({row: 1, other: -1}) for row, other in combinations(tables[0].rows, 2)]
        pairs = [noise.p_value(value) for value, noise in differences]
        result.any_error[*key, "Holm, all pairs, own seed noise"].append(bool((holm_p_values(pairs) < 0.05).any()))


def max_t_draws(
    tables: list[ImageScores], rows: list[str], noises: list[Noise], rng: np.random.Generator
) -> np.ndarray:
    """Joint draws ``(R, m)`` of all t statistics: shared image weights, and seed noise that shares the baseline's."""
    parts = []
    for table in tables:
        runs = sorted(table.values["0"])
        mean = {row: np.mean([table._deviations[row, run] for run in runs], axis=0) for row in table.values}
        parts.append(np.stack([mean[row] - mean["0"] for row in rows], axis=1))
    image = np.concatenate(parts, axis=1)
    image *= np.sqrt([noise.image for noise in noises]) / image.std(axis=0)
    image *= np.sqrt(noises[0].image_df / rng.chisquare(noises[0].image_df, (DRAWS, 1)))
    seed = rng.standard_normal((DRAWS, len(tables), len(rows) + 1))
    seed = ((seed[..., 1:] - seed[..., :1]) / math.sqrt(2)).reshape(DRAWS, -1)
    seed *= np.sqrt([noise.seed for noise in noises])
    seed *= np.sqrt(noises[0].seed_df / rng.chisquare(noises[0].seed_df, seed.shape))
    return np.asarray(np.abs(image + seed) / [noise.standard_error for noise in noises])


def step_down(draws: np.ndarray, statistics: np.ndarray) -> np.ndarray:
    """Adjusted p of max-|t|, step by step (Westfall and Young 1993): draws ``(R, m)`` of |t| under no difference."""
    order = np.argsort(-np.abs(statistics))
    largest = np.maximum.accumulate(draws[:, order[::-1]], axis=1)[:, ::-1]
    adjusted = np.empty(len(order))
    adjusted[order] = np.maximum.accumulate((largest >= np.abs(statistics)[order]).mean(axis=0))
    return adjusted


# what is written

Cells = dict[tuple[Design, float], Coverage]


def rate(value: float) -> str:
    """``.95`` for 0.951."""
    return "" if math.isnan(value) else f"{value:.2f}".removeprefix("0")


def grid(titles: list[str], rows: list[list[str]]) -> str:
    lines = [titles, ["---", *["---:"] * (len(titles) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def coverage_table(cells: Cells, quantity: str) -> str:
    """By design and seed noise: coverage of the percentile bootstrap and of the new interval, and its width."""
    rows = []
    for (design, _), cell in cells.items():
        seed, image = math.sqrt(np.mean(cell.seed_variance)), math.sqrt(max(0, np.mean(cell.image_variance[quantity])))
        rows.append([
            design.name, f"{100 * seed:.1f}", f"{100 * image:.1f}",
            *(rate(cell.share(quantity, "percentile bootstrap", seeds)) for seeds in (1, 2, 3, 5)),
            *(rate(cell.share(quantity, "new", seeds)) for seeds in (1, 2, 3, 4, 5)),
            *(f"{cell.width(quantity, 'new', seeds):.1f}" for seeds in (2, 3, 5)),
        ])  # fmt: skip
    titles = ["images", "seed noise", "image noise", *(f"old {seeds}" for seeds in (1, 2, 3, 5))]
    return grid([*titles, *(f"new {seeds}" for seeds in (1, 2, 3, 4, 5)), *(f"± {seeds}" for seeds in (2, 3, 5))], rows)


def summary_table(cells: Cells) -> str:
    """By quantity and method: lowest and mean coverage over designs and seed noise."""
    numbers = range(1, SEEDS + 1)
    rows = []
    for quantity in ("difference", "score"):
        for method in METHODS:
            line = [f"{quantity}: {method}"]
            for seeds in numbers:
                shares = np.array([cell.share(quantity, method, seeds) for cell in cells.values()])
                shares = shares[~np.isnan(shares)]
                line.append(f"{rate(shares.min())} / {rate(shares.mean())}" if shares.size else "")
            rows.append(line)
    return grid(["lowest / mean", *(f"{seeds} seeds" if seeds > 1 else "1 seed" for seeds in numbers)], rows)


def family_table(families: dict[str, Families]) -> str:
    """By seed noise, size and procedure: how often any row is wrongly called different, and power."""
    rows = []
    for name, result in families.items():
        for size, seeds, procedure in result.any_error:
            if seeds == FAMILY_SEEDS[0]:
                keys = [(size, number, procedure) for number in FAMILY_SEEDS]
                errors = [rate(float(np.mean(result.any_error[key]))) for key in keys]
                powers = [rate(float(np.mean(result.power[key]))) if key in result.power else "" for key in keys]
                rows.append([name, size, procedure, *errors, *powers])
    titles = [f"{what} {seeds}" for what in ("error", "power") for seeds in FAMILY_SEEDS]
    return grid(["rows' seed noise", "family", "procedure", *titles], rows)


def family_summary(families: dict[str, Families]) -> str:
    """By procedure: the highest error over all kinds of seed noise, and power where it is 1 point."""
    easy = next(iter(families.values()))
    rows = []
    for procedure in dict.fromkeys(key[2] for key in easy.any_error):
        line = [procedure]
        for size in SIZES:
            keys = [(size, seeds, procedure) for seeds in FAMILY_SEEDS]
            if keys[0] not in easy.any_error:
                line += ["", ""]
                continue
            errors = [max(float(np.mean(result.any_error[key])) for result in families.values()) for key in keys]
            line.append(" ".join(map(rate, errors)))
            line.append(" ".join(rate(float(np.mean(easy.power[key]))) for key in keys if key in easy.power))
        rows.append(line)
    titles = [f"{what}, {size}" for size in SIZES for what in ("error", "power")]
    return grid(["at 2, 3, 5 seeds", *titles], rows)


def pooling_table(families: dict[str, Families]) -> str:
    """Coverage of single differences with own and pooled seed noise, in brackets of the third with the most of it."""
    rows = []
    for name, result in families.items():
        for size in SIZES:
            line = [name, size]
            for kind in ("own", "pooled"):
                for seeds in FAMILY_SEEDS:
                    every, loud = (float(np.mean(part[size, seeds, kind])) for part in (result.holds, result.loud))
                    line.append(rate(every) + (f" ({rate(loud)})" if len(FAMILIES[name][2]) > 1 else ""))
            rows.append(line)
    titles = [f"{kind} {seeds}" for kind in ("own", "pooled") for seeds in FAMILY_SEEDS]
    return grid(["rows' seed noise", "table", *titles], rows)


STYLE = {
    "new": ("#0072B2", "o", "-"),
    "percentile bootstrap": ("#D55E00", "s", "-"),
    "Satterthwaite": ("#009E73", "^", "--"),
    "groups ignored": ("#CC79A7", "D", "--"),
    "seeds only": ("#56B4E9", "v", ":"),
    "images only": ("#7F7F7F", "x", ":"),
}
"""Colour (Okabe and Ito's), marker and line of each method."""


def picture(cells: Cells) -> Figure:
    """Coverage by number of seeds: the lowest over seed noise as a line, up to the highest as a band."""
    quantities = ("difference", "score")
    figure = Figure(figsize=(14, 6), layout="constrained")
    grid_axes = figure.subplots(len(quantities), len(DESIGNS), sharex=True, sharey=True)
    numbers = np.arange(1, SEEDS + 1)
    for axes_row, quantity in zip(grid_axes, quantities, strict=True):
        for axes, design in zip(axes_row, DESIGNS, strict=True):
            of_design = [cell for (where, _), cell in cells.items() if where == design]
            for method, (colour, marker, line) in STYLE.items():
                shares = np.array([[cell.share(quantity, method, seeds) for seeds in numbers] for cell in of_design])
                if np.isnan(shares).all():
                    continue
                style = {"color": colour, "marker": marker, "linestyle": line, "markersize": 5}
                axes.plot(numbers, shares.min(axis=0), label=method, **style)
                if method in ("new", "percentile bootstrap"):
                    axes.fill_between(numbers, shares.min(axis=0), shares.max(axis=0), color=colour, alpha=0.15)
            axes.axhline(0.95, color="black", linewidth=1)
            axes.set_title(f"{quantity},\n{design.name}", fontsize=9)
            axes.grid(alpha=0.3)
            axes.set_ylim(0.15, 1.01)
            axes.set_xticks(numbers)
    for axes in grid_axes[-1]:
        axes.set_xlabel("training seeds")
    for axes in grid_axes[:, 0]:
        axes.set_ylabel("truth is in the 95 % interval")
    handles, labels = grid_axes[0, 1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    figure.suptitle("Lowest coverage over seed noise of 0.5 to 4 points (band: up to the highest)", fontsize=11)
    return figure


def plan_table() -> str:
    """The smallest difference that is seen four times in five, by seeds and noise; measured with three seeds."""
    rows = []
    for images, image_noise in ((30, 1.1), (100, 0.65)):
        for seed_noise in (0.7, 1.5, 3.0):
            noise = Noise(3, seed_noise**2 / 3, 2, image_noise**2, images - 1)
            least = [detectable_difference(noise, seeds) for seeds in (2, 3, 5, 10, math.inf)]
            rows.append([f"{images} images", f"{seed_noise}", *(f"{points:.1f}" for points in least)])
    return grid(["", "seed noise", "2 seeds", "3 seeds", "5 seeds", "10 seeds", "any number"], rows)


def write_document(tables: dict[str, str], document: Path = DOCUMENT) -> None:
    """Put each table between its marks in the document.

    Raises:
        ValueError: the document has no such mark, or a mark that is no table.
    """
    text = document.read_text()
    marks = re.findall(r"<!-- (?!end)([^>]+) -->", text)
    if sorted(marks) != sorted(tables):
        raise ValueError(f"{document}: the marks are {sorted(marks)}, the tables {sorted(tables)}")
    for name, table in tables.items():
        start = text.index(f"<!-- {name} -->") + len(f"<!-- {name} -->")
        text = f"{text[:start]}\n{table}\n{text[text.index('<!-- end -->', start) :]}"
    document.write_text(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few benchmarks each, to see that it runs; only prints")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    start = time.perf_counter()
    replicates, tables, truth_sets = (10, 2, 250) if quick else (1000, 200, 3000)
    cells = {
        (design, seed_noise): measure_coverage(design, seed_noise, replicates, truth_sets)
        for design in DESIGNS
        for seed_noise in SEED_NOISE
    }
    families = {name: measure_families(name, tables, truth_sets) for name in FAMILIES}
    texts = {
        "coverage": summary_table(cells),
        "differences": coverage_table(cells, "difference"),
        "scores": coverage_table(cells, "score"),
        "families": family_summary(families),
        "families, each": family_table(families),
        "pooling": pooling_table(families),
        "plan": plan_table(),
    }
    for title, text in texts.items():
        print(f"{title}\n\n{text}\n")
    print(f"{time.perf_counter() - start:.0f} s; {replicates} benchmarks a row, {tables} tables a family.")
    if not quick:
        picture(cells).savefig(PICTURE, dpi=130)
        write_document({name: text for name, text in texts.items() if name not in UNPRINTED})


if __name__ == "__main__":
    main()
