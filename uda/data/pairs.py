"""Endless pairs of source and target batches, a pure function of (seed, step, rank)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from uda.data.mixture import Mixture
from uda.data.pixels import Pixels, pixels_of
from uda.data.statistics import image_class_counts
from uda.data.transforms import TrainTransform
from uda.functional.sampling import rcs_probs
from uda.opencv import cv2
from uda.types import IGNORE, LabelledDataset, Sample, UnlabelledDataset, View, Window

Transform = Callable[[Sample, int], tuple[Tensor, Tensor | None] | tuple[Tensor, Tensor | None, Window]]
"""(sample, seed) -> image ``(3, h, w)`` float in [0, 1], label ``(h, w)`` int64 or ``None``, and the window, if methods
are to know what part of the sample they see."""
_Drawn = tuple[Tensor, Tensor | None, Sample | Pixels, Window | None]

_SOURCE, _TARGET, _RARE, _TURNS = 0, 1, 2, 3


@dataclass(frozen=True, kw_only=True)
class RareClasses:
    """DAFormer's rare class sampling (Hoyer et al., CVPR 2022, eq. 9 and 10) of the source.

    A class is drawn with probability softmax((1 - f_c) / T) over the pixel frequencies f_c, then uniformly an image
    with more than ``min_share`` of its pixels in that class; its crop is drawn again until more than ``crop_share`` of
    it is, at most ``tries`` times. The paper's thresholds are counts (3000 pixels of a GTA5 image of 1914x1052, half of
    that in a crop of 512x512); here they are fractions, so that they hold at any size.

    Args:
        temperature: T, in (0, inf); small values prefer rare classes.
        min_share: in [0, 1). Where no image has that much of a class, those with any pixel of it are drawn from.
        crop_share: in [0, 1).
        tries: at least 1; the last crop is taken whatever it holds.
    """

    temperature: float = 0.01
    min_share: float = 3000 / (1914 * 1052)
    crop_share: float = 1500 / (512 * 512)
    tries: int = 10

    def __post_init__(self) -> None:
        if not 0 < self.temperature < float("inf"):
            raise ValueError(f"temperature must be above 0, not {self.temperature}")
        for name in ("min_share", "crop_share"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), not {getattr(self, name)}")
        if not isinstance(self.tries, int) or self.tries < 1:
            raise ValueError(f"tries must be a whole number of at least 1, not {self.tries}")


class Pairs(Dataset[dict[str, View]]):
    """``pairs[step]`` is the batch of one training step, whatever was loaded before: a run's position is one integer.

    Source and target are each gone through in a new seeded order every epoch. The ranks of one step share a global
    batch of ``batch_size * world`` different samples, whose content does not depend on how it is split over ranks; what
    is left at the end of an epoch and would not fill a global batch is dropped. A data set smaller than a global batch
    repeats inside it.

    A source whose parts are drawn by shares (:class:`~uda.data.Mixture`) gives each of them its turns, in a seeded
    order inside each global batch, and each is gone through in a new order whenever all of its images were drawn.
    Nothing is dropped then, so that an image can come twice in the global batch in which its part begins anew.

    Args:
        source: labelled.
        target: images; the labelled view of a data set is replaced by its ``unlabelled()`` one. ``None``: no target,
            and no target view.
        transform: of the source, see :data:`Transform`.
        target_transform: of the target; that of the source by default.
        batch_size: samples of each domain and rank.
        accumulate: batches whose gradients make one optimiser step; consecutive ones are then the parts of one global
            batch. The index is the batch's.
        seed: of everything.
        rank: in 0..world - 1.
        world: processes that train together.
        rare_class: draw the source by rare classes instead of by epochs, of a mixture with shares each part by its
            own; counts all source labels once.

    Raises:
        ValueError: an empty data set, a batch size below 1, a rank outside of the world.
    """

    def __init__(
        self,
        source: LabelledDataset,
        target: UnlabelledDataset | None,
        transform: Transform,
        target_transform: Transform | None = None,
        *,
        batch_size: int,
        accumulate: int = 1,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        rare_class: RareClasses | None = None,
    ) -> None:
        for name, value in (("batch_size", batch_size), ("accumulate", accumulate)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        if not 0 <= rank < world:
            raise ValueError(f"rank must be in 0..{world - 1} (world {world}), not {rank}")
        for dataset in (source, target):
            if dataset is not None and len(dataset) == 0:
                raise ValueError(f"data set {dataset.name} is empty")
        self.source = source
        self.target = target.unlabelled() if isinstance(target, LabelledDataset) else target
        self.transform = transform
        self.target_transform = target_transform or transform
        self.batch_size, self.seed, self.rank, self.world = batch_size, seed, rank, world
        self._together = batch_size * accumulate * world
        for path, leaf in _leaves(source):
            if path and len(leaf) == 0:
                raise ValueError(f"data set {leaf.name} is empty")
        self.rare_class = rare_class
        self._rare = (
            None if rare_class is None else {path: _RareTable(leaf, rare_class) for path, leaf in _leaves(source)}
        )

    def __len__(self) -> int:
        """Endless in practice: any step from 0 to 2^62 is there."""
        return 1 << 62

    def __getitem__(self, step: int) -> dict[str, View]:
        """``{"source": View}``, with ``"target"`` where there is a target."""
        if step < 0:
            raise IndexError(f"step must be at least 0, not {step}")
        samples = [self._source_sample(step, slot) for slot in range(self.batch_size)]
        views = {"source": split_coarse(_collate(samples), self.source.space)}
        if self.target is not None:
            slots = range(self.batch_size)
            views["target"] = _collate([self._target_sample(self.target, step, slot) for slot in slots])
        return views

    def indices(self, step: int, domain: str = "source") -> list[int]:
        """Which samples of a domain this rank's batch holds, in epoch order (not with ``rare_class``)."""
        dataset = self.source if domain == "source" else self.target
        if dataset is None:
            return []
        slots = range(self.batch_size)
        if domain == "source":
            return [self._source_index(step, slot) for slot in slots]
        return [self._index(len(dataset), _TARGET, step, slot) for slot in slots]

    def _position(self, step: int, slot: int) -> int:
        return (step * self.world + self.rank) * self.batch_size + slot

    def _index(self, count: int, stream: int, step: int, slot: int) -> int:
        per_epoch = count // self._together * self._together or count
        epoch, place = divmod(self._position(step, slot), per_epoch)
        return int(_permutation(count, self.seed, stream, epoch)[place])

    def _turn(self, position: int) -> _Turn:
        if isinstance(self.source, Mixture) and self.source.shares is not None:
            batch, place = divmod(position, self._together)
            # in another order in every batch, or a slot, and with it a rank, would always see the same data set
            order = _permutation(self._together, self.seed, _TURNS, batch)
            position = batch * self._together + int(order[place])
        return _turn(self.source, position)

    def _source_index(self, step: int, slot: int) -> int:
        turn = self._turn(self._position(step, slot))
        if not turn.path:
            return self._index(len(self.source), _SOURCE, step, slot)
        epoch, place = divmod(turn.before, len(turn.dataset))
        return turn.first + int(_permutation(len(turn.dataset), self.seed, _SOURCE, *turn.path, epoch)[place])

    def _source_sample(self, step: int, slot: int) -> _Drawn:
        position = self._position(step, slot)
        if self._rare is not None:
            return self._rare_sample(self._rare, position)
        index = self._source_index(step, slot)
        return _draw(
            self.transform, _read(self.source, index, self.transform), index, _derive(self.seed, _SOURCE, position)
        )

    def _target_sample(self, target: UnlabelledDataset, step: int, slot: int) -> _Drawn:
        index = self._index(len(target), _TARGET, step, slot)
        sample = _read(target, index, self.target_transform)._replace(label=None)
        return _draw(self.target_transform, sample, index, _derive(self.seed, _TARGET, self._position(step, slot)))

    def _rare_sample(self, tables: Mapping[tuple[int, ...], _RareTable], position: int) -> _Drawn:
        turn = self._turn(position)
        table = tables[turn.path]
        wanted, inner = table.draw(_derive(self.seed, _RARE, position))
        index = turn.first + inner
        sample = _read(self.source, index, self.transform)
        for attempt in range(table.config.tries):
            drawn = _draw(self.transform, sample, index, _derive(self.seed, _RARE, position, attempt + 1))
            label = drawn[1]
            if label is None or int((label == wanted).sum()) > table.config.crop_share * label.numel():
                break
        return drawn

    def loader(self, start: int, stop: int, workers: int = 0, *, pin: bool = False) -> Iterator[dict[str, View]]:
        """The batches of steps ``start`` to ``stop - 1`` in order, decoded by ``workers`` processes, two ahead in each.

        ``pin`` puts them into memory that a GPU copies from while it computes; it needs one.
        An error in a worker is raised here as it was there, without the worker's traceback in its message.
        """
        loader = DataLoader(
            _Guarded(self),
            batch_size=None,
            sampler=range(start, stop),
            num_workers=workers,
            collate_fn=_as_is,
            worker_init_fn=_start_worker,
            persistent_workers=workers > 0,
            prefetch_factor=2 if workers else None,
            pin_memory=pin,
            generator=torch.Generator(),  # its own, or starting workers would advance the run's random state
        )
        for batch in loader:
            if isinstance(batch, Exception):
                raise batch
            yield batch


class _Turn(NamedTuple):
    """Whose draw it is."""

    dataset: LabelledDataset
    first: int
    """Index of its first sample in the whole source."""
    path: tuple[int, ...]
    """Which part it is, of which part; empty for a source without shares."""
    before: int
    """Draws that it had before."""


def _turn(source: LabelledDataset, position: int) -> _Turn:
    """The part of a source that has a draw; mixtures in a mixture take turns too."""
    turn = _Turn(source, 0, (), position)
    while isinstance(mixture := turn.dataset, Mixture) and mixture.shares is not None:
        part, before = mixture.turn(turn.before)
        turn = _Turn(mixture.parts[part][0], turn.first + mixture.first(part), (*turn.path, part), before)
    return turn


def _leaves(source: LabelledDataset, path: tuple[int, ...] = ()) -> Iterator[tuple[tuple[int, ...], LabelledDataset]]:
    """What takes turns in a source, by the path of :class:`_Turn`."""
    if isinstance(source, Mixture) and source.shares is not None:
        for part, (dataset, _) in enumerate(source.parts):
            yield from _leaves(dataset, (*path, part))
    else:
        yield path, source


class _RareTable:
    """Class probabilities and the images of each class."""

    def __init__(self, source: LabelledDataset, config: RareClasses) -> None:
        self.config = config
        counts = image_class_counts(source)
        if not counts.any():
            raise ValueError(f"data set {source.name} has no labelled pixel to draw rare classes from")
        self.classes, self.probabilities = rcs_probs(counts.sum(0), config.temperature)
        pixels = counts.sum(1).clamp(min=1)
        self.images: dict[int, Tensor] = {}
        for index in self.classes.tolist():
            enough = torch.nonzero(counts[:, index] > config.min_share * pixels).flatten()
            self.images[index] = enough if len(enough) else torch.nonzero(counts[:, index]).flatten()

    def draw(self, seed: int) -> tuple[int, int]:
        """(class, image index)."""
        generator = torch.Generator().manual_seed(seed)
        wanted = int(self.classes[int(torch.multinomial(self.probabilities, 1, generator=generator))])
        images = self.images[wanted]
        return wanted, int(images[int(torch.randint(len(images), (), generator=generator))])


class _Guarded(Dataset[object]):
    """Hands errors over as values: a DataLoader would wrap them in the worker's traceback."""

    def __init__(self, pairs: Pairs) -> None:
        self.pairs = pairs

    def __getitem__(self, step: int) -> object:
        try:
            return self.pairs[step]
        except (ValueError, OSError) as error:
            return error


def _as_is(batch: object) -> object:
    return batch


def _start_worker(_: int) -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(0)


def _derive(*numbers: int) -> int:
    """A seed for each combination of numbers, far apart for neighbours."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


@lru_cache(maxsize=32)
def _permutation(count: int, *numbers: int) -> Tensor:
    """An order of ``count`` things, for each combination of seed, stream, part and epoch another."""
    generator = torch.Generator().manual_seed(_derive(*numbers, count))
    return torch.randperm(count, generator=generator)


def _read(dataset: UnlabelledDataset, index: int, transform: Transform) -> Sample | Pixels:
    """A sample, of which the library's own augmentation takes no more than it needs."""
    return pixels_of(dataset, index) if isinstance(transform, TrainTransform) else dataset[index]


def _draw(transform: Transform, sample: Sample | Pixels, index: int, seed: int) -> _Drawn:
    image, label, *window = transform(sample, seed)  # type: ignore[arg-type]  # Pixels go to a TrainTransform alone
    return image, label, sample, window[0]._replace(sample=index) if window else None


def split_coarse(view: View, space: object) -> View:
    """A view whose labels are in a space with unions, with those of unions apart (``View.coarse``)."""
    unions: tuple[tuple[int, ...], ...] = getattr(space, "unions", ())
    if not unions or view.labels is None:
        return view
    coarse = (view.labels >= space.num_classes) & (view.labels != IGNORE)  # type: ignore[attr-defined]
    return replace(
        view,
        labels=view.labels.masked_fill(coarse, IGNORE),
        coarse=view.labels.masked_fill(~coarse, IGNORE),
        groups=unions,
    )


def _collate(samples: list[_Drawn]) -> View:
    images = torch.stack([image for image, _, _, _ in samples])
    labels = [label for _, label, _, _ in samples if label is not None]
    weights = [sample.weight for _, _, sample, _ in samples]
    windows = tuple(window for _, _, _, window in samples if window is not None)
    weight = None
    if any(value != 1.0 for value in weights):
        weight = torch.tensor(weights).view(-1, 1, 1).expand(-1, *images.shape[-2:]).contiguous()
    return View(
        images,
        torch.stack(labels) if len(labels) == len(samples) else None,
        weight,
        tuple(sample.name for _, _, sample, _ in samples),
        windows if len(windows) == len(samples) else (),
    )
