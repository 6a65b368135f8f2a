from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from uda.functional.entropy import softmax_entropy
from uda.functional.normalisation import affine_parameters
from uda.methods import TENT
from uda.models import Segmenter
from uda.testing.methods import TestTimeContract
from uda.testing.tiny import TinySegmenter
from uda.types import SegOutput


class TestTENT(TestTimeContract):
    __test__ = True
    make = lambda self: TENT(lr=0.01)  # noqa: E731
    invalid = (
        {"lr": 0.0}, {"steps": 0}, {"optimizer": "rmsprop"}, {"momentum": 1.5}, {"statistics": "target"},
    )  # fmt: skip

    def test_changes_scale_and_shift_alone_and_lowers_the_entropy(self) -> None:
        one, model = self.attached()
        before = copy.deepcopy(model.state_dict())
        entropies = [softmax_entropy(one(self.images()).logits).mean().item() for _ in range(8)]
        assert entropies == sorted(entropies, reverse=True)
        affine = {id(p) for p in affine_parameters(model)}
        changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
        assert changed == {name for name, p in model.named_parameters() if id(p) in affine}
        assert all(p.requires_grad and p.grad is None for p in model.parameters())

    def test_returns_what_was_predicted_before_the_last_step(self) -> None:
        """One step: the first batch as with batch statistics; the next one is adapted."""
        one, model = self.attached()
        images = self.images()
        plain = copy.deepcopy(model).train()
        plain.dropout.eval()
        torch.testing.assert_close(one(images).logits, plain(images).logits, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(one(images).logits, plain(images).logits, atol=1e-4)

    def test_steps_on_one_batch_are_as_many_batches(self) -> None:
        images = self.images()
        once, _ = self.attached()
        for _ in range(3):
            last = once(images).logits
        one, model = TENT(lr=0.01, steps=3), TinySegmenter()
        model.load_state_dict(once.model.state_dict() | once._source_state)
        one.attach(model)
        assert torch.equal(one(images).logits, last)

    def test_source_statistics(self) -> None:
        _, model = self.attached()
        one = TENT(statistics="source", optimizer="adam", lr=0.001)
        plain = copy.deepcopy(model).eval()(self.images()).logits
        one.attach(model)
        assert torch.equal(one(self.images()).logits, plain)
        assert not torch.equal(one(self.images()).logits, plain)

    def test_works_under_no_grad(self) -> None:
        one, _ = self.attached()
        with torch.no_grad():
            first, second = (one(self.images()).logits for _ in range(2))
            assert not torch.is_grad_enabled()
        assert not torch.equal(first, second)

    def test_a_failing_network_keeps_its_gradients(self) -> None:
        one, model = self.attached()
        with pytest.raises(RuntimeError):
            one(torch.rand(1, 4, 32, 64))
        assert all(p.requires_grad for p in model.parameters())


def test_matches_the_recorded_steps(golden_case) -> None:
    """The authors' dense steps, through the method."""
    weights, inputs = golden_case
    network = recorded_network(weights)
    one = TENT(lr=inputs["lr"], momentum=inputs["momentum"], steps=inputs["steps"])
    one.attach(network)
    logits = one(inputs["x"]).logits
    torch.testing.assert_close(logits.movedim(1, -1).flatten(0, -2), inputs["logits"], rtol=1e-4, atol=1e-5)
    for name, value in inputs["after"].items():
        torch.testing.assert_close(network.layers.state_dict()[name], value, rtol=1e-4, atol=1e-5)


class Recorded(nn.Module):
    """The recorded tiny network as a segmenter."""

    def __init__(self, layers: nn.Sequential) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, images: torch.Tensor) -> SegOutput:
        logits = self.layers(images)
        return SegOutput(logits, logits)


def recorded_network(weights: dict[str, torch.Tensor]) -> Recorded:
    first, second, last = weights["0.weight"], weights["3.weight"], weights["6.weight"]
    layers = nn.Sequential(
        nn.Conv2d(3, len(first), 3, padding=1, bias=False),
        nn.BatchNorm2d(len(first)),
        nn.ReLU(),
        nn.Conv2d(second.shape[1], len(second), 3, padding=1, stride=2),
        nn.BatchNorm2d(len(second)),
        nn.ReLU(),
        nn.Conv2d(last.shape[1], len(last), 1),
    )
    layers.load_state_dict(weights, strict=False)
    return Recorded(layers)


@pytest.fixture
def golden_case(pytestconfig):
    """The recorded dense case: weights before, and what was given and found."""
    import numpy as np

    paths = sorted((pytestconfig.rootpath / "tests" / "data" / "golden" / "tent").glob("adapt_step_*.npz"))
    for path in paths:
        with np.load(path) as file:
            arrays = {name: torch.from_numpy(np.array(file[name])) for name in file.files}
        if arrays["param_dense"]:
            break
    else:
        pytest.skip("no dense case is recorded")

    def below(prefix: str) -> dict[str, torch.Tensor]:
        return {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}

    inputs = {"x": arrays["in_x"], "logits": arrays["out_logits"], "after": below("w_after_")}
    inputs |= {name: arrays[f"param_{name}"].item() for name in ("lr", "momentum", "steps")}
    return below("w_before_"), inputs


def test_a_batch_of_one_with_image_pooling() -> None:
    torch.manual_seed(0)
    model = Segmenter(3, "resnet18", "DeepLabV3Plus", weights=None)
    one = TENT()
    one.attach(model)
    first, second = (one(torch.rand(1, 3, 64, 64)).logits for _ in range(2))
    assert first.isfinite().all()
    assert second.isfinite().all()


def test_nothing_to_adapt_is_refused() -> None:
    with pytest.raises(ValueError, match="no batch-norm layer"):
        TENT().attach(nn.Conv2d(3, 2, 1))
