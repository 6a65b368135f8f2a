"""What a reader of a study must know to trust its numbers, in sentences."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING

from uda.bench.notes import about_domain, about_seeds, detectable
from uda.bench.results import Domain, describe_data
from uda.config import FactorialConfig
from uda.config.designs import Design

if TYPE_CHECKING:
    from uda.bench.factorial.table import Effect

LISTED = 8
"""Runs that a note names."""


def about_design(design: Design) -> str:
    """Which runs there are, and what they mix up."""
    factors, runs = len(design.factors), design.runs
    if design.resolution is None:
        return f"All {runs} combinations of {factors} factors."
    means = {
        3: "a main effect cannot be told from interactions of two factors (the aliases), which are taken to be small",
        4: "main effects are free of interactions of two factors; those are mixed up with each other",
    }.get(design.resolution, "main effects and interactions of two factors are mixed up with larger ones alone")
    roman = {3: "III", 4: "IV", 5: "V", 6: "VI", 7: "VII"}[design.resolution]
    return f"{runs} runs of the {2**factors} combinations of {factors} factors, resolution {roman}: {means}."


def notes(
    config: FactorialConfig,
    design: Design,
    domains: Sequence[Domain],
    seeds: Sequence[int],
    missing: Sequence[str],
    effects: Sequence[Effect],
) -> list[str]:
    """All notes of a study, one statement a line."""
    s = config.settings
    source = ", ".join(describe_data(spec) for spec in config.source)
    every = [
        about_design(design),
        f"Trained on {source}, {s.steps} optimiser steps for every run, batch size {s.batch_size}, crop "
        f"{s.crop[0]}x{s.crop[1]}. What a factor does holds for this length of training, these levels and this data.",
        "An effect is the mean over the runs with the factor high minus the mean over those with it low, in points of "
        "mIoU; every other factor is high in half of each. It is an average over the levels of the others.",
        "Intervals hold for all main effects on all domains together (Bonferroni), for other seeds and other images "
        f"alike ({config.resamples} draws of image weights); the words follow these joint intervals. "
        "Interactions are a family of their own.",
        *([about_seeds(len(seeds))] if seeds else []),
    ]
    every += [_about_power(domain, effects) for domain in domains if effects]
    every += [about_domain(domain) for domain in domains]
    if missing:
        more = f" and {len(missing) - LISTED} more" if len(missing) > LISTED else ""
        every.append(
            f"Without all seeds: {', '.join(missing[:LISTED])}{more}. Effects are over the seeds that every run has"
            + ("." if seeds else ", of which there is none yet.")
        )
    return every


def _about_power(domain: Domain, effects: Sequence[Effect]) -> str:
    """The smallest effect that could have been shown."""
    known = detectable([effect.on[domain.name] for effect in effects])
    if not known:
        return f"{domain.name}: what effect would show is not known (it takes two seeds and two sequences)."
    return (
        f"{domain.name}: a true effect of {100 * median(known):.1f} points (median of the factors) would have been "
        "seen four times in five, looked at alone."
    )
