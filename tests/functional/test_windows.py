"""A map of the whole image and its crop meet pixel by pixel."""

from __future__ import annotations

import pytest
import torch

from uda.data import Pairs, TrainTransform
from uda.functional import cut_window, inside_margins, window_positions
from uda.testing import TinyDataset, tiny_target
from uda.types import IGNORE, Sample, Window

SETTINGS = [
    {},
    {"scale": (0.3, 2.5)},
    {"ratio": (0.5, 2.0)},
    {"fit": "pixels", "scale": (0.5, 2.0)},
    {"fit": "pixels", "scale": (1.0, 1.0), "resize": (31, 90)},
    {"cat_max_ratio": 0.75},
]


def numbered(height: int = 40, width: int = 60) -> Sample:
    """Rows and columns can be read off the image, and the label is a checkerboard of 10 pixels."""
    rows = torch.arange(height)[:, None].expand(height, width)
    columns = torch.arange(width).expand(height, width)
    image = torch.stack([rows * 4, columns * 4, torch.zeros_like(rows)]).to(torch.uint8)
    return Sample(image, ((rows // 10 + columns // 10) % 4).long(), "x.png")


@pytest.mark.parametrize("settings", SETTINGS)
def test_a_stored_map_is_cut_as_the_label_is(settings: dict[str, object]) -> None:
    transform, sample = TrainTransform(crop=(32, 48), **settings), numbered()
    for seed in range(20):
        _, label, window = transform(sample, seed)
        assert torch.equal(cut_window(sample.label, window, (32, 48), outside=IGNORE), label)


@pytest.mark.parametrize("settings", SETTINGS)
def test_positions_are_those_of_the_image(settings: dict[str, object]) -> None:
    """What the pixels say of where they come from, away from the borders that the resize blends."""
    transform = TrainTransform(crop=(32, 48), **settings)
    for seed in range(20):
        image, _, window = transform(numbered(), seed)
        rows, columns = window_positions(window, (32, 48))
        inside = inside_margins([window], (32, 48), top=0.1, bottom=0.1, left=0.1, right=0.1)[0]
        for channel, positions in ((0, rows[:, None].expand(32, 48)), (1, columns.expand(32, 48))):
            read = image[channel] * 255 / 4 + 0.5
            assert (read - positions)[inside].abs().max() < 0.7


def test_a_smaller_map_of_the_whole_image_serves() -> None:
    small = torch.tensor([[0, 1], [2, 3]])
    window = Window(0, (40, 60), top=10, left=15, height=20, width=30)
    twice = small.repeat_interleave(2, 0).repeat_interleave(2, 1)
    assert torch.equal(cut_window(small, window, (4, 4), outside=9), twice)
    mirrored = cut_window(small[None], window._replace(flip=True), (2, 2), outside=9)
    assert mirrored.tolist() == [[[1, 0], [3, 2]]]


def test_margins_are_of_the_whole_image() -> None:
    """The same rows of the image, whatever the crop shows of them."""
    whole = inside_margins([Window(0, (100, 200), 0, 0, 100, 200)], (100, 200), top=0.1, bottom=0.2, left=0.25)[0]
    assert whole[10:80, 50:].all()
    assert int(whole.sum()) == 70 * 150
    for window in (Window(0, (100, 200), 5, 30, 50, 80), Window(0, (100, 200), 60, -20, 60, 100, flip=True)):
        crop = (window.height, window.width)
        mask = inside_margins([window], crop, top=0.1, bottom=0.2, left=0.25)[0]
        assert torch.equal(mask, cut_window(whole, window, crop, outside=False))


def test_pairs_say_where_their_images_come_from() -> None:
    source, target = TinyDataset(), tiny_target()
    transform = TrainTransform(crop=(16, 24), scale=(0.4, 1.5))
    pairs = Pairs(source, target, transform, batch_size=3, seed=2)
    views = pairs[4]
    for view, dataset in ((views["source"], source), (views["target"], target)):
        assert len(view.windows) == 3
        assert [dataset.names[window.sample] for window in view.windows] == list(view.names)
    for label, window in zip(views["source"].known_labels, views["source"].windows, strict=True):
        assert torch.equal(label, cut_window(source[window.sample].label, window, (16, 24), outside=IGNORE))
    silent = Pairs(source, target, lambda sample, seed: transform(sample, seed)[:2], batch_size=3, seed=2)[4]
    assert silent["source"].windows == ()
    assert torch.equal(silent["source"].images, views["source"].images)


def test_no_class_fills_a_crop() -> None:
    """Nine tenths are one class: with the ratio most crops have less of it, and crops with one class alone are rare."""
    label = torch.zeros(40, 60, dtype=torch.long)
    label[:, :6] = 1
    sample = numbered()._replace(label=label)
    shares = {}
    for ratio in (1.0, 0.75):
        transform = TrainTransform(crop=(20, 10), fit="pixels", scale=(1.0, 1.0), flip=0.0, cat_max_ratio=ratio)
        labels = [transform(sample, seed).label for seed in range(60)]
        shares[ratio] = [float(torch.bincount(one.flatten(), minlength=2).max()) / one.numel() for one in labels]
    varied = {ratio: sum(share < 0.75 for share in values) for ratio, values in shares.items()}
    assert varied[0.75] > 3 * varied[1.0]
    # the place of the first try is the same: where it is good enough, nothing changes
    assert all(a == b for a, b in zip(shares[1.0], shares[0.75], strict=True) if a < 0.75)


def test_resize_may_change_the_aspect() -> None:
    transform = TrainTransform(crop=(20, 60), fit="pixels", scale=(1.0, 1.0), resize=(20, 60), flip=0.0)
    image, label, window = transform(numbered(), 0)
    assert window == Window(0, (40, 60), 0, 0, 40, 60)
    assert image.shape == (3, 20, 60)
    assert torch.equal(label, numbered().label[1::2])
    with pytest.raises(ValueError, match="resize must be"):
        TrainTransform(crop=(20, 60), resize=(0, 5))
    with pytest.raises(ValueError, match="cat_max_ratio must be"):
        TrainTransform(crop=(20, 60), cat_max_ratio=0.0)
