"""Classes and losses without upsampled logits, beside PyTorch's with them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from uda.engine import scoring
from uda.engine.scoring import most_probable, predict_and_loss
from uda.types import IGNORE


@pytest.fixture(autouse=True)
def every_image_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "LEAST_PIXELS", 1)


def upsampled(logits: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(logits[None].double(), size, mode="bilinear", align_corners=False)[0]


def scene(shape: tuple[int, int, int], size: tuple[int, int], scale: float) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = scale * torch.randn(shape, generator=generator)
    label = torch.randint(0, shape[0], size, generator=generator)
    label[torch.rand(size, generator=generator) < 0.2] = IGNORE
    return logits, label


def assert_same_classes(classes: Tensor, logits: Tensor) -> None:
    """Equal but where two classes are as probable as rounding can tell."""
    best = logits.topk(min(2, len(logits)), dim=0).values
    clear = best[0] - best[-1] > 1e-4 * logits.abs().max() if len(best) > 1 else torch.ones_like(best[0], dtype=bool)
    assert clear.float().mean() > 0.99
    assert torch.equal(classes.long()[clear], logits.argmax(0)[clear])


@pytest.mark.parametrize(
    ("small", "size"),
    [
        pytest.param((8, 16), (64, 128), id="eight times"),
        pytest.param((9, 17), (64, 128), id="no whole factor"),
        pytest.param((7, 5), (21, 61), id="another factor for columns"),
        pytest.param((1, 1), (6, 5), id="a single pixel"),
        pytest.param((1, 6), (9, 19), id="a single row"),
    ],
)
@pytest.mark.parametrize("scale", [0.5, 8.0])
def test_classes_and_loss_are_those_of_upsampled_logits(
    small: tuple[int, int], size: tuple[int, int], scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits, label = scene((5, *small), size, scale)
    monkeypatch.setattr(scoring, "_in_bands", None)  # the way that these logits must not take
    monkeypatch.setattr(scoring, "BAND_BYTES", 500)
    classes, loss = predict_and_loss(logits, label)
    large = upsampled(logits, size)
    assert_same_classes(classes, large)
    assert torch.equal(classes, most_probable(logits, size))
    # OpenCV rounds the pixels' weights
    assert loss == pytest.approx(F.cross_entropy(large[None], label[None], ignore_index=IGNORE).item(), rel=2e-5)


def test_logits_of_a_wide_range_have_exact_losses_all_the_same() -> None:
    logits, label = scene((5, 8, 16), (64, 128), 60.0)
    assert (logits.amax(0) - logits.amin(0)).max() > scoring.RANGE
    classes, loss = predict_and_loss(logits, label)
    large = upsampled(logits, (64, 128))
    assert_same_classes(classes, large)
    assert loss == pytest.approx(F.cross_entropy(large[None], label[None], ignore_index=IGNORE).item(), rel=2e-5)


@pytest.mark.parametrize("gap", [scoring.RANGE - 1, 3 * scoring.RANGE])
def test_no_exponential_is_lost_where_the_winner_of_a_row_is_the_last_of_the_next(gap: float) -> None:
    logits = torch.zeros(3, 4, 4)
    logits[0, ::2] = logits[1, 1::2] = gap
    label = torch.full((32, 32), 2)
    wanted = F.cross_entropy(upsampled(logits, (32, 32))[None], label[None]).item()
    assert predict_and_loss(logits, label)[1] == pytest.approx(wanted, rel=1e-5)


def test_nothing_labelled_has_no_loss() -> None:
    logits, label = scene((5, 4, 8), (32, 64), 1.0)
    assert math.isnan(predict_and_loss(logits, torch.full_like(label, IGNORE))[1])


def test_not_a_number_is_told_and_not_hidden() -> None:
    logits, label = scene((5, 4, 8), (32, 64), 1.0)
    logits[2, 1, 3] = float("nan")
    assert math.isnan(predict_and_loss(logits, label)[1])


@pytest.mark.parametrize("values", [3, 1000])
def test_the_most_probable_class_is_the_first_of_the_highest(values: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "BAND_BYTES", 100)
    logits = torch.randint(0, values, (5, 16, 9), generator=torch.Generator().manual_seed(0)).float()
    logits[2, 5, 5] = float("nan")
    assert torch.equal(most_probable(logits).long(), logits.argmax(0))


@pytest.mark.parametrize("case", ["equal ones", "NaN", "nothing labelled"])
def test_predicted_in_bands_as_at_once(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("uda.engine.scoring.BAND_BYTES", 4 * 5 * 6 * 2)  # of two rows
    generator = torch.Generator().manual_seed(0)
    logits = torch.randint(-3, 4, (5, 7, 6), generator=generator).float() * 40  # exp would overflow
    label = torch.randint(0, 5, (7, 6), generator=generator)
    label[2, 1:4] = IGNORE
    if case == "NaN":
        logits[3, 4, 2] = float("nan")
    if case == "nothing labelled":
        label[:] = IGNORE
    classes, loss = predict_and_loss(logits, label)
    assert torch.equal(classes.long(), logits.argmax(0))
    wanted = F.cross_entropy(logits[None], label[None], ignore_index=IGNORE).item()
    assert loss == pytest.approx(wanted, rel=1e-6, nan_ok=True)
