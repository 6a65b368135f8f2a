"""A search written down: text, table, numbers, picture, and the best trial as a config."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from uda.bench.intervals import Estimate
from uda.bench.provenance import machine, now, versions
from uda.bench.record import as_png, finite, write_all
from uda.bench.render import DASH, csv_text, markdown_grid, with_interval
from uda.bench.search.summary import Regret, Summary
from uda.config.search import OBJECTIVES, PEEKING

BEST = "best.yaml"
"""A config that ``uda train`` takes."""


def write_search(summary: Summary, out: Path | None = None, command: str = "") -> dict[str, Path]:
    """Write ``search.md``, ``.csv``, ``.json``, ``.png`` and ``best.yaml``; their paths by suffix.

    Args:
        summary: of a search.
        out: where to write; by default the search's folder.
        command: what repeats it.

    Raises:
        OSError: one cannot be written.
    """
    out = out or summary.folder
    files: dict[str, str | bytes] = {
        "search.md": markdown(summary) + (f"\nCommand: `{command}`\n" if command else ""),
        "search.csv": to_csv(summary),
        "search.json": json.dumps(plain(summary, command), indent=2) + "\n",
        "search.png": png(summary),
    }
    if summary.best is not None:
        files[BEST] = best_config(summary)
    return write_all(out, files)


def best_config(summary: Summary) -> str:
    """The run of the best trial as YAML, with what it is."""
    assert summary.best is not None
    best, config = summary.best, summary.config
    roots = "".join(f" --root {name}={path}" for name, path in config.roots.items())
    head = (
        f"# Trial {best.number} of the search {config.name}: the best {config.spec.objective}, "
        f"{best.objectives[config.spec.objective]:.4f}, of {len(summary.trials)} trials, trained with one seed.\n"
        f"#   uda train {BEST}{roots}\n"
    )
    content = {"name": f"{config.name}_best", **config.content_of(best.values)}
    return head + yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def sentences(summary: Summary) -> list[str]:
    """What was found, in plain words."""
    best, spec = summary.best, summary.config.spec
    counts = {state: sum(t.state == state for t in summary.trials) for state in ("finished", "pruned", "failed")}
    told = ", ".join(f"{number} {state}" for state, number in counts.items() if number)
    lines = [f"{len(summary.trials)} of {spec.trials} trials: {told or 'none ended'}."]
    if best is None:
        return [*lines, "No trial finished, so there is no best."]
    values = ", ".join(f"{key} = {_shown(value)}" for key, value in best.values.items())
    lines.append(
        f"Best by {spec.objective}: trial {best.number} with {best.objectives[spec.objective]:.4f} ({values})."
    )
    if not summary.regrets:
        lines.append("The target has no labels, so nothing here says how well any trial does there.")
        return lines
    own = next(regret for regret in summary.regrets if regret.objective == spec.objective)
    if spec.objective == PEEKING:
        lines.append(
            f"It was chosen by labels of the target; on images that it was not chosen by it has {_percent(own)}."
        )
    elif own.best == summary.regrets[-1].best:
        lines.append(f"On the target it has {_percent(own)} mIoU; the target's labels choose the same trial.")
    else:
        lines.append(
            f"On the target it has {_percent(own)} mIoU; the trial that the target's labels choose has "
            f"{with_interval(own.lost, signed=True)} points more, on {summary.images[1]} images that neither looked at."
        )
    return lines


def _percent(regret: Regret) -> str:
    return f"{with_interval(regret.miou)} %"


def markdown(summary: Summary) -> str:
    """Sentences, what each objective would have chosen, and all trials."""
    lines = [f"# {summary.config.name}", "", *(f"{line}  " for line in sentences(summary)), ""]
    if summary.regrets:
        titles = ["chosen by", "trial", "target mIoU", "lost to peeking", "rank correlation"]
        rows = [
            [
                regret.objective, str(regret.best), with_interval(regret.miou),
                DASH if regret.objective == PEEKING else with_interval(regret.lost, signed=True), _ranks(regret),
            ]
            for regret in summary.regrets
        ]  # fmt: skip
        lines += [*markdown_grid(titles, rows), ""]
        lines += [
            f"Target mIoU in % on {summary.images[1]} images of `target_val`; the {summary.images[0]} of its other "
            f"sequences are what {PEEKING} looks at. Intervals (95 %) are for other images under these networks; every "
            "trial was trained with one seed. Rank correlation: Spearman's, over the finished trials, of the objective "
            "with the target's mIoU, 1 is best.",
            "",
        ]
    keys = list(summary.config.spec.space)
    names = [name for name in OBJECTIVES if any(name in trial.objectives for trial in summary.trials)]
    titles = ["trial", *keys, *names, "state"]
    rows = [
        [
            str(trial.number), *(_shown(trial.values[key]) for key in keys),
            *(_number(trial.objectives.get(name)) for name in names), f"{trial.state}: {trial.message}".rstrip(": "),
        ]
        for trial in summary.trials
    ]  # fmt: skip
    return "\n".join([*lines, *markdown_grid(titles, rows), ""])


def _ranks(regret: Regret) -> str:
    """A correlation with its interval; not in percent."""
    known: Estimate = regret.correlation
    if not known.known:
        return DASH
    return f"{known.value:.2f}" + (f" [{known.low:.2f}, {known.high:.2f}]" if known.low == known.low else "")


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else json.dumps(value) if isinstance(value, list) else str(value)


def _number(value: float | None) -> str:
    return DASH if value is None or value != value else f"{value:.4f}"


def to_csv(summary: Summary) -> str:
    """One line a trial: number, state, steps, values by key, objectives, target mIoU, message."""
    keys = list(summary.config.spec.space)
    titles = ["trial", "state", "steps", *keys, *OBJECTIVES, "target_miou", "message"]
    lines = [
        [
            trial.number, trial.state, trial.steps, *(_plain(trial.values[key]) for key in keys),
            *(trial.objectives.get(name) for name in OBJECTIVES), summary.target.get(trial.number), trial.message,
        ]
        for trial in summary.trials
    ]  # fmt: skip
    return csv_text(titles, lines)


def _plain(value: Any) -> Any:
    return value if isinstance(value, bool | int | float | str) else json.dumps(value)


def plain(summary: Summary, command: str) -> dict[str, Any]:
    """All numbers."""
    config = summary.config
    content: dict[str, Any] = finite(
        {
            "name": config.name, "command": command, "date": now(), "machine": machine(), "versions": versions(),
            "sentences": sentences(summary), "search": config.spec.model_dump(mode="json"), "run": config.content,
            "best": None if summary.best is None else summary.best.number,
            "regrets": [asdict(regret) for regret in summary.regrets], "images": summary.images,
            "trials": [
                {
                    "number": trial.number, "state": trial.state, "steps": trial.steps, "values": trial.values,
                    "objectives": trial.objectives, "target_miou": summary.target.get(trial.number),
                    "message": trial.message,
                }
                for trial in summary.trials
            ],
        }
    )  # fmt: skip
    return content


def png(summary: Summary) -> bytes:
    """The picture of :func:`uda.plots.search`; of the same search the same bytes."""
    from uda import plots  # which reads this package

    return as_png(plots.search(summary))
