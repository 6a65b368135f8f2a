"""Numbers with intervals out of what was measured: the gap, its shares, the fixes, where in the scene it is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy import stats

from uda.bench.intervals import LEVEL, score_deviations
from uda.gap.columns import IMAGE_COLUMNS
from uda.gap.factors import FACTORS
from uda.gap.measure import Measured
from uda.gap.regions import BOUNDARIES, HEIGHTS, SIZES
from uda.gap.results import DomainResult, FixResult, Gap
from uda.gap.sampling import Images, Interval, interval_of, satterthwaite
from uda.metrics import class_counts, iou_of_counts, miou_of_counts

Floats = npt.NDArray[np.float64]
UNEXPLAINED = "unexplained"
GROUPS = ("colour", "detail", "geometry", "model")


@dataclass(frozen=True)
class DomainNumbers:
    """A data set in a line."""

    name: str
    images: int
    sequences: int
    loss: Interval
    """Mean over images of the mean over labelled pixels."""
    pooled_loss: Interval
    """Mean over all labelled pixels."""
    miou: Interval


@dataclass(frozen=True)
class Share:
    """A factor of the gap."""

    name: str
    label: str
    group: str
    share: Interval
    """Of the gap: 1 is all of it; negative where the edit makes the loss larger."""
    taken: Interval
    """Off the loss, in nats."""
    alone: Interval
    """Change of the target's loss, in nats, when only this is edited."""
    miou_alone: Interval
    """Change of mIoU when only this is edited."""
    note: str = ""


@dataclass(frozen=True)
class FixNumbers:
    """A fix against the model as it is, on the same images; intervals hold for all fixes together (Bonferroni)."""

    result: FixResult
    loss: float
    change: Interval
    """Relative change of the target's loss; -0.27 takes 27 % off."""
    miou: float
    miou_change: Interval

    @property
    def verdict(self) -> str:
        """By the loss."""
        return {-1: "helps", 1: "hurts", 0: "no clear effect"}[self.change.sign]


@dataclass(frozen=True)
class Row:
    """A class, region or size in source and target."""

    name: str
    pixels: tuple[float, float]
    """Share of the labelled pixels in source and target."""
    source: Interval
    target: Interval
    after: Interval | None
    excess: float
    """Its part of the pooled gap; the parts of all rows sum to 1."""
    iou: tuple[float, float, float] | None = None
    """Of a class: source, target, after."""
    into: str = ""
    """Of a class: what its pixels are taken for in the target."""


@dataclass(frozen=True)
class Summary:
    """What a report shows."""

    source: DomainNumbers | None
    target: DomainNumbers
    source_after: DomainNumbers | None
    target_after: DomainNumbers | None
    gap: Interval | None
    """Target's loss less the source's."""
    shares: list[Share]
    groups: list[Share]
    """The same, by group of factors; the last is what is unexplained."""
    fixes: list[FixNumbers]
    where: dict[str, list[Row]]
    correlations: list[tuple[str, Interval]]
    """Spearman's rho of the target's loss with each column."""
    after_change: dict[str, tuple[Interval, Interval]]
    """Domain -> relative change of the loss, change of mIoU."""

    @property
    def source_loss(self) -> Interval:
        """Of the source; NaN where there are no images of it."""
        return Interval(math.nan, math.nan, math.nan) if self.source is None else self.source.loss

    @property
    def is_gap(self) -> bool:
        """Whether the target's loss is clearly above the source's."""
        return self.gap is not None and self.gap.low > 0


def summarise(result: Gap) -> Summary:
    """Numbers with their intervals."""
    seed = result.options.seed
    target = _Domain(result.target, seed)
    source = None if result.source is None else _Domain(result.source, seed + 1)
    excess = None if source is None or not result.target.labelled else _Excess(source, target)
    gap = None if excess is None else excess.interval()
    shares, groups = _shares(result, target, excess if gap is not None and gap.low > 0 else None)
    together = len(result.fixes)
    fixes = [_fix_numbers(fix, target, 1 - (1 - LEVEL) / max(1, together)) for fix in result.fixes]
    change = {}
    for name, domain in (("source", source), ("target", target)):
        if domain is not None and domain.result.after is not None and domain.result.labelled:
            after = domain.result.after
            numbers = _numbers_of(_losses(after), _confusions(after), domain, LEVEL)
            change[name] = (numbers.change, numbers.miou_change)
    return Summary(
        None if source is None else source.numbers(result.source.before),  # type: ignore[union-attr]
        target.numbers(result.target.before),
        None if source is None or source.result.after is None else source.numbers(source.result.after),
        None if target.result.after is None else target.numbers(target.result.after),
        gap,
        shares,
        groups,
        fixes,
        {} if source is None or not result.target.labelled else _where(result, source, target),
        _correlations(target) if result.target.labelled else [],
        change,
    )


class _Domain:
    """A data set with the draws of its images."""

    def __init__(self, result: DomainResult, seed: int) -> None:
        self.result = result
        self.images = Images(result.sequences, seed)
        self.losses = result.losses()

    def numbers(self, rows: Sequence[Measured]) -> DomainNumbers:
        pixels = np.array([row.pixels for row in rows], float)
        sums = np.nan_to_num([row.loss_sum for row in rows])
        unknown = Interval(math.nan, math.nan, math.nan)
        pooled = unknown
        if pixels.sum():
            value, draws = self.images.ratio_draws(self.images.sums(sums), self.images.sums(pixels))
            pooled = interval_of(float(value), draws, self.images.df)
        known = pixels.sum() > 0
        return DomainNumbers(
            self.result.name,
            len(rows),
            self.images.count,
            self.images.interval(_losses(rows)) if known else unknown,
            pooled,
            self.miou(_confusions(rows)) if known else unknown,
        )

    def counts(self, confusions: npt.NDArray[np.int64]) -> Floats:
        """``(G, 3, C)`` by sequence, of the classes that occur in the labels."""
        counts = class_counts(torch.from_numpy(confusions)).numpy().astype(np.float64)
        counts = self.images.sums(counts)
        return counts[..., counts[:, 1].sum(0) > 0]

    def miou(self, confusions: npt.NDArray[np.int64]) -> Interval:
        value = float(miou_of_counts(torch.from_numpy(self.counts(confusions).sum(0)), over="labelled"))
        deviations = score_deviations(self.counts(confusions)[None], self.images.weights)[0]
        return interval_of(value, value + deviations, self.images.df)

    def miou_change(
        self, after: npt.NDArray[np.int64], level: float, before: npt.NDArray[np.int64] | None = None
    ) -> Interval:
        before = _confusions(self.result.before) if before is None else before
        counts = np.stack([self.counts(before), self.counts(after)])
        values = [float(miou_of_counts(torch.from_numpy(own.sum(0)), over="labelled")) for own in counts]
        deviations = score_deviations(counts, self.images.weights)
        change = values[1] - values[0]
        return interval_of(change, change + deviations[1] - deviations[0], self.images.df, level)


def _losses(rows: Sequence[Measured]) -> Floats:
    return np.array([row.columns["loss"] for row in rows])


def _confusions(rows: Sequence[Measured]) -> npt.NDArray[np.int64]:
    return np.stack([row.confusion for row in rows])


class _Excess:
    """The target's loss less the source's, with its draws."""

    def __init__(self, source: _Domain, target: _Domain) -> None:
        (below, drawn_below), (above, drawn_above) = (d.images.draws(d.losses) for d in (source, target))
        self.value, self.draws = float(above - below), drawn_above - drawn_below
        variances = (float(drawn_below.var()), float(drawn_above.var()))
        self.df = satterthwaite(variances, (source.images.df, target.images.df))

    def interval(self) -> Interval:
        return interval_of(self.value, self.draws, self.df)


def _shares(result: Gap, target: _Domain, excess: _Excess | None) -> tuple[list[Share], list[Share]]:
    """Shares of the gap by factor and by group; without a clear gap there is nothing to take a share of."""
    if not result.alone:
        return [], []
    nothing = Interval(math.nan, math.nan, math.nan)
    untouched = nothing if excess is None else Interval(0.0, 0.0, 0.0)

    def share(values: Floats, unexplained: bool = False) -> Interval:
        if excess is None:
            return nothing
        mean, drawn = target.images.draws(values)
        part, parts = float(mean) / excess.value, drawn / excess.draws
        value, draws = (1 - part, 1 - parts) if unexplained else (part, parts)
        return interval_of(value, draws, excess.df)

    shares, tried = [], set(result.shares)
    for factor in FACTORS.values():
        if factor.name in tried:
            losses, confusions = result.alone[factor.name]
            shares.append(
                Share(
                    factor.name,
                    factor.label,
                    factor.group,
                    share(result.shares[factor.name]),
                    target.images.interval(result.shares[factor.name]),
                    target.images.interval(losses - target.losses),
                    target.miou_change(confusions, LEVEL),
                )
            )
        elif factor.name in result.harmful:
            losses, confusions = result.alone[factor.name]
            zero = Interval(0.0, 0.0, 0.0)
            shares.append(
                Share(
                    factor.name,
                    factor.label,
                    factor.group,
                    untouched,
                    zero,
                    target.images.interval(losses - target.losses),
                    target.miou_change(confusions, LEVEL),
                    "the edit does harm beside the others: it takes no part",
                )
            )
        elif factor.name in result.differences:
            zero = Interval(0.0, 0.0, 0.0)
            shares.append(
                Share(factor.name, factor.label, factor.group, untouched, zero, zero, zero,
                      "the domains do not differ in it")
            )  # fmt: skip
    groups = []
    for group in GROUPS:
        members = [name for name in result.shares if FACTORS[name].group == group]
        if members:
            values = np.sum([result.shares[name] for name in members], axis=0)
            groups.append(
                Share(group, group, group, share(values), target.images.interval(values), nothing, nothing,
                      ", ".join(FACTORS[name].label for name in members))
            )  # fmt: skip
    total = np.sum([np.zeros(len(target.losses)), *result.shares.values()], axis=0)
    rest = share(total, unexplained=True)
    groups.append(Share(UNEXPLAINED, "unexplained", UNEXPLAINED, rest, nothing, nothing, nothing))
    return shares, groups


def _numbers_of(
    losses: Floats, confusions: npt.NDArray[np.int64], domain: _Domain, level: float, result: FixResult | None = None
) -> FixNumbers:
    (before, drawn_before), (after, drawn_after) = domain.images.draws(domain.losses), domain.images.draws(losses)
    change = interval_of(float(after / before - 1), drawn_after / drawn_before - 1, domain.images.df, level)
    return FixNumbers(
        result,  # type: ignore[arg-type]
        float(after),
        change,
        float(miou_of_counts(torch.from_numpy(domain.counts(confusions).sum(0)), over="labelled")),
        domain.miou_change(confusions, level),
    )


def _fix_numbers(fix: FixResult, target: _Domain, level: float) -> FixNumbers:
    return _numbers_of(fix.losses, fix.confusions, target, level, fix)


def _where(result: Gap, source: _Domain, target: _Domain) -> dict[str, list[Row]]:
    names = {"class": result.class_names, "height": HEIGHTS, "boundary": BOUNDARIES, "size": SIZES}
    return {kind: _rows(kind, labels, result, source, target) for kind, labels in names.items()}


def _rows(kind: str, labels: Sequence[str], result: Gap, source: _Domain, target: _Domain) -> list[Row]:
    def sums(rows: Sequence[Measured]) -> Floats:
        return np.stack([row.regions[kind] for row in rows])

    def means(domain: _Domain, values: Floats) -> list[Interval]:
        groups = domain.images.sums(values)
        mean, draws = domain.images.ratio_draws(groups[:, 0], groups[:, 1])
        return [interval_of(float(mean[at]), draws[:, at], domain.images.df) for at in range(len(labels))]

    below, above = sums(source.result.before), sums(target.result.before)
    later = None if target.result.after is None else sums(target.result.after)
    total_below, total_above = below.sum(0), above.sum(0)
    parts = total_above[0] / total_above[1].sum() - total_below[0] / total_below[1].sum()
    excess = parts / parts.sum() if abs(parts.sum()) > 1e-12 else np.full(len(parts), math.nan)
    shares = (total_below[1] / total_below[1].sum(), total_above[1] / total_above[1].sum())
    source_means, target_means = means(source, below), means(target, above)
    after_means = None if later is None else means(target, later)
    ious: list[tuple[float, float, float] | None] = [None] * len(labels)
    into = [""] * len(labels)
    if kind == "class":
        tables = [_iou(source.result.before), _iou(target.result.before)]
        tables.append(np.full(len(labels), math.nan) if target.result.after is None else _iou(target.result.after))
        ious = [(float(a), float(b), float(c)) for a, b, c in zip(*tables, strict=True)]
        into = _taken_for(_confusions(target.result.before).sum(0), labels)
    return [
        Row(
            name,
            (float(shares[0][at]), float(shares[1][at])),
            source_means[at],
            target_means[at],
            None if after_means is None else after_means[at],
            float(excess[at]),
            ious[at],
            into[at],
        )
        for at, name in enumerate(labels)
        if total_below[1][at] or total_above[1][at]
    ]


def _iou(rows: Sequence[Measured]) -> Floats:
    counts = class_counts(torch.from_numpy(_confusions(rows).sum(0)))
    return np.asarray(iou_of_counts(counts, "labelled").numpy(), np.float64)


def _taken_for(matrix: npt.NDArray[np.int64], names: Sequence[str]) -> list[str]:
    """The two classes that each class's pixels are most often taken for."""
    texts = []
    for at, row in enumerate(matrix):
        wrong = row.astype(float).copy()
        wrong[at] = 0
        order = [k for k in np.argsort(-wrong, kind="stable")[:2] if wrong[k] > 0]
        texts.append(", ".join(f"{names[k]} {100 * wrong[k] / row.sum():.0f} %" for k in order))
    return texts


def _correlations(target: _Domain) -> list[tuple[str, Interval]]:
    """Spearman's rank correlation of the loss with each column, the strongest first."""
    loss = target.losses
    rows = []
    names = [*IMAGE_COLUMNS, "confidence", "entropy", "source_distance"]
    for name in names:
        column = np.array([row.columns.get(name, math.nan) for row in target.result.before])
        known = np.isfinite(column) & np.isfinite(loss)
        if known.sum() < 4 or np.ptp(column[known]) == 0 or np.ptp(loss[known]) == 0:
            continue
        x, y = (stats.rankdata(values[known]) for values in (column, loss))
        weights = target.images.weights[:, target.images.group][:, known]
        weights = weights / weights.sum(1, keepdims=True)
        centred_x, centred_y = x - (weights @ x)[:, None], y - (weights @ y)[:, None]
        covariance = (weights * centred_x * centred_y).sum(1)
        draws = covariance / np.sqrt((weights * centred_x**2).sum(1) * (weights * centred_y**2).sum(1))
        rho = float(np.corrcoef(x, y)[0, 1])
        # on Fisher's scale, where the noise hardly depends on rho
        wide = interval_of(math.atanh(max(min(rho, 0.999), -0.999)), np.arctanh(draws.clip(-0.999, 0.999)),
                           target.images.df)  # fmt: skip
        rows.append((name, Interval(rho, math.tanh(wide.low), math.tanh(wide.high))))
    return sorted(rows, key=lambda row: -abs(row[1].value))
