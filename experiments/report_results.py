"""Tables and figures of the report from results as ``uda bench --record`` writes them, recorded or of this session.

python experiments/report_results.py camvid_kitti

prints the table of a recorded benchmark.
"""

from __future__ import annotations

import argparse
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from PIL import Image as Pixels

from uda.bench import make_table, record
from uda.bench.run import BenchResult

RECORDED = Path(__file__).parent.parent / "benchmarks" / "results"
DPI, WIDEST = 130, 1100
"""Of a stored picture, and its width in pixels."""
LARGE = 60_000
"""Bytes of a PNG from which a JPEG is stored: a notebook must stay small."""
Results = dict[str, Any]


def recorded(name: str, file: str = "results.json") -> Results:
    """A recorded benchmark's ``results.json``, or a matrix's ``matrix.json``.

    Raises:
        FileNotFoundError: none is recorded under that name.
    """
    return _read(RECORDED / name / file)


def is_recorded(name: str, file: str = "results.json") -> bool:
    """Whether there is a recording of that name."""
    return (RECORDED / name / file).is_file()


def results_of(result: BenchResult, command: str) -> Results:
    """What a call of :func:`uda.bench.run` measured, in the form of a recorded benchmark.

    Raises:
        RuntimeError: cells failed; the message has the first with its reason.
    """
    for cell, why in result.failed.items():
        raise RuntimeError(f"{cell}: {why}")
    out = result.folder / "recorded"
    record(result.config, result.folder, make_table(result.config, result.folder), out, command)
    return _read(out / "results.json")


def table(results: Results, *, domains: Sequence[str] = ("target", "source")) -> str:
    """The benchmark in Markdown: mIoU in %, its differences to source-only and to the control, with intervals."""
    titles = ["row", "target mIoU", *(f"{name}: Δ to source-only" for name in domains), "target: Δ to its control"]
    lines = ["| " + " | ".join(titles) + " |", "|---|" + "---:|" * (len(titles) - 1)]
    for row in results["rows"]:
        scores = row["scores"]
        target = scores["target"]
        mark = " †" if target["adapted_on_scored"] else ""
        cells = [
            f"`{row['name']}`",
            _number(target["miou"]) + mark,
            *(_with_interval(scores[name]["delta"]) for name in domains),
            _to_control(row),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def source_line(results: Results) -> str:
    """Where a table comes from: seeds, images, machine and the command, in Markdown."""
    seeds = len(results["seeds"])
    images = next((note for note in results["notes"] if note.startswith("target = ")), "").split(":")[0]
    minutes = results["training_seconds"] / 60
    return (
        f"{seeds} seed{'s' if seeds > 1 else ''}; {images}; {results['machine']}, {minutes:.0f} minutes of cell time. "
        f"Made with\n\n```sh\n{results['command']}\n```"
    )


def verdicts(names: Sequence[str]) -> str:
    """What helps and what hurts by recorded benchmark, in Markdown, by the recorded words; without added controls."""
    lines = [
        "| benchmark | rows compared to a control | clearly help the target | clearly hurt it |",
        "|---|---:|---|---|",
    ]
    for name in names:
        compared = [row for row in recorded(name)["rows"] if row["control"] is not None and not row["added"]]
        words = {
            word: ", ".join(
                f"`{row['name']}` {_to_control(row)}" for row in compared if row["scores"]["target"]["verdict"] == word
            )
            for word in ("helps", "hurts")
        }
        lines.append(f"| {name} | {len(compared)} | {words['helps'] or 'none'} | {words['hurts'] or 'none'} |")
    return "\n".join(lines)


def score(results: Results, row: str, domain: str = "target") -> str:
    """A row's mIoU in % with its interval, as text.

    Raises:
        KeyError: no such row or domain.
    """
    return _with_interval(_row(results, row)["scores"][domain]["miou"], signed=False)


def gain(results: Results, row: str, domain: str = "target") -> str:
    """A row's difference to source-only in points of mIoU, with its interval; raises as :func:`score`."""
    return _with_interval(_row(results, row)["scores"][domain]["delta"])


def own_gain(results: Results, row: str, domain: str = "target") -> str:
    """A row's difference to its control, with the interval that holds for the table; raises as :func:`score`."""
    return _to_control(_row(results, row), domain)


def class_table(results: Results, name: str) -> str:
    """The target's IoU by class, from the recorded ``results.md`` (columns: rows of the benchmark)."""
    text = (RECORDED / name / "results.md").read_text(encoding="utf-8")
    part = text.split("## Classes: target", 1)[1].split("\n\n", 2)[1]
    return part.strip()


def compact(figure: Figure) -> bytes:
    """A figure as a small file: a PNG, or a JPEG where that is large; the same figure gives the same bytes."""
    file = io.BytesIO()
    dpi = min(DPI, WIDEST / figure.get_size_inches()[0])
    figure.savefig(file, format="png", dpi=dpi, facecolor="white", metadata={"Software": None})
    pixels, out = Pixels.open(file).convert("RGB"), io.BytesIO()
    pixels.save(out, format="png", optimize=True)
    if out.tell() > LARGE:
        out = io.BytesIO()
        pixels.save(out, format="jpeg", quality=80, optimize=True)
    return out.getvalue()


def _read(path: Path) -> Results:
    content: Results = json.loads(path.read_text(encoding="utf-8"))
    return content


def _row(results: Results, name: str) -> dict[str, Any]:
    return {row["name"]: row for row in results["rows"]}[name]


def _control(row: dict[str, Any], domain: str = "target") -> Any:
    difference = row["scores"][domain]["control_delta"]
    return difference if difference is not None and difference["estimate"]["value"] is not None else None


def _bounds(difference: dict[str, Any]) -> tuple[float, float, float]:
    """Low, high and value of an adjusted difference; NaN for what is not known."""
    bounds = (difference["low"], difference["high"], difference["estimate"]["value"])
    low, high, value = (math.nan if number is None else float(number) for number in bounds)
    return low, high, value


def _to_control(row: dict[str, Any], domain: str = "target") -> str:
    difference = _control(row, domain)
    if difference is None:
        return "–"
    low, high, value = _bounds(difference)
    return _with_interval({"value": value, "low": low, "high": high})


def _number(estimate: dict[str, Any], signed: bool = False) -> str:
    value = estimate["value"]
    return "–" if value is None else f"{100 * value:{'+' if signed else ''}.1f}".replace("-", "−")


def _with_interval(estimate: dict[str, Any], signed: bool = True) -> str:
    low, high = estimate["low"], estimate["high"]
    known = low is not None and high is not None and low == low and high == high
    bounds = f" [{100 * low:.1f}, {100 * high:.1f}]".replace("-", "−") if known else ""
    return _number(estimate, signed) + bounds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="folder of benchmarks/results")
    results = recorded(parser.parse_args().name)
    print(table(results), source_line(results), sep="\n\n")


if __name__ == "__main__":
    main()
