from __future__ import annotations

import pytest
import torch

from uda.functional.class_balance import class_balanced_labels, regularised_labels
from uda.functional.losses import mrkld_loss, mrkld_soft_loss
from uda.methods import CBST, CRST, Supervised
from uda.testing.methods import MethodContract, one_step
from uda.types import IGNORE


class TestCRST(MethodContract):
    make = lambda self: CRST(rounds=2, portion=0.5)  # noqa: E731
    invalid = (
        {"regulariser": "l2"}, {"model_weight": -0.1}, {"label_weight": 0.0}, {"weight": -1.0}, {"rounds": 0},
        {"portion": 1.5}, {"portion_step": -0.1}, {"portion_max": 2.0}, {"start": -0.5}, {"images": 0},
    )  # fmt: skip

    @pytest.mark.parametrize("batch_size", [1, 3])
    @pytest.mark.parametrize("regulariser", ["mrkld", "lrent", "mrkld+lrent", "none"])
    def test_is_the_regularised_loss_of_the_target_prediction(self, regulariser: str, batch_size: int) -> None:
        one = CRST(regulariser=regulariser, model_weight=0.3, label_weight=0.5, portion=0.5, weight=2.0)
        run = self.train([one], steps=1, batch_size=batch_size)
        step = one_step(run)
        logits = step.predict("target").logits
        prob, ones = logits.detach().softmax(1), torch.ones(2)
        strength = 0.3 if "mrkld" in regulariser else 0.0
        if "lrent" in regulariser:
            soft, labels = regularised_labels(prob, one.thresholds, weight=0.5)
            soft = torch.where((labels == IGNORE)[:, None], 0.0, soft)
            expected = mrkld_soft_loss(logits, soft, ones, weight=strength)
        else:
            labels = class_balanced_labels(prob, one.thresholds)
            expected = mrkld_loss(logits, labels, ones, weight=strength)
        assert 0 < (labels == IGNORE).float().mean() < 1
        torch.testing.assert_close(one.losses(step)["pseudo_label"], 2 * expected)
        assert step.logs["pseudo_label/coverage"] == (labels != IGNORE).float().mean()

    def test_without_regulariser_is_cbst(self) -> None:
        left, right = (self.train([Supervised(), one], steps=4) for one in (CRST(regulariser="none"), CBST()))
        torch.testing.assert_close(dict(left.model.state_dict()), dict(right.model.state_dict()))

    def test_the_model_regulariser_keeps_predictions_softer(self) -> None:
        def confidence(weight: float) -> float:
            run = self.train([CRST(model_weight=weight, portion=0.5, portion_max=1.0)], steps=15, lr=0.5)
            return one_step(run).detached("target").logits.softmax(1).amax(1).mean().item()

        assert confidence(2.0) < confidence(0.0) - 0.05

    def test_nothing_before_start(self) -> None:
        one = CRST(start=1.0)
        run = self.train([Supervised(), one], steps=2)
        assert one.losses(one_step(run)) == {}
        assert (one.thresholds == float("inf")).all()


class TestCRSTSoftLabels(MethodContract):
    make = lambda self: CRST(regulariser="mrkld+lrent", rounds=2)  # noqa: E731

    def test_a_class_that_is_never_predicted_keeps_the_loss_finite(self) -> None:
        run = self.train([self.make()], steps=1)
        one = run.methods[0]
        with torch.no_grad():
            run.model.head.bias[2] = -200.0
        step = one_step(run)
        step.index = 0
        one.prepare(step)
        assert one.thresholds[2] == 1
        assert one.losses(step)["pseudo_label"].isfinite()
