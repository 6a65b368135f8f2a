"""What README shows runs as it stands: its Python in one go, its YAML by the reader.

The how-to pages have their own test, ``tests/docs/test_pages.py``.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from uda.config import load_config

ROOT = Path(__file__).parent.parent
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
PYTHON = [text for language, text in BLOCKS if language == "python"]
YAML = [yaml.safe_load(text) for language, text in BLOCKS if language == "yaml"]


def run(arguments: list[str], cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )  # fmt: skip


@pytest.mark.slow
def test_python_runs_from_top_to_bottom(tmp_path: Path) -> None:
    images = ["--split", "train=8", "--split", "val=3"]
    made = run(["-m", "uda.cli", "data", "streets", "--out", "data", *images], tmp_path)
    assert made.returncode == 0, made.stderr
    (tmp_path / "readme.py").write_text("\n".join(PYTHON))
    done = run(["readme.py"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert 0 <= float(done.stdout.split()[-1]) <= 1
    assert (tmp_path / "runs/mine/checkpoint.pt").is_file()


@pytest.mark.soak
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_first_python_example_gives_the_same_weights_in_another_process(tmp_path: Path) -> None:
    images = ["--split", "train=8", "--split", "val=3"]
    made = run(["-m", "uda.cli", "data", "streets", "--out", "data", *images], tmp_path)
    assert made.returncode == 0, made.stderr
    (example,) = [text for text in PYTHON if "trainer.fit(source, target)" in text]
    assert "steps=20" in example
    example = example.replace("steps=20", "steps=3")
    hashes = []
    for folder in ("runs/first", "runs/second"):
        (tmp_path / "example.py").write_text(example.replace("runs/mine", folder))
        done = run(["example.py"], tmp_path)
        assert done.returncode == 0, done.stderr
        weights = torch.load(tmp_path / folder / "checkpoint.pt", weights_only=True)["model"]
        joined = b"".join(name.encode() + value.numpy().tobytes() for name, value in sorted(weights.items()))
        hashes.append(hashlib.sha256(joined).hexdigest())
    assert hashes[0] == hashes[1]


@pytest.mark.slow
def test_the_run_without_labels_trains(tmp_path: Path) -> None:
    (text,) = [text for language, text in BLOCKS if language == "yaml" and text.startswith("# mine.yaml")]
    (tmp_path / "mine.yaml").write_text(text)
    images = ["--split", "train=8", "--split", "val=3"]
    for command in (["data", "streets", "--out", "data", *images], ["train", "mine.yaml"]):
        done = run(["-m", "uda.cli", *command], tmp_path)
        assert done.returncode == 0, done.stderr
    assert "target: confidence" in done.stdout
    assert (tmp_path / "runs/mine/AdvEnt+ClassMix/seed0/predictions.png").is_file()


def test_rows_and_settings_are_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "experiments" / "extension")
    (shown,) = [content for content in YAML if "methods" in content]
    domain = {"kind": "folder", "root": "x", "classes": ["road"]}
    data = dict.fromkeys(("source", "source_val", "target", "target_val"), domain)
    config = load_config({"name": "readme", "space": "cityscapes19", **data, **shown})
    assert list(config.methods) == list(shown["methods"])
    assert next(iter(config.settings.optimizer)) == "torch.optim:NAdam"


def test_files_that_are_named_exist() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert (ROOT / link).exists(), link
    for path in re.findall(r"`((?:uda|tests|benchmarks|experiments|docs)/[\w./]+)`", text):
        assert (ROOT / path).exists(), path


def test_it_is_a_front_page() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 200


def test_every_python_and_yaml_block_is_covered() -> None:
    assert len(PYTHON) == 1
    assert len(YAML) == 2
