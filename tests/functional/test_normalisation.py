"""Batch-norm statistics: what changes, what must not, and layers with a single value."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from uda.functional.normalisation import (
    batch_norms,
    batch_statistics,
    blend_statistics,
    collect_statistics,
    load_statistics,
    pooled_statistics,
    running_statistics,
    updating_statistics,
)


class Pooled(nn.Module):
    """A branch whose batch norm sees one value for each channel and image, as ASPP's does."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.pooled = nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.conv(x)).relu()
        return x + self.pooled(x.mean((2, 3), keepdim=True))


@pytest.fixture
def net() -> Pooled:
    net = Pooled()
    net.train()
    for _ in range(3):
        net(torch.randn(4, 3, 8, 8))
    return net.eval()


def state(net: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in net.state_dict().items()}


def unchanged(net: nn.Module, before: dict[str, torch.Tensor]) -> bool:
    same = all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    return same and not any(module.training for module in net.modules())


@pytest.mark.parametrize("prior", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("images", [1, 3])
def test_batch_statistics_leave_the_network_as_it_was(net: Pooled, prior: float, images: int) -> None:
    before = state(net)
    with batch_statistics(net, prior=prior):
        output = net(torch.randn(images, 3, 9, 7) + 2)
    assert output.isfinite().all()
    assert unchanged(net, before)


@pytest.mark.parametrize("prior", [0.0, 0.3])
def test_a_failing_forward_leaves_the_network_as_it_was(net: Pooled, prior: float) -> None:
    before = state(net)
    with pytest.raises(RuntimeError), batch_statistics(net, prior=prior):
        net.norm(torch.randn(2, 5, 3, 3))
    assert unchanged(net, before)
    net(torch.randn(1, 3, 9, 7))


def test_the_prior_goes_from_the_batch_to_the_source(net: Pooled) -> None:
    images = torch.randn(2, 3, 9, 7) + 1

    def run(prior: float) -> torch.Tensor:
        with batch_statistics(net, prior=prior):
            return net(images)

    source = net(images)
    torch.testing.assert_close(run(1.0), source)
    torch.testing.assert_close(run(1e-9), run(0.0), atol=1e-4, rtol=1e-4)
    assert (run(0.9) - source).abs().mean() < (run(0.1) - source).abs().mean()


def test_gradients_flow_through_the_batch_statistics(net: Pooled) -> None:
    images = torch.randn(2, 3, 9, 7, requires_grad=True)
    with batch_statistics(net):
        normed = net.norm(net.conv(images))
    (grad,) = torch.autograd.grad(normed.sum(), images)  # normalised values sum to a constant
    assert grad.abs().max() < 1e-4


def test_collected_statistics_are_the_targets(net: Pooled) -> None:
    batches = [torch.randn(3, 3, 9, 7) * 2 + 1 for _ in range(4)]
    before = state(net)
    found = collect_statistics(net, batches)
    assert unchanged(net, before)
    activations = [net.conv(batch).detach() for batch in batches]
    mean = torch.stack([a.mean((0, 2, 3)) for a in activations]).mean(0)
    var = torch.stack([a.var((0, 2, 3)) for a in activations]).mean(0)
    torch.testing.assert_close(found["norm"].mean, mean)
    torch.testing.assert_close(found["norm"].var, var)


def test_pooled_statistics_have_the_variance_between_images(net: Pooled) -> None:
    """Exact for the first layer: as if all images were one, whatever the batches."""
    images = [torch.randn(1, 3, 9, 7) + shift for shift in (-2.0, 0.0, 5.0)]
    before = state(net)
    pooled = pooled_statistics(net, images)
    assert unchanged(net, before)
    together = net.conv(torch.cat(images)).detach()
    torch.testing.assert_close(pooled["norm"].mean, together.mean((0, 2, 3)))
    torch.testing.assert_close(pooled["norm"].var, together.var((0, 2, 3), correction=0))
    batchwise = collect_statistics(net, images)
    torch.testing.assert_close(pooled["norm"].mean, batchwise["norm"].mean)
    assert pooled["norm"].var.sum() > 1.5 * batchwise["norm"].var.sum()
    rebatched = pooled_statistics(net, [torch.cat(images[:2]), images[2]])
    torch.testing.assert_close(rebatched["norm"].var, pooled["norm"].var)
    assert set(pooled) == {"norm"}, "the pooled branch saw one value a channel"


def test_a_layer_with_single_values_keeps_the_sources(net: Pooled) -> None:
    source = running_statistics(net)
    found = collect_statistics(net, [torch.randn(1, 3, 9, 7)])
    assert set(found) == {"norm"}
    blended = blend_statistics(source, found, 0.25)
    assert torch.equal(blended["pooled"].mean, source["pooled"].mean)
    expected = 0.25 * source["norm"].var + 0.75 * found["norm"].var
    torch.testing.assert_close(blended["norm"].var, expected)
    load_statistics(net, blended)
    assert torch.equal(net.norm.running_var, blended["norm"].var)
    with pytest.raises(KeyError, match="nothing"):
        load_statistics(net, {"nothing": blended["norm"]})


def test_updating_statistics_stay(net: Pooled) -> None:
    before = net.norm.running_mean.clone()
    with updating_statistics(net, momentum=0.5):
        net(torch.randn(1, 3, 9, 7) + 5)
    assert not torch.equal(net.norm.running_mean, before)
    assert net.norm.momentum == 0.1
    assert not any(layer.training for layer in batch_norms(net).values())


@pytest.mark.parametrize("prior", [-0.1, 1.5])
def test_a_prior_outside_its_range(net: Pooled, prior: float) -> None:
    with pytest.raises(ValueError, match="prior"), batch_statistics(net, prior=prior):
        pass
    with pytest.raises(ValueError, match="prior"):
        blend_statistics({}, {}, prior)
