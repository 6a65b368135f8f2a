"""Samples as files and caches hold them give the crops that whole samples give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data._utils.pin_memory import pin_memory

from tests.data.contract import picture, write
from uda.data import Cityscapes, Mixture, Unlabelled
from uda.data.mixture import JoinedImages
from uda.data.pairs import Pairs
from uda.data.pixels import Pixels, pixels_of
from uda.data.transforms import TrainTransform
from uda.types import Sample

TRANSFORMS: list[dict[str, Any]] = [
    {},
    {"scale": (0.3, 2.0), "ignore": 17},
    {"fit": "pixels", "scale": (0.5, 2.0), "ratio": (0.5, 2.0), "cat_max_ratio": 0.75},
    {"jitter": 0.5, "hue": 0.1, "blur": 0.5},
    {"resize": (50, 40), "fit": "pixels", "scale": (1.0, 1.0)},
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for number in range(2):
        stem = f"ulm_00000{number}_000019"
        write(tmp_path / f"leftImg8bit/val/ulm/{stem}_leftImg8bit.png", picture(number, (40, 80)))
        label = np.random.default_rng(number).integers(0, 34, (8, 16), dtype=np.uint8).repeat(5, 0).repeat(5, 1)
        write(tmp_path / f"gtFine/val/ulm/{stem}_gtFine_labelIds.png", label)
    return tmp_path


@pytest.mark.parametrize("settings", TRANSFORMS, ids=str)
@pytest.mark.parametrize("cache", [None, "memory", "folder"])
def test_crops_are_the_same(root: Path, cache: str | None, settings: dict[str, Any]) -> None:
    data = Cityscapes(root, "val", cache=root / "cache" if cache == "folder" else cache)
    transform = TrainTransform(crop=(32, 48), **settings)
    for seed in range(12):
        index = seed % 2
        pixels, images = pixels_of(data, index), pixels_of(data.unlabelled(), index)
        assert isinstance(pixels, Pixels)
        expected = transform(data[index], seed)
        for actual, labelled in ((transform(pixels, seed), True), (transform(images, seed), False)):
            if labelled:
                assert torch.equal(actual.label, expected.label)
                assert actual.label.dtype == torch.int64
            if labelled or transform.cat_max_ratio == 1:
                assert torch.equal(actual.image, expected.image)
                assert actual.window == expected.window
            actual.image.zero_()  # what is done to a crop must not reach the cache
    assert torch.equal(data[0].image, Cityscapes(root, "val")[0].image)


def test_a_part_reads_no_other_pixel(root: Path) -> None:
    image = np.arange(40 * 80 * 3, dtype=np.uint8).reshape(40, 80, 3)
    image.setflags(write=False)
    part = Pixels(image, None, None, "x").part(3, 5, 9, 15)
    assert part.shape == (3, 6, 10)
    assert part.untyped_storage().nbytes() == 6 * 10 * 3
    assert (part.permute(1, 2, 0).numpy() == image[3:9, 5:15]).all()


def test_mixtures_and_joined_images_pass_them_on(root: Path) -> None:
    data = Cityscapes(root, "val")
    mixture = Mixture([(data, 1.0), (data, 0.25)])
    assert [pixels_of(mixture, index).weight for index in range(4)] == [1.0, 1.0, 0.25, 0.25]
    assert (pixels_of(mixture, 3).image == pixels_of(data, 1).image).all()
    joined = JoinedImages([data.unlabelled(), data.unlabelled()])
    assert (pixels_of(joined, 2).image == pixels_of(data, 0).image).all()
    assert pixels_of(joined, 2).label is None


def test_samples_of_ones_own_are_the_samples(root: Path) -> None:
    class Red(Cityscapes):
        def __getitem__(self, index: int) -> Sample:
            sample = super().__getitem__(index)
            return sample._replace(image=sample.image.clone().fill_(255))

    class RedImages(Unlabelled):
        def __getitem__(self, index: int) -> Sample:
            return super().__getitem__(index)._replace(image=torch.full((3, 40, 80), 255, dtype=torch.uint8))

    images = RedImages.folder(root / "leftImg8bit")
    pairs = Pairs(Red(root, "val"), images, TrainTransform(crop=(32, 48)), batch_size=1)
    assert all((view.images == 1).all() for view in pairs[0].values())


def test_batches_are_pinned_whole(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = Cityscapes(root, "val")
    pairs = Pairs(Mixture([(data, 0.5)]), data.unlabelled(), TrainTransform(crop=(32, 48)), batch_size=2)
    pinned: list[int] = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(tensor.ndim) or tensor)
    assert pin_memory(pairs[0]).keys() == {"source", "target"}
    assert pinned == [4, 3, 3, 4], "images, labels and weights of the source, images of the target"
