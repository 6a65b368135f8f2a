from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from uda.functional.entropy import iw_max_squares_loss, max_squares_loss
from uda.methods import MaxSquare
from uda.methods.max_square import guidance
from uda.testing.methods import MethodContract, one_step, train
from uda.types import IGNORE, View


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

    @pytest.mark.parametrize("weighting", ["plain", "image"])
    def test_the_published_target_step_written_out(self, weighting: str) -> None:
        """tools/solve_gta5.py (238-272) and utils/loss.py of ZJULearning/MaxSquareLoss, one image, line by line."""
        lambda_target, lambda_seg, threshold, ratio = 0.09, 0.1, 0.3, 0.2
        method = MaxSquare(
            weighting=weighting, level="multi", weight=lambda_target, aux_weight=lambda_seg * lambda_target,
            threshold=threshold,
        )  # fmt: skip
        run = self.train([method], steps=1, batch_size=1)
        with torch.no_grad():
            for head in (run.model.head, run.model.aux_head):
                head.weight.mul_(3)  # so that the classifiers are sure of different pixels
        target = View(torch.rand(1, 3, 32, 64, generator=torch.Generator().manual_seed(0)))
        step = one_step(run, {"target": target})
        terms = run.methods[0].losses(step)

        output = step.predict("target")
        pred, pred_2 = output.logits, output.aux
        pred_P, pred_P_2 = F.softmax(pred, dim=1), F.softmax(pred_2, dim=1)
        maxpred, argpred = torch.max(pred_P.detach(), dim=1)
        maxpred_2, _ = torch.max(pred_P_2.detach(), dim=1)
        if weighting == "plain":
            loss_target = -torch.mean(torch.pow(pred_P, 2)) / 2
        else:
            hist = torch.histc(argpred[0].float(), bins=6, min=-1, max=4)[1:]
            weight = 1 / torch.max(torch.pow(hist, ratio) * torch.pow(hist.sum(), 1 - ratio), torch.ones(1))
            loss_target = -torch.sum(torch.pow(pred_P, 2) * weight[argpred[0]]) / (1 * 5)
        pred_c = (pred_P + pred_P_2) / 2
        maxpred_c, argpred_c = torch.max(pred_c, dim=1)
        mask = (maxpred > threshold) | (maxpred_2 > threshold)
        assert not torch.equal(mask, maxpred_c > threshold), "the mean's own confidence would give another mask"
        label_2 = torch.where(mask, argpred_c, -1)
        assert 0 < mask.float().mean() < 1
        loss_target_2 = lambda_seg * lambda_target * nn.CrossEntropyLoss(ignore_index=-1)(pred_2, label_2)
        torch.testing.assert_close(terms, {"squares": lambda_target * loss_target, "guidance": loss_target_2})
        grad = torch.autograd.grad(terms["guidance"], [output.logits, output.aux], allow_unused=True)
        assert grad[0] is None
        assert grad[1].abs().sum() > 0

    def test_either_is_sure(self) -> None:
        sure, unsure = torch.tensor([0.96, 0.04]), torch.tensor([0.3, 0.7])
        main = torch.stack([sure, unsure, unsure, sure], 1)[None, :, None]
        aux = torch.stack([unsure, sure, unsure, sure], 1)[None, :, None]
        assert guidance(main, aux, 0.95).tolist() == [[[0, 0, IGNORE, 0]]]

    def test_nobody_sure_is_no_nan(self) -> None:
        run = self.train([MaxSquare(level="multi", threshold=1.0)], steps=1)
        assert run.methods[0].losses(one_step(run))["guidance"].item() == 0


def test_multi_level_needs_an_auxiliary_classifier() -> None:
    with pytest.raises(ValueError, match="MaxSquare: level is 'multi'"):
        train([MaxSquare(level="multi")], steps=1)
