"""What the command line says of mistakes, of bugs, and of names that mean something to a terminal or a spreadsheet."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

from tests.bench import tiny
from uda.bench import Table, make_table, render
from uda.bench.render import terminal
from uda.cli import common, evaluate
from uda.cli.common import FAILED, WRONG_INPUT, guarded, integers, size
from uda.config import ConfigError, EvaluateSpec, load_config
from uda.data import DataError
from uda.engine import Evaluation
from uda.engine.checkpoint import CheckpointError, load
from uda.files import spreadsheet_safe


def outcome(fail: Callable[[], Any], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit code and message of a command that does this."""
    with pytest.raises(typer.Exit) as caught:
        guarded(lambda: fail())()
    return caught.value.exit_code, capsys.readouterr().err


def as_library(error: Exception) -> Callable[[], Any]:
    """A function of the library that raises an error on purpose."""
    scope: dict[str, Any] = {"__name__": "uda.somewhere", "error": error}
    exec("def fail():\n    raise error\n", scope)
    fail: Callable[[], Any] = scope["fail"]
    return fail


@pytest.mark.parametrize("bug", [
    lambda: {}["key"], lambda: None.x, lambda: 1 + "x", lambda: [][3], lambda: 1 / 0, lambda: undefined,  # noqa: F821
])  # fmt: skip
def test_a_bug_does_not_pass_for_the_users_mistake(bug: Any, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = outcome(bug, capsys)
    assert code == FAILED == 1
    assert "(internal error: " in said
    assert "--debug shows the traceback)" in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize("error", [
    lambda: np.zeros(3).reshape(2, 2), lambda: int("x"), lambda: json.loads("{"), lambda: np.stack([]),
])  # fmt: skip
def test_a_value_error_of_another_library_names_its_type(error: Any, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = outcome(error, capsys)
    assert code == FAILED
    assert "Error; --debug shows the traceback)" in said


@pytest.mark.parametrize("error", [ValueError("seed is -1"), ConfigError("x.yaml: seeds: wrong"), DataError("a.png")])
def test_mistakes_of_the_user_are_told_plainly(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = outcome(as_library(error), capsys)
    assert code == WRONG_INPUT == 2
    assert said == f"error: {error}\n"


def test_what_failed_in_the_work_is_no_bug(capsys: pytest.CaptureFixture[str]) -> None:
    for error in (CheckpointError("x.pt: damaged"), TypeError("a segmenter is needed"), KeyError("fda")):
        code, said = outcome(as_library(error), capsys)
        assert code == FAILED
        assert "internal" not in said
        assert type(error).__name__ in said
    code, said = outcome(as_library(FileNotFoundError(2, "No such file", "x")), capsys)
    assert code == WRONG_INPUT


def test_a_message_from_outside_does_not_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    _, said = outcome(as_library(ValueError("a\x1b[2Jb \r\u202ec")), capsys)
    assert said == "error: a\\x1b[2Jb \\r\\u202ec\n"


@pytest.mark.parametrize("text", ["²", "1,²", "", ",", "1;2", "0x1", "-1", "1,1", "1" * 5000])
def test_seeds_are_plain_numbers(text: str) -> None:
    with pytest.raises(ValueError, match=r"--seeds takes different whole numbers") as caught:
        integers(text, "--seeds")
    assert len(str(caught.value)) < 250
    assert integers("0, 12", "--seeds") == [0, 12]


@pytest.mark.parametrize("text", ["²x3", "3x²", "0x5", "5x0", "-1x2", "5", "x", "1x2x3", "1" * 5000 + "x1"])
def test_sizes_are_plain_numbers(text: str) -> None:
    with pytest.raises(ValueError, match=r"--size is HEIGHTxWIDTH") as caught:
        size(text, "--size")
    assert len(str(caught.value)) < 250
    assert size("96X192", "--size") == (96, 192)


# ---- names ----------------------------------------------------------------------------------------------------------

HOSTILE = ("[/x]", "[red]road", "=1+1", ":smile:", "[link=http://x]y[/link]", "a|b")


def evaluation() -> Evaluation:
    number = len(HOSTILE)
    return Evaluation(np.eye(number, dtype=np.int64)[None].repeat(2, 0), np.ones(2), ("a", "b"), HOSTILE)


def test_names_with_markup_are_shown_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    spec = EvaluateSpec(classes={"[/y]": list(HOSTILE[:2])})
    evaluate._show({"[/z]": evaluation(), "[b]z": evaluation()}, {"[/AdaBN]": {}}, spec)
    said = capsys.readouterr().out
    for name in (*HOSTILE, "[/z]", "[b]z", "[/y]", "[/AdaBN]"):
        assert name in said


@pytest.fixture
def table(tmp_path: Path) -> Table:
    """Of a benchmark without results, with names that look like markup."""
    return replace(make_table(load_config(tiny.content(Path("data"))), tmp_path), name="[/x]", notes=("[/n]",))


def test_a_benchmarks_table_and_bars_show_names_as_they_are(table: Table, capsys: pytest.CaptureFixture[str]) -> None:
    common.console().print(terminal(table))
    assert "[/x]" in capsys.readouterr().out
    with common.Progress(*common.columns(), console=common.console(stderr=True), disable=False) as progress:
        progress.add_task("[/x]", total=1)
        progress.refresh()
    assert "[/x]" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["=1+1", "+x", "-x", "@SUM(A1)", "\t=1", "\r=1", "=", "-1+2", "+", "-"])
def test_cells_that_a_spreadsheet_would_run_are_texts(text: str) -> None:
    assert spreadsheet_safe(text) == "'" + text


@pytest.mark.parametrize("text", ["", "road", "-1.5", "+3", "-1e-05", "1=1", 3, -2.5, None, "-inf", "iou/=x"])
def test_numbers_and_plain_texts_stay(text: Any) -> None:
    assert spreadsheet_safe(text) == text


def test_scores_as_csv_are_safe(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    results = {"=cmd|' /C calc'!A0": evaluation()}
    evaluate._write_csv(evaluate._content(results, "m", None, EvaluateSpec()), path)
    rows = list(csv.reader(io.StringIO(path.read_text())))
    assert {row[0] for row in rows[1:]} == {"'=cmd|' /C calc'!A0"}
    assert [row[1] for row in rows if row[1].startswith("iou/")] == [f"iou/{name}" for name in HOSTILE]


def test_markdown_cells_are_one_line() -> None:
    lines = render.markdown_grid(["class"], [["a|b\nc"]])
    assert lines[-1] == "| a\\|b c |"


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_checkpoint_with_code_is_not_recommended(tmp_path: Path) -> None:
    import pickle

    import torch

    for number, content in enumerate((pickle.dumps({"x": print}), b"\x80\x02.", b"x" * 100)):
        path = tmp_path / f"{number}.pt"
        path.write_bytes(content)
        with pytest.raises(CheckpointError) as caught:
            load(path)
        assert "weights_only" not in str(caught.value)
        assert "\n" not in str(caught.value)
    torch.save({"x": print}, tmp_path / "code.pt")
    with pytest.raises(CheckpointError) as caught:
        load(tmp_path / "code.pt")
    assert "weights_only" not in str(caught.value)
