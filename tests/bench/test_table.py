"""The table over made-up evaluations: no training."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from tests.bench import tiny
from uda.bench import Table, make_table
from uda.bench.identity import Identities
from uda.bench.plan import DESCRIPTION, RESULT, make_plan
from uda.bench.record import record
from uda.bench.render import markdown, sentences, terminal, to_csv
from uda.config import BenchConfig, load_config
from uda.engine import Evaluation

NAMES = ("road", "sidewalk", "construction", "pole or sign", "nature", "sky", "vehicle", "person or cycle")
QUALITY = {"source_only": 60, "oracle": 80, "fda": 70, "adabn": 55, "warm_start": 0}


def plain(table: Table) -> str:
    """What a terminal shows, without colours."""
    console = Console(file=io.StringIO(), width=160, color_system=None)
    console.print(terminal(table))
    return console.file.getvalue()


def confusion(quality: int) -> np.ndarray:
    """Road and sky with ``quality`` % right, a few pixels of vehicle, all right."""
    found = np.zeros((8, 8), dtype=np.int64)
    found[np.ix_([0, 5], [0, 5])] = [[quality, 100 - quality], [100 - quality, quality]]
    found[6, 6] = 1
    return found


def fill(config: BenchConfig, root: Path, skip: tuple[str, ...] = ()) -> None:
    cells = make_plan(config)
    identities = Identities(config, cells)
    for cell in cells:
        if cell.name in skip:
            continue
        folder = root / cell.name
        (folder / "evaluations").mkdir(parents=True)
        for domain in cell.scoring:
            images = np.stack([confusion(QUALITY[cell.method] + cell.seed)] * 4)
            names = tuple(f"{domain}{index}" for index in range(4))
            Evaluation(images, np.zeros(4), names, NAMES).save(folder / "evaluations" / f"{domain}.npz")
        content: dict[str, Any] = {
            "scores": identities.scores(cell), "steps": 2, "seconds": 5.0, "seconds_per_step": 0.25 + cell.seed,
            "peak_memory": 2**30, "threads": 1, "versions": {"torch": "2"}, "machine": "a machine", "label_maps": {},
        }  # fmt: skip
        (folder / DESCRIPTION).write_text(json.dumps({"identity": identities.training(cell)}))
        (folder / RESULT).write_text(json.dumps(content))


def iou(quality: int) -> float:
    return (2 * quality / (200 - quality) + 1) / 3


@pytest.fixture
def config() -> BenchConfig:
    return load_config(tiny.content(Path("data"), seeds=[0, 1]))


@pytest.fixture
def table(config: BenchConfig, tmp_path: Path) -> Table:
    fill(config, tmp_path)
    return make_table(config, tmp_path)


def test_scores_differences_and_gap_closed(table: Table) -> None:
    assert [row.name for row in table.rows] == ["source_only", "oracle", "fda", "adabn"]
    assert [domain.name for domain in table.domains] == ["target", "source", "ika"]
    score = table.row("fda").scores["target"]
    mean = {name: (iou(quality) + iou(quality + 1)) / 2 for name, quality in QUALITY.items() if quality}
    assert score.all.score.value == pytest.approx(mean["fda"])
    assert score.all.delta.value == pytest.approx(mean["fda"] - mean["source_only"])
    closed = (mean["fda"] - mean["source_only"]) / (mean["oracle"] - mean["source_only"])
    assert score.all.gap_closed.value == pytest.approx(closed)
    assert not table.row("fda").scores["source"].all.gap_closed.known
    assert not table.row("source_only").scores["target"].all.delta.known
    assert not table.row("oracle").scores["target"].all.gap_closed.known


def test_verdicts_say_what_the_interval_says(table: Table) -> None:
    assert table.row("fda").scores["target"].verdict == "helps"
    assert table.row("adabn").scores["target"].verdict == "hurts"
    assert sentences(table)[1].startswith("fda: helps on target (+7.")
    assert not any(line.startswith("source_only") for line in sentences(table))


def test_no_effect_is_shown_as_such(config: BenchConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(QUALITY, "fda", QUALITY["source_only"])
    fill(config, tmp_path)
    found = make_table(config, tmp_path)
    assert found.row("fda").scores["target"].verdict == "no clear effect"
    assert "fda: no clear effect on target (+0.0 [0.0, 0.0])" in plain(found)


def test_frequent_classes_leave_out_the_rare_one(table: Table) -> None:
    domain = table.domains[0]
    assert [NAMES[index] for index in np.flatnonzero(domain.labelled)] == ["road", "sky", "vehicle"]
    assert [NAMES[index] for index in np.flatnonzero(domain.frequent)] == ["road", "sky"]
    frequent = table.row("oracle").scores["target"].frequent.score.value
    assert frequent == pytest.approx((80 / 120 + 81 / 119) / 2)
    assert frequent < table.row("oracle").scores["target"].all.score.value


def test_notes_say_what_the_numbers_are(table: Table) -> None:
    text = " ".join(table.notes)
    assert "Trained on cityscapes train with labels, adapted to kitti train without." in text
    assert "2 optimiser steps for every row" in text
    assert "1 steps of warm start" in text
    assert "mean over 3 of 8 classes (not in its labels: sidewalk, construction, pole or sign" in text
    assert "below 1 % of its pixels: vehicle" in text
    assert "2 seeds, so few" in text
    assert "4 images" in text


def test_one_seed_is_said_to_cover_images_only(tmp_path: Path) -> None:
    config = load_config(tiny.content(Path("data")))
    fill(config, tmp_path)
    assert any("images only" in note for note in make_table(config, tmp_path).notes)


def test_missing_cells_are_named(config: BenchConfig, tmp_path: Path) -> None:
    fill(config, tmp_path, skip=("fda/seed1", "adabn/seed0", "adabn/seed1"))
    found = make_table(config, tmp_path)
    assert found.row("fda").missing == (1,)
    assert found.row("fda").scores["target"].all.delta.value == pytest.approx(iou(70) - iou(60))
    assert any(note.startswith("fda: seed(s) 1 missing") for note in found.notes)
    assert "No finished cell: adabn." in found.notes


def test_an_empty_folder_gives_an_empty_table(config: BenchConfig, tmp_path: Path) -> None:
    found = make_table(config, tmp_path)
    assert found.rows == ()
    assert "No finished cell" in plain(found)
    assert markdown(found)


def test_cells_of_another_config_do_not_enter(config: BenchConfig, tmp_path: Path) -> None:
    fill(config, tmp_path)
    settings = tiny.content(Path("data"))["settings"]
    other = load_config(tiny.content(Path("data"), settings={**settings, "steps": 3}))
    assert make_table(other, tmp_path).rows == ()


def test_different_images_are_refused(config: BenchConfig, tmp_path: Path) -> None:
    fill(config, tmp_path)
    path = tmp_path / "fda/seed0/evaluations/target.npz"
    one = Evaluation.load(path)
    Evaluation(one.confusions, one.losses, ("other", *one.names[1:]), NAMES).save(path)
    with pytest.raises(ValueError, match="different images of 'target'"):
        make_table(config, tmp_path)


def test_cost_is_the_median_over_seeds_and_absent_without_training(table: Table) -> None:
    assert table.row("fda").seconds_per_step == pytest.approx(0.75)
    assert table.row("adabn").seconds_per_step is None
    assert table.row("adabn").peak_memory is None


def test_markdown_and_terminal_show_every_row(table: Table) -> None:
    for text in (markdown(table), plain(table)):
        for name in ("source_only", "oracle", "fda", "adabn"):
            assert name in text
    header = markdown(table).splitlines()[2]
    assert header.startswith("| method | seeds | target mIoU | target Δ | gap closed % |")
    rows = [line for line in markdown(table).splitlines() if line.startswith("| ")]
    assert len({line.count("|") for line in rows[:5]}) == 1


def test_csv_has_fractions_by_row_domain_and_measure(table: Table) -> None:
    lines = list(csv.DictReader(io.StringIO(to_csv(table))))
    found = {(line["method"], line["domain"], line["measure"]): line for line in lines}
    line = found["fda", "target", "delta"]
    assert float(line["value"]) == pytest.approx(table.row("fda").scores["target"].all.delta.value, rel=1e-5)
    assert line["verdict"] == "helps"
    assert found["fda", "ika", "miou/seed1"]["value"]
    assert found["fda", "target", "iou/sidewalk"]["value"] == ""


def test_record_is_complete_json(config: BenchConfig, table: Table, tmp_path: Path) -> None:
    record(config, tmp_path, table, tmp_path / "record", "uda bench x.yaml")
    text = (tmp_path / "record" / "results.json").read_text()
    assert "NaN" not in text
    found = json.loads(text)
    assert found["command"] == "uda bench x.yaml"
    assert found["machine"] == "a machine"
    assert found["training_seconds"] == 5.0 * 10
    assert load_config(found["config"]) == config
    assert found["rows"][2]["scores"]["target"]["verdict"] == "helps"
    assert "uda bench x.yaml" in (tmp_path / "record" / "results.md").read_text()
