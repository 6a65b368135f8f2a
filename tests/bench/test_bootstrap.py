from __future__ import annotations

import numpy as np
import pytest

from uda.bench.bootstrap import Draws, compare, draw, interval, mean_iou, resampled


def confusions(seeds: int = 3, images: int = 5, classes: int = 4, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    found = rng.integers(0, 50, size=(seeds, images, classes, classes))
    # a class that only the first image has, and one that no label has
    found[:, 1:, 2] = 0
    found[:, :, 3] = 0
    return found


def naive(confusion: np.ndarray, classes: list[int]) -> float:
    ious = []
    for c in classes:
        truth = sum(confusion[c])
        if truth:
            ious.append(confusion[c, c] / (truth + sum(confusion[:, c]) - confusion[c, c]))
    return sum(ious) / len(ious)


@pytest.mark.parametrize("mode", ["shared", "nested"])
@pytest.mark.parametrize("only", [None, [0, 2]])
def test_resamples_equal_a_naive_loop(mode: str, only: list[int] | None) -> None:
    data = confusions()
    mask = None if only is None else np.isin(np.arange(4), only)
    draws = draw(3, 5, resamples=40, seed=1, mode=mode)
    expected = []
    for r in range(40):
        scores = []
        for slot, seed in enumerate(draws.seeds[r]):
            weights = draws.weights[r, slot if mode == "nested" else 0]
            images = [data[seed, image] for image, times in enumerate(weights) for _ in range(times)]
            scores.append(naive(sum(images), only or [0, 1, 2, 3]))
        expected.append(np.mean(scores))
    np.testing.assert_allclose(resampled(data, draws, mask), expected, rtol=1e-12)


def test_every_draw_has_as_many_seeds_and_images_as_there_are() -> None:
    draws = draw(4, 7, resamples=20, mode="nested")
    assert draws.seeds.shape == (20, 4)
    assert draws.weights.shape == (20, 4, 7)
    assert (draws.weights.sum(-1) == 7).all()
    assert draws.seeds.max() == 3
    assert len(np.unique(draws.seeds, axis=0)) > 1


def test_point_estimate_is_the_mean_over_seeds_of_the_pooled_miou() -> None:
    data = confusions()
    assert mean_iou(data) == pytest.approx(np.mean([naive(one.sum(0), [0, 1, 2, 3]) for one in data]))


def test_unlabelled_class_does_not_change_the_mean_but_its_false_positives_cost() -> None:
    one = np.array([[[[8, 0], [0, 0]]]])
    assert mean_iou(one) == 1.0
    assert mean_iou(np.array([[[[8, 2], [0, 0]]]])) == pytest.approx(0.8)
    assert np.isnan(mean_iou(np.zeros((1, 1, 2, 2), int)))


def test_interval_is_the_central_95_percent() -> None:
    found = interval(0.5, np.linspace(0, 1, 1001))
    assert (found.low, found.high) == pytest.approx((0.025, 0.975))
    assert not interval(0.1, np.array([-0.1, 0.2])).clear
    assert interval(-0.1, np.array([-0.2, -0.05])).clear
    unknown = interval(0.5, np.array([np.nan]))
    assert np.isnan(unknown.low)
    assert not unknown.clear


def accuracy(value: int, images: int = 6) -> np.ndarray:
    """Two classes, of which ``value`` % of the pixels are right in each: IoU = v / (200 - v)."""
    return np.tile(np.array([[value, 100 - value], [100 - value, value]]), (images, 1, 1))


def iou(value: int) -> float:
    return value / (200 - value)


def test_gap_closed_on_known_numbers() -> None:
    found = compare({0: accuracy(70)}, {0: accuracy(60)}, {0: accuracy(80)})
    expected = (iou(70) - iou(60)) / (iou(80) - iou(60))
    assert found.score.value == pytest.approx(iou(70))
    assert found.delta.value == pytest.approx(iou(70) - iou(60))
    assert (found.gap_closed.value, found.gap_closed.low, found.gap_closed.high) == pytest.approx((expected,) * 3)


def test_no_gap_is_closed_where_the_oracle_is_not_above() -> None:
    assert not compare({0: accuracy(70)}, {0: accuracy(60)}, {0: accuracy(60)}).gap_closed.known
    assert not compare({0: accuracy(70)}, {0: accuracy(60)}, {0: accuracy(50)}).gap_closed.known


def test_difference_is_paired_by_seed_and_image() -> None:
    # images and seeds differ a lot, the method is one and the same amount better everywhere
    base = {seed: np.concatenate([accuracy(30 + 10 * seed, 3), accuracy(80, 3)]) for seed in range(3)}
    better = {seed: one + np.array([[1, -1], [-1, 1]]) for seed, one in base.items()}
    found = compare(better, base)
    assert found.delta.clear
    assert found.score.high - found.score.low > 10 * (found.delta.high - found.delta.low)
    same = compare(base, base)
    assert (same.delta.value, same.delta.low, same.delta.high) == (0, 0, 0)


def test_only_shared_seeds_enter_the_difference() -> None:
    found = compare({0: accuracy(70), 1: accuracy(10)}, {0: accuracy(60), 2: accuracy(99)})
    assert found.delta.value == pytest.approx(iou(70) - iou(60))
    assert not compare({0: accuracy(70)}, {1: accuracy(60)}).delta.known


def test_seeds_widen_the_interval() -> None:
    apart = compare({0: accuracy(40), 1: accuracy(80)}).score
    assert apart.low == pytest.approx(iou(40))
    assert apart.high == pytest.approx(iou(80))


def test_shared_images_give_wider_intervals_than_images_drawn_for_each_seed() -> None:
    one = np.concatenate([accuracy(20, 3), accuracy(90, 3)])
    stack = np.stack([one] * 4)
    widths = {}
    for mode in ("shared", "nested"):
        widths[mode] = np.std(resampled(stack, draw(4, 6, resamples=2000, mode=mode)))
    assert widths["shared"] > 1.6 * widths["nested"]


def test_wrong_numbers_are_refused() -> None:
    for numbers in ((0, 5), (3, 0)):
        with pytest.raises(ValueError, match="at least one"):
            draw(*numbers)
    assert isinstance(draw(1, 1), Draws)
