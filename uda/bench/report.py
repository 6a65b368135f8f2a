"""One self-contained HTML page of a benchmark: table, curves, sample pictures; nothing is loaded from elsewhere."""

from __future__ import annotations

import base64
import io
import re
from collections import defaultdict
from pathlib import Path

import cv2
import jinja2
import numpy as np
import numpy.typing as npt
from matplotlib import rc_context
from matplotlib.figure import Figure

from uda.bench import build, render
from uda.bench.plan import picture_indices
from uda.bench.results import Domain
from uda.bench.table import Row, Table
from uda.config import BenchConfig
from uda.data.encode import encode_image
from uda.engine.tensorboard import read_scalars

WIDTH = 320
"""Of a sample picture, in pixels."""


def html(config: BenchConfig, folder: Path, table: Table) -> str:
    """The page, as text.

    Args:
        config: the benchmark; its evaluation sets are read for the sample pictures, which are left out where they are
            not there any more.
        folder: the benchmark's folder, with the runs' scalars and pictures.
        table: its results.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("uda.bench", "."), autoescape=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template("report.html.j2").render(
        table=table,
        titles=[title for title, _ in render.columns(table, table.rows[0])] if table.rows else [],
        rows=[(row, _mark(row), [cell for _, cell in render.columns(table, row)]) for row in table.rows],
        sentences=render.sentences(table),
        classes=[(domain, list(render.class_rows(table, domain))) for domain in table.domains],
        curves=_curves(table, folder),
        samples=[(domain, _samples(config, domain, folder, table)) for domain in table.domains],
        palette=_palette(config),
    )


def _mark(row: Row) -> str:
    return row.scores["target"].verdict.replace(" ", "-") if "target" in row.scores else "not-compared"


def _curves(table: Table, folder: Path) -> list[tuple[str, str]]:
    """(title, inline SVG) of the scalars that at least two steps of some row have, mean over seeds."""
    series: dict[str, dict[str, list[tuple[int, float]]]] = defaultdict(dict)
    for row in table.rows:
        points: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
        for seed in row.seeds:
            for record in read_scalars(folder / row.name / f"seed{seed}"):
                for tag, value in record.items():
                    if tag.startswith(("loss/", "miou/")) and isinstance(value, float):
                        points[tag][record["step"]].append(value)
        for tag, by_step in points.items():
            if len(by_step) > 1:
                series[tag][row.name] = [(step, float(np.mean(values))) for step, values in sorted(by_step.items())]
    # scores first, then the losses that most rows share
    order = sorted(series, key=lambda tag: (not tag.startswith("miou/"), -len(series[tag]), tag))
    return [(tag, _plot(tag, series[tag], [row.name for row in table.rows])) for tag in order]


def _plot(tag: str, lines: dict[str, list[tuple[int, float]]], names: list[str]) -> str:
    figure = Figure(figsize=(5.2, 2.8), layout="constrained")
    axes = figure.subplots()
    for name, points in lines.items():
        # the same row has the same colour in every plot
        axes.plot(*zip(*points, strict=True), label=name, color=f"C{names.index(name) % 10}", linewidth=1.2)
    axes.set_xlabel("step")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=6, ncols=2)
    text = io.StringIO()
    with rc_context({"svg.hashsalt": tag, "svg.fonttype": "none", "font.size": 8}):
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = text.getvalue()
    # inside HTML an <svg> needs neither prolog, metadata nor namespaces, which are web addresses
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    return re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg)


def _samples(config: BenchConfig, domain: Domain, folder: Path, table: Table) -> list[list[tuple[str, str]]]:
    """For each sample image: (caption, data URI) of the input, every row's prediction, and the label."""
    try:
        dataset = build.open_dataset(config.domains[domain.name], config.space)
    except ValueError:
        return []
    samples = []
    for index in picture_indices(len(dataset)):
        sample = dataset[index]
        image = sample.image.permute(1, 2, 0).numpy()
        pictures = [("input", _uri(image, ".jpg"))]
        for row in table.rows:
            path = folder / row.name / f"seed{row.seeds[0]}" / "pictures" / f"{domain.name}_{index}.png"
            labels = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) if path.is_file() else None
            if labels is not None:
                pictures.append((row.name, _uri(dataset.space.colourise(labels), ".png")))
        label = sample.label.numpy() if sample.label is not None else np.full(image.shape[:2], 255)
        samples.append([*pictures, ("label", _uri(dataset.space.colourise(label), ".png"))])
    return samples


def _uri(rgb: npt.NDArray[np.uint8], suffix: str) -> str:
    scale = min(1.0, WIDTH / rgb.shape[1])
    size = max(1, round(rgb.shape[1] * scale)), max(1, round(rgb.shape[0] * scale))
    method = cv2.INTER_AREA if suffix == ".jpg" else cv2.INTER_NEAREST
    small = np.asarray(cv2.resize(np.ascontiguousarray(rgb), size, interpolation=method), dtype=np.uint8)
    kind = {".jpg": "jpeg", ".png": "png"}[suffix]
    return f"data:image/{kind};base64,{base64.b64encode(encode_image(small, suffix)).decode()}"


def _palette(config: BenchConfig) -> list[tuple[str, str]]:
    space = build.build_space(config.space)
    return [(name, "#" + bytes(colour).hex()) for name, colour in zip(space.names, space.colours.tolist(), strict=True)]
