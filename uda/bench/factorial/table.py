"""What a study measured: the effect of each factor on each domain, and of pairs of factors where the design tells them.

An effect is the mean score of the runs with the factor high minus that of the runs with it low (Box, Hunter and Hunter,
"Statistics for Experimenters", 2nd edition 2005, chapter 5); half of the runs are on either side, and every other
factor is high in half of each. It is a contrast of rows, so its interval for other seeds and other images is that of
any difference of rows (:mod:`uda.bench.intervals`). The effect of a pair is half the difference between the effect of
one at the high and at the low level of the other.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from uda.bench.factorial.notes import notes
from uda.bench.intervals import Adjusted, Estimate, ImageScores, estimate, holm_family
from uda.bench.results import Domain, Measured, Results, origin_of, read_results
from uda.bench.table import verdict
from uda.config import FactorialConfig
from uda.config.designs import Design
from uda.config.designs import Effect as Factors

TIMES = " × "
"""Between the factors of an interaction."""
MINUS = "\u2212"


@dataclass(frozen=True)
class Effect:
    """What a factor, or a pair of factors, does."""

    factors: Factors
    low: str
    """What the low level is; empty for a pair."""
    high: str
    aliases: tuple[str, ...]
    """The other effects of one or two factors that it cannot be told from, with their signs."""
    on: dict[str, Adjusted]
    """By domain, a difference of mIoU; main effects of a study are a family, and so are its pairs."""

    @property
    def name(self) -> str:
        """The factors'."""
        return TIMES.join(self.factors)

    def verdict(self, domain: str) -> str:
        """What the effect shows, in words that follow its joint interval; of a pair whether it adds or takes away."""
        words = ("helps", "hurts") if len(self.factors) == 1 else ("more together", "less together")
        return verdict(self.on[domain], *words, by_interval=True)


@dataclass(frozen=True)
class RunScore:
    """One run of the design, over its seeds."""

    name: str
    levels: dict[str, bool]
    """Factor -> whether it is high."""
    seeds: tuple[int, ...]
    miou: dict[str, Estimate]
    """By domain."""


@dataclass(frozen=True)
class Study(Measured):
    """What a study of factors measured."""

    design: Design
    seeds: tuple[int, ...]
    """Those of the effects: all runs have them."""
    effects: tuple[Effect, ...]
    """Of the factors, in the config's order; none while a run is missing."""
    interactions: tuple[Effect, ...]
    """Of pairs of factors that can be told from everything but interactions of three."""
    together: tuple[str, ...]
    """Sums of interactions of two factors that cannot be told from each other."""
    runs: tuple[RunScore, ...]
    """The finished ones."""
    missing: tuple[str, ...]
    """Runs that lack a seed of the config."""

    def effect(self, *factors: str) -> Effect:
        """An effect by its factors; ``KeyError`` if it was not measured."""
        return {effect.factors: effect for effect in (*self.effects, *self.interactions)}[factors]


def make_study(config: FactorialConfig, folder: Path | str, seeds: Collection[int] | None = None) -> Study:
    """Estimate the effects from the finished cells of a study's folder.

    Args:
        config: the study; cells of another config do not enter.
        folder: the study's.
        seeds: further seeds than the config's.

    Raises:
        ValueError: cells were scored on different images.
    """
    results = read_results(config.benchmark(), Path(folder), seeds)
    design = config.plan
    finished = {run.name: set(results.cells.get(run.name, {})) for run in config.runs()}
    common = sorted(set.intersection(*finished.values()))
    scores = {domain.name: _scores(config, results, domain) for domain in results.domains}
    main: list[Factors] = design.effects(1)
    effects = _effects(config, design, main, scores) if common else ()
    interactions = _effects(config, design, design.clear_interactions(), scores) if common else ()
    missing = tuple(name for name, has in finished.items() if not set(config.seeds) <= has)
    return Study(
        name=config.name,
        design=design,
        seeds=tuple(common),
        domains=results.domains,
        effects=effects,
        interactions=interactions,
        together=tuple(_together(design)),
        runs=tuple(
            RunScore(
                run.name,
                run.levels,
                tuple(sorted(finished[run.name])),
                {name: on_domain.score(run.name) for name, on_domain in scores.items()},
            )
            for run in config.runs()
            if finished[run.name]
        ),
        missing=missing,
        notes=tuple(notes(config, design, results.domains, common, missing, effects)),
        **origin_of(results.every),
    )


def contrast_of(config: FactorialConfig, factors: Factors) -> dict[str, float]:
    """The weight of each run in an effect: 2 over the number of runs where the product of its levels is high, else less
    that."""
    signs = config.plan.signs(factors)
    return {run.name: 2 * sign / len(signs) for run, sign in zip(config.runs(), signs, strict=True)}


def _scores(config: FactorialConfig, results: Results, domain: Domain) -> ImageScores:
    confusions = {
        run.name: {seed: on[domain.name].confusions for seed, on in results.evaluations[run.name].items()}
        for run in config.runs()
        if run.name in results.evaluations
    }
    return ImageScores(confusions, classes=domain.labelled, groups=domain.groups, draws=config.resamples)


def _effects(
    config: FactorialConfig, design: Design, wanted: Sequence[Factors], scores: dict[str, ImageScores]
) -> tuple[Effect, ...]:
    """Effects on all domains, judged together."""
    places = [(factors, domain) for factors in wanted for domain in scores]
    estimates = [
        estimate(*scores[domain].contrast(contrast_of(config, factors), pooled=True)) for factors, domain in places
    ]
    family = dict(zip(places, holm_family(estimates), strict=True))
    return tuple(
        Effect(
            factors,
            low=_level(config, factors, False),
            high=_level(config, factors, True),
            aliases=tuple(
                f"{'+' if sign > 0 else MINUS}{TIMES.join(other)}" for sign, other in design.aliases(factors)
            ),
            on={domain: family[factors, domain] for domain in scores},
        )
        for factors in wanted
    )


def _level(config: FactorialConfig, factors: Factors, high: bool) -> str:
    """What a level sets."""
    if len(factors) > 1:
        return ""
    return ", ".join(
        f"{key}: {json.dumps(value, default=str)}" for key, value in config.factors[factors[0]].at(high).items()
    )


def _together(design: Design) -> list[str]:
    """The interactions of two factors that come in one number, with no main effect in it."""
    groups: dict[int, list[Factors]] = {}
    for pair in design.effects(2):
        groups.setdefault(design.column(pair), []).append(pair)
    return [" + ".join(map(TIMES.join, pairs)) for pairs in groups.values() if len(pairs) > 1]
