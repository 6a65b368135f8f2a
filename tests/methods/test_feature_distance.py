from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import pytest
import torch

from uda.methods import FeatureDistance
from uda.models import Segmenter
from uda.testing.methods import MethodContract, one_step
from uda.testing.tiny import TinySegmenter
from uda.types import IGNORE, TaskSpec, View


def make(classes: Sequence[str] | None = ("class1", "class0"), **arguments: float) -> FeatureDistance:
    return FeatureDistance(classes=classes, **arguments)


class TestFeatureDistance(MethodContract):
    make = lambda self: make(min_ratio=0.3)  # noqa: E731
    invalid = ({"weight": -1.0}, {"min_ratio": 1.5})

    def _labelled(self, labels: torch.Tensor) -> tuple[FeatureDistance, torch.Tensor, torch.Tensor, torch.Tensor]:
        one = make(weight=0.5)
        run = self.train([one], steps=1)
        images = torch.rand(2, 3, 32, 64, generator=torch.Generator().manual_seed(0))
        step = one_step(run, {"source": View(images, labels)})
        with step.running("test", "losses", one.reads, one.looks):
            (loss,) = one.losses(step).values()
            features = step.predict("source").features
        return one, loss, features, run.model.pretrained_encoder()(images)

    def test_mean_distance_over_the_cells_of_the_classes(self) -> None:
        labels = torch.full((2, 32, 64), 3)
        labels[0, :8, :16] = 1  # 2 x 4 cells of 4 x 4 pixels
        labels[1, 4:8, 4:8] = 0
        labels[1, 8:12, 8:10] = 0  # half a cell
        _, loss, features, reference = self._labelled(labels)
        distance = (features - reference).square().sum(1).sqrt()
        expected = 0.5 * torch.cat([distance[0, :2, :4].flatten(), distance[1, 1:2, 1]]).mean()
        torch.testing.assert_close(loss, expected)
        assert loss > 0

    def test_no_cell_is_a_loss_of_zero_with_a_graph(self) -> None:
        for value in (3, IGNORE):
            _, loss, features, _ = self._labelled(torch.full((2, 32, 64), value))
            assert loss == 0
            (grad,) = torch.autograd.grad(loss, features)
            assert (grad == 0).all()

    def test_reference_is_the_encoder_before_training(self) -> None:
        """Not a copy of what the student has become."""
        torch.manual_seed(0)
        one, network = FeatureDistance(classes=["a"]), TinySegmenter()
        one.setup(TaskSpec(2, ("a", "b"), 8, 1, model=network))
        images = torch.rand(1, 3, 32, 64)
        assert torch.equal(one._frozen[0](images), network.pretrained_encoder()(images))
        assert one.state_dict() == {}
        assert not list(one.parameters())


def test_the_things_of_the_label_space_by_default() -> None:
    one = FeatureDistance()
    one.setup(TaskSpec(3, ("a", "b", "c"), 8, 1, model=TinySegmenter(), thing_classes=(2, 1)))
    assert one._ids == (2, 1)
    one = FeatureDistance(classes=["c"])
    one.setup(TaskSpec(3, ("a", "b", "c"), 8, 1, model=TinySegmenter(), thing_classes=(2, 1)))
    assert one._ids == (2,)


@pytest.mark.parametrize(
    ("one", "model", "message"),
    [
        (make(["car"]), TinySegmenter(), "classes has 'car', must be of a, b"),
        (make(None), TinySegmenter(), "marks no class as a thing"),
        (make(["a"]), SimpleNamespace(), "needs a model with pretrained_encoder"),
        (make(["a"]), Segmenter(2, "resnet18", "FPN", weights=None), "weights=None"),
    ],
)
def test_what_setup_refuses(one: FeatureDistance, model: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        one.setup(TaskSpec(2, ("a", "b"), 8, 1, model=model))
