"""Regions of a label map, distances of feature sets: against small cases worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from uda.gap.latent import centred_distance, distances, domain_auc, project
from uda.gap.regions import boundary_distance, object_shares, region_sums


def test_distance_from_a_boundary_is_in_pixels_and_ignores_what_is_ignored() -> None:
    label = np.zeros((5, 8), np.int64)
    label[:, 4:] = 1
    assert boundary_distance(label)[2].tolist() == [4, 3, 2, 1, 1, 2, 3, 4]
    label[:, 4:] = 255
    assert np.isinf(boundary_distance(label)).all()


def test_objects_are_connected_regions_of_one_class() -> None:
    label = np.zeros((4, 5), np.int64)
    label[0, 0] = label[1, 1] = 1  # diagonal neighbours: one region
    label[3, 4] = 1
    shares = object_shares(label)
    assert shares[0, 0] == shares[1, 1] == pytest.approx(2 / 20)
    assert shares[3, 4] == pytest.approx(1 / 20)
    assert shares[2, 2] == pytest.approx(17 / 20)


def test_sums_of_each_kind_hold_every_labelled_pixel_once() -> None:
    generator = np.random.default_rng(0)
    label = generator.integers(0, 3, (20, 30)).repeat(2, 0)
    label[:3] = 255
    losses = generator.random(label.shape).astype(np.float32)
    sums = region_sums(losses, label, classes=3)
    scored = label != 255
    for values in sums.values():
        assert values[0].sum() == pytest.approx(losses[scored].sum(), rel=1e-6)
        assert values[1].sum() == scored.sum()
    assert sums["class"][0][1] == pytest.approx(losses[label == 1].sum(), rel=1e-6)
    assert sums["height"][1][0] == 30 * 1  # of the first tenth, four rows, three are ignored


def features(shift: float, seed: int, sequences: int = 12, each: int = 4) -> tuple[np.ndarray, list[str]]:
    """Features in which images of one sequence are nearly alike."""
    generator = np.random.default_rng(seed)
    centres = generator.normal(0, 1, (sequences, 6))
    rows = centres.repeat(each, 0) + generator.normal(0, 0.05, (sequences * each, 6))
    rows[:, 0] += shift
    return rows, [f"{k // each}" for k in range(len(rows))]


def test_the_classifier_cannot_learn_sequences_by_heart() -> None:
    (x, groups), (y, others) = features(0, 0), features(0, 1)
    area = domain_auc(x, y, [f"s{g}" for g in groups] + [f"t{g}" for g in others])
    # images as their own groups: the neighbours of a sequence give it away
    naive = domain_auc(x, y, [f"{k}" for k in range(len(x) + len(y))])
    assert area < 0.75 < naive


def test_a_shift_is_seen_by_all_distances_and_none_by_any() -> None:
    (x, groups), (near, others), (far, _) = features(0, 0, 24), features(0, 1, 24), features(4, 2, 24)
    for distance in distances(x, far, groups, others):
        assert distance.value.value > distance.baseline.high, distance
    for distance in distances(x, near, groups, others):
        assert distance.value.value < 1.6 * distance.baseline.high, distance


def test_distances_need_images_and_sequences() -> None:
    x, groups = features(0, 0)
    with pytest.raises(ValueError, match="at least 4 images"):
        distances(x, x[:3], groups, groups[:3])
    with pytest.raises(ValueError, match="a single sequence"):
        distances(x, x, ["drive"] * len(x), groups)


def test_projection_has_fixed_signs_and_places_others_in_its_axes() -> None:
    x, _ = features(0, 0)
    (own, other), axes = project(x, [x[:5]])
    assert np.allclose(own[:5], other)
    assert axes[0].startswith("PC 1")
    (again,), _ = project(x)
    assert np.array_equal(own, again)
    with pytest.raises(ValueError, match="must be one of pca, tsne, umap"):
        project(x, method="lda")  # type: ignore[arg-type]


def test_distance_to_the_source_is_about_one_within_and_larger_outside() -> None:
    x, _ = features(0, 0)
    far, _ = features(5, 3)
    assert 0.5 < np.median(centred_distance(x, x)) < 1.5
    assert centred_distance(far, x).min() > np.median(centred_distance(x, x))
