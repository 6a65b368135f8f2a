"""Values of data sets and label spaces have their types when the config is read; YAML that is no config is refused."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml

from tests.bench import tiny
from uda.config import ConfigError, load_config, parse_value
from uda.config.spaces import build_space


def content(**changes: Any) -> dict[str, Any]:
    return tiny.content(Path("data"), **changes)


def refused(source: Any, **options: Any) -> str:
    start = time.perf_counter()
    with pytest.raises(ConfigError) as caught:
        load_config(source, **options)
    assert time.perf_counter() - start < 2
    message = str(caught.value)
    assert "\n" not in message
    return message


OPTIONS = [
    ("root", 1, "a text is needed, got 1"),
    ("root", None, "a text is needed, got None"),
    ("split", 0, "a text is needed, got 0"),
    ("cache", 5, "a text or nothing (null) is needed, got 5"),
    ("limit", 1.5, "a whole number or nothing (null) is needed, got 1.5"),
    ("limit", True, "a whole number or nothing (null) is needed, got True"),
    ("limit", "3", "a whole number or nothing (null) is needed, got '3'"),
    ("limit", 0, "must be at least 1, got 0"),
    ("labelled", "maybe", "true or false is needed, got 'maybe'"),
    ("strict", 1, "true or false is needed, got 1"),
    ("unknown", "skip", "'error' or 'ignore' is needed, got 'skip'"),
    ("split", "trian", "no split 'trian'; the nearest is 'train'"),
    ("aliases", ["road"], "valid dictionary"),
    ("aliases", {"road": 1}, "valid string"),
]


@pytest.mark.parametrize("key", ["source", "target", "source_val", "unseen.ika"])
@pytest.mark.parametrize(("option", "value", "message"), OPTIONS)
def test_options_of_data_sets_are_typed(key: str, option: str, value: Any, message: str) -> None:
    said = refused(content(), changes={f"{key}.{option}": value})
    where = "source.0" if key == "source" and option == "aliases" else key
    assert said.startswith(f"config: {where}.{option}")
    assert message in said


@pytest.mark.parametrize(("value", "message"), [
    ([{"name": "road", "members": "road"}, "sky"], "classes.0.members"),
    ([{"name": "road", "colour": None}], "classes.0.colour"),
    ([{"name": "road", "colour": "red"}], "classes.0.colour"),
    ([{"name": "road", "ids": 3}], "classes.0.ids"),
    ([{"name": 3}], "classes.0.name"),
    ([{"name": "road", "thing": "maybe"}], "classes.0.thing"),
    ([{"name": "road", "colors": [1, 2, 3]}], "classes.0.colors"),
    ([3], "classes.0"),
    (3, "classes"),
    ([], "classes"),
])  # fmt: skip
def test_classes_are_typed(value: Any, message: str) -> None:
    folder = {"kind": "folder", "root": "x", "classes": value}
    assert refused(content(source=folder)).startswith(f"config: source.{message}")
    assert f"space: {message}" in refused(content(space={"classes": value}))


@pytest.mark.parametrize("space", [
    {"base": "cityscapes19", "merge": 3}, {"base": "cityscapes19", "merge": {"vehicle": "car"}},
    {"base": "cityscapes19", "merge": {3: ["car"]}},
    {"base": "cityscapes19", "select": "road"}, {"base": 3}, {"common": "camvid11"}, {"common": []}, {"common": [3]},
    {"base": "cityscapes19", "name": 3}, {"base": "cityscapes19", "select": [3]}, {},
])  # fmt: skip
def test_spaces_are_typed(space: dict[str, Any]) -> None:
    assert refused(content(space=space)).startswith("config: space: ")
    with pytest.raises(ConfigError):
        build_space(space)


def test_options_of_a_reader_with_annotations_of_its_own() -> None:
    kind = f"{__name__}:reader"
    good = {"kind": kind, "root": "x", "size": [3, 4], "scales": {"a": 1}, "anything": [1, "x"]}
    assert load_config(content(target=good)).target.arguments["size"] == [3, 4]
    for key, value, message in (
        ("size", [3], "a list of a whole number and a whole number"),
        ("size", ["3", 4], "whole number"),
        ("scales", [1], "a mapping"),
        ("mode", "c", "'a' or 'b' is needed, got 'c'"),
    ):
        assert message in refused(content(target={**good, key: value}))


Mode = Literal["a", "b"]


def reader(
    root: str | Path, size: tuple[int, int] = (1, 1), scales: dict[str, float] | None = None, mode: Mode = "a",
    anything: Any = None, unknown_type: Nonsense = None,  # type: ignore[name-defined]  # noqa: F821
) -> None:  # fmt: skip
    raise NotImplementedError


def test_weights_are_finite_numbers() -> None:
    for weight in ("2", True, float("inf"), float("nan"), 0):
        source = [{**content()["source"], "weight": weight}, content()["source"]]
        assert "weight" in refused(content(source=source))


# ---- YAML -----------------------------------------------------------------------------------------------------------

LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 30))
MERGES = "a0: &a0 {x: 1}\n" + "".join(f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}\n" for i in range(1, 30))


@pytest.mark.parametrize(("text", "message"), [
    ("methods: &a [*a]\n", "refers to itself"),
    ("methods: &a {b: *a}\n", "refers to itself"),
    ("a: " + "[" * 101 + "]" * 101, "more than 100 levels"),
    ("a: " + "[" * 100_000, "more than 100 levels"),
    ("a: " + "{b: " * 500 + "1" + "}" * 500, "more than 100 levels"),
    (LAUGHS, "100000"),
    (MERGES, "100000"),
    ("a: 2024-99-99\n", "not valid YAML"),
    ("a: !!int x\n", "not valid YAML"),
    ("a: !!timestamp x\n", "not valid YAML"),
    ("a: !!python/object:os.system x\n", "not valid YAML"),
    ("? [a]\n: 1\n", "not valid YAML"),
    ("a: 1\n---\nb: 2\n", "not valid YAML"),
    ("a: \x00", "not valid YAML"),
    ("", "a mapping of keys"),
    ("# " + "x" * 2_000_000, "larger than"),
])  # fmt: skip
def test_what_is_no_config_is_refused_at_once(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    said = refused(path)
    assert said.startswith(f"{path}: ")
    assert message in said
    assert len(said) < 500


def test_a_mapping_may_refer_to_itself_as_little(tmp_path: Path) -> None:
    loop: dict[str, Any] = content()
    loop["methods"]["x"] = loop
    assert "100 levels" in refused(loop)


def test_aliases_within_reason_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    raw = content()
    raw["source_val"] = raw["source"]
    path.write_text(yaml.safe_dump(raw))
    assert "&id" in path.read_text()
    assert load_config(path).source_val == load_config(raw).source_val


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-8"])
def test_a_byte_order_mark_is_no_part_of_the_first_key(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(content()), encoding=encoding)
    assert load_config(path).name == "tiny"


def test_a_file_of_another_encoding_or_none_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(b"\xff\xfe\x00x")
    assert refused(path).startswith(f"{path}: not valid YAML")
    assert "is a folder" in refused(tmp_path)


def test_values_on_the_command_line_are_yaml_within_reason() -> None:
    for text in ("&a [*a]", "[" * 200, "2024-99-99", "!!int x"):
        with pytest.raises(ValueError, match="is not valid YAML"):
            parse_value(text)


@pytest.mark.parametrize(("key", "value"), [
    ("space", "x" * 10_000), ("space", {"x" * 10_000: 1}), ("x" * 10_000, 1), ("seeds", ["x" * 10_000]),
    ("target", "x" * 10_000), ("target.kind", "x" * 10_000), ("target.root", {"x": "y" * 10_000}),
    ("methods", ["x" * 10_000]), ("methods.x", ["x" * 10_000]), ("methods.x", "x" * 10_000),
    ("methods.x", [["y" * 10_000]]),
    ("model.name", "x" * 10_000), ("model.encoder", "${" + "x" * 10_000 + "}"), ("methods.x", {"preset": "x" * 10_000}),
    ("settings.optimizer", "x" * 10_000), ("settings.steps", "x" * 10_000), ("evaluate.classes", ["x" * 10_000]),
    ("evaluate.domains", {"x" * 10_000: {}}), ("methods.x", {"methods": ["Supervised"], "control": "x" * 10_000}),
    ("methods.x", [{"FDA": {"beta": "x" * 10_000}}]), ("name", "x" * 10_000),
])  # fmt: skip
def test_long_values_are_cut(key: str, value: Any) -> None:
    assert len(refused(content(), changes={key: value})) < 2500
    assert "x" * 300 not in refused(content(), changes={key: value})
