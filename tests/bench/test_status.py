"""What is running where, told without starting or changing anything."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from tests.bench import machines, tiny
from tests.bench.test_machines import study
from tests.bench.test_matrix import small
from tests.test_cli import call
from uda import claims
from uda.bench.slurm import FOLDER, JOBS
from uda.bench.status import CellStatus, statuses
from uda.claims import CLAIM, Claim, take
from uda.config import load_config


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    machines.hasten(monkeypatch.setattr)


@pytest.fixture
def begun(copy: Path, data: Path) -> Path:
    """Cells of which none is finished, but the warm start."""
    for row in ("source_only", "oracle", "fda", "adabn"):
        (copy / f"tiny/{row}/seed0/result.json").unlink()
    return copy


def look(out: Path, data: Path) -> dict[str, CellStatus]:
    return {
        cell.name: cell for cell in statuses([(load_config(tiny.content(data)), None)], out=out, prefixed=False)
    }  # fmt: skip


def elsewhere(claim: Claim, patch: pytest.MonkeyPatch) -> None:
    """Make a claim one of another machine."""
    claim.holder = replace(claim.holder, host="far", machine="another")
    claim.path.write_bytes(claims._content(claim.holder, 0))


def test_a_finished_benchmark_is_done(copy: Path, data: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*")}
    cells = look(copy, data)
    assert {cell.state for cell in cells.values()} == {"done"}
    assert (cells["fda/seed0"].step, cells["fda/seed0"].steps) == (2, 2)
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("*")} == before


def test_each_state_is_told(begun: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (begun / "tiny/fda/seed0/error.txt").write_text("Traceback:\n  there\nRuntimeError: boom\n\n")
    (begun / "tiny" / FOLDER).mkdir()
    (begun / "tiny" / FOLDER / JOBS).write_text(json.dumps({"adabn/seed0": "12_3", "fda/seed0": "12_1"}))
    claim = take(begun / "tiny/oracle/seed0")
    assert claim is not None
    with claim:
        cells = look(begun, data)
    assert {name: cell.state for name, cell in cells.items()} == {
        "warm_start/seed0": "done", "source_only/seed0": "left", "oracle/seed0": "running", "fda/seed0": "failed",
        "adabn/seed0": "submitted",
    }  # fmt: skip
    assert cells["fda/seed0"].message == "RuntimeError: boom"
    assert cells["adabn/seed0"].message == "job 12_3"
    assert cells["oracle/seed0"].holder == claim.holder
    assert cells["oracle/seed0"].holder.process == os.getpid()
    assert (cells["source_only/seed0"].step, cells["source_only/seed0"].steps) == (2, 2)


def test_another_machines_cell_is_running_while_its_heart_beats(
    begun: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim, quiet = take(begun / "tiny/fda/seed0"), take(begun / "tiny/oracle/seed0")
    assert claim is not None
    assert quiet is not None
    quiet._ended.set()
    quiet._thread.join()
    for each in (claim, quiet):
        elsewhere(each, monkeypatch)
    with claim, quiet:
        cells = look(begun, data)
        assert (cells["fda/seed0"].state, cells["oracle/seed0"].state) == ("running", "silent")
        assert str(cells["fda/seed0"].holder) == f"process {os.getpid()} on far"
        quiet.check()  # whoever looks takes nothing over


def test_a_dead_process_of_this_machine_is_silent(begun: Path, data: Path) -> None:
    claim = take(begun / "tiny/fda/seed0")
    assert claim is not None
    with claim:
        claim._ended.set()
        claim._thread.join()
        claim.path.write_bytes(claims._content(replace(claim.holder, born="1"), 0))
        assert look(begun, data)["fda/seed0"].state == "silent"
        assert list((begun / "tiny/fda/seed0" / CLAIM).iterdir()) == [claim.path]


def test_the_command_shows_it_for_every_kind(
    begun: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(tiny.content(data)))
    assert call("bench", path, "--out", begun, "--status") == 0
    shown = capsys.readouterr()
    assert "fda/seed0" in shown.out
    assert "1 done, 4 left of 5 cells" in shown.err
    assert call("bench", path, "--out", begun, "--status", "--only", "fda") == 0
    assert "1 done, 1 left of 2 cells" in capsys.readouterr().err
    path.write_text(json.dumps(small(data)))
    assert call("bench", path, "--out", tmp_path / "new", "--status") == 0
    shown = capsys.readouterr()
    assert "cityscapes_to_kitti/source_only/seed0" in shown.out
    path.write_text(json.dumps(study(data)))
    assert call("bench", path, "--out", tmp_path / "new", "--status", "--only", "run2") == 0
    assert "1 left of 1 cells" in capsys.readouterr().err
    assert not (tmp_path / "new").exists(), "nothing is made"
