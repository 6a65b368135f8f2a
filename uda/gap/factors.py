"""The edits that bring an image towards the source, one factor at a time.

The factors are made so that each changes its own property and leaves the others': the tone curve keeps the data set's
mean and deviation, low frequencies, sharpness and noise keep each image's; mean, deviation and tone curve together
are the full histogram transfer between data sets. They are applied in the order of :data:`FACTORS`, in which a camera's
last step is undone first. All carry statistics from data set to data set: an image that is darker than the rest stays
so.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from threading import Lock

import numpy as np

from uda.gap.detail import MAX_GAIN, WIENER, Detail, Floats, Pixels, affine, known
from uda.gap.style import CYCLES, LEVELS, Style, StyleSums
from uda.opencv import cv2

BATCH_NORM = "batch_norm"
"""The factor of the model's side."""


@dataclass(frozen=True)
class Factor:
    """A factor of the gap."""

    name: str
    label: str
    group: str
    """``"colour"``, ``"detail"``, ``"geometry"`` or ``"model"``."""
    meaning: str


FACTORS: dict[str, Factor] = {
    factor.name: factor
    for factor in (
        Factor("resolution", "resolution", "geometry", "resized to the source's median height, with its own aspect"),
        Factor("aspect", "aspect", "geometry", "stretched to the source's median ratio of width to height"),
        Factor(
            "histogram",
            "tone curve",
            "colour",
            "each channel's histogram given the source's shape, with mean and deviation kept",
        ),
        Factor(
            "low_frequency",
            "low frequencies",
            "detail",
            f"up to {CYCLES} cycles an image: their mean (light that all images share) moved to the source's, and the "
            f"amplitude about it scaled (by at most {MAX_GAIN:g}), where these clearly differ",
        ),
        Factor(
            "noise",
            "noise",
            "detail",
            f"white noise added up to the source's level, or taken off by Wiener's filter ({WIENER} x {WIENER}; Lee, "
            "PAMI 1980)",
        ),
        Factor(
            "sharpness",
            "sharpness",
            "detail",
            "what is above 1/16 cycle a pixel damped to the source's mean power, or amplified as far as noise allows "
            f"(parametric Wiener filter; by at most {MAX_GAIN:g})",
        ),
        Factor("deviation", "channel deviation", "colour", "each channel's deviation scaled about its mean"),
        Factor("mean", "channel mean", "colour", "each channel's mean shifted"),
        Factor(BATCH_NORM, "batch-norm statistics", "model", "half of the statistics taken from the target's images"),
    )
}
"""By name, in the order in which they are applied."""
IMAGE_FACTORS = tuple(name for name in FACTORS if name != BATCH_NORM)
BEFORE_DETAIL = ("resolution", "aspect", "histogram")
"""Edits that move the statistics of detail, which are measured again after them."""


class Editor:
    """Edits target images towards the source.

    Args:
        source: style to bring images to.
        target: style of all of the target's images.
        images: some of these, ``(H, W, 3)`` float32 in [0, 1], on which the style is measured again after the edits of
            :data:`BEFORE_DETAIL`; without any it is taken to be the same after them.
    """

    def __init__(self, source: Style, target: Style, images: Sequence[Pixels] = ()) -> None:
        self.source = source
        self.target = target
        self._images = images
        self._measuring = Lock()
        self._details: dict[tuple[str, ...], Detail] = {(): Detail(source, target)}

    def differences(self) -> dict[str, float]:
        """Factor -> how far the styles differ in it, in units of the least that counts; only those that are known.

        The units: half a grey level of a mean, 1 % of a deviation, half a grey level of the tone curve (mean over
        levels), a change of low frequencies by 2 % of the images' deviation, 5 % of high ones' amplitude, half a grey
        level of noise, 2 % of height or of aspect.
        """
        source, target = self.source, self.target
        sizes = {
            "mean": np.abs(source.mean - target.mean).max() * 255 / 0.5,
            "deviation": np.abs(np.log(source.std / target.std)).max() / 0.01,
        }
        if source.histogram is not None and target.histogram is not None:
            levels = np.arange(LEVELS) / 255
            moved = (np.abs(self._curve - levels) * target.histogram).sum(1).max()
            sizes["histogram"] = moved * 255 / 0.5
        sizes |= self._details[()].differences()
        if source.size is not None and target.size is not None:
            sizes["resolution"] = abs(np.log(source.size[0] / target.size[0])) / 0.02
            sizes["aspect"] = abs(np.log(self._aspect)) / 0.02
        return {name: float(sizes[name]) for name in IMAGE_FACTORS if name in sizes}

    def active(self) -> tuple[str, ...]:
        """The factors in which the styles differ at all, in the order in which they are applied."""
        return tuple(name for name, size in self.differences().items() if size > 1)

    def apply(self, pixels: Pixels, factors: Collection[str], seed: int = 0) -> Pixels:
        """Edit an image.

        Args:
            pixels: ``(H, W, 3)`` float32 RGB in [0, 1].
            factors: names of :data:`IMAGE_FACTORS` whose styles are known.
            seed: of the noise that is added.

        Returns:
            ``(h, w, 3)`` float32, not clipped.

        Raises:
            ValueError: an unknown factor.
        """
        unknown = sorted(set(factors) - set(IMAGE_FACTORS))
        if unknown:
            raise ValueError(f"factor {unknown[0]!r} is none of {', '.join(IMAGE_FACTORS)}")
        for _, edited in self.each(pixels, [frozenset(factors)], seed):
            pixels = edited
        return np.ascontiguousarray(pixels, dtype=np.float32)

    def each(
        self, pixels: Pixels, combinations: Iterable[frozenset[str]], seed: int = 0
    ) -> Iterator[tuple[frozenset[str], Pixels]]:
        """Edit an image by several sets of factors, as :meth:`apply` by each of them.

        Edits that two of them begin with are made once: the sets are walked as a tree, and the images from its root to
        where it is are held.

        Yields:
            a set and the edited image, those with the same first edits in a row.
        """
        paths = sorted({tuple(map(IMAGE_FACTORS.index, sorted(c, key=IMAGE_FACTORS.index))) for c in combinations})
        done: list[tuple[int, Pixels]] = []
        for path in paths:
            shared = 0
            while shared < len(done) and done[shared][0] == path[shared]:
                shared += 1
            del done[shared:]
            for depth in range(shared, len(path)):
                names = [IMAGE_FACTORS[factor] for factor in path[: depth + 1]]
                done.append((path[depth], self._edit(names, done[-1][1] if done else pixels, seed)))
            yield frozenset(IMAGE_FACTORS[factor] for factor in path), done[-1][1] if done else pixels

    def _edit(self, names: Sequence[str], image: Pixels, seed: int) -> Pixels:
        """The last of these edits, where the others are made."""
        before = tuple(name for name in BEFORE_DETAIL if name in names)
        edits: dict[str, Callable[[], Pixels]] = {
            "resolution": lambda: self._resolution(image),
            "aspect": lambda: self._stretch(image),
            "histogram": lambda: self._histogram(image),
            "low_frequency": lambda: self._detail(before).low_frequency(image),
            "noise": lambda: self._detail(before).noise(image, seed),
            "sharpness": lambda: self._detail(before).sharpness(image),
            "deviation": lambda: self._deviation(image),
            "mean": lambda: self._mean(image),
        }
        return edits[names[-1]]()

    def _detail(self, before: tuple[str, ...]) -> Detail:
        """The edits of detail for images that were edited before."""
        with self._measuring:
            if before not in self._details and self._images:
                sums = StyleSums()
                for image in self._images:
                    edited = self.apply(image, before).clip(0, 1) * 255
                    sums.add(edited.round().astype(np.uint8))
                self._details[before] = Detail(self.source, sums.style())
            return self._details.get(before, self._details[()])

    # colour

    def _mean(self, image: Pixels) -> Pixels:
        return affine(image, 1.0, self.source.mean - self.target.mean)

    def _deviation(self, image: Pixels) -> Pixels:
        scale = self.source.std / self.target.std
        return affine(image, scale, self.target.mean * (1 - scale))

    def _histogram(self, image: Pixels) -> Pixels:
        edited = []
        for values, curve in zip(cv2.split(image), self._curve.astype(np.float32), strict=True):
            inside = np.clip(values, 0, 1)
            place = inside * np.float32(LEVELS - 1)
            below = np.minimum(place.astype(np.intp), LEVELS - 2)
            mapped = curve.take(below) + np.diff(curve).take(below) * (place - below.astype(np.float32))
            # beyond the levels, where other edits may have led, the curve goes on in parallel
            edited.append(mapped + (values - inside))
        return np.asarray(cv2.merge(edited), np.float32)

    @cached_property
    def _curve(self) -> Floats:
        """``(3, 256)`` where each grey level goes: the source's quantiles at the target's mid-ranks."""
        source, target = known(self.source.histogram), known(self.target.histogram)
        levels = np.arange(LEVELS) / 255
        curve = np.empty((3, LEVELS))
        for channel in range(3):
            above = np.cumsum(target[channel])
            ranks = above - target[channel] / 2
            ends = np.cumsum(source[channel])
            quantiles = np.interp(ranks, ends - source[channel] / 2, levels)
            weights = target[channel]
            mean = weights @ quantiles
            std = np.sqrt(weights @ (quantiles - mean) ** 2)
            scale = self.target.std[channel] / std if std > 1e-6 else 1.0
            curve[channel] = (quantiles - mean) * scale + self.target.mean[channel]
        return curve

    # geometry

    def _resolution(self, image: Pixels) -> Pixels:
        factor = known(self.source.size)[0] / known(self.target.size)[0]
        return _resize(image, round(image.shape[0] * factor), round(image.shape[1] * factor))

    def _stretch(self, image: Pixels) -> Pixels:
        return _resize(image, image.shape[0], round(image.shape[1] * self._aspect))

    @property
    def _aspect(self) -> float:
        (high, wide), (own_high, own_wide) = known(self.source.size), known(self.target.size)
        return (wide / high) / (own_wide / own_high)


def _resize(image: Pixels, height: int, width: int) -> Pixels:
    size = (max(width, 1), max(height, 1))
    shrinks = height < image.shape[0] or width < image.shape[1]
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR))
