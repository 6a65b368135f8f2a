from __future__ import annotations

import math
import time
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from scipy import integrate, stats

from experiments.interval_coverage import Design, World, measure_coverage, plan_table, satterthwaite, write_document
from uda.bench.intervals import (
    Estimate,
    ImageScores,
    Noise,
    behrens_fisher_quantile,
    behrens_fisher_tail,
    bonferroni_interval,
    crossed_noise,
    degrees_of_images,
    detectable_difference,
    estimate,
    group_weights,
    holm_family,
    holm_p_values,
    holm_ties,
    letter_display,
    score_deviations,
    seeds_needed,
    sum_groups,
    tied_groups,
)


def benchmark(rows: int = 3, seeds: int = 3, images: int = 8, classes: int = 4, seed: int = 0) -> dict:
    """Confusion matrices by row and seed: one class in the first image only, the last in no label."""
    rng = np.random.default_rng(seed)
    labelled = rng.integers(50, 100, size=(images, classes))
    labelled[1:, classes - 2] = 0
    labelled[:, classes - 1] = 0
    shares = rng.dirichlet(np.ones(classes), size=(rows, seeds, images, classes)) + 2 * np.eye(classes)
    wrong = np.floor(shares / 3 * labelled[..., None]).astype(np.int64)
    wrong[..., np.arange(classes), np.arange(classes)] += labelled - wrong.sum(axis=-1)
    return {f"row{row}": dict(enumerate(by_seed)) for row, by_seed in enumerate(wrong)}


def accuracy(value: int, images: int = 6) -> np.ndarray:
    """Two classes, of which ``value`` % of the pixels are right in each: IoU = v / (200 - v)."""
    return np.tile(np.array([[value, 100 - value], [100 - value, value]]), (images, 1, 1))


def iou(value: float) -> float:
    return value / (200 - value)


def naive_miou(confusion: np.ndarray) -> float:
    ious = []
    for c in range(len(confusion)):
        if confusion[c].sum():
            ious.append(confusion[c, c] / (confusion[c].sum() + confusion[:, c].sum() - confusion[c, c]))
    return sum(ious) / len(ious)


def class_counts(confusions: np.ndarray) -> np.ndarray:
    return np.stack(
        [np.diagonal(confusions, axis1=-2, axis2=-1), confusions.sum(-1), confusions.sum(-2)], axis=-2
    ).astype(float)


# noise of images


def test_weights_are_dirichlet_and_made_by_the_seed() -> None:
    weights = group_weights(5, 20_000, seed=3)
    np.testing.assert_allclose(weights.sum(axis=1), 1)
    np.testing.assert_allclose(weights.mean(axis=0), 1 / 5, rtol=0.02)
    np.testing.assert_allclose(weights.var(axis=0), 4 / (25 * 6), rtol=0.06)
    np.testing.assert_array_equal(weights, group_weights(5, 20_000, seed=3))
    assert (weights != group_weights(5, 20_000, seed=4)).any()
    for numbers in ((0, 10), (5, 1)):
        with pytest.raises(ValueError, match="at least one group"):
            group_weights(*numbers)


def test_groups_are_summed() -> None:
    counts = np.arange(2 * 4 * 3 * 2, dtype=float).reshape(2, 4, 3, 2)
    summed = sum_groups(counts, np.array([7, 3, 7, 3]))
    np.testing.assert_allclose(summed[:, 0], counts[:, 1] + counts[:, 3])
    np.testing.assert_allclose(summed[:, 1], counts[:, 0] + counts[:, 2])
    assert sum_groups(counts, None) is counts


def test_unequal_groups_count_for_fewer() -> None:
    assert degrees_of_images(30) == 29
    assert degrees_of_images(30, np.repeat([3, 1, 2], 10)) == pytest.approx(2)
    assert degrees_of_images(6, np.array([0, 0, 0, 1, 1, 2])) == pytest.approx(36 / 14 - 1)
    assert degrees_of_images(6, np.array([0, 0, 0, 0, 0, 1])) == 1
    assert degrees_of_images(6, np.zeros(6, int)) == 0


@pytest.mark.parametrize("corrected", [True, False])
def test_deviations_equal_a_naive_loop(corrected: bool) -> None:
    matrices = np.stack(list(benchmark()["row0"].values()))
    if not corrected:
        # labels so even that the correction is the same everywhere: then it is the weighted mIoU that remains
        matrices = np.stack([accuracy(70), accuracy(60)])
        matrices[:, ::2] += np.array([[5, -5], [-9, 9]])
    # without the class that no label has
    counts = class_counts(matrices)[..., : 3 if corrected else 2]
    models, images, _, classes = counts.shape
    weights = group_weights(images, 50)
    expected = np.zeros((models, 50))
    for m in range(models):
        for r, draw in enumerate(weights):
            if not corrected:
                summed = sum(w * matrix for w, matrix in zip(draw, matrices[m], strict=True))
                expected[m, r] = naive_miou(summed) / math.sqrt(1 - 1 / images)
                continue
            for c in range(classes):
                hits, labelled, predicted = counts[m, :, :, c].T
                union = labelled + predicted - hits
                leverage = [min(part / labelled.sum(), 1 - 1 / images) for part in labelled]
                moved = sum(
                    draw[i] * (hits[i] - hits.sum() / union.sum() * union[i]) / math.sqrt(1 - leverage[i])
                    for i in range(images)
                )
                expected[m, r] += moved / sum(draw * union) / classes
    expected = (expected - expected.mean(axis=1, keepdims=True)) * math.sqrt((images + 1) / images)
    np.testing.assert_allclose(score_deviations(counts, weights), expected, atol=1e-12)


def test_variance_for_a_mean_is_the_unbiased_one() -> None:
    # equal unions and labels: IoU is the mean of the images' IoU
    hits = np.array([30.0, 50, 55, 70, 80])
    counts = np.zeros((1, 5, 3, 1))
    counts[0, :, 0, 0] = hits
    counts[0, :, 1, 0] = 100
    counts[0, :, 2, 0] = hits
    deviations = score_deviations(counts, group_weights(5, 50_000))
    assert deviations.var() == pytest.approx((hits / 100).var(ddof=1) / 5, rel=0.02)
    assert deviations.mean() == pytest.approx(0, abs=1e-12)


# noise of seeds and images


def test_crossed_noise_by_hand() -> None:
    deviations = np.array([[1.0, -1, 2, -2], [3, -1, -2, 0]])
    noise = crossed_noise(np.array([10.0, 14]), deviations, 6)
    common = np.array([2.0, -1, 0, -1])
    interaction = np.var(deviations - common, axis=1, ddof=1).sum() / 1
    assert noise == Noise(2, 8 / 2, 1, pytest.approx(np.var(common, ddof=1) - interaction / 2), 6)
    # which is what two seeds' draws have in common
    assert noise.image == pytest.approx(np.cov(deviations)[0, 1])
    assert crossed_noise(np.array([10.0]), deviations[:1], 6) == Noise(1, 0, 0, pytest.approx(np.var([1, -1, 2, -2]) * 4 / 3), 6)  # fmt: skip # noqa: E501


def test_crossed_noise_is_unbiased_for_crossed_effects() -> None:
    rng = np.random.default_rng(0)
    seeds, images = 3, 12
    weights = group_weights(images, 400)
    means, variances = [], []
    for _ in range(1500):
        table = rng.normal(0, 1, (seeds, 1)) + rng.normal(0, 3, (1, images)) + rng.normal(0, 4, (seeds, images))
        # the correction of score_deviations, for a mean
        deviations = (table - table.mean(axis=1, keepdims=True)) @ weights.T * math.sqrt((images + 1) / (images - 1))
        noise = crossed_noise(table.mean(axis=1), deviations, images - 1)
        means.append(table.mean())
        variances.append((noise.seed, noise.image))
    seed, image = np.mean(variances, axis=0)
    assert seed == pytest.approx((1 + 16 / images) / seeds, rel=0.1)
    # the sum of both would count the interaction, 16 / 36, twice
    assert image == pytest.approx(9 / images, rel=0.1)
    assert seed + image == pytest.approx(np.var(means), rel=0.1)


def test_behrens_fisher_equals_the_published_table() -> None:
    # Sukhatme 1938, 5 %, R = 45 degrees
    for df, expected in ((6, 2.435), (8, 2.292), (12, 2.167)):
        scale = math.sqrt(0.5)
        assert behrens_fisher_quantile(0.95, scale, df, scale, df) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("df", [(1, 29), (2, 5), (2, 99), (6, 29), (4, 499)])
@pytest.mark.parametrize("scale", [0.05, 0.5, 1, 4])
def test_behrens_fisher_equals_an_integral(df: tuple[int, int], scale: float) -> None:
    first, second = df
    for distance in (0.3, 2.0, 6.0):
        distance *= math.hypot(1, scale)

        def density(x: float, distance: float = distance) -> float:
            other = stats.t.sf(distance - scale * x, second) + stats.t.cdf(-distance - scale * x, second)
            return float(stats.t.pdf(x, first) * other)

        edges = [-np.inf, -distance / scale - 5, -distance / scale, -3, 0, 3, distance / scale, distance / scale + 5]
        edges = [*sorted(edges), np.inf]
        parts = [integrate.quad(density, *part, epsabs=1e-12, limit=200)[0] for part in zip(edges, edges[1:])]  # noqa: B905, RUF007
        assert behrens_fisher_tail(distance, scale, first, 1.0, second) == pytest.approx(sum(parts), rel=1e-3, abs=1e-7)


@pytest.mark.parametrize(("df_a", "df_b"), [(1, 3), (6, 1), (2, 1), (1, 1)])
def test_behrens_fisher_far_out_with_hardly_any_degrees_of_freedom(df_a: int, df_b: int) -> None:
    """A large family's level with few sequences; far out, the tail of a sum is the sum of the tails."""
    distance = behrens_fisher_quantile(1 - 0.05 / 30, 1.0, df_a, 1.0, df_b)
    assert behrens_fisher_tail(distance, 1.0, df_a, 1.0, df_b) == pytest.approx(0.05 / 30, rel=1e-6)
    sum_of_tails = 2 * (stats.t.sf(distance, df_a) + stats.t.sf(distance, df_b))
    assert sum_of_tails == pytest.approx(0.05 / 30, rel=0.03)


def test_behrens_fisher_of_one_part_is_t_and_quantile_inverts_tail() -> None:
    assert behrens_fisher_quantile(0.95, 2.0, 4, 0.0, 9) == pytest.approx(2 * stats.t.ppf(0.975, 4))
    assert behrens_fisher_tail(3.0, 0.0, 4, 1.5, 9) == pytest.approx(2 * stats.t.sf(2, 9))
    for level in (0.5, 0.95, 0.9999):
        for scale in (1e-8, 0.1, 1.0, 50.0):
            distance = behrens_fisher_quantile(level, scale, 1, 1.0, 29)
            assert behrens_fisher_tail(distance, scale, 1, 1.0, 29) == pytest.approx(1 - level, rel=1e-6)


def test_wider_than_satterthwaite_with_few_seeds() -> None:
    assert satterthwaite(2, 2, 1, 9) == pytest.approx(9 / (4 / 2 + 1 / 9))
    noise = Noise(3, 2.0, 2, 1.0, 9)
    assert noise.half_width() > math.sqrt(3) * stats.t.ppf(0.975, satterthwaite(2, 2, 1, 9))
    # and its own degrees of freedom give the same interval
    assert noise.half_width() == pytest.approx(math.sqrt(3) * stats.t.ppf(0.975, noise.degrees_of_freedom()))
    assert 2 <= noise.degrees_of_freedom() <= 11


# estimates


def test_estimate_of_nothing_is_unknown() -> None:
    unknown = Estimate(math.nan)
    assert not unknown.known
    assert not unknown.clear
    assert math.isnan(unknown.p_value)


def test_value_is_the_mean_over_seeds_of_the_pooled_miou() -> None:
    confusions = benchmark()
    scores = ImageScores(confusions)
    score = scores.score("row1")
    assert score.value == pytest.approx(np.mean([naive_miou(m.sum(0)) for m in confusions["row1"].values()]))
    assert score.low < score.value < score.high
    assert score.standard_error > 0
    subset = ImageScores(confusions, classes=np.array([True, False, False, True]))
    first = confusions["row1"][0].sum(0)
    assert subset.values["row1"][0] == pytest.approx(first[0, 0] / (first[0].sum() + first[:, 0].sum() - first[0, 0]))


def test_a_scores_interval_stays_among_scores_and_a_differences_does_not() -> None:
    """Two seeds that are far apart: t of one degree of freedom reaches beyond 0 and 100 %."""
    scores = ImageScores({row: {0: accuracy(60 - by), 1: accuracy(by)} for row, by in (("far", 5), ("near", 30))})
    unbounded, score = estimate(*scores.contrast({"far": 1.0})), scores.score("far")
    assert unbounded.low < 0
    assert unbounded.high > 1
    assert (score.low, score.high) == (0.0, 1.0)
    assert (score.value, score.standard_error) == (unbounded.value, unbounded.standard_error)
    assert scores.score("near") == estimate(*scores.contrast({"near": 1.0}))
    assert scores.difference("far", "near").low < -1


def test_estimates_are_finite_and_made_by_the_seed() -> None:
    confusions = benchmark()
    first, again = ImageScores(confusions, draws=200), ImageScores(confusions, draws=200)
    for row in first.rows:
        score = first.score(row)
        assert score == again.score(row)
        assert np.isfinite([score.value, score.low, score.high, score.standard_error, score.degrees_of_freedom]).all()
    assert first.score("row0") != ImageScores(confusions, draws=200, seed=1).score("row0")


def test_difference_is_paired_by_seed_and_image() -> None:
    # images and seeds differ a lot, the method is one and the same amount better everywhere
    base = {seed: np.concatenate([accuracy(30 + 10 * seed, 3), accuracy(80, 3)]) for seed in range(3)}
    better = {seed: matrices + np.array([[1, -1], [-1, 1]]) for seed, matrices in base.items()}
    scores = ImageScores({"base": base, "better": better, "same": base})
    difference, score = scores.difference("better", "base"), scores.score("better")
    assert difference.clear
    assert score.high - score.low > 10 * (difference.high - difference.low)
    same = scores.difference("same", "base")
    assert (same.value, same.low, same.high, same.p_value, same.clear) == (0, 0, 0, 1, False)
    assert scores.difference("base", "base").value == 0
    assert scores.difference("same", "base", pooled=True) == same


def test_grouped_images_count_as_one() -> None:
    matrices = np.repeat(np.stack([accuracy(30, 1), accuracy(50, 1), accuracy(60, 1), accuracy(90, 1)]), 10, axis=0)
    single = ImageScores({"row": {0: matrices[:, 0]}})
    grouped = ImageScores({"row": {0: matrices[:, 0]}}, groups=np.repeat([5, 1, 9, 2], 10))
    assert grouped.groups == 4
    assert grouped.score("row").value == pytest.approx(single.score("row").value)
    assert grouped.score("row").standard_error > 3 * single.score("row").standard_error


def test_one_seed_covers_images_only() -> None:
    confusions = {row: {0: by_seed[0]} for row, by_seed in benchmark().items()}
    scores = ImageScores(confusions)
    difference = scores.difference("row0", "row1")
    assert difference.image_noise_only
    assert difference.low < difference.value < difference.high
    assert difference.degrees_of_freedom == pytest.approx(7)
    assert not ImageScores(benchmark()).score("row0").image_noise_only
    assert difference.noise is not None
    assert math.isnan(detectable_difference(difference.noise))
    assert math.isnan(seeds_needed(difference.noise, 0.1))


def test_seeds_widen_the_interval() -> None:
    # every image is alike: only seeds differ, and the interval is t's
    apart = ImageScores({"row": {0: accuracy(59), 1: accuracy(61)}}).score("row")
    half = stats.t.ppf(0.975, 1) * abs(iou(61) - iou(59)) / 2
    assert apart.high - apart.value == pytest.approx(half)
    assert apart.degrees_of_freedom == pytest.approx(1)


def test_only_shared_seeds_enter_the_difference() -> None:
    scores = ImageScores({
        "a": {0: accuracy(70), 1: accuracy(10)}, "b": {0: accuracy(60), 2: accuracy(99)}, "c": {3: accuracy(50)},
    })  # fmt: skip
    difference = scores.difference("a", "b")
    assert difference.value == pytest.approx(iou(70) - iou(60))
    assert difference.image_noise_only
    assert not scores.difference("a", "c").known
    assert not scores.gap_closed("c", "a", "b").known
    with pytest.raises(ValueError, match="a, c have no seed in common"):
        scores.contrast({"a": 1, "c": -1})


def test_no_interval_where_noise_cannot_be_measured() -> None:
    alone = ImageScores({"row": {0: accuracy(70, 1), 1: accuracy(60, 1)}}).score("row")
    assert alone.known
    assert math.isnan(alone.low)
    assert not alone.clear
    nothing = ImageScores({"row": {0: np.zeros((3, 2, 2), np.int64)}}).score("row")
    assert not nothing.known


def test_unlabelled_class_does_not_change_the_mean_but_its_false_positives_cost() -> None:
    assert ImageScores({"row": {0: np.array([[[8, 0], [0, 0]]])}}).score("row").value == 1.0
    assert ImageScores({"row": {0: np.array([[[8, 2], [0, 0]]])}}).score("row").value == pytest.approx(0.8)


def test_wrong_input_is_refused() -> None:
    with pytest.raises(ValueError, match="no confusion matrices"):
        ImageScores({"row": {}})
    with pytest.raises(ValueError, match="b, seed 1: scored on other images or labels than a"):
        ImageScores({"a": {0: accuracy(70)}, "b": {1: accuracy(70, 5)}})
    with pytest.raises(ValueError, match="2 images are grouped, but 6 are scored"):
        ImageScores({"a": {0: accuracy(70)}}, groups=np.array([0, 1]))


# the share of the gap


def test_gap_closed_on_known_numbers() -> None:
    scores = ImageScores({
        "base": {0: accuracy(60)}, "row": {0: accuracy(70)}, "oracle": {0: accuracy(80)}, "worse": {0: accuracy(50)},
    })  # fmt: skip
    closed = scores.gap_closed("row", "base", "oracle")
    expected = (iou(70) - iou(60)) / (iou(80) - iou(60))
    assert (closed.value, closed.low, closed.high) == pytest.approx((expected,) * 3)
    assert closed.image_noise_only
    assert not scores.gap_closed("row", "base", "worse").known
    assert not scores.gap_closed("oracle", "base", "oracle").known


def test_gap_closed_is_fiellers_interval() -> None:
    # alike images leave the seeds' noise, so that Fieller's roots can be solved
    values = {"base": [50, 52, 49, 51], "row": [60, 61, 63, 58], "oracle": [70, 73, 71, 72]}
    scores = ImageScores({row: {s: accuracy(v) for s, v in enumerate(by_seed)} for row, by_seed in values.items()})
    base, row, oracle = (np.array([iou(v) for v in values[name]]) for name in ("base", "row", "oracle"))
    above, below = row - base, oracle - base
    cov = np.cov(above, below) / 4 * stats.t.ppf(0.975, 3) ** 2
    squared = (
        below.mean() ** 2 - cov[1, 1],
        -2 * (above.mean() * below.mean() - cov[0, 1]),
        above.mean() ** 2 - cov[0, 0],
    )
    closed = scores.gap_closed("row", "base", "oracle")
    assert closed.value == pytest.approx(above.mean() / below.mean())
    assert (closed.low, closed.high) == pytest.approx(sorted(np.roots(squared)), abs=1e-5)


# pooling


def test_pooled_seed_noise_by_hand() -> None:
    values = {"a": [50, 52, 49], "b": [60, 61, 64], "c": [70, 73, 71], "d": [40, 47, 43]}
    scores = ImageScores({row: {s: accuracy(v) for s, v in enumerate(by_seed)} for row, by_seed in values.items()})
    table = np.array([[iou(v) for v in by_seed] for by_seed in values.values()])
    difference = table[1] - table[0]
    residuals = table - table.mean(0) - table.mean(1, keepdims=True) + table.mean()
    own = difference.var(ddof=1)
    # what is orthogonal to the difference, as a variance of differences
    rest = 2 * ((residuals**2).sum() - 2 * own / 2) / 4
    pooled = scores.difference("b", "a", pooled=True).noise
    assert pooled is not None
    assert pooled.seed == pytest.approx((4 * rest + 2 * own) / 6 / 3)
    assert pooled.seed_df == 6
    assert scores.difference("b", "a").noise == Noise(3, pytest.approx(own / 3), 2, pytest.approx(0, abs=1e-12), 5)


def test_two_rows_have_nothing_to_pool() -> None:
    scores = ImageScores({row: by_seed for row, by_seed in benchmark().items() if row != "row2"})
    assert scores.difference("row0", "row1", pooled=True) == scores.difference("row0", "row1")
    alone = ImageScores({row: {0: by_seed[0]} for row, by_seed in benchmark().items()})
    assert alone.difference("row0", "row1", pooled=True) == alone.difference("row0", "row1")


# families


def test_holm_on_a_textbook_example() -> None:
    np.testing.assert_allclose(holm_p_values([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm_p_values([0.5, math.nan, 0.02]), [0.5, math.nan, 0.04])
    assert holm_p_values([]).shape == (0,)


def test_family_judges_together() -> None:
    noise = Noise(3, 0.5e-4, 2, 1e-4, 29)
    members = [estimate(value, noise) for value in (0.2, 0.05, 0.0)] + [Estimate(0.3), Estimate(math.nan)]
    family = holm_family(members)
    assert family[0].clear
    assert members[1].clear
    assert family[0].holm_p_value == pytest.approx(3 * members[0].p_value)
    # 1 - .05 / 3 of the three that have noise
    assert (family[1].low, family[1].high) == bonferroni_interval(members[1], 3)
    assert family[1].high - 0.05 == pytest.approx(noise.half_width(1 - 0.05 / 3))
    assert math.isnan(family[3].holm_p_value)
    assert not family[3].clear
    assert not family[4].clear


def test_letters_on_an_example() -> None:
    order = ("a", "b", "c", "d")
    groups = tied_groups(order, [("a", "c"), ("a", "d"), ("b", "d")])
    assert groups == (("a", "b"), ("b", "c"), ("c", "d"))
    assert letter_display(order, groups) == {"a": "a", "b": "ab", "c": "bc", "d": "c"}
    assert tied_groups(order, []) == (order,)
    assert tied_groups(order, list(combinations(order, 2))) == (("a",), ("b",), ("c",), ("d",))
    many = [str(row) for row in range(28)]
    assert letter_display(many, [(row,) for row in many])["27"] == "ab"


def test_groups_are_all_largest_ones() -> None:
    rng = np.random.default_rng(0)
    order = tuple("abcdefg")
    for density in (0.2, 0.5, 0.8):
        different = [pair for pair in combinations(order, 2) if rng.random() < density]
        tied = [
            set(rows)
            for size in range(1, 8)
            for rows in combinations(order, size)
            if not any(set(pair) <= set(rows) for pair in different)
        ]
        largest = {frozenset(rows) for rows in tied if not any(rows < other for other in tied)}
        assert {frozenset(group) for group in tied_groups(order, different)} == largest


def test_ties_of_a_benchmark() -> None:
    rng = np.random.default_rng(0)

    def run(value: int) -> np.ndarray:
        right = np.clip(value + rng.integers(-3, 4, size=20), 0, 100)
        return np.stack([accuracy(v, 1)[0] for v in right])

    rows: Mapping[str, int] = {"worst": 30, "best": 80, "second": 80}
    scores = ImageScores({row: {s: run(value) for s in range(4)} for row, value in rows.items()})
    for pooled in (False, True):
        ties = holm_ties(scores, pooled=pooled)
        assert set(ties.order[:2]) == {"best", "second"}
        assert ties.groups == (ties.order[:2], ("worst",))
        assert ties.letters == {"best": "a", "second": "a", "worst": "b"}
        assert all(pair.estimate.value >= 0 for pair in ties.pairs.values())
    assert holm_ties(scores, ["worst", "best"]).order == ("best", "worst")


# plans


@pytest.mark.parametrize("noise", [Noise(2, 2e-4, 1, 1e-4, 29), Noise(3, 2e-4, 2, 1e-4, 5), Noise(3, 4e-4, 6, 0, 29)])
def test_a_plan_inverts(noise: Noise) -> None:
    for seeds in (2, 3, 7, 40):
        difference = detectable_difference(noise, seeds)
        assert seeds_needed(noise, 1.0001 * difference) == seeds
        assert seeds_needed(noise, 0.9999 * difference) == seeds + 1
    assert detectable_difference(noise) == detectable_difference(noise, noise.seeds)


def test_a_plan_needs_two_seeds() -> None:
    with pytest.raises(ValueError, match="at least two seeds, got 1"):
        detectable_difference(Noise(3, 2e-4, 2, 1e-4, 29), 1)


def test_a_plan_has_its_power() -> None:
    noise, rng = Noise(3, 2e-4, 2, 1e-4, 29), np.random.default_rng(0)
    difference = detectable_difference(noise)
    shown = []
    for _ in range(2000):
        seed, image = 2e-4 * rng.chisquare(2) / 2, 1e-4 * rng.chisquare(29) / 29
        value = difference + rng.normal(0, noise.standard_error)
        shown.append(Noise(3, seed, 2, image, 29).p_value(value) < 0.05)
    assert np.mean(shown) == pytest.approx(0.8, abs=0.04)


def test_no_number_of_seeds_helps_where_images_forbid_it() -> None:
    noise = Noise(3, 2e-4, 2, 1e-4, 29)
    floor = detectable_difference(noise, math.inf)
    # the textbook's sum of two quantiles, close to the noncentral t here
    assert floor == pytest.approx(0.01 * (stats.t.ppf(0.975, 29) + stats.t.ppf(0.8, 29)), rel=0.01)
    assert seeds_needed(noise, floor) == math.inf
    assert seeds_needed(noise, 0.5 * floor) == math.inf
    assert math.isfinite(seeds_needed(noise, 1.1 * floor))
    assert detectable_difference(Noise(2, 0.0, 1, 0.0, 29)) == 0
    assert seeds_needed(Noise(2, 0.0, 1, 0.0, 29), 0.01) == 2


# how often they hold


def test_intervals_hold_where_the_percentile_bootstrap_did_not() -> None:
    for design, seed_noise in ((Design(30, (5,) * 6), 2.0), (Design(30), 4.0)):
        cell = measure_coverage(design, seed_noise, replicates=160, truth_sets=500)
        for quantity in ("difference", "score"):
            assert cell.share(quantity, "new", 3) >= 0.9
        assert cell.share("difference", "percentile bootstrap", 3) <= cell.share("difference", "new", 3) - 0.07


@pytest.mark.slow
def test_a_large_table_takes_seconds() -> None:
    world = World(Design(500), (0.05,) * 30, 0.5, (0.0,) * 30)
    rng = np.random.default_rng(0)
    labelled, difficulty = world.labels(rng, 1)
    hits = world.hits(rng, labelled, difficulty, world.seed_effects(rng, 1, 5))
    confusions = {str(row): dict(enumerate(m)) for row, m in enumerate(world.confusions(labelled, hits)[0])}
    start = time.perf_counter()
    scores = ImageScores(confusions, draws=2000)
    ties = holm_ties(scores)
    assert len(ties.pairs) == 435
    assert time.perf_counter() - start < 20


def test_the_study_writes_its_tables_between_the_marks(tmp_path: Path) -> None:
    document = tmp_path / "x.md"
    document.write_text("a\n<!-- plan -->\nold\n<!-- end -->\nb <!-- other -->\n<!-- end -->\n")
    write_document({"plan": "| new |", "other": "| x |"}, document)
    assert document.read_text() == "a\n<!-- plan -->\n| new |\n<!-- end -->\nb <!-- other -->\n| x |\n<!-- end -->\n"
    with pytest.raises(ValueError, match="the marks are"):
        write_document({"plan": "| new |"}, document)


def test_the_document_has_the_plan_that_the_code_makes() -> None:
    document = Path(__file__).resolve().parents[2] / "docs" / "statistics.md"
    assert plan_table() in document.read_text()
