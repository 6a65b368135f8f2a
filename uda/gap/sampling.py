"""Intervals over images that come in sequences, and Shapley values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt
from scipy import stats

from uda.bench.intervals import LEVEL, degrees_of_images, group_weights

Floats = npt.NDArray[np.float64]
DRAWS = 2000


@dataclass(frozen=True)
class Interval:
    """A number with its 95 % interval; infinite ends where there is no noise to go by (a single sequence)."""

    value: float
    low: float
    high: float

    @property
    def clear(self) -> bool:
        """Whether the interval leaves 0 out."""
        return self.low > 0 or self.high < 0

    @property
    def sign(self) -> int:
        """1 or -1 where the interval leaves 0 out, else 0."""
        return 0 if not self.clear else 1 if self.value > 0 else -1


class Images:
    """Draws of image weights for one data set; images of one sequence are weighted together.

    Bayesian bootstrap of the sequences with t quantiles of as many degrees of freedom as there are effective
    sequences less one; see :mod:`uda.bench.intervals`, whose weights these are.

    Args:
        sequences: of each image.
        seed: of the draws.
    """

    def __init__(self, sequences: Sequence[str], seed: int = 0) -> None:
        names, self.group = np.unique(np.asarray(sequences, dtype=str), return_inverse=True)
        self.count = len(names)
        self.df = degrees_of_images(len(sequences), self.group.astype(np.int64))
        self.weights = group_weights(self.count, DRAWS, seed)

    def draws(self, values: Floats) -> tuple[Floats, Floats]:
        """Mean of ``(n, ...)`` over images, and of each draw ``(R, ...)``, about the mean spread like its error.

        NaN in an image leaves it out of that number.
        """
        values = np.asarray(values, dtype=np.float64)
        known = ~np.isnan(values)
        sums, counts = (self._by_group(part) for part in (np.where(known, values, 0.0), known.astype(np.float64)))
        return self.ratio_draws(sums, counts)

    def ratio_draws(self, numerators: Floats, denominators: Floats) -> tuple[Floats, Floats]:
        """Ratio of sums over groups ``(G, ...)``, and of each draw ``(R, ...)``."""
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = numerators.sum(0) / denominators.sum(0)
            drawn = np.tensordot(self.weights, numerators, 1) / np.tensordot(self.weights, denominators, 1)
        return mean, mean + (drawn - mean) * math.sqrt((self.count + 1) / self.count)

    def sums(self, values: Floats) -> Floats:
        """``(n, ...)`` summed over the images of each sequence: ``(G, ...)``."""
        return self._by_group(np.asarray(values, dtype=np.float64))

    def _by_group(self, values: Floats) -> Floats:
        summed = np.zeros((self.count, *values.shape[1:]))
        np.add.at(summed, self.group, values)
        return summed

    def interval(self, values: Floats, level: float = LEVEL) -> Interval:
        """Mean of ``(n,)`` over images with its interval."""
        mean, drawn = self.draws(values)
        return interval_of(float(mean), drawn, self.df, level)


def interval_of(value: float, draws: Floats, df: float, level: float = LEVEL) -> Interval:
    """``value`` with the interval of its draws' deviation and t with ``df`` degrees of freedom (0: no interval)."""
    if not math.isfinite(value):
        return Interval(value, math.nan, math.nan)
    if df <= 0:
        return Interval(value, -math.inf, math.inf)
    known = draws[np.isfinite(draws)]
    half = float(stats.t.ppf((1 + level) / 2, df)) * float(known.std()) if len(known) > 1 else math.inf
    return Interval(value, value - half, value + half)


def satterthwaite(variances: Sequence[float], degrees: Sequence[float]) -> float:
    """Degrees of freedom of a sum of independent variances (Satterthwaite, Biometrics Bulletin 1946); 0 if any is 0."""
    if any(df <= 0 for df in degrees):
        return 0.0
    below = sum(variance**2 / df for variance, df in zip(variances, degrees, strict=True))
    return sum(variances) ** 2 / below if below > 0 else min(degrees)


Coalition = frozenset[str]


def orders_for(factors: Sequence[str], image: int, seed: int) -> tuple[tuple[str, ...], ...]:
    """Two orders of the factors for an image: a random one and its reverse (antithetic; Castro et al. 2009, Mitchell
    et al., "Sampling permutations for Shapley value estimation", JMLR 2022)."""
    drawn = np.random.default_rng((seed, image)).permutation(len(factors))
    order = tuple(factors[index] for index in drawn)
    return order, order[::-1]


def coalitions_of(orders: Sequence[Sequence[str]]) -> list[Coalition]:
    """Every set of factors that the orders build up, the empty and the full one included, without repeats."""
    sets = {frozenset(order[:count]): None for order in orders for count in range(len(order) + 1)}
    return list(sets)


def all_coalitions(factors: Sequence[str]) -> list[Coalition]:
    """All subsets."""
    return [frozenset(chosen) for size in range(len(factors) + 1) for chosen in combinations(factors, size)]


def shapley_of_orders(values: Mapping[Coalition, float], orders: Sequence[Sequence[str]]) -> dict[str, float]:
    """What each factor takes off the value when it joins, mean over the orders; they sum to v(none) - v(all)."""
    taken = dict.fromkeys(orders[0], 0.0)
    for order in orders:
        for count, factor in enumerate(order):
            taken[factor] += (values[frozenset(order[:count])] - values[frozenset(order[: count + 1])]) / len(orders)
    return taken


def exact_shapley(values: Mapping[Coalition, float], factors: Sequence[str]) -> dict[str, float]:
    """Shapley values (Shapley, "A value for n-person games", 1953) of what is taken off a value, from all subsets."""
    count = len(factors)
    taken = {}
    for factor in factors:
        others = [other for other in factors if other != factor]
        total = 0.0
        for size in range(count):
            weight = math.factorial(size) * math.factorial(count - size - 1) / math.factorial(count)
            for chosen in combinations(others, size):
                before = frozenset(chosen)
                total += weight * (values[before] - values[before | {factor}])
        taken[factor] = total
    return taken
