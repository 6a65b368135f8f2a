"""Activation checkpointing: the numbers of a plain run, bit for bit, with less memory, for every network."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.engine.test_update import batch
from uda.engine import Update
from uda.methods import HRDA, AdvEnt, ClassMix, Supervised
from uda.models import DaformerSegmenter, DeepLabV2, HrdaSegmenter, Segmenter, adapt
from uda.models.recompute import blocks, parts_of, recomputing, whole_part
from uda.testing import TinyDataset, TinySegmenter, assert_same, tiny_target
from uda.types import TaskSpec, TeacherSpec


def lite0(**options: Any) -> Segmenter:
    return Segmenter(5, weights=None, drop_path=0.2, dropout=0.1, aux=True, **options)


def deeplabv2() -> DeepLabV2:
    return DeepLabV2(5, weights=None, blocks=(1, 2, 1, 1), width=4, frozen_affine="none")


def daformer() -> DaformerSegmenter:
    return DaformerSegmenter(5, "resnet18", weights=None, embed_channels=8, channels=8)


def torchvision_like() -> nn.Module:
    network = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.2), nn.Conv2d(8, 5, 1))
    return adapt(network, num_classes=5, mean=(0.5,) * 3, std=(0.2,) * 3, feature_layer="2")


NETWORKS = {
    "tiny": lambda: TinySegmenter(5, aux=True),
    "lite0": lite0,
    "mit": lambda: Segmenter(5, "mit_b0", "Segformer", weights=None),
    "deeplabv2": deeplabv2,
    "daformer": daformer,
    "hrda": lambda: HrdaSegmenter(daformer(), embed_channels=8),
    "adapted": torchvision_like,
}


def state_after(name: str, what: str, steps: int = 2, **options: Any) -> dict[str, Any]:
    torch.manual_seed(0)
    model = NETWORKS[name]()
    methods = [Supervised(), AdvEnt(width=4), ClassMix()]
    if name == "hrda":
        methods.append(HRDA())
    update = Update(
        model, methods, total_steps=4, activation_checkpointing=what, teacher=TeacherSpec(), seed=3, **options
    )
    update.setup(TaskSpec.of(model, TinyDataset().space, source=TinyDataset(), target=tiny_target()))
    for index in range(steps):
        update(batch(index))
    return update.state_dict()


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("mit", "daformer")]


@pytest.mark.parametrize("name", ["tiny", "lite0", "deeplabv2", "hrda", "adapted", *SLOW])
def test_numbers_are_those_of_a_plain_run(name: str) -> None:
    """Weights, statistics, teacher, optimisers and random numbers, after two steps of several passes each."""
    plain = state_after(name, "none")
    assert_same(plain, state_after(name, "all"))
    if name == "deeplabv2":
        assert_same(plain, state_after(name, "encoder"))


@pytest.mark.parametrize("options", [
    {"batch_norm": "frozen"}, {"batch_norm": "source"}, {"batch_norm": "per_domain"}, {"precision": "bf16"},
    {"accumulate": 2}, {"channels_last": True},
], ids=str)  # fmt: skip
def test_with_every_treatment_of_batch_norm_and_precision(options: dict[str, Any]) -> None:
    assert_same(state_after("deeplabv2", "none", **options), state_after("deeplabv2", "all", **options))


class Saved:
    """Bytes that autograd keeps for the way back."""

    def __init__(self) -> None:
        self.storages: dict[int, int] = {}

    def __enter__(self) -> Saved:
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor)
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._hooks.__exit__(*error)

    def _pack(self, tensor: Tensor) -> Tensor:
        self.storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor


@pytest.mark.parametrize("name", ["lite0", "deeplabv2", "daformer", "hrda"])
def test_less_is_kept_for_the_way_back(name: str) -> None:
    held = {}
    model = NETWORKS[name]()
    weights = sum(p.untyped_storage().nbytes() for p in model.parameters())
    for what in ("none", "encoder", "all"):
        with Saved() as saved, recomputing(parts_of(model, what)):
            model(batch()["source"].images)
        held[what] = sum(saved.storages.values())
    assert held["all"] < held["encoder"] < held["none"], (held, weights)


def test_blocks_are_what_a_network_repeats() -> None:
    names = {
        name: [type(part.owner).__name__ for part in parts_of(NETWORKS[name](), "encoder")]
        for name in ("lite0", "mit", "deeplabv2", "daformer", "hrda")
    }
    assert names["deeplabv2"] == ["Bottleneck"] * 5
    assert names["daformer"] == ["BasicBlock"] * 8
    assert names["hrda"] == ["BasicBlock"] * 8
    assert names["mit"] == ["Block"] * 8
    assert len(names["lite0"]) == 16
    plain = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())
    assert [part.owner for part in blocks(plain)] == [plain]


def test_a_network_without_known_encoder_is_refused() -> None:
    for name in ("tiny", "adapted"):
        with pytest.raises(ValueError, match=r"activation_checkpointing is 'encoder'.*'all'"):
            parts_of(NETWORKS[name](), "encoder")
    with pytest.raises(ValueError, match="activation_checkpointing is 'some'"):
        Update(TinySegmenter(), [Supervised()], total_steps=1, activation_checkpointing="some")


def test_an_input_that_changes_in_place_is_an_error() -> None:
    class Doubles(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = decoder([x])
            x.mul_(2)
            return y

    class Decoder(nn.Conv2d):
        def forward(self, stages: list[Tensor]) -> Tensor:
            return super().forward(stages[-1].relu())

    decoder, outer = Decoder(3, 3, 1), Doubles()
    with recomputing([whole_part(decoder)]):
        output = outer(torch.rand(1, 3, 4, 4))
    with pytest.raises(RuntimeError, match=r"changed in place.*activation_checkpointing"):
        output.sum().backward()


def test_a_copy_made_within_a_pass_is_whole() -> None:
    """A network is as it was after a pass, also one that fails."""
    model = TinySegmenter()
    before = set(vars(model))
    with pytest.raises(ValueError, match="stop"), recomputing(parts_of(model, "all")):
        raise ValueError("stop")
    assert set(vars(model)) == before
    copy.deepcopy(model)(torch.rand(1, 3, 32, 64))
