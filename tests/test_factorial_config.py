"""The config of a study: which runs it is made of, and every mistake in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.bench import tiny
from uda.bench.plan import make_plan
from uda.config import ConfigError, kind_of, load_config, load_factorial, load_run

SHIPPED = sorted((Path(__file__).parent.parent / "benchmarks").glob("factorial_*.yaml"))
ROOTS = {"kitti": "b", "camvid": "d"}
FACTORS: dict[str, Any] = {
    "flip": {"low": {"settings.augment.flip": 0}, "high": {"settings.augment.flip": 0.5}},
    "dropout": {"low": {"model.dropout": 0.0}, "high": {"model.dropout": 0.4}},
    "smoothing": {"low": {"Supervised.label_smoothing": 0.0}, "high": {"Supervised.label_smoothing": 0.1}},
}


def content(**changes: Any) -> dict[str, Any]:
    base = tiny.content(Path("data"))
    for key in ("warm_start", "methods"):
        del base[key]
    base["settings"]["device"] = "cpu"
    return {**base, "kind": "factorial", "name": "s", "factors": FACTORS, "design": {"runs": 4}, **changes}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_studies_are_valid_and_read_back_equal(path: Path) -> None:
    assert kind_of(path) == "factorial"
    config = load_factorial(path, ROOTS)
    assert load_factorial(config.resolved()) == config
    assert config.name == path.stem
    assert config.plan.resolution == 4
    assert len(config.runs()) == 32


def test_a_study_is_a_benchmark_whose_rows_are_the_runs() -> None:
    config = load_factorial(content())
    assert [run.name for run in config.runs()] == ["source_only", "run2", "run3", "run4"]
    assert [tuple(run.levels.values()) for run in config.runs()] == [
        (False, False, False), (True, False, True), (False, True, True), (True, True, False)
    ]  # fmt: skip
    cells = {cell.method: cell for cell in make_plan(config.benchmark())}
    assert list(cells) == ["source_only", "run2", "run3", "run4"]
    for run in config.runs():
        cell = cells[run.name]
        assert cell.settings is not None
        assert cell.settings.augment.flip == (0.5 if run.levels["flip"] else 0)
        assert cell.settings.steps == 2
        assert cell.training["model"]["dropout"] == (0.4 if run.levels["dropout"] else 0)
        smoothing = 0.1 if run.levels["smoothing"] else 0.0
        assert cell.training["methods"] == [{"Supervised": {"label_smoothing": smoothing}}]


def test_with_methods_that_adapt_source_only_is_a_row_of_its_own() -> None:
    config = load_factorial(content(methods=["Supervised", "ClassMix"]))
    assert [run.name for run in config.runs()] == ["run1", "run2", "run3", "run4"]
    assert list(config.benchmark().methods) == ["source_only", "run1", "run2", "run3", "run4"]
    assert config.benchmark().methods["source_only"].methods == [{"Supervised": {}}]


def levels(key: str, low: Any, high: Any) -> dict[str, Any]:
    return {"low": {key: low}, "high": {key: high}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "factorail"}, "kind: factorial is needed, got 'factorail'"),
        ({"factors.flip.high": {"settings.flip": 1}}, "factors.flip: low and high must set the same keys"),
        ({"factors.flip": levels("settings.augment.flip", 0, 0)}, "factors.flip: low and high are the same"),
        ({"factors.flip": levels("settings.augment.flpi", 0, 1)}, "flip.low.settings.augment.flpi: unknown key; the"),
        ({"factors.flip": levels("settings.augment.flip", 0, 7)}, "factors.flip.high.settings.augment.flip: Input"),
        ({"factors.flip": levels("augment.flip", 0, 1)}, "factors.flip: no place 'augment.flip' to change; known: set"),
        ({"factors.flip": levels("settings", {}, {"lr": 1})}, "factors.flip: 'settings' is no entry; write settings.N"),
        ({"factors.flip": levels("settings.steps", 1, 2)}, "settings.steps is the same for all runs"),
        ({"factors.flip": levels("settings.lr.x", 1, 2)}, "factors.flip.low: settings.lr.x: there is no 'x' in"),
        ({"factors.flip": levels("model.dropot", 0, 1)}, "low.model.dropot: model 'segmenter' has no such option"),
        ({"factors.flip": levels("Supervised.smooth", 0, 1)}, "factors.flip.low.Supervised.smooth: "),
        ({"factors.flip": levels("Supervised.weight", -1, 1)}, "flip.low.Supervised.weight: weight is -1, must be"),
        ({"factors.flip": levels("settings.augment", {}, {"flip": 1}),
          "factors.dropout": levels("settings.augment.blur", 0, 1)},
         "factors.dropout: changes settings.augment.blur, as factor flip does"),
        ({"factors.a/b": levels("settings.lr", 1, 2)}, "factors.a/b: a name"),
        ({"design.runs": 3}, r"design: no design of 3 factors in 3 runs; there are 4 runs \(resolution 3\), 8 runs"),
        ({"design": {"resolution": 9}}, "design.resolution: Input should be less than or equal to 7, got 9"),
        ({"design": {"runs": 4, "resolution": 3}}, "design: runs or resolution, not both"),
        ({"design": {"runz": 4}}, "design.runz: unknown key; the nearest is 'runs'"),
        ({"methods": []}, r"methods: a list of at least one method is needed, got \[\]"),
        ({"methods": ["Supervsed"]}, "methods.0: "),
        ({"oracle": False}, "oracle: unknown key"),
        ({"target.kind": "nope"}, "target.kind: no data set kind 'nope'"),
        ({"seeds": [0, 1, 0]}, r"config: seeds must be different and not negative, got \[0, 1, 0\]"),
        ({"unseen": {"target": {"kind": "ika", "root": "data"}}}, "unseen: 'target' is the name of a domain of the sh"),
        ({"settings.teacher": {}, "evaluate": {"model": "teacher"}, "settings.average": True},
         "evaluate.model: is teacher, but with settings.average the average is what is scored"),
        ({"settings.lr": -1}, "settings.lr: Input should be greater than 0"),
    ],
)  # fmt: skip
def test_mistakes_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_factorial(content(), changes=changes)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("config: ")


def test_other_readers_say_who_takes_a_study() -> None:
    for read in (load_config, load_run):
        with pytest.raises(ConfigError, match=r"kind: got 'factorial'; uda bench and uda\.config\.load_factorial take"):
            read(content())
