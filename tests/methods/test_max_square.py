from __future__ import annotations

import pytest
import torch

from uda.functional.entropy import iw_max_squares_loss, max_squares_loss
from uda.functional.losses import cross_entropy_2d
from uda.methods import MaxSquare
from uda.testing.methods import MethodContract, one_step, train
from uda.types import IGNORE


class TestMaxSquare(MethodContract):
    make = lambda self: MaxSquare()  # noqa: E731
    invalid = (
        {"weighting": "class"}, {"ratio": 1.5}, {"weight": -1.0}, {"level": "triple"}, {"aux_weight": -0.5},
        {"threshold": 2.0},
    )  # fmt: skip

    @pytest.mark.parametrize("batch_size", [1, 3])
    @pytest.mark.parametrize("weighting", ["plain", "image"])
    def test_is_the_loss_of_the_target_prediction(self, weighting: str, batch_size: int) -> None:
        run = self.train([MaxSquare(weighting=weighting, ratio=0.4, weight=2.0)], steps=1, batch_size=batch_size)
        step = one_step(run)
        prob = step.predict("target").logits.softmax(1)
        loss = max_squares_loss(prob) if weighting == "plain" else iw_max_squares_loss(prob, ratio=0.4)
        torch.testing.assert_close(run.methods[0].losses(step), {"squares": 2 * loss})

    def test_makes_predictions_surer(self) -> None:
        run = self.train([MaxSquare(weight=1.0)], steps=1)
        first = self.terms(run, run.methods[0])["squares"].item()
        longer = self.train([MaxSquare(weight=1.0)], steps=20, lr=0.5)
        assert self.terms(longer, longer.methods[0])["squares"].item() < 1.2 * first < 0


class TestMaxSquareMultiLevel(MethodContract):
    make = lambda self: MaxSquare(weighting="image", level="multi", threshold=0.2)  # noqa: E731
    aux = True

    def test_sure_pixels_of_the_mean_prediction_guide_the_auxiliary_classifier(self) -> None:
        run = self.train([MaxSquare(level="multi", threshold=0.25, aux_weight=0.5)], steps=1)
        step = one_step(run)
        output = step.predict("target")
        mean = (output.logits.softmax(1) + output.aux.softmax(1)) / 2
        labels = torch.where(mean.amax(1) > 0.25, mean.argmax(1), IGNORE)
        assert 0 < (labels == IGNORE).float().mean() < 1
        term = run.methods[0].losses(step)["guidance"]
        torch.testing.assert_close(term, 0.5 * cross_entropy_2d(output.aux, labels))
        grad = torch.autograd.grad(term, [output.logits, output.aux], allow_unused=True)
        assert grad[0] is None
        assert grad[1].abs().sum() > 0


def test_multi_level_needs_an_auxiliary_classifier() -> None:
    with pytest.raises(ValueError, match="MaxSquare: level is 'multi'"):
        train([MaxSquare(level="multi")], steps=1)
