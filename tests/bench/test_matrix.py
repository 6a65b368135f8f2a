"""Matrices: numbers by hand over made-up evaluations, and a whole one of two steps."""

from __future__ import annotations

import csv
import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from tests.bench.test_table import IMAGES, NAMES, confusion
from tests.test_matrix_config import content
from uda import plots
from uda.bench import Event
from uda.bench.identity import Identities
from uda.bench.matrix import Matrix, make_matrix, run_matrix, write_matrix
from uda.bench.matrix.render import markdown, terminal, to_csv
from uda.bench.plan import DESCRIPTION, RESULT, make_plan
from uda.cli import app
from uda.config import ConfigError, MatrixConfig, load_matrix
from uda.engine import Evaluation

QUALITY = {
    ("cityscapes",): {"cityscapes": 90.0, "kitti": 60.0, "ika": 50.0},
    ("kitti",): {"cityscapes": 55.0, "kitti": 80.0, "ika": 40.0},
    ("cityscapes", "kitti"): {"cityscapes": 90.2, "kitti": 84.0, "ika": 60.0},
}
"""Of plain training; ``dacs`` gains 8 on its target, its control half of that."""


def quality(row: str, trained_on: tuple[str, ...], target: str, column: str, seed: int) -> np.ndarray:
    gain = {"dacs": 8.0, "bn_only+ClassMix": 4.0}.get(row, 0.0) if column == target else 0.0
    shared = np.random.default_rng(len(column)).normal(0, 3, IMAGES)
    own = np.random.default_rng([seed, *row.encode(), *"+".join(trained_on).encode()])
    return np.minimum(99.0, QUALITY[trained_on][column] + gain + shared + own.normal(0, 0.3, IMAGES))


def fill(config: MatrixConfig, root: Path, skip: tuple[str, ...] = (), **about: Any) -> None:
    for part in config.parts():
        cells = make_plan(part.config)
        identities = Identities(part.config, cells)
        for cell in cells:
            name = f"{part.config.name}/{cell.name}"
            if name in skip:
                continue
            (root / name / "evaluations").mkdir(parents=True)
            for column, own in part.columns.items():
                values = quality(cell.method, part.trained_on, part.target, column, cell.seed)
                images = np.stack([confusion(value) for value in values])
                names = tuple(f"{column}{index}" for index in range(IMAGES))
                path = root / name / "evaluations" / f"{own}.npz"
                Evaluation(images, np.zeros(IMAGES), names, NAMES).save(path)
            result = {
                "scores": identities.scores(cell), "steps": 2, "seconds": 5.0, "seconds_per_step": 0.25,
                "versions": {"torch": "2"}, "machine": "a machine", "label_maps": {}, "data": about,
            }  # fmt: skip
            described = {
                "identity": identities.training(cell), "kind": cell.kind, "method": cell.method, "seed": cell.seed,
                "needs": cell.needs, "test_time": None, "training": cell.training,
            }  # fmt: skip
            (root / name / DESCRIPTION).write_text(json.dumps(described))
            (root / name / RESULT).write_text(json.dumps(result))


def miou(row: str, trained_on: tuple[str, ...], target: str, column: str) -> float:
    """By hand, see ``confusion``: mean over seeds 0, 1, 2."""
    values = []
    for seed in range(3):
        right = sum(round(10 * value) for value in quality(row, trained_on, target, column, seed))
        values.append((2 * right / (2000 * IMAGES - right) + 1) / 3)
    return float(np.mean(values))


def config_of(**changes: Any) -> MatrixConfig:
    return load_matrix(content(seeds=[0, 1, 2], **changes))


@pytest.fixture(scope="module")
def config() -> MatrixConfig:
    return config_of()


@pytest.fixture(scope="module")
def filled(config: MatrixConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("matrix")
    fill(config, root)
    return root


@pytest.fixture(scope="module")
def matrix(config: MatrixConfig, filled: Path) -> Matrix:
    return make_matrix(config, filled)


def test_every_square_is_scored_on_its_own_column(matrix: Matrix) -> None:
    assert [row.name for row in matrix.rows] == [
        "cityscapes", "kitti", "cityscapes + kitti", "cityscapes → kitti: dacs", "kitti → cityscapes: dacs"
    ]  # fmt: skip
    assert [domain.name for domain in matrix.domains] == ["cityscapes", "kitti", "ika"]
    for row in matrix.rows:
        method = row.name.partition(": ")[2] or "source_only"
        for column, square in row.squares.items():
            expected = miou(method, row.trained_on, row.target or "", column)
            assert square.miou.value == pytest.approx(expected), (row.name, column)
            assert square.miou.low < expected < square.miou.high


def test_the_diagonal_is_plain_training_on_what_is_scored(matrix: Matrix) -> None:
    places = {(row.name, column) for row in matrix.rows for column, square in row.squares.items() if square.diagonal}
    assert places == {("cityscapes", "cityscapes"), ("kitti", "kitti")}
    assert matrix.diagonal("ika") is None
    assert all(row.squares["ika"].to_diagonal is None for row in matrix.rows)
    assert matrix.row("kitti").squares["kitti"].to_diagonal is None
    lost = matrix.row("cityscapes").squares["kitti"].to_diagonal
    assert lost is not None
    by_hand = miou("source_only", ("cityscapes",), "", "kitti") - miou("source_only", ("kitti",), "", "kitti")
    assert lost.estimate.value == pytest.approx(by_hand)
    assert lost.low < lost.estimate.low < lost.estimate.high < lost.high, "eight differences hold together"
    words = {row.name: row.squares["kitti"].loss for row in matrix.rows}
    assert words == {
        "cityscapes": "loses", "kitti": "not compared", "cityscapes + kitti": "gains",
        "cityscapes → kitti: dacs": "loses", "kitti → cityscapes: dacs": "no clear difference",
    }  # fmt: skip
    assert matrix.row("cityscapes + kitti").squares["cityscapes"].loss == "no clear difference"


def test_adaptation_is_compared_to_plain_training_on_the_same_labels(matrix: Matrix) -> None:
    row = matrix.row("cityscapes → kitti: dacs")
    assert (row.kind, row.plain, row.control) == ("adapted", "cityscapes", "cityscapes")
    square = row.squares["kitti"]
    gain = miou("dacs", ("cityscapes",), "kitti", "kitti") - miou("source_only", ("cityscapes",), "", "kitti")
    assert square.to_plain.value == pytest.approx(gain)
    assert square.gain == "helps"
    assert row.squares["ika"].gain == "no clear effect"
    assert matrix.row("kitti").control is None


def test_controls_are_rows_of_their_own(tmp_path: Path) -> None:
    config = config_of(controls=True, rows={"dacs": {"methods": ["Supervised", "ClassMix"], "source": "cityscapes"}})
    fill(config, tmp_path)
    matrix = make_matrix(config, tmp_path)
    assert [row.name for row in matrix.rows if row.kind == "control"] == ["cityscapes → kitti: bn_only+ClassMix"]
    row = matrix.row("cityscapes → kitti: dacs")
    assert (row.plain, row.control) == ("cityscapes", "cityscapes → kitti: bn_only+ClassMix")
    square = row.squares["kitti"]
    assert square.to_control is not None
    assert 0 < square.to_control.estimate.value < square.to_plain.value
    assert "cityscapes (one at a time)" in markdown(matrix)


def test_classes_have_intervals_where_enough_images_have_them(config: MatrixConfig, tmp_path: Path) -> None:
    few = {"cityscapes": {"sequences": ["a"] * (IMAGES - 3) + ["b", "c", "d"]}}
    fill(config, tmp_path, source=few["cityscapes"], target=few["cityscapes"], ika={})
    square = make_matrix(config, tmp_path).row("cityscapes").squares
    road, sidewalk = square["ika"].classes[:2]
    assert road.value == pytest.approx(square["ika"].classes[5].value)
    assert road.low < road.value < road.high
    assert not sidewalk.known, "no image has it"
    assert square["cityscapes"].classes[0].known
    assert square["cityscapes"].classes[0].low != square["cityscapes"].classes[0].low, "four sequences are too few"


def test_text_says_what_was_measured(matrix: Matrix) -> None:
    text = markdown(matrix)
    lines = text.splitlines()
    square = matrix.row("cityscapes").squares["kitti"]
    shown = f"{100 * square.miou.value:.1f} [{100 * square.miou.low:.1f}, {100 * square.miou.high:.1f}]"
    first = next(line for line in lines if line.startswith("| cityscapes |"))
    assert first.split(" | ")[2] == shown
    assert first.split(" | ")[1].startswith("◆ **")
    assert "balanced by domain. Every data set is drawn equally often, whatever its size." in text
    assert any(line.startswith("- cityscapes, against the diagonal: loses on kitti (-") for line in lines)
    assert "ika: nothing is compared to a diagonal here." in text
    console = Console(file=io.StringIO(), width=160, color_system=None)
    console.print(terminal(matrix))
    assert f"◆ {100 * matrix.row('kitti').squares['kitti'].miou.value:.1f}" in console.file.getvalue()


def test_csv_has_every_number(matrix: Matrix) -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(matrix))))
    place = {(row["row"], row["domain"], row["measure"]): row for row in rows}
    assert len(place) == len(rows)
    difference = place["cityscapes", "kitti", "diagonal_delta"]
    adjusted = matrix.row("cityscapes").squares["kitti"].to_diagonal
    assert adjusted is not None
    assert float(difference["low"]) == pytest.approx(adjusted.low, rel=1e-4)
    assert float(difference["p_value"]) == pytest.approx(adjusted.holm_p_value, rel=1e-4)
    assert (difference["to"], difference["verdict"]) == ("kitti", "loses")
    assert float(place["cityscapes", "kitti", "diagonal_delta_alone"]["low"]) > float(difference["low"])
    assert place["cityscapes", "cityscapes", "miou"]["diagonal"] == "true"
    assert ("cityscapes", "ika", "iou/road") in place
    assert ("kitti", "ika", "miou/seed2") in place


def test_the_picture_has_every_number_and_frames_the_diagonal(matrix: Matrix) -> None:
    (axes,) = plots.matrix(matrix).axes
    texts = {text.get_text(): text for text in axes.texts}
    for row in matrix.rows:
        for square in row.squares.values():
            assert f"{100 * square.miou.value:.1f}" in texts
    frames = [patch for patch in axes.patches if not patch.get_fill()]
    assert [(round(frame.get_x()), round(frame.get_y())) for frame in frames] == [(0, 0), (1, 1)]
    bold = [text for text in texts if texts[text].get_fontweight() == "bold" and text.startswith("\u2212")]
    losses = [square for row in matrix.rows for square in row.squares.values() if square.loss == "loses"]
    assert len(bold) == len(losses) > 0
    shades = {round(patch.get_x() + 10 * patch.get_y()): patch.get_facecolor()[0] for patch in axes.patches[:15]}
    assert shades[0] < shades[10], "darker is higher"
    empty = make_matrix(config_of(name="other"), Path("nowhere"))
    with pytest.raises(ValueError, match="no finished row"):
        plots.matrix(empty)
    assert "No finished cell: cityscapes, kitti, cityscapes + kitti, dacs." in markdown(empty)


def test_bold_and_words_follow_the_interval_that_stands_beside_them(matrix: Matrix) -> None:
    """A difference that Holm's procedure calls clear, but whose joint interval has 0."""
    row = matrix.row("cityscapes")
    adjusted = row.squares["kitti"].to_diagonal
    assert adjusted is not None
    assert adjusted.clear
    for high, word in ((0.001, "no clear difference"), (-0.001, "loses")):
        square = replace(row.squares["kitti"], to_diagonal=replace(adjusted, high=high))
        changed = replace(row, squares={**row.squares, "kitti": square})
        other = replace(matrix, rows=tuple(changed if part is row else part for part in matrix.rows))
        assert square.loss == word
        end = f"{100 * high:.1f}]".replace("-", "\u2212")
        (text,) = [text for text in plots.matrix(other).axes[0].texts if text.get_text().endswith(f", {end}")]
        assert (text.get_fontweight() == "bold") is (word == "loses")
    assert "Bonferroni" in plots.matrix(matrix).get_supxlabel()


def test_files_are_the_same_each_time_and_plain_json(config: MatrixConfig, filled: Path, tmp_path: Path) -> None:
    first, second = (
        write_matrix(config, filled, make_matrix(config, filled), tmp_path / name, "uda bench x") for name in "ab"
    )
    assert list(first) == ["md", "csv", "json", "png"]
    assert all(first[suffix].read_bytes() == second[suffix].read_bytes() for suffix in first)
    recorded = json.loads(first["json"].read_text())
    assert recorded["rows"][0]["squares"]["kitti"]["loss"] == "loses"
    assert load_matrix(recorded["config"]) == config
    copy = tmp_path / "runs"
    shutil.copytree(filled, copy)
    page = write_matrix(config, copy, make_matrix(config, copy))["html"].read_text()
    assert 'href="cityscapes_to_kitti/report.html"' in page
    assert "://" not in page
    assert page.count("<svg") == 1


def test_missing_cells_leave_the_rest(config: MatrixConfig, tmp_path: Path) -> None:
    diagonal = [f"kitti_to_cityscapes/source_only/seed{seed}" for seed in range(3)]
    fill(config, tmp_path, skip=("cityscapes+kitti/source_only/seed1", *diagonal))
    matrix = make_matrix(config, tmp_path)
    assert matrix.row("cityscapes + kitti").missing == (1,)
    assert matrix.diagonal("kitti") is None
    assert matrix.row("cityscapes").squares["kitti"].to_diagonal is None
    assert matrix.row("kitti → cityscapes: dacs").plain is None
    text = markdown(matrix)
    assert "Seed(s) 1 missing: cityscapes + kitti; their differences" in text
    assert "No finished cell: kitti." in text


# a whole one


def small(data: Path, **changes: Any) -> dict[str, Any]:
    raw = content(**changes)
    text = json.dumps(raw).replace('"data/', f'"{data.as_posix()}/')
    return json.loads(text)  # type: ignore[no-any-return]


@pytest.mark.slow
def test_a_matrix_runs_resumes_and_says_what_balance_changed(data: Path, tmp_path: Path) -> None:
    events: list[Event] = []
    rows = {"dacs": {"methods": ["Supervised", "ClassMix"], "source": "kitti"}}
    raw = small(data, rows=rows)
    result = run_matrix(raw, out=tmp_path, rows=["kitti"], report=events.append)
    assert [event.cell for event in events if event.kind == "done"] == ["kitti_to_cityscapes/source_only/seed0"]
    result = run_matrix(raw, out=tmp_path, report=events.append, workers=2)
    assert result.failed == {}
    assert sorted(cell for part in result.parts for cell in part.ran) == [
        "dacs/seed0", "source_only/seed0", "source_only/seed0"
    ]  # fmt: skip
    done = [event for event in events if event.kind == "done"]
    assert {event.cell for event in done[1:]} == {
        "cityscapes_to_kitti/source_only/seed0", "kitti_to_cityscapes/dacs/seed0", "cityscapes+kitti/source_only/seed0"
    }  # fmt: skip
    assert (done[-1].finished, done[-1].total) == (3, 3)
    assert len(result.matrix.rows) == 4
    again = run_matrix(raw, out=tmp_path)
    assert [part.ran for part in again.parts] == [[], [], []]
    with pytest.raises(ConfigError, match=r"cityscapes\+kitti.*trained with another config(.|\n)*parts\.0\.share"):
        run_matrix({**raw, "combined": {"balance": "image"}}, out=tmp_path)
    with pytest.raises(ConfigError, match="no row 'dcas'; the nearest is 'dacs'"):
        run_matrix(raw, out=tmp_path, rows=["dcas"])


@pytest.mark.slow
def test_the_command_shows_writes_and_records(data: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(json.dumps(small(data, rows={}, combined=False)))
    arguments = ["bench", str(path), "--out", str(tmp_path / "runs"), "--record", str(tmp_path / "kept"), "--quiet"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "◆" in done.output
    folder = tmp_path / "runs" / "m"
    assert {path.name for path in folder.iterdir()} >= {
        "matrix.md", "matrix.csv", "matrix.json", "matrix.png", "matrix.html", "cityscapes_to_kitti"
    }  # fmt: skip
    assert (folder / "cityscapes_to_kitti" / "report.html").is_file()
    assert {path.name for path in (tmp_path / "kept").iterdir()} == {
        "matrix.md", "matrix.csv", "matrix.json", "matrix.png"
    }  # fmt: skip
    refused = CliRunner().invoke(app, [*arguments, "--plan", "3"])
    assert refused.exit_code == 2
    assert "--plan is of a benchmark of one shift" in refused.output
