"""What every reader must do; a reader's test inherits :class:`DatasetContract` and writes its layout."""

from __future__ import annotations

import gc
import pickle
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from uda.data import DATASETS, DataError, FileDataset, Unlabelled, dataset
from uda.data.base import STREETS
from uda.data.check import check
from uda.types import IGNORE, LabelledDataset, UnlabelledDataset

SIZE = (6, 9)


def write(path: Path, pixels: np.ndarray) -> Path:
    """Write an RGB or single-channel image, losslessly unless the name says otherwise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels[..., ::-1] if pixels.ndim == 3 else pixels)
    return path


def picture(number: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """``(H, W, 3)`` uint8 RGB, different for each number and each channel."""
    return np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)


def reachable(start: object) -> Iterator[object]:
    """Everything that an object holds on to, without what all objects share (classes, modules, functions)."""
    seen: set[int] = set()
    waiting = [start]
    while waiting:
        item = waiting.pop()
        if id(item) in seen or isinstance(item, type | ModuleType | FunctionType):
            continue
        seen.add(id(item))
        yield item
        waiting += gc.get_referents(item)
        waiting += list(item) if isinstance(item, dict) else []  # the collector passes over keys that are strings


class DatasetContract:
    """Subclasses set ``kind`` and ``options`` and write two samples with :meth:`layout`."""

    kind: str
    options: dict[str, Any] = {}  # noqa: RUF012 - constants of a test class
    raw: np.ndarray
    """Content of the label file of both samples, of shape ``SIZE`` (or with channels)."""
    expected: np.ndarray
    """Its train ids in the reader's default space."""
    unknown: Any = 77
    """A raw value (or colour) that the reader does not know."""

    def layout(self, root: Path) -> list[tuple[Path, Path]]:
        """(image, label) paths of two samples of the split in ``options``, in the reader's order."""
        raise NotImplementedError

    def write_label(self, path: Path, raw: np.ndarray) -> None:
        write(path, raw)

    @pytest.fixture
    def files(self, tmp_path: Path) -> list[tuple[Path, Path]]:
        pairs = self.layout(tmp_path / "set")
        for number, (image, label) in enumerate(pairs):
            write(image, picture(number))
            label.parent.mkdir(parents=True, exist_ok=True)
            self.write_label(label, self.raw)
        return pairs

    def open(self, tmp_path: Path, **more: Any) -> FileDataset:
        return dataset(self.kind, root=tmp_path / "set", **{**self.options, **more})

    def test_samples_are_the_files(self, tmp_path: Path, files: list[tuple[Path, Path]]) -> None:
        data = self.open(tmp_path)
        assert isinstance(data, LabelledDataset)
        assert isinstance(data, DATASETS[self.kind])
        assert len(data) == 2
        for number, sample in enumerate(data):
            assert sample.image.dtype == torch.uint8
            assert np.array_equal(sample.image.permute(1, 2, 0).numpy(), picture(number)), "pixels or channel order"
            assert sample.label is not None
            assert sample.label.dtype == torch.int64
            assert np.array_equal(sample.label.numpy(), self.expected)
            assert sample.weight == 1.0
            assert tmp_path / "set" / sample.name == files[number][0]
            assert torch.equal(data.label(number), sample.label)
        assert data.names == [sample.name for sample in data]
        assert data.sequences == [data.sequence(name) for name in data.names]
        (data.root / STREETS).write_text("{}")
        assert data.sequences == data.names, "procedural images are independent"
        with pytest.raises(IndexError):
            data[2]

    def test_labels_are_train_ids_of_the_space(self, tmp_path: Path, files: list[tuple[Path, Path]]) -> None:
        data = self.open(tmp_path)
        allowed = {*range(data.space.num_classes), IGNORE}
        assert {int(value) for sample in data for value in sample.label.unique()} <= allowed

    def test_unlabelled_view_cannot_reach_labels(self, tmp_path: Path, files: list[tuple[Path, Path]]) -> None:
        data = self.open(tmp_path, cache="memory")
        assert data[0].label is not None  # something to find in a shared cache
        view = data.unlabelled()
        assert type(view) is Unlabelled
        assert isinstance(view, UnlabelledDataset)
        assert not isinstance(view, LabelledDataset)
        assert view[0].label is None
        assert torch.equal(view[1].image, data[1].image)
        assert view.names == data.names
        labels = {str(label) for _, label in files}
        for item in reachable(view):
            assert not isinstance(item, FileDataset)
            text = str(item) if isinstance(item, str | Path) else ""
            assert not any(label in text for label in labels), "the view holds a label's path"

    def test_unlabelled_view_works_without_label_files(self, tmp_path: Path, files: list[tuple[Path, Path]]) -> None:
        view = self.open(tmp_path).unlabelled()
        for _, label in files:
            label.unlink()
        assert [sample.label for sample in view] == [None, None]
        assert [sample.name for sample in self.open(tmp_path, labelled=False).unlabelled()] == view.names

    def test_remap_subset_limit(self, tmp_path: Path, files: list[tuple[Path, Path]]) -> None:
        data = self.open(tmp_path)
        other = data.remap(data.space.select("last", [data.space.names[-1]]))
        assert other.space.num_classes == 1
        assert np.array_equal(other[0].label.numpy() == 0, self.expected == data.space.num_classes - 1)
        assert np.array_equal(data[0].label.numpy(), self.expected), "remap must not change the original"
        assert data.subset([1]).names == data.names[1:]
        assert self.open(tmp_path, limit=1).names == data.names[:1]
        with pytest.raises(ValueError, match="limit"):
            self.open(tmp_path, limit=0)
        with pytest.raises(DataError):
            data.subset([])

    @pytest.mark.parametrize("cache", ["memory", "folder"])
    def test_cache_changes_nothing(self, tmp_path: Path, files: list[tuple[Path, Path]], cache: str) -> None:
        data = self.open(tmp_path, cache="memory" if cache == "memory" else tmp_path / "cache")
        first = data[0]
        first.image.zero_()  # what a caller does to a sample must not reach the cache
        first.label.zero_()
        again = data[0]
        assert np.array_equal(again.image.permute(1, 2, 0).numpy(), picture(0))
        assert np.array_equal(again.label.numpy(), self.expected)
        assert np.array_equal(data.remap(data.space)[0].label.numpy(), self.expected)

    def test_archives_are_read_as_they_are(self, tmp_path: Path, files: list[tuple[Path, Path]]) -> None:
        data = self.open(tmp_path)
        root, names, identity, sequences = data.root, data.names, data.identity(), data.sequences
        aside = tmp_path / "aside"
        shutil.move(root, aside)
        root.mkdir()
        labels = {str(label.relative_to(root)) for _, label in files}
        for name, of_labels in (("images.zip", False), ("labels.zip", True)):
            with zipfile.ZipFile(root / name, "w", zipfile.ZIP_DEFLATED) as archive:
                for path in sorted(aside.rglob("*")):
                    inside = str(path.relative_to(aside))
                    if path.is_file() and (inside in labels) == of_labels:
                        archive.write(path, inside)
        packed = self.open(tmp_path, cache=tmp_path / "cache")
        assert (packed.names, packed.identity(), packed.sequences) == (names, identity, sequences)
        for _ in range(2):
            for number, sample in enumerate(pickle.loads(pickle.dumps(packed))):
                assert np.array_equal(sample.image.permute(1, 2, 0).numpy(), picture(number))
                assert np.array_equal(sample.label.numpy(), self.expected)
        assert check(packed).ok
        assert packed.unlabelled().names == names

    def test_survives_pickling(self, tmp_path: Path, files: list[tuple[Path, Path]]) -> None:
        data = pickle.loads(pickle.dumps(self.open(tmp_path)))
        assert np.array_equal(data[1].label.numpy(), self.expected)

    def test_check_finds_nothing(self, tmp_path: Path, files: list[tuple[Path, Path]]) -> None:
        report = check(self.open(tmp_path))
        assert report.ok, report.problems
        assert report.samples == 2
        assert int(report.pixels.sum()) + report.ignored == 2 * SIZE[0] * SIZE[1]
        assert any("no problems" in line for line in report.lines())

    def test_missing_root(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="set"):
            self.open(tmp_path)

    def test_empty_split(self, tmp_path: Path, files: list[tuple[Path, Path]]) -> None:
        for image, _ in files:
            image.unlink()
        with pytest.raises(DataError, match="no "):
            self.open(tmp_path)

    def test_missing_image_folder(self, tmp_path: Path, files: list[tuple[Path, Path]]) -> None:
        for image, _ in files:
            shutil.rmtree(image.parent, ignore_errors=True)
        with pytest.raises(DataError, match=str(tmp_path)):
            self.open(tmp_path)

    def test_image_without_label(self, tmp_path: Path, files: list[tuple[Path, Path]]) -> None:
        image, label = files[1]
        label.unlink()
        with pytest.raises(DataError) as error:
            self.open(tmp_path)
        assert str(image) in str(error.value)
        assert str(label) in str(error.value)
        tolerant = self.open(tmp_path, strict=False)
        assert len(tolerant) == 1
        assert str(label) in check(tolerant).problems[0]

    def test_label_of_another_size(self, tmp_path: Path, files: list[tuple[Path, Path]]) -> None:
        self.write_label(files[1][1], self.raw[:-1])
        with pytest.raises(DataError) as error:
            self.open(tmp_path)[1]
        assert str(files[1][1]) in str(error.value)
        assert "9x5" in str(error.value)
        assert "9x6" in str(error.value)
        assert not check(self.open(tmp_path)).ok

    @pytest.mark.parametrize("which", [0, 1])
    def test_truncated_file(self, tmp_path: Path, files: list[tuple[Path, Path]], which: int) -> None:
        victim = files[0][which]
        victim.write_bytes(victim.read_bytes()[:-20])
        with pytest.raises(DataError) as error:
            self.open(tmp_path)[0]
        assert str(victim) in str(error.value)
        assert len(check(self.open(tmp_path)).problems) == 1

    def test_unknown_value(self, tmp_path: Path, files: list[tuple[Path, Path]]) -> None:
        raw = self.raw.copy()
        raw[0, :3] = self.unknown
        self.write_label(files[0][1], raw)
        with pytest.raises(DataError) as error:
            self.open(tmp_path)[0]
        shown = str(self.unknown)
        assert str(files[0][1]) in str(error.value)
        assert f"{shown} (3 pixels)" in str(error.value)
        assert f"{shown} (3 pixels)" in check(self.open(tmp_path)).problems[0]
        assert check(self.open(tmp_path, unknown="ignore")).ok
        ignored = self.open(tmp_path, unknown="ignore")[0].label
        assert (ignored[0, :3] == IGNORE).all()
        assert np.array_equal(ignored[1:].numpy(), self.expected[1:])

    def test_wrong_option_and_split(self, tmp_path: Path, files: list[tuple[Path, Path]]) -> None:
        with pytest.raises(ValueError, match="the nearest is 'limit'"):
            self.open(tmp_path, limitt=3)
        with pytest.raises(ValueError, match="unknown must be"):
            self.open(tmp_path, unknown="warn")
        if self.kind != "folder":
            with pytest.raises(ValueError, match="has no split 'vall'"):
                self.open(tmp_path, split="vall")
