"""The report: its notebook is that of its script, shows what is recorded, and runs from top to bottom."""

from __future__ import annotations

import copy
import io
import json
import re
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from experiments import build_report, report_results

MACHINE_PATH = re.compile(r"(?<![\w.])/(?:tmp|root|home|work|usr|opt|Users)/")
LARGEST = 3_000_000
"""Bytes of the stored notebook."""


@pytest.fixture(scope="module")
def stored() -> Any:
    return nbformat.read(build_report.NOTEBOOK, as_version=4)


def shown(notebook: Any) -> str:
    """Every text and Markdown output, one after the other."""
    texts = []
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            texts += [output.get("text", ""), *(v for k, v in output.get("data", {}).items() if k.startswith("text/"))]
    return "\n".join(texts)


def test_the_notebook_has_the_cells_of_its_script(stored: Any) -> None:
    script = build_report.from_script()
    assert [(cell.cell_type, cell.source) for cell in stored.cells] == [
        (cell.cell_type, cell.source) for cell in script.cells
    ], "run: make report"


def test_the_stored_notebook_ran_from_top_to_bottom_and_names_no_machine(stored: Any) -> None:
    code = [cell for cell in stored.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert {output.output_type for cell in code for output in cell.outputs} == {"display_data"}
    text = build_report.NOTEBOOK.read_text(encoding="utf-8")
    assert MACHINE_PATH.search(shown(stored)) is None
    assert "REPORT_SHORT" in text
    assert len(text.encode()) < LARGEST


def test_a_machine_path_would_be_noticed() -> None:
    assert MACHINE_PATH.search("written: /tmp/x/report.html")
    assert not MACHINE_PATH.search("benchmarks/results and ../runs/report/tmp/")


def test_the_stored_notebook_shows_what_is_recorded(stored: Any) -> None:
    text = shown(stored)
    for name in ("camvid_kitti", "streets_kitti", "batch_norm"):
        results = report_results.recorded(name)
        assert report_results.table(results) in text, f"{name} was recorded again; run: make report"
        assert results["command"] in text


def test_every_picture_says_what_it_shows(stored: Any) -> None:
    alts = [
        output.metadata[kind]["alt"]
        for cell in stored.cells
        for output in cell.get("outputs", [])
        for kind in output.data
        if kind.startswith("image/")
    ]
    assert len(alts) > 15
    assert min(map(len, alts)) > 10


def estimate(value: float | None, low: float | None = None, high: float | None = None) -> dict[str, Any]:
    return {"value": value, "low": low, "high": high}


def row(name: str, miou: float, delta: Any, control: Any, verdict: str, control_name: str | None) -> dict[str, Any]:
    scores = {"miou": estimate(miou, miou - 0.01, miou + 0.01), "delta": delta, "verdict": verdict}
    adjusted = None if control is None else {"estimate": control, "low": control["low"], "high": control["high"]}
    target = {**scores, "control_delta": adjusted, "adapted_on_scored": name == "tent"}
    return {
        "name": name, "control": control_name, "baseline": control_name, "added": name == "extra",
        "scores": {"target": target},
    }  # fmt: skip


@pytest.fixture
def results() -> dict[str, Any]:
    return {
        "name": "tiny",
        "rows": [
            row("source_only", 0.25, estimate(None), None, "not compared", None),
            row("good", 0.31, estimate(0.06, 0.02, 0.1), estimate(0.05, 0.001, 0.099), "helps", "bn_only"),
            row("extra", 0.31, estimate(0.06, 0.02, 0.1), estimate(0.06, 0.02, 0.1), "helps", "source_only"),
            row("tent", 0.2, estimate(-0.05), estimate(-0.05), "no interval", "source_only"),
        ],
        "seeds": [0, 1, 2],
        "notes": ["target = kitti val, 30 images of 19 sequences: mean over 8 of 8 classes"],
        "machine": "2 CPU cores",
        "training_seconds": 120.0,
        "command": "uda bench tiny.yaml",
    }


def test_table_says_differences_with_their_intervals_and_dashes_where_there_is_nothing(results: dict[str, Any]) -> None:
    lines = report_results.table(results, domains=["target"]).splitlines()
    assert lines[2:] == [
        "| `source_only` | 25.0 | – | – |",
        "| `good` | 31.0 | +6.0 [2.0, 10.0] | +5.0 [0.1, 9.9] |",
        "| `extra` | 31.0 | +6.0 [2.0, 10.0] | +6.0 [2.0, 10.0] |",
        "| `tent` | 20.0 † | −5.0 | −5.0 |",
    ]


def test_single_numbers(results: dict[str, Any]) -> None:
    assert report_results.score(results, "good") == "31.0 [30.0, 32.0]"
    assert report_results.gain(results, "good") == "+6.0 [2.0, 10.0]"
    assert report_results.own_gain(results, "good") == "+5.0 [0.1, 9.9]"
    assert report_results.own_gain(results, "source_only") == "–"
    with pytest.raises(KeyError, match="best"):
        report_results.gain(results, "best")


def test_source_line_has_what_repeats_it(results: dict[str, Any]) -> None:
    line = report_results.source_line(results)
    assert line.startswith(
        "3 seeds; target = kitti val, 30 images of 19 sequences; 2 CPU cores, 2 minutes of cell time"
    )
    assert "```sh\nuda bench tiny.yaml\n```" in line


def test_verdicts_follow_the_recorded_words(
    results: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worse = copy.deepcopy(results)
    worse["rows"][1]["scores"]["target"]["verdict"] = "hurts"
    for name, content in {"better": results, "worse": worse}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text(json.dumps(content))
    monkeypatch.setattr(report_results, "RECORDED", tmp_path)
    lines = report_results.verdicts(["better", "worse"]).splitlines()
    assert lines[2] == "| better | 2 | `good` +5.0 [0.1, 9.9] | none |"
    assert lines[3] == "| worse | 2 | none | `good` +5.0 [0.1, 9.9] |"


def test_the_page_has_formulas_and_asks_for_nothing(stored: Any, tmp_path: Path) -> None:
    page = build_report.page(stored)
    assert page.count("<math") > 15
    assert "$" not in re.sub(r"<pre>.*?</pre>", "", page, flags=re.DOTALL)
    assert not re.findall(r'(?:src|href)="(?:https?:)?//', page)
    assert "<script" not in page
    assert page.count("<details>") == sum(cell.cell_type == "code" for cell in stored.cells)


@pytest.mark.parametrize(("noise", "kind"), [(0, "PNG"), (60, "JPEG")])
def test_compact_pictures_are_small_equal_for_equal_figures_and_keep_their_colours(noise: int, kind: str) -> None:
    def figure() -> Figure:
        drawn = Figure(figsize=(8, 4))
        pixels = np.random.default_rng(0).integers(0, noise + 1, (400, 800, 3)).astype(np.uint8)
        pixels[100:300, 200:600] = (200, 30, 40)
        drawn.add_axes((0, 0, 1, 1)).imshow(pixels, interpolation="nearest")
        return drawn

    first, second = (report_results.compact(figure()) for _ in range(2))
    assert first == second
    picture = Image.open(io.BytesIO(first))
    assert picture.format == kind
    middle = np.asarray(picture.convert("RGB")).astype(int)[picture.height // 2, picture.width // 2]
    assert (np.abs(middle - np.array([200, 30, 40])) <= 3).all()


@pytest.mark.slow
@pytest.mark.timeout(900)  # some fifty tiny trainings
def test_the_notebook_runs_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"REPORT_SHORT": "1", "REPORT_OUT": str(tmp_path / "runs"), "IPYTHONDIR": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    done = build_report.execute(build_report.from_script())
    kinds = {output.output_type for cell in done.cells for output in cell.get("outputs", [])}
    assert kinds == {"display_data"}, shown(done)[-2000:]
    assert str(tmp_path) not in shown(done)
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"data", "streets", "matrix", "ablations", "labels"}
