"""What labelled target images are worth: scores against their number, and how many of them a method stands for.

**Worth of a row without labels** is the number of labelled images with which source-only training scores alike. The
curve of source-only is taken as straight between the measured numbers k on the axis log(1 + k), as the chart draws it.
Its value at any k is then a weighted mean of two rows, and row minus curve a contrast of three rows that share seeds
and images, whose noise :mod:`uda.bench.intervals` knows. The interval is every k at which that contrast is not clearly
off 0 (a test turned around, as Fieller's interval is), from the smallest to the largest of them. So it holds at two or
three seeds, where a bootstrap over seeds would not: it would draw from three numbers. It needs no curve that rises;
where it is flat, or the row lies beyond its end, the interval has no end either, and the sentence says so.

The number itself is read off the curve's monotone regression, which a dip does not turn back (Barlow et al.,
"Statistical inference under order restrictions", 1972). How often the interval holds the truth is simulated in
``tests/bench/test_learning_curve.py``.

**Chosen against random images** are compared by the mean difference over all numbers of images, **a method with labels
against source-only with the same labels** number by number; each is a family judged together (Holm).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import scipy

from uda.bench.intervals import LEVEL, Adjusted, Estimate, ImageScores, estimate, holm_family
from uda.bench.rows import PlannedRow
from uda.config import ORACLE, SOURCE_ONLY, BenchConfig

BETWEEN = 20
"""Places between two measured numbers that are looked at first; the ends of an interval are found exactly."""


@dataclass(frozen=True)
class Line:
    """One line of the chart: a row with more and more labelled images."""

    row: str
    choose: str
    rows: dict[int, str]
    """Number of labelled images -> the row that has them; 0 is the row as it is."""
    points: dict[int, Estimate]
    """The score on the target by number of labelled images."""
    gains: dict[int, Estimate]
    """The score minus source-only's without labels, paired by seed and image: at a few seeds far better known."""

    @property
    def name(self) -> str:
        """The row, and how its images are chosen unless that is at random."""
        return self.row if self.choose == "random" else f"{self.row}, {self.choose}"


@dataclass(frozen=True)
class Worth:
    """How many labelled images a row without any stands for."""

    row: str
    score: float
    value: float
    """0 where source-only without labels scores at least as high; infinity beyond the curve's end."""
    low: float
    """Of the 95 % interval; 0 where no label at all cannot be excluded. NaN where there is no interval."""
    high: float
    """Infinity where the most labels that were tried cannot be excluded, or too few were."""
    least: int
    """The smallest number of labelled images that was tried."""
    most: int
    """The largest."""
    image_noise_only: bool = False

    @property
    def sentence(self) -> str:
        """The practitioner's answer."""
        does = f"{self.row} without labels on the target scores as {SOURCE_ONLY}"
        if self.low == 0 and self.high == math.inf:
            return (
                f"{self.row}: these runs do not say how many labelled target images it is worth; anything from none to "
                f"more than {self.most} fits{self._caution} (the scores alone say {self._number(self.value)})."
            )
        images = f"labelled target image{'' if self._number(self.value) == 'about 1' else 's'}"
        if self.value == 0:
            text = f"{self.row} without labels on the target scores no higher than {SOURCE_ONLY} without any"
        else:
            text = f"{does} with {self._number(self.value)} {images}"
        if math.isnan(self.low):
            return f"{text} (no interval: all scored images are of one sequence)."
        if self.low == self.high:
            return f"{text}, clearly{self._caution}."
        ends = [self._number(end).removeprefix("about ") for end in (self.low, self.high)]
        return f"{text} (95 % interval: {ends[0]} to {ends[1]}{self._caution})."

    @property
    def _caution(self) -> str:
        return ", for other images alone, as there is one seed" if self.image_noise_only else ""

    def _number(self, value: float) -> str:
        if value == 0:
            return "none"
        if value == math.inf:
            return f"more than {self.most}"
        return f"fewer than {self.least}" if value < self.least else f"about {value:.0f}"


@dataclass(frozen=True)
class Gain:
    """A difference in words: what choosing gains over chance, or a method over its labels alone."""

    what: str
    difference: Adjusted

    @property
    def sentence(self) -> str:
        """The difference in points with its joint interval, and whether it is clear."""
        value = 100 * self.difference.estimate.value
        text = f"{self.what}: {value:+.1f}"
        if math.isnan(self.difference.low):
            return f"{text}, no interval."
        ends = [f"{100 * end:.1f}" for end in (self.difference.low, self.difference.high)]
        if self.difference.estimate.image_noise_only:
            verdict = "one seed, so nothing is said about training again"
        else:
            verdict = "clear" if self.difference.clear else "no clear difference"
        return f"{text} [{ends[0]}, {ends[1]}], {verdict}."


@dataclass(frozen=True)
class Learning:
    """The learning curve of a benchmark."""

    lines: tuple[Line, ...]
    worths: tuple[Worth, ...]
    chosen: tuple[Gain, ...]
    """Each way to choose against random, mean over the numbers of images."""
    added: tuple[Gain, ...]
    """Each method against source-only with as many labels."""
    about: str
    """How the labelled images are trained on."""

    @property
    def sentences(self) -> list[str]:
        """All that it says, the answer first."""
        gains = (*self.chosen, *self.added)
        return [*(part.sentence for part in self.worths), *(gain.sentence for gain in gains), self.about]

    def plain(self) -> dict[str, Any]:
        """Plain values, for a record."""
        lines = [
            {
                "row": line.row, "choose": line.choose,
                "points": {str(count): _scored(point) for count, point in line.points.items()},
                "gains": {str(count): _scored(gain) for count, gain in line.gains.items()},
            }
            for line in self.lines
        ]  # fmt: skip
        worths = [{**asdict(part), "sentence": part.sentence} for part in self.worths]
        return {"lines": lines, "worths": worths, "sentences": self.sentences}


def _scored(point: Estimate) -> dict[str, float]:
    return {"value": point.value, "low": point.low, "high": point.high}


def learning_curve(config: BenchConfig, planned: Mapping[str, PlannedRow], scores: ImageScores) -> Learning | None:
    """The learning curve of the finished rows of a benchmark; ``None`` where the config has none.

    Args:
        config: the benchmark.
        planned: its finished rows.
        scores: theirs, on the target.
    """
    section = config.learning_curve
    if section is None:
        return None
    lines = []
    for row, ways in section.rows.items():
        for choose in ways:
            names = {count: section.name_of(row, count, choose) for count in (0, *section.counts)}
            rows = {count: name for count, name in names.items() if name in scores.rows}
            if rows:
                points = {count: scores.score(name) for count, name in rows.items()}
                gains = {count: _gain(scores, name) for count, name in rows.items()}
                lines.append(Line(row, choose, rows, points, gains))
    base = next((line for line in lines if (line.row, line.choose) == (SOURCE_ONLY, "random")), None)
    without = [
        name
        for name, row in planned.items()
        if name not in (SOURCE_ONLY, ORACLE) and row.entry.target_labels is None and name in scores.rows
    ]
    return Learning(
        lines=tuple(lines),
        worths=tuple(part for name in without if base and (part := worth(scores, name, base.rows)) is not None),
        chosen=tuple(_family(scores, _chosen(lines))),
        added=tuple(_family(scores, _added(lines))),
        about=(
            f"{100 * section.share:g} % of the source half's draws are labelled target images, their loss weighs "
            f"{section.weight:g}; the target's images are all adapted to, these among them."
        ),
    )


def _gain(scores: ImageScores, row: str) -> Estimate:
    unknown = SOURCE_ONLY not in scores.rows
    return Estimate(math.nan) if unknown else scores.difference(row, SOURCE_ONLY, pooled=True)


def worth(scores: ImageScores, row: str, curve: Mapping[int, str]) -> Worth | None:
    """How many labelled images a row stands for.

    Args:
        scores: of all rows, on the target.
        row: that was trained without labels of the target.
        curve: number of labelled images -> the row that was trained with them alone; 0 must be among them.

    Returns:
        ``None`` where fewer than two points of the curve, 0 among them, share a seed with the row.
    """
    counts = sorted(curve)
    seeds = set.intersection(*(set(scores.values[name]) for name in (row, *curve.values())))
    if len(counts) < 2 or counts[0] != 0 or not seeds:
        return None
    places = np.log1p(counts)

    def over(place: float) -> tuple[float, float]:
        """Row minus curve, and its p."""
        left = min(int(np.searchsorted(places, place, side="right")) - 1, len(counts) - 2)
        part = (place - places[left]) / (places[left + 1] - places[left])
        weights = {row: 1.0, curve[counts[left]]: part - 1, curve[counts[left + 1]]: -part}
        value, noise = scores.contrast({name: weight for name, weight in weights.items() if weight}, pooled=True)
        return value, noise.p_value(value) if noise.image_df else math.nan

    means = {name: float(np.mean([scores.values[name][seed] for seed in seeds])) for name in (row, *curve.values())}
    value = _crossing(places, [means[curve[count]] for count in counts], means[row])
    low, high = _accepted(places, over)
    if not math.isnan(low):
        low, high = min(low, value), max(high, value)
    return Worth(
        row,
        score=means[row],
        value=_count(value),
        low=_count(low),
        high=_count(high),
        least=counts[1],
        most=counts[-1],
        image_noise_only=len(seeds) == 1,
    )


def _count(place: float) -> float:
    return math.inf if place == math.inf else float(np.expm1(place))


def _crossing(places: Sequence[float] | np.ndarray, scores: Sequence[float], score: float) -> float:
    """Where the monotone regression of a curve first reaches a score; 0 or infinity beyond its ends."""
    rising = scipy.optimize.isotonic_regression(scores).x
    if score <= rising[0]:
        return 0.0
    if score > rising[-1]:
        return math.inf
    right = int(np.searchsorted(rising, score))
    part = (score - rising[right - 1]) / (rising[right] - rising[right - 1])
    return float(places[right - 1] + part * (places[right] - places[right - 1]))


def _accepted(places: Any, over: Any) -> tuple[float, float]:
    """From the first to the last place at which the difference is not clear; open where an end does not exclude it."""
    alpha = 1 - LEVEL
    looked = np.unique([np.linspace(left, right, BETWEEN + 1) for left, right in pairwise(places)])
    differences = [over(place) for place in looked]
    if any(math.isnan(p) for _, p in differences):
        return math.nan, math.nan
    within = [at for at, (_, p) in enumerate(differences) if p >= alpha]

    def edge(outside: int, inside: int) -> float:
        return float(scipy.optimize.brentq(lambda x: over(x)[1] - alpha, looked[outside], looked[inside], xtol=1e-4))

    # clearly below source-only, or not clearly off it; and clearly above the most labels, or not clearly off them
    low = 0.0 if differences[0][0] < 0 else math.inf
    high = math.inf if differences[-1][0] > 0 else 0.0
    if within:
        first, last = within[0], within[-1]
        low = 0.0 if first == 0 or differences[0][0] < 0 else edge(first - 1, first)
        high = math.inf if last == len(looked) - 1 or differences[-1][0] > 0 else edge(last + 1, last)
    return low, high


def _chosen(lines: Sequence[Line]) -> Iterator[tuple[str, dict[str, float]]]:
    """Each way to choose, as a contrast to random images."""
    random = {line.row: line for line in lines if line.choose == "random"}
    for line in lines:
        other = random.get(line.row)
        if line.choose == "random" or other is None:
            continue
        counts = sorted(count for count in line.rows if count and count in other.rows)
        if counts:
            weights = {line.rows[count]: 1 / len(counts) for count in counts}
            weights |= {other.rows[count]: -1 / len(counts) for count in counts}
            numbers = ", ".join(map(str, counts))
            yield f"{line.row}, {line.choose} against random images (mean over {numbers} images)", weights


def _added(lines: Sequence[Line]) -> Iterator[tuple[str, dict[str, float]]]:
    """Each method against source-only with as many labels, chosen alike."""
    base = {line.choose: line for line in lines if line.row == SOURCE_ONLY}
    for line in lines:
        if line.row == SOURCE_ONLY or line.choose not in base:
            continue
        for count, name in line.rows.items():
            if count in base[line.choose].rows and (count or line.choose == "random"):
                images = f"{count or 'no'} labelled image{'' if count == 1 else 's'}"
                yield (
                    f"{line.name} against {SOURCE_ONLY}, {images} each",
                    {name: 1.0, base[line.choose].rows[count]: -1.0},
                )


def _family(scores: ImageScores, contrasts: Iterator[tuple[str, dict[str, float]]]) -> Iterator[Gain]:
    """Contrasts judged together; those whose rows share no seed are left out."""
    named = [
        (what, weights)
        for what, weights in contrasts
        if set.intersection(*(set(scores.values[name]) for name in weights))
    ]
    estimates = [estimate(*scores.contrast(weights, pooled=True)) for _, weights in named]
    for (what, _), member in zip(named, holm_family(estimates), strict=True):
        yield Gain(what, member)
