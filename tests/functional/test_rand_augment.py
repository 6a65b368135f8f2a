"""RandAugment against PIL, with which ProDA's code works."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch.nn import functional as F

from uda.functional.rand_augment import (
    GEOMETRY_OPERATIONS,
    POOL,
    RandAugmentation,
    draw_rand_augmentation,
    rand_augment,
    rand_augment_maps,
)

HEIGHT, WIDTH = 48, 96


@pytest.fixture
def picture() -> Image.Image:
    """A smooth image with some noise."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    planes = [60 + 1.5 * x + 0.4 * y, 200 - 2.2 * y, 90 + 60 * np.sin(x / 9) * np.cos(y / 7)]
    noise = np.random.default_rng(0).normal(0, 3, (HEIGHT, WIDTH, 3))
    return Image.fromarray((np.stack(planes, -1) + noise).clip(5, 240).astype(np.uint8))


def tensor(picture: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 255


PIL_COLOURS = {
    "autocontrast": lambda image, v: ImageOps.autocontrast(image),
    "brightness": lambda image, v: ImageEnhance.Brightness(image).enhance(v * 0.9 / 10 + 0.05),
    "color": lambda image, v: ImageEnhance.Color(image).enhance(v * 0.9 / 10 + 0.05),
    "contrast": lambda image, v: ImageEnhance.Contrast(image).enhance(v * 0.9 / 10 + 0.05),
    "equalize": lambda image, v: ImageOps.equalize(image),
    "identity": lambda image, v: image,
    "posterize": lambda image, v: ImageOps.posterize(image, int(v * 4 / 10) + 4),
    "sharpness": lambda image, v: ImageEnhance.Sharpness(image).enhance(v * 0.9 / 10 + 0.05),
    "solarize": lambda image, v: ImageOps.solarize(image, 256 - int(v * 256 / 10)),
}


@pytest.mark.parametrize("value", [2, 5, 9])
@pytest.mark.parametrize("name", PIL_COLOURS)
def test_colours_are_pils(picture, name, value):
    augmented = rand_augment(tensor(picture), [RandAugmentation(colours=((name, value),))])
    expected = tensor(PIL_COLOURS[name](picture, value))
    assert (augmented - expected).abs().max() < 1.5 / 255
    assert name == "identity" or value == 9 or (expected - tensor(picture)).abs().max() > 2.5 / 255


PIL_GEOMETRY = {
    "rotate": lambda image, v: image.rotate(int(v * 30 / 10), resample=Image.BILINEAR),
    "shear_x": lambda image, v: image.transform(
        image.size, Image.AFFINE, (1, v * 0.3 / 10, 0, 0, 1, 0), resample=Image.BILINEAR
    ),
    "shear_y": lambda image, v: image.transform(
        image.size, Image.AFFINE, (1, 0, 0, v * 0.3 / 10, 1, 0), resample=Image.BILINEAR
    ),
    "translate_x": lambda image, v: image.transform(
        image.size, Image.AFFINE, (1, 0, v * 0.3 / 10 * image.size[0], 0, 1, 0), resample=Image.BILINEAR
    ),
    "translate_y": lambda image, v: image.transform(
        image.size, Image.AFFINE, (1, 0, 0, 0, 1, v * 0.3 / 10 * image.size[1]), resample=Image.BILINEAR
    ),
}


def drawn(monkeypatch, uniform) -> RandAugmentation:
    """The draw that some uniform numbers make: flip, centre of the square, then four for each operation."""
    monkeypatch.setattr(torch, "rand", lambda *size, **_: torch.tensor(uniform, dtype=torch.float64))
    return draw_rand_augmentation(HEIGHT, WIDTH, operations=(len(uniform) - 3) // 4)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("name", GEOMETRY_OPERATIONS)
def test_geometry_is_pils_and_maps_follow(monkeypatch, picture, name, sign):
    which = (POOL.index(name) + 0.5) / len(POOL)
    draw = drawn(monkeypatch, [0.7, 0.0, 0.0, which, 5.5 / 9, 0.3, 0.2 if sign == 1 else 0.8])
    assert draw.hole == (0.0, 16 / HEIGHT, 0.0, 16 / WIDTH)
    augmented = rand_augment(tensor(picture), [draw])
    assert (augmented[..., :16, :16] == 0.5).all()
    expected = tensor(PIL_GEOMETRY[name](picture, 6 * sign))
    shown = tensor(PIL_GEOMETRY[name](Image.new("RGB", picture.size, (255, 255, 255)), 6 * sign))
    # at the border of the plain image PIL repeats its last row
    covered = -F.max_pool2d(-F.pad(shown, (1, 1, 1, 1)), 3, 1) == 1
    covered[..., :16, :16] = False
    assert 0.3 < covered.float().mean() < 0.99
    assert (augmented - expected).abs()[covered].max() < 2.5 / 255
    maps = rand_augment_maps(tensor(picture), [draw], outside=-1.0)
    inside = maps != -1.0
    assert (inside & covered).sum() > 0.95 * covered.sum()
    assert (maps - expected).abs()[inside & covered].median() < 0.02
    assert (augmented[~inside] - 0.5).abs().median() < 1e-6


def test_mirrors_first_then_composes_in_order(monkeypatch, picture):
    shear, turn = ((POOL.index(name) + 0.5) / len(POOL) for name in ("shear_x", "rotate"))
    draw = drawn(monkeypatch, [0.2, 1.0, 1.0, shear, 4.5 / 9, 0.0, 0.0, turn, 2.5 / 9, 0.0, 0.0])
    plain = picture.transpose(Image.FLIP_LEFT_RIGHT)
    expected = tensor(PIL_GEOMETRY["rotate"](PIL_GEOMETRY["shear_x"](plain, 5), 3))
    augmented = rand_augment(tensor(picture), [draw])
    middle = (..., slice(12, 36), slice(24, 72))
    assert (augmented - expected).abs()[middle].max() < 6 / 255  # they resample twice
    assert (augmented - tensor(plain)).abs()[middle].max() > 20 / 255


def test_draws_follow_the_published_probabilities():
    generator = torch.Generator().manual_seed(0)
    draws = [draw_rand_augmentation(512, 896, generator) for _ in range(4000)]
    plain = [draw for draw in draws if abs(draw.matrix[0][1]) + abs(draw.matrix[1][0]) == 0]
    assert np.mean([draw.matrix[0][0] < 0 for draw in plain]) == pytest.approx(0.5, abs=0.04)
    assert np.mean([len(draw.colours) for draw in draws]) == pytest.approx(2 * 0.5 * 9 / 14, abs=0.04)
    values = [value for draw in draws for _, value in draw.colours]
    assert sorted(set(values)) == list(range(1, 10))
    # 170 of 512 and 896 pixels; cut at all edges, and the far ones reach 1.5 times as far from the middle
    heights = np.array([draw.hole[1] - draw.hole[0] for draw in draws])
    widths = np.array([draw.hole[3] - draw.hole[2] for draw in draws])
    assert heights.max() == pytest.approx(170 / 512)
    assert widths.max() == pytest.approx(170 / 896)
    assert (heights > 0).all()
    unmoved = np.mean([math.isclose(abs(draw.matrix[0][0]), 1) and draw.matrix[1] == (0, 1, 0) for draw in draws])
    assert 0.5 < unmoved < 0.8


def test_maps_of_another_size_follow_the_square_and_the_flip():
    draw = RandAugmentation(matrix=((-1.0, 0.0, 0.0), (0.0, 1.0, 0.0)), hole=(0.5, 1.0, 0.0, 0.25))
    maps = torch.arange(8.0).view(1, 1, 2, 4)
    assert rand_augment_maps(maps, [draw], outside=250.0).tolist() == [[[[3, 2, 1, 0], [250, 6, 5, 4]]]]
