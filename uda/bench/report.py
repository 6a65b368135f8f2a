"""One self-contained HTML page of a benchmark: differences, predictions, curves, tables; nothing is loaded from
elsewhere, and nothing runs in it."""

from __future__ import annotations

import math
from collections import defaultdict
from pathlib import Path

import jinja2
import yaml

from uda.bench import build, charts, render
from uda.bench.gallery import samples
from uda.bench.headline import about_images, about_origin, headline
from uda.bench.results import Domain
from uda.bench.table import Row, Table
from uda.config import SOURCE_ONLY, BenchConfig
from uda.engine.tensorboard import read_scalars

CURVES = {"miou_along/": "mIoU on a few images of {}, along the way", "miou/": "mIoU on {}", "loss/": "loss {}"}
"""Beginning of the scalars' tags that are drawn, in this order -> title of the chart."""


def html(config: BenchConfig, folder: Path, table: Table, command: str = "") -> str:
    """The page, as text; of the same folder, config and command always the same.

    Args:
        config: the benchmark; its evaluation sets are read for the sample pictures, which are left out where they are
            not there any more.
        folder: the benchmark's folder, with the runs' scalars and pictures.
        table: its results.
        command: what repeats it; by default ``uda bench`` with the config that the page has at its end.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("uda.bench", "."), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    seeds = {row.name: row.seeds[0] for row in _source_only_first(table)}
    return environment.get_template("report.html.j2").render(
        table=table,
        headline=headline(table),
        about_images=about_images(table),
        origin=about_origin(table),
        command=command,
        titles=[title for title, _ in render.columns(table, table.rows[0])] if table.rows else [],
        rows=[(row, _mark(row), [cell for _, cell in render.columns(table, row)]) for row in table.rows],
        sentences=render.sentences(table),
        classes=[(domain, list(render.class_rows(table, domain))) for domain in table.domains],
        forests=[(domain, _forests(table, domain)) for domain in table.domains],
        scatter=_scatter(table),
        learning=""
        if table.learning is None
        else charts.learning("what labelled target images are worth", table.learning),
        learned=render.learned(table),
        source_only=SOURCE_ONLY,
        curves=_curves(table, folder),
        galleries=[(domain, samples(config, domain, folder, seeds)) for domain in table.domains],
        palette=_palette(config),
        percent=lambda score: f"{100 * score:.1f} %" if score == score else render.DASH,
        config=yaml.safe_dump(config.resolved(), sort_keys=False),
    )


def _mark(row: Row) -> str:
    return row.scores["target"].verdict.replace(" ", "-") if "target" in row.scores else "not-compared"


def _source_only_first(table: Table) -> list[Row]:
    return sorted(table.rows, key=lambda row: row.name != SOURCE_ONLY)


def _forests(table: Table, domain: Domain) -> list[str]:
    """Of one domain: the differences to the control and to source-only, rows ordered by the former on the target."""

    def gain(row: Row) -> tuple[float, float]:
        target = row.scores["target"]
        known = [
            -estimate.value if estimate.known else math.inf
            for estimate in (render.control_difference(target), target.to_source_only)
        ]
        return known[0], known[1]

    rows = sorted(table.rows, key=gain)
    scores = {row.name: row.scores[domain.name] for row in rows}
    to_control = [
        charts.Difference(name, render.control_difference(score), score.verdict) for name, score in scores.items()
    ]
    to_source_only = [charts.Difference(name, score.to_source_only) for name, score in scores.items()]
    panels = (
        (f"{domain.name}: minus the control, joint 95 % intervals", to_control),
        (f"{domain.name}: minus {SOURCE_ONLY}, 95 % intervals one at a time", to_source_only),
    )
    known = [(title, [line for line in lines if line.estimate.known]) for title, lines in panels]
    return [charts.forest(title, lines) for title, lines in known if lines]


def _scatter(table: Table) -> str:
    points = {
        row.name: (row.scores["source"].miou, row.scores["target"].miou)
        for row in table.rows
        if {"source", "target"} <= set(row.scores)
    }
    return charts.scatter("target against source", "source mIoU %", "target mIoU %", points) if points else ""


def _learning(table: Table) -> str:
    if table.learning is None or not table.learning.lines:
        return ""
    return charts.learning("what labelled target images are worth", table.learning)


def _curves(table: Table, folder: Path) -> list[str]:
    """Charts of the scalars that at least two steps of some row have."""
    series: dict[str, dict[str, charts.Curve]] = defaultdict(dict)
    for row in table.rows:
        points: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
        for seed in row.seeds:
            for record in read_scalars(folder / row.name / f"seed{seed}"):
                for tag, value in record.items():
                    if tag.startswith(tuple(CURVES)) and isinstance(value, float) and math.isfinite(value):
                        scale = 1 if tag.startswith("loss/") else 100
                        points[tag][record["step"] + 1].append(scale * value)
        for tag, by_step in points.items():
            if len(by_step) > 1:
                steps, values = zip(*sorted(by_step.items()), strict=True)
                mean = [math.fsum(at) / len(at) for at in values]
                series[tag][row.name] = charts.Curve(
                    steps, mean, [min(at) for at in values], [max(at) for at in values]
                )
    kinds = list(CURVES)

    def order(tag: str) -> tuple[int, int, str]:
        # scores first, then the losses that most rows share
        return next(at for at, kind in enumerate(kinds) if tag.startswith(kind)), -len(series[tag]), tag

    names = [row.name for row in table.rows]
    return [charts.curves(_title(tag), series[tag], names) for tag in sorted(series, key=order)]


def _title(tag: str) -> str:
    kind = next(kind for kind in CURVES if tag.startswith(kind))
    unit = "" if kind == "loss/" else ", %"
    return CURVES[kind].format(tag.removeprefix(kind)) + unit


def _palette(config: BenchConfig) -> list[tuple[str, str]]:
    space = build.build_space(config.space)
    return [(name, "#" + bytes(colour).hex()) for name, colour in zip(space.names, space.colours.tolist(), strict=True)]
