"""Any torch data set of images with labels as a data set of this library: torchvision's, Hugging Face's, one's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from uda.data.classes import UNKNOWN, LabelSpace, raise_unknown
from uda.data.errors import DataError
from uda.data.identity import dataset_identity
from uda.data.label_spaces import label_space
from uda.types import IGNORE, LabelledDataset, Sample, UnlabelledDataset

IMAGE_KEYS = ("image", "img", "pixel_values")
LABEL_KEYS = ("label", "labels", "annotation", "mask", "segmentation", "semantic_segmentation")
Ids = Literal["train", "raw", "colours"]


class Wrapped:
    """A torch data set in one label space.

    Its items are ``(image, label)`` pairs as torchvision's, mappings as Hugging Face's (``image`` and ``label``,
    ``annotation`` or ``mask``, or other ``keys``), or :class:`~uda.types.Sample`. An image is a PIL image, an array
    ``(H, W, 3)`` or a tensor ``(3, H, W)``, uint8 or float in [0, 1]; a label a PIL image, array or tensor ``(H, W)``
    of integers, or an RGB image where its numbers are colours.

    Args:
        dataset: with ``__len__`` and ``__getitem__``.
        space: label space of the samples, or its name.
        ids: what the numbers of a label are: ``"train"`` ids 0 .. C - 1 (255 ignored), ``"raw"`` ids of the space (as
            the 34 of torchvision's Cityscapes), or ``"colours"`` of it.
        keys: of image and label in items that are mappings; by default the usual ones are looked for.
        name: for messages and tables; the class's name by default.

    Raises:
        TypeError: no data set, or an item that is none of these.
        ValueError: an unknown label space.
        DataError: a label with a number that the space does not have.
    """

    kind = "wrapped"

    def __init__(
        self,
        dataset: Any,
        space: LabelSpace | str,
        *,
        ids: Ids = "train",
        keys: tuple[str, str] | None = None,
        name: str | None = None,
    ) -> None:
        if isinstance(dataset, Mapping):
            raise TypeError(
                f"{type(dataset).__name__} has several data sets; give one of {', '.join(map(str, dataset))}"
            )
        _check_target_type(dataset)
        if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
            raise TypeError(f"a data set has __len__ and __getitem__, {type(dataset).__name__} has not")
        if ids not in ("train", "raw", "colours"):
            raise ValueError(f"ids is {ids!r}, must be 'train', 'raw' or 'colours'")
        self.dataset = dataset
        self.raw_space = label_space(space)
        self.ids = ids
        self.keys = keys
        self.name = name or type(dataset).__name__
        self.indices: tuple[int, ...] = tuple(range(len(dataset)))
        self._aim(self.raw_space, None)

    def _aim(self, space: LabelSpace, aliases: Mapping[str, str | None] | None) -> None:
        self.space = space
        self.mapping = self.raw_space.mapping_to(space, aliases)

    def _copy(self) -> Wrapped:
        copied = Wrapped(self.dataset, self.raw_space, ids=self.ids, keys=self.keys, name=self.name)
        copied.indices, copied.space, copied.mapping = self.indices, self.space, self.mapping
        return copied

    def remap(self, space: LabelSpace | str, aliases: Mapping[str, str | None] | None = None) -> Wrapped:
        """The same data in another label space; ``aliases`` names classes of its own."""
        moved = self._copy()
        moved._aim(label_space(space), aliases)
        return moved

    def subset(self, indices: Sequence[int]) -> Wrapped:
        """Some of the samples, in the order given."""
        part = self._copy()
        part.indices = tuple(self.indices[index] for index in indices)
        return part

    def unlabelled(self) -> WrappedImages:
        """The same images without their labels; every item's label is dropped before anybody sees it."""
        return WrappedImages(self.name, self.image, len(self))

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    def _called(self, index: int) -> str:
        return f"{self.name}[{self.indices[index]}]"

    def image(self, index: int) -> Sample:
        """A sample without its label."""
        image, _, weight = _parts(self.dataset[self.indices[index]], self._called(index), self.keys)
        return Sample(as_image(image, self._called(index)), None, self._called(index), weight)

    def __getitem__(self, index: int) -> Sample:
        name = self._called(index)
        image, label, weight = _parts(self.dataset[self.indices[index]], name, self.keys)
        if label is None:
            raise DataError(f"{name}: has no label; give unlabelled(), or name its key: keys=(image, label)")
        pixels = as_image(image, name)
        encoded = self._encode(_colours(label, name) if self.ids == "colours" else _integers(label, name), name)
        if tuple(encoded.shape) != tuple(pixels.shape[1:]):
            raise DataError(f"{name}: the image is {tuple(pixels.shape[1:])}, its label {tuple(encoded.shape)}")
        return Sample(pixels, torch.from_numpy(self.mapping.table[encoded].astype(np.int64)), name, weight)

    def _encode(self, raw: npt.NDArray[Any], name: str) -> npt.NDArray[np.uint8]:
        """Train ids of the data's own space."""
        if self.ids == "raw":
            encoded = self.raw_space.encode(raw)
        elif self.ids == "colours":
            encoded = self.raw_space.encode_colours(raw)
        else:
            inside = (raw >= 0) & (raw < self.raw_space.num_classes)
            encoded = np.where(inside, raw, np.where(raw == IGNORE, IGNORE, UNKNOWN)).astype(np.uint8)
        what = "colours" if self.ids == "colours" else f"{self.ids} ids"
        raise_unknown(self.raw_space, raw, encoded, name, f" ({what})")
        return encoded

    def identity(self) -> dict[str, Any]:
        """What the data is: that of the wrapped data set, and how its labels are mapped."""
        inner = getattr(self.dataset, "identity", None)
        told = inner() if callable(inner) else dataset_identity(self.unlabelled())
        return {
            **told,
            "samples": len(self),
            "classes": list(self.space.names),
            "label_map": self.mapping.lines(),
            "ids": self.ids,
        }


class WrappedImages:
    """The images of a wrapped data set.

    Args:
        name: of the data set.
        image: index -> sample without label.
        count: of the images.
    """

    def __init__(self, name: str, image: Callable[[int], Sample], count: int) -> None:
        self.name = name
        self._image = image
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} in {len(self)} images")
        return self._image(index)


def wrap(
    dataset: Any,
    space: LabelSpace | str,
    *,
    ids: Ids = "train",
    keys: tuple[str, str] | None = None,
    name: str | None = None,
) -> Wrapped:
    """Any torch data set of (image, label) as a data set of this library, see :class:`Wrapped`.

    Example:
        >>> import torch
        >>> from uda.data import wrap
        >>> pairs = [(torch.rand(3, 4, 6), torch.zeros(4, 6, dtype=torch.uint8))]
        >>> sample = wrap(pairs, "cityscapes19")[0]
        >>> sample.image.dtype, sample.label.dtype, tuple(sample.label.shape)
        (torch.uint8, torch.int64, (4, 6))
    """
    return Wrapped(dataset, space, ids=ids, keys=keys, name=name)


def as_dataset(dataset: Any, name: str) -> Any:
    """A data set that can be mapped to another label space: a reader as it is, any other wrapped.

    Raises:
        TypeError: it has no label space.
    """
    if hasattr(dataset, "remap"):
        return dataset
    if not isinstance(dataset, LabelledDataset | UnlabelledDataset) or not hasattr(dataset, "space"):
        raise TypeError(
            f"{name} gives {type(dataset).__name__} without a label space; return uda.data.wrap(dataset, space)"
        )
    return Wrapped(dataset, dataset.space, name=dataset.name)


def as_image(image: Any, name: str) -> Tensor:
    """``(3, H, W)`` uint8 of a PIL image, an array ``(H, W, 3)`` or a tensor ``(3, H, W)``, uint8 or float in [0, 1].

    Raises:
        TypeError: none of these; grey images have to be turned to RGB by whoever knows what they mean.
        DataError: floating point numbers outside of [0, 1].
    """
    if not isinstance(image, Tensor):
        array = np.asarray(image.convert("RGB") if hasattr(image, "convert") else image)
        if array.ndim != 3 or array.shape[2] != 3:
            raise TypeError(f"{name}: an image is RGB, (H, W, 3), got {array.shape}")
        # a copy: PIL lends memory that must not be written to
        image = torch.from_numpy(np.array(array)).permute(2, 0, 1)
    if image.ndim != 3 or image.shape[0] != 3:
        raise TypeError(f"{name}: an image tensor is (3, H, W), got {tuple(image.shape)}")
    if image.is_floating_point():
        if not (image.min() >= 0 and image.max() <= 1):
            raise DataError(f"{name}: float images are in [0, 1], got {float(image.min()):g} to {float(image.max()):g}")
        return torch.as_tensor((image * 255).round().to(torch.uint8))
    if image.dtype != torch.uint8:
        raise TypeError(f"{name}: an image is uint8 or float in [0, 1], got {image.dtype}")
    pixels: Tensor = image
    return pixels


def _check_target_type(dataset: Any) -> None:
    """torchvision's Cityscapes gives instances by default, whose numbers are no classes."""
    types = getattr(dataset, "target_type", None)
    if isinstance(types, list) and types != ["semantic"] and type(dataset).__name__ == "Cityscapes":
        raise ValueError(
            f"Cityscapes has target_type={types}, must be 'semantic'; then wrap(dataset, space, ids='raw')"
        )


def _colours(label: Any, name: str) -> npt.NDArray[Any]:
    """``(H, W, 3)`` uint8 of a PIL image (with a palette or without), an array, or a tensor with channels first."""
    try:
        return as_image(label, name).permute(1, 2, 0).numpy()
    except TypeError as error:
        raise TypeError(f"{name}: a label of colours is RGB ({error})") from error


def _integers(label: Any, name: str) -> npt.NDArray[Any]:
    array = label.cpu().numpy() if isinstance(label, Tensor) else np.asarray(label)
    if array.ndim == 3 and 1 in (array.shape[0], array.shape[-1]):
        array = array.reshape([side for side in array.shape if side != 1] or [1, 1])
    if array.ndim != 2 or not np.issubdtype(array.dtype, np.integer):
        raise TypeError(f"{name}: a label is integers (H, W), got {array.dtype} {array.shape}")
    return array


def _parts(sample: Any, name: str, keys: tuple[str, str] | None) -> tuple[Any, Any, float]:
    """Image, label and weight of whatever a data set gives."""
    if isinstance(sample, Sample):
        return sample.image, sample.label, sample.weight
    if isinstance(sample, Mapping):
        there = ", ".join(map(str, sample))
        if keys is not None:
            if missing := [key for key in keys if key not in sample]:
                raise TypeError(f"{name}: a mapping without {missing[0]!r}, it has {there}")
            return sample[keys[0]], sample[keys[1]], 1.0
        image = next((sample[key] for key in IMAGE_KEYS if key in sample), None)
        if image is None:
            raise TypeError(
                f"{name}: a mapping has one of {', '.join(IMAGE_KEYS)}, got {there}; keys=(image, label) names others"
            )
        return image, next((sample[key] for key in LABEL_KEYS if key in sample), None), 1.0
    if isinstance(sample, (tuple, list)) and len(sample) >= 2:
        return sample[0], sample[1], 1.0
    raise TypeError(f"{name}: an item is (image, label), a mapping or a Sample, got {type(sample).__name__}")
