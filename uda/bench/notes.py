"""What a reader of a benchmark's table must know to trust its numbers, in sentences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from uda.bench.intervals import PRIOR_DF, Adjusted, detectable_difference
from uda.bench.results import Domain, describe_data
from uda.config import ORACLE, SOURCE_ONLY, BenchConfig, MethodEntry
from uda.data.balance import Balance

if TYPE_CHECKING:
    from uda.bench.table import Row


_WEIGHT: dict[Balance, str] = {"image": "weight", "domain": "weight", "weight": "drawn with weight"}


def describe(row: MethodEntry) -> str:
    """A row's methods in one line, ``Supervised + FDA(beta=0.01)``."""
    parts = [_describe_spec(spec) for spec in row.methods or [{SOURCE_ONLY: {}}]]
    if row.test_time:
        parts.append(f"{_describe_spec(row.test_time)} at test time")
    if row.target_labels is not None:
        labels = row.target_labels
        weight = "" if labels.weight == 1 else f", weight {labels.weight:g}"
        parts.append(f"{labels.count} labelled target images ({labels.choose}{weight}, share {labels.share:g})")
    options = [f"own {key}" for key in ("model", "settings") if getattr(row, key)]
    if set(row.settings) == {"batch_norm"}:
        options[-1] = f"batch norm {row.settings['batch_norm'].replace('_', ' ')}"
    return " + ".join(parts) + "".join(f"; {option}" for option in options)


def _describe_spec(spec: dict[str, dict[str, Any]]) -> str:
    ((name, arguments),) = spec.items()
    if name == "PassOnly" and arguments.get("of"):
        return f"PassOnly of {_describe_spec(arguments['of'])}"
    inside = ", ".join(f"{key}={value}" for key, value in arguments.items())
    return f"{name}({inside})" if inside else name


def notes(config: BenchConfig, domains: Sequence[Domain], rows: Sequence[Row]) -> list[str]:
    """All notes of a table, one statement a line."""
    every = [*_about_training(config), *_about_numbers(config, rows)]
    every += [_about_power(domain, rows) for domain in domains]
    every += [_about_oracle(config, rows)] if config.oracle is not None else []
    every += [about_domain(domain) for domain in domains]
    every += [f"Mean {name}: over {', '.join(classes)}." for name, classes in config.evaluate.classes.items()]
    adapted = [row.name for row in rows if any(score.adapted_on_scored for score in row.scores.values())]
    if adapted:
        every.append(
            f"†: adapted to the very images that are scored there ({', '.join(adapted)}); no other row has seen them."
        )
    threads = sorted({row.threads for row in rows if row.threads})
    if threads:
        every.append(
            f"s/it: training steps alone, {' or '.join(map(str, threads))} CPU thread(s) a run. "
            "GiB: peak of the run, allocated on a GPU, else resident in the process."
        )
    for row in rows:
        if row.missing:
            seeds = ", ".join(map(str, row.missing))
            every.append(f"{row.name}: seed(s) {seeds} missing; its differences are over the shared seeds.")
    absent = [name for name in config.methods if name not in {row.name for row in rows}]
    return [*every, f"No finished cell: {', '.join(absent)}."] if absent else every


def _about_training(config: BenchConfig) -> list[str]:
    s, warm = config.settings, config.warm_start
    start = (
        f"Every row of a seed starts from the same source-only checkpoint ({warm.steps} steps of warm start), and "
        f"{SOURCE_ONLY} trains on for as long as the others."
        if warm
        else "No warm start: every row starts from the model's initial weights."
    )
    weights = [f" ({_WEIGHT[config.balance]} {spec.weight:g})" if spec.weight != 1 else "" for spec in config.source]
    sources = [describe_data(spec) + weight for spec, weight in zip(config.source, weights, strict=True)]
    mixed = f" {about_balance(config.balance)}" if len(config.source) > 1 else ""
    return [
        f"Trained on {' + '.join(sources)} with labels, adapted to {describe_data(config.target)} without.{mixed}",
        f"{s.steps} optimiser steps for every row that trains, batch size {s.batch_size}, "
        f"crop {s.crop[0]}x{s.crop[1]}. {start}",
        f"Last iterate only. Target labels are read for scoring, and by {_who_reads_labels(config)}.",
    ]


def _who_reads_labels(config: BenchConfig) -> str:
    if all(row.target_labels is None for row in config.methods.values()):
        return "the oracle"
    few = "the rows with labelled target images, whose names are in the cells' labelled_target.json"
    return f"the oracle and {few}" if config.oracle is not None else few


def about_balance(balance: Balance) -> str:
    """How often each of several data sets is drawn, in a sentence."""
    return {
        "image": "Every image is drawn equally often, so a data set as often as it is large.",
        "domain": "Every data set is drawn equally often, whatever its size.",
        "weight": "Every data set is drawn as often as its weight says, whatever its size.",
    }[balance]


def _about_numbers(config: BenchConfig, rows: Sequence[Row]) -> list[str]:
    number = max((len(row.seeds) for row in rows), default=0)
    compared = [
        f"mIoU in %, mean over seeds; intervals of 95 % for other seeds and other images alike "
        f"({config.resamples} draws of image weights), one at a time.",
        f"Δ {SOURCE_ONLY}: minus the source-only row of the same network. Δ control: minus the row that passes the "
        "same images through batch norm and learns from the source alone; its intervals hold for all rows and domains "
        "of this table together, and the words follow them (Holm).",
    ]
    return [*compared, about_seeds(number)]


def about_seeds(number: int) -> str:
    """What so many seeds let intervals say, in a sentence."""
    if number <= 1:
        return "One seed: the intervals are for other images only and say nothing about training again."
    pooled = f"the rows' seed noise is pooled (worth {PRIOR_DF:g} degrees of freedom)"
    return f"{number} seeds; differences are paired by seed and image, and {pooled}."


def _about_power(domain: Domain, rows: Sequence[Row]) -> str:
    """The smallest difference that could have been shown."""
    return power_of(domain, [row.scores[domain.name].to_control for row in rows], "control")


def power_of(domain: Domain, differences: Sequence[Adjusted | None], other: str) -> str:
    """The smallest difference to another row, by what the sentence calls it, that could have been shown."""
    known = detectable(differences)
    if not known:
        return f"{domain.name}: what difference would show is not known (it takes two seeds and two sequences)."
    return (
        f"{domain.name}: a true difference to the {other} of {100 * median(known):.1f} points (median of the rows, "
        f"{100 * min(known):.1f} to {100 * max(known):.1f}) would have been seen four times in five, looked at alone."
    )


def detectable(differences: Sequence[Adjusted | None]) -> list[float]:
    """The smallest true differences that would have been seen; none of those whose noise is not known."""
    noises = [difference.estimate.noise for difference in differences if difference is not None]
    least = [detectable_difference(noise) for noise in noises if noise is not None]
    return [value for value in least if not math.isnan(value)]


def _about_oracle(config: BenchConfig, rows: Sequence[Row]) -> str:
    oracle = config.oracle
    assert oracle is not None
    labels = {"both": "source and target", "target": "the target"}[oracle.labels]
    length = (
        f"{oracle.steps} steps of its own" if oracle.steps else "as many steps as all rows, which need not be enough"
    )
    text = f"{ORACLE}: trained on the labels of {labels}, {length}."
    names = {row.name: row.scores["target"].miou.value for row in rows if "target" in row.scores}
    better = [name for name, value in names.items() if ORACLE in names and value > names[ORACLE]]
    if better:
        return f"{text} {', '.join(better)} exceed(s) it on the target, so no share of the gap is given."
    return f"{text} Gap closed = (row - {SOURCE_ONLY}) / ({ORACLE} - {SOURCE_ONLY}) on the target, where that is clear."


def about_domain(domain: Domain) -> str:
    there, names = domain.labelled, np.array(domain.class_names)
    absent = f" (not in its labels: {', '.join(names[~there])})" if not there.all() else ""
    rare = names[there & ~domain.frequent]
    below = f"; below 1 % of its pixels: {', '.join(rare)}" if len(rare) else ""
    sizes = f" of {_sizes(domain.sizes)} pixels" if domain.sizes else ""
    groups = domain.groups
    of = f" of {len(set(domain.sequences))} sequences, which are resampled whole" if groups is not None else ""
    alone = "; one sequence: no interval can be given" if groups is not None and len(set(groups.tolist())) == 1 else ""
    return (
        f"{domain.name} = {domain.data}, {domain.images} images{sizes}{of}{alone}: mean over {int(there.sum())} of "
        f"{len(names)} classes{absent}, frequent mean over {int(domain.frequent.sum())}{below}."
        + (f" Label map: {'; '.join(domain.label_map)}." if domain.label_map else "")
    )


def _sizes(sizes: Sequence[str]) -> str:
    return sizes[0] if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
