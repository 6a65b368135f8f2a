from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.methods.test_cbst import authors_map, authors_thresholds, first_step, probabilities
from uda.methods import CBST, CRST, Supervised
from uda.testing.methods import MethodContract, one_step
from uda.testing.tiny import tiny_target
from uda.types import View, Window


def authors_soft(pred_prob: np.ndarray, cls_thresh: np.ndarray, weight: float) -> tuple[np.ndarray, np.ndarray]:
    """``label_selection`` of crst_seg.py (674-695): soft labels ``(H, W, C)``, and score of keeping less dropping."""
    soft = np.power(pred_prob.astype(np.float64) / cls_thresh, 1.0 / weight)
    soft = soft / soft.sum(2, keepdims=True)
    reg_score = np.sum(-soft * np.log(pred_prob + 1e-32) + weight * soft * np.log(soft + 1e-32), axis=2)
    sel_score = np.sum(-soft * np.log(cls_thresh + 1e-32), axis=2)
    return soft, reg_score - sel_score


def authors_loss(pred: torch.Tensor, label: torch.Tensor, mr_weight_kld: float, reg_weight: float) -> torch.Tensor:
    """``reg_loss_calc_expand`` of crst_seg.py (870-908); vectors of zeros are ignored."""
    valid = label.sum(1) != 0
    logsoftmax = pred.log_softmax(1)
    ce = torch.sum(-logsoftmax * label)
    kld = torch.sum(-logsoftmax * valid[:, None] / pred.shape[1] * reg_weight)
    return ce / valid.sum() + (mr_weight_kld * kld) / valid.sum()


def one_hot(labels: torch.Tensor) -> torch.Tensor:
    return torch.stack([labels == index for index in range(5)], 1).float()


class TestCRST(MethodContract):
    make = lambda self: CRST(rounds=2, portion=0.5)  # noqa: E731
    invalid = (
        {"regulariser": "l2"}, {"model_weight": -0.1}, {"label_weight": 0.0}, {"weight": -1.0}, {"rounds": 0},
        {"portion": 1.5}, {"portion_step": -0.1}, {"portion_max": 2.0}, {"start": -0.5}, {"images": 0},
    )  # fmt: skip

    @pytest.mark.parametrize("regulariser", ["mrkld", "lrent", "mrkld+lrent", "none"])
    def test_is_the_authors_loss_of_the_stored_maps(self, regulariser: str) -> None:
        method = CRST(regulariser=regulariser, model_weight=0.3, label_weight=0.2, portion=0.3, weight=2.0)
        run = self.train([Supervised(), method], steps=12, lr=0.2)
        step = first_step(run, method)
        probs = probabilities(step, tiny_target().unlabelled())[:2]
        thresholds = method.thresholds.numpy()
        if "lrent" in regulariser:
            both = [authors_soft(prob, thresholds, 0.2) for prob in probs]
            stacked = torch.from_numpy(np.stack([soft * (score < 0)[..., None] for soft, score in both]))
            expected = stacked.permute(0, 3, 1, 2).float()
        else:
            expected = one_hot(torch.from_numpy(np.stack([authors_map(prob, thresholds) for prob in probs])))
        valid = expected.sum(1) != 0
        assert 0.1 < valid.float().mean() < 0.9
        strength = 0.3 if "mrkld" in regulariser else 0.0
        logits = step.predict("target").logits
        loss = authors_loss(logits, expected, strength, 1.0)
        tolerance = {"rtol": 1e-3, "atol": 0.0} if "lrent" in regulariser else {}  # stored in steps of 1/255
        torch.testing.assert_close(method.losses(step)["pseudo_label"], 2 * loss, **tolerance)
        assert step.logs["pseudo_label/coverage"] == valid.float().mean()

    def test_the_published_strength(self) -> None:
        """``--mr-weight-kld 0.1`` weighs each target image and their sum."""
        method = CRST(portion=0.5)
        run = self.train([method], steps=2)
        step = first_step(run, method)
        labels = torch.cat([method.maps.whole(index) for index in range(2)])
        expected = authors_loss(step.predict("target").logits, one_hot(labels), 0.1, 0.1)
        torch.testing.assert_close(method.losses(step)["pseudo_label"], expected)

    def test_without_regulariser_is_cbst(self) -> None:
        left, right = (self.train([Supervised(), method], steps=4) for method in (CRST(regulariser="none"), CBST()))
        torch.testing.assert_close(dict(left.model.state_dict()), dict(right.model.state_dict()))

    def test_the_model_regulariser_keeps_predictions_softer(self) -> None:
        def confidence(weight: float) -> float:
            run = self.train([CRST(model_weight=weight, portion=0.5, portion_max=1.0)], steps=15, lr=0.5)
            return one_step(run).detached("target").logits.softmax(1).amax(1).mean().item()

        assert confidence(2.0) < confidence(0.0) - 0.05

    def test_nothing_before_start(self) -> None:
        method = CRST(start=1.0)
        run = self.train([Supervised(), method], steps=2)
        assert method.losses(one_step(run)) == {}
        assert (method.thresholds == float("inf")).all()
        assert len(method.maps) == 0


class TestCRSTSoftLabels(MethodContract):
    make = lambda self: CRST(regulariser="mrkld+lrent", rounds=2)  # noqa: E731

    @pytest.mark.parametrize("weight", [0.25, 3.0])
    def test_soft_labels_are_stored_in_255ths(self, weight: float) -> None:
        method = CRST(regulariser="lrent", label_weight=weight, portion=0.3)
        run = self.train([method], steps=2)
        probs = probabilities(first_step(run, method), tiny_target().unlabelled())
        thresholds = authors_thresholds(probs, 0.3)
        for index, prob in enumerate(probs):
            soft, score = authors_soft(prob, thresholds, weight)
            stored = method.maps.whole(index).permute(1, 2, 0).numpy()
            sure = abs(score) > 1e-5
            assert np.array_equal((stored.sum(2) > 0)[sure], (score < 0)[sure])
            kept = sure & (score < 0)
            assert kept.any()
            assert abs(stored / 255 - soft)[kept].max() < 0.5 / 255 + 1e-5

    def test_outside_of_the_image_nothing_is_learnt(self) -> None:
        method = CRST(regulariser="lrent", portion=1.0)
        run = self.train([method], steps=2)
        images = one_step(run).view("target").images
        windows = tuple(Window(index, (32, 64), -32, 0, 32, 64) for index in range(2))
        step = one_step(run, {"target": View(images, windows=windows)})
        assert method.losses(step)["pseudo_label"] == 0

    def test_a_class_that_is_never_predicted_keeps_the_loss_finite(self) -> None:
        run = self.train([self.make()], steps=1)
        method = run.methods[0]
        with torch.no_grad():
            run.model.head.bias[2] = -200.0
        step = first_step(run, method)
        assert method.thresholds[2] == 1
        assert method.losses(step)["pseudo_label"].isfinite()
