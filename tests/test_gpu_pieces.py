"""What benchmarks/gpu does with its pieces: measured once, gone on with, within a budget; on the CPU, at toy size."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.scripts import load_script

FILE = Path(__file__).resolve().parents[1] / "benchmarks" / "gpu" / "pieces.py"
pytestmark = pytest.mark.skipif(not FILE.is_file(), reason="benchmarks are not installed with the package")


@pytest.fixture(scope="module")
def pieces() -> ModuleType:
    return load_script(FILE, "gpu_pieces")


def call(pieces: ModuleType, folder: Path, *more: str) -> dict[str, Any]:
    pieces.main(["--toy", "--record", str(folder), *more])
    content: dict[str, Any] = json.loads((folder / "gpu.json").read_text())
    return content


def measured(name: str, variant: str, toy: bool, limit: float) -> dict[str, Any]:
    return {
        "seconds": [0.5, 0.25, 0.25],
        "warm_up": 1.0,
        "peak": 2e9,
        "batch": 2,
        "sizes": {"source": "1x2", "target": "3x4"},
    }


@pytest.mark.slow
def test_a_piece_is_measured_in_a_process_of_its_own(pieces: ModuleType) -> None:
    piece = pieces.step_piece("toy", "bf16", True, 300)
    assert piece["sizes"] == {"source": "32x64", "target": "32x64"}
    assert len(piece["seconds"]) == 1
    assert piece["seconds"][0] > 0
    assert "error" in pieces.step_piece("toy", "no such settings", True, 300)
    assert pieces.step_piece("toy", "fp32", True, 0.1) == {"error": "longer than 0.1 s"}


def test_frozen_encoders_take_no_gradient(pieces: ModuleType) -> None:
    tuned, frozen = (pieces.build(pieces.recipes(True)[name]) for name in ("toy", "toy, frozen"))
    assert all(p.requires_grad for p in tuned.encoder.parameters())
    assert not any(p.requires_grad for p in frozen.encoder.parameters())
    assert any(p.requires_grad for p in frozen.parameters())


def test_what_is_measured_stays_and_what_failed_is_tried_again(
    pieces: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def step(name: str, variant: str, toy: bool, limit: float) -> dict[str, Any]:
        asked.append(f"{name}: {variant}")
        return (
            {"error": "out of memory"} if name == "toy" and variant == "fp32" else measured(name, variant, toy, limit)
        )

    monkeypatch.setattr(pieces, "step_piece", step)
    call(pieces, tmp_path, "--only", "toy")
    assert asked == [f"toy: {variant}" for variant in pieces.VARIANTS]
    text = (tmp_path / "gpu.md").read_text()
    assert "| toy | | fp32 | out of memory | | |" in text
    assert "| toy | 2, 1x2, 3x4 | bf16 | 0.250 | 8.00 | 2.00 |" in text
    assert "| toy, frozen | | fp32 | not measured | | |" in text
    assert "| camvid_kitti | not measured |" in text
    asked.clear()
    call(pieces, tmp_path)
    assert asked == ["toy: fp32", *(f"toy, frozen: {variant}" for variant in pieces.VARIANTS)]


def test_no_piece_begins_that_could_outlast_the_budget(
    pieces: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits: list[float] = []
    monkeypatch.setattr(pieces, "step_piece", lambda *a: limits.append(a[3]) or measured(*a))
    call(pieces, tmp_path, "--budget", "100", "--limit", "30")
    assert len(limits) == 8
    assert all(limit == 30 for limit in limits)
    limits.clear()
    call(pieces, tmp_path, "--budget", "15", "--fresh")
    assert limits == []
    assert (tmp_path / "gpu.md").read_text().count(pieces.NOT) == 8 + len(pieces.RUNS)


def test_benchmarks_are_interrupted_and_gone_on_with(
    pieces: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = iter(
        [{"state": "begun"}, {"state": "begun"}, {"state": "done", "record": "r"}, {"state": "failed", "error": "e"}]
    )
    monkeypatch.setattr(pieces, "RUNS", ("camvid_kitti", "labels_kitti"))
    monkeypatch.setattr(pieces, "run_piece", lambda name, options, limit: next(states))
    monkeypatch.setattr(pieces, "machine", lambda toy: {"device": "x", "torch": "x", "cuda": "x", "uda": "x"})
    monkeypatch.setattr(pieces.torch.cuda, "is_available", lambda: True)
    pieces.main(["--record", str(tmp_path), "--only", "runs"])
    content = json.loads((tmp_path / "gpu.json").read_text())
    assert content["runs"] == {
        "camvid_kitti": {"state": "done", "record": "r"},
        "labels_kitti": {"state": "failed", "error": "e"},
    }
    assert next(states, None) is None


def test_another_machines_record_is_not_gone_on_with(pieces: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "gpu.json").write_text(json.dumps({"machine": {"device": "another"}, "steps": {}, "runs": {}}))
    with pytest.raises(SystemExit, match="another"):
        pieces.main(["--toy", "--record", str(tmp_path)])


def test_without_a_gpu_nothing_is_measured(
    pieces: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pieces.torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        pieces.main([])
    assert "no GPU here" in capsys.readouterr().err


def test_an_unknown_recipe_is_refused(pieces: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        pieces.main(["--toy", "--only", "DAFromer"])
    assert "--only has 'DAFromer'" in capsys.readouterr().err
