"""Domain distances: zero where they must be, larger with the shift, gradients finite, wrong shapes refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from uda.functional import distances

PROJECTIONS = distances.random_projections(6, 30, torch.Generator().manual_seed(0))
LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mkmmd": distances.mkmmd,
    "mkmmd_linear": lambda x, y: distances.mkmmd(x, y, linear=True),
    "mmd": distances.mmd,
    "mmd_linear": lambda x, y: distances.mmd(x, y, linear=True),
    "coral": distances.coral,
    "coral_tllib": distances.coral_tllib,
    "sliced_wasserstein": lambda x, y: distances.sliced_wasserstein(x, y, PROJECTIONS),
}


@pytest.mark.parametrize("name", LOSSES)
def test_grows_with_the_shift_and_trains(name: str) -> None:
    x, y = torch.randn(40, 6), torch.randn(40, 6)
    far = (3 * y + 4).requires_grad_()
    loss = LOSSES[name](x, far)
    assert loss > LOSSES[name](x, y)
    loss.backward()
    assert far.grad is not None
    assert far.grad.isfinite().all()
    assert far.grad.abs().sum() > 0


@pytest.mark.parametrize("name", LOSSES)
def test_equal_sets_have_a_finite_gradient(name: str) -> None:
    x = torch.randn(8, 6, requires_grad=True)
    LOSSES[name](x, x.detach().clone()).backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    constant = torch.zeros(8, 6, requires_grad=True)
    LOSSES[name](constant, torch.zeros(8, 6)).backward()
    assert constant.grad is not None
    assert constant.grad.isfinite().all()


@pytest.mark.parametrize("name", LOSSES)
def test_refuses_other_columns_and_too_few_rows(name: str) -> None:
    with pytest.raises(ValueError, match=r"columns|shape"):
        LOSSES[name](torch.randn(8, 6), torch.randn(8, 5))
    with pytest.raises(ValueError, match="must be floating point"):
        LOSSES[name](torch.randn(0, 6), torch.randn(0, 6))


@pytest.mark.parametrize("name", ["mkmmd", "mkmmd_linear", "mmd_linear"])
def test_paired_estimates_need_equal_sizes(name: str) -> None:
    with pytest.raises(ValueError, match="the same shape"):
        LOSSES[name](torch.randn(8, 6), torch.randn(9, 6))


def test_values_by_hand() -> None:
    x = torch.tensor([[0.0, 0.0], [2.0, 0.0]])
    y = torch.tensor([[0.0, 1.0], [0.0, 5.0]])
    # covariances diag(2, 0) and diag(0, 8); means (1, 0) and (0, 3)
    assert distances.coral(x, y) == pytest.approx((4 + 64) / 16)
    assert distances.coral_tllib(x, y) == pytest.approx((4 + 64) / 4 + (1 + 9) / 2)
    assert distances.frechet(x, y) == pytest.approx(10 + 2 + 8, abs=1e-6)
    shifted = distances.sliced_wasserstein(x, x + torch.tensor([3.0, 0.0]), torch.eye(2))
    assert shifted == pytest.approx((9 / 2) ** 0.5)
    assert distances.frechet(x, x) == pytest.approx(0, abs=1e-9)
    assert distances.mkmmd(x, x, (1.0,), linear=True) == pytest.approx(2.0)  # only the added 2 / (n - 1)
    assert distances.a_distance(0.5) == 0


def test_bad_parameters() -> None:
    x = torch.randn(4, 3)
    with pytest.raises(ValueError, match="alphas are"):
        distances.mkmmd(x, x, (1.0, -1.0))
    with pytest.raises(ValueError, match="x has 2 rows"):
        distances.mmd(x[:2], x)
    with pytest.raises(ValueError, match="projections are"):
        distances.sliced_wasserstein(x, x, torch.eye(4))
    with pytest.raises(ValueError, match=r"domain_error is .* must be in \[0, 1\]"):
        distances.a_distance(1.2)
    with pytest.raises(ValueError, match="count is 0"):
        distances.random_projections(3, 0)


def test_projections_are_unit_columns_of_the_seed() -> None:
    again = distances.random_projections(6, 30, torch.Generator().manual_seed(0))
    assert torch.equal(PROJECTIONS, again)
    torch.testing.assert_close(PROJECTIONS.norm(dim=0), torch.ones(30))
