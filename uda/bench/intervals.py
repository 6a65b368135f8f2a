"""Intervals, comparisons and plans that hold for new training seeds and new images alike.

A row's score is the mean over its seeds of the mIoU of the confusion matrix summed over all images. It would differ
with other seeds and with other images of the same kind. What is estimated here is its expectation over both, for the
classes that occur in these labels and for as many images; differences of rows are paired by seed and image. How well
the intervals cover was simulated by ``experiments/interval_coverage.py``; ``docs/statistics.md`` has the numbers.

**Image noise** is that of the Bayesian bootstrap (Rubin, "The Bayesian bootstrap", Annals of Statistics 1981): every
draw gives the groups of images (a video sequence is a group) Dirichlet(1, ..., 1) weights, so that no class ever drops
out. The same draws serve all rows and seeds. Departure: a class's residuals, hits minus IoU times union, are divided by
√(1 − h) with h the image's share of the class's labelled pixels, its leverage (MacKinnon and White, "Some
heteroskedasticity-consistent covariance matrix estimators", J. Econometrics 1985, their HC2; Royall and Cumberland,
"An empirical study of the ratio estimator", JASA 1981, for ratios), and deviations are multiplied by √((G + 1) / G):
for a mean of G numbers the variance is then the unbiased s²/G. Without it the noise of classes that few images have is
missed; with 6 sequences that was a third of the standard error. Its degrees of freedom are G − 1, with G the effective
number of groups (Σ n_g)² / Σ n_g² (Kish, "Survey Sampling", 1965) where they have different numbers n_g of images.

**Variance of a mean over S seeds**, seeds and images crossed at random. The sample variance s² of the seeds' scores on
the same images estimates seed noise plus seed-by-image interaction; the bootstrap variance of the mean over seeds
estimates the images' common noise plus the interaction over S. Their sum would have the interaction twice (Owen, "The
pigeonhole bootstrap", Annals of Applied Statistics 2007), so it is taken off the second: what remains is the mean
covariance of two seeds' draws, at least 0.

**Reference distribution.** The error is compared with √V_seed·T(S − 1) + √V_image·T(G − 1), two independent t
variables: the Behrens-Fisher distribution (Fisher, "The fiducial argument in statistical inference", Annals of Eugenics
1935; as a posterior under flat priors, Jeffreys 1940), integrated numerically. Satterthwaite's t for the same variances
holds in .88 of cases at two seeds and .91 at three where seed noise leads: its degrees of freedom are large just when
s² happens to be too small. Degrees of freedom that are reported are those of the t with the same critical value.

**Pooling**, where asked for: all rows' residual seed noise (rows × seeds, both means removed, as in a two-way analysis
of variance) enters a difference's s² like :data:`PRIOR_DF` further degrees of freedom (the moderated variance of Smyth,
"Linear models and empirical Bayes methods", SAGMB 2004; departure: their number is fixed, not estimated from a dozen
noisy variances). It assumes that rows' seed noise is of one size within a factor of about two; rows that are noisier
than the rest are covered less than it says.

**Families** are adjusted by Holm's procedure (Holm, "A simple sequentially rejective multiple test procedure",
Scandinavian J. Statistics 1979), valid however the comparisons depend; simultaneous intervals are Bonferroni's.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import combinations

import numpy as np
import numpy.typing as npt
import scipy
import torch

from uda.metrics import class_counts, iou_of_counts

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
LEVEL = 0.95
"""Of an interval, and of a family's intervals together."""
POWER = 0.8
"""Chance to show a difference that plans ask for."""
PRIOR_DF = 4.0
"""Degrees of freedom that the other rows' seed noise counts for where it is pooled."""
MAX_SEEDS = 10_000
"""More than these are as good as never."""
ROUNDING = 1e-9
"""Standard errors and differences of mIoU below it are 0."""


@dataclass(frozen=True)
class Noise:
    """Variance of a mean over seeds, by what it comes from, each with its degrees of freedom.

    Attributes:
        seeds: S, how many seeds the mean is over.
        seed: variance by training again (seed-by-image interaction included), s² / S; 0 with one seed, as unmeasured.
        seed_df: of ``seed``; 0 with one seed.
        image: variance by other images that all seeds share.
        image_df: of ``image``, see :func:`degrees_of_images`; 0 where no noise of images can be measured.
    """

    seeds: int
    seed: float
    seed_df: float
    image: float
    image_df: float

    @property
    def standard_error(self) -> float:
        """Square root of the whole variance."""
        return math.sqrt(self.seed + self.image)

    def p_value(self, value: float) -> float:
        """Two-sided p of a mean that lies ``value`` from its hypothesis."""
        if self.standard_error < ROUNDING:
            return float(abs(value) < ROUNDING)
        return behrens_fisher_tail(abs(value), *self._parts())

    def half_width(self, level: float = LEVEL) -> float:
        """Half the width of the interval of that level."""
        return behrens_fisher_quantile(level, *self._parts()) if self.standard_error >= ROUNDING else 0.0

    def degrees_of_freedom(self) -> float:
        """Of the t whose 95 % interval is as wide; infinity for the normal's, and where there is no noise."""
        return _equivalent_df(self.half_width(), self.standard_error)

    def with_seeds(self, seeds: int) -> Noise:
        """What it would be with another number of seeds, on the same images."""
        prior_df = self.seed_df - (self.seeds - 1)
        return Noise(seeds, self.seed * self.seeds / seeds, prior_df + seeds - 1, self.image, self.image_df)

    def _parts(self) -> tuple[float, float, float, float]:
        return math.sqrt(self.seed), self.seed_df, math.sqrt(self.image), self.image_df


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval; NaN where there is none."""

    value: float
    low: float = math.nan
    high: float = math.nan
    standard_error: float = math.nan
    degrees_of_freedom: float = math.nan
    """Of the t whose interval is as wide."""
    image_noise_only: bool = False
    """One seed: the interval is for other images, and says nothing about training again."""
    noise: Noise | None = None
    """What the interval is made of; ``None`` where there is none, and for a ratio."""

    @property
    def known(self) -> bool:
        """Whether there is a number at all."""
        return self.value == self.value

    @property
    def clear(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0

    @property
    def p_value(self) -> float:
        """Two-sided p of the hypothesis that the truth is 0, not adjusted; NaN where the noise is unknown."""
        return self.noise.p_value(self.value) if self.noise else math.nan


def estimate(value: float, noise: Noise) -> Estimate:
    """A mean with the 95 % interval that its noise gives; without one where the noise of images is unknown."""
    alone = noise.seeds == 1
    if not noise.image_df or value != value:
        return Estimate(value, image_noise_only=alone)
    half = noise.half_width()
    return Estimate(
        value=value,
        low=value - half,
        high=value + half,
        standard_error=noise.standard_error,
        degrees_of_freedom=_equivalent_df(half, noise.standard_error),
        image_noise_only=alone,
        noise=noise,
    )


# the Behrens-Fisher distribution


def behrens_fisher_tail(distance: float, scale_a: float, df_a: float, scale_b: float, df_b: float) -> float:
    """P(|scale_a·T_a + scale_b·T_b| > distance) of independent t variables, not both scales 0."""
    parts = ((scale_a, df_a), (scale_b, df_b))
    if not scale_a * scale_b:
        large, large_df = max(parts)
        return float(2 * scipy.special.stdtr(large_df, -distance / large))
    # over the part that is seldom so far out, so that the other's distribution function is smooth between the nodes
    (small, small_df), (large, large_df) = sorted(
        parts, key=lambda part: (scipy.special.stdtr(part[1], -distance / part[0]), part)
    )
    nodes, masses = _t_nodes(small_df)
    return min(1.0, float(2 * masses @ scipy.special.stdtr(large_df, (small * nodes - distance) / large)))


def behrens_fisher_quantile(level: float, scale_a: float, df_a: float, scale_b: float, df_b: float) -> float:
    """The distance that |scale_a·T_a + scale_b·T_b| exceeds with probability 1 − level."""
    parts = [(scale, df) for scale, df in ((scale_a, df_a), (scale_b, df_b)) if scale]
    alpha = 1 - level
    alone = [scale * -float(scipy.special.stdtrit(df, alpha / 2)) for scale, df in parts]
    if len(parts) == 1:
        return alone[0]
    # a sum is wider than its parts, and narrower than both at half the error each
    split = [scale * -float(scipy.special.stdtrit(df, alpha / 4)) for scale, df in parts]

    def excess(log_distance: float) -> float:
        return math.log(behrens_fisher_tail(math.exp(log_distance), scale_a, df_a, scale_b, df_b) / alpha)

    low, high = math.log(0.98 * max(alone)), math.log(1.02 * sum(split))
    return math.exp(scipy.optimize.brentq(excess, low, high, xtol=1e-9))


def _equivalent_df(half: float, standard_error: float) -> float:
    """Degrees of freedom of the t whose 95 % interval has that half width."""
    upper = (1 + LEVEL) / 2
    if standard_error < ROUNDING or half <= standard_error * scipy.special.ndtri(upper) * (1 + 1e-9):
        return math.inf
    critical = half / standard_error

    def excess(log_df: float) -> float:
        return float(scipy.special.stdtrit(math.exp(log_df), upper)) - critical

    return math.exp(scipy.optimize.brentq(excess, -1.0, 30.0))


@lru_cache(maxsize=512)
def _t_nodes(df: float) -> tuple[Floats, Floats]:
    """Points and probabilities of t by the trapezoidal rule in y, t = √df·sinh y, where it converges exponentially."""
    # cosh(y)^-df is the density in y; 1e-10 of its maximum is the end
    end = math.acosh(math.exp(23 / df))
    points = np.linspace(-end, end, 2 * math.ceil(end / min(0.1, 0.4 / math.sqrt(df))) + 1)
    density = np.cosh(points) ** -df
    return math.sqrt(df) * np.sinh(points), density / density.sum()


# noise of images


def group_weights(groups: int, draws: int = 2000, seed: int = 0) -> Floats:
    """``(R, G)`` Dirichlet(1, ..., 1) weights of the groups of images; the same for all that is compared.

    Raises:
        ValueError: fewer than one group or two draws.
    """
    if groups < 1 or draws < 2:
        raise ValueError(f"at least one group of images and two draws, got {groups} and {draws}")
    weights = np.random.default_rng(seed).standard_exponential((draws, groups))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def sum_groups(counts: Floats, groups: Ints | None) -> Floats:
    """Counts ``(..., n, 3, C)`` of images, summed over the images of each group: ``(..., G, 3, C)``.

    Args:
        counts: see :func:`uda.metrics.class_counts`.
        groups: ``(n,)`` any number for each group; every image is its own by default.
    """
    if groups is None:
        return counts
    numbers, members = np.unique(groups, return_inverse=True)
    indicator = (np.arange(len(numbers))[:, None] == members).astype(np.float64)
    return np.asarray(np.einsum("gn,...nkc->...gkc", indicator, counts, optimize=True))


def degrees_of_images(images: int, groups: Ints | None = None) -> float:
    """Degrees of freedom of images' noise: the effective number of groups less 1; 0 for a single group.

    Args:
        images: n.
        groups: as of :func:`sum_groups`.
    """
    sizes = np.ones(images) if groups is None else np.unique(groups, return_counts=True)[1]
    return max(1.0, float(sizes.sum() ** 2 / (sizes**2).sum()) - 1) if len(sizes) > 1 else 0.0


def score_deviations(counts: Floats, weights: Floats) -> Floats:
    """How draws of image weights move mIoU: ``(M, R)``, mean 0, with the images' noise for variance.

    With counts h (hits), l (labelled) and u (union) of a class in group g, IoU = H / U is moved by
    Σ_g w_g (h_g − IoU·u_g) / √(1 − l_g / L) / Σ_g w_g u_g; without the root that is exactly the weighted IoU's change.

    Args:
        counts: ``(M, G, 3, C)`` hits, labelled and predicted pixels of each group of images, by M models; the labelled
            ones are the same for all models, and every class has some.
        weights: ``(R, G)`` of :func:`group_weights`.
    """
    groups = counts.shape[1]
    labelled = counts[0, :, 1]
    # the bound: an image that alone has a class leaves no residual to scale
    leverage = np.minimum(labelled / labelled.sum(axis=0), 1 - 1 / groups) if groups > 1 else np.zeros_like(labelled)
    deviations = np.empty((len(counts), len(weights)))
    for at, model_counts in enumerate(counts):
        hits, _, predicted = model_counts.transpose(1, 0, 2)
        union = labelled + predicted - hits
        residuals = (hits - hits.sum(axis=0) / union.sum(axis=0) * union) / np.sqrt(1 - leverage)
        moved, unions = np.split(weights @ np.concatenate([residuals, union], axis=1), 2, axis=1)
        deviations[at] = (moved / unions).mean(axis=1)
    deviations -= deviations.mean(axis=1, keepdims=True)
    return np.asarray(deviations * math.sqrt((groups + 1) / groups))


def crossed_noise(values: Floats, deviations: Floats, image_df: float) -> Noise:
    """Noise of a mean over seeds, whose images are the same.

    Args:
        values: ``(S,)`` by seed.
        deviations: ``(S, R)`` of :func:`score_deviations`, on the same draws for all seeds.
        image_df: of :func:`degrees_of_images`.
    """
    seeds = len(values)
    common = deviations.mean(axis=0)
    image = float(common.var(ddof=1))
    if seeds == 1:
        return Noise(1, 0.0, 0.0, image, image_df)
    interaction = float((deviations - common).var(axis=1, ddof=1).sum()) / (seeds - 1)
    shared = max(0.0, image - interaction / seeds)
    return Noise(seeds, float(values.var(ddof=1)) / seeds, seeds - 1, shared, image_df)


# rows on a set of images


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
            pooled: let all rows' seed noise speak for this difference's, see the head of this file.
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


# families of comparisons


@dataclass(frozen=True)
class Adjusted:
    """A comparison as a member of a family."""

    estimate: Estimate
    p_value: float
    """On its own; NaN where there is no interval."""
    holm_p_value: float
    """Adjusted by Holm's procedure: below .05 in the whole family, at most one family in twenty errs anywhere."""
    low: float
    """Of Bonferroni's interval: all of the family's hold together in 95 of 100 families."""
    high: float

    @property
    def clear(self) -> bool:
        """Whether the difference is not 0, by Holm's procedure."""
        return self.holm_p_value < 1 - LEVEL

    @property
    def excludes_zero(self) -> bool:
        """Whether Bonferroni's interval excludes 0: Holm's procedure then calls it clear too, but not the reverse."""
        return self.low > 0 or self.high < 0


def holm_p_values(p_values: Sequence[float] | Floats) -> Floats:
    """Holm's adjusted p-values ``(m,)``; NaN stays NaN and is no member of the family."""
    p = np.asarray(p_values, dtype=np.float64)
    adjusted = np.full(p.shape, math.nan)
    members = np.flatnonzero(~np.isnan(p))
    order = members[np.argsort(p[members], kind="stable")]
    steps = p[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(steps))
    return adjusted


def bonferroni_interval(member: Estimate, family: int) -> tuple[float, float]:
    """A member's 95 % interval such that all of a family of that many hold together; NaN where the noise is unknown."""
    if member.noise is None:
        return math.nan, math.nan
    half = member.noise.half_width(1 - (1 - LEVEL) / family)
    return member.value - half, member.value + half


def holm_family(estimates: Sequence[Estimate]) -> list[Adjusted]:
    """Comparisons, of all rows and domains that a table compares, judged together: Holm's p, Bonferroni's intervals.

    Holm's procedure finds a little more than the intervals show; where the two differ, the p-value decides.
    """
    p_values = [member.p_value for member in estimates]
    holm = holm_p_values(p_values)
    size = int(np.sum(~np.isnan(p_values)))
    return [
        Adjusted(member, p, float(adjusted), *bonferroni_interval(member, size))
        for member, p, adjusted in zip(estimates, p_values, holm, strict=True)
    ]


@dataclass(frozen=True)
class Ties:
    """Rows that cannot be told apart.

    Attributes:
        order: all rows, best score first.
        groups: every largest set of rows of which no two are clearly different; a row may be in several.
        letters: by row, one letter for each of its groups: two rows cannot be told apart if they share a letter.
        pairs: each pair's difference, the better row first, adjusted over all pairs.
    """

    order: tuple[str, ...]
    groups: tuple[tuple[str, ...], ...]
    letters: dict[str, str]
    pairs: dict[tuple[str, str], Adjusted]


def holm_ties(scores: ImageScores, rows: Sequence[str] | None = None, *, pooled: bool = False) -> Ties:
    """Compare all pairs of rows, adjusted by Holm's procedure, and say which cannot be told apart.

    Pairs that share no seed count as not told apart, and pairs that share one are judged by image noise only.
    """
    order = tuple(sorted(rows or scores.rows, key=lambda row: -scores.score(row).value))
    names = list(combinations(order, 2))
    family = holm_family([scores.difference(*pair, pooled=pooled) for pair in names])
    pairs = dict(zip(names, family, strict=True))
    groups = tied_groups(order, [pair for pair, member in pairs.items() if member.clear])
    return Ties(order, groups, letter_display(order, groups), pairs)


def tied_groups(order: Sequence[str], different: Collection[tuple[str, str]]) -> tuple[tuple[str, ...], ...]:
    """All largest groups without a pair that is different, those with the first rows first.

    Insert and absorb (Piepho, "An algorithm for a letter-based representation of all-pairwise comparisons", JCGS 2004):
    a group that has a different pair is split into one without the one and one without the other, and groups inside
    others are dropped. Departure: his sweep, which thins out letters that are not needed, is left out.
    """
    groups = [frozenset(order)] if order else []
    for first, second in different:
        split = [group - {row} for group in groups if {first, second} <= group for row in (second, first)]
        whole = [group for group in groups if not {first, second} <= group]
        candidates = list(dict.fromkeys(whole + split))
        groups = [group for group in candidates if not any(group < other for other in candidates)]
    place = {row: at for at, row in enumerate(order)}
    as_rows = [tuple(sorted(group, key=place.__getitem__)) for group in groups]
    return tuple(sorted(as_rows, key=lambda group: [place[row] for row in group]))


def letter_display(order: Sequence[str], groups: Sequence[Sequence[str]]) -> dict[str, str]:
    """By row the letters of its groups, ``a`` for the first; ``aa`` stands after ``z`` and letters are then spaced."""
    names = [letter(at) for at in range(len(groups))]
    space = " " if len(groups) > 26 else ""
    return {row: space.join(name for name, group in zip(names, groups, strict=True) if row in group) for row in order}


def letter(at: int) -> str:
    """Of the group number ``at``: a to z, then aa."""
    return (letter(at // 26 - 1) if at >= 26 else "") + chr(ord("a") + at % 26)


# plans


def detectable_difference(noise: Noise, seeds: float | None = None, power: float = POWER) -> float:
    """The smallest true difference that an interval would exclude 0 for with that chance; NaN if seeds are unmeasured.

    The chance is that of the noncentral t with the degrees of freedom of the interval (its critical value is kept).

    Args:
        noise: of a difference, as measured with two seeds or more.
        seeds: two or more, as many as were used by default; infinity: what these images allow however many there are.
        power: the chance.

    Raises:
        ValueError: fewer than two seeds.
    """
    if seeds is not None and seeds < 2:
        raise ValueError(f"a plan needs at least two seeds, got {seeds}")
    if noise.seeds < 2 or not noise.image_df:
        return math.nan
    if seeds == math.inf:
        planned = Noise(noise.seeds, 0.0, 0.0, noise.image, noise.image_df)
    else:
        planned = noise.with_seeds(noise.seeds if seeds is None else int(seeds))
    if planned.standard_error < ROUNDING:
        return 0.0
    df = min(planned.degrees_of_freedom(), 1e6)
    critical = float(scipy.special.stdtrit(df, (1 + LEVEL) / 2))
    shift = scipy.optimize.brentq(lambda delta: scipy.stats.nct.sf(critical, df, delta) - power, 0.0, 3 * critical + 3)
    return float(shift) * planned.standard_error


def seeds_needed(noise: Noise, difference: float, power: float = POWER) -> float:
    """How many seeds, at least two, show a true difference of that size with that chance on these images.

    Infinity where image noise alone forbids it, or more than :data:`MAX_SEEDS` would be needed; NaN if seed noise is
    unmeasured.
    """
    if noise.seeds < 2 or not noise.image_df:
        return math.nan
    target = abs(difference)
    if detectable_difference(noise, math.inf, power) >= target:
        return math.inf
    low, high = 1, 2
    while detectable_difference(noise, high, power) > target:
        low, high = high, 2 * high
        if low > MAX_SEEDS:
            return math.inf
    while high - low > 1:
        middle = (low + high) // 2
        if detectable_difference(noise, middle, power) > target:
            low = middle
        else:
            high = middle
    return float(high)
