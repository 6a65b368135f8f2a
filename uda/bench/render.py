"""The table as text: for a terminal, as Markdown, as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import rich.box
import rich.table
from rich.console import Group, RenderableType
from rich.text import Text

from uda.bench.headline import headline, opened_by
from uda.bench.intervals import Adjusted, Estimate, letter
from uda.bench.learning_curve import Learning, Line
from uda.bench.results import Domain
from uda.bench.table import Row, Score, Table
from uda.config import ORACLE, SOURCE_ONLY
from uda.files import spreadsheet_safe

DASH = "–"
"""Stands for "no number"."""


def number(estimate: Estimate, *, signed: bool = False) -> str:
    """``41.2`` for 0.412, with a sign where it is a difference."""
    return f"{100 * estimate.value:{'+' if signed else ''}.1f}" if estimate.known else DASH


def interval(estimate: Estimate) -> str:
    """``[39.8, 42.5]``, empty where there is none."""
    return f"[{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]" if estimate.low == estimate.low else ""


def with_interval(estimate: Estimate, *, signed: bool = False) -> str:
    """``41.2 [39.8, 42.5]``."""
    return f"{number(estimate, signed=signed)} {interval(estimate)}".strip()


def seconds(row: Row) -> str:
    """Seconds per iteration, a dash for a row that does not train."""
    return f"{row.seconds_per_step:.3g}" if row.seconds_per_step else DASH


def memory(row: Row) -> str:
    """Peak memory in GiB, a dash for a row that does not train."""
    return f"{row.peak_memory / 2**30:.2f}" if row.peak_memory else DASH


def opening(table: Table) -> list[str]:
    """What stands before a table: the benchmark in a sentence, that its images are procedural, where it comes from."""
    return opened_by(f"{headline(table)}.", table)


def sentences(table: Table) -> list[str]:
    """For each row in words what it does against its control on every domain; then which rows cannot be told apart."""
    lines = []
    for row in table.rows:
        if row.control is None:
            continue
        parts = []
        for domain in table.domains:
            score = row.scores[domain.name]
            difference = control_difference(score)
            value = f"({with_interval(difference, signed=True)})" if difference.known else ""
            parts.append(f"{score.verdict} on {domain.name} {value}".strip())
        lines.append(f"{row.name}, against {row.control}: {', '.join(parts)}")
    if table.ties is not None and len(table.ties.groups) > 0 and len(table.rows) > 1:
        groups = "; ".join(f"{letter(at)} = {', '.join(group)}" for at, group in enumerate(table.ties.groups))
        lines.append(f"Rows that cannot be told apart on the target, best first: {groups}")
    return lines


def learned(table: Table) -> list[str]:
    """What the learning curve says, a sentence each; nothing without one."""
    return [] if table.learning is None else table.learning.sentences


def learning_grid(learning: Learning) -> tuple[list[str], list[list[str]]]:
    """Titles and rows of the learning curve's table: mIoU on the target in % by number of labelled images, and the
    difference to source-only without any."""
    counts = sorted({count for line in learning.lines for count in line.points})

    def cell(line: Line, count: int) -> str:
        if count not in line.points:
            return DASH
        gain = line.gains[count]
        same = line.rows[count] == SOURCE_ONLY or not gain.known
        return number(line.points[count]) + ("" if same else f", {with_interval(gain, signed=True)}")

    rows = [[line.name, *(cell(line, count) for count in counts)] for line in learning.lines]
    return ["labelled target images", *map(str, counts)], rows


def control_difference(score: Score) -> Estimate:
    """The difference to the control with the interval that holds for all of a table together."""
    return joint(score.to_control)


def joint(difference: Adjusted | None) -> Estimate:
    """A difference with the interval that holds for all of its family together."""
    if difference is None:
        return Estimate(float("nan"))
    return replace(difference.estimate, low=difference.low, high=difference.high)


def columns(table: Table, row: Row, *, wide: bool = True) -> list[tuple[str, list[str]]]:
    """One row's (title, [number, interval]) pairs, the method's name not among them.

    Args:
        table: whose domains give the columns.
        row: one of its rows.
        wide: with the number of seeds, frequent means and all differences, for which a terminal has no room.
    """

    def both(estimate: Estimate, *, signed: bool = False, mark: str = "") -> list[str]:
        return [part for part in (number(estimate, signed=signed) + mark, interval(estimate)) if part]

    pairs = [("seeds", [str(len(row.seeds))])] if wide else []
    gap = any(other.scores[domain.name].gap_closed.known for other in table.rows for domain in table.domains)
    for domain in table.domains:
        score, name = row.scores[domain.name], domain.name
        pairs.append((f"{name} mIoU", both(score.miou, mark="†" if score.adapted_on_scored else "")))
        if wide or name == "target":
            pairs.append((f"{name} Δ {SOURCE_ONLY}", both(score.to_source_only, signed=True)))
        if wide or name in ("source", "target"):
            pairs.append((f"{name} Δ control", both(control_difference(score), signed=True)))
        if name == "target":
            pairs.append(("group", [table.ties.letters[row.name] if table.ties else DASH]))
            if gap:
                pairs.append(("gap closed %", both(score.gap_closed)))
        if wide and name in ("source", "target"):
            pairs.append((f"{name} frequent", both(score.frequent)))
        if wide:
            pairs += [(f"{name} {mean}", both(estimate)) for mean, estimate in score.means.items()]
    if wide:
        pairs.append(("control", [row.control or DASH]))
    return [*pairs, ("s/it", [seconds(row)]), ("GiB", [memory(row)])]


def terminal(table: Table) -> RenderableType:
    """For a rich console: the table, the sentences, the notes."""
    grid = rich.table.Table(box=rich.box.SIMPLE_HEAD, title=Text(table.name), pad_edge=False, collapse_padding=True)
    grid.add_column("method", no_wrap=True)
    for title, _ in columns(table, table.rows[0], wide=False) if table.rows else []:
        grid.add_column(Text(title.replace(" ", "\n")), justify="right", no_wrap=True)
    for row in table.rows:
        style = "bold" if row.name in (SOURCE_ONLY, ORACLE) else _style(row)
        cells = [[row.name], *(cell for _, cell in columns(table, row, wide=False))]
        grid.add_row(*(Text("\n".join(cell)) for cell in cells), style=style)
    words = [
        Text(line)
        for line in (
            *opening(table),
            "",
            *learned(table),
            *sentences(table),
            "",
            *(f"* {note}" for note in table.notes),
        )
    ]
    return Group(grid, *words)


def _style(row: Row) -> str:
    verdict = row.scores["target"].verdict if "target" in row.scores else ""
    return {"helps": "green", "hurts": "red"}.get(verdict, "dim" if row.added else "")


def markdown(table: Table) -> str:
    """The whole result as GitHub Markdown."""
    lines = [f"# {table.name}", "", *(part for line in opening(table) for part in (line, "")), *_results(table), ""]
    if table.learning is not None:
        lines += ["## What labels are worth", "", *(f"- {line}" for line in learned(table)), ""]
        lines += [*markdown_grid(*learning_grid(table.learning)), ""]
    lines += ["## In words", "", *(f"- {line}" for line in sentences(table)), ""]
    lines += ["## Methods", "", *(f"- `{row.name}`: {row.methods}" for row in table.rows), ""]
    lines += ["## How it was measured", "", *(f"- {note}" for note in table.notes), ""]
    for domain in table.domains:
        lines += [f"## Classes: {domain.name} ({domain.data}, {domain.images} images)", ""]
        lines += [
            *markdown_grid(["class", "pixels %", *(row.name for row in table.rows)], list(class_rows(table, domain))),
            "",
        ]
    versions = ", ".join(f"{name} {version}" for name, version in table.versions.items())
    return "\n".join([*lines, f"Measured on {table.machine}; {versions}.", ""])


def _results(table: Table) -> list[str]:
    rows = [[("method", [row.name]), *columns(table, row)] for row in table.rows]
    titles = [title for title, _ in rows[0]] if rows else ["method"]
    return markdown_grid(titles, [[" ".join(cell) for _, cell in row] for row in rows])


def class_rows(table: Table, domain: Domain) -> Iterator[list[str]]:
    """Per class: its name, its share of the labelled pixels, its IoU in % by row."""
    total = max(1, int(domain.pixels.sum()))
    for index, name in enumerate(domain.class_names):
        share = f"{100 * domain.pixels[index] / total:.2f}"
        scores = [float(row.scores[domain.name].iou[index]) for row in table.rows]
        yield [name, share, *(f"{100 * score:.1f}" if score == score else DASH for score in scores)]


def markdown_grid(titles: list[str], rows: list[list[str]]) -> list[str]:
    """The lines of a table of GitHub Markdown; the first column to the left, numbers to the right."""

    def line(cells: list[str]) -> str:
        return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"

    return [line(titles), "|" + "---|" + "---:|" * (len(titles) - 1), *(line(row) for row in rows)]


COLUMNS = (
    "method", "domain", "measure", "to", "value", "low", "high", "standard_error", "degrees_of_freedom", "p_value",
    "seeds", "images", "classes", "steps", "seconds_per_step", "peak_memory_bytes", "verdict",
)  # fmt: skip
"""Of :func:`to_csv`; scores, differences and gap closed are fractions, not percent. The p value is Holm's."""


def to_csv(table: Table) -> str:
    """One line a row, domain and measure: scores, differences, gap closed, IoU of each class, mIoU of each seed."""
    return csv_text(COLUMNS, _lines(table))


def csv_text(titles: Sequence[str], lines: Iterable[Iterable[Any]]) -> str:
    """The text of a CSV file, without cells that a spreadsheet would run."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(titles)
    writer.writerows(map(spreadsheet_safe, line) for line in lines)
    return text.getvalue()


def _lines(table: Table) -> Iterator[list[Any]]:
    for row in table.rows:
        for domain in table.domains:
            score = row.scores[domain.name]
            for measure, other, estimate, classes in _measures(table, row, score, domain):
                control = score.to_control if measure == "control_delta" else None
                yield [
                    row.name, domain.name, measure, other or "",
                    *estimate_cells(estimate, control.holm_p_value if control else None), len(row.seeds),
                    domain.images, classes, row.steps, plain_number(row.seconds_per_step), row.peak_memory or "",
                    score.verdict if control else "",
                ]  # fmt: skip


def estimate_cells(estimate: Estimate, p_value: float | None) -> list[str]:
    """Value, ends of the interval, standard error, degrees of freedom and p value, for a CSV file."""
    numbers = (
        estimate.value, estimate.low, estimate.high, estimate.standard_error, estimate.degrees_of_freedom, p_value,
    )  # fmt: skip
    return [plain_number(number) for number in numbers]


def _measures(table: Table, row: Row, score: Score, domain: Domain) -> Iterator[tuple[str, str | None, Estimate, int]]:
    every, frequent = int(domain.labelled.sum()), int(domain.frequent.sum())
    names = np.array(domain.class_names)
    yield "miou", None, score.miou, every
    yield "delta", row.baseline, score.to_source_only, every
    yield "control_delta", row.control, control_difference(score), every
    yield "gap_closed", None, score.gap_closed, every
    yield "frequent_miou", None, score.frequent, frequent
    yield "frequent_delta", row.baseline, score.frequent_to_source_only, frequent
    for mean, estimate in score.means.items():
        yield f"mean/{mean}", None, estimate, int(np.isin(names[domain.labelled], table.class_means[mean]).sum())
    for name, value in zip(domain.class_names, score.iou, strict=True):
        yield f"iou/{name}", None, Estimate(float(value)), 1
    for seed, value in score.by_seed.items():
        yield f"miou/seed{seed}", None, Estimate(value), every


def plain_number(value: float | None) -> str:
    """As CSV has it; empty where it is not known."""
    return "" if value is None or value != value else f"{value:.6g}"
