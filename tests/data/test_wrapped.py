"""Any torch data set in the library: pairs, mappings, PIL images, tensors, train and raw ids."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.data.contract import write
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


RAW = np.array([[7, 8, 11], [33, 0, 21]], dtype=np.uint8)
"""Of Cityscapes' 34 ids: road, sidewalk, building; bicycle, void, vegetation."""


@pytest.fixture
def cityscapes(tmp_path: Path) -> Path:
    """A tree of two frames, as the two archives unpack to."""
    for number in range(2):
        frame = f"aachen/aachen_00000{number}_000019"
        write(tmp_path / f"leftImg8bit/train/{frame}_leftImg8bit.png", np.roll(RGB, number, 1))
        for kind in ("labelIds", "instanceIds"):
            write(tmp_path / f"gtFine/train/{frame}_gtFine_{kind}.png", np.roll(RAW, number, 1))
    return tmp_path


def test_torchvisions_cityscapes_is_the_readers(cityscapes: Path) -> None:
    from torchvision import datasets

    theirs = datasets.Cityscapes(cityscapes, split="train", target_type="semantic")
    data = wrap(theirs, "cityscapes19", ids="raw")
    ours = dataset("cityscapes", root=cityscapes, split="train")
    assert len(data) == len(ours) == 2
    assert data[0].label.tolist() == [[0, 1, 2], [18, IGNORE, 8]]
    for space in ("cityscapes19", "ika", "street8"):
        pairs = zip(data.remap(space), ours.remap(space), strict=True)
        assert all(torch.equal(a.image, b.image) and torch.equal(a.label, b.label) for a, b in pairs)
    with pytest.raises(DataError, match=r"Cityscapes\[0\]: unknown id 21 .*33 .*train ids"):
        wrap(theirs, "cityscapes19")[0]
    with pytest.raises(ValueError, match=r"target_type=\['instance'\], must be 'semantic'"):
        wrap(datasets.Cityscapes(cityscapes, split="train"), "cityscapes19", ids="raw")


class Rows:
    """Rows with decoded columns, as ``datasets.Dataset`` gives them: a dictionary for a number, columns by name."""

    def __init__(self, **columns: list[Any]) -> None:
        self.columns = columns

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, key: int | str) -> Any:
        if isinstance(key, str):
            return self.columns[key]
        if type(key) is not int:
            raise TypeError(f"{type(key)} is no row")
        return {name: column[key] for name, column in self.columns.items()}


def test_rows_of_hugging_face() -> None:
    images, labels = [Image.fromarray(RGB), Image.fromarray(RGB[::-1].copy())], [Image.fromarray(LABEL)] * 2
    data = wrap(Rows(image=images, annotation=labels, id=[7, 8]), "cityscapes19")
    assert len(data) == 2
    assert np.array_equal(data[1].image.permute(1, 2, 0).numpy(), RGB[::-1])
    assert np.array_equal(data[1].label.numpy(), LABEL)
    own = wrap(Rows(photo=images, truth=labels, label=[3, 4]), "cityscapes19", keys=("photo", "truth"))
    assert torch.equal(own.subset([1]).remap("cityscapes19")[0].label, data[1].label), "copies keep the keys"
    assert own.unlabelled()[0].label is None
    with pytest.raises(TypeError, match=r"keys=\(image, label\) names others"):
        wrap(Rows(photo=images, truth=labels), "cityscapes19")[0]
    with pytest.raises(TypeError, match="without 'truht', it has photo, truth"):
        wrap(Rows(photo=images, truth=labels), "cityscapes19", keys=("photo", "truht"))[0]
    with pytest.raises(TypeError, match="dict has several data sets; give one of train, validation"):
        wrap({"train": Rows(image=images), "validation": Rows(image=images)}, "cityscapes19")


def test_a_real_one_of_hugging_face(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    columns = {
        "image": [str(write(tmp_path / "image.png", RGB))],
        "annotation": [str(write(tmp_path / "label.png", LABEL))],
    }
    rows = datasets.Dataset.from_dict(columns, features=datasets.Features(dict.fromkeys(columns, datasets.Image())))
    sample = wrap(rows, "cityscapes19")[0]
    assert np.array_equal(sample.image.permute(1, 2, 0).numpy(), RGB)
    assert np.array_equal(sample.label.numpy(), LABEL)
    with pytest.raises(TypeError, match="DatasetDict has several data sets; give one of train"):
        wrap(datasets.DatasetDict(train=rows), "cityscapes19")


def test_labels_of_colours() -> None:
    colours = np.array([[[128, 64, 128], [244, 35, 232], [0, 0, 0]]], dtype=np.uint8)  # road, sidewalk, void
    palette = Image.fromarray(colours).convert("P", palette=Image.Palette.ADAPTIVE)
    for label in (Image.fromarray(colours), palette, colours, torch.from_numpy(colours).permute(2, 0, 1)):
        data = wrap(Listed((RGB[:1], label)), "cityscapes19", ids="colours")
        assert data[0].label.tolist() == [[0, 1, IGNORE]]
    with pytest.raises(DataError, match=r"unknown colour \(1, 2, 3\) \(3 pixels\) .*\(colours\)"):
        wrap(Listed((RGB[:1], np.tile(np.uint8([1, 2, 3]), (1, 3, 1)))), "cityscapes19", ids="colours")[0]
    with pytest.raises(TypeError, match="a label of colours is RGB"):
        wrap(Listed((RGB, LABEL)), "cityscapes19", ids="colours")[0]


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
