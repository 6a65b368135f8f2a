"""An argument's name says whether it holds logits or probabilities, and logits are refused where those are wanted."""

from __future__ import annotations

import inspect
import re
import timeit
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from uda import functional

NAMES = ("prob", "soft_labels", "confidence", "confidences", "prior", "running")
LABELS = torch.tensor([[[0, 1, 2], [255, 2, 0]], [[1, 1, 255], [2, 0, 1]]])
HARD = LABELS.clamp(max=2)
LOGITS = torch.randn(2, 3, 2, 3, generator=torch.Generator().manual_seed(0)) * 3
PROB = LOGITS.softmax(1)
THIRDS = torch.full((3,), 1 / 3)
PLANE = PROB.amax(1)

CASES: dict[tuple[str, str], tuple[Callable[[Any], Any], Tensor]] = {
    ("average_pool", "prob"): (lambda prob: functional.average_pool(prob, 2), PROB),
    ("class_balanced_labels", "prob"): (lambda prob: functional.class_balanced_labels(prob, THIRDS), PROB),
    ("class_balanced_thresholds", "confidences"): (
        lambda plane: functional.class_balanced_thresholds([HARD[0]], [plane[0]], 3),
        PLANE,
    ),
    ("confidence_weight", "confidence"): (functional.confidence_weight, PLANE),
    ("confidence_weighted_mean", "confidence"): (
        lambda plane: functional.confidence_weighted_mean(torch.ones_like(PLANE), plane),
        PLANE,
    ),
    ("confident_share", "confidence"): (functional.confident_share, PLANE),
    ("entropy_loss", "prob"): (functional.entropy_loss, PROB),
    ("focal_loss_map", "prior"): (lambda prior: functional.focal_loss_map(LOGITS, LABELS, prior), THIRDS),
    ("iw_max_squares_loss", "prob"): (functional.iw_max_squares_loss, PROB),
    ("iw_soft_cross_entropy", "soft_labels"): (lambda soft: functional.iw_soft_cross_entropy(LOGITS, soft), PROB),
    ("max_squares_loss", "prob"): (functional.max_squares_loss, PROB),
    ("minimum_entropy_pool", "prob"): (lambda prob: functional.minimum_entropy_pool(prob, 2), PROB),
    ("mrkld_soft_loss", "soft_labels"): (
        lambda soft: functional.mrkld_soft_loss(LOGITS, soft, torch.ones(2)),
        PROB,
    ),
    ("pack_soft_labels", "soft_labels"): (functional.pack_soft_labels, PROB),
    ("portion_thresholds", "confidences"): (
        lambda plane: functional.portion_thresholds([HARD[0]], [plane[0]], 3),
        PLANE,
    ),
    ("rectify", "soft_labels"): (lambda soft: functional.rectify(torch.ones_like(PROB), soft), PROB),
    ("regularised_labels", "prob"): (lambda prob: functional.regularised_labels(prob, THIRDS), PROB),
    ("running_confidence", "prob"): (lambda prob: functional.running_confidence(THIRDS, prob), PROB),
    ("running_confidence", "running"): (lambda running: functional.running_confidence(running, PROB), THIRDS),
    ("sac_pseudo_labels", "prior"): (lambda prior: functional.sac_pseudo_labels(PROB, prior), THIRDS),
    ("sac_pseudo_labels", "prob"): (lambda prob: functional.sac_pseudo_labels(prob, THIRDS), PROB),
    ("self_information", "prob"): (functional.self_information, PROB),
    ("soft_cross_entropy", "soft_labels"): (lambda soft: functional.soft_cross_entropy(LOGITS, soft), PROB),
    ("soft_cross_entropy_map", "soft_labels"): (lambda soft: functional.soft_cross_entropy_map(LOGITS, soft), PROB),
    ("sorted_confidences", "confidences"): (
        lambda plane: functional.sorted_confidences([HARD[0]], [plane[0]], 3),
        PLANE,
    ),
    ("threshold_labels", "confidence"): (lambda plane: functional.threshold_labels(HARD, plane, THIRDS), PLANE),
}
"""Function and argument -> a call with the argument alone, and probabilities of the shape that it takes."""


def test_every_argument_that_takes_probabilities_is_here() -> None:
    named = {
        (name, parameter)
        for name in functional.__all__
        if inspect.isfunction(function := getattr(functional, name))
        for parameter, described in inspect.signature(function).parameters.items()
        if parameter in NAMES and "Tensor" in str(described.annotation) and name != "check_prob"
    }
    assert named == set(CASES)


@pytest.mark.parametrize(("function", "argument"), sorted(CASES))
def test_logits_are_refused_and_probabilities_are_not(function: str, argument: str) -> None:
    call, prob = CASES[function, argument]
    call(prob)
    call(prob.clone().fill_(1 + 1e-3))  # rounding of a mean in bfloat16
    for logits in (prob * 30 - 20, prob + 1, prob - 1.5):
        with pytest.raises(ValueError, match=rf"^{argument} of \w+ has values from .* \[0, 1\].*logits\.softmax\(1\)$"):
            call(logits)


def test_documented_logits_and_probabilities_have_names_that_say_so() -> None:
    heads = {("hrda_losses", "low"), ("hrda_losses", "high"), ("hrda_losses", "fused")}
    odd = set()
    for name in functional.__all__:
        text = inspect.getdoc(getattr(functional, name)) or ""
        for argument, meaning in re.findall(r"^    ([a-z]\w*): (.*)$", text, re.M):
            if re.match(r"(``\(N.*?\)`` )?(\w+ )?logits\b", meaning) and "logits" not in argument:
                odd.add((name, argument))
            if re.match(r"``\(N, C.*?\)`` (\w+ )*probabilities", meaning) and argument not in NAMES:
                odd.add((name, argument))
    assert odd == heads


def test_a_large_tensor_is_looked_at_in_every_image_and_class() -> None:
    prob = torch.full((2, 19, 256, 512), 1 / 19)
    for image, channel in ((0, 0), (1, 18)):
        wrong = prob.clone()
        wrong[image, channel] += 2
        with pytest.raises(ValueError, match="must be probabilities"):
            functional.self_information(wrong)


def test_ignored_elements_and_nan_pass() -> None:
    prob = PROB.clone()
    prob[0, :, 0, 0] = -1
    assert functional.max_squares_loss(prob).isfinite()
    prob[0, :, 0, 0] = float("nan")
    assert functional.entropy_loss(prob).isnan()


def test_nothing_is_looked_at_where_looking_breaks() -> None:
    compiled = torch.compile(functional.entropy_loss, fullgraph=True, backend="eager")
    assert compiled(LOGITS).isnan()
    assert torch.vmap(functional.self_information)(LOGITS[:, None]).isnan().any()
    assert functional.self_information(torch.empty(2, 3, 4, 4, device="meta")).shape == (2, 3, 4, 4)
    with FakeTensorMode():
        assert functional.self_information(torch.empty(2, 3, 4, 4)).shape == (2, 3, 4, 4)


def test_the_look_costs_next_to_nothing() -> None:
    prob = torch.randn(2, 19, 256, 512).softmax(1)
    look = min(timeit.repeat(lambda: functional.check_prob("prob", prob, "test"), number=1, repeat=20))
    function = min(timeit.repeat(lambda: functional.max_squares_loss(prob), number=1, repeat=5))
    assert look < 0.02 * function
