from __future__ import annotations

import pytest
import torch

from uda.methods import MIC, ClassMix, Supervised
from uda.models import DeepLabV2, HrdaSegmenter, Segmenter
from uda.testing.methods import MethodContract, Recorder, one_step, train
from uda.testing.tiny import TinySegmenter
from uda.types import IMAGENET_MEAN, TaskSpec

PLAIN = {"jitter_probability": 0.0, "blur_probability": 0.0}


class TestMIC(MethodContract):
    make = lambda self: MIC(block=8, threshold=0.3)  # noqa: E731
    invalid = (
        {"weight": -1.0}, {"block": 0}, {"ratio": 1.1}, {"threshold": 1.5}, {"margins": {"top": 2}},
        {"masks": "source"},
        {"jitter": -0.1}, {"jitter_probability": 2.0}, {"blur_probability": -1.0}, {"fill": (0.5, 0.5)},
        {"fill": (0.5, 0.5, 2.0)},
    )  # fmt: skip

    def test_blocks_are_hidden_and_labels_are_those_of_the_whole_image(self) -> None:
        one = MIC(block=8, threshold=0.3, fill=(0.1, 0.2, 0.3), **PLAIN)
        step = one_step(self.train([one], steps=1))
        one.prepare(step)
        view, target = step.view("masked"), step.view("target")
        confidence, labels = step.teach("target").logits.softmax(1).max(1)
        assert torch.equal(view.labels, labels)
        share = (confidence >= 0.3).float().mean()
        assert 0 < share < 1
        torch.testing.assert_close(view.weight, share.expand_as(view.weight))
        hidden = (view.images == torch.tensor([0.1, 0.2, 0.3])[:, None, None]).all(1)
        assert torch.equal(view.images.movedim(1, -1)[~hidden], target.images.movedim(1, -1)[~hidden])
        blocks = hidden.unflatten(1, (4, 8)).unflatten(3, (8, 8)).float().mean((2, 4))
        assert set(blocks.unique().tolist()) == {0.0, 1.0}
        assert not torch.equal(blocks[0], blocks[1])

    def test_the_expected_share_is_hidden(self) -> None:
        one = MIC(block=4, fill=(1.0, 0.0, 1.0), ratio=0.7, **PLAIN)
        step = one_step(self.train([one], steps=1))
        one.prepare(step)
        hidden = (step.view("masked").images == torch.tensor([1.0, 0.0, 1.0])[:, None, None]).all(1)
        assert 0.6 < hidden.float().mean() < 0.8  # 256 blocks

    def test_margins_count_in_the_share(self) -> None:
        one = MIC(block=8, threshold=0.3, margins={"top": 3 / 32, "bottom": 5 / 32})
        step = one_step(self.train([one], steps=1))
        one.prepare(step)
        weight = step.view("masked").weight
        share = (step.teach("target").logits.softmax(1).amax(1) >= 0.3).float().mean()
        assert (weight[:, :3] == 0).all()
        assert (weight[:, -5:] == 0).all()
        torch.testing.assert_close(weight[:, 3:-5], share.expand_as(weight[:, 3:-5]))

    def test_half_of_the_masked_images_are_of_the_source(self) -> None:
        """As the published code does for ACDC: ``[img[0], target_img[0]]`` with ``[gt[0], pseudo_label[0]]``."""
        one = MIC(block=8, threshold=0.3, masks="both", fill=(0.1, 0.2, 0.3), margins={"top": 3 / 32}, **PLAIN)
        step = one_step(self.train([one], steps=1))
        one.prepare(step)
        view, source, target = step.view("masked"), step.view("source"), step.view("target")
        seen = (view.images != torch.tensor([0.1, 0.2, 0.3])[:, None, None]).any(1)
        for image, whole in ((0, source.images[0]), (1, target.images[0])):
            assert torch.equal(view.images[image][:, seen[image]], whole[:, seen[image]])
        confidence, labels = step.teach("target").logits.softmax(1).max(1)
        assert torch.equal(view.labels, torch.stack([source.labels[0], labels[0]]))
        assert (view.weight[0] == 1).all()
        assert (view.weight[1, :3] == 0).all()
        torch.testing.assert_close(view.weight[1, 3:], (confidence >= 0.3).float().mean().expand(29, 64))

    def test_colours_are_augmented_before_they_are_hidden(self) -> None:
        one = MIC(block=8, jitter_probability=1.0, fill=(0.1, 0.2, 0.3))
        step = one_step(self.train([one], steps=1))
        one.prepare(step)
        images = step.view("masked").images
        hidden = (images == torch.tensor([0.1, 0.2, 0.3])[:, None, None]).all(1)
        seen = images.movedim(1, -1)[~hidden] != step.view("target").images.movedim(1, -1)[~hidden]
        assert hidden.any()
        assert seen.float().mean() > 0.5


def test_shares_the_teacher_with_class_mix() -> None:
    run = train(
        [Supervised(), ClassMix(teacher={"decay": 0.999, "update": "before"}), MIC(block=8, threshold=0.2)],
        trainer=Recorder,
    )
    assert run.logs[-1]["loss/MIC/masked"] > 0
    taught = [one for one in run.update.teacher.model.passes if not one[1]]
    assert len(taught) == 3


@pytest.mark.parametrize("wrap", [lambda one: one, lambda one: HrdaSegmenter(one, embed_channels=8)])
def test_hidden_blocks_are_zero_to_the_network(wrap) -> None:
    network = wrap(Segmenter(5, "resnet18", "FPN", weights=None, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7)))
    assert network.mean_colour == pytest.approx((0.1, 0.2, 0.3))
    one = MIC()
    one.setup(TaskSpec(5, tuple("abcde"), 8, model=network))
    assert one._colour == pytest.approx((0.1, 0.2, 0.3))


@pytest.mark.parametrize("bgr", [False, True])
def test_hidden_blocks_have_the_mean_colour_in_its_order(bgr: bool) -> None:
    network = DeepLabV2(2, weights=None, aux=False, mean=(0.1, 0.2, 0.3), std=(1, 1, 1), bgr=bgr)
    one = MIC(block=8, ratio=1.0)
    one.setup(TaskSpec(2, ("a", "b"), 8, model=network))
    hidden = one._hide(torch.rand(2, 3, 16, 16), torch.Generator().manual_seed(0))
    red, green, blue = (0.3, 0.2, 0.1) if bgr else (0.1, 0.2, 0.3)
    torch.testing.assert_close(hidden, torch.tensor([red, green, blue]).view(1, 3, 1, 1).expand_as(hidden))


def test_mean_colour_is_rgb_whatever_the_network_reads() -> None:
    network = DeepLabV2(2, weights=None, aux=False)
    colour = torch.tensor(network.mean_colour).view(1, 3, 1, 1)
    torch.testing.assert_close(network.normalise(colour), torch.zeros(1, 3, 1, 1), atol=1e-5, rtol=0)
    caffe = DeepLabV2(2, weights=None, aux=False, mean=(10, 20, 30), std=(1, 1, 1), scale=255, bgr=True)
    colour = torch.tensor(caffe.mean_colour).view(1, 3, 1, 1)
    torch.testing.assert_close(caffe.normalise(colour), torch.zeros(1, 3, 1, 1), atol=1e-5, rtol=0)
    assert caffe.mean_colour == pytest.approx((30 / 255, 20 / 255, 10 / 255))


def test_a_network_that_does_not_tell_its_mean_colour_gets_imagenets() -> None:
    one = MIC()
    one.setup(TaskSpec(5, tuple("abcde"), 8, model=TinySegmenter()))
    assert one._colour == IMAGENET_MEAN
