from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import uda.methods.cbst
from uda.engine import Trainer, Update
from uda.functional.windows import cut_window
from uda.methods import CBST, PassOnly, Supervised
from uda.testing.methods import (
    Killed,
    MethodContract,
    Recorder,
    assert_same,
    killed_at,
    one_step,
    settings,
    train,
)
from uda.testing.tiny import TinyDataset, TinySegmenter, TinyUnlabelled, tiny_target
from uda.types import IGNORE, Sample, TaskSpec, View

MARK = "pseudo_label/CBST/threshold/class0"


class ManySizes(TinyUnlabelled):
    """Target images of three sizes."""

    def __getitem__(self, index: int) -> Sample:
        sample = super().__getitem__(index)
        height, width = ((32, 64), (24, 40), (40, 48))[index % 3]
        return sample._replace(image=F.interpolate(sample.image[None].float(), (height, width))[0].byte())


def probabilities(step, target) -> list[np.ndarray]:
    """``(H, W, C)`` of each image, as the authors save them."""
    images = [target[index].image[None] / 255 for index in range(len(target))]
    return [step.infer(image).logits.softmax(1)[0].permute(1, 2, 0).numpy() for image in images]


def authors_thresholds(probs: list[np.ndarray], portion: float, ds_rate: int = 4) -> np.ndarray:
    """``val`` and ``kc_parameters`` of crst_seg.py (456-504, 612-634)."""
    num_classes = probs[0].shape[2]
    conf_dict: dict[int, list[float]] = {k: [] for k in range(num_classes)}
    for output in probs:
        pred_label, conf = np.argmax(output, axis=2), np.amax(output, axis=2)
        for idx_cls in range(num_classes):
            conf_cls_temp = conf[pred_label == idx_cls].astype(np.float32)
            conf_dict[idx_cls].extend(conf_cls_temp[0 : conf_cls_temp.size : ds_rate])
    cls_thresh = np.ones(num_classes, dtype=np.float32)
    for idx_cls in range(num_classes):
        conf_dict[idx_cls].sort(reverse=True)
        len_cls_thresh = math.floor(len(conf_dict[idx_cls]) * portion)
        if len_cls_thresh != 0:
            cls_thresh[idx_cls] = conf_dict[idx_cls][len_cls_thresh - 1]
    return cls_thresh


def authors_map(pred_prob: np.ndarray, cls_thresh: np.ndarray) -> np.ndarray:
    """``label_selection`` of crst_seg.py (659-673)."""
    weighted_prob = pred_prob / cls_thresh
    label = np.asarray(np.argmax(weighted_prob, axis=2), dtype=np.uint8)
    label[np.amax(weighted_prob, axis=2) < 1] = 255
    return label


def first_step(run, method, **changes):
    """The method's rounds anew on the trained network: the step after its ``prepare`` at index 0."""
    step = one_step(run, index=0, **changes)
    method.prepare(step)
    return step


class TestCBST(MethodContract):
    make = lambda self: CBST(rounds=2, portion=0.5)  # noqa: E731
    invalid = (
        {"weight": -1.0}, {"rounds": 0}, {"portion": 1.5}, {"portion_step": -0.1}, {"portion_max": 2.0},
        {"start": -0.5}, {"images": 0},
    )  # fmt: skip

    @pytest.mark.parametrize("portion", [0.2, 0.5])
    def test_thresholds_and_maps_are_the_authors(self, portion: float) -> None:
        for target in (tiny_target().unlabelled(), ManySizes("sizes", 6, (0.3, 0.5, 0.4), 2)):
            run = self.train([CBST(portion=portion)], target=target, steps=2)
            method = run.methods[0]
            probs = probabilities(first_step(run, method), target)
            expected = authors_thresholds(probs, portion)
            assert method.thresholds.tolist() == expected.tolist()
            assert len(method.maps) == len(target)
            for index, prob in enumerate(probs):
                assert np.array_equal(method.maps.whole(index)[0].numpy(), authors_map(prob, expected))

    def test_a_round_takes_the_portion_of_each_class(self, monkeypatch) -> None:
        """Over all images, by hand from the same probabilities; 0.44 of the pixels where 0.2 was asked for before."""
        monkeypatch.setattr(uda.methods.cbst, "STRIDE", 1)
        run = self.train([Supervised(), CBST(portion=0.2)], steps=12, lr=0.2)
        method, target = run.methods[1], tiny_target().unlabelled()
        flat = np.concatenate([prob.reshape(-1, 5) for prob in probabilities(first_step(run, method), target)])
        label, confidence = flat.argmax(1), flat.max(1)
        taken = np.zeros(len(flat), bool)
        for index in np.unique(label):
            ranked = np.sort(confidence[label == index])[::-1]
            number = math.floor(0.2 * len(ranked))
            own = (label == index) & (confidence >= ranked[number - 1])
            assert own.sum() == number, "no ties here"
            taken |= own
        stored = torch.cat([method.maps.whole(index).flatten() for index in range(len(target))]).numpy() != IGNORE
        assert (stored >= taken).all(), "the portion of each class is in"
        assert abs(taken.mean() - 0.2) < 5 / len(flat)
        # beyond the portion: pixels whose second class reaches its threshold
        thresholds = method.thresholds.numpy()
        others = np.where(np.arange(5) == label[:, None], 0, flat / thresholds).max(1) >= 1
        assert np.array_equal(stored, taken | others)
        assert stored.mean() < 0.25

    def test_three_rounds_of_growing_portions(self, monkeypatch) -> None:
        portions: list[float] = []
        original = uda.methods.cbst.class_balanced_thresholds
        monkeypatch.setattr(
            uda.methods.cbst, "class_balanced_thresholds",
            lambda *a, portion, **k: portions.append(portion) or original(*a, portion=portion, **k),
        )  # fmt: skip
        run = self.train([Supervised(), CBST()], steps=9, trainer=Recorder)
        assert portions == pytest.approx([0.20, 0.25, 0.30])
        assert [index for index, logs in enumerate(run.logs) if MARK in logs] == [0, 3, 6]
        portions.clear()
        self.train([CBST(rounds=4, portion_max=0.27)], steps=4)
        assert portions == pytest.approx([0.20, 0.25, 0.27, 0.27])

    def test_rounds_divide_what_is_left_of_the_run(self) -> None:
        method = CBST(rounds=4, start=0.2)
        rounds = [method.round_at(index, 20) for index in range(20)]
        assert rounds == [-1] * 4 + [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4
        assert {CBST(start=1.0).round_at(index, 20) for index in range(20)} == {-1}

    def test_no_pseudo_labels_before_start(self) -> None:
        run = self.train([Supervised(), CBST(start=0.5)], steps=4, trainer=Recorder)
        assert ["loss/CBST/pseudo_label" in logs for logs in run.logs] == [False, False, True, True]

    def test_the_loss_is_of_the_stored_maps_for_a_whole_round(self) -> None:
        """In the run's last step the maps are those of the round's first, cut as the crops were, mirrored ones too."""
        run = self.train([CBST(rounds=1, portion=0.5, weight=3.0)], steps=4, trainer=Recorder, dropout=0.0, lr=0.2)
        method, last = run.methods[0], run.steps[-1]
        torch.manual_seed(0)
        untrained = TinySegmenter(5, dropout=0.0).eval()
        target = tiny_target().unlabelled()
        with torch.no_grad():
            probs = [untrained(target[i].image[None] / 255).logits.softmax(1)[0].permute(1, 2, 0) for i in range(6)]
        thresholds = authors_thresholds([prob.numpy() for prob in probs], 0.5)
        maps = [torch.from_numpy(authors_map(prob.numpy(), thresholds)) for prob in probs]
        windows = [window for step in run.steps for window in step.view("target").windows]
        assert {window.flip for window in windows} == {False, True}
        view = last.view("target")
        labels = torch.stack([cut_window(maps[w.sample], w, (32, 64), outside=255).long() for w in view.windows])
        assert 0.3 < (labels != 255).float().mean() < 0.9
        assert run.logs[-1]["pseudo_label/CBST/coverage"] == pytest.approx((labels != 255).float().mean().item())
        step = one_step(run, {"target": view})
        expected = F.cross_entropy(step.predict("target").logits, labels, ignore_index=255)
        torch.testing.assert_close(method.losses(step)["pseudo_label"], 3 * expected)

    @pytest.mark.parametrize("stop", [2, 4])
    def test_a_killed_run_keeps_its_maps(self, tmp_path: Path, stop: int) -> None:
        """Rounds begin at 0 and 3; within one, the network has changed since its maps were made."""
        whole = self.train([Supervised(), self.make()], out=tmp_path / "whole", steps=6)
        with pytest.raises(Killed):
            self.train([Supervised(), self.make()], out=tmp_path / "cut", steps=6, progress=killed_at(stop))
        torch.manual_seed(99)
        cut = Trainer(TinySegmenter(5), [Supervised(), self.make()], settings(steps=6), out=tmp_path / "cut")
        cut.fit(TinyDataset(), tiny_target())
        assert_same(whole.state_dict(), cut.state_dict())

    def test_logs_coverage_and_shares(self) -> None:
        run = self.train([Supervised(), self.make()], trainer=Recorder)
        for logs in run.logs:
            assert 0 < logs["pseudo_label/CBST/coverage"] <= 1
            assert abs(sum(logs[f"pseudo_label/CBST/share/class{index}"] for index in range(5)) - 1) < 1e-5

    def test_nothing_selected_is_zero_loss(self) -> None:
        run = self.train([Supervised(), CBST(portion=0.0, portion_step=0.0)], trainer=Recorder)
        assert all(logs["loss/CBST/pseudo_label"] == 0 and logs["pseudo_label/CBST/coverage"] == 0 for logs in run.logs)

    def test_memory_is_bounded(self, monkeypatch) -> None:
        """No more than the set number of images and pixels for the thresholds; every image has its map."""
        monkeypatch.setattr(uda.methods.cbst, "PIXELS", 100)
        kept: list[list[int]] = []
        original = uda.methods.cbst.class_balanced_thresholds
        monkeypatch.setattr(
            uda.methods.cbst, "class_balanced_thresholds",
            lambda labels, *a, **k: kept.append([len(label) for label in labels]) or original(labels, *a, **k),
        )  # fmt: skip
        run = self.train([CBST(images=2)], steps=1)
        (sizes,) = kept
        assert len(sizes) == 2
        assert all(80 < size <= 100 + 5 for size in sizes)
        assert len(run.methods[0].maps) == 6


def test_a_loop_without_windows_is_told_what_to_do() -> None:
    source, target = TinyDataset(), tiny_target().unlabelled()
    update = Update(TinySegmenter(), [CBST()], total_steps=2)
    update.setup(TaskSpec.of(update.model, source.space, source=source, target=target))
    images = torch.stack([target[index].image for index in range(2)]) / 255
    with pytest.raises(ValueError, match=r"give View\(..., windows=...\), as uda.data.Pairs does with TrainTransform"):
        update({"target": View(images)})


def test_the_control_may_name_it() -> None:
    run = train([Supervised(), PassOnly(of={"CBST": {}})], steps=2)
    assert run.step_index == 2
