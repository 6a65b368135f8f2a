"""Several data sets as one, with a loss weight for the samples of each."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import accumulate
from math import floor
from typing import Any

import torch

from uda.data.base import FileDataset, Unlabelled
from uda.data.classes import LabelSpace
from uda.data.identity import dataset_identity
from uda.data.pixels import Pixels, pixels_of
from uda.data.unions import UnionSpace
from uda.types import LabelledDataset, Sample


class Mixture:
    """Labelled data sets one after the other; every sample carries its data set's loss weight.

    For training on a source together with a few labelled target samples. Images are drawn equally often whatever
    their weight; the weight scales the loss of all pixels of a sample (``View.weight``). With ``shares`` the parts are
    drawn that often whatever their sizes, each part's images equally often: a few images among hundreds would
    otherwise hardly be seen.

    Args:
        parts: (data set, weight) pairs in one label space; where some are in one with unions (coarser data sets, see
            :func:`uda.data.union_space`), the mixture is.
        shares: of the draws, one for each part, above 0 and 1 together; by default every image is drawn equally often.

    Raises:
        ValueError: no parts, a weight that is not finite or negative, different label spaces or unions, or shares that
            are not one for each part, above 0 and together 1.
    """

    kind = "mixture"
    name: str

    def __init__(
        self, parts: Sequence[tuple[LabelledDataset, float]], *, shares: Sequence[float | Fraction] | None = None
    ) -> None:
        if not parts:
            raise ValueError("a mixture needs at least one (data set, weight) pair")
        first: LabelSpace = parts[0][0].space
        for dataset, weight in parts:
            if not math.isfinite(weight) or weight < 0:
                raise ValueError(f"the weight of {dataset.name} must be finite and at least 0, not {weight}")
            if dataset.space.names != first.names:
                spaces = f"in label space {dataset.space.name!r} but {parts[0][0].name} in {first.name!r}"
                raise ValueError(f"{dataset.name} is {spaces}; remap one of them")
        self.parts = tuple((dataset, float(weight)) for dataset, weight in parts)
        self.shares = None if shares is None else _checked_shares(shares, len(parts))
        spaces_with_unions = [dataset.space for dataset, _ in parts if isinstance(dataset.space, UnionSpace)]
        if len({space.unions for space in spaces_with_unions}) > 1:
            raise ValueError("the data sets' label spaces have different unions; make one with union_space for all")
        self.space = spaces_with_unions[0] if spaces_with_unions else first
        self.name = "+".join(dataset.name for dataset, _ in parts)
        self._ends = list(accumulate(len(dataset) for dataset, _ in parts))

    def __len__(self) -> int:
        return self._ends[-1]

    def _place(self, index: int) -> tuple[LabelledDataset, int, float]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} in a mixture of {len(self)} samples")
        index %= len(self)
        part = bisect_right(self._ends, index)
        dataset, weight = self.parts[part]
        return dataset, index - self.first(part), weight

    def turn(self, position: int) -> tuple[int, int]:
        """Which part has a draw by the shares, and how many draws that part had before.

        The parts take turns as evenly as their shares allow: after any number n of draws, a mixture of two parts has
        drawn ``floor(n * share)`` times from the second. A pure function of the position, so that it depends on
        neither what was loaded before nor on who loads it.

        Args:
            position: of the draw in the whole run, from 0.

        Raises:
            ValueError: a mixture without shares.
        """
        if self.shares is None:
            raise ValueError(f"{self.name}: drawn image by image, without shares")
        left = Fraction(1)
        for part in range(len(self.parts) - 1, 0, -1):
            share = self.shares[part] / left
            before, after = floor(position * share), floor((position + 1) * share)
            if after > before:
                return part, before
            position, left = position - before, left - self.shares[part]
        return 0, position

    def first(self, part: int) -> int:
        """Index of the first sample of a part."""
        return self._ends[part - 1] if part else 0

    def __getitem__(self, index: int) -> Sample:
        dataset, inner, weight = self._place(index)
        sample = dataset[inner]
        return sample._replace(weight=sample.weight * weight)

    def pixels(self, index: int) -> Pixels | Sample:
        """A sample as the cache of its data set has it."""
        dataset, inner, weight = self._place(index)
        sample = pixels_of(dataset, inner)
        return sample._replace(weight=sample.weight * weight)

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    def label(self, index: int) -> torch.Tensor:
        """``(H, W)`` int64 train ids alone."""
        dataset, inner, _ = self._place(index)
        return label_of(dataset, inner)

    @property
    def names(self) -> list[str]:
        """The images' files, part after part."""
        return [name for dataset, _ in self.parts for name in names_of(dataset)]

    def unlabelled(self) -> JoinedImages:
        """All images with no way to their labels."""
        return JoinedImages([dataset.unlabelled() for dataset, _ in self.parts])

    def identity(self) -> dict[str, Any]:
        """What the parts are, weigh and how often they are drawn; see :func:`uda.data.identity.dataset_identity`."""
        parts = [{**dataset_identity(dataset), "weight": weight} for dataset, weight in self.parts]
        if self.shares is not None:
            parts = [{**part, "share": float(share)} for part, share in zip(parts, self.shares, strict=True)]
        return {"name": self.name, "samples": len(self), "parts": parts}

    def remap(self, space: LabelSpace | str, aliases: Mapping[str, str | None] | None = None) -> Mixture:
        """The same samples in another label space; every part must be a reader or a mixture."""
        moved: list[tuple[LabelledDataset, float]] = []
        for dataset, weight in self.parts:
            if not isinstance(dataset, FileDataset | Mixture):
                raise TypeError(f"{dataset.name} ({type(dataset).__name__}) cannot be remapped")
            moved.append((dataset.remap(space, aliases), weight))
        return Mixture(moved, shares=self.shares)

    def subset(self, indices: Sequence[int]) -> Mixture:
        """Some of the samples; parts keep their order and the proportion of their shares, samples of a part the order
        given."""
        chosen: dict[int, list[int]] = {}
        for index in indices:
            self._place(index)
            part = bisect_right(self._ends, index % len(self))
            chosen.setdefault(part, []).append(index % len(self) - self.first(part))
        subsets: list[tuple[LabelledDataset, float]] = []
        for part in sorted(chosen):
            dataset, weight = self.parts[part]
            if not isinstance(dataset, FileDataset | Mixture):
                raise TypeError(f"{dataset.name} ({type(dataset).__name__}) has no subsets")
            subsets.append((dataset.subset(chosen[part]), weight))
        if self.shares is None:
            return Mixture(subsets)
        shares = [self.shares[part] for part in sorted(chosen)]
        return Mixture(subsets, shares=[share / sum(shares) for share in shares])


class JoinedImages:
    """Unlabelled data sets one after the other."""

    def __init__(self, parts: Sequence[Any]) -> None:
        if not parts:
            raise ValueError("nothing to join")
        self.parts: tuple[Unlabelled | JoinedImages, ...] = tuple(parts)
        self.name: str = "+".join(part.name for part in self.parts)
        self._ends = list(accumulate(len(part) for part in self.parts))

    def identity(self) -> dict[str, Any]:
        """What the parts are; see :func:`uda.data.identity.dataset_identity`."""
        return {"name": self.name, "samples": len(self), "parts": [dataset_identity(part) for part in self.parts]}

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Sample:
        part, inner = self._place(index)
        return part[inner]

    def pixels(self, index: int) -> Pixels | Sample:
        """An image as the cache of its data set has it."""
        return pixels_of(*self._place(index))

    def _place(self, index: int) -> tuple[Unlabelled | JoinedImages, int]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} in {len(self)} images")
        index %= len(self)
        part = bisect_right(self._ends, index)
        return self.parts[part], index - (self._ends[part - 1] if part else 0)

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    @property
    def names(self) -> list[str]:
        """The images' files, part after part."""
        return [name for part in self.parts for name in part.names]


def _checked_shares(shares: Sequence[float | Fraction], parts: int) -> tuple[Fraction, ...]:
    """The shares as fractions: who has a draw is then exact however long a run is."""
    if len(shares) == parts and all(0 < share <= 1 for share in shares) and abs(float(sum(shares)) - 1) < 1e-6:
        others = [Fraction(share).limit_denominator(1_000_000) for share in shares[1:]]
        exact: tuple[Fraction, ...] = (1 - sum(others, Fraction(0)), *others)
        if min(exact) > 0:
            return exact
    written = [float(share) for share in shares]
    raise ValueError(f"shares must be one for each of {parts} data sets, above 0 and together 1, got {written}")


def label_of(dataset: LabelledDataset, index: int) -> torch.Tensor:
    """A sample's ``(H, W)`` int64 label, without decoding its image where the data set can do that."""
    if isinstance(dataset, FileDataset | Mixture):
        return dataset.label(index)
    label = dataset[index].label
    if label is None:
        raise ValueError(f"sample {index} of {dataset.name} has no label")
    return label


def names_of(dataset: Any) -> list[str]:
    """The names of all samples; decodes them if the data set does not list its names."""
    listed = getattr(dataset, "names", None)
    return list(listed) if listed is not None else [dataset[index].name for index in range(len(dataset))]
