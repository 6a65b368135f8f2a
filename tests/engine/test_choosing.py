"""Images to label are chosen by hand-checked rules, and never by their labels."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
import torch
from torch import Tensor, nn

from uda.data import wrap
from uda.engine.choosing import CHOICES, choose_images, farthest_first, look_at
from uda.types import Sample, SegOutput

GREYS = [10, 12, 14, 120, 122, 250]


class Brightness(nn.Module):
    """Features are an image's brightness; it is the surer the darker the image."""

    num_classes, feature_channels, has_aux = 2, 1, False

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, images: Tensor) -> SegOutput:
        bright = images.mean(1, keepdim=True) * self.scale
        logits = torch.cat([6 * (1 - bright), torch.zeros_like(bright)], 1)
        return SegOutput(logits, bright)


class Hidden:
    """A labelled data set whose labels must not be touched."""

    name, space = "hidden", None

    def __init__(self, greys: list[int]) -> None:
        self.greys = greys

    def __len__(self) -> int:
        return len(self.greys)

    def __getitem__(self, index: int) -> Sample:
        raise AssertionError("a label was asked for")

    def unlabelled(self) -> Images:
        return Images(self.greys)


class Images:
    name = "images"

    def __init__(self, greys: list[int]) -> None:
        self.greys = greys

    def __len__(self) -> int:
        return len(self.greys)

    def __getitem__(self, index: int) -> Sample:
        return Sample(torch.full((3, 4, 6), self.greys[index], dtype=torch.uint8), None, f"{index}")


def test_every_way_gives_different_images_that_are_nested_and_never_looks_at_a_label() -> None:
    model = Brightness().train()
    for how in CHOICES:
        orders = [choose_images(Hidden(GREYS), count, how, model=model, seed=4) for count in range(1, 7)]
        assert all(sorted(orders[-1]) == list(range(6)) and order == orders[-1][: len(order)] for order in orders), how
    assert model.training
    assert model.scale.grad is None


def test_each_way_by_hand() -> None:
    model = Brightness()
    # nearest to the mean (88): 120; then the farthest of the rest from all chosen: 250, 10, 14, then 122 and 12 tie
    assert [GREYS[at] for at in choose_images(Images(GREYS), 6, "diverse", model=model)] == [120, 250, 10, 14, 12, 122]
    assert [GREYS[at] for at in choose_images(Images(GREYS), 3, "entropy", model=model)] == [250, 122, 120]
    seen = look_at(model, Images(GREYS))
    prob = 1 / (1 + math.exp(-6 * (1 - 120 / 255)))
    entropy = -(prob * math.log(prob) + (1 - prob) * math.log(1 - prob)) / math.log(2)
    assert float(seen.entropy[3]) == pytest.approx(entropy, abs=1e-6)
    assert float(seen.features[3]) == pytest.approx(120 / 255)
    # the dark ones are far away but sure, so an unsure one nearby goes first
    greys = [250, 0, 190]
    assert [greys[at] for at in choose_images(Images(greys), 2, "diverse", model=model)] == [190, 0]
    assert [greys[at] for at in choose_images(Images(greys), 2, "both", model=model)] == [250, 190]


def test_random_is_a_seeded_order() -> None:
    images = Images(list(range(40)))
    orders = [choose_images(images, 40, seed=seed) for seed in range(50)]
    assert orders[3] == choose_images(images, 40, seed=3)
    assert len({order[0] for order in orders}) > 20


def naive(points: Tensor, count: int, weights: Tensor) -> list[int]:
    chosen = [int(weights.argmax())]
    while len(chosen) < count:
        left = [at for at in range(len(points)) if at not in chosen]
        score = {at: float(weights[at] * min((points[at] - points[c]).norm() for c in chosen)) for at in left}
        chosen.append(max(left, key=score.__getitem__))
    return chosen


def test_farthest_first_is_the_naive_one() -> None:
    generator = torch.Generator().manual_seed(0)
    points, weights = torch.randn(30, 5, generator=generator), torch.rand(30, generator=generator)
    assert farthest_first(points, 12, weights) == naive(points, 12, weights)


def test_farthest_first_is_within_twice_the_best_radius() -> None:
    points = torch.randn(12, 2, generator=torch.Generator().manual_seed(1))

    def radius(chosen: list[int]) -> float:
        return float(torch.cdist(points, points[list(chosen)]).min(1).values.max())

    best = min(radius(list(chosen)) for chosen in combinations(range(12), 3))
    assert radius(farthest_first(points, 3)) <= 2 * best


def test_equal_points_are_chosen_once_each() -> None:
    assert sorted(farthest_first(torch.zeros(4, 2), 4)) == [0, 1, 2, 3]
    assert sorted(farthest_first(torch.zeros(4, 2), 4, torch.zeros(4))) == [0, 1, 2, 3]


def test_what_cannot_be_chosen_is_said() -> None:
    with pytest.raises(ValueError, match="7 images to label, but there are 6"):
        choose_images(Images(GREYS), 7)
    with pytest.raises(ValueError, match="'diverse' needs a model"):
        choose_images(Images(GREYS), 2, "diverse")
    with pytest.raises(ValueError, match=r"no way 'entropi' .*entropy"):
        choose_images(Images(GREYS), 2, "entropi")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="Conv2d gives no SegOutput"):
        choose_images(Images(GREYS), 2, "both", model=nn.Conv2d(3, 2, 1))
    assert choose_images(wrap([(torch.rand(3, 4, 4), torch.zeros(4, 4).byte())], "street8"), 1) == [0]
