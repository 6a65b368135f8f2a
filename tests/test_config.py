from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tests.bench import tiny
from uda.bench.build import make_streets
from uda.config import ConfigError, Scoring, build_method, kind_of, load_config, parse_spec, streets_folder
from uda.data import Cityscapes
from uda.data.streets import render, vary

SHIPPED = sorted((Path(__file__).parent.parent / "benchmarks").glob("*.yaml"))
BENCHMARKS = [path for path in SHIPPED if kind_of(path) == "benchmark"]
ROOTS = {"cityscapes": "a", "kitti": "b", "ika": "c", "camvid": "d"}


def content(**changes: Any) -> dict[str, Any]:
    return tiny.content(Path("data"), **changes)


def error(tmp_path: Path, change: Any, roots: dict[str, str] | None = None) -> str:
    """The message for a config with a mistake; also that it is short and begins with the file."""
    raw = content()
    change(raw)
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(raw))
    with pytest.raises(ConfigError) as caught:
        load_config(path, roots)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.stem)
def test_shipped_configs_are_valid_and_read_back_equal(path: Path) -> None:
    config = load_config(path, ROOTS)
    assert load_config(config.resolved()) == config


def test_there_are_shipped_configs() -> None:
    assert {path.stem for path in BENCHMARKS} >= {"quickstart", "cityscapes_kitti_ika", "camvid_kitti", "streets_kitti"}


def test_unknown_keys_name_the_nearest(tmp_path: Path) -> None:
    message = error(tmp_path, lambda raw: raw.update(sedes=[1]))
    assert message.startswith("sedes: unknown key; the nearest is 'seeds' (known: name, space")
    message = error(tmp_path, lambda raw: raw["settings"].update(batchsize=3))
    assert message.startswith("settings.batchsize: unknown key; the nearest is 'batch_size'")
    message = error(tmp_path, lambda raw: raw["settings"].update(augment={"flipp": 0.5}))
    assert message.startswith("settings.augment.flipp: unknown key; the nearest is 'flip' (known: scale")
    message = error(tmp_path, lambda raw: raw["target"].update(splitt="val"))
    assert message.startswith("target.splitt: unknown key; the nearest is 'split'")
    message = error(tmp_path, lambda raw: raw["methods"].update(x={"test_tim": "AdaBN"}))
    assert message.startswith("methods.x.test_tim: unknown key; the nearest is 'test_time'")
    message = error(tmp_path, lambda raw: raw["warm_start"].update(stepps=1))
    assert message.startswith("warm_start.stepps: unknown key; the nearest is 'steps'")


def test_weights_belong_to_a_source_of_several_data_sets(tmp_path: Path) -> None:
    for key in ("source", "target", "target_val"):
        message = error(tmp_path, lambda raw, key=key: raw[key].update(weight=0.5))
        assert message == f"{key}.weight: only a source that lists several data sets has weights"
    raw = content()
    raw["source"] = [raw["source"], {**raw["target"], "limit": 2, "weight": 0.5}]
    config = load_config(raw)
    assert [one.weight for one in config.source] == [1.0, 0.5]
    assert load_config(config.resolved()) == config


def test_wrong_values_list_what_is_allowed(tmp_path: Path) -> None:
    message = error(tmp_path, lambda raw: raw["settings"].update(optimizer="adam"))
    assert message == (
        "settings.optimizer: no optimizer 'adam'; the nearest is 'adamw' (known: adamw, sgd), or package.module:Name"
    )
    assert "greater than 0, got -1" in error(tmp_path, lambda raw: raw["settings"].update(lr=-1))
    assert "known: cityscapes, kitti" in error(tmp_path, lambda raw: raw["source"].update(kind="kity"))
    assert "nearest is 'kitti'" in error(tmp_path, lambda raw: raw["source"].update(kind="kity"))


def test_methods_are_checked_when_the_config_is_loaded(tmp_path: Path) -> None:
    def rows(**more: Any) -> Any:
        return lambda raw: raw["methods"].update(more)

    assert "'FDA'" in error(tmp_path, rows(x=["Supervised", "FDAA"]))
    message = error(tmp_path, rows(x=["Supervised", {"FDA": {"bta": 0.1}}]))
    assert message.startswith("methods.x.1: ")
    assert "beta" in message
    assert "beta" in error(tmp_path, rows(x=[{"FDA": {"beta": 7.0}}]))
    assert "test_time" in error(tmp_path, rows(x=["AdaBN"]))
    assert "in training" in error(tmp_path, rows(x={"test_time": "FDA"}))
    assert "a method is a name" in error(tmp_path, rows(x=[["Supervised"]]))
    assert "at least one method" in error(tmp_path, rows(x=[]))
    assert "methods or test_time" in error(tmp_path, rows(x={}))
    assert "also a folder's" in error(tmp_path, rows(**{"a/b": ["Supervised"]}))


def test_the_comparison_is_fair_by_construction(tmp_path: Path) -> None:
    assert "source_only: [Supervised] is missing" in error(tmp_path, lambda raw: raw["methods"].pop("source_only"))
    message = error(tmp_path, lambda raw: raw["methods"].update(source_only=["Supervised", "FDA"]))
    assert "without target images" in message
    assert "built in" in error(tmp_path, lambda raw: raw["methods"].update(oracle=["Supervised"]))
    message = error(
        tmp_path, lambda raw: raw["methods"].update(x={"methods": ["Supervised"], "settings": {"steps": 9}})
    )
    assert message.startswith("methods.x.settings.steps: all rows of a table train for the same number of steps")
    assert "seeds are a list" in error(tmp_path, lambda raw: raw["settings"].update(seed=3))


def test_more_mistakes(tmp_path: Path) -> None:
    assert error(tmp_path, lambda raw: raw.pop("target")) == "target: is missing"
    assert "seeds must be different" in error(tmp_path, lambda raw: raw.update(seeds=[1, 1]))
    assert "name of a domain" in error(tmp_path, lambda raw: raw.update(unseen={"target": raw["target_val"]}))
    assert error(tmp_path, lambda raw: raw["source"].pop("root")).startswith("source.root: is missing")
    assert "steps is missing" in error(tmp_path, lambda raw: raw.update(warm_start={"lr": 0.1}))


def test_roots_are_filled_in(tmp_path: Path) -> None:
    raw = content()
    raw["target"]["root"] = "${kitti}/x"
    config = load_config(raw, {"kitti": "/data/kitti"})
    assert config.target.arguments["root"] == "/data/kitti/x"
    message = error(tmp_path, lambda raw: raw["target"].update(root="${kitti}"))
    assert message == "target.root: '${kitti}' needs a folder for 'kitti'; give --root kitti=PATH"


def test_streets_folder_depends_on_content_alone() -> None:
    section = {"out": "here", "domains": {"kitti": {"splits": {"train": 3}}}}
    first = load_config(content(streets=section)).streets
    again = load_config(content(streets={**section, "out": "there"})).streets
    other = load_config(content(streets={**section, "seed": 1})).streets
    assert first is not None
    assert again is not None
    assert other is not None
    assert streets_folder(first).name == streets_folder(again).name != streets_folder(other).name
    raw = content(streets=section)
    raw["target"]["root"] = "${streets}/kitti"
    assert load_config(raw).target.arguments["root"] == f"{streets_folder(first)}/kitti"


def test_streets_with_changes(tmp_path: Path) -> None:
    domains = {
        "dim": {"base": "cityscapes", "changes": {"sensor.contrast": 0.7}, "splits": {"val": 2}, "size": [32, 64]},
        "kitti": {"splits": {"val": 1}, "size": [32, 64], "changes": {"camera.blur": 1}},
    }
    section = load_config(content(streets={"out": str(tmp_path), "domains": domains})).streets
    assert section is not None
    assert make_streets(section)
    assert not make_streets(section)
    written = Cityscapes(streets_folder(section) / "dim", "val")[1].image.numpy().transpose(1, 2, 0)
    domain = vary("cityscapes", {"sensor.contrast": 0.7})
    np.testing.assert_array_equal(written, render(domain, 0, (32, 64), index=1_000_001)[0])
    assert json.loads((streets_folder(section) / "kitti/streets.json").read_text())["changes"] == {"camera.blur": 1.0}


def test_streets_folders_keep_their_names() -> None:
    """Changes give another folder; without any, it is the one that recorded results name."""
    quickstart = load_config(BENCHMARKS[0].with_name("quickstart.yaml"))
    assert quickstart.streets is not None
    assert streets_folder(quickstart.streets).name == "c18a36cd15"
    section = {"domains": {"kitti": {}}}
    names = {
        streets_folder(load_config(content(streets=other)).streets).name  # type: ignore[arg-type]
        for other in (
            section, {"domains": {"kitti": {"changes": {"camera.blur": 1}}}},
            {"domains": {"kitti": {"changes": {"camera.blur": 2}}}}, {"domains": {"kitti": {"base": "ika"}}},
        )
    }  # fmt: skip
    assert len(names) == 4


@pytest.mark.parametrize(
    ("domains", "message"),
    [
        ({"dim": {}}, "'dim': domain is 'dim'; known: cityscapes, ika, kitti"),
        ({"kiti": {}}, "'kiti': domain is 'kiti'; the nearest is 'kitti'"),
        ({"dim": {"base": "itti"}}, "'dim': domain is 'itti'; the nearest is 'kitti'"),
        ({"kitti": {"changes": {"camera.blr": 1}}}, "'kitti': unknown entry 'camera.blr'.*'camera.blur'"),
        ({"kitti": {"changes": {"camera.blur": -1}}}, "'kitti': camera.blur is -1: .*0"),
        ({"a": {"base": "ika"}, "A": {"base": "ika"}}, "'a' and 'A' differ by case only"),
    ],
)
def test_wrong_streets_are_named(domains: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=rf"^config: streets.domains: .*{message}") as caught:
        load_config(content(streets={"domains": domains}))
    assert "\n" not in str(caught.value)


def test_warm_start_inherits_the_settings() -> None:
    config = load_config(content(warm_start={"steps": 7, "lr": 0.5}))
    assert config.warm_start is not None
    assert (config.warm_start.steps, config.warm_start.lr) == (7, 0.5)
    assert config.warm_start.crop == config.settings.crop


def test_yaml_is_read_strictly(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("name: a\nname: b\n")
    with pytest.raises(ConfigError, match="'name' occurs twice"):
        load_config(path)
    path.write_text("a: [1\n")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_config(path)
    path.write_text("- 1\n")
    with pytest.raises(ConfigError, match="a mapping of keys"):
        load_config(path)
    with pytest.raises(ConfigError, match="no such config"):
        load_config(tmp_path / "none.yaml")


def test_numbers_like_1e_4_are_numbers(tmp_path: Path) -> None:
    text = yaml.safe_dump(content()).replace("beta: 0.05", "beta: 5e-2")
    path = tmp_path / "x.yaml"
    path.write_text(text)
    assert load_config(path).methods["fda"].methods == [{"Supervised": {}}, {"FDA": {"beta": 0.05}}]


def test_specs() -> None:
    assert parse_spec("AdaBN") == parse_spec({"AdaBN": None}) == {"AdaBN": {}}
    assert type(build_method({"FDA": {"beta": 0.1}})).__name__ == "FDA"
    with pytest.raises(ConfigError, match="a method is"):
        parse_spec({"A": {}, "B": {}})


def evaluated(row: dict[str, Any] | None = None, **evaluate: Any) -> Any:
    """A change: the config's ``evaluate``, and a row with one of its own."""

    def change(raw: dict[str, Any]) -> None:
        raw["evaluate"] = evaluate
        if row is not None:
            raw["methods"]["x"] = {"methods": ["Supervised", "FDA"], **row}

    return change


def test_evaluation_is_of_the_config_the_row_and_the_domain() -> None:
    raw = content()
    evaluated(
        {"evaluate": {"flip": True, "model": "student"}},
        input_size=[32, 64], batch_size=2, domains={"source": {"input_size": None, "scale": 0.5}},
        classes=["road", "vehicle"],
    )(raw)  # fmt: skip
    raw["methods"]["again"] = {"evaluate": {"scales": [0.5, 1]}}
    config = load_config(raw)
    assert load_config(config.resolved()) == config
    assert config.evaluate.classes == {"2 classes": ["road", "vehicle"]}
    assert config.evaluate.on("target") == Scoring(input_size=(32, 64), batch_size=2)
    own = config.evaluate_of(config.methods["x"])
    assert own.on("target") == Scoring(input_size=(32, 64), batch_size=2, flip=True)
    assert own.on("source") == Scoring(scale=0.5, batch_size=2, flip=True)
    assert config.evaluate_of(config.methods["again"]).on("ika").scales == (0.5, 1.0)


def test_only_rows_with_a_teacher_are_scored_by_it() -> None:
    raw = content(evaluate={"model": "teacher"})
    raw["methods"]["mix"] = ["Supervised", "ClassMix"]
    config = load_config(raw)
    models = {name: config.evaluate_of(row).model for name, row in config.methods.items()}
    assert models == {"source_only": "student", "fda": "student", "adabn": "student", "mix": "teacher"}
    raw["settings"]["teacher"] = {"decay": 0.9}
    config = load_config(raw)
    assert {config.evaluate_of(row).model for row in config.methods.values()} == {"teacher"}


def test_evaluations_that_cannot_be(tmp_path: Path) -> None:
    wrong = [
        (evaluated(flop=True), "evaluate.flop: unknown key; the nearest is 'flip'"),
        (evaluated(scale=0.5, input_size=[8, 8]), "evaluate: input_size is (8, 8) and scale 0.5; only one"),
        (
            evaluated(classes=["road", "vehicles"]),
            "evaluate: classes.2 classes: no class 'vehicles'; the nearest is 'vehicle'",
        ),
        (evaluated(classes={"some": ["road", "road"]}), "evaluate: classes.some: classes are different"),
        (evaluated(domains={"taget": {"flip": True}}), "evaluate.domains: no domain 'taget'; the nearest is 'target'"),
        (evaluated(domains={"target": {"model": "teacher"}}), "evaluate: domains.target.model: unknown key"),
        (evaluated(domains={"target": {"stride": [4, 4]}}), "evaluate: domains.target: stride is (4, 4)"),
        (
            evaluated(domains={"target": {"aux": "much"}}),
            "evaluate: domains.target.aux: Input should be a valid number",
        ),
        (evaluated(model="teacher"), "evaluate.model: no row has a teacher"),
        (evaluated({"evaluate": {"flop": 1}}), "methods.x.evaluate.flop: unknown key; the nearest is 'flip'"),
        (evaluated({"evaluate": {"model": "teacher"}}), "methods.x.evaluate.model: the network of this row is trained"),
        (evaluated({"evaluate": {"classes": ["road"]}}), "methods.x.evaluate.classes: all rows of a table"),
        (evaluated({"evaluate": {"score_at": "input"}}), "methods.x.evaluate: all rows of a table are scored against"),
        (
            evaluated({"evaluate": {"input_size": [16, 16]}}, score_at="input"),
            "methods.x.evaluate: all rows of a table are scored against",
        ),
        (
            evaluated({"methods": None, "test_time": "TENT", "evaluate": {"flip": True}}),
            "methods.x.evaluate: TENT adapts to every pass",
        ),
        (evaluated({"methods": None, "test_time": "TENT"}, window=[16, 16]), "methods.x.evaluate: TENT adapts"),
    ]
    for change, message in wrong:
        assert error(tmp_path, change).startswith(message)
    mend = {"methods": None, "test_time": "TENT", "evaluate": {"window": None}}
    raw = content()
    evaluated(mend, window=[16, 16])(raw)
    assert load_config(raw).evaluate_of(load_config(raw).methods["x"]).on("target").window is None
    raw["methods"]["source_only"] = {"methods": ["Supervised"], "evaluate": {"flip": True}}
    with pytest.raises(ConfigError, match=r"methods.source_only.evaluate: is the config's own"):
        load_config(raw)
