"""Schedules, sampling, label cells, fusion and validators at their edges."""

from __future__ import annotations

import math

import pytest
import torch

from uda.functional.features import class_cells, feature_distance
from uda.functional.fusion import average_pool, minimum_entropy_pool, refine
from uda.functional.labels import downscale_label
from uda.functional.sampling import rcs_probs
from uda.functional.schedule import poly, warmup_poly
from uda.functional.validators import class_cluster_score, deep_embedded_risk, neighbourhood_density


def test_poly_ends_at_its_minimum_and_stays() -> None:
    assert poly(0, 0.1, 10, minimum=0.01) == pytest.approx(0.1)
    assert poly(10, 0.1, 10, minimum=0.01) == poly(99, 0.1, 10, minimum=0.01) == pytest.approx(0.01)
    with pytest.raises(ValueError, match="total"):
        poly(0, 0.1, 0)


def test_warmup_joins_the_decay() -> None:
    rates = [warmup_poly(i, 1.0, 100, warmup=10, ratio=0.0) for i in range(100)]
    assert rates[0] == 0
    assert rates[10:] == [poly(i, 1.0, 100, 1.0) for i in range(10, 100)]
    assert rates[:10] == sorted(rates[:10])
    assert warmup_poly(0, 1.0, 100, warmup=0) == 1


def test_rare_class_sampling_prefers_the_rare() -> None:
    classes, prob = rcs_probs(torch.tensor([100, 0, 1, 10]), 0.1)
    assert classes.tolist() == [2, 3, 0]
    assert prob.tolist() == sorted(prob.tolist(), reverse=True)
    for counts, temperature in ((torch.zeros(3), 0.1), (torch.ones(3), 0.0)):
        with pytest.raises(ValueError, match=r"class|temperature"):
            rcs_probs(counts, temperature)


def test_downscaled_ties_and_ignored_cells() -> None:
    tie = torch.tensor([[[2, 1], [1, 2]]])
    assert downscale_label(tie, 2, num_classes=3, min_ratio=0.5).item() == 1
    assert downscale_label(tie, 2, num_classes=3).item() == 255
    assert downscale_label(torch.full((1, 2, 2), 255), 2, num_classes=3).item() == 255
    assert torch.equal(downscale_label(tie, 1, num_classes=3), tie)
    with pytest.raises(ValueError, match="scale"):
        downscale_label(tie, 0, num_classes=3)


def test_cells_of_features_that_the_stride_does_not_divide() -> None:
    labels = torch.ones(1, 10, 10, dtype=torch.long)
    cells = class_cells(labels, (3, 3), [1], num_classes=2)  # stride 4 padded: 10 // 3 = 3 pixels a cell
    assert cells.shape == (1, 3, 3)
    wide = class_cells(labels, (2, 5), [1], num_classes=2)
    assert wide.shape == (1, 2, 5)
    assert not class_cells(labels, (3, 3), [], num_classes=2).any()


def test_feature_distance_without_mask() -> None:
    ones = torch.ones(2, 4, 3, 3)
    assert feature_distance(ones, torch.zeros_like(ones)).item() == 2


def test_identity_fusion_returns_the_prediction() -> None:
    logits = torch.randn(2, 3, 8, 8)
    identity = torch.eye(2, 3).expand(2, 2, 3)
    nothing = torch.zeros(2, 8, 8, dtype=torch.bool)
    for pool in (average_pool, minimum_entropy_pool):
        refined = refine(logits, identity, identity, nothing, 1, pool=pool)
        torch.testing.assert_close(refined, logits.softmax(1), atol=1e-5, rtol=1e-4)


def test_fusion_prefers_the_certain_crop() -> None:
    certain, unsure = torch.tensor([0.9, 0.1]), torch.tensor([0.5, 0.5])
    prob = torch.stack([unsure, certain])[:, :, None, None]
    assert torch.equal(minimum_entropy_pool(prob, 2)[0][0].flatten(), certain)
    torch.testing.assert_close(average_pool(prob, 2)[0][1].flatten(), torch.tensor([0.7, 0.3]))
    _, mask = average_pool(torch.zeros_like(prob), 2)
    assert not mask.any()


def test_density_is_high_where_all_are_neighbours() -> None:
    same = torch.ones(6, 3)
    assert neighbourhood_density(same) == pytest.approx(math.log(5))
    assert neighbourhood_density(torch.eye(6)[:, :6]) == pytest.approx(math.log(5))  # all equally far
    pairs = torch.eye(3).repeat_interleave(2, 0)
    assert neighbourhood_density(pairs) < 0.1


def test_dev_risk_of_equal_weights_is_the_mean_error() -> None:
    errors = torch.rand(10)
    assert deep_embedded_risk(torch.ones(10), errors) == pytest.approx(errors.mean().item())
    with pytest.raises(ValueError, match="normalisation"):
        deep_embedded_risk(errors, errors, normalisation="sum")
    with pytest.raises(ValueError, match="two samples"):
        deep_embedded_risk(errors[:1], errors[:1])


def test_clusters_that_are_the_classes_score_one() -> None:
    logits = torch.eye(3)[torch.arange(30) % 3]
    assert class_cluster_score(logits * 10 + 0.01 * torch.randn(30, 3), logits) == pytest.approx(1)
    absent = torch.cat([logits, torch.full((30, 1), -9.0)], 1)  # a class that is never predicted
    assert class_cluster_score(logits * 10, absent) == pytest.approx(1)
