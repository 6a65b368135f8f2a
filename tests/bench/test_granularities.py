"""Coarse labels that teach a fine model, through a config, an interruption and the command that scores in coarse
classes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.bench import tiny
from tests.test_cli import call
from uda.bench import build, run
from uda.bench.restore import load_model, open_run
from uda.config import ConfigError, load_config
from uda.data import CITYSCAPES19
from uda.engine import Update, checkpoint
from uda.engine.inference import predict_logits
from uda.metrics import confusion
from uda.models.pretrained import CHECKPOINT

ROW = "source_only/seed0"


def content(data: Path, **coarse: Any) -> dict[str, Any]:
    """Fine labels and coarse ones, whose data set has other options on request."""
    base = tiny.content(data, name="fine", space="cityscapes19", methods={"source_only": ["Supervised"]}, unseen={})
    ika = {"kind": "ika", "root": f"{data}/ika", "split": "val", "marginal": True, **coarse}
    settings = {**base["settings"], "checkpoint_every": 1, "batch_size": 2, "steps": 3}
    plain = {"settings": settings, "oracle": False, "curves": False, "warm_start": None}
    return {**base, "source": [base["source"], ika], **plain}


@pytest.fixture(scope="module")
def done(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    result = run(content(data), out=tmp_path_factory.mktemp("granularities"))
    assert not result.failed, result.failed
    return result.folder


def test_coarse_labels_are_trained_on_as_unions(data: Path) -> None:
    config = load_config(content(data))
    source = build.open_source(config.source, config.space, config.balance)
    coarse = source[len(source) - 1].label.unique().tolist()
    assert any(19 <= label < 255 for label in coarse), "no label of ika covers several classes"
    plain = load_config(content(data, marginal=False))
    labels = build.open_source(plain.source, plain.space, plain.balance)[len(source) - 1].label.unique().tolist()
    assert all(label < 19 or label == 255 for label in labels)
    assert set(labels) - {255} == {label for label in coarse if label < 19}
    # labels that are scored stay the space's own
    assert set(build.open_dataset(config.source[1], config.space)[0].label.unique().tolist()) <= {*range(19), 255}


def test_an_interrupted_run_ends_with_the_same_weights(
    done: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = checkpoint.load(done / ROW / CHECKPOINT)["model"]
    steps = Update.__call__

    def killed(update: Update, *args: Any, **kwargs: Any) -> Any:
        if update.index == 2:
            raise KeyboardInterrupt
        return steps(update, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Update, "__call__", killed)
        with pytest.raises(KeyboardInterrupt):
            run(content(data), out=tmp_path)
    assert checkpoint.load(tmp_path / "fine" / ROW / CHECKPOINT)["step"] == 2
    assert not run(content(data), out=tmp_path).failed
    again = checkpoint.load(tmp_path / "fine" / ROW / CHECKPOINT)["model"]
    assert all(torch.equal(value, again[name]) for name, value in whole.items())


def test_labels_of_another_granularity_are_another_run(done: Path, data: Path, no_training: None) -> None:
    coarse: dict[str, Any]
    for coarse in ({"marginal": False}, {"aliases": {"pole": "traffic sign"}}):
        with pytest.raises(
            ConfigError, match=r"source_only/seed0: trained with another config(.|\n)*source\.parts\.1\."
        ):
            run(content(data, **coarse), out=done.parent)


def test_scored_in_coarse_classes_by_the_command(done: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = load_model(open_run(done / ROW)).eval()
    groups = [
        [CITYSCAPES19.index(name) for name in members] for members in (
            ["road", "sidewalk"], ["building", "wall", "fence"], ["pole", "traffic light", "traffic sign"],
            ["vegetation", "terrain"], ["sky"], ["person", "rider"],
            ["car", "truck", "bus", "train", "motorcycle", "bicycle"],
        )
    ]  # fmt: skip
    config = load_config(content(done.parent))
    recorded = open_run(done / ROW).config
    dataset = build.open_dataset(recorded.domains["target"], config.space)
    table = torch.full((256,), 255)
    for to, members in enumerate(groups):
        table[members] = to
    expected = dict.fromkeys(("sum", "argmax"), torch.zeros(7, 7, dtype=torch.int64))
    for sample in dataset:
        with torch.no_grad():
            logits = predict_logits(model, sample.as_float()[None], size=tuple(sample.label.shape[-2:]))
        summed = torch.stack([logits.softmax(1)[:, members].sum(1) for members in groups], 1).argmax(1)
        for how, labels in (("sum", summed[0]), ("argmax", table[logits.argmax(1)[0]])):
            expected[how] = expected[how] + confusion(labels, table[sample.label], 7)
    assert not torch.equal(expected["sum"], expected["argmax"]), "the two ways cannot be told apart here"
    for how, matrix in expected.items():
        union = matrix.sum(0) + matrix.sum(1) - matrix.diagonal()
        labelled = matrix.sum(1) > 0
        miou = float((matrix.diagonal() / union)[labelled].mean())
        file = tmp_path / f"{how}.json"
        arguments = ["--merge-to", "cityscapes_categories", "--merging", how, "--json", file]
        assert call("eval", done / ROW, "--on", "target", *arguments) == 0
        written = json.loads(file.read_text())
        assert written["merged"] == {"from": "cityscapes19", "to": "cityscapes_categories", "by": how}
        assert written["results"]["target"]["miou"] == pytest.approx(miou, abs=1e-6)
    assert "merged to cityscapes_categories by sum" in " ".join(capfd.readouterr().out.split())


def test_wrong_mergings_are_refused_by_name(done: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (
        (("--merge-to", "cityscapes_categorys"), "nearest is 'cityscapes_categories'"),
        (("--merging", "argmax"), "--merging argmax: needs --merge-to"),
        (("--merge-to", "cityscapes_categories", "--merging", "mean"), "must be 'sum' or 'argmax'"),
        (("--merge-to", "{common: [cityscapes19, atlantis]}"), "--merge-to"),
    ):
        assert call("eval", done / ROW, *arguments) != 0
        assert message in capfd.readouterr().err
