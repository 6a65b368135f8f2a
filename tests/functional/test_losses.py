"""What the recorded vectors do not show: empty sets, batches, any number of classes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from uda.functional import adversarial, entropy, losses, prototypes


def batch(images: int = 2, classes: int = 4, size: tuple[int, int] = (6, 7)) -> tuple[torch.Tensor, torch.Tensor]:
    logits = torch.randn(images, classes, *size, requires_grad=True)
    return logits, torch.randint(classes, (images, *size))


PIXEL_LOSSES = {
    "cross_entropy_2d": losses.cross_entropy_2d,
    "class weights": lambda x, y: losses.cross_entropy_2d(x, y, class_weight=torch.arange(1.0, x.shape[1] + 1)),
    "weighted": lambda x, y: losses.weighted_cross_entropy(x, y, torch.rand(y.shape)),
    "mrkld": lambda x, y: losses.mrkld_loss(x, y, torch.ones(len(x))),
    "reverse": losses.reverse_cross_entropy,
    "symmetric": losses.symmetric_cross_entropy,
    "focal": lambda x, y: losses.focal_loss_map(x, y, torch.full((x.shape[1],), 0.2)).mean(),
}


@pytest.mark.parametrize("name", PIXEL_LOSSES)
@pytest.mark.parametrize(("images", "classes"), [(1, 2), (2, 4), (3, 19)])
def test_all_ignored_is_zero_with_graph(name: str, images: int, classes: int) -> None:
    logits, labels = batch(images, classes)
    loss = PIXEL_LOSSES[name](logits, torch.full_like(labels, 255))
    (grad,) = torch.autograd.grad(loss, logits)
    assert loss.item() == 0
    assert not grad.any()


@pytest.mark.parametrize("name", PIXEL_LOSSES)
def test_ignored_pixels_get_no_gradient(name: str) -> None:
    logits, labels = batch()
    labels[:, :3] = 255
    loss = PIXEL_LOSSES[name](logits, labels)
    (grad,) = torch.autograd.grad(loss, logits)
    assert loss.item() > 0
    assert not grad[:, :, :3].any()
    assert grad[:, :, 3:].abs().sum() > 0


def test_agreeing_heads_leave_the_cross_entropy() -> None:
    logits, labels = batch()
    same = losses.uncertainty_rectified_loss(logits, logits, labels)
    torch.testing.assert_close(same, F.cross_entropy(logits, labels))
    other = torch.randn_like(logits)
    ignored = losses.uncertainty_rectified_loss(logits, other, torch.full_like(labels, 255))
    torch.testing.assert_close(ignored, entropy.kl_divergence_map(logits, other).mean())


def test_cross_entropy_2d_is_torchs_mean() -> None:
    logits, labels = batch()
    labels[0, :2] = 255
    weight = torch.tensor([1.0, 2.0, 0.5, 3.0])
    expected = F.cross_entropy(logits, labels, weight=weight, ignore_index=255)
    torch.testing.assert_close(losses.cross_entropy_2d(logits, labels, class_weight=weight), expected)
    negative = labels.masked_fill(labels == 255, -1)
    torch.testing.assert_close(losses.cross_entropy_2d(logits, negative, class_weight=weight), expected)


def test_a_label_outside_the_space_raises() -> None:
    logits, labels = batch(classes=4)
    labels[0, 0, 0] = 17
    with pytest.raises(IndexError):
        losses.cross_entropy_2d(logits, labels)


def test_pixel_accuracy_counts_ignored_only_when_asked() -> None:
    labels = torch.tensor([[[0, 1], [255, 255]]])
    logits = F.one_hot(torch.tensor([[[0, 0], [1, 1]]]), 2).movedim(-1, 1).float()
    assert losses.pixel_accuracy(logits, labels).item() == 50
    assert losses.pixel_accuracy(logits, labels, count_ignored=True).item() == 25
    assert losses.pixel_accuracy(logits, torch.full_like(labels, 255)).item() == 0


def test_mrkld_without_regularised_images_is_cross_entropy() -> None:
    logits, labels = batch()
    none = torch.zeros(2)
    torch.testing.assert_close(losses.mrkld_loss(logits, labels, none), F.cross_entropy(logits, labels))
    one_hot = F.one_hot(labels, 4).movedim(-1, 1).float()
    soft = losses.mrkld_soft_loss(logits, one_hot, torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(soft, losses.mrkld_loss(logits, labels, torch.tensor([1.0, 0.0])))
    assert losses.mrkld_soft_loss(logits, torch.zeros_like(logits), none).item() == 0


def test_hrda_needs_the_logits_it_weighs() -> None:
    logits, labels = batch()
    with pytest.raises(ValueError, match="low_weight"):
        losses.hrda_losses(logits, None, logits, labels, None, (0, 6, 0, 7), low_weight=0.1)
    terms = losses.hrda_losses(logits, None, logits, labels, None, (0, 6, 0, 7), high_weight=0.3)
    torch.testing.assert_close(sum(terms), F.cross_entropy(logits, labels))


@pytest.mark.parametrize("classes", [1, 2, 5])
def test_entropy_is_normalised_for_any_number_of_classes(classes: int) -> None:
    uniform = torch.full((1, classes, 2, 3), 1 / classes)
    certain = F.one_hot(torch.zeros(1, 2, 3, dtype=torch.long), classes).movedim(-1, 1).float()
    assert entropy.entropy_loss(uniform).item() == pytest.approx(1.0 if classes > 1 else 0.0)
    assert entropy.entropy_loss(certain).item() == pytest.approx(0.0, abs=1e-6)
    assert entropy.entropy_loss(certain.requires_grad_()).isfinite()


def test_max_squares_leaves_out_marked_elements() -> None:
    prob = torch.rand(2, 3, 4, 5)
    marked = prob.clone()
    marked[0] = -1
    torch.testing.assert_close(entropy.max_squares_loss(marked), entropy.max_squares_loss(prob[1:]))
    assert entropy.max_squares_loss(torch.full_like(prob, -1)).item() == 0


def test_class_confusion_of_few_samples() -> None:
    logits = torch.randn(0, 5, requires_grad=True)
    assert entropy.class_confusion_loss(logits).item() == 0
    certain = torch.full((3, 4), -1e4)
    certain[:, 1] = 1e4  # two classes have no mass at all
    assert entropy.class_confusion_loss(certain).isfinite()


def test_clan_upsamples_the_discriminators_output() -> None:
    weights = adversarial.clan_weight_map(torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8))
    small = torch.randn(2, 1, 2, 2)
    large = F.interpolate(small, (8, 8), mode="bilinear", align_corners=False)
    expected = adversarial.weighted_bce_loss(large, 1, weights)
    torch.testing.assert_close(adversarial.weighted_bce_loss(small, 1, weights), expected)
    same = adversarial.clan_weight_map(small, small)
    torch.testing.assert_close(same, torch.zeros_like(same), atol=1e-6, rtol=0)


def test_prototypes_of_an_image_without_any_class() -> None:
    features, logits = torch.randn(1, 4, 2, 2), torch.randn(1, 3, 2, 2)
    vectors, ids = prototypes.class_mean(features, logits)  # fewer than ten pixels
    assert vectors.shape == (0, 4)
    assert ids.shape == (0,)
    start = torch.randn(3, 4), torch.ones(3)
    for before, after in zip(start, prototypes.prototype_update(*start, vectors, ids), strict=True):
        assert torch.equal(before, after)


def test_prototype_update_starts_with_the_mean_and_caps_its_count() -> None:
    vectors, ids = torch.ones(3, 2), torch.zeros(3, dtype=torch.long)
    start = torch.zeros(1, 2), torch.zeros(1)
    moved, counts = prototypes.prototype_update(*start, vectors, ids, momentum=0.5, mean_first=1, max_count=2)
    assert torch.equal(moved, torch.ones(1, 2))
    assert counts.item() == 2
    assert not start[0].any()


def test_padded_consistency_is_zero_with_graph() -> None:
    student = torch.rand(1, 3, 2, 2, requires_grad=True)
    loss = prototypes.prototype_consistency(student, torch.full((1, 3, 2, 2), 250.0))
    (grad,) = torch.autograd.grad(loss, student)
    assert loss.item() == 0
    assert not grad.any()


def test_distance_to_its_own_prototype_has_no_nan_gradient() -> None:
    features = torch.randn(1, 4, 2, 2, requires_grad=True)
    distance = prototypes.prototype_distance(features, features.detach()[0].flatten(1).T)
    (grad,) = torch.autograd.grad(distance.sum(), features)
    assert grad.isfinite().all()
