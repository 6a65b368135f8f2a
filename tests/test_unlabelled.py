"""Where labels are needed and there are none, or nobody says what they hold, it is said before anything is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml

from tests.bench import tiny
from tests.test_cli import call
from uda.config import ConfigError, load_config, load_run
from uda.data import Folder
from uda.engine import Settings, Trainer, evaluate
from uda.methods import Supervised
from uda.models import Segmenter
from uda.testing import TinySegmenter

RUN: dict[str, Any] = {
    "source": {"kind": "cityscapes", "root": "a", "split": "train"},
    "target": {"kind": "folder", "root": "b"},
    "method": ["Supervised"],
    "settings": {"steps": 2},
}
PLAIN = {"kind": "folder", "root": "b"}
NAMED = {**PLAIN, "classes": ["road", "sky"]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("images", "labels"):
        (tmp_path / "mine" / name).mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "mine/images/0.png"), np.full((64, 64, 3), 90, np.uint8))
    cv2.imwrite(str(tmp_path / "mine/labels/0.png"), np.zeros((64, 64), np.uint8))
    return tmp_path / "mine"


@pytest.mark.parametrize("key", ["target_val", "source_val", "unseen.night", "target"])
def test_a_labelled_folder_without_classes_is_named_by_its_key(key: str) -> None:
    content = tiny.content(Path("nowhere"))
    *parents, last = key.split(".")
    place = content.setdefault(parents[0], {}) if parents else content
    place[last] = PLAIN
    with pytest.raises(ConfigError, match=rf": {key}\.classes: is missing: what the labels hold.*labelled: false"):
        load_config(content)
    place[last] = NAMED
    load_config(content)


@pytest.mark.parametrize("key", ["source", "source_val", "target_val"])
def test_what_is_trained_on_or_scored_needs_its_labels(key: str) -> None:
    spec = {"kind": "kitti", "root": "b", "labelled": False}
    with pytest.raises(ConfigError, match=rf": {key}\.labelled: .* labels"):
        load_run({**RUN, key: spec})
    with pytest.raises(ConfigError, match=rf": {key}\.labelled: .* labels"):
        load_config(tiny.content(Path("nowhere"), **{key: spec}))


def test_the_target_needs_none_but_for_the_oracle() -> None:
    unlabelled = {**PLAIN, "labelled": False}
    load_config(tiny.content(Path("nowhere"), target=unlabelled, oracle=False))
    with pytest.raises(ConfigError, match=r": target\.labelled: .*oracle: false"):
        load_config(tiny.content(Path("nowhere"), target=unlabelled))


@pytest.mark.parametrize("command", ["check", "show"])
def test_uda_data_asks_for_the_classes(
    command: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--out", tmp_path / "sheet.png"] if command == "show" else []
    assert call("data", command, "folder", folder, *more) == 2
    error = capsys.readouterr().err
    assert "classes is missing" in error
    assert "--option 'classes=[road, car]'" in error
    for option in ("classes=[road, sky]", "labelled=false"):
        assert (
            call("data", command, "folder", folder, *more, "--option", option, *(["--overwrite"] if more else [])) == 0
        )
    config = tmp_path / "mine.yaml"
    config.write_text(yaml.safe_dump({**RUN, "target_val": {**PLAIN, "root": str(folder)}}))
    assert call("data", command, config, *more) == 2
    assert "mine.yaml: target_val.classes: is missing" in capsys.readouterr().err


def test_uda_eval_asks_for_the_classes_and_for_labels(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "model"
    network = Segmenter(num_classes=2, weights=None)
    network.space = Folder(folder, classes=["road", "sky"]).space
    network.save_pretrained(model)
    of_folder = ["eval", model, "--kind", "folder", "--root", folder]
    assert call(*of_folder) == 2
    assert "classes is missing" in capsys.readouterr().err
    assert call(*of_folder, "--option", "labelled=false") == 2
    assert "folder/all: opened without labels" in capsys.readouterr().err
    assert call(*of_folder, "--option", "classes=[road, sky]") == 0


def test_python_refuses_to_train_on_or_score_images_that_were_opened_without_labels(folder: Path) -> None:
    unlabelled = Folder(folder, classes=["a", "b", "c", "d", "e"], labelled=False)
    with pytest.raises(ValueError, match="folder/all: opened without labels"):
        evaluate(TinySegmenter(), unlabelled)
    trainer = Trainer(TinySegmenter(), [Supervised()], Settings(steps=1, crop=(32, 64), device="cpu"))
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    with pytest.raises(ValueError, match="folder/all: opened without labels"):
        trainer.fit(unlabelled)
    assert all(torch.equal(value, before[name]) for name, value in trainer.model.state_dict().items())
