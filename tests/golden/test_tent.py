"""TENT and test-time normalisation against recorded values."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from uda.functional.entropy import soft_cross_entropy_map, softmax_entropy
from uda.functional.normalisation import (
    affine_parameters,
    batch_norms,
    batch_statistics,
    collect_statistics,
    load_statistics,
    reset_statistics,
    running_statistics,
    updating_statistics,
)

TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}


def network(weights: dict[str, torch.Tensor]) -> nn.Sequential:
    first, second, last = weights["0.weight"], weights["3.weight"], weights["6.weight"]
    net = nn.Sequential(
        nn.Conv2d(first.shape[1], len(first), 3, padding=1, bias=False),
        nn.BatchNorm2d(len(first)),
        nn.ReLU(),
        nn.Conv2d(second.shape[1], len(second), 3, padding=1, stride=2),
        nn.BatchNorm2d(len(second)),
        nn.ReLU(),
        nn.Conv2d(last.shape[1], len(last), 1),
    )
    net.load_state_dict(weights, strict=False)
    return net.eval()


@pytest.mark.golden("tent/softmax_entropy")
def test_softmax_entropy(case):
    logits = case.t("in_logits", grad=True)
    entropy = softmax_entropy(logits)
    case.check(entropy, "out_entropy")
    case.check(entropy.mean(), "out_loss")
    case.check_grad(entropy.mean(), logits, "out_grad_logits")
    case.check(soft_cross_entropy_map(logits, case.t("in_logits_teacher").softmax(1)), "out_cotta")


@pytest.mark.golden("tent/adapt_step")
def test_adapt_step(case):
    before = case.weights("w_before_")
    net = network(before)
    optimiser = torch.optim.SGD(
        affine_parameters(net), lr=case.scalar("param_lr"), momentum=case.scalar("param_momentum")
    )
    for _ in range(case.scalar("param_steps")):
        with batch_statistics(net):
            output = net(case.t("in_x"))
        dense = case.scalar("param_dense")
        logits = output.movedim(1, -1).flatten(0, -2) if dense else output.mean((2, 3))
        optimiser.zero_grad()
        softmax_entropy(logits).mean().backward()
        optimiser.step()
    case.check(logits, "out_logits", **TOLERANCE)
    state = net.state_dict()
    for name in case.weights("w_after_"):
        case.check(state[name], f"w_after_{name}", **TOLERANCE)
    for name in before:
        if "running" in name:
            assert torch.equal(state[name], before[name]), f"{name} changed"


def check_statistics(case, net: nn.Module, variant: str) -> None:
    for i, (mean, var) in enumerate(running_statistics(net).values()):
        case.check(mean, f"out_{variant}_mean_{i}", **TOLERANCE)
        case.check(var, f"out_{variant}_var_{i}", **TOLERANCE)


@pytest.mark.golden("tent/norm_adabn")
def test_norm_and_adabn(case):
    batches = [case.t(name) for name in case.names("in_x_")]
    net = network(case.weights())
    with updating_statistics(net, momentum=case.scalar("param_momentum")):
        outputs = [net(batch) for batch in batches]
    case.check(outputs[-1], "out_norm_logits", **TOLERANCE)
    check_statistics(case, net, "norm")

    net = network(case.weights())
    reset_statistics(net)
    with updating_statistics(net, momentum=0.1):
        for batch in batches:
            net(batch)
    check_statistics(case, net, "reset")

    net = network(case.weights())
    load_statistics(net, collect_statistics(net, batches))
    case.check(net(batches[0]), "out_adabn_logits", **TOLERANCE)
    check_statistics(case, net, "adabn")
    cumulative = network(case.weights())
    reset_statistics(cumulative)
    with updating_statistics(cumulative, momentum=None):
        for batch in batches:
            cumulative(batch)
    check_statistics(case, cumulative, "adabn")
    assert not any(layer.training for layer in batch_norms(cumulative).values())
