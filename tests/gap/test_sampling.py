"""Shapley values against games with known shares, intervals against textbook ones."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from scipy import stats

from uda.gap.interventions import Plan
from uda.gap.sampling import (
    Images,
    Interval,
    all_coalitions,
    coalitions_of,
    exact_shapley,
    orders_for,
    satterthwaite,
    shapley_of_orders,
)

FACTORS = ("a", "b", "c", "d")


def game(coalition: frozenset[str]) -> float:
    """a takes off 2; b and c 1 only together; d adds 0.5, or takes 1 off beside a."""
    value = 10.0
    value -= 2.0 * ("a" in coalition)
    value -= 1.0 * ({"b", "c"} <= coalition)
    value += 0.5 * ("d" in coalition) - 1.5 * ({"a", "d"} <= coalition)
    return value


VALUES = {coalition: game(coalition) for coalition in all_coalitions(FACTORS)}


def test_exact_shapley_is_the_mean_over_all_orders() -> None:
    orders = list(permutations(FACTORS))
    assert exact_shapley(VALUES, FACTORS) == pytest.approx(shapley_of_orders(VALUES, orders))


def test_shapley_values_of_a_game_worked_by_hand() -> None:
    shares = exact_shapley(VALUES, FACTORS)
    assert shares == pytest.approx({"a": 2 + 0.75, "b": 0.5, "c": 0.5, "d": -0.5 + 0.75})
    assert sum(shares.values()) == pytest.approx(VALUES[frozenset()] - VALUES[frozenset(FACTORS)])


def test_antithetic_orders_sum_to_the_whole_and_are_right_on_average() -> None:
    totals = np.zeros(4)
    for image in range(2000):
        orders = orders_for(FACTORS, image, seed=5)
        assert orders[1] == orders[0][::-1]
        shares = shapley_of_orders(VALUES, orders)
        assert sum(shares.values()) == pytest.approx(3.0 + 0.0 + 1.0)
        totals += [shares[factor] for factor in FACTORS]
    assert totals / 2000 == pytest.approx([2.75, 0.5, 0.5, 0.25], abs=0.03)


def test_orders_give_the_coalitions_they_pass_through() -> None:
    assert coalitions_of([("a", "b")]) == [frozenset(), frozenset("a"), frozenset("ab")]
    plan = Plan.of(("a", "b", "c", "d"), images=10, budget=100, seed=0)
    assert not plan.exact
    assert len(plan.coalitions(3)) == 4 + 3  # two orders share the full set, the empty one is known
    assert Plan.of(("a", "b", "c", "d"), images=10, budget=160, seed=0).exact
    assert len(Plan.of(("a", "b"), images=10, budget=160, seed=0).coalitions(0)) == 3


def test_interval_of_independent_images_is_students() -> None:
    values = np.random.default_rng(0).normal(3, 2, 25)
    interval = Images([f"{k}" for k in range(25)]).interval(values)
    half = stats.t.ppf(0.975, 24) * values.std(ddof=1) / 5
    assert interval.value == pytest.approx(values.mean())
    assert (interval.high - interval.low) / 2 == pytest.approx(half, rel=0.06)


def test_images_of_one_sequence_count_once() -> None:
    values = np.repeat(np.random.default_rng(1).normal(0, 1, 10), 8)
    alone = Images([f"{k}" for k in range(80)]).interval(values)
    grouped = Images([f"{k // 8}" for k in range(80)]).interval(values)
    half = stats.t.ppf(0.975, 9) * values[::8].std(ddof=1) / np.sqrt(10)
    assert (grouped.high - grouped.low) / 2 == pytest.approx(half, rel=0.1)
    assert grouped.high - grouped.low > 2 * (alone.high - alone.low)


def test_a_single_sequence_has_no_interval() -> None:
    interval = Images(["drive"] * 5).interval(np.arange(5.0))
    assert interval == Interval(2.0, -np.inf, np.inf)
    assert not interval.clear


def test_an_image_without_a_number_is_left_out() -> None:
    interval = Images(list("abcd")).interval(np.array([1.0, np.nan, 3.0, 2.0]))
    assert interval.value == pytest.approx(2.0)


def test_coverage_of_the_interval_of_a_share() -> None:
    generator, hits = np.random.default_rng(2), 0
    for trial in range(200):
        loss = generator.gamma(4, 0.5, 20)
        taken = loss * generator.uniform(0.2, 0.4, 20)
        images = Images([f"{k}" for k in range(20)], seed=trial)
        (mean, drawn), (top, tops) = images.draws(taken), images.draws(loss)
        from uda.gap.sampling import interval_of

        interval = interval_of(float(mean / top), drawn / tops, images.df)
        hits += interval.low <= 0.3 <= interval.high
    assert 180 <= hits <= 199


def test_satterthwaite() -> None:
    assert satterthwaite((1.0, 1.0), (9.0, 9.0)) == pytest.approx(18)
    assert satterthwaite((1.0, 0.0), (9.0, 3.0)) == pytest.approx(9)
    assert satterthwaite((1.0, 1.0), (9.0, 0.0)) == 0
