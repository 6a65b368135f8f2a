from __future__ import annotations

import torch

from uda.methods import CBST, Supervised
from uda.testing.methods import MethodContract, Recorder, one_step
from uda.types import IGNORE


class TestCBST(MethodContract):
    make = lambda self: CBST(rounds=2, portion=0.5)  # noqa: E731
    invalid = (
        {"weight": -1.0}, {"rounds": 0}, {"portion": 1.5}, {"portion_step": -0.1}, {"portion_max": 2.0},
        {"start": -0.5}, {"images": 0},
    )  # fmt: skip

    def test_rounds_divide_what_is_left_of_the_run(self) -> None:
        one = CBST(rounds=4, start=0.2)
        rounds = [one.round_at(index, 20) for index in range(20)]
        assert rounds == [-1] * 4 + [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4
        assert {CBST(start=1.0).round_at(index, 20) for index in range(20)} == {-1}

    def test_thresholds_change_at_round_boundaries_only(self) -> None:
        run = self.train([Supervised(), CBST(rounds=2)], steps=6, trainer=Recorder)
        measured = [index for index, logs in enumerate(run.logs) if "pseudo_label/CBST/threshold/class0" in logs]
        assert measured == [0, 3]

    def test_no_pseudo_labels_before_start(self) -> None:
        run = self.train([Supervised(), CBST(start=0.5)], steps=4, trainer=Recorder)
        assert ["loss/CBST/pseudo_label" in logs for logs in run.logs] == [False, False, True, True]

    def test_thresholds_take_the_portion_of_each_class(self) -> None:
        """Over the images that they were measured on, half of each predicted class is at or above its threshold."""
        run = self.train([CBST(portion=0.5)], steps=1)
        one, target = run.methods[0], run.methods[0]._target
        step = one_step(run)
        thresholds = one._measure(step, 0.5)
        images = torch.stack([target[index].image for index in range(len(target))]) / 255
        confidence, labels = step.infer(images).logits.softmax(1).max(1)
        for index in labels.unique().tolist():
            mine = confidence[labels == index]
            assert (mine >= thresholds[index]).sum() == max(len(mine) // 2, 1)

    def test_logs_coverage_and_shares(self) -> None:
        run = self.train([Supervised(), self.make()], trainer=Recorder)
        for logs in run.logs:
            assert 0 < logs["pseudo_label/CBST/coverage"] <= 1
            assert abs(sum(logs[f"pseudo_label/CBST/share/class{index}"] for index in range(5)) - 1) < 1e-5

    def test_nothing_selected_is_zero_loss(self) -> None:
        run = self.train([Supervised(), CBST(portion=0.0, portion_step=0.0)], trainer=Recorder)
        assert all(logs["loss/CBST/pseudo_label"] == 0 and logs["pseudo_label/CBST/coverage"] == 0 for logs in run.logs)

    def test_memory_is_bounded(self, monkeypatch) -> None:
        """No more than the set number of images and pixels, and the target is touched at the boundary only."""
        monkeypatch.setattr("uda.methods.support.target_pass.PIXELS", 100)
        seen: list[int] = []
        original = torch.cat
        run = self.train([CBST(images=2)], steps=1)
        monkeypatch.setattr(
            torch, "cat", lambda tensors, *a, **k: seen.append(sum(map(len, tensors))) or original(tensors)
        )
        run.methods[0]._measure(one_step(run), 0.2)
        assert max(seen) <= 2 * 100 * 1.1

    def test_labels_ignore_where_no_ratio_reaches_one(self) -> None:
        run = self.train([self.make()], steps=1)
        one = run.methods[0]
        one.thresholds.fill_(float("inf"))
        step = one_step(run)
        step.index = 1
        assert one.losses(step)["pseudo_label"] == 0
        assert IGNORE == 255
