from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from uda.methods import ClassMix, Supervised
from uda.testing.methods import MethodContract, Recorder, one_step
from uda.types import Window


class TestClassMix(MethodContract):
    make = lambda self: ClassMix()  # noqa: E731
    invalid = (
        {"weight": -1.0}, {"threshold": 1.5}, {"weighting": "image"}, {"jitter": -0.1}, {"jitter_probability": 2.0},
        {"blur_probability": -1.0}, {"classes": "run"}, {"margins": {"top": 1.0}}, {"margins": {"above": 0.1}},
    )  # fmt: skip

    def test_mixed_pixels_come_from_source_or_target_with_their_labels(self) -> None:
        one = ClassMix(jitter_probability=0.0, blur_probability=0.0, threshold=0.3)
        run = self.train([one], steps=1)
        step = one_step(run)
        source, target = step.view("source"), step.view("target")
        taught = step.teach("target").logits.softmax(1).max(1)
        one.prepare(step)
        mixed = step.view("mixed")
        pasted = (mixed.images == source.images).all(1)
        kept = (mixed.images == target.images).all(1)
        assert (pasted | kept).all()
        assert pasted.any()
        assert (~pasted).any()
        assert torch.equal(mixed.labels[pasted & ~kept], source.labels[pasted & ~kept])
        assert torch.equal(mixed.labels[~pasted], taught.indices[~pasted])
        share = (taught.values >= 0.3).float().mean()
        assert (mixed.weight[pasted & ~kept] == 1).all()
        torch.testing.assert_close(mixed.weight[~pasted], share.expand_as(mixed.weight[~pasted]))
        for image in range(2):
            classes, chosen = source.labels[image].unique(), source.labels[image][pasted[image] & ~kept[image]].unique()
            assert len(chosen) == (len(classes) + 1) // 2

    def test_pixel_weighting(self) -> None:
        one = ClassMix(weighting="pixel", threshold=0.3)
        step = one_step(self.train([one], steps=1))
        one.prepare(step)
        assert set(step.view("mixed").weight.unique().tolist()) <= {0.0, 1.0}

    def test_augmentation_leaves_labels_and_weights(self) -> None:
        """The same draws of classes with and without augmentation: only the images differ."""
        run = self.train([self.make()], steps=1)
        views = []
        for strength in (0.0, 1.0):
            run.update.generator.manual_seed(5)
            step = one_step(run)
            one = run.methods[0]
            one.jitter_probability = one.blur_probability = strength
            one.prepare(step)
            views.append(step.view("mixed"))
        plain, strong = views
        assert torch.equal(plain.labels, strong.labels)
        assert torch.equal(plain.weight, strong.weight)
        assert not torch.allclose(plain.images, strong.images)

    def test_logs_coverage_and_shares(self) -> None:
        run = self.train([Supervised(), ClassMix(threshold=0.2)], trainer=Recorder)
        for logs in run.logs:
            assert 0 < logs["pseudo_label/ClassMix/coverage"] <= 1
            assert abs(sum(logs[f"pseudo_label/ClassMix/share/class{index}"] for index in range(5)) - 1) < 1e-5

    def test_unsure_teacher_gives_target_pixels_no_weight(self) -> None:
        one = ClassMix(threshold=1.0)
        step = one_step(self.train([one], steps=1))
        one.prepare(step)
        assert set(step.view("mixed").weight.unique().tolist()) == {0.0, 1.0}

    def test_classes_of_the_batch(self) -> None:
        """Half of the classes of all images, so an image without any of them is not pasted at all."""
        one = ClassMix(classes="batch", jitter_probability=0.0, blur_probability=0.0)
        run = self.train([one], steps=1)
        shown = []
        for _ in range(20):
            step = one_step(run)
            source = step.view("source")
            labels = torch.full_like(source.labels, 4)
            labels[1] = torch.arange(4).repeat(16).expand(32, 64)
            step.put("source", replace(source, labels=labels))
            one.prepare(step)
            pasted = (step.view("mixed").weight == 1) & (step.view("mixed").labels == labels)
            shown.append((bool(pasted[0].all()), len(labels[1][pasted[1]].unique())))
        assert {count for _, count in shown} == {2, 3}  # three of five classes, the first image's perhaps among them
        assert {first for first, _ in shown} == {False, True}

    def test_margins_belong_to_the_whole_target_image_alone(self) -> None:
        """The lower half of an image of twice the crop's height, mirrored: a margin on the left is on the right."""
        one = ClassMix(
            threshold=0.3, margins={"top": 4 / 64, "bottom": 6 / 64, "left": 3 / 64}, jitter_probability=0.0,
            blur_probability=0.0,
        )  # fmt: skip
        step = one_step(self.train([one], steps=1))
        window = Window(0, (64, 64), top=32, left=0, height=32, width=64, flip=True)
        step.put("target", replace(step.view("target"), windows=(window, window)))
        share = (step.teach("target").logits.softmax(1).amax(1) >= 0.3).float().mean()
        one.prepare(step)
        weight = step.view("mixed").weight
        assert set(weight[:, -6:].unique().tolist()) == set(weight[:, :, -3:].unique().tolist()) == {0.0, 1.0}
        inside = weight[:, :-6, :-3]
        assert (inside > 0).all()
        torch.testing.assert_close(inside[inside < 1], share.expand_as(inside[inside < 1]))

    def test_pixels_beyond_the_image_weigh_nothing(self) -> None:
        one = ClassMix(threshold=0.3, jitter_probability=0.0, blur_probability=0.0)
        step = one_step(self.train([one], steps=1))
        window = Window(0, (24, 64), top=0, left=0, height=32, width=64)
        step.put("target", replace(step.view("target"), windows=(window, window)))
        one.prepare(step)
        weight = step.view("mixed").weight
        assert set(weight[:, 24:].unique().tolist()) == {0.0, 1.0}
        assert (weight[:, :24] > 0).all()

    def test_margins_without_windows_are_refused(self) -> None:
        one = ClassMix(margins={"top": 0.1})
        step = one_step(self.train([one], steps=1))
        step.put("target", replace(step.view("target"), windows=()))
        with pytest.raises(ValueError, match=r"margins are .*View.windows"):
            one.prepare(step)
