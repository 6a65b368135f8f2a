"""``uda gap`` as it is called."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from uda.cli import app
from uda.data.streets import generate
from uda.models import Segmenter, save

RUNNER = CliRunner()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("streets")
    for domain in ("cityscapes", "kitti"):
        generate(root / domain, domain, {"val": 5}, size=(48, 96), seed=0)
    return root


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    network = Segmenter(num_classes=8, decoder="FPN", weights=None)
    folder = tmp_path_factory.mktemp("model")
    from uda.data.label_spaces import label_space

    save(network, folder, space=label_space("street8"))
    return folder


def call(*arguments: object, code: int = 0) -> str:
    result = RUNNER.invoke(app, ["gap", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result.output


@pytest.mark.slow
def test_a_report_from_one_command(data: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    text = call(
        model, "--source", f"cityscapes:{data}/cityscapes", "--target", f"kitti:{data}/kitti",
        "--after", "{AdaBN: {prior: 0.5}}", "--budget", 20, "--out", out,
    )  # fmt: skip
    assert "kitti/val" in text
    assert "After {AdaBN: {prior: 0.5}}, the target's loss changes by" in text
    assert {path.name for path in out.iterdir()} == {
        "gap.json", "projector", "report.html", "samples.csv", "summary.md"
    }  # fmt: skip
    numbers = json.loads((out / "gap.json").read_text())
    assert [row["state"] for row in numbers["numbers"]] == ["before", "before", "after", "after"]
    # an earlier report is replaced, other files are not
    call(
        model, "--source", f"cityscapes:{data}/cityscapes", "--target", f"kitti:{data}/kitti", "--no-causes", "-o", out
    )
    (tmp_path / "other").mkdir()
    (tmp_path / "other/notes.txt").write_text("mine")
    message = call(
        model, "--source", "published:kitti", "--target", f"kitti:{data}/kitti", "-o", tmp_path / "other", code=2
    )
    assert "holds other files" in message


def test_a_target_without_labels(data: Path, model: Path, tmp_path: Path) -> None:
    text = call(
        model, "--source", f"cityscapes:{data}/cityscapes", "--target", f"folder:{data}/kitti/training/image_2",
        "--unlabelled", "--out", tmp_path / "out",
    )  # fmt: skip
    assert "has no labels" in text
    assert json.loads((tmp_path / "out/gap.json").read_text())["missing"]["loss"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--source", "cityscapes", "--target", "kitti:x"], "--source takes KIND:PATH"),
        (["--target", "kitti:x"], "--source KIND:PATH says which images"),
        (["--source", "published:cityscape", "--target", "kitti:x"], "no published statistics for 'cityscape'"),
        (["--source", "published:kitti", "--target", "published:kitti"], "only the source can be published statistics"),
        (["--source", "published:kitti", "--target", "kitti:nowhere"], "nowhere: no such folder"),
        (["--source", "published:kitti", "--target-option", "limit=3"], "--target-option needs --target"),
    ],
)
def test_wrong_calls_are_one_line(arguments: list[str], message: str, model: Path, tmp_path: Path) -> None:
    text = call(model, *arguments, "--out", tmp_path / "out", code=2)
    assert message in text
    assert "Traceback" not in text
