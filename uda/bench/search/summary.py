"""What a search found, and what an objective without labels of the target loses against one that peeks at them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from uda.bench import build
from uda.bench.intervals import Estimate, ImageScores
from uda.bench.search.objectives import halves, miou_of
from uda.bench.search.study import SearchResult, Trial, best_by
from uda.bench.stored import read_evaluation
from uda.config import BenchConfig
from uda.config.search import OBJECTIVES, PEEKING, SearchConfig
from uda.engine import Evaluation


@dataclass(frozen=True)
class Regret:
    """An objective's choice among the finished trials, against that of the labels.

    Scored on the half of ``target_val`` that neither looked at, so that the peeking choice's luck does not count.
    """

    objective: str
    best: int
    """Number of the trial that it likes best."""
    miou: Estimate
    """Of that trial, in [0, 1]."""
    lost: Estimate
    """The peeking choice's less this one's, paired by image; the interval is for other images under these networks."""
    correlation: Estimate
    """Spearman's, over the trials, of the objective with the target's mIoU; 1 is best, whichever way it points."""


@dataclass
class Summary:
    """A search's result in numbers."""

    config: SearchConfig
    folder: Path
    trials: list[Trial]
    best: Trial | None
    """By the search's objective."""
    target: dict[int, float] = field(default_factory=dict)
    """Trial -> mIoU in [0, 1] on the half of ``target_val`` that no objective looks at; empty without labels."""
    regrets: list[Regret] = field(default_factory=list)
    """The search's objective first, the peeking one last; empty without labels of the target."""
    images: tuple[int, int] = (0, 0)
    """How many of ``target_val`` the peeking objective and the report look at."""


def summarise(result: SearchResult) -> Summary:
    """Read what the trials left."""
    config, finished = result.config, [trial for trial in result.trials if trial.state == "finished"]
    summary = Summary(config, result.folder, result.trials, result.best)
    base, _ = config.trial({})
    if base.target_val is None or not finished:
        return summary
    _, reported = halves(base)
    read = {trial.number: read_evaluation(trial.folder, "target") for trial in finished}
    scored = {number: evaluation for number, evaluation in read.items() if evaluation is not None}
    if not scored or not reported:
        return summary
    total = len(next(iter(scored.values())).names)
    summary.images = (total - len(reported), len(reported))
    summary.target = {number: miou_of(evaluation, reported) for number, evaluation in scored.items()}
    scores = _scores(base, scored, reported)
    names = [config.spec.objective, *(name for name in OBJECTIVES if name not in (config.spec.objective, PEEKING))]
    names += [PEEKING] if config.spec.objective != PEEKING else []
    for name in names:
        best, oracle = best_by(finished, name), best_by(finished, PEEKING)
        if best is not None and oracle is not None and best.number in scored and oracle.number in scored:
            lost = scores.difference(str(oracle.number), str(best.number))
            values = [trial.objectives.get(name, math.nan) for trial in finished if trial.number in summary.target]
            correlation = rank_correlation(values, list(summary.target.values()), OBJECTIVES[name])
            summary.regrets.append(Regret(name, best.number, scores.score(str(best.number)), lost, correlation))
    return summary


def _scores(config: BenchConfig, scored: dict[int, Evaluation], indices: Sequence[int]) -> ImageScores:
    """The trials' confusion matrices on some of the images, grouped by sequence."""
    dataset: Any = build.open_dataset(config.domains["target"], config.space)
    sequences = getattr(dataset, "sequences", None) or [str(index) for index in range(len(dataset))]
    groups = np.unique([sequences[index] for index in indices], return_inverse=True)[1]
    rows = {str(number): {0: evaluation.confusions[list(indices)]} for number, evaluation in scored.items()}
    return ImageScores(rows, groups=groups)


def rank_correlation(values: Sequence[float], scores: Sequence[float], direction: str) -> Estimate:
    """Spearman's rank correlation, turned so that 1 is best, with the 95 % interval of Bonett and Wright.

    Args:
        values: of an objective, one for each trial.
        scores: of the target.
        direction: ``maximize`` or ``minimize``, of the objective.

    Returns:
        NaN where the values are all equal or fewer than 3; without an interval below 5.

    Source: Bonett and Wright, "Sample size requirements for estimating Pearson, Kendall and Spearman correlations",
    Psychometrika 2000: tanh(atanh r ± z √((1 + r² / 2) / (n − 3))).
    """
    from scipy import stats  # slow to import

    pairs = np.array([(value, score) for value, score in zip(values, scores, strict=True) if math.isfinite(value)])
    if len(pairs) < 3 or len(np.unique(pairs[:, 0])) < 2 or len(np.unique(pairs[:, 1])) < 2:
        return Estimate(math.nan)
    value = float(stats.spearmanr(pairs[:, 0], pairs[:, 1]).statistic) * (1 if direction == "maximize" else -1)
    if len(pairs) < 5 or abs(value) > 1 - 1e-9:
        return Estimate(value)
    half = float(stats.norm.ppf(0.975)) * math.sqrt((1 + value**2 / 2) / (len(pairs) - 3))
    low, high = (math.tanh(math.atanh(value) + side * half) for side in (-1, 1))
    return Estimate(value, low, high)
