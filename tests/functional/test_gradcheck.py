"""The gradient of every differentiable function agrees with finite differences in float64."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from itertools import count
from typing import Any, NamedTuple
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

from uda import functional

Input = Callable[[], Tensor]


class Case(NamedTuple):
    call: Callable[..., Any]
    """Of the inputs; everything else is fixed in it."""
    inputs: tuple[Input, ...]
    """Drawn anew by the test, all with gradient."""
    holds_detached: bool
    """The function detaches a part that the inputs change (a bandwidth): it is held still for the differences too."""


def case(call: Callable[..., Any], *inputs: Input, holds_detached: bool = False) -> Case:
    return Case(call, inputs, holds_detached)


def normal(*shape: int, scale: float = 1.0) -> Input:
    return lambda: scale * torch.randn(shape, dtype=torch.float64)


def uniform(*shape: int, low: float = 0.2, high: float = 0.8) -> Input:
    return lambda: low + (high - low) * torch.rand(shape, dtype=torch.float64)


def prob(*shape: int) -> Input:
    return lambda: torch.randn(shape, dtype=torch.float64).softmax(1)


def lab(low: float, high: float) -> Input:
    """Of colours well inside the gamut."""
    return lambda: functional.rgb_to_lab(uniform(2, 3, 2, 2, low=low, high=high)())


def constant(*shape: int) -> Tensor:
    """Logits or features that carry no gradient, the same at every call."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def double(*values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def normalised(context: Callable[..., AbstractContextManager[None]], images: Tensor, **options: Any) -> Tensor:
    """What a batch-norm layer makes of images inside a context manager."""
    network = nn.Sequential(nn.BatchNorm2d(3)).double().eval()
    with context(network, **options):
        output: Tensor = network(images)
    return output


def blended(mean: Tensor, var: Tensor, target_mean: Tensor, target_var: Tensor) -> functional.Statistics:
    source, target = functional.Statistics(mean, var), functional.Statistics(target_mean, target_var)
    return functional.blend_statistics({"layer": source}, {"layer": target}, 0.25)["layer"]


LABELS = torch.tensor([[[0, 1, 2], [255, 2, 0]], [[1, 1, 255], [2, 0, 1]]])
VALID = LABELS != 255
IDS = torch.tensor([0, 2, 0, 1])
AUGMENTATION = functional.StrongAugmentation(1.05, 0.95, 1.1, 0.1, order=(1, 3, 0, 2), sigma=0.8)
TURNED = double([[0.8, -0.3, 0.1], [0.3, 0.8, -0.1]], [[0.9, 0.2, 0.0], [-0.2, 0.9, 0.05]])
TURNED_BACK = double([[1.1, 0.41, -0.07], [-0.41, 1.1, 0.15]], [[1.06, -0.24, 0.01], [0.24, 1.06, -0.05]])
CORNER = torch.zeros(2, 3, 3, dtype=torch.bool)
CORNER[0, 0, 0] = True

OTHER_LOGITS, OTHER_FEATURES, DIRECTIONS = constant(2, 3, 2, 3), constant(2, 2, 2, 3), constant(3, 4)

logits, features = normal(2, 3, 2, 3), normal(2, 2, 2, 3)
images = uniform(2, 3, 2, 3)

CASES = {
    "a_distance": case(functional.a_distance, uniform(3)),
    "average_pool": case(lambda prob: functional.average_pool(prob, 2)[0], prob(4, 3, 2, 2)),
    "batch_statistics": case(partial(normalised, functional.batch_statistics), images),
    "batch_statistics, prior": case(
        partial(normalised, functional.batch_statistics, prior=0.5), images, holds_detached=True
    ),
    "bce_loss": case(lambda logits: functional.bce_loss(logits, 1), logits),
    "blend_statistics": case(blended, uniform(3), uniform(3), uniform(3), uniform(3)),
    "clan_weight_map": case(functional.clan_weight_map, logits, logits),
    "class_confusion_loss": case(functional.class_confusion_loss, normal(5, 3), holds_detached=True),
    "class_mean": case(lambda features: functional.class_mean(features, OTHER_LOGITS, min_pixels=1)[0], features),
    "class_mean, threshold": case(
        lambda features: functional.class_mean(features, OTHER_LOGITS, threshold=0.5, min_pixels=1)[0], features
    ),
    "colour_jitter": case(
        lambda images: functional.colour_jitter(images, 1.05, 0.95, 1.1, 0.1), uniform(2, 3, 2, 2, low=0.3, high=0.7)
    ),
    "colour_stats": case(functional.colour_stats, images),
    "colour_stats, lalphabeta": case(partial(functional.colour_stats, space="lalphabeta"), images),
    "confidence_weighted_mean": case(functional.confidence_weighted_mean, uniform(2, 2, 3), uniform(2, 1, 2, 3)),
    "confidence_weighted_mean, mixed": case(
        partial(functional.confidence_weighted_mean, mix_batch=True), uniform(2, 2, 3), uniform(2, 1, 2, 3)
    ),
    "coral": case(functional.coral, normal(4, 3), normal(5, 3)),
    "coral_tllib": case(functional.coral_tllib, normal(4, 3), normal(5, 3)),
    "cross_entropy_2d": case(lambda logits: functional.cross_entropy_2d(logits, LABELS), logits),
    "cross_entropy_2d, class weights": case(
        lambda logits: functional.cross_entropy_2d(logits, LABELS, class_weight=double(1, 2, 3)), logits
    ),
    "distillation_loss": case(lambda student: functional.distillation_loss(student, OTHER_LOGITS), logits),
    "distillation_loss, as published": case(
        lambda student: functional.distillation_loss(student, OTHER_LOGITS, as_published=True), logits
    ),
    "entropy_loss": case(functional.entropy_loss, prob(2, 3, 2, 2)),
    "feature_distance": case(lambda features: functional.feature_distance(features, OTHER_FEATURES), features),
    "feature_distance, mask": case(
        lambda features: functional.feature_distance(features, OTHER_FEATURES, VALID), features
    ),
    "focal_loss_map": case(lambda logits: functional.focal_loss_map(logits, LABELS, double(0.2, 0.3, 0.5)), logits),
    "gaussian_blur": case(lambda images: functional.gaussian_blur(images, 0.8), uniform(1, 1, 21, 22)),
    "group_log_prob": case(lambda logits: functional.group_log_prob(logits, [(0, 2), (1,)]), logits),
    "marginal_cross_entropy_map": case(
        lambda logits: functional.marginal_cross_entropy_map(logits, LABELS, [(0, 2)]), logits
    ),
    "hrda_losses": case(
        lambda fused, low, high: functional.hrda_losses(
            fused, low, high, LABELS, VALID * 0.5, (0, 2, 1, 3), low_weight=0.2
        ),
        logits,
        normal(2, 3, 1, 2),
        normal(2, 3, 2, 2),
    ),
    "image_stats": case(functional.image_stats, images),
    "iw_max_squares_loss": case(functional.iw_max_squares_loss, prob(2, 3, 2, 2)),
    "iw_soft_cross_entropy": case(functional.iw_soft_cross_entropy, logits, prob(2, 3, 2, 3)),
    "kl_divergence_map": case(functional.kl_divergence_map, logits, logits),
    "kld_regulariser": case(functional.kld_regulariser, logits),
    "lab_to_rgb": case(functional.lab_to_rgb, lab(0.2, 0.8)),
    "lab_to_rgb, dark": case(functional.lab_to_rgb, lab(0.01, 0.03)),
    "lalphabeta_to_rgb": case(functional.lalphabeta_to_rgb, normal(2, 3, 2, 2, scale=0.3)),
    "LinearMap": case(functional.LinearMap(constant(3, 3), constant(3)), images),
    "LinearMap, pixels": case(functional.LinearMap(constant(3, 3), constant(3)).pixels, uniform(4, 3)),
    "loss_by_class": case(lambda loss: functional.loss_by_class(loss, LABELS, 3), uniform(2, 2, 3)),
    "low_freq_swap": case(partial(functional.low_freq_swap, beta=0.25), uniform(1, 2, 4, 5), uniform(1, 2, 4, 5)),
    "ls_loss": case(lambda output: functional.ls_loss(output, 1), logits),
    "match_mean_std": case(functional.match_mean_std, images, uniform(2, 3), uniform(2, 3), uniform(1, 3), uniform(3)),
    "match_mean_std, not contiguous": case(
        lambda images, *statistics: functional.match_mean_std(images.transpose(2, 3), *statistics),
        images,
        uniform(2, 3),
        uniform(2, 3),
        uniform(1, 3),
        uniform(3),
    ),
    "max_squares_loss": case(functional.max_squares_loss, prob(2, 3, 2, 2)),
    "minimum_entropy_pool": case(lambda prob: functional.minimum_entropy_pool(prob, 2)[0], prob(4, 3, 2, 2)),
    "mix": case(lambda source, target: functional.mix(VALID, source, target), images, images),
    "mkmmd": case(functional.mkmmd, normal(4, 3), normal(4, 3), holds_detached=True),
    "mkmmd, linear": case(partial(functional.mkmmd, linear=True), normal(4, 3), normal(4, 3), holds_detached=True),
    "mmd": case(functional.mmd, normal(4, 3), normal(5, 3), holds_detached=True),
    "mmd, linear": case(partial(functional.mmd, linear=True), normal(4, 3), normal(4, 3), holds_detached=True),
    "mrkld_loss": case(lambda logits: functional.mrkld_loss(logits, LABELS, double(0.5, 1)), logits),
    "mrkld_soft_loss": case(
        lambda logits, soft_labels: functional.mrkld_soft_loss(logits, soft_labels, double(0.5, 1)),
        logits,
        prob(2, 3, 2, 3),
    ),
    "multiband_probabilities": case(
        lambda *logits: functional.multiband_probabilities(logits, (4, 5), weights=(0.4, 0.6)), logits, logits
    ),
    "negative_entropy": case(functional.negative_entropy, logits),
    "prototype_consistency": case(
        lambda student: functional.prototype_consistency(student, OTHER_LOGITS.abs()), uniform(2, 3, 2, 3)
    ),
    "prototype_distance": case(functional.prototype_distance, features, normal(3, 2)),
    "prototype_update": case(
        lambda prototypes, vectors: functional.prototype_update(
            prototypes, double(5, 0, 1), vectors, IDS, momentum=0.1
        )[0],
        normal(3, 2),
        normal(4, 2),
    ),
    "prototype_update, running mean": case(
        lambda prototypes, vectors: functional.prototype_update(
            prototypes, double(5, 0, 1), vectors, IDS, momentum=None
        )[0],
        normal(3, 2),
        normal(4, 2),
    ),
    "prototype_weight": case(partial(functional.prototype_weight, temperature=2), uniform(2, 3, 2, 2)),
    "rectify": case(lambda weight, soft: functional.rectify(weight, soft)[1], prob(2, 3, 2, 2), prob(2, 3, 2, 2)),
    "refine": case(lambda logits: functional.refine(logits, TURNED, TURNED_BACK, CORNER, 2), normal(2, 3, 2, 2)),
    "refine, minimum entropy": case(
        lambda logits: functional.refine(logits, TURNED, TURNED_BACK, CORNER, 2, pool=functional.minimum_entropy_pool),
        normal(2, 3, 2, 2),
    ),
    "regularised_labels": case(
        lambda prob: functional.regularised_labels(prob, double(0.3, 0.5, 0.4))[0], prob(2, 3, 2, 2)
    ),
    "reinhard": case(
        functional.reinhard, uniform(2, 3, 2, 3, low=0.4, high=0.6), uniform(1, 3, 2, 2, low=0.4, high=0.6)
    ),
    "reinhard, lalphabeta": case(partial(functional.reinhard, space="lalphabeta"), images, uniform(1, 3, 2, 2)),
    "resize_logits": case(lambda logits: functional.resize_logits(logits, LABELS), normal(2, 3, 1, 2)),
    "reverse_cross_entropy": case(lambda logits: functional.reverse_cross_entropy(logits, LABELS), logits),
    "reverse_huber_loss": case(
        functional.reverse_huber_loss, normal(8, scale=3), normal(8, scale=3), holds_detached=True
    ),
    "rgb_to_lab": case(functional.rgb_to_lab, images),
    "rgb_to_lab, dark": case(functional.rgb_to_lab, uniform(2, 3, 2, 2, low=0.01, high=0.03)),
    "rgb_to_lalphabeta": case(functional.rgb_to_lalphabeta, images),
    "robust_entropy_loss": case(functional.robust_entropy_loss, logits),
    "running_confidence": case(functional.running_confidence, uniform(3), prob(2, 3, 2, 2)),
    "running_confidence, fresh": case(
        lambda prob: functional.running_confidence(double(1e-3, 1e-3, 0.5), prob), prob(2, 3, 2, 2)
    ),
    "sac_pseudo_labels": case(
        lambda prob: functional.sac_pseudo_labels(prob, double(0.2, 0.3, 0.5))[1], prob(2, 3, 2, 2)
    ),
    "sample_pixels": case(lambda images: functional.sample_pixels(images, 5, torch.Generator().manual_seed(0)), images),
    "self_information": case(functional.self_information, prob(2, 3, 2, 2)),
    "sliced_wasserstein": case(
        lambda x, y: functional.sliced_wasserstein(x, y, DIRECTIONS), normal(4, 3), normal(5, 3)
    ),
    "soft_cross_entropy": case(functional.soft_cross_entropy, logits, prob(2, 3, 2, 3)),
    "soft_cross_entropy_map": case(functional.soft_cross_entropy_map, logits, prob(2, 3, 2, 3)),
    "softmax_entropy": case(functional.softmax_entropy, logits),
    "strong_augment": case(
        lambda images: functional.strong_augment(images, parameters=AUGMENTATION),
        uniform(1, 3, 21, 2, low=0.3, high=0.7),
    ),
    "strong_augment_each": case(
        lambda images: functional.strong_augment_each(images, torch.Generator().manual_seed(3), jitter_probability=0),
        uniform(2, 3, 21, 2, low=0.3, high=0.7),
    ),
    "symmetric_cross_entropy": case(lambda logits: functional.symmetric_cross_entropy(logits, LABELS), logits),
    "uncertainty_rectified_loss": case(
        lambda logits, other_logits: functional.uncertainty_rectified_loss(logits, other_logits, LABELS), logits, logits
    ),
    "updating_statistics": case(partial(normalised, functional.updating_statistics), images),
    "warp": case(functional.warp, normal(2, 3, 4, 5), lambda: TURNED.clone()),
    "weighted_bce_loss": case(
        lambda logits, weight_map: functional.weighted_bce_loss(logits, 0, weight_map),
        normal(2, 1, 2, 2),
        uniform(2, 1, 4, 4),
    ),
    "weighted_cross_entropy": case(
        lambda logits, weight: functional.weighted_cross_entropy(logits, LABELS, weight),
        normal(2, 3, 1, 2),
        uniform(2, 2, 3),
    ),
}
"""By the function's name and, behind a comma, a variant."""

NOT_DIFFERENTIABLE = {
    "ColourMap": "abstract",
    "EntropicMap": "detached",
    "HrdaLosses": "container",
    "NearestMap": "detached",
    "RandAugmentation": "container",
    "Statistics": "container",
    "StrongAugmentation": "container",
    "affine_parameters": "lookup",
    "batch_norms": "lookup",
    "block_grid": "integers",
    "block_mask": "sampling",
    "blur_kernel_size": "integers",
    "cell_labels": "labels",
    "check_prob": "check",
    "choose_classes": "sampling",
    "class_balanced_labels": "labels",
    "class_balanced_thresholds": "threshold",
    "class_cells": "mask",
    "class_cluster_score": "float",
    "class_mask": "mask",
    "class_mix_masks": "mask",
    "collect_statistics": "detached",
    "confidence_weight": "threshold",
    "confident_labels": "detached",
    "confident_share": "threshold",
    "crop_soft_labels": "integers",
    "cut_window": "labels",
    "deep_embedded_risk": "float",
    "diversity_score": "float",
    "downscale_label": "labels",
    "draw_rand_augmentation": "sampling",
    "draw_strong_augmentation": "sampling",
    "draw_windows": "sampling",
    "emd_cost": "float",
    "entropy_score": "float",
    "entropy_split": "sorting",
    "fda_source_to_target": "detached",
    "fit_colour_map": "detached",
    "frechet": "float",
    "evenly_spaced": "integers",
    "half_width": "integers",
    "image_class_weights": "counting",
    "information_score": "float",
    "inside_margins": "mask",
    "label_classes": "labels",
    "load_statistics": "in-place",
    "match_histograms": "detached",
    "mined_classes": "counting",
    "neighbourhood_density": "float",
    "nuclear_norm_score": "float",
    "pack_soft_labels": "integers",
    "pixel_accuracy": "counting",
    "poly": "schedule",
    "pooled_statistics": "detached",
    "portion_thresholds": "threshold",
    "pseudo_labels": "detached",
    "rand_augment": "augmentation",
    "rand_augment_maps": "augmentation",
    "random_projections": "sampling",
    "rare_classes": "counting",
    "rcs_probs": "counting",
    "reset_statistics": "in-place",
    "running_statistics": "copy",
    "sorted_confidences": "sorting",
    "threshold_labels": "labels",
    "transport_colours": "float32",
    "warmup_factor": "schedule",
    "warmup_poly": "schedule",
    "window_positions": "integers",
    "without_margins": "weights",
}


def detached_held(call: Callable[..., Any]) -> Callable[..., Any]:
    """``call`` in which what is detached stays as at the first call, where gradcheck takes the gradient."""
    detach, first_values = torch.Tensor.detach, []

    def held(*inputs: Tensor) -> Any:
        calls = count()

        def held_detach(tensor: Tensor) -> Tensor:
            index = next(calls)
            if index == len(first_values):
                first_values.append(detach(tensor).clone())
            return first_values[index]

        with mock.patch.object(torch.Tensor, "detach", held_detach):
            return call(*inputs)

    return held


@pytest.mark.parametrize("name", CASES)
def test_gradient(name: str) -> None:
    call, inputs, holds_detached = CASES[name]
    values = [value().requires_grad_() for value in inputs]
    if holds_detached:
        assert not torch.autograd.gradcheck(call, values, raise_exception=False)
        call = detached_held(call)
    assert torch.autograd.gradcheck(call, values)


def test_flat_channel_has_a_finite_gradient() -> None:
    std = double(0, 1, 1).requires_grad_()
    functional.match_mean_std(OTHER_LOGITS, double(0, 0, 0), std, double(1, 1, 1), double(1, 1, 1)).sum().backward()
    assert std.grad is not None
    assert std.grad.isfinite().all()
    assert std.grad[0] == 0


def test_every_public_object_is_checked_or_listed() -> None:
    checked = {name.partition(",")[0] for name in CASES}
    public = {name for name in functional.__all__ if callable(getattr(functional, name))}
    assert checked | set(NOT_DIFFERENTIABLE) == public
    assert not checked & set(NOT_DIFFERENTIABLE)
