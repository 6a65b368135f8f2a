from __future__ import annotations

from pathlib import Path

import pytest
import torch

from uda.functional.class_balance import multiband_probabilities, portion_thresholds
from uda.functional.losses import cross_entropy_2d
from uda.methods import FDAMultiBand, Supervised
from uda.methods.support.target_pass import target_confidences
from uda.testing.methods import MethodContract, Recorder, one_step
from uda.testing.tiny import TinySegmenter
from uda.types import IGNORE


def networks(count: int = 3, num_classes: int = 5) -> list[TinySegmenter]:
    made = []
    for seed in range(count):
        torch.manual_seed(seed)
        made.append(TinySegmenter(num_classes))
    return made


class TestFDAMultiBand(MethodContract):
    make = lambda self: FDAMultiBand()  # noqa: E731
    invalid = ({"weight": -1.0}, {"portion": 1.5}, {"cap": -0.1}, {"images": 0})

    def test_the_own_network_is_kept_as_it_was(self) -> None:
        run = self.train([Supervised(), self.make()])
        start = run.methods[1].start.state_dict()
        torch.manual_seed(0)
        first = TinySegmenter(5).state_dict()
        assert all(torch.equal(value, first[key]) for key, value in start.items())


class TestThreeNetworks(MethodContract):
    make = lambda self: FDAMultiBand(models=networks())  # noqa: E731

    def test_any_number_of_classes_and_a_batch_of_one(self) -> None:
        for classes in (2, 19):
            one = FDAMultiBand(models=networks(num_classes=classes))
            run = self.train([Supervised(), one], num_classes=classes, batch_size=1, steps=2)
            assert all(value.isfinite().all() for value in run.model.state_dict().values())

    def test_is_the_loss_of_the_thresholded_mean_prediction(self) -> None:
        models = networks()
        one = FDAMultiBand(models=models, weight=2.0, cap=0.5, portion=0.4)
        run = self.train([one], steps=1)
        step = one_step(run)
        with torch.no_grad():
            images = torch.stack([one._target[index].image for index in range(6)]) / 255
            prob = multiband_probabilities([model(images).logits for model in models])
            confidence, labels = prob.max(1)
            thresholds = portion_thresholds(labels, confidence, 5, portion=0.4, cap=0.5)
            torch.testing.assert_close(one.thresholds, thresholds)
            confidence, labels = multiband_probabilities(
                [model(step.view("target").images).logits for model in models]
            ).max(1)
        labels = torch.where(confidence < one.thresholds[labels], IGNORE, labels)
        assert 0 < (labels == IGNORE).float().mean() < 1
        expected = 2 * cross_entropy_2d(step.predict("target").logits, labels)
        torch.testing.assert_close(one.losses(step)["pseudo_label"], expected)

    def test_networks_are_not_trained_nor_saved(self) -> None:
        models = networks()
        before = [{key: value.clone() for key, value in model.state_dict().items()} for model in models]
        one = FDAMultiBand(models=models)
        run = self.train([Supervised(), one], trainer=Recorder)
        for model, state in zip(models, before, strict=True):
            assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
            assert {grad for _, grad in model.passes} == {False}
        assert set(one.state_dict()) == {"thresholds", "measured"}
        assert list(one.parameters()) == []
        assert run.logs[0]["pseudo_label/FDAMultiBand/coverage"] > 0

    def test_thresholds_are_taken_once(self) -> None:
        (model,) = models = networks(1)
        self.train([FDAMultiBand(models=models, images=4)], steps=3)
        assert len(model.passes) == 4 + 3

    def test_files_are_weights_or_checkpoints(self, tmp_path: Path) -> None:
        models = networks(2)
        torch.save(models[0].state_dict(), tmp_path / "plain.pt")
        torch.save({"model": models[1].state_dict(), "step": 3}, tmp_path / "checkpoint.pt")
        files = [tmp_path / "plain.pt", str(tmp_path / "checkpoint.pt")]
        given, read = (self.train([FDAMultiBand(models=one)], steps=2) for one in (models, files))
        for left, right in zip(given.model.state_dict().values(), read.model.state_dict().values(), strict=True):
            assert torch.equal(left, right)

    def test_another_number_of_classes_is_refused(self) -> None:
        with pytest.raises(ValueError, match="a network has 4 classes, the run has 5"):
            self.train([FDAMultiBand(models=networks(1, num_classes=4))], steps=1)


def test_the_pass_keeps_few_pixels_of_few_images(monkeypatch) -> None:
    from uda.testing.tiny import tiny_target

    monkeypatch.setattr("uda.methods.support.target_pass.PIXELS", 100)
    target = tiny_target().unlabelled()
    labels, confidences = target_confidences(
        target, lambda image: torch.rand(1, 4, 32, 64), 2, torch.Generator().manual_seed(0), "cpu"
    )
    assert len(labels) == len(confidences) == len(target.touched) == 2
    assert all(90 < len(one) <= 110 for one in (*labels, *confidences))
