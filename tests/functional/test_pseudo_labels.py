"""Pseudo-labels and class balance against naive loops, and their edges."""

from __future__ import annotations

import math

import pytest
import torch

from uda.functional.class_balance import (
    class_balanced_labels,
    class_balanced_thresholds,
    mined_classes,
    multiband_probabilities,
    portion_thresholds,
    rare_classes,
    regularised_labels,
    threshold_labels,
)
from uda.functional.pseudo_labels import confidence_weight, entropy_split, pseudo_labels, sac_pseudo_labels


def images() -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Label and confidence maps of unequal sizes; class 4 is never predicted."""
    sizes = [(5, 8), (7, 3), (1, 1)]
    return [torch.randint(4, size) for size in sizes], [torch.rand(size) for size in sizes]


@pytest.mark.parametrize("stride", [1, 3])
def test_thresholds_are_those_of_a_loop(stride: int) -> None:
    labels, confidences = images()
    thresholds, selected = class_balanced_thresholds(labels, confidences, 5, portion=0.3, stride=stride)
    for c in range(5):
        kept = torch.cat([v[y == c][::stride] for y, v in zip(labels, confidences, strict=True)])
        k = math.floor(len(kept) * 0.3)
        assert selected[c] == k
        assert thresholds[c] == (kept.sort(descending=True).values[k - 1] if k else 1)


def test_portion_may_differ_by_class() -> None:
    labels, confidences = images()
    portion = torch.tensor([0.0, 0.5, 1.0, 0.2, 1.0])
    _, selected = class_balanced_thresholds(labels, confidences, 5, portion=portion, stride=1)
    counts = torch.cat([label.flatten() for label in labels]).bincount(minlength=5)
    assert torch.equal(selected, (counts.double() * portion.double()).floor().long())


def test_thresholds_of_no_image() -> None:
    thresholds, selected = class_balanced_thresholds([], [], 3)
    assert thresholds.tolist() == [1, 1, 1]
    assert selected.tolist() == [0, 0, 0]
    assert portion_thresholds([], [], 3).tolist() == [0, 0, 0]


def test_portion_threshold_of_a_single_pixel_is_its_confidence() -> None:
    one = portion_thresholds([torch.tensor([[1]])], [torch.tensor([[0.4]])], 3)
    assert one.tolist() == pytest.approx([0, 0.4, 0])
    assert portion_thresholds([torch.tensor([[1]])], [torch.tensor([[0.95]])], 2)[1].item() == pytest.approx(0.9)


def test_threshold_labels_keeps_the_threshold_itself() -> None:
    labels, confidence = torch.tensor([[[0, 0, 1]]]), torch.tensor([[[0.5, 0.4, 0.1]]])
    assert threshold_labels(labels, confidence, torch.tensor([0.5, 0.0])).tolist() == [[[0, 255, 1]]]


def test_rare_and_mined_classes() -> None:
    counts = torch.tensor([50, 0, 45, 5])
    assert rare_classes(counts, 2).tolist() == [1, 3]
    assert mined_classes(counts, 0.1).tolist() == [1, 3]
    assert mined_classes(torch.zeros(2, dtype=torch.long), 0.1).tolist() == [0, 1]


def test_weak_regularisation_gives_the_class_balanced_labels() -> None:
    prob, thresholds = torch.randn(2, 5, 6, 7).softmax(1), torch.tensor([0.2, 0.5, 0.3, 0.4, 0.25])
    soft, hard = regularised_labels(prob, thresholds, weight=1e-4)
    assert soft.isfinite().all()
    assert torch.equal(hard, class_balanced_labels(prob, thresholds))
    with pytest.raises(ValueError, match="positive"):
        regularised_labels(prob, thresholds, weight=0)


def test_regularised_labels_of_certain_pixels_are_finite() -> None:
    prob = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1)
    soft, hard = regularised_labels(prob, torch.tensor([0.5, 0.5]))
    assert soft.flatten().tolist() == [1, 0]
    assert hard.item() == 0


def test_weights_of_unknown_mode() -> None:
    with pytest.raises(ValueError, match="mode"):
        confidence_weight(torch.rand(1, 2, 2), mode="both")


def test_pseudo_label_rows_without_weight() -> None:
    logits = torch.zeros(2, 3, 6, 4)
    logits[:, 1] = 100
    labels, weight = pseudo_labels(logits, ignore_top=1, ignore_bottom=2)
    assert (labels == 1).all()
    assert weight[0, :, 0].tolist() == [0, 1, 1, 1, 0, 0]
    _, nothing = pseudo_labels(logits, ignore_bottom=99)
    assert not nothing.any()


def test_pseudo_labels_carry_no_gradient() -> None:
    _, weight = pseudo_labels(torch.randn(1, 3, 4, 4, requires_grad=True))
    assert not weight.requires_grad


def test_sac_drops_pixels_without_content() -> None:
    prob = torch.tensor([0.9, 0.1]).view(1, 2, 1, 1).expand(1, 2, 2, 2)
    invalid = torch.tensor([[[True, False], [False, False]]])
    labels, _ = sac_pseudo_labels(prob, torch.tensor([0.5, 0.5]), invalid=invalid)
    assert labels.tolist() == [[[255, 0], [0, 0]]]


def test_multiband_needs_a_weight_for_each_network() -> None:
    logits = [torch.randn(1, 3, 4, 4)] * 2
    torch.testing.assert_close(multiband_probabilities(logits), logits[0].softmax(1))
    for wrong in ([], [1.0]):
        with pytest.raises(ValueError, match="weight"):
            multiband_probabilities(logits, weights=wrong)
    with pytest.raises(ValueError, match="networks"):
        multiband_probabilities([])


def test_entropy_split_keeps_the_order_of_ties() -> None:
    easy, hard = entropy_split(torch.tensor([0.5, 0.1, 0.5, 0.1]), fraction=0.5)
    assert (easy.tolist(), hard.tolist()) == ([1, 3], [0, 2])
    with pytest.raises(ValueError, match="fraction"):
        entropy_split(torch.rand(3), fraction=1.1)
