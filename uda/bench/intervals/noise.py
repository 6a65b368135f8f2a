"""The noise of a mean over seeds and images, and the interval that it gives."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import scipy

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
LEVEL = 0.95
"""Of an interval, and of a family's intervals together."""
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
