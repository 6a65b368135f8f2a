"""Any torch data set in the library: pairs, mappings, PIL images, tensors, train and raw ids."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from uda.data import CITYSCAPES19, DataError, Wrapped, as_dataset, dataset, dataset_identity, wrap
from uda.engine import evaluate
from uda.testing import TinyDataset, TinySegmenter
from uda.types import IGNORE, LabelledDataset, UnlabelledDataset

LABEL = np.array([[0, 1, 2], [18, 255, 7]], dtype=np.uint8)
RGB = np.random.default_rng(0).integers(0, 256, (2, 3, 3), dtype=np.uint8)


class Listed(torch.utils.data.Dataset[Any]):
    def __init__(self, *items: Any) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


@pytest.mark.parametrize(
    "item",
    [
        (RGB, LABEL),
        (Image.fromarray(RGB), Image.fromarray(LABEL)),
        (torch.from_numpy(RGB).permute(2, 0, 1), torch.from_numpy(LABEL)),
        (torch.from_numpy(RGB).permute(2, 0, 1).float() / 255, torch.from_numpy(LABEL).long()[None]),
        {"image": Image.fromarray(RGB), "annotation": Image.fromarray(LABEL), "scene": "street"},
        {"img": RGB, "mask": LABEL},
    ],
    ids=["arrays", "pil", "tensors", "floats", "hugging-face", "mapping"],
)
def test_items_of_every_kind_are_the_same_sample(item: Any) -> None:
    data = wrap(Listed(item), "cityscapes19", name="mine")
    sample = data[0]
    assert np.array_equal(sample.image.permute(1, 2, 0).numpy(), RGB)
    assert sample.image.dtype == torch.uint8
    assert np.array_equal(sample.label.numpy(), LABEL)
    assert sample.label.dtype == torch.int64
    assert sample.name == "mine[0]"
    assert isinstance(data, LabelledDataset)


def test_raw_ids_and_other_spaces() -> None:
    raw = np.array([[7, 8, 11], [33, 0, 21]], dtype=np.uint8)  # Cityscapes' ids
    data = wrap(Listed((RGB, raw)), "cityscapes19", ids="raw")
    assert data[0].label.tolist() == [[0, 1, 2], [18, IGNORE, 8]]
    coarse = data.remap("street8")
    assert coarse.space.name == "street8"
    assert coarse[0].label.tolist() == [[0, 1, 2], [7, IGNORE, 4]]
    assert data.space is CITYSCAPES19, "the first is as it was"
    assert [sample.name for sample in coarse.subset([0, 0])] == ["Listed[0]", "Listed[0]"]


def test_its_images_have_no_way_to_a_label() -> None:
    class Guarded(Listed):
        pass

    images = wrap(Guarded((RGB, LABEL)), "cityscapes19").unlabelled()
    assert isinstance(images, UnlabelledDataset)
    assert not isinstance(images, LabelledDataset)
    assert images[0].label is None
    assert len(list(images)) == 1
    with pytest.raises(IndexError):
        images[1]


@pytest.mark.parametrize(
    ("item", "error", "message"),
    [
        ((RGB, np.full((2, 3), 19, np.uint8)), DataError, r"Listed\[0\]: unknown id 19 \(6 pixels\) .*train ids"),
        ((RGB, LABEL[:1]), DataError, r"the image is \(2, 3\), its label \(1, 3\)"),
        ((RGB.astype(np.float32), LABEL), DataError, r"float images are in \[0, 1\], got "),
        ((RGB[..., 0], LABEL), TypeError, r"an image is RGB, \(H, W, 3\)"),
        ((torch.zeros(3, 2, 3, dtype=torch.int64), LABEL), TypeError, "uint8 or float"),
        ((RGB, LABEL / 2), TypeError, "a label is integers"),
        ((RGB, None), DataError, "has no label"),
        ({"picture": RGB}, TypeError, "a mapping has one of image, img"),
        (RGB, TypeError, "an item is .image, label., a mapping or a Sample, got ndarray"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(item: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        wrap(Listed(item), "cityscapes19")[0]


def test_what_is_no_data_set() -> None:
    with pytest.raises(TypeError, match="has __len__ and __getitem__"):
        wrap(iter([]), "cityscapes19")
    with pytest.raises(ValueError, match="ids is 'id'"):
        wrap(Listed((RGB, LABEL)), "cityscapes19", ids="id")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"mine gives Listed without a label space; return uda.data.wrap"):
        as_dataset(Listed((RGB, LABEL)), "mine")


def test_identity_follows_content_space_and_numbers() -> None:
    def told(**options: Any) -> dict[str, Any]:
        return dataset_identity(wrap(Listed((RGB, LABEL)), "cityscapes19", name="x", **options))

    assert told() == told()
    other = wrap(Listed((RGB[::-1].copy(), LABEL)), "cityscapes19", name="x")
    assert dataset_identity(other) != told()
    assert dataset_identity(other.remap("street8")) != dataset_identity(other)


def make(count: int = 2) -> Wrapped:
    """What a config names by its place."""
    return wrap(Listed(*[(RGB, LABEL)] * count), "cityscapes19", name="by place")


def bare(count: int = 1) -> TinyDataset:
    """A data set of somebody's own with a label space, not wrapped."""
    return TinyDataset(length=count)


def test_data_sets_by_place() -> None:
    data = dataset(f"{__name__}:make", count=3)
    assert (len(data), data.name) == (3, "by place")
    with pytest.raises(ValueError, match="has no option 'cuont'; the nearest is 'count'"):
        dataset(f"{__name__}:make", cuont=3)


def test_scores_as_any_other_data_set() -> None:
    data = [(TinyDataset()[index].image.float() / 255, TinyDataset().label(index)) for index in range(2)]
    from uda.data import Class, LabelSpace

    space = LabelSpace("five", tuple(Class(f"class{index}", (index, 0, 0), (index,)) for index in range(5)))
    model = TinySegmenter()
    ours, plain = evaluate(model, wrap(Listed(*data), space)), evaluate(model, TinyDataset())
    assert (ours.confusions == plain.confusions[:2]).all()
