"""Distances between two sets of pooled features, and their picture in two dimensions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold

from uda.functional import frechet, mmd, random_projections, sliced_wasserstein
from uda.gap.sampling import Interval, interval_of

Floats = npt.NDArray[np.float64]
Projection = Literal["pca", "tsne", "umap"]
COMPONENTS = 16
"""Of the features that distances are measured in, at most; and at most a quarter of the smaller set."""
FOLDS = 5
JACKKNIFE = 20
"""Sequences are left out in at most so many lots."""
SPLITS = 20
"""Random halves of the source that the baseline is the mean of."""
SLICES = 100


@dataclass(frozen=True)
class Distance:
    """A distance of two data sets beside what two halves of the source give."""

    name: str
    meaning: str
    value: Interval
    """Half the source (by sequences) against as many of the target's images; 95 % interval for other sequences."""
    baseline: Interval
    """Half the source against the other half, with the spread of 95 % of the random halves."""


def reduce_features(source: Floats, target: Floats) -> tuple[Floats, Floats]:
    """Both sets in the principal components of the two together, scaled by the root of their total variance."""
    count = min(max(2, min(COMPONENTS, len(source) // 4, len(target) // 4)), source.shape[1])
    both = np.concatenate([source, target])
    reduced = PCA(count, svd_solver="full").fit_transform(both)
    scale = math.sqrt(float(reduced.var(0).sum())) or 1.0
    return reduced[: len(source)] / scale, reduced[len(source) :] / scale


def domain_auc(first: Floats, second: Floats, groups: Sequence[str], *, folds: int = FOLDS) -> float:
    """Area under the ROC curve of a logistic regression that tells two sets apart, cross-validated by sequence.

    Args:
        first: ``(n, D)``.
        second: ``(m, D)``.
        groups: sequence of each of the n + m, none of both sets.
        folds: at most; as many as the set with fewer sequences has.

    Returns:
        in [0, 1], chance 0.5; NaN where a set has fewer than two sequences.
    """
    both = np.concatenate([first, second])
    domain = np.repeat([0, 1], [len(first), len(second)])
    names = np.asarray(groups, dtype=str)
    fewest = min(len(set(names[domain == side])) for side in (0, 1))
    if fewest < 2:
        return math.nan
    # folds of each set for itself, so that both sets are in every fold
    fold = np.empty(len(both), int)
    for side in (0, 1):
        members = np.flatnonzero(domain == side)
        parts = GroupKFold(min(folds, fewest)).split(members, groups=names[members])
        for number, (_, tested) in enumerate(parts):
            fold[members[tested]] = number
    scores = np.empty(len(both))
    for number in np.unique(fold):
        tested = fold == number
        mean, deviation = both[~tested].mean(0), both[~tested].std(0)
        scaled = (both - mean) / np.where(deviation > 0, deviation, 1)
        classifier = LogisticRegression(C=0.1, solver="newton-cholesky")  # a few features: far fewer steps than L-BFGS
        classifier.fit(scaled[~tested], domain[~tested])
        scores[tested] = classifier.decision_function(scaled[tested])
    # ranks within a fold only: the scores of two classifiers do not compare
    return float(np.mean([roc_auc_score(domain[fold == number], scores[fold == number]) for number in np.unique(fold)]))


def distances(
    source: Floats, target: Floats, source_sequences: Sequence[str], target_sequences: Sequence[str], seed: int = 0
) -> list[Distance]:
    """Domain-classifier AUC, Fréchet distance, MMD and sliced Wasserstein distance of pooled features.

    All but the AUC depend on how many images there are, so the target is compared to halves of the source, which the
    other halves are compared to as well. Intervals: jackknife over sequences, in at most 20 lots, of both sets.

    Args:
        source: ``(n, D)``.
        target: ``(m, D)``.
        source_sequences: sequence of each image.
        target_sequences: likewise.
        seed: of the halves and slices.

    Raises:
        ValueError: a set of fewer than four images, or a source of fewer than two sequences, which has no halves.
    """
    if min(len(source), len(target)) < 4:
        raise ValueError(f"distances take at least 4 images of each, got {len(source)} and {len(target)}")
    first = np.array([f"s/{name}" for name in source_sequences])
    second = np.array([f"t/{name}" for name in target_sequences])
    if len(set(first)) < 2:
        raise ValueError("the source is a single sequence, which has no halves to compare")
    x, y = reduce_features(np.asarray(source, np.float64), np.asarray(target, np.float64))
    generator = np.random.default_rng(seed)
    halves = [_halves(first, generator) for _ in range(SPLITS)]
    slices = random_projections(x.shape[1], SLICES, torch.Generator().manual_seed(seed)).double()

    def auc(a: Floats, b: Floats, groups: npt.NDArray[np.str_]) -> float:
        return domain_auc(a, b, list(groups))

    def of_tensors(function: Callable[[torch.Tensor, torch.Tensor], Any]) -> Callable[..., float]:
        return lambda a, b, groups: float(function(torch.from_numpy(a), torch.from_numpy(b)))

    measures: dict[str, tuple[str, Callable[..., float]]] = {
        "domain classifier AUC": ("0.5: nobody can tell the two apart; 1: everybody (logistic regression)", auc),
        "Fréchet distance": ("of Gaussians of both (Heusel et al. 2017), features scaled to total variance 1",
                             of_tensors(frechet)),
        "MMD²": ("maximum mean discrepancy, Gaussian kernels (Gretton et al. 2012)", of_tensors(mmd)),
        "sliced Wasserstein distance": (f"over {SLICES} directions (Bonneel et al. 2015)",
                                        of_tensors(lambda a, b: sliced_wasserstein(a, b, slices))),
    }  # fmt: skip
    results = []
    for name, (meaning, measure) in measures.items():
        baseline = np.array([_between(measure, x[a], x[b], first[a], first[b], mark=True) for a, b in halves])
        to_target = [_to_target(measure, x, y, first, second, a, generator) for a, _ in halves]
        value = _mean_of_known(np.array(to_target))
        spread = _jackknife(measure, x, y, first, second)
        low, high = np.nanquantile(baseline, [0.025, 0.975]) if np.isfinite(baseline).any() else (math.nan, math.nan)
        sequences = min(len(set(first)), len(set(second)))
        interval = interval_of(value, value + spread, sequences - 1 if sequences > 1 else 0)
        top = 1.0 if measure is auc else math.inf
        results.append(
            Distance(
                name,
                meaning,
                Interval(value, max(interval.low, 0.0), min(interval.high, top)),
                Interval(_mean_of_known(baseline), float(low), float(high)),
            )
        )
    return results


def _mean_of_known(values: Floats) -> float:
    """NaN where none is known: a single sequence has no halves."""
    return float(np.nanmean(values)) if np.isfinite(values).any() else math.nan


def _halves(sequences: npt.NDArray[np.str_], generator: np.random.Generator) -> tuple[npt.NDArray[Any], ...]:
    """Two random halves of the images; no sequence is in both."""
    names = generator.permutation(np.unique(sequences))
    counts = np.array([np.count_nonzero(sequences == name) for name in names]).cumsum()
    cut = int(np.argmin(np.abs(counts[:-1] - counts[-1] / 2))) + 1
    inside = np.isin(sequences, names[:cut])
    return np.flatnonzero(inside), np.flatnonzero(~inside)


def _to_target(
    measure: Callable[..., float],
    x: Floats,
    y: Floats,
    first: npt.NDArray[np.str_],
    second: npt.NDArray[np.str_],
    half: npt.NDArray[Any],
    generator: np.random.Generator,
) -> float:
    count = min(len(y), len(x) - len(half))
    chosen = generator.permutation(len(y))[:count] if count >= 4 else np.arange(len(y))
    return _between(measure, x[half], y[chosen], first[half], second[chosen])


def _between(
    measure: Callable[..., float], a: Floats, b: Floats, groups_a: Any, groups_b: Any, *, mark: bool = False
) -> float:
    if min(len(a), len(b)) < 2:
        return math.nan
    second = np.char.add("b/", groups_b) if mark else groups_b
    return measure(a, b, np.concatenate([groups_a, second]))


def _jackknife(
    measure: Callable[..., float], x: Floats, y: Floats, first: npt.NDArray[np.str_], second: npt.NDArray[np.str_]
) -> Floats:
    """Deviations whose population deviation is the jackknife's standard error: lots of sequences left out in turn."""
    parts = []
    for own, other, own_groups, other_groups, swapped in ((x, y, first, second, False), (y, x, second, first, True)):
        names = np.unique(own_groups)
        lots = np.array_split(names, min(JACKKNIFE, len(names)))
        if len(lots) < 2:
            continue
        values = []
        for lot in lots:
            rest = ~np.isin(own_groups, lot)
            pair = (own[rest], other, own_groups[rest], other_groups)
            values.append(_between(measure, *(pair if not swapped else (pair[1], pair[0], pair[3], pair[2]))))
        known = np.array(values)[np.isfinite(values)]
        if len(known) > 1:
            parts.append((len(known) - 1) * float(((known - known.mean()) ** 2).mean()))
    deviation = math.sqrt(sum(parts))
    return np.array([-deviation, deviation])


def centred_distance(features: Floats, reference: Floats) -> Floats:
    """``(n,)`` distance of each image to the reference's mean, in standard deviations of the reference (root mean
    square over the principal components that :func:`reduce_features` keeps)."""
    x, y = reduce_features(reference, features)
    spread = np.maximum(x.std(0), 1e-9)
    return np.asarray(np.sqrt((((y - x.mean(0)) / spread) ** 2).mean(1)))


def project(
    features: Floats, others: Sequence[Floats] = (), *, method: Projection = "pca", seed: int = 0
) -> tuple[list[Floats], tuple[str, str]]:
    """Two coordinates of each image: of ``features``, and of further sets in the same axes.

    Args:
        features: ``(n, D)``, which the axes are fitted on.
        others: further ``(m, D)``; PCA and UMAP place them in the axes of the first, t-SNE takes all together.
        method: ``"pca"``; ``"tsne"`` (scikit-learn), ``"umap"`` (package umap-learn).
        seed: of t-SNE and UMAP.

    Returns:
        coordinates of each set ``(n, 2)`` and the names of the axes. PCA's signs are fixed, so that the largest
        loading is positive.

    Raises:
        ValueError: an unknown method, or UMAP where umap-learn is not installed.
    """
    if method not in get_args(Projection):
        raise ValueError(f"projection is {method!r}, must be one of {', '.join(get_args(Projection))}")
    if features.shape[1] == 1:  # a single feature has one direction
        features, *others = (np.concatenate([part, np.zeros_like(part)], 1) for part in (features, *others))
    if method == "pca":
        pca = PCA(2, svd_solver="full").fit(features)
        signs = np.sign(pca.components_[np.arange(2), np.abs(pca.components_).argmax(1)])
        shares = pca.explained_variance_ratio_
        names = (f"PC 1 ({100 * shares[0]:.0f} % of the variance)", f"PC 2 ({100 * shares[1]:.0f} %)")
        return [pca.transform(part) * signs for part in (features, *others)], names
    if method == "tsne":
        from sklearn.manifold import TSNE

        both = np.concatenate([features, *others])
        perplexity = min(30.0, (len(both) - 1) / 3)
        placed = TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(both)
        ends = np.cumsum([len(part) for part in (features, *others)])[:-1]
        return np.split(placed.astype(np.float64), ends), ("t-SNE 1", "t-SNE 2")
    try:
        umap = import_module("umap")  # optional, and heavy
    except ImportError as error:
        raise ValueError("projection is 'umap', which needs the package umap-learn: pip install umap-learn") from error
    mapper = umap.UMAP(n_components=2, random_state=seed).fit(features)
    return [np.asarray(mapper.transform(part), np.float64) for part in (features, *others)], ("UMAP 1", "UMAP 2")
