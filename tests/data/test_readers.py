"""Each reader on a tiny folder in its layout: the contract, and what is particular to it."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import scipy.io
from PIL import Image

from tests.data.contract import SIZE, DatasetContract, picture, write
from uda.data import CITYSCAPES19, CITYSCAPES34, IKA, DataError, Options, dataset, dataset_options
from uda.data.kitti import VAL_NUMBERS
from uda.types import IGNORE

REAL = Path(os.environ.get("UDA_DATA", "/nonexistent"))
needs_data = pytest.mark.skipif(not REAL.is_dir(), reason="UDA_DATA is not set")

# columns: road, sidewalk, car, licence plate as a byte, unlabeled, guard rail, sky, bicycle, train
IDS = np.tile(np.array([7, 8, 26, 255, 0, 14, 23, 33, 31], dtype=np.uint8), (SIZE[0], 1))
TRAIN = np.tile(np.array([0, 1, 13, 255, 255, 255, 10, 18, 16]), (SIZE[0], 1))


class TestCityscapes(DatasetContract):
    kind = "cityscapes"
    options = {"split": "val"}  # noqa: RUF012
    raw, expected = IDS, TRAIN

    def layout(self, root: Path) -> list[tuple[Path, Path]]:
        return [
            (
                root / f"leftImg8bit/val/{city}/{city}_0_leftImg8bit.png",
                root / f"gtFine/val/{city}/{city}_0_gtFine_labelIds.png",
            )
            for city in ("aachen", "bonn")
        ]

    def test_raw_classes_survive_to_another_space(self, tmp_path: Path, files: list[tuple[Path, Path]]) -> None:
        """Guard rails are ignored in the 19 classes but fences in CamVid's: mapping starts from the raw ids."""
        label = self.open(tmp_path).remap("camvid11")[0].label.numpy()
        assert label[0].tolist() == [3, 4, 8, 255, 255, 7, 0, 10, 8]
        other = self.open(tmp_path, space="camvid11", aliases={"guard rail": None, "train": "building"})[
            0
        ].label.numpy()
        assert other[0].tolist() == [3, 4, 8, 255, 255, 255, 0, 10, 1]


class TestKitti(DatasetContract):
    kind = "kitti"
    options = {"split": "val"}  # noqa: RUF012
    raw, expected = IDS, TRAIN

    def layout(self, root: Path) -> list[tuple[Path, Path]]:
        base = root / "training"
        return [(base / f"image_2/{n:06d}_10.png", base / f"semantic/{n:06d}_10.png") for n in (6, 11)]

    def test_splits(self, tmp_path: Path) -> None:
        for number in range(200):
            write(tmp_path / f"set/training/image_2/{number:06d}_10.png", picture(0, (2, 2)))
            write(tmp_path / f"set/training/semantic/{number:06d}_10.png", np.full((2, 2), 7, np.uint8))
        numbers = {
            split: {int(n[-13:-7]) for n in self.open(tmp_path, split=split).names} for split in ("train", "val", "all")
        }
        assert len(VAL_NUMBERS) == len(set(VAL_NUMBERS)) == 30
        assert numbers["val"] == set(VAL_NUMBERS)
        assert numbers["train"] == set(range(200)) - set(VAL_NUMBERS)
        assert numbers["all"] == set(range(200))

    def test_foreign_name(self, tmp_path: Path, files: list[tuple[Path, Path]]) -> None:
        stray = write(tmp_path / "set/training/image_2/copy_10.png", picture(0))
        with pytest.raises(DataError, match=stray.name):
            self.open(tmp_path)

    def test_images_may_differ_in_size(self, tmp_path: Path, files: list[tuple[Path, Path]]) -> None:
        write(files[1][0], picture(1, (4, 8)))
        write(files[1][1], IDS[:4, :8])
        assert [tuple(sample.label.shape) for sample in self.open(tmp_path)] == [SIZE, (4, 8)]


def cityscapes_colours(names: list[str]) -> np.ndarray:
    row = [CITYSCAPES34.classes[CITYSCAPES34.index(name)].colour for name in names]
    return np.tile(np.array(row, dtype=np.uint8), (SIZE[0], 1, 1))


COLOURS = cityscapes_colours(
    ["road", "sidewalk", "car", "unlabeled", "dynamic", "guard rail", "sky", "bicycle", "train"]
)


class TestKittiColours(DatasetContract):
    kind = "kitti"
    options = {"split": "val", "annotation": "semantic_rgb"}  # noqa: RUF012
    raw, expected, unknown = COLOURS, TRAIN, (1, 2, 3)

    def layout(self, root: Path) -> list[tuple[Path, Path]]:
        base = root / "training"
        return [(base / f"image_2/{n:06d}_10.png", base / f"semantic_rgb/{n:06d}_10.png") for n in (6, 11)]

    def test_found_where_there_are_no_ids(self, tmp_path: Path, files: list[tuple[Path, Path]]) -> None:
        data = dataset("kitti", root=tmp_path / "set", split="val")
        assert np.array_equal(data[0].label.numpy(), TRAIN)


class TestIka(DatasetContract):
    kind = "ika"
    options = {"split": "val"}  # noqa: RUF012
    raw, unknown = COLOURS, (1, 2, 3)
    expected = np.tile(np.array([0, 1, 12, 255, 255, 255, 9, 11, 13]), (SIZE[0], 1))

    def layout(self, root: Path) -> list[tuple[Path, Path]]:
        return [(root / f"val/input/{x}.png", root / f"val/label/{x}_gtFine_labelColor.png") for x in ("a", "b")]

    def test_all_is_every_split(self, tmp_path: Path, files: list[tuple[Path, Path]]) -> None:
        write(tmp_path / "set/train/input/c.png", picture(5))
        write(tmp_path / "set/train/label/c_gtFine_labelColor.png", COLOURS)
        names = self.open(tmp_path, split="all").names
        assert names == ["train/input/c.png", "val/input/a.png", "val/input/b.png"]

    def test_flat_layout(self, tmp_path: Path) -> None:
        write(tmp_path / "set/input/a.png", picture(0))
        write(tmp_path / "set/label/a_gtFine_labelColor.png", COLOURS)
        assert len(dataset("ika", root=tmp_path / "set")) == 1
        with pytest.raises(DataError, match="split='all'"):
            self.open(tmp_path)

    def test_own_table_makes_the_space(self, tmp_path: Path, files: list[tuple[Path, Path]]) -> None:
        table = (
            "names = ['x']\nrgb_to_class_id = {(128, 64, 128): 0, (244, 35, 232): 0, (0, 0, 142): 1, (0, 80, 100): 1,\n"
        )
        table += "(70, 130, 180): 2, (119, 11, 32): 3, (180, 165, 180): 3, (0, 0, 0): 255, (111, 74, 0): 255}\n"
        (tmp_path / "set" / "rgb_to_class_id.py").write_text(table)
        data = self.open(tmp_path)
        assert data.space.names == ("road+sidewalk", "car+train", "sky", "bicycle+guard rail")
        assert data[0].label[0].tolist() == [0, 0, 1, 255, 255, 3, 2, 3, 1]

    def test_table_of_the_known_classes_gives_the_known_space(
        self, tmp_path: Path, files: list[tuple[Path, Path]]
    ) -> None:
        rows = [f"{colour}: {20 - i}," for i, item in enumerate(IKA.classes) for colour in item.label_colours or ()]
        text = "rgb_to_class_id = {" + "\n".join(rows) + "(0, 0, 0): -1, (111, 74, 0): 255, (180, 165, 180): 255}"
        (tmp_path / "set" / "rgb_to_class_id.py").write_text(text)
        data = self.open(tmp_path)
        assert data.space == IKA
        assert np.array_equal(data[0].label.numpy(), self.expected)


class TestCamVid(DatasetContract):
    kind = "camvid"
    raw = np.tile(np.array([0, 1, 2, 3, 8, 9, 10, 11, 255], dtype=np.uint8), (SIZE[0], 1))
    expected = np.tile(np.array([0, 1, 2, 3, 8, 9, 10, 255, 255]), (SIZE[0], 1))

    def layout(self, root: Path) -> list[tuple[Path, Path]]:
        return [(root / f"train/{x}.png", root / f"trainannot/{x}.png") for x in ("a", "b")]

    def test_jpeg(self, tmp_path: Path, files: list[tuple[Path, Path]]) -> None:
        files[0][0].unlink()
        jpeg = write(tmp_path / "set/train/a.jpg", np.full((*SIZE, 3), 90, np.uint8))
        assert (self.open(tmp_path)[0].image.float().mean() - 90).abs() < 3
        jpeg.write_bytes(jpeg.read_bytes()[:-30])  # OpenCV alone would decode this with grey at the end
        with pytest.raises(DataError, match=r"a\.jpg: truncated JPEG"):
            self.open(tmp_path)[0]


class TestGta5(DatasetContract):
    kind = "gta5"
    raw, expected = IDS, TRAIN

    def layout(self, root: Path) -> list[tuple[Path, Path]]:
        return [(root / f"images/{n:05d}.png", root / f"labels/{n:05d}.png") for n in (1, 2)]

    def test_colour_labels(self, tmp_path: Path, files: list[tuple[Path, Path]]) -> None:
        write(files[0][1], COLOURS)
        assert np.array_equal(self.open(tmp_path)[0].label.numpy(), TRAIN)

    def test_published_splits(self, tmp_path: Path, files: list[tuple[Path, Path]]) -> None:
        with pytest.raises(DataError, match=r"split\.mat"):
            self.open(tmp_path, split="val")
        mat = tmp_path / "set" / "split.mat"
        scipy.io.savemat(mat, {"trainIds": np.array([[1]]), "valIds": np.array([[2]])})
        assert self.open(tmp_path, split="val").names == ["images/00002.png"]
        with pytest.raises(DataError, match=r"split\.mat"):
            self.open(tmp_path, split="test")
        mat.write_bytes(b"no mat file")
        with pytest.raises(DataError, match=r"split\.mat"):
            self.open(tmp_path, split="val")


class TestGta5Palette(TestGta5):
    """As published: palette PNGs, where the index is the id and licence plates (34) have the cars' colour."""

    raw = np.where(IDS == 255, 34, IDS).astype(np.uint8)

    def write_label(self, path: Path, raw: np.ndarray) -> None:
        image = Image.fromarray(raw).convert("P")
        palette = [CITYSCAPES34.classes[i].colour if i < 34 else (0, 0, 142) for i in range(35)]
        image.putpalette([value for colour in palette for value in colour])
        image.save(path)


class TestSynthia(DatasetContract):
    kind = "synthia"
    # void, sky, building, road, lane marking, terrain, wall, rider, car; instance ids in another channel
    _row = np.array([0, 1, 2, 3, 22, 16, 21, 17, 8], dtype=np.uint16)
    raw = np.stack([np.tile(_row, (SIZE[0], 1)), np.full(SIZE, 300, np.uint16), np.zeros(SIZE, np.uint16)], axis=-1)
    expected = np.tile(np.array([255, 9, 2, 0, 255, 255, 3, 11, 12]), (SIZE[0], 1))

    def layout(self, root: Path) -> list[tuple[Path, Path]]:
        return [(root / f"RGB/{n:07d}.png", root / f"GT/LABELS/{n:07d}.png") for n in (0, 1)]

    def test_thirteen_classes(self, tmp_path: Path, files: list[tuple[Path, Path]]) -> None:
        data = self.open(tmp_path, space="synthia13")
        assert data.space.num_classes == 13
        assert data[0].label[0].tolist() == [255, 6, 2, 0, 255, 255, 255, 8, 9]

    def test_eight_bit_label_is_refused(self, tmp_path: Path, files: list[tuple[Path, Path]]) -> None:
        write(files[0][1], self.raw.astype(np.uint8))
        with pytest.raises(DataError, match="16-bit"):
            self.open(tmp_path)[0]


class TestAcdc(DatasetContract):
    kind = "acdc"
    options = {"split": "train", "condition": "night"}  # noqa: RUF012
    raw, expected = IDS, TRAIN

    def layout(self, root: Path) -> list[tuple[Path, Path]]:
        return [
            (root / f"rgb_anon/night/train/{s}/{s}_1_rgb_anon.png", root / f"gt/night/train/{s}/{s}_1_gt_labelIds.png")
            for s in ("GOPR01", "GP02")
        ]

    def test_conditions(self, tmp_path: Path, files: list[tuple[Path, Path]]) -> None:
        with pytest.raises(ValueError, match="the nearest is 'night'"):
            self.open(tmp_path, condition="nigth")
        for condition in ("fog", "rain", "snow"):
            write(tmp_path / f"set/rgb_anon/{condition}/train/A/A_rgb_anon.png", picture(0))
            write(tmp_path / f"set/gt/{condition}/train/A/A_gt_labelIds.png", IDS)
        assert len(self.open(tmp_path, condition=None)) == 5
        write(tmp_path / "set/rgb_anon/fog/train_ref/A/A_rgb_ref_anon.png", picture(3))
        reference = self.open(tmp_path, condition="fog", split="train_ref", labelled=False).unlabelled()
        assert reference.names == ["rgb_anon/fog/train_ref/A/A_rgb_ref_anon.png"]


class TestFolder(DatasetContract):
    kind = "folder"
    options = {  # noqa: RUF012
        "images": "{split}/frames",
        "labels": "{split}/masks",
        "label_suffix": "_mask.png",
        "split": "day",
        "classes": ["road", {"name": "car", "ids": [5, 6], "colour": [9, 8, 7]}, {"name": "mine", "ids": [3]}],
        "void": [9],
    }
    raw = np.tile(np.array([0, 5, 6, 3, 9, 255, 0, 0, 0], dtype=np.uint8), (SIZE[0], 1))
    expected = np.tile(np.array([0, 1, 1, 2, 255, 255, 0, 0, 0]), (SIZE[0], 1))

    def layout(self, root: Path) -> list[tuple[Path, Path]]:
        return [(root / f"day/frames/{x}.png", root / f"day/masks/{x}_mask.png") for x in ("a", "sub/b")]

    def test_list_file(self, tmp_path: Path, files: list[tuple[Path, Path]]) -> None:
        root = tmp_path / "set"
        listing = root / "list.txt"
        listing.write_text("# frames\nday/frames/sub/b.png day/masks/sub/b_mask.png\n\nday/frames/a.png\n")
        write(root / "day/masks/day/frames/a_mask.png", self.raw)
        assert self.open(tmp_path, images="list.txt").names == ["day/frames/sub/b.png", "day/frames/a.png"]
        listing.write_text("day/frames/zz.png\n")
        with pytest.raises(DataError, match=r"list\.txt, line 1: no such image"):
            self.open(tmp_path, images="list.txt")
        listing.write_text("a b c\n")
        with pytest.raises(DataError, match="3 entries"):
            self.open(tmp_path, images="list.txt")

    def test_known_space_by_name(self, tmp_path: Path, files: list[tuple[Path, Path]]) -> None:
        write(files[0][1], np.full(SIZE, 13, np.uint8))
        data = self.open(tmp_path, classes="cityscapes19-trainids", void=[])
        assert data.space.names == CITYSCAPES19.names
        assert (data[0].label == 13).all()
        assert (self.open(tmp_path, classes="cityscapes", void=[])[0].label == CITYSCAPES19.index("fence")).all()

    def test_wrong_classes(self, tmp_path: Path, files: list[tuple[Path, Path]]) -> None:
        for classes, message in (
            ([{"name": "a", "colr": [1, 2, 3]}], "the nearest is 'colour'"),
            ([{"ids": [1]}], "entry 0 has no name"),
            (["a", "a"], "'a' is defined twice"),
            ([{"name": "a", "ids": [1]}, "b"], "id 1 means both 'a' and 'b'"),
            ("cityscape", "the nearest is 'cityscapes'"),
        ):
            with pytest.raises(ValueError, match=message):
                self.open(tmp_path, classes=classes, void=[])
        with pytest.raises(ValueError, match="labels_as"):
            self.open(tmp_path, labels_as="rgb")

    def test_ids_in_three_channels(self, tmp_path: Path, files: list[tuple[Path, Path]]) -> None:
        write(files[0][1], np.repeat(self.raw[..., None], 3, axis=2))
        assert np.array_equal(self.open(tmp_path, labels_as="ids")[0].label.numpy(), self.expected)
        write(files[0][1], picture(4))
        with pytest.raises(DataError, match="one channel"):
            self.open(tmp_path, labels_as="ids")[0]
        write(files[0][1], self.raw)
        with pytest.raises(DataError, match="expected label colours"):
            self.open(tmp_path, labels_as="colours")[0]

    def test_sixteen_bit_ids(self, tmp_path: Path, files: list[tuple[Path, Path]]) -> None:
        write(files[0][1], np.full(SIZE, 30000, np.uint16))
        data = self.open(tmp_path, classes=[{"name": "deep", "ids": [30000]}], void=[])
        assert (data[0].label == 0).all()
        with pytest.raises(DataError, match="30000"):
            self.open(tmp_path)[0]

    def test_narrow_grey_is_refused(self, tmp_path: Path, files: list[tuple[Path, Path]]) -> None:
        Image.fromarray((self.raw > 4) * np.uint8(255)).convert("1").save(files[0][1])
        with pytest.raises(DataError, match="fewer than 8 bits"):
            self.open(tmp_path)[0]


def test_dataset_by_name_reports_what_is_known(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the nearest is 'cityscapes' .known: cityscapes, kitti"):
        dataset("cityscape", root=tmp_path)
    assert set(dataset_options("acdc")) >= {"root", "split", "condition", "space", "cache", "limit", "strict"}
    assert set(Options.__annotations__) < set(dataset_options("folder"))
    with pytest.raises(ValueError, match="needs a root"):
        dataset("kitti")
    with pytest.raises(ValueError, match="the nearest is 'condition'"):
        dataset("acdc", root=tmp_path, conditon="fog")


def test_images_lose_their_alpha(tmp_path: Path) -> None:
    rgba = np.dstack([picture(1), np.zeros(SIZE, np.uint8)])
    (tmp_path / "images").mkdir()
    assert cv2.imwrite(str(tmp_path / "images/a.png"), rgba[..., [2, 1, 0, 3]])
    view = dataset("folder", root=tmp_path, labelled=False).unlabelled()
    assert np.array_equal(view[0].image.permute(1, 2, 0).numpy(), picture(1))


@needs_data
def test_real_kitti() -> None:
    data = dataset("kitti", root=REAL / "kitti", split="val")
    assert len(data) == 30
    assert len(dataset("kitti", root=REAL / "kitti", split="train")) == 170
    colours = dataset("kitti", root=REAL / "kitti", split="val", annotation="semantic_rgb")
    assert all(bool((a.label == b.label).all()) for a, b in zip(data, colours, strict=True))


@needs_data
def test_real_camvid() -> None:
    sizes = {split: len(dataset("camvid", root=REAL / "camvid", split=split)) for split in ("train", "val", "test")}
    assert sizes == {"train": 367, "val": 101, "test": 233}


@needs_data
def test_real_cityscapes_frame_agrees_with_its_train_ids() -> None:
    sample = dataset("cityscapes", root=REAL / "cityscapes_sample", split="val")[0]
    path = next((REAL / "cityscapes_sample").rglob("*_labelTrainIds.png"))
    published = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    # the two label files were made smaller separately, so a few pixels at edges differ
    assert (sample.label.numpy() == published).mean() > 0.99
    assert (sample.label != IGNORE).float().mean() > 0.5
