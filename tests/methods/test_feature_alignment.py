"""CORAL, MMD and sliced Wasserstein."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from uda.functional.distances import coral, coral_tllib, mkmmd, random_projections, sliced_wasserstein
from uda.functional.features import cell_labels
from uda.methods import MMD, Coral, SlicedWasserstein, Supervised
from uda.methods.support.feature_alignment import rows
from uda.testing.methods import MethodContract, Recorder, one_step
from uda.types import IGNORE

BAD = [{"weight": -1.0}, {"pixels": 1}, {"threshold": 1.5}]


class AlignmentContract(MethodContract):
    def all_features(self, step) -> tuple[Tensor, Tensor]:
        source, target = (step.predict(name).features.permute(0, 2, 3, 1) for name in ("source", "target"))
        return source.reshape(-1, 8), target.reshape(-1, 8)

    def test_gradient_reaches_both_domains(self) -> None:
        run = self.train([self.make()], steps=1)
        step = one_step(run)
        features = [step.predict(name).features for name in ("source", "target")]
        for grad in torch.autograd.grad(run.methods[0].losses(step)["distance"], features):
            assert grad.abs().sum() > 0

    def test_draws_from_the_steps_generator(self) -> None:
        run = self.train([self.make()], steps=1)
        step, one = one_step(run), run.methods[0]
        state = step.generator.get_state()
        first, second = (one.losses(step)["distance"] for _ in range(2))
        step.generator.set_state(state)
        assert torch.equal(first, one.losses(step)["distance"])
        assert not torch.equal(first, second)

    def test_brings_the_domains_together(self) -> None:
        kind, pixels = type(self.make()), 64
        short, longer = (self.train([kind(weight=1.0, pixels=pixels)], steps=n, lr=0.2) for n in (1, 25))
        before, after = (self.terms(run, run.methods[0])["distance"].item() for run in (short, longer))
        assert after < 0.8 * before


class TestCoral(AlignmentContract):
    make = lambda self: Coral(pixels=50)  # noqa: E731
    invalid = BAD

    @pytest.mark.parametrize("means", [False, True])
    def test_is_the_distance_of_all_features_where_they_fit(self, means: bool) -> None:
        run = self.train([Coral(weight=3.0, means=means)], steps=1)
        step = one_step(run)
        expected = (coral_tllib if means else coral)(*self.all_features(step))
        torch.testing.assert_close(run.methods[0].losses(step)["distance"], 3 * expected)


class TestMMD(AlignmentContract):
    make = lambda self: MMD(pixels=50)  # noqa: E731
    invalid = (*BAD, {"bandwidths": (0.5, -1.0)}, {"bandwidths": ()})

    def test_wrong_arguments_name_value_and_range(self) -> None:
        for arguments in BAD:
            with pytest.raises(ValueError, match=next(iter(arguments))):
                MMD(**arguments)
        with pytest.raises(ValueError, match=r"bandwidths\[1\] is -1.0"):
            MMD(bandwidths=(0.5, -1.0))
        with pytest.raises(ValueError, match="bandwidths is empty"):
            MMD(bandwidths=())

    @pytest.mark.parametrize("linear", [False, True])
    def test_is_the_unbiased_estimate_of_the_chosen_features(self, linear: bool) -> None:
        one = MMD(weight=0.5, bandwidths=(1.0,), linear=linear, pixels=40)
        run = self.train([one], steps=1)
        step = one_step(run)
        source, target = self.all_features(step)
        state = step.generator.get_state()
        loss = one.losses(step)["distance"]
        step.generator.set_state(state)
        chosen = [torch.randperm(len(x), generator=step.generator)[:40] for x in (source, target)]
        expected = mkmmd(source[chosen[0]], target[chosen[1]], (1.0,), linear=linear) - 2 / 39
        torch.testing.assert_close(loss, 0.5 * expected)

    def test_equal_domains_have_no_discrepancy(self) -> None:
        """On average: the estimate is unbiased, without the constant that some codes add."""
        features = torch.randn(2000, 4)
        generator = torch.Generator().manual_seed(0)
        one = MMD(pixels=50)
        values = torch.stack([one.alignment.between(features, features, generator) for _ in range(50)])
        assert values.mean().abs() < 0.01
        assert values.min() < 0


class TestSlicedWasserstein(AlignmentContract):
    make = lambda self: SlicedWasserstein(pixels=50, projections=16)  # noqa: E731
    invalid = (*BAD, {"projections": 0})

    def test_is_the_distance_of_all_features_where_they_fit(self) -> None:
        run = self.train([SlicedWasserstein(weight=3.0, projections=10)], steps=1)
        step = one_step(run)
        features = self.all_features(step)
        state = step.generator.get_state()
        loss = run.methods[0].losses(step)["distance"]
        step.generator.set_state(state)
        for one in features:  # the draws that choose the features come first
            torch.randperm(len(one), generator=step.generator)
        expected = sliced_wasserstein(*features, random_projections(8, 10, step.generator))
        torch.testing.assert_close(loss, 3 * expected)


class TestPerClass(MethodContract):
    make = lambda self: Coral(per_class=True, threshold=0.1, pixels=50)  # noqa: E731

    def test_is_the_mean_over_the_classes_that_both_domains_show(self) -> None:
        one = Coral(per_class=True, threshold=0.2)
        run = self.train([one], steps=1, num_classes=3)
        step = one_step(run)
        state = step.generator.get_state()
        loss = one.losses(step)["distance"]
        step.generator.set_state(state)
        output = step.detached("target")
        confidence, predicted = output.logits.softmax(1).max(1)
        of_target = cell_labels(torch.where(confidence >= 0.2, predicted, IGNORE), (8, 16), 3)
        of_source = cell_labels(step.view("source").labels, (8, 16), 3)
        distances = []
        for index in range(3):
            x = rows(step.detached("source").features)[(of_source == index).flatten()]
            y = rows(output.features)[(of_target == index).flatten()]
            if min(len(x), len(y)) >= 8:
                chosen = [torch.randperm(len(z), generator=step.generator)[: min(len(x), len(y))] for z in (x, y)]
                distances.append(coral(x[chosen[0]], y[chosen[1]]))
        assert step.logs["classes"] == len(distances) > 0
        torch.testing.assert_close(loss, torch.stack(distances).mean())

    @pytest.mark.parametrize("make", [Coral, MMD, SlicedWasserstein])
    def test_one_class_alone_is_the_distance_of_its_features(self, make: type) -> None:
        """With a single class everywhere, class by class is the whole, pixel for pixel of the same draw."""
        whole, classwise = make(pixels=50), make(pixels=50, per_class=True, threshold=0.0)
        run = self.train([Supervised()], steps=1)
        with torch.no_grad():
            run.model.head.bias[3] = 100.0
        run.graph_views = frozenset({"source", "target"})
        step = one_step(run)
        step.view("source").labels.fill_(3)
        state = step.generator.get_state()
        first = whole.losses(step)["distance"]
        step.generator.set_state(state)
        torch.testing.assert_close(classwise.losses(step)["distance"], first)

    def test_no_common_class_is_no_term(self) -> None:
        run = self.train([Supervised(), Coral(per_class=True, threshold=1.0)], steps=2, trainer=Recorder)
        for logs in run.logs:
            assert logs["Coral/classes"] == 0
            assert "loss/Coral/distance" not in logs


def test_cells_beyond_the_last_whole_one_are_ignored() -> None:
    labels = torch.ones(1, 7, 13, dtype=torch.int64)
    labels[0, 0, :4] = 0
    cells = cell_labels(labels, (3, 6), 2)
    assert cells.shape == (1, 3, 6)
    assert cells[0, 0].tolist() == [IGNORE, IGNORE, 1, 1, 1, 1]
    assert cell_labels(labels, (4, 7), 2).shape == (1, 4, 7)
