"""What torch.compile takes whole, with the results of eager, and why not the rest; run as a module it prints it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from tests.functional import test_gradcheck as gradcheck
from uda import functional
from uda.types import Window


def image(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


IMAGES, STYLE = image(2, 3, 24, 32), image(2, 3, 24, 32, seed=1)
BYTES, BYTE_STYLE = (IMAGES * 255).byte(), (STYLE * 255).byte()
LOGITS = 4 * image(2, 3, 8, 8) - 2
PROB = LOGITS.softmax(1)
LABELS = torch.randint(0, 3, (2, 8, 8), generator=torch.Generator().manual_seed(2))
THIRDS = torch.full((3,), 1 / 3)
WINDOW = Window(0, (16, 16), top=2, left=0, height=8, width=8, flip=True)
DRAWS = [
    functional.RandAugmentation(
        colours=(("contrast", 4), ("solarize", 3)),
        matrix=((-0.9, 0.1, 0.0), (0.0, 0.8, 0.1)),
        hole=(0.1, 0.3, 0.2, 0.5),
    ),
    functional.RandAugmentation(colours=(("autocontrast", 2), ("sharpness", 5))),
]
JITTER = [
    functional.StrongAugmentation(1.05, 0.95, 1.1, 0.1, order=(1, 3, 0, 2), sigma=0.8),
    functional.StrongAugmentation(None, None, None, None, order=(0, 1, 2, 3), sigma=None),
]

CASES: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "EntropicMap": (
        functional.EntropicMap(STYLE.flatten(2)[0].t().double(), torch.zeros(768).double(), 0.1),
        (IMAGES,),
    ),
    "group_log_prob": (partial(functional.group_log_prob, groups=((0,), (1, 2))), (LOGITS,)),
    "marginal_cross_entropy_map": (
        partial(functional.marginal_cross_entropy_map, groups=((1, 2),)),
        (LOGITS, LABELS),
    ),
    "block_mask": (partial(functional.block_mask, (16, 24), block=8), ()),
    "cell_labels": (lambda labels: functional.cell_labels(labels, (4, 4), 3), (LABELS,)),
    "class_balanced_labels": (functional.class_balanced_labels, (PROB, THIRDS)),
    "class_cells": (lambda labels: functional.class_cells(labels, (4, 4), [1], num_classes=3), (LABELS,)),
    "class_mask": (functional.class_mask, (LABELS, torch.tensor([0, 2]))),
    "class_mix_masks, classes given": (
        lambda labels, *chosen: functional.class_mix_masks(labels, chosen=chosen),
        (LABELS, torch.tensor([0, 2]), torch.tensor([1])),
    ),
    "colour_stats, float32": (functional.colour_stats, (IMAGES,)),
    "colour_stats, uint8": (functional.colour_stats, (BYTES,)),
    "confidence_weight": (functional.confidence_weight, (PROB.amax(1),)),
    "confidence_weight, pixel": (partial(functional.confidence_weight, mode="pixel"), (PROB.amax(1),)),
    "confident_labels": (functional.confident_labels, (LOGITS,)),
    "confident_share": (functional.confident_share, (PROB.amax(1),)),
    "crop_soft_labels": (
        lambda packed: functional.crop_soft_labels(packed, WINDOW, (8, 8)),
        (functional.pack_soft_labels(PROB[0]),),
    ),
    "downscale_label": (lambda labels: functional.downscale_label(labels, 2, num_classes=3), (LABELS,)),
    "class_balanced_thresholds": (
        lambda labels, confidence: functional.class_balanced_thresholds([labels[0]], [confidence[0]], 3),
        (LABELS, PROB.amax(1)),
    ),
    "portion_thresholds": (
        lambda labels, confidence: functional.portion_thresholds([labels[0]], [confidence[0]], 3),
        (LABELS, PROB.amax(1)),
    ),
    "sorted_confidences": (
        lambda labels, confidence: functional.sorted_confidences([labels[0]], [confidence[0]], 3),
        (LABELS, PROB.amax(1)),
    ),
    "label_classes": (functional.label_classes, (LABELS,)),
    "mined_classes": (lambda counts: functional.mined_classes(counts, 0.5), (torch.tensor([5, 0, 7]),)),
    "random_projections": (partial(functional.random_projections, 3, 4), ()),
    "entropy_split": (functional.entropy_split, (image(6),)),
    "fda_source_to_target": (partial(functional.fda_source_to_target, beta=0.1), (IMAGES, STYLE)),
    "fda_source_to_target, half-open": (
        partial(functional.fda_source_to_target, beta=0.1, band="half-open"),
        (IMAGES, STYLE[:1]),
    ),
    "image_class_weights": (lambda labels: functional.image_class_weights(labels, 3), (LABELS,)),
    "image_stats, float32": (functional.image_stats, (IMAGES,)),
    "inside_margins": (partial(functional.inside_margins, [WINDOW], (8, 8), bottom=0.25), ()),
    "match_histograms": (functional.match_histograms, (IMAGES, STYLE[:1])),
    "match_histograms, quantise": (partial(functional.match_histograms, quantise=True), (IMAGES, STYLE)),
    "match_histograms, uint8": (functional.match_histograms, (BYTES, BYTE_STYLE)),
    "match_mean_std, float32": (functional.match_mean_std, (IMAGES, THIRDS, THIRDS, THIRDS, 2 * THIRDS)),
    "pack_soft_labels": (functional.pack_soft_labels, (PROB,)),
    "pixel_accuracy": (functional.pixel_accuracy, (LOGITS, LABELS)),
    "pseudo_labels": (partial(functional.pseudo_labels, threshold=0.5, ignore_top=1), (LOGITS,)),
    "rand_augment, all but equalize": (lambda images: functional.rand_augment(images, DRAWS), (IMAGES,)),
    "rand_augment_maps": (lambda maps: functional.rand_augment_maps(maps, DRAWS, outside=-1.0), (IMAGES,)),
    "rare_classes": (lambda counts: functional.rare_classes(counts, 2), (torch.tensor([5, 0, 7]),)),
    "reinhard, Lab of float32": (functional.reinhard, (IMAGES, STYLE)),
    "reinhard, Lab of uint8": (functional.reinhard, (BYTES, BYTE_STYLE)),
    "strong_augment_each, draws given": (
        lambda images: functional.strong_augment_each(images, parameters=JITTER),
        (IMAGES,),
    ),
    "threshold_labels": (functional.threshold_labels, (LABELS, PROB.amax(1), THIRDS)),
    "window_positions": (partial(functional.window_positions, WINDOW, (8, 8)), ()),
    "without_margins": (lambda weight: functional.without_margins(weight, [WINDOW] * 2, {"top": 0.2}), (PROB[:, 0],)),
}
"""Those whose gradient is not checked, and further variants: by the function's name and, behind a comma, a variant."""

STATE = "changes a module's layers or reads them: it is called around the network, not within a graph"
NUMBER = "gives a Python number: waited for, once an evaluation"
DRAW = "draws from a torch.Generator, which a graph cannot hold; give the draws"
NOT_COMPILED = {
    "ColourMap": "abstract",
    "HrdaLosses": "container",
    "RandAugmentation": "container",
    "Statistics": "container",
    "StrongAugmentation": "container",
    "NearestMap": "searches SciPy's k-d tree",
    "affine_parameters": STATE,
    "batch_norms": STATE,
    "batch_statistics": STATE,
    "block_grid": "integers alone",
    "blur_kernel_size": "integers alone",
    "check_prob": "left out of graphs on purpose",
    "choose_classes": DRAW,
    "class_cluster_score": "scikit-learn's k-means",
    "collect_statistics": STATE,
    "cut_window": "looks whether a window reaches beyond its image",
    "deep_embedded_risk": NUMBER,
    "diversity_score": NUMBER,
    "draw_rand_augmentation": DRAW,
    "draw_strong_augmentation": DRAW,
    "draw_windows": DRAW,
    "emd_cost": "POT's solver",
    "entropy_score": NUMBER,
    "fit_colour_map": "POT's solver",
    "frechet": "SciPy's eigenvalues",
    "evenly_spaced": "integers alone",
    "half_width": "integers alone",
    "information_score": NUMBER,
    "load_statistics": STATE,
    "neighbourhood_density": NUMBER,
    "nuclear_norm_score": NUMBER,
    "poly": "integers alone",
    "pooled_statistics": STATE,
    "prototype_update": "one vector after the other, by ids that are data",
    "rcs_probs": "refuses counts without a class, which it has to look at",
    "reset_statistics": STATE,
    "running_statistics": STATE,
    "sample_pixels": DRAW,
    "transport_colours": "POT's solver",
    "updating_statistics": STATE,
    "warmup_factor": "integers alone",
    "warmup_poly": "integers alone",
}
"""Why torch.compile does not take a function whole, or why nobody asks it to."""
EVERY: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    **{
        name: (call, tuple(value() for value in inputs))
        for name, (call, inputs, _) in gradcheck.CASES.items()
        if name.partition(",")[0] not in NOT_COMPILED and name != "strong_augment_each"
    },
    **CASES,
}


def largest_difference(name: str, backend: str) -> float:
    """Between what eager gives and what one whole graph gives."""
    torch.compiler.reset()
    call, inputs = EVERY[name]
    torch.manual_seed(0)
    eager = tree_leaves(call(*inputs))
    torch.manual_seed(0)
    compiled = tree_leaves(torch.compile(call, fullgraph=True, backend=backend)(*inputs))
    for ours, theirs in zip(eager, compiled, strict=True):
        assert ours.shape == theirs.shape
        assert ours.dtype == theirs.dtype
    pairs = zip(eager, compiled, strict=True)
    return max(float((ours.double() - theirs.double()).abs().max()) for ours, theirs in pairs)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(EVERY))
def test_one_graph_gives_what_eager_gives(name: str) -> None:
    assert largest_difference(name, "eager") <= 1e-5


@pytest.mark.parametrize(
    "name",
    [
        "entropy_loss",
        "fda_source_to_target",
        "class_mix_masks, classes given",
        "reinhard, Lab of float32",
        "match_histograms",
        "strong_augment_each, draws given",
    ],
)
def test_the_restylers_and_the_mix_compile(name: str) -> None:
    assert largest_difference(name, "aot_eager") <= 1e-5


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None and shutil.which("clang++") is None, reason="inductor needs a compiler")
@pytest.mark.parametrize("name", ["self_information", "rgb_to_lab", "fda_source_to_target"])
def test_generated_code_gives_what_eager_gives(name: str) -> None:
    assert largest_difference(name, "inductor") <= 1e-5


def test_every_public_function_is_here_or_listed_with_the_reason() -> None:
    public = {name for name in functional.__all__ if callable(getattr(functional, name))}
    compiled = {name.partition(",")[0] for name in EVERY}
    assert compiled | set(NOT_COMPILED) == public
    assert not compiled & set(NOT_COMPILED)


def test_the_documented_table_is_this_one() -> None:
    assert table() in (Path(__file__).parents[2] / "docs" / "compile.md").read_text(encoding="utf-8")


def table() -> str:
    """What docs/compile.md shows: functions by what becomes of them."""
    reasons: dict[str, list[str]] = {}
    for name, reason in NOT_COMPILED.items():
        reasons.setdefault(reason, []).append(name)
    whole = sorted({name.partition(",")[0] for name in EVERY}, key=str.lower)
    rows = [("whole graph, results of eager to 1e-5", whole), *reasons.items()]
    lines = [f"| {what} | {', '.join(f'`{name}`' for name in names)} |" for what, names in rows]
    return "\n".join(["| `torch.compile(fullgraph=True)` | functions |", "|---|---|", *lines]) + "\n"


if __name__ == "__main__":
    print(table(), end="")
