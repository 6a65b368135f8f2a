from __future__ import annotations

import pytest
import torch
from torch import nn

from uda.engine import evaluate
from uda.methods import AdaBN, PredictionTimeBN
from uda.testing.methods import TestTimeContract
from uda.testing.tiny import TinyDataset, TinySegmenter, tiny_target
from uda.types import SegOutput, TaskSpec


class TestAdaBN(TestTimeContract):
    __test__ = True
    make = lambda self: AdaBN()  # noqa: E731
    invalid = ({"prior": 1.5}, {"images": 0})


class TestAdaBNWithAPrior(TestTimeContract):
    __test__ = True
    make = lambda self: AdaBN(prior=0.5)  # noqa: E731


class TestPredictionTimeBN(TestTimeContract):
    __test__ = True
    make = lambda self: PredictionTimeBN()  # noqa: E731
    invalid = ({"prior": 1.5},)


def trained() -> TinySegmenter:
    """A network whose statistics are those of the source."""
    torch.manual_seed(1)
    model = TinySegmenter()
    for layer in (model.stem[1], model.body[1]):
        nn.init.uniform_(layer.weight, 0.5, 1.5)
        nn.init.normal_(layer.bias)
    model.train()
    with torch.no_grad():
        for _ in range(30):
            model(images(TinyDataset()))
    return model


def images(dataset: TinyDataset, count: int = 4) -> torch.Tensor:
    return torch.stack([dataset[index].image for index in range(count)]) / 255


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, right[name]) for name, value in left.items())


def test_prior_one_is_the_source_model() -> None:
    model, batch = trained(), images(tiny_target())
    expected = model.eval()(batch).logits
    one = PredictionTimeBN(prior=1.0)
    one.attach(model)
    torch.testing.assert_close(one(batch).logits, expected)


def test_prior_zero_is_training_mode_batch_norm_without_its_side_effects() -> None:
    model, batch = trained(), images(tiny_target())
    before = state(model)
    one = PredictionTimeBN()
    one.attach(model)
    got = one(batch).logits
    assert same(before, model.state_dict())
    model.train()
    model.dropout.eval()
    torch.testing.assert_close(got, model(batch).logits)


@pytest.mark.parametrize("prior", [0.0, 0.3, 0.5])
def test_blended_statistics_by_hand(prior: float) -> None:
    """The first layer of the network, written out."""
    model, batch = trained(), images(tiny_target())
    one = PredictionTimeBN(prior=prior)
    one.attach(model)
    seen: list[torch.Tensor] = []
    handle = model.stem[1].register_forward_hook(lambda layer, inputs, output: seen.extend([inputs[0], output]))
    one(batch)
    handle.remove()
    layer, (x, got) = model.stem[1], seen
    mean = prior * layer.running_mean + (1 - prior) * x.mean((0, 2, 3))
    var = prior * layer.running_var + (1 - prior) * x.var((0, 2, 3), correction=0)
    shape = (1, -1, 1, 1)
    mean, var, scale, shift = (one.view(shape) for one in (mean, var, layer.weight, layer.bias))
    wanted = (x - mean) / (var + layer.eps).sqrt() * scale + shift
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("prior", [0.0, 0.5])
def test_calibrated_statistics_hold_for_later_batches(prior: float) -> None:
    model, batch = trained(), images(tiny_target())
    source, source_var = model.stem[1].running_mean.clone(), model.stem[1].running_var.clone()
    one = AdaBN(prior=prior)
    one.attach(model)
    one.calibrate([batch[:2], batch[2:]])
    with torch.no_grad():
        inputs = model.stem[0]((batch - 0.5) / 0.25)
    wanted = prior * source + (1 - prior) * inputs.mean((0, 2, 3))
    torch.testing.assert_close(model.stem[1].running_mean, wanted)
    var = prior * source_var + (1 - prior) * inputs.var((0, 2, 3), correction=0)
    torch.testing.assert_close(model.stem[1].running_var, var)
    alone, together = one(batch[:1]).logits, one(batch).logits
    torch.testing.assert_close(alone[0], together[0])


def test_calibrating_again_starts_from_the_source() -> None:
    model, batch = trained(), images(tiny_target())
    one = AdaBN(prior=0.5)
    one.attach(model)
    one.calibrate(batch)
    first = state(model)
    one.calibrate(iter([batch]))
    assert same(first, model.state_dict())


def test_reset_and_detach_bring_the_source_back() -> None:
    model, batch = trained(), images(tiny_target())
    before, expected = state(model), trained().eval()(batch).logits
    one = AdaBN()
    one.attach(model)
    one.calibrate(batch[:2])
    assert not same(before, model.state_dict())
    one.reset()
    assert same(before, model.state_dict())
    with pytest.raises(RuntimeError, match="no target statistics yet"):
        one(batch)
    one.calibrate(batch[:2])
    one.detach_model()
    assert same(before, model.state_dict())
    assert model.training
    torch.testing.assert_close(model.eval()(batch).logits, expected)


def test_statistics_of_the_tasks_target_survive_a_reset() -> None:
    target = tiny_target().unlabelled()
    spec = TaskSpec(5, ("a", "b", "c", "d", "e"), 8, 1, target=target)
    model = trained()
    one = AdaBN(images=3)
    with pytest.raises(RuntimeError, match="call attach"):
        one(images(tiny_target()))
    one.attach(model)
    with pytest.raises(RuntimeError, match="no target statistics yet"):
        one(images(tiny_target()))
    one.attach(model, spec)
    assert len(target.touched) == 3
    assert target.touched == [0, 2, 4]
    first = one(images(tiny_target())).logits
    one.calibrate(images(TinyDataset()))
    assert not torch.allclose(one(images(tiny_target())).logits, first)
    one.reset()
    torch.testing.assert_close(one(images(tiny_target())).logits, first)


class Pooled(nn.Module):
    """An ASPP-like image pooling: its batch norm sees one value a channel and image."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4))
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))

    def forward(self, x: torch.Tensor) -> SegOutput:
        x = self.stem(x)
        return SegOutput(x + self.pool(x), x)


@pytest.mark.parametrize("prior", [0.0, 0.5])
@pytest.mark.parametrize("kind", [AdaBN, PredictionTimeBN])
def test_pooling_with_a_batch_of_one_keeps_the_source_statistics(prior: float, kind: type) -> None:
    model = Pooled()
    model.pool[2].running_mean.fill_(0.3)
    tested = kind(prior=prior)
    tested.attach(model)
    image = images(tiny_target(), 1)
    if kind is AdaBN:
        tested.calibrate([image, image])
    assert tested(image).logits.isfinite().all()
    assert (model.pool[2].running_mean == 0.3).all()


def test_nothing_to_adapt_is_refused() -> None:
    with pytest.raises(ValueError, match="no batch-norm layer"):
        AdaBN().attach(nn.Conv2d(3, 2, 1))
    one = AdaBN()
    one.attach(trained())
    with pytest.raises(ValueError, match="no images"):
        one.calibrate([])


def test_evaluates_like_a_model() -> None:
    model, target = trained(), tiny_target()
    one = AdaBN(prior=1.0)
    one.attach(model)
    one.calibrate(target.unlabelled())
    adapted = evaluate(one, target)
    one.detach_model()
    plain = evaluate(model, target)
    assert (adapted.confusions == plain.confusions).all()
    one = AdaBN()
    one.attach(model)
    one.calibrate(target.unlabelled())
    assert (evaluate(one, target).confusions != plain.confusions).any()
