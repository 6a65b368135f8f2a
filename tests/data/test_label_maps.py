from __future__ import annotations

import pytest
import torch

from uda.data import Pairs, TrainTransform
from uda.data.label_maps import LabelMaps, whole_images
from uda.testing.tiny import TinyDataset
from uda.types import IGNORE, View, Window


def maps_of(*maps: torch.Tensor, **arguments: int) -> LabelMaps:
    stored = LabelMaps(**arguments)
    stored.fill(maps)
    return stored


def test_maps_come_back_whatever_their_sizes() -> None:
    maps = [torch.randint(0, 256, (3, 4 + size, 9 - size), dtype=torch.uint8) for size in range(4)]
    stored = maps_of(*maps, planes=3)
    assert len(stored) == 4
    assert len(LabelMaps()) == 0
    for index, expected in enumerate(maps):
        assert torch.equal(stored.whole(index), expected)
    stored.fill(maps[:1])
    assert len(stored) == 1


@pytest.mark.parametrize(("fit", "scale"), [("window", (0.4, 1.0)), ("pixels", (0.4, 2.0))])
def test_crops_are_those_of_the_labels(fit, scale) -> None:
    """Labels stored as maps are cut as the loader cuts the labels, mirrored and filled crops included."""
    source = TinyDataset(ignored=0.2)
    stored = maps_of(*(source.label(index)[None].byte() for index in range(len(source))))
    transform = TrainTransform(crop=(24, 40), scale=scale, ratio=(0.7, 1.4), fit=fit)
    pairs = Pairs(source, None, transform, batch_size=3, seed=5)
    windows: list[Window] = []
    for step in range(8):
        view = pairs[step]["source"]
        assert torch.equal(stored.crops(view)[:, 0].long(), view.known_labels)
        windows += view.windows
    assert {window.flip for window in windows} == {False, True}
    outside = [window.top < 0 or window.top + window.height > window.size[0] for window in windows]
    assert any(outside) == (fit == "pixels")


def test_a_mirrored_window_by_hand() -> None:
    stored = maps_of(torch.arange(8, dtype=torch.uint8).view(1, 2, 4), outside=77)
    windows = (Window(0, (2, 4), 0, 1, 2, 3), Window(0, (2, 4), 0, 1, 2, 3, flip=True), Window(0, (2, 4), 1, 2, 2, 3))
    crops = stored.crops(View(torch.zeros(3, 3, 2, 3), windows=windows))
    assert crops.tolist() == [[[[1, 2, 3], [5, 6, 7]]], [[[3, 2, 1], [7, 6, 5]]], [[[6, 7, 77], [77, 77, 77]]]]


def test_the_state_has_the_maps() -> None:
    maps = [torch.randint(0, 20, (1, 5, 7), dtype=torch.uint8) for _ in range(3)]
    stored, other, empty = maps_of(*maps), maps_of(maps[0]), LabelMaps()
    other.load_state_dict(stored.state_dict())
    assert [torch.equal(other.whole(index), maps[index]) for index in range(3)] == [True] * 3
    other.load_state_dict(empty.state_dict())
    assert len(other) == 0
    with pytest.raises(RuntimeError, match="packed"):
        stored.load_state_dict({})


def test_a_view_must_say_its_windows() -> None:
    stored = maps_of(torch.zeros(1, 4, 4, dtype=torch.uint8))
    images, window = torch.zeros(2, 3, 4, 4), Window(0, (4, 4), 0, 0, 4, 4)
    with pytest.raises(ValueError, match=r"for 0 of its 2 images .* give View\(..., windows=...\), as uda.data.Pairs"):
        stored.crops(View(images))
    with pytest.raises(ValueError, match="a window is of image 1, and labels are stored for 1 images"):
        stored.crops(View(images, windows=(window, window._replace(sample=1))))


def test_whole_images() -> None:
    source = TinyDataset()
    images = list(whole_images(source, "cpu", [2, 0]))
    assert torch.equal(torch.cat(images), torch.stack([source[2].image, source[0].image]) / 255)
    assert len(list(whole_images(source, "cpu"))) == len(source)
    assert LabelMaps().outside == IGNORE
