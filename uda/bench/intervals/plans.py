"""What a number of seeds can show, and how many show a difference."""

from __future__ import annotations

import math

import scipy

from uda.bench.intervals.noise import LEVEL, ROUNDING, Noise

POWER = 0.8
"""Chance to show a difference that plans ask for."""
MAX_SEEDS = 10_000
"""More than these are as good as never."""


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
