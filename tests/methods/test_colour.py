from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage import exposure

from uda.data.statistics import channel_stats, published_stats
from uda.functional.colour import image_stats
from uda.methods import ColourAtTest, ColourTransport, HistogramMatching, MeanStd, Reinhard
from uda.methods.colour_at_test import TRANSFERS
from uda.methods.support.statistics import spread
from uda.testing.methods import MethodContract, TestTimeContract, one_step
from uda.testing.tiny import TinyDataset, TinySegmenter, tiny_target
from uda.types import TaskSpec


class ColourContract(MethodContract):
    trains_segmenter = False

    def test_source_colours_move_to_the_target_and_labels_stay(self) -> None:
        run = self.train([self.make()], steps=1)
        step = one_step(run)
        before, target = step.view("source"), step.view("target").images
        run.methods[0].prepare(step)
        after = step.view("source")
        assert after.labels is before.labels
        wanted = target.mean((0, 2, 3))
        distance = [float((view.images.mean((0, 2, 3)) - wanted).abs().max()) for view in (before, after)]
        assert distance[1] < 0.3 * distance[0]


class TestMeanStd(ColourContract):
    make = lambda self: MeanStd()  # noqa: E731
    invalid = (
        {"statistics": "gta"}, {"source_statistics": [[0.5, 0.5], [0.1, 0.1]]},
        {"statistics": [[0.5, 0.5, 0.5], [0.1, -0.1, 0.1]]},
    )  # fmt: skip

    def test_statistics_of_the_data_sets(self) -> None:
        one = self.train([self.make()], steps=1).methods[0]
        for name, dataset in (("source", TinyDataset()), ("target", tiny_target())):
            stats = channel_stats(dataset)
            torch.testing.assert_close(getattr(one, f"{name}_mean"), stats.mean)
            torch.testing.assert_close(getattr(one, f"{name}_std"), stats.std)

    def test_published_statistics_and_numbers(self) -> None:
        numbers = [[0.2, 0.3, 0.4], [0.1, 0.1, 0.2]]
        one = self.train([MeanStd(statistics="kitti", source_statistics=numbers)], steps=1).methods[0]
        assert torch.equal(one.target_mean, published_stats("kitti").mean)
        torch.testing.assert_close(one.source_std, torch.tensor(numbers[1]))


class TestMeanStdPerImage(ColourContract):
    make = lambda self: MeanStd(statistics="image", source_statistics="image")  # noqa: E731

    def test_every_image_gets_the_statistics_of_one_target_image(self) -> None:
        run = self.train([self.make()], steps=1)
        step = one_step(run)
        run.methods[0].prepare(step)
        got, wanted = image_stats(step.view("source").images), image_stats(step.view("target").images)
        for index in range(2):
            assert any(
                torch.allclose(got[0][index], wanted[0][k], atol=1e-5)
                and torch.allclose(got[1][index], wanted[1][k], atol=1e-5)
                for k in range(2)
            )


class TestReinhard(ColourContract):
    make = lambda self: Reinhard()  # noqa: E731
    invalid = ({"space": "hsv"},)


class TestHistogramMatching(ColourContract):
    make = lambda self: HistogramMatching()  # noqa: E731

    def test_is_scikit_images_result(self) -> None:
        one = HistogramMatching(quantise=False)
        run = self.train([one], steps=1)
        step = one_step(run)
        source, target = step.view("source").images, step.view("target").images
        one.prepare(step)
        for image, got in zip(source, step.view("source").images, strict=True):
            wanted = [
                exposure.match_histograms(image.double().numpy(), style.double().numpy(), channel_axis=0)
                for style in target
            ]
            assert any(np.allclose(got.numpy(), each, atol=1e-6) for each in wanted)

    def test_the_known_trap_saturated_sky_is_tinted(self) -> None:
        """A grey source, a grey street under a white sky that lacks red in places: the result is not grey."""
        grey = torch.linspace(0.1, 0.8, 32 * 64).view(1, 1, 32, 64).expand(1, 3, -1, -1)
        style = grey.clone()
        style[:, :, :16] = 1.0
        style[:, 0, 8:16] = 0.6
        matched = HistogramMatching().restyle(grey, style, torch.Generator())
        assert (matched.amax(1) - matched.amin(1)).max() > 0.1


class TestColourTransport(ColourContract):
    make = lambda self: ColourTransport(pixels=100)  # noqa: E731
    invalid = ({"kind": "plane"}, {"pixels": 1})


class TestColourAtTest(TestTimeContract):
    __test__ = True
    make = lambda self: ColourAtTest()  # noqa: E731
    invalid = (
        {"transfer": "magic"}, {"reference": "image"}, {"reference": "kitti", "transfer": "reinhard"}, {"images": 0},
    )  # fmt: skip


class TestColourTransportAtTest(TestTimeContract):
    __test__ = True
    make = lambda self: ColourAtTest(transfer="transport", images=2)  # noqa: E731


def task() -> TaskSpec:
    names = tuple(f"class{index}" for index in range(5))
    return TaskSpec(5, names, 8, 1, source=TinyDataset(), target=tiny_target().unlabelled())


@pytest.mark.parametrize("transfer", TRANSFERS)
def test_target_to_source_at_prediction(transfer: str) -> None:
    model = TinySegmenter().train()
    one = ColourAtTest(transfer=transfer, images=3)
    one.attach(model, task())
    images = torch.stack([tiny_target()[index].image for index in range(3)]) / 255
    wanted = torch.stack([sample.image for sample in spread(TinyDataset())]).float().mean((0, 2, 3)) / 255
    before, after = (float((x.mean((0, 2, 3)) - wanted).abs().max()) for x in (images, one.restyle(images)))
    assert after < 0.3 * before
    expected = model(one.restyle(images)).logits
    torch.testing.assert_close(one(images).logits, expected)
    assert not model.training
    one.detach_model()
    assert model.training
    with pytest.raises(RuntimeError, match="call attach"):
        one(images)


def test_at_prediction_with_published_statistics_needs_no_data() -> None:
    one = ColourAtTest(reference="cityscapes", statistics="kitti")
    one.attach(TinySegmenter())
    kitti, cityscapes = published_stats("kitti"), published_stats("cityscapes")
    flat = kitti.mean[None, :, None, None].expand(1, 3, 4, 4)
    torch.testing.assert_close(one.restyle(flat), cityscapes.mean[None, :, None, None].expand(1, 3, 4, 4))


def test_the_same_image_is_restyled_the_same_whatever_came_before() -> None:
    one = ColourAtTest(transfer="transport", images=2)
    one.attach(TinySegmenter(), task())
    images = torch.stack([tiny_target()[index].image for index in range(3)]) / 255
    first = one.restyle(images[2:])
    one.restyle(images[:2])
    assert torch.equal(one.restyle(images[2:]), first)


@pytest.mark.parametrize("transfer", TRANSFERS)
def test_missing_data_sets_are_named(transfer: str) -> None:
    with pytest.raises(ValueError, match=r"data set|source images"):
        ColourAtTest(transfer=transfer).attach(TinySegmenter())


def test_spread_never_reads_a_label() -> None:
    class Unreadable(TinyDataset):
        def label(self, index: int):
            raise AssertionError("a label was read")

    assert len(list(spread(Unreadable(), 4))) == 4
