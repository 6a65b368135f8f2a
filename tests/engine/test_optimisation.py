"""Learning rate and weight decay of every parameter, against rules written out from the authors' code."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pytest
import torch
from torch import nn

from uda.engine import segmenter_optimizer
from uda.engine.optimisation import Decayed, add_parameters
from uda.models import DaformerSegmenter, DeepLabV2, HrdaSegmenter, Segmenter
from uda.testing.methods import settings
from uda.testing.tiny import TinySegmenter

LR, DECAY = 1e-3, 5e-4
Rule = dict[str, tuple[float, float]]
"""Rate and weight decay by parameter name."""


def deeplab(frozen_affine: str, aux: bool = True) -> DeepLabV2:
    return DeepLabV2(3, None, aux, blocks=(1, 1, 1, 1), width=4, frozen_affine=frozen_affine)


def daformer() -> DaformerSegmenter:
    """On MiT, whose layer norms are called "norm", as in the authors' code."""
    return DaformerSegmenter(3, "mit_b0", None, embed_channels=8, channels=8)


def hrda() -> HrdaSegmenter:
    return HrdaSegmenter(daformer(), embed_channels=8)


def rule_of(model: nn.Module, decayed: Decayed, optimizer: str = "sgd") -> Rule:
    """What ours does with each parameter that is trained."""
    built = segmenter_optimizer(model, optimizer=optimizer, lr=LR, weight_decay=DECAY, decayed=decayed)
    groups = [(id(p), (group["lr"], group["weight_decay"])) for group in built.param_groups for p in group["params"]]
    assert len(dict(groups)) == len(groups) == len(list(model.parameters()))
    return {name: dict(groups)[id(p)] for name, p in model.named_parameters() if p.requires_grad}


def adaptsegnet_generator(model: DeepLabV2) -> Iterator[nn.Parameter]:
    """``get_1x_lr_params_NOscale`` of AdaptSegNet, and of all who took its network: a tensor comes several times."""
    encoder = model.encoder
    for part in (encoder.conv1, encoder.bn1, encoder.layer1, encoder.layer2, encoder.layer3, encoder.layer4):
        for module in part.modules():
            for parameter in module.parameters():
                if parameter.requires_grad:
                    yield parameter


def adaptsegnet(model: DeepLabV2) -> Rule:
    """``optim_parameters``, each tensor once: SGD's one weight decay for all that is in a group."""
    heads = [*model.head.parameters(), *(() if model.aux_head is None else model.aux_head.parameters())]
    rates = {id(p): LR for p in adaptsegnet_generator(model)} | {id(p): 10 * LR for p in heads}
    return {name: (rates[id(p)], DECAY) for name, p in model.named_parameters() if id(p) in rates}


def sac(model: DeepLabV2) -> Rule:
    """``BaseNet.parameter_groups`` of SAC (without its double rate of biases): no decay of any ``m.bias``."""
    rates: dict[int, tuple[float, float]] = {}
    for part, rate in ((model.encoder, LR), (model.head, 10 * LR)):
        for module in part.modules():
            if isinstance(module, (nn.Conv2d, nn.BatchNorm2d)):
                rates[id(module.weight)] = (rate, DECAY)
                if module.bias is not None:
                    rates[id(module.bias)] = (rate, 0.0)
    return {name: rates[id(p)] for name, p in model.named_parameters()}


def mmcv(names: Iterable[str]) -> Rule:
    """mmcv's constructor with DAFormer's keys: the first that a name contains, "head" before "norm", decides.

    In the authors' networks heads and the scale attention have "head" in their names, and their batch norms are "bn".
    """
    rule = {}
    for name in names:
        theirs = f"backbone.{name}" if "encoder." in name else f"decode_head.{name}"
        rule[name] = (LR, DECAY)
        for key, changed in (("head", (10 * LR, DECAY)), ("norm", (LR, 0.0))):
            if key in theirs:
                rule[name] = changed
                break
    return rule


@pytest.mark.parametrize("frozen_affine", ["all", "stem", "none"], ids=["AdaptSegNet", "MaxSquare", "ProDA"])
def test_all_is_what_adaptsegnet_and_its_heirs_do(frozen_affine: str) -> None:
    model = deeplab(frozen_affine)
    rule = rule_of(model, "all")
    assert rule == adaptsegnet(model)
    assert rule["head.conv2d_list.0.bias"] == (10 * LR, DECAY)
    assert ("encoder.layer1.0.bn1.weight" in rule) == (frozen_affine != "all")
    assert ("encoder.bn1.weight" in rule) == (frozen_affine == "none")
    assert rule_of(model, "weights") != rule


def test_all_but_biases_is_what_sac_does() -> None:
    model = deeplab("none", aux=False)
    rule = rule_of(model, "all_but_biases")
    assert rule == sac(model)
    assert rule["encoder.bn1.weight"] == (LR, DECAY)
    assert rule["encoder.bn1.bias"] == (LR, 0.0)


@pytest.mark.filterwarnings("ignore:mit_b0")
@pytest.mark.parametrize("build", [daformer, hrda], ids=["DAFormer", "HRDA"])
def test_all_but_encoder_norms_is_what_daformer_does(build) -> None:
    model = build()
    rule = rule_of(model, "all_but_encoder_norms", "adamw")
    assert rule == mmcv(name for name, _ in model.named_parameters())
    assert set(rule.values()) == {(LR, DECAY), (LR, 0.0), (10 * LR, DECAY)}


def test_networks_without_groups_of_their_own() -> None:
    model = TinySegmenter()
    assert set(rule_of(model, "all").values()) == {(LR, DECAY)}
    bare = {name for name, (_, decay) in rule_of(model, "all_but_encoder_norms").items() if decay == 0}
    assert bare == {"stem.1.weight", "stem.1.bias", "body.1.weight", "body.1.bias"}
    bare = {name for name, (_, decay) in rule_of(model, "all_but_biases").items() if decay == 0}
    assert bare == {"stem.1.bias", "body.1.bias", "head.bias"}
    bare = {name for name, (_, decay) in rule_of(model, "weights").items() if decay == 0}
    assert bare == {"stem.1.weight", "stem.1.bias", "body.1.weight", "body.1.bias", "head.bias"}


def test_another_value_is_refused() -> None:
    with pytest.raises(ValueError, match="decayed is 'norms', must be one of 'weights', 'all'"):
        segmenter_optimizer(TinySegmenter(), decayed="norms")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="decayed"):
        settings(decayed="norms")


@pytest.mark.parametrize(
    ("decayed", "norm", "bias"),
    [("weights", 0, 0), ("all", DECAY, DECAY), ("all_but_encoder_norms", DECAY, DECAY), ("all_but_biases", DECAY, 0)],
)
def test_parameters_that_join_follow_the_rule(decayed: Decayed, norm: float, bias: float) -> None:
    """They go with the heads; in DAFormer's rule nothing of these is exempt."""
    optimizer = segmenter_optimizer(
        Segmenter(3, "mobilenetv3_small_050", weights=None), lr=LR, weight_decay=DECAY, decayed=decayed
    )
    before = len(optimizer.param_groups)
    module = nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2))
    add_parameters(optimizer, module, "method", set())
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups[before:] for p in group["params"]}
    conv, batch_norm = module
    wanted = [(conv.weight, DECAY), (conv.bias, bias), (batch_norm.weight, norm), (batch_norm.bias, bias)]
    assert decay == {id(p): value for p, value in wanted}
    assert {group["lr"] for group in optimizer.param_groups[before:]} == {10 * LR}


def test_how_often_adaptsegnets_optimiser_has_each_tensor() -> None:
    """Once for every module around it: a block's convolutions 3 times, a shortcut's 4 times, the stem's once."""
    model = deeplab("all")
    listed = [id(p) for p in adaptsegnet_generator(model)]
    times = {name: listed.count(id(p)) for name, p in model.encoder.named_parameters() if p.requires_grad}
    assert times == {name: 1 if name == "conv1.weight" else 4 if "downsample" in name else 3 for name in times}
    assert set(times.values()) == {1, 3, 4}


def displacements(copies: int, lr: float, momentum: float, steps: int) -> torch.Tensor:
    """How far a gradient of 1 in the first step alone moves a tensor that SGD lists several times, step by step."""
    tensor = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    # the buffer is shared from the second step on, as it is in a long run
    optimizer = torch.optim.SGD([{"params": [tensor] * copies}], lr=lr, momentum=momentum)
    places = [0.0]
    for step in range(-1, steps):
        tensor.grad = torch.full_like(tensor, float(step == 0))
        optimizer.step()
        places.append(tensor.item())
    return -torch.tensor(places[1:], dtype=torch.float64).diff()


@pytest.mark.filterwarnings("ignore:optimizer contains a parameter group with duplicate parameters")
def test_a_tensor_that_is_listed_thrice_learns_three_times_as_fast() -> None:
    """In sum just three times the rate, which is the closest setting; it comes sooner than with three times the rate.

    Of a gradient's whole effect, the first ten steps bring 95 % where the tensor is listed thrice, and 65 % at three
    times the rate, momentum 0.9. Momentum 0.9 ** 3 at a rate that gives the same sum is closer still.
    """
    listed, thrice = displacements(3, 1.0, 0.9, 200), displacements(1, 3.0, 0.9, 200)
    torch.testing.assert_close(listed.sum(), thrice.sum(), rtol=1e-6, atol=0)
    torch.testing.assert_close(listed.sum(), torch.tensor(30.0, dtype=torch.float64), rtol=1e-6, atol=0)
    # worked out by hand: the first step, then a geometric tail with ratio 0.9 ** 3
    tail = 2.439 * 2.71 * 0.729 ** torch.arange(199, dtype=torch.float64)
    torch.testing.assert_close(listed, torch.cat([torch.tensor([5.61], dtype=torch.float64), tail]))
    assert round((listed[:10].sum() / 30).item(), 2) == 0.95
    assert round((thrice[:10].sum() / 30).item(), 2) == 0.65
    quick = displacements(1, 30 * (1 - 0.729), 0.729, 200)
    assert (quick - listed).abs().sum() < 0.3 * (thrice - listed).abs().sum()
