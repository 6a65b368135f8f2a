"""Tensors in, tensors out: the maths of the methods, each usable on its own.

Everything is importable from here. What needs POT or SciPy is imported when it is first asked for.

An argument's name says what it holds: ``logits`` (and ``other_logits``, ``teacher_logits``) are raw outputs, of which a
function takes the softmax over the classes itself; so are the three outputs of :func:`hrda_losses`. ``prob``,
``soft_labels``, ``confidence`` and ``prior`` are probabilities in [0, 1]. Logits in place of probabilities are a
``ValueError`` (:func:`check_prob` says when it is looked for and what that costs); probabilities
in place of logits are logits too, and nobody can tell.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from uda.functional.adversarial import (
    bce_loss,
    clan_weight_map,
    ls_loss,
    weighted_bce_loss,
)
from uda.functional.augment import (
    OPERATIONS,
    StrongAugmentation,
    blur_kernel_size,
    colour_jitter,
    draw_strong_augmentation,
    gaussian_blur,
    strong_augment,
    strong_augment_each,
)
from uda.functional.checks import check_prob
from uda.functional.class_balance import (
    class_balanced_labels,
    class_balanced_thresholds,
    mined_classes,
    multiband_probabilities,
    portion_thresholds,
    rare_classes,
    regularised_labels,
    sorted_confidences,
    threshold_labels,
)
from uda.functional.colour import (
    colour_stats,
    image_stats,
    match_histograms,
    match_mean_std,
    reinhard,
)
from uda.functional.colour_spaces import (
    lab_to_rgb,
    lalphabeta_to_rgb,
    rgb_to_lab,
    rgb_to_lalphabeta,
)
from uda.functional.entropy import (
    FDA_ENTROPY_SCALE,
    class_confusion_loss,
    entropy_loss,
    image_class_weights,
    iw_max_squares_loss,
    iw_soft_cross_entropy,
    kl_divergence_map,
    max_squares_loss,
    robust_entropy_loss,
    self_information,
    soft_cross_entropy,
    soft_cross_entropy_map,
    softmax_entropy,
)
from uda.functional.features import (
    cell_labels,
    class_cells,
    feature_distance,
)
from uda.functional.fourier import (
    fda_source_to_target,
    half_width,
    low_freq_swap,
)
from uda.functional.fusion import (
    average_pool,
    draw_windows,
    minimum_entropy_pool,
    refine,
    warp,
)
from uda.functional.groups import (
    group_log_prob,
    marginal_cross_entropy_map,
)
from uda.functional.labels import (
    downscale_label,
)
from uda.functional.losses import (
    HrdaLosses,
    confidence_weighted_mean,
    cross_entropy_2d,
    focal_loss_map,
    hrda_losses,
    kld_regulariser,
    loss_by_class,
    mrkld_loss,
    mrkld_soft_loss,
    negative_entropy,
    pixel_accuracy,
    resize_logits,
    reverse_cross_entropy,
    reverse_huber_loss,
    symmetric_cross_entropy,
    uncertainty_rectified_loss,
    weighted_cross_entropy,
)
from uda.functional.masks import (
    block_grid,
    block_mask,
    choose_classes,
    class_mask,
    class_mix_masks,
    label_classes,
    mix,
)
from uda.functional.normalisation import (
    Statistics,
    affine_parameters,
    batch_norms,
    batch_statistics,
    blend_statistics,
    collect_statistics,
    load_statistics,
    pooled_statistics,
    reset_statistics,
    running_statistics,
    updating_statistics,
)
from uda.functional.prototypes import (
    class_mean,
    crop_soft_labels,
    distillation_loss,
    pack_soft_labels,
    prototype_consistency,
    prototype_distance,
    prototype_update,
    prototype_weight,
    rectify,
)
from uda.functional.pseudo_labels import (
    confidence_weight,
    confident_labels,
    confident_share,
    entropy_split,
    pseudo_labels,
    running_confidence,
    sac_pseudo_labels,
    without_margins,
)
from uda.functional.rand_augment import (
    RandAugmentation,
    draw_rand_augmentation,
    rand_augment,
    rand_augment_maps,
)
from uda.functional.sampling import (
    evenly_spaced,
    rcs_probs,
)
from uda.functional.schedule import (
    poly,
    warmup_factor,
    warmup_poly,
)
from uda.functional.validators import (
    class_cluster_score,
    deep_embedded_risk,
    diversity_score,
    entropy_score,
    information_score,
    neighbourhood_density,
    nuclear_norm_score,
)
from uda.functional.windows import cut_window, inside_margins, window_positions

if TYPE_CHECKING:
    from uda.functional.distances import (
        a_distance,
        coral,
        coral_tllib,
        frechet,
        mkmmd,
        mmd,
        random_projections,
        sliced_wasserstein,
    )
    from uda.functional.transport import (
        ColourMap,
        EntropicMap,
        LinearMap,
        NearestMap,
        emd_cost,
        fit_colour_map,
        sample_pixels,
        transport_colours,
    )

_LAZY = {
    "a_distance": "distances",
    "coral": "distances",
    "coral_tllib": "distances",
    "frechet": "distances",
    "mkmmd": "distances",
    "mmd": "distances",
    "random_projections": "distances",
    "sliced_wasserstein": "distances",
    "ColourMap": "transport",
    "EntropicMap": "transport",
    "LinearMap": "transport",
    "NearestMap": "transport",
    "emd_cost": "transport",
    "fit_colour_map": "transport",
    "sample_pixels": "transport",
    "transport_colours": "transport",
}
"""Name -> module of what is imported on demand."""

__all__ = [
    "FDA_ENTROPY_SCALE",
    "OPERATIONS",
    "ColourMap",
    "EntropicMap",
    "HrdaLosses",
    "LinearMap",
    "NearestMap",
    "RandAugmentation",
    "Statistics",
    "StrongAugmentation",
    "a_distance",
    "affine_parameters",
    "average_pool",
    "batch_norms",
    "batch_statistics",
    "bce_loss",
    "blend_statistics",
    "block_grid",
    "block_mask",
    "blur_kernel_size",
    "cell_labels",
    "check_prob",
    "choose_classes",
    "clan_weight_map",
    "class_balanced_labels",
    "class_balanced_thresholds",
    "class_cells",
    "class_cluster_score",
    "class_confusion_loss",
    "class_mask",
    "class_mean",
    "class_mix_masks",
    "collect_statistics",
    "colour_jitter",
    "colour_stats",
    "confidence_weight",
    "confidence_weighted_mean",
    "confident_labels",
    "confident_share",
    "coral",
    "coral_tllib",
    "crop_soft_labels",
    "cross_entropy_2d",
    "cut_window",
    "deep_embedded_risk",
    "distillation_loss",
    "diversity_score",
    "downscale_label",
    "draw_rand_augmentation",
    "draw_strong_augmentation",
    "draw_windows",
    "emd_cost",
    "entropy_loss",
    "entropy_score",
    "entropy_split",
    "evenly_spaced",
    "fda_source_to_target",
    "feature_distance",
    "fit_colour_map",
    "focal_loss_map",
    "frechet",
    "gaussian_blur",
    "group_log_prob",
    "half_width",
    "hrda_losses",
    "image_class_weights",
    "image_stats",
    "information_score",
    "inside_margins",
    "iw_max_squares_loss",
    "iw_soft_cross_entropy",
    "kl_divergence_map",
    "kld_regulariser",
    "lab_to_rgb",
    "label_classes",
    "lalphabeta_to_rgb",
    "load_statistics",
    "loss_by_class",
    "low_freq_swap",
    "ls_loss",
    "marginal_cross_entropy_map",
    "match_histograms",
    "match_mean_std",
    "max_squares_loss",
    "mined_classes",
    "minimum_entropy_pool",
    "mix",
    "mkmmd",
    "mmd",
    "mrkld_loss",
    "mrkld_soft_loss",
    "multiband_probabilities",
    "negative_entropy",
    "neighbourhood_density",
    "nuclear_norm_score",
    "pack_soft_labels",
    "pixel_accuracy",
    "poly",
    "pooled_statistics",
    "portion_thresholds",
    "prototype_consistency",
    "prototype_distance",
    "prototype_update",
    "prototype_weight",
    "pseudo_labels",
    "rand_augment",
    "rand_augment_maps",
    "random_projections",
    "rare_classes",
    "rcs_probs",
    "rectify",
    "refine",
    "regularised_labels",
    "reinhard",
    "reset_statistics",
    "resize_logits",
    "reverse_cross_entropy",
    "reverse_huber_loss",
    "rgb_to_lab",
    "rgb_to_lalphabeta",
    "robust_entropy_loss",
    "running_confidence",
    "running_statistics",
    "sac_pseudo_labels",
    "sample_pixels",
    "self_information",
    "sliced_wasserstein",
    "soft_cross_entropy",
    "soft_cross_entropy_map",
    "softmax_entropy",
    "sorted_confidences",
    "strong_augment",
    "strong_augment_each",
    "symmetric_cross_entropy",
    "threshold_labels",
    "transport_colours",
    "uncertainty_rectified_loss",
    "updating_statistics",
    "warmup_factor",
    "warmup_poly",
    "warp",
    "weighted_bce_loss",
    "weighted_cross_entropy",
    "window_positions",
    "without_margins",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
