"""Configs of single runs, and entries of any config changed from outside."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

from tests.bench import tiny
from tests.test_cli import call
from uda.bench import make_table, run, train
from uda.bench.restore import load_model, open_run
from uda.config import ConfigError, load_config, load_recorded, load_run
from uda.data import Folder, dataset_identity
from uda.presets import PRESETS, preset

SHORTEST: dict[str, Any] = {
    "source": {"kind": "cityscapes", "root": "a", "split": "train"},
    "target": {"kind": "folder", "root": "b"},
    "method": ["Supervised", "AdvEnt"],
    "settings": {"steps": 2},
}


def test_the_shortest_config_has_the_sources_classes_and_reads_no_target_label() -> None:
    config, row = load_run(SHORTEST)
    assert row == "AdvEnt"
    assert config.space == "cityscapes19"
    assert config.target.arguments["labelled"] is False
    assert config.domains == {}
    assert [next(iter(spec)) for spec in config.methods[row].methods or []] == ["Supervised", "AdvEnt"]


def test_a_folder_of_ones_own_gives_its_classes() -> None:
    source = {"kind": "folder", "root": "a", "classes": ["road", {"name": "sky", "colour": [1, 2, 3]}]}
    config, _ = load_run({**SHORTEST, "source": source})
    assert config.space == {"classes": source["classes"]}
    from uda.bench.build import build_space

    space = build_space(config.space)
    assert space.names == ("road", "sky")
    assert tuple(space.colours[1]) == (1, 2, 3)


def test_a_preset_holds_where_the_config_says_nothing() -> None:
    settings = {"steps": 2000, "augment": {"flip": 0.25}, "lr": 0.5}
    config, row = load_run({**SHORTEST, "method": {"preset": "DAFormer"}, "settings": settings})
    theirs = preset("DAFormer")
    assert row == "DAFormer"
    assert (config.settings.steps, config.settings.lr, config.settings.augment.flip) == (2000, 0.5, 0.25)
    assert config.settings.augment.jitter == theirs["settings"]["augment"].get("jitter", 0.0)
    assert list(config.settings.augment.scale) == list(theirs["settings"]["augment"]["scale"])
    assert config.settings.warmup == theirs["settings"]["warmup"] > 0
    assert config.model == theirs["model"]
    assert list(config.settings.crop) == list(theirs["settings"]["crop"])
    assert config.methods[row].methods == theirs["methods"]


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_is_a_run_at_its_own_length(name: str) -> None:
    config, row = load_run({key: SHORTEST[key] for key in ("source", "target")}, recipe=name)
    assert row == name
    assert config.settings.steps == PRESETS[name]["steps"]
    assert config.evaluate.input_size == (
        None if PRESETS[name]["evaluate"].get("input_size") is None else tuple(PRESETS[name]["evaluate"]["input_size"])
    )


def test_part_of_a_presets_model_is_changed_and_another_model_replaces_it() -> None:
    content = {**SHORTEST, "method": {"preset": "AdvEnt"}}
    theirs = preset("AdvEnt")["model"]
    assert load_run({**content, "model": {"dilations": [6, 12]}})[0].model == {**theirs, "dilations": [6, 12]}
    own = {"name": "segmenter", "aux": True}
    assert load_run({**content, "model": own})[0].model == own


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methud": []}, "methud: unknown key of a single run; the nearest is 'method'"),
        ({"seeds": [1]}, "seeds: unknown key of a single run"),
        ({"source": None}, "source: is missing: {kind: .., root: ..} of a data set; or --source KIND:PATH"),
        ({"target": None}, "target: is missing"),
        ({"method": None}, "method: is missing: a list such as [Supervised, AdvEnt], or {preset: NAME}"),
        ({"method": "AdvEnt"}, "method: a list such as [Supervised, AdvEnt] or {preset: NAME} is needed, got 'AdvEnt'"),
        ({"method": ["Supervised", "AdvEn"]}, "method.1: no method 'AdvEn'; the nearest is 'AdvEnt'"),
        ({"method": {"preset": "DACs"}}, "method.preset: no preset 'DACs'; the nearest is 'DACS'"),
        ({"method": {"preset": "DACS", "settings": {}}}, "method.settings: goes with methods"),
        ({"method": {"methods": ["Supervised"], "test_time": "AdaBN"}}, "method.test_time: belongs to a benchmark"),
        ({"settings": {"stepz": 1}}, "settings.stepz: unknown key; the nearest is 'steps'"),
        ({"settings": {}}, "settings.steps: is missing"),
        ({"source": {"kind": "cityscape", "root": "a"}}, "source.kind: no data set kind 'cityscape'"),
        ({"source": {"kind": "folder", "root": "a"}}, "source.classes: is missing"),
        ({"space": {"classes": ["road"], "base": "ika"}}, "space: {common: [..]}, {base: .."),
        ({"target_val": {"kind": "kitti"}}, "target_val.root: is missing"),
    ],
)
def test_mistakes_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^config: {re.escape(message)}"):
        load_run({**SHORTEST, **changes})


def test_a_benchmarks_row_is_a_run_too(tmp_path: Path) -> None:
    content = tiny.content(tmp_path)
    assert load_run(content)[1] == "source_only"
    assert load_run(content, row="fda")[1] == "fda"
    config, row = load_run(content, recipe="DACS")
    assert row == "DACS"
    assert list(config.methods) == [*content["methods"], "DACS"]
    with pytest.raises(ConfigError, match="not both"):
        load_run(content, row="fda", recipe="DACS")
    with pytest.raises(ConfigError, match="a single run has no rows, so no 'fda'; write method:"):
        load_run(SHORTEST, row="fda")


def test_a_benchmark_needs_what_its_rows_are_scored_on(tmp_path: Path) -> None:
    content = tiny.content(tmp_path)
    with pytest.raises(ConfigError, match=r"target_val: is missing: .* uda train goes without"):
        load_config({**content, "target_val": None})
    with pytest.raises(ConfigError, match="method: is of a single run: uda train takes it"):
        load_config(SHORTEST)
    with pytest.raises(ConfigError, match="methods: is missing"):
        load_config({key: value for key, value in content.items() if key != "methods"})


def test_single_entries_are_changed_from_outside(tmp_path: Path) -> None:
    content = {**tiny.content(tmp_path), "source": [tiny.content(tmp_path)["source"]]}
    changes = {"settings.steps": 9, "source.0.limit": 2, "settings.augment.flip": 0.0, "unseen.ika.limit": 1}
    config = load_config(content, changes=changes, presets=["DACS"])
    assert (config.settings.steps, config.settings.augment.flip) == (9, 0.0)
    assert config.source[0].arguments["limit"] == 2
    assert config.unseen["ika"].arguments["limit"] == 1
    assert "DACS" in config.methods
    assert content["settings"]["steps"] == 2  # the caller's own is left alone
    with pytest.raises(ConfigError, match=r"config: methods.fda.FDA: there is no 'FDA' in \['Supervised'"):
        load_config(content, changes={"methods.fda.FDA": 1})
    with pytest.raises(ConfigError, match=r"methods.fda: is there already"):
        load_config(content, presets=["fda"])


def test_a_root_that_nothing_uses_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    content = {**SHORTEST, "source": {"kind": "cityscapes", "root": "${city}"}}
    assert load_run(content, {"city": "x"})[0].source[0].arguments["root"] == "x"
    config = tmp_path / "mine.yaml"
    for written, known in ((content, "it has ${city}"), (SHORTEST, "it has none"), (tiny.content(tmp_path), "it has")):
        config.write_text(yaml.safe_dump(written))
        assert call("train", config, "--root", "citty=x") == 2
        assert f"--root citty: the config has no ${{citty}}; {known}" in capfd.readouterr().err
    assert call("bench", config, "--root", "citty=x") == 2
    assert call("data", "check", config, "--root", "citty=x") == 2


def test_images_without_labels_need_no_classes_and_labels_do(tmp_path: Path) -> None:
    frames = tmp_path / "frames"
    frames.mkdir()
    cv2.imwrite(str(frames / "a.png"), np.zeros((8, 8, 3), np.uint8))
    images = Folder(frames, labelled=False)
    assert images.names == ["a.png"]
    before = dataset_identity(images)
    (frames / "labels").mkdir()
    cv2.imwrite(str(tmp_path / "label.png"), np.zeros((8, 8), np.uint8))
    assert dataset_identity(Folder(frames, labelled=False)) == before
    # whatever the space of the run
    assert images.remap("street8").space.name == "street8"
    with pytest.raises(ValueError, match=r"folder: classes is missing: what the labels hold, .* labelled: false"):
        Folder(frames)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tiny.write_data(tmp_path_factory.mktemp("streets"))
    frames = root / "frames"
    frames.mkdir()
    for path in sorted((root / "kitti/training/image_2").glob("*.png")):
        (frames / path.name).write_bytes(path.read_bytes())
    return root


def label_free(data: Path, **changes: Any) -> dict[str, Any]:
    return {
        "source": {"kind": "cityscapes", "root": str(data / "cityscapes"), "split": "train"},
        "target": {"kind": "folder", "root": str(data / "frames")},
        "method": ["Supervised", "AdvEnt"],
        "model": {"weights": None},
        "settings": {"steps": 2, "crop": [64, 64], "batch_size": 1, "device": "cpu"},
        **changes,
    }


def test_a_target_without_labels_is_trained_from_end_to_end(
    data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text(yaml.safe_dump(label_free(data)))
    assert call("train", config, "--out", tmp_path / "runs", "--set", "settings.steps=3") == 0
    out = capfd.readouterr().out
    folder = tmp_path / "runs/mine/AdvEnt/seed0"
    assert re.search(r"^source: mIoU \d+\.\d % on 3 of its training images \(no source_val is given\)$", out, re.M)
    assert re.search(
        r"^target: confidence 0\.\d\d, entropy [01]\.\d\d, \d+ % of the pixels sure; mostly \w+", out, re.M
    )
    assert str(folder / "predictions.png") in out
    sheet = cv2.imread(str(folder / "predictions.png"))
    assert sheet.shape[1] > 900  # the image and its prediction
    report = json.loads((folder / "result.json").read_text())["label_free"]
    assert report["target"]["images"] == len(list((data / "frames").glob("*.png")))
    assert 1 / 19 <= report["target"]["confidence"] <= 1
    assert sum(report["target"]["shares"].values()) == pytest.approx(1)
    # what it leaves is a run like any other
    assert open_run(folder).method == "AdvEnt"
    assert load_model(folder).num_classes == 19
    assert call("predict", folder, data / "frames", "--out", tmp_path / "predicted") == 0
    capfd.readouterr()
    assert call("train", config, "--out", tmp_path / "runs", "--set", "settings.steps=3") == 0
    again, err = capfd.readouterr()
    assert again == out
    assert "0 of 1 cells to do" in err
    assert call("eval", folder) == 2
    assert "--kind and --root say which to score on" in capfd.readouterr().err


def test_labels_are_scored_where_there_are_some(data: Path, tmp_path: Path) -> None:
    val = {
        "source_val": {"kind": "cityscapes", "root": str(data / "cityscapes"), "split": "val"},
        "target_val": {"kind": "kitti", "root": str(data / "kitti"), "split": "val"},
    }
    config, row = load_run(label_free(data, **val), name="mine")
    result = train(config, row, seed=3, out=tmp_path)
    assert result.folder == tmp_path / "mine/AdvEnt/seed3"
    assert set(result.evaluations) == {"source", "target"}
    assert result.label_free is None
    assert len(result.evaluations["target"].names) == 3
    # the source's score alone, and then no training anew
    config, row = load_run(label_free(data, source_val=val["source_val"]), name="mine")
    before = (result.folder / "checkpoint.pt").stat().st_mtime_ns
    alone = train(config, row, seed=3, out=tmp_path)
    assert (result.folder / "checkpoint.pt").stat().st_mtime_ns == before
    assert alone.label_free is not None
    assert alone.label_free["source"]["seen"] is False
    assert alone.label_free["source"]["miou"] == pytest.approx(result.evaluations["source"].miou())
    assert set(alone.evaluations) == {"source"}


def test_a_run_is_the_same_as_a_benchmarks_row(data: Path, tmp_path: Path) -> None:
    content = tiny.content(data, methods={"source_only": ["Supervised"], "advent": ["Supervised", "AdvEnt"]})
    run(content, out=tmp_path, methods=["advent"])
    config, row = load_run(content, row="advent")
    result = train(config, row, out=tmp_path / "alone")
    cells = [open_run(folder / "tiny/advent/seed0") for folder in (tmp_path, tmp_path / "alone")]
    first, second = (load_model(cell).state_dict() for cell in cells)
    assert all((first[key] == second[key]).all() for key in first)
    assert load_recorded(result.folder / "config.yaml") == config
    assert make_table(config, tmp_path / "tiny", [0]).row("advent").scores["target"].by_seed[0] == pytest.approx(
        result.evaluations["target"].miou()
    )


def test_a_failed_run_says_so_and_where(data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text(yaml.safe_dump(label_free(data, method=["Supervised", "CLAN"])))
    assert call("train", config, "--out", tmp_path / "runs") == 1
    err = capfd.readouterr().err
    assert "failed: CLAN/seed0" in err
    assert str(tmp_path / "runs/mine/CLAN/seed0/error.txt") in err
