"""One self-contained HTML page of a benchmark: differences, predictions, curves, tables; nothing is loaded from
elsewhere, and nothing runs in it."""

from __future__ import annotations

from pathlib import Path

import jinja2
import yaml

from uda import plots
from uda.bench import build, render
from uda.bench.gallery import read_samples
from uda.bench.headline import about_images, about_origin, headline
from uda.bench.results import Domain
from uda.bench.table import Row, Table
from uda.config import SOURCE_ONLY, BenchConfig
from uda.data.encode import data_uri
from uda.plots.differences import Difference, To, differences, draw_forest, forest_title
from uda.plots.results import read_shown
from uda.plots.steps import draw_curves, read_curves
from uda.plots.svg import as_svg

WIDTH = 960
"""Of a picture at most, in pixels."""
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
        learning=_learning(table),
        learned=render.learned(table),
        source_only=SOURCE_ONLY,
        curves=_curves(table, folder),
        galleries=[(domain, read_samples(config, domain.name, folder, seeds)) for domain in table.domains],
        uri=lambda pixels, kind: data_uri(pixels, {"photo": ".jpg", "map": ".png"}[kind], WIDTH),
        palette=_palette(config),
        percent=lambda score: f"{100 * score:.1f} %" if score == score else render.DASH,
        config=yaml.safe_dump(config.resolved(), sort_keys=False),
    )


def _mark(row: Row) -> str:
    return row.scores["target"].verdict.replace(" ", "-") if "target" in row.scores else "not-compared"


def _source_only_first(table: Table) -> list[Row]:
    return sorted(table.rows, key=lambda row: row.name != SOURCE_ONLY)


def _forests(table: Table, domain: Domain) -> list[str]:
    """Of one domain: the differences to the control and to source-only; none where nothing is compared."""
    shown, charts = read_shown(table), []
    targets: tuple[To, ...] = ("control", "source_only")
    for to in targets:
        lines = differences(shown, domain.name, to)
        if lines:
            charts.append(_forest(domain.name, to, lines))
    return charts


def _forest(domain: str, to: To, lines: list[Difference]) -> str:
    title = forest_title(domain, to)
    return as_svg(title, lambda theme: draw_forest(title, lines, theme=theme))


def _scatter(table: Table) -> str:
    if not any({"source", "target"} <= set(row.scores) for row in table.rows):
        return ""
    return as_svg("target against source", lambda theme: plots.target_against_source(table, theme=theme))


def _learning(table: Table) -> str:
    if table.learning is None or not table.learning.lines:
        return ""
    title = "what labelled target images are worth"
    return as_svg(title, lambda theme: plots.learning_curve(table, title=title, theme=theme))


def _curves(table: Table, folder: Path) -> list[str]:
    """Charts of the scalars that at least two steps of some row have."""
    runs = {row.name: [folder / row.name / f"seed{seed}" for seed in row.seeds] for row in table.rows}
    series = {
        tag: lines
        for tag, by_row in read_curves(runs).items()
        if tag.startswith(tuple(CURVES))
        and (lines := {name: curve for name, curve in by_row.items() if len(curve.steps) > 1})
    }
    kinds = list(CURVES)

    def order(tag: str) -> tuple[int, int, str]:
        # scores first, then the losses that most rows share
        return next(at for at, kind in enumerate(kinds) if tag.startswith(kind)), -len(series[tag]), tag

    def draw(tag: str) -> str:
        return as_svg(tag, lambda theme: draw_curves(_title(tag), series[tag], list(runs), theme=theme))

    return [draw(tag) for tag in sorted(series, key=order)]


def _title(tag: str) -> str:
    kind = next(kind for kind in CURVES if tag.startswith(kind))
    unit = "" if kind == "loss/" else ", %"
    return CURVES[kind].format(tag.removeprefix(kind)) + unit


def _palette(config: BenchConfig) -> list[tuple[str, str]]:
    space = build.build_space(config.space)
    return [(name, "#" + bytes(colour).hex()) for name, colour in zip(space.names, space.colours.tolist(), strict=True)]
