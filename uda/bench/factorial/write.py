"""A study written down: text, table, page and picture."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from uda.bench.factorial import render
from uda.bench.factorial.table import TIMES, Effect, Study
from uda.bench.plain_page import page
from uda.bench.record import as_png, plain_values, texts, write_all
from uda.config import FactorialConfig


def write_study(
    config: FactorialConfig, folder: Path, study: Study, out: Path | None = None, command: str = ""
) -> dict[str, Path]:
    """Write ``factorial.md``, ``.csv``, ``.json``, ``.png`` and ``.html``; their paths by suffix.

    Args:
        config: the study.
        folder: its runs.
        study: its results; while a run is missing there is neither picture nor page.
        out: where to write for keeping, such as ``benchmarks/results/<name>``; by default beside the runs.
        command: what repeats it.

    Raises:
        OSError: one cannot be written; the error's ``filename`` is its path, and the others are there.
    """
    files = texts(render.markdown(study), render.to_csv(study), summary(config, folder, study, command))
    if study.effects:
        files |= {"png": png(study), "html": html(config, study, command)}
    return write_all(out or folder, {f"factorial.{suffix}": written for suffix, written in files.items()})


def png(study: Study) -> bytes:
    """The picture of :func:`uda.plots.effects`; of the same study the same bytes."""
    from uda import plots  # which reads this package

    return as_png(plots.effects(study))


def html(config: FactorialConfig, study: Study, command: str = "") -> str:
    """One self-contained page: the picture, effects, levels, runs, how it was measured; nothing runs in it."""
    from uda import plots
    from uda.plots.svg import as_svg

    return page(
        "factorial/factorial.html.j2", config, study, render.opening(study), command,
        picture=as_svg(study.name, lambda theme: plots.effects(study, title="", theme=theme)),
        sentences=render.sentences(study),
        titles=render.titles(study),
        effects=render.effect_rows(study, study.effects),
        interactions=render.effect_rows(study, study.interactions),
        levels=render.level_rows(study),
        run_titles=render.run_titles(study),
        runs=render.run_rows(study),
    )  # fmt: skip


def summary(config: FactorialConfig, folder: Path, study: Study, command: str) -> dict[str, Any]:
    """The result as plain values: command, config, versions, machine, time, every effect and every run."""
    own = {
        "resolution": study.design.resolution,
        "defining_words": [TIMES.join(word) for word in study.design.words()],
        "effects": [_effect(effect) for effect in study.effects],
        "interactions": [_effect(effect) for effect in study.interactions],
        "together": study.together,
        "runs": [asdict(run) for run in study.runs],
        "missing": study.missing,
    }
    benchmarks = [(config.benchmark(), folder)]
    return plain_values(study, config, render.opening(study), command, study.seeds, benchmarks, own)


def _effect(effect: Effect) -> dict[str, Any]:
    on = {domain: {**asdict(adjusted), "verdict": effect.verdict(domain)} for domain, adjusted in effect.on.items()}
    return {**asdict(effect), "on": on}
