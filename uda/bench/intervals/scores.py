"""Rows on one set of images: their scores, and every difference between them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import scipy
import torch

from uda.bench.intervals.noise import (
    LEVEL,
    ROUNDING,
    Estimate,
    Floats,
    Ints,
    Noise,
    crossed_noise,
    degrees_of_images,
    estimate,
    group_weights,
    score_deviations,
    sum_groups,
)
from uda.metrics import class_counts, iou_of_counts

Bools = npt.NDArray[np.bool_]
PRIOR_DF = 4.0
"""Degrees of freedom that the other rows' seed noise counts for where it is pooled."""


class ImageScores:
    """All rows' scores on one set of images, and every difference between them.

    Attributes:
        values: by row and seed, the mIoU over all images.
        groups: number of groups of images.
        image_df: degrees of freedom of the images' noise.

    Args:
        confusions: by row and seed, per-image confusion matrices ``(n, C, C)`` of the same images and labels; rows may
            have different seeds.
        classes: ``(C,)`` which classes the mean runs over, of those that occur in the labels; all by default.
        groups: ``(n,)`` a number for each image's group: images of one sequence, place or drive; images of a group
            count as one observation. Every image is its own by default.
        draws: of image weights.
        seed: of the draws.

    Raises:
        ValueError: no matrices, or of different images or labels; groups of another number of images.
    """

    def __init__(
        self,
        confusions: Mapping[str, Mapping[int, Ints]],
        *,
        classes: Bools | None = None,
        groups: Ints | None = None,
        draws: int = 2000,
        seed: int = 0,
    ) -> None:
        cells = [(row, run) for row, by_seed in confusions.items() for run in sorted(by_seed)]
        if not cells:
            raise ValueError("no confusion matrices to score")
        counts = [_counts(confusions[row][run]) for row, run in cells]
        labelled = counts[0][:, 1]
        for (row, run), cell_counts in zip(cells, counts, strict=True):
            if not np.array_equal(cell_counts[:, 1], labelled):
                raise ValueError(f"{row}, seed {run}: scored on other images or labels than {cells[0][0]}")
        if groups is not None and len(groups) != len(labelled):
            raise ValueError(f"{len(groups)} images are grouped, but {len(labelled)} are scored")
        scored = labelled.sum(axis=0) > 0
        if classes is not None:
            scored &= classes
        by_group = sum_groups(np.stack(counts)[..., scored], groups)
        self.groups = by_group.shape[1]
        self.image_df = degrees_of_images(len(labelled), groups)
        self.values: dict[str, dict[int, float]] = {row: {} for row in confusions}
        self._deviations: dict[tuple[str, int], Floats] = {}
        scores = _scores(by_group.sum(axis=1)) if scored.any() else np.full(len(cells), math.nan)
        weights = group_weights(self.groups, draws, seed)
        deviations = score_deviations(by_group, weights) if scored.any() else np.zeros((len(cells), draws))
        for (row, run), score, deviation in zip(cells, scores, deviations, strict=True):
            self.values[row][run] = float(score)
            self._deviations[row, run] = deviation

    @property
    def rows(self) -> tuple[str, ...]:
        """All rows with a seed, in the order they came in."""
        return tuple(row for row, by_seed in self.values.items() if by_seed)

    def score(self, row: str) -> Estimate:
        """A row's mIoU, mean over its seeds, with an interval that stays in [0, 1].

        Its seed noise is its own: what seeds do to all rows cannot be pooled.
        """
        if not self.values[row]:
            return Estimate(math.nan)
        score = estimate(*self.contrast({row: 1.0}))
        # nothing true is cut off, so the interval holds as often as before
        return replace(score, low=max(score.low, 0.0), high=min(score.high, 1.0))

    def difference(self, row: str, other: str, *, pooled: bool = False) -> Estimate:
        """``row`` minus ``other``, paired by image and by the seeds that both have; unknown if they share none.

        Args:
            row: its name.
            other: e.g. source-only.
            pooled: let all rows' seed noise speak for this difference's, see :mod:`uda.bench.intervals`.
        """
        if not self._common((row, other)):
            return Estimate(math.nan)
        return estimate(*self.contrast({row: 1.0, other: -1.0} if row != other else {row: 0.0}, pooled=pooled))

    def gap_closed(self, row: str, baseline: str, oracle: str, *, pooled: bool = False) -> Estimate:
        """(row − baseline) / (oracle − baseline), on the seeds that all three have.

        The interval is Fieller's ("Some problems in interval estimation", JRSS-B 1954): the shares r at which
        row − baseline − r·(oracle − baseline) is not clearly off 0. It is bounded just where the gap is clear; unknown
        where the oracle is not clearly above.
        """
        if row in (baseline, oracle) or not self._common((row, baseline, oracle)):
            return Estimate(math.nan)

        def over(share: float) -> tuple[float, Noise]:
            return self.contrast({row: 1.0, baseline: share - 1, oracle: -share}, pooled=pooled)

        gap = estimate(*self.contrast({row: 0.0, oracle: 1.0, baseline: -1.0}, pooled=pooled))
        if not gap.low > 0:
            return Estimate(math.nan)
        value = over(0.0)[0] / gap.value

        def excess(share: float) -> float:
            distance, noise = over(share)
            return noise.p_value(distance) - (1 - LEVEL)

        def bound(step: float) -> float:
            if over(value)[1].standard_error < ROUNDING:
                return value
            # the p of far shares tends to that of the gap, which is clear
            while excess(value + step) > 0:
                step *= 2
                if abs(step) > 1e6:
                    return math.copysign(math.inf, step)
            return float(scipy.optimize.brentq(excess, value, value + step, xtol=1e-6))

        return Estimate(value, bound(-0.5), bound(0.5), image_noise_only=gap.image_noise_only)

    def contrast(self, coefficients: Mapping[str, float], *, pooled: bool = False) -> tuple[float, Noise]:
        """Σ coefficient × row on the seeds that all of its rows have, and its noise, as :func:`estimate` takes them.

        Args:
            coefficients: by row; they sum to 0 where ``pooled``.
            pooled: as in :meth:`difference`.

        Raises:
            ValueError: the rows share no seed.
        """
        seeds = self._common(coefficients)
        if not seeds:
            raise ValueError(f"{', '.join(coefficients)} have no seed in common")
        factors = np.array(list(coefficients.values()))
        values = factors @ np.array([[self.values[row][s] for s in seeds] for row in coefficients])
        deviations = np.tensordot(factors, [[self._deviations[row, s] for s in seeds] for row in coefficients], 1)
        noise = crossed_noise(values, deviations, self.image_df)
        if pooled and len(seeds) > 1:
            noise = self._moderated(noise, factors, seeds)
        return float(values.mean()), noise

    def _common(self, rows: Iterable[str]) -> list[int]:
        return sorted(set.intersection(*(set(self.values[row]) for row in rows)))

    def _moderated(self, noise: Noise, coefficients: Floats, seeds: list[int]) -> Noise:
        """Seed noise of a contrast together with that of the rows that have its seeds; coefficients sum to 0."""
        table = np.array([
            [by_seed[s] for s in seeds] for by_seed in self.values.values() if set(seeds) <= set(by_seed)
        ])  # fmt: skip
        length = float((coefficients**2).sum())
        rest_df = (len(table) - 2) * (len(seeds) - 1)
        # rows that predict the same have no noise between them, whatever the others have
        if not length or rest_df < 1 or noise.standard_error < ROUNDING:
            return noise
        residuals = table - table.mean(axis=0)
        residuals -= residuals.mean(axis=1, keepdims=True)
        # the contrast's own share of the residuals is taken out, so that the two are independent
        own = noise.seed * noise.seeds
        rest = max(0.0, float((residuals**2).sum()) - noise.seed_df * own / length) * length / rest_df
        prior_df = min(PRIOR_DF, rest_df)
        seed_df = prior_df + noise.seed_df
        variance = (prior_df * rest + noise.seed_df * own) / seed_df
        return Noise(noise.seeds, variance / noise.seeds, seed_df, noise.image, noise.image_df)


def _counts(confusions: Ints) -> Floats:
    """``(n, C, C)`` -> ``(n, 3, C)``: hits, labelled and predicted pixels of each class; all that IoU needs."""
    return np.asarray(class_counts(torch.from_numpy(confusions)).double().numpy())


def _scores(counts: Floats) -> Floats:
    """``(M, 3, C)`` -> ``(M,)`` mean IoU over the labelled classes."""
    return np.asarray(iou_of_counts(torch.from_numpy(counts), "labelled").nanmean(-1).numpy())
