"""Names of configs are names of folders and files: one rule for all of them, checked when the config is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.bench import tiny
from uda.bench.rows import rows_of
from uda.config import ConfigError, load_config, load_run
from uda.presets import PRESETS

NO_NAMES = [
    "", ".", "..", "../../../evil", "a/b", "a\\b", "/abs", ".lock", ".hidden", "-x", "+x", "=1+1", "@x", "a b", "a\n",
    "a:b", "a*", "a.", "con", "NUL", "aux.txt", "Com1", "lpt9.x.y", "x" * 101, "é" * 60, "a\u202eb",
]  # fmt: skip
RESERVED_ROWS = ["warm_start", "warm_start-1", "Warm_Start2", "results.md", "Results.CSV", "report.html"]


def content(**changes: Any) -> dict[str, Any]:
    return tiny.content(Path("data"), **changes)


def refused(**changes: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(content(**changes))
    message = str(caught.value)
    assert message.startswith("config: ")
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", NO_NAMES)
def test_what_is_no_name_is_refused_everywhere(name: str) -> None:
    raw = content()
    wrong: list[dict[str, Any]] = [
        {"name": name},
        {"unseen": {name: raw["unseen"]["ika"]}},
        {"methods": {**raw["methods"], name: ["Supervised", "FDA"]}},
        {"streets": {"domains": {"kitti": {"splits": {name: 3}}}}},
    ]
    for changes, key in zip(wrong, ("name", "unseen", "methods", "streets"), strict=True):
        message = refused(**changes)
        assert message.startswith(f"config: {key}")
        assert "name" in message.removeprefix("config: name")


@pytest.mark.parametrize("name", RESERVED_ROWS)
def test_words_of_a_benchmarks_folder_name_no_row(name: str) -> None:
    message = refused(methods={**content()["methods"], name: ["Supervised", "FDA"]})
    assert f"methods.{name}: " in message
    assert "taken" in message


@pytest.mark.parametrize("name", ["ok", "1", "a.b", "a_b-c+d", "_x", "Größe", "x" * 100, "console", "com10"])
def test_other_names_are_fine(name: str) -> None:
    raw = content()
    config = load_config(
        content(name=name, unseen={name: raw["unseen"]["ika"]}, methods={**raw["methods"], name: ["Supervised", "L1"]})
    )
    assert load_config(config.resolved()) == config


def test_names_that_differ_by_case_only_are_refused() -> None:
    raw = content()
    spec = raw["unseen"]["ika"]
    assert "'A' and 'a'" in refused(unseen={"A": spec, "a": spec})
    assert "'source' and 'Source'" in refused(unseen={"Source": spec})
    assert "'fda' and 'FDA'" in refused(methods={**raw["methods"], "FDA": ["Supervised"]})
    assert "'source_only' and 'Source_Only'" in refused(methods={**raw["methods"], "Source_Only": ["Supervised", "L1"]})
    assert "'oracle' and 'Oracle'" in refused(methods={**raw["methods"], "Oracle": ["Supervised", "L1"]})
    assert load_config(content(oracle=False, methods={**raw["methods"], "Oracle": ["Supervised", "L1"]})).oracle is None
    # the same word in another form of Unicode is one folder on some systems
    assert "differ" in refused(methods={**raw["methods"], "\u212b": ["Supervised"], "\u00e5": ["Supervised", "L1"]})


def test_rows_that_are_added_take_no_name_that_differs_by_case_only() -> None:
    methods = {**content()["methods"], "BN_only": ["Supervised", "L1"], "advent": ["Supervised", "AdvEnt"]}
    assert rows_of(load_config(content(methods=methods)))["advent"].control == "bn_only-2"


@pytest.mark.parametrize("name", [True, None, 1.5])
def test_names_are_texts(name: Any) -> None:
    assert "a text" in refused(methods={**content()["methods"], name: ["Supervised"]})


def test_presets_are_names() -> None:
    settings = {**content()["settings"], "steps": 300_000}
    config = load_config(content(settings=settings, methods={"source_only": ["Supervised"]}), presets=list(PRESETS))
    assert set(config.methods) == {"source_only", *PRESETS}
    with pytest.raises(ConfigError, match=r"methods\.\.\./x"):
        load_config(content(), presets=["../x"])


@pytest.mark.parametrize(
    ("file", "name"), [("..x.yaml", "x"), ("my run!.yaml", "my-run"), ("con.yaml", "run-con"), ("-.yaml", "run")]
)
def test_a_single_run_gets_a_name_from_any_file(file: str, name: str, tmp_path: Path) -> None:
    path = tmp_path / file
    path.write_text(
        "source: {kind: cityscapes, root: a}\ntarget: {kind: folder, root: b}\n"
        "method: [Supervised, AdvEnt]\nsettings: {steps: 2}\n"
    )
    assert load_run(path)[0].name == name


@pytest.mark.parametrize("name", ["../x", "warm_start"])
def test_a_row_of_a_single_run_has_a_name_too(name: str) -> None:
    run = {"source": {"kind": "cityscapes", "root": "a"}, "target": {"kind": "folder", "root": "b"}}
    with pytest.raises(ConfigError):
        load_run({**run, "method": ["Supervised"], "settings": {"steps": 2}, "name": name + "/"})
