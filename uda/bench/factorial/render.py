"""A study as text: for a terminal, as Markdown, as CSV."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import rich.box
import rich.table
from rich.console import Group, RenderableType
from rich.text import Text

from uda.bench.factorial.table import MINUS, Effect, Study
from uda.bench.headline import opened_by
from uda.bench.intervals import Estimate
from uda.bench.render import DASH, csv_text, joint, markdown_grid, number, plain_number, with_interval

CLEAR = ("helps", "hurts", "more together", "less together")
"""The words for an effect that is clear."""
WORDS = {"helps": "green", "hurts": "red"}


def opening(study: Study) -> list[str]:
    """What stands before a study: what was varied and scored, that images are procedural, where it comes from."""
    if not study.runs:
        return [f"{study.name}: no finished run."]
    columns = ", ".join(f"{domain.name} ({domain.images} images)" for domain in study.domains)
    seeds = len(study.seeds)
    first = f"{len(study.design.factors)} factors at two levels in {study.design.runs} runs, " + (
        f"{seeds} seed{'' if seeds == 1 else 's'}, scored on {columns}."
        if seeds
        else f"scored on {columns}; {len(study.runs)} have finished a seed, and effects need all of them."
    )
    return opened_by(first, study)


def sentences(study: Study) -> list[str]:
    """For each domain what helps, what hurts and what nothing is shown of, largest first; then the clear pairs."""
    lines = []
    for domain in study.domains:
        by_word: dict[str, list[Effect]] = {}
        for effect in study.effects:
            by_word.setdefault(effect.verdict(domain.name), []).append(effect)
        parts = [f"{word}: {', '.join(_named(effects, domain.name))}" for word, effects in by_word.items()]
        lines += [f"On {domain.name}, {'; '.join(sorted(parts, key=_clear_first))}."] if parts else []
    for pair in study.interactions:
        for domain in study.domains:
            if pair.verdict(domain.name) in CLEAR:
                value = with_interval(joint(pair.on[domain.name]), signed=True)
                lines.append(f"{' and '.join(pair.factors)} on {domain.name}: {pair.verdict(domain.name)} ({value}).")
    return lines


def _named(effects: Sequence[Effect], domain: str) -> list[str]:
    largest = sorted(effects, key=lambda effect: -abs(effect.on[domain].estimate.value))
    return [f"{effect.name} ({number(effect.on[domain].estimate, signed=True)})" for effect in largest]


def _clear_first(part: str) -> bool:
    return not part.startswith(CLEAR)


def terminal(study: Study) -> RenderableType:
    """For a rich console: the effects, the sentences, the notes."""
    grid = rich.table.Table(box=rich.box.SIMPLE_HEAD, title=Text(study.name), pad_edge=False)
    for at, title in enumerate(titles(study)):
        grid.add_column(Text(title), justify="right" if at else "left", no_wrap=at > 0)
    for effect in (*study.effects, *study.interactions):
        cells = [Text(effect.name)]
        for domain in study.domains:
            word = effect.verdict(domain.name)
            value = with_interval(joint(effect.on[domain.name]), signed=True)
            cells.append(Text(value, style=WORDS.get(word, "bold" if word in CLEAR else "dim")))
        grid.add_row(*cells, *([Text(", ".join(effect.aliases))] if _has_aliases(study) else []))
    words = [
        Text(line) for line in (*opening(study), "", *sentences(study), "", *(f"* {note}" for note in study.notes))
    ]
    return Group(*([grid] if study.effects else []), *words)


def titles(study: Study) -> list[str]:
    """The head of the table of effects."""
    aliased = ["mixed up with"] if _has_aliases(study) else []
    return ["effect", *(f"on {domain.name}" for domain in study.domains), *aliased]


def effect_rows(study: Study, effects: Sequence[Effect]) -> list[list[str]]:
    """A line for each effect: its name, points with the joint interval and the word, the aliases."""
    rows = []
    for effect in effects:
        cells = [
            f"{with_interval(joint(effect.on[domain.name]), signed=True)} {effect.verdict(domain.name)}"
            for domain in study.domains
        ]
        rows.append([effect.name, *cells, *([", ".join(effect.aliases) or DASH] if _has_aliases(study) else [])])
    return rows


def _has_aliases(study: Study) -> bool:
    return any(effect.aliases for effect in study.effects)


def level_rows(study: Study) -> list[list[str]]:
    """Each factor with what its levels set."""
    return [[effect.name, effect.low, effect.high] for effect in study.effects]


def run_titles(study: Study) -> list[str]:
    """The head of the table of runs."""
    return ["run", "seeds", *(f"{domain.name} mIoU" for domain in study.domains), *study.design.factors]


def run_rows(study: Study) -> list[list[str]]:
    """A line for each run: seeds, scores, levels (+ is high)."""
    return [
        [
            run.name,
            str(len(run.seeds)),
            *(number(run.miou[domain.name]) for domain in study.domains),
            *("+" if run.levels[factor] else MINUS for factor in study.design.factors),
        ]
        for run in study.runs
    ]


def markdown(study: Study) -> str:
    """The whole result as GitHub Markdown."""
    lines = [f"# {study.name}", "", *(part for line in opening(study) for part in (line, ""))]
    if study.effects:
        lines += ["## Main effects", "", "High minus low, in points of mIoU, with joint intervals.", ""]
        lines += [*markdown_grid(titles(study), effect_rows(study, study.effects)), ""]
        lines += ["## In words", "", *(f"- {line}" for line in sentences(study)), ""]
        lines += ["## Levels", "", *markdown_grid(["factor", "low", "high"], level_rows(study)), ""]
    if study.interactions:
        lines += ["## Interactions that the design tells apart", ""]
        lines += [*markdown_grid(titles(study), effect_rows(study, study.interactions)), ""]
    if study.together:
        lines += ["## Interactions that come as one number, and are not given", ""]
        lines += [*(f"- {group}" for group in study.together), ""]
    lines += ["## How it was measured", "", *(f"- {note}" for note in study.notes), ""]
    if study.runs:
        lines += ["## Runs", "", *markdown_grid(run_titles(study), run_rows(study)), ""]
    versions = ", ".join(f"{name} {version}" for name, version in study.versions.items())
    return "\n".join([*lines, f"Measured on {study.machine}; {versions}.", ""])


COLUMNS = (
    "effect", "order", "low_level", "high_level", "domain", "value", "low", "high", "joint_low", "joint_high",
    "standard_error", "degrees_of_freedom", "p_value", "holm_p_value", "verdict", "aliases", "seeds", "runs", "images",
)  # fmt: skip
"""Of :func:`to_csv`; effects are fractions of mIoU, not percent. ``low`` and ``high`` hold one at a time."""


def to_csv(study: Study) -> str:
    """One line an effect and domain."""
    return csv_text(COLUMNS, _lines(study))


def _lines(study: Study) -> Iterator[list[str | int]]:
    for effect in (*study.effects, *study.interactions):
        for domain in study.domains:
            adjusted = effect.on[domain.name]
            alone: Estimate = adjusted.estimate
            numbers = (
                alone.value, alone.low, alone.high, adjusted.low, adjusted.high, alone.standard_error,
                alone.degrees_of_freedom, adjusted.p_value, adjusted.holm_p_value,
            )  # fmt: skip
            yield [
                effect.name, len(effect.factors), effect.low, effect.high, domain.name, *map(plain_number, numbers),
                effect.verdict(domain.name), "; ".join(effect.aliases), len(study.seeds), study.design.runs,
                domain.images,
            ]  # fmt: skip
