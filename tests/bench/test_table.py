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
from uda.bench.render import columns, control_difference, markdown, sentences, terminal, to_csv
from uda.config import BenchConfig, load_config
from uda.engine import Evaluation

NAMES = ("road", "sidewalk", "construction", "pole or sign", "nature", "sky", "vehicle", "person or cycle")
QUALITY = {
    "source_only": 60.0, "oracle": 90.0, "fda": 60.0, "bn_only": 70.0, "advent": 70.5, "class_mix": 80.0,
    "bn_only+ClassMix": 70.0, "adabn": 55.0, "warm_start": 0.0,
}  # fmt: skip
METHODS = {
    "source_only": ["Supervised"],
    "fda": ["Supervised", {"FDA": {"beta": 0.05}}],
    "advent": ["Supervised", "AdvEnt"],
    "class_mix": ["Supervised", "ClassMix"],
    "adabn": {"test_time": {"AdaBN": {"prior": 0.5}}},
}
IMAGES = 12


def plain(table: Table) -> str:
    """What a terminal shows, without colours."""
    console = Console(file=io.StringIO(), width=180, color_system=None)
    console.print(terminal(table))
    return console.file.getvalue()


def header_of(table: Table) -> str:
    """The first line of the Markdown table."""
    return next(line for line in markdown(table).splitlines() if line.startswith("| method"))


def confusion(quality: float) -> np.ndarray:
    """Road and sky with ``quality`` % right, a few pixels of vehicle, all right."""
    right = round(10 * quality)
    pixels = np.zeros((8, 8), dtype=np.int64)
    pixels[np.ix_([0, 5], [0, 5])] = [[right, 1000 - right], [1000 - right, right]]
    pixels[6, 6] = 10
    return pixels


def qualities(row: str, seed: int) -> np.ndarray:
    """Of each image: the row's, with noise of the image that all rows share and of seed and image that none shares."""
    shared = np.random.default_rng(99).normal(0, 3, IMAGES)
    own = np.random.default_rng([seed, *row.encode()])
    return QUALITY[row] + shared + own.normal(0, 0.3) + own.normal(0, 0.3, IMAGES)


def fill(config: BenchConfig, root: Path, skip: tuple[str, ...] = (), **about: Any) -> None:
    cells = make_plan(config)
    identities = Identities(config, cells)
    for cell in cells:
        if cell.name in skip:
            continue
        folder = root / cell.name
        (folder / "evaluations").mkdir(parents=True)
        for domain in cell.scoring:
            images = np.stack([confusion(quality) for quality in qualities(cell.method, cell.seed)])
            names = tuple(f"{domain}{index}" for index in range(IMAGES))
            Evaluation(images, np.zeros(IMAGES), names, NAMES).save(folder / "evaluations" / f"{domain}.npz")
        content: dict[str, Any] = {
            "scores": identities.scores(cell), "steps": 2, "seconds": 5.0, "seconds_per_step": 0.25 + cell.seed,
            "peak_memory": 2**30, "threads": 1, "versions": {"torch": "2"}, "machine": "a machine", "label_maps": {},
            "data": about,
        }  # fmt: skip
        described = {
            "identity": identities.training(cell), "kind": cell.kind, "method": cell.method, "seed": cell.seed,
            "needs": cell.needs, "test_time": None, "training": cell.training,
        }  # fmt: skip
        (folder / DESCRIPTION).write_text(json.dumps(described))
        (folder / RESULT).write_text(json.dumps(content))


def miou(row: str, seeds: tuple[int, ...] = (0, 1, 2)) -> float:
    """By hand: road and sky, of the summed pixels, and vehicle, which is always right."""
    values = []
    for seed in seeds:
        right = sum(round(10 * quality) for quality in qualities(row, seed))
        values.append((2 * right / (2000 * IMAGES - right) + 1) / 3)
    return float(np.mean(values))


@pytest.fixture
def config() -> BenchConfig:
    return load_config(tiny.content(Path("data"), seeds=[0, 1, 2], methods=METHODS))


@pytest.fixture
def table(config: BenchConfig, tmp_path: Path) -> Table:
    fill(config, tmp_path)
    return make_table(config, tmp_path)


def test_scores_and_differences(table: Table) -> None:
    names = ["source_only", "oracle", "bn_only", "bn_only+ClassMix", "fda", "advent", "class_mix", "adabn"]
    assert [row.name for row in table.rows] == names
    assert [domain.name for domain in table.domains] == ["target", "source", "ika"]
    assert [row.name for row in table.rows if row.added] == ["bn_only", "bn_only+ClassMix"]
    score = table.row("advent").scores["target"]
    assert score.miou.value == pytest.approx(miou("advent"))
    assert score.to_source_only.value == pytest.approx(miou("advent") - miou("source_only"))
    assert score.to_control is not None
    assert score.to_control.estimate.value == pytest.approx(miou("advent") - miou("bn_only"))
    assert score.by_seed[1] == pytest.approx(miou("advent", (1,)))
    assert not table.row("source_only").scores["target"].to_source_only.known


def test_words_follow_the_control_and_not_source_only(table: Table) -> None:
    """Batch norm's gain is no method's: AdvEnt is far above source-only and level with its control."""
    advent = table.row("advent").scores["target"]
    assert advent.to_source_only.low > 0.03
    assert advent.verdict == "no clear effect"
    verdicts = {name: table.row(name).scores["target"].verdict for name in ("bn_only", "class_mix", "adabn", "fda")}
    assert verdicts == {"bn_only": "helps", "class_mix": "helps", "adabn": "hurts", "fda": "no clear effect"}
    assert table.row("source_only").scores["target"].verdict == "not compared"
    lines = sentences(table)
    assert any(line.startswith("advent, against bn_only: no clear effect on target (+0.") for line in lines)
    assert any(line.startswith("class_mix, against bn_only+ClassMix: helps on target") for line in lines)
    assert not any(line.startswith("source_only,") for line in lines)
    assert table.ties is not None
    groups = lines[-1].partition("best first: ")[2].split("; ")
    for text, group in zip(groups, table.ties.groups, strict=True):
        letter, _, rows = text.partition(" = ")
        assert tuple(rows.split(", ")) == group
        assert [name for name, letters in table.ties.letters.items() if letter in letters] == list(group)


def test_intervals_of_the_family_hold_together(table: Table) -> None:
    score = table.row("class_mix").scores["target"]
    assert score.to_control is not None
    alone, together = score.to_control.estimate, control_difference(score)
    assert together.value == alone.value
    assert together.low < alone.low
    assert score.to_control.holm_p_value > score.to_control.p_value


def test_the_share_of_the_gap_needs_an_oracle_that_nobody_exceeds(
    config: BenchConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(config, tmp_path / "a")
    table = make_table(config, tmp_path / "a")
    closed = (miou("class_mix") - miou("source_only")) / (miou("oracle") - miou("source_only"))
    assert table.row("class_mix").scores["target"].gap_closed.value == pytest.approx(closed)
    assert not table.row("class_mix").scores["source"].gap_closed.known
    assert not table.row("oracle").scores["target"].gap_closed.known
    assert "gap closed %" in [title for title, _ in columns(table, table.rows[0])]
    monkeypatch.setitem(QUALITY, "oracle", 75.0)
    fill(config, tmp_path / "b")
    table = make_table(config, tmp_path / "b")
    assert not table.row("advent").scores["target"].gap_closed.known
    assert "gap closed %" not in [title for title, _ in columns(table, table.rows[0])]
    assert any("class_mix exceed(s) it on the target, so no share of the gap is given" in note for note in table.notes)


def test_ties_are_groups_and_no_ranking(table: Table) -> None:
    assert table.ties is not None
    letters = table.ties.letters
    assert set(letters["advent"]) & set(letters["bn_only"])
    assert not set(letters["class_mix"]) & set(letters["advent"])
    assert any("Rows that cannot be told apart on the target, best first: a = oracle; b = class_mix; c = " in line
               for line in sentences(table))  # fmt: skip


def test_one_seed_gives_no_verdict(tmp_path: Path) -> None:
    config = load_config(tiny.content(Path("data"), methods=METHODS))
    fill(config, tmp_path)
    table = make_table(config, tmp_path)
    assert {row.scores["target"].verdict for row in table.rows} == {"image noise only", "not compared"}
    assert any("say nothing about training again" in note for note in table.notes)
    assert any("is not known (it takes two seeds and two sequences)" in note for note in table.notes)
    assert "image noise only" in plain(table)


def test_sequences_are_resampled_whole(config: BenchConfig, tmp_path: Path) -> None:
    """The same numbers with images of few sequences: wider intervals; of one sequence: none."""
    widths = {}
    for count in (IMAGES, 4, 1):
        sequences = [str(index % count) for index in range(IMAGES)]
        about = {name: {"sequences": sequences, "sizes": ["96x192"]} for name in ("target", "source", "ika")}
        fill(config, tmp_path / str(count), **about)
        table = make_table(config, tmp_path / str(count))
        score = table.row("advent").scores["target"].miou
        widths[count] = score.high - score.low
    assert widths[4] > widths[IMAGES]
    assert np.isnan(widths[1])
    assert table.row("class_mix").scores["target"].verdict == "no interval"
    assert any("12 images of 96x192 pixels of 1 sequences" in note and "no interval" in note for note in table.notes)


def test_notes_say_what_the_numbers_are(table: Table) -> None:
    text = " ".join(table.notes)
    assert "Trained on cityscapes train with labels, adapted to kitti train without." in text
    assert "2 optimiser steps for every row" in text
    assert "1 steps of warm start" in text
    assert "mean over 3 of 8 classes (not in its labels: sidewalk, construction, pole or sign" in text
    assert "below 1 % of its pixels: vehicle" in text
    assert "12 images" in text
    assert "3 seeds; differences are paired" in text
    assert "target: a true difference to the control of " in text
    assert "oracle: trained on the labels of source and target, as many steps as all rows" in text
    assert "†: adapted to the very images that are scored there (adabn)" in text


def test_who_adapted_to_the_scored_images_is_marked(table: Table) -> None:
    marked = {
        (row.name, domain.name)
        for row in table.rows
        for domain in table.domains
        if row.scores[domain.name].adapted_on_scored
    }
    assert marked == {("adabn", "ika")}, "of source and target it saw other images"
    cells = dict(columns(table, table.row("adabn")))
    assert cells["ika mIoU"][0].endswith("†")
    assert not cells["target mIoU"][0].endswith("†")


def test_missing_cells_are_named(config: BenchConfig, tmp_path: Path) -> None:
    fill(config, tmp_path, skip=("advent/seed1", "adabn/seed0", "adabn/seed1", "adabn/seed2", "bn_only/seed2"))
    table = make_table(config, tmp_path)
    assert table.row("advent").missing == (1,)
    score = table.row("advent").scores["target"]
    assert score.to_control is not None
    assert score.to_control.estimate.value == pytest.approx(miou("advent", (0,)) - miou("bn_only", (0,)))
    assert any(note.startswith("advent: seed(s) 1 missing") for note in table.notes)
    assert "No finished cell: adabn." in table.notes


def test_a_missing_control_is_not_compared_to(config: BenchConfig, tmp_path: Path) -> None:
    fill(config, tmp_path, skip=("bn_only/seed0", "bn_only/seed1", "bn_only/seed2"))
    score = make_table(config, tmp_path).row("advent").scores["target"]
    assert score.to_source_only.known
    assert score.verdict == "not compared"


def test_an_empty_folder_gives_an_empty_table(config: BenchConfig, tmp_path: Path) -> None:
    table = make_table(config, tmp_path)
    assert table.rows == ()
    assert "No finished cell" in plain(table)
    assert markdown(table)


def test_cells_of_another_config_do_not_enter(config: BenchConfig, tmp_path: Path) -> None:
    fill(config, tmp_path)
    settings = tiny.content(Path("data"))["settings"]
    other = load_config(tiny.content(Path("data"), methods=METHODS, settings={**settings, "steps": 3}))
    assert make_table(other, tmp_path).rows == ()


def test_different_images_are_refused(config: BenchConfig, tmp_path: Path) -> None:
    fill(config, tmp_path)
    path = tmp_path / "fda/seed0/evaluations/target.npz"
    evaluation = Evaluation.load(path)
    Evaluation(evaluation.confusions, evaluation.losses, ("other", *evaluation.names[1:]), NAMES).save(path)
    with pytest.raises(ValueError, match="different images of 'target'"):
        make_table(config, tmp_path)


def test_frequent_classes_leave_out_the_rare_one(table: Table) -> None:
    domain = table.domains[0]
    assert [NAMES[index] for index in np.flatnonzero(domain.labelled)] == ["road", "sky", "vehicle"]
    assert [NAMES[index] for index in np.flatnonzero(domain.frequent)] == ["road", "sky"]
    frequent = table.row("oracle").scores["target"].frequent.value
    assert frequent == pytest.approx((3 * miou("oracle") - 1) / 2)


def test_further_means_are_over_their_classes(tmp_path: Path) -> None:
    evaluate = {"classes": {"two": ["road", "vehicle"], "none": ["sidewalk"]}}
    config = load_config(tiny.content(Path("data"), seeds=[0, 1, 2], methods=METHODS, evaluate=evaluate))
    fill(config, tmp_path)
    table = make_table(config, tmp_path)
    means = table.row("class_mix").scores["target"].means
    road = (3 * miou("class_mix") - 1) / 2
    assert means["two"].value == pytest.approx((road + 1) / 2)
    assert not means["none"].known
    assert "target two" in header_of(table)
    assert "Mean two: over road, vehicle." in table.notes
    lines = {
        (line["method"], line["domain"], line["measure"]): line for line in csv.DictReader(io.StringIO(to_csv(table)))
    }
    assert float(lines["class_mix", "target", "mean/two"]["value"]) == pytest.approx(means["two"].value, rel=1e-4)
    assert [lines["class_mix", "target", f"mean/{name}"]["classes"] for name in ("two", "none")] == ["2", "0"]


def test_cost_is_the_median_over_seeds_and_absent_without_training(table: Table) -> None:
    assert table.row("fda").seconds_per_step == pytest.approx(1.25)
    assert table.row("adabn").seconds_per_step is None
    assert table.row("adabn").peak_memory is None


def test_markdown_and_terminal_show_every_row(table: Table) -> None:
    for text in (markdown(table), plain(table)):
        for row in table.rows:
            assert row.name in text
    header = header_of(table)
    assert header.startswith("| method | seeds | target mIoU | target Δ source_only | target Δ control | group |")
    rows = [line for line in markdown(table).splitlines() if line.startswith("| ")]
    assert len({line.count("|") for line in rows[:9]}) == 1


def test_csv_has_fractions_by_row_domain_and_measure(table: Table) -> None:
    lines = list(csv.DictReader(io.StringIO(to_csv(table))))
    by_measure = {(line["method"], line["domain"], line["measure"]): line for line in lines}
    line = by_measure["class_mix", "target", "control_delta"]
    assert float(line["value"]) == pytest.approx(miou("class_mix") - miou("bn_only+ClassMix"), rel=1e-4)
    assert (line["to"], line["verdict"]) == ("bn_only+ClassMix", "helps")
    assert float(line["p_value"]) < 0.05
    assert by_measure["fda", "ika", "miou/seed1"]["value"]
    assert by_measure["fda", "target", "iou/sidewalk"]["value"] == ""


def test_record_is_complete_json(config: BenchConfig, table: Table, tmp_path: Path) -> None:
    record(config, tmp_path, table, tmp_path / "record", "uda bench x.yaml")
    text = (tmp_path / "record" / "results.json").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    content = json.loads(text)
    assert content["command"] == "uda bench x.yaml"
    assert content["machine"] == "a machine"
    assert content["training_seconds"] == 5.0 * 27
    assert load_config(content["config"]) == config
    rows = {row["name"]: row for row in content["rows"]}
    assert rows["class_mix"]["scores"]["target"]["verdict"] == "helps"
    assert rows["class_mix"]["control"] == "bn_only+ClassMix"
    noise = rows["class_mix"]["scores"]["target"]["control_delta"]["estimate"]["noise"]
    assert noise["seeds"] == 3
    assert noise["seed"] > 0
    assert "uda bench x.yaml" in (tmp_path / "record" / "results.md").read_text()
