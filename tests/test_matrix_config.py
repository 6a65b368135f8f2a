"""The config of a matrix: what benchmarks it is made of, and every mistake in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.bench import tiny
from uda.config import ConfigError, kind_of, load_config, load_matrix, load_run

SHIPPED = sorted((Path(__file__).parent.parent / "benchmarks").glob("matrix_*.yaml"))
ROOTS = {"cityscapes": "a", "kitti": "b", "ika": "c", "camvid": "d"}


def domain(name: str) -> dict[str, Any]:
    return {key: {"kind": name, "root": f"data/{name}", "split": key} for key in ("train", "val")}


def content(**changes: Any) -> dict[str, Any]:
    base = tiny.content(Path("data"))
    return {
        "kind": "matrix", "name": "m", "space": "street8",
        "domains": {"cityscapes": domain("cityscapes"), "kitti": domain("kitti")},
        "unseen": {"ika": {"kind": "ika", "root": "data/ika", "split": "val"}},
        **{key: base[key] for key in ("model", "settings", "seeds", "resamples")},
        "rows": {"dacs": ["Supervised", "ClassMix"]},
        **changes,
    }  # fmt: skip


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_matrices_are_valid_and_read_back_equal(path: Path) -> None:
    assert kind_of(path) == "matrix"
    config = load_matrix(path, {key: ROOTS[key] for key in ROOTS if f"${{{key}}}" in path.read_text()})
    assert load_matrix(config.resolved()) == config
    assert config.name == path.stem


def test_a_matrix_is_pairs_and_all_together() -> None:
    settings = {"evaluate": {"domains": {"kitti": {"scale": 0.5}, "ika": {"flip": True}}}}
    first, second, both = load_matrix(content(**settings, combined={"balance": "image"})).parts()
    assert [part.config.name for part in (first, second, both)] == [
        "cityscapes_to_kitti", "kitti_to_cityscapes", "cityscapes+kitti"
    ]  # fmt: skip
    assert first.columns == {"cityscapes": "source", "kitti": "target", "ika": "ika"}
    assert second.columns == {"cityscapes": "target", "kitti": "source", "ika": "ika"}
    assert list(first.config.methods) == list(second.config.methods) == ["source_only", "dacs"]
    assert list(both.config.methods) == ["source_only"]
    assert second.config.source[0].kind == "kitti"
    assert second.config.target.kind == "cityscapes"
    assert second.config.evaluate.on("source").scale == 0.5, "options follow their domain"
    assert second.config.evaluate.on("target").scale != 0.5
    assert first.config.evaluate.on("target").scale == 0.5
    assert all(part.config.evaluate.on("ika").flip for part in (first, second, both))
    assert [spec.kind for spec in both.config.source] == ["cityscapes", "kitti"]
    assert both.config.balance == "image"
    assert all(part.config.oracle is None and not part.config.controls and part.plain for part in (first, second, both))


def test_combined_training_by_weight_or_not_at_all() -> None:
    config = load_matrix(content(combined={"balance": "weight", "weights": {"cityscapes": 3, "kitti": 1}}))
    assert [spec.weight for spec in config.parts()[-1].config.source] == [3.0, 1.0]
    assert config.parts()[-1].config.balance == "weight"
    assert load_matrix(config.resolved()) == config
    without = load_matrix(content(combined=False))
    assert [part.trained_on for part in without.parts()] == [("cityscapes",), ("kitti",)]
    assert load_matrix(content()).combined.balance == "domain"


def test_three_domains_train_each_plain_row_once() -> None:
    domains = {name: domain(kind) for name, kind in (("a", "cityscapes"), ("b", "kitti"), ("c", "kitti"))}
    rows = {"fda": {"methods": ["FDA", "Supervised"], "source": "a"}, "dacs": {"methods": ["Supervised", "ClassMix"],
            "source": "b", "target": "c"}}  # fmt: skip
    parts = load_matrix(content(domains=domains, rows=rows)).parts()
    plain = {part.config.name for part in parts if part.plain}
    assert plain == {"a_to_b", "b_to_a", "c_to_a", "a+b+c"}
    assert {part.config.name: list(part.config.methods)[1:] for part in parts} == {
        "a_to_b": ["fda"], "a_to_c": ["fda"], "b_to_a": [], "b_to_c": ["dacs"], "c_to_a": [], "a+b+c": [],
    }  # fmt: skip
    assert len(parts[-1].config.source) == 3


def change(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def apply(raw: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        for key in parents:
            raw = raw[key]
        raw[last] = value

    return apply


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("domains.kitti.val.splitt", "val", "domains.kitti.val.splitt: unknown key; the nearest is 'split'"),
        ("domains.kitti.train.weight", 2, "domains.kitti.train: weight: how often a data set is drawn stands under"),
        ("domains.kitti.vall", {}, "domains.kitti.vall: unknown key; the nearest is 'val'"),
        ("domains", {"cityscapes": domain("cityscapes")}, "domains: Dictionary should have at least 2 items"),
        ("domains.target", domain("kitti"), "domains.target: every domain is source and target in turn"),
        ("domains.Kitti", domain("kitti"), "domains: 'kitti' and 'Kitti' differ by case only"),
        ("unseen.kitti", domain("kitti")["val"], "unseen: 'kitti' is the name of a domain that is trained on"),
        ("unseen.ika.flips", 1, "unseen.ika.flips: unknown key"),
        ("rows.dacs", ["Supervised", "ClasMix"], "rows.dacs.1: no method 'ClasMix'"),
        ("rows.dacs", {"methods": ["Supervised"], "source": "kiti"}, "rows.dacs.source: no domain 'kiti'; the nearest"),
        ("rows.dacs", {"methods": ["Supervised"], "source": "kitti", "target": "kitti"}, "rows.dacs: adapts kitti to"),
        ("rows.kitti", ["Supervised", "AdvEnt"], "rows.kitti: is the name of plain training, or of a domain"),
        ("rows.source_only", ["Supervised"], "rows: a mapping of adaptation rows by name is needed, got the rows of"),
        ("rows", ["Supervised"], "rows: a mapping of adaptation rows by name is needed, got ['Supervised']"),
        (
            "combined",
            {"balance": "size"},
            "combined.balance: Input should be 'image', 'domain' or 'weight'",
        ),
        ("combined", {"balance": "weight"}, "combined: weights go with balance: weight"),
        (
            "combined",
            {"balance": "weight", "weights": {"kitti": 1}},
            "combined.weights: one for each of cityscapes",
        ),
        (
            "combined",
            {"balance": "weight", "weights": {"kitti": 0, "cityscapes": 1}},
            "combined: weights.kitti: must",
        ),
        ("evaluate", {"domains": {"ikka": {}}}, "evaluate.domains: no domain 'ikka'; the nearest is 'ika'"),
        ("seeds", [1, 1], "seeds must be different and not negative"),
        ("sedes", [1], "sedes: unknown key; the nearest is 'seeds'"),
        ("settings.seed", 1, "settings.seed: seeds are a list"),
        ("kind", "matrx", "kind: matrix is needed, got 'matrx'"),
    ],
)
def test_mistakes_are_one_line_about_the_key_that_is_written(
    path: str, value: Any, message: str, tmp_path: Path
) -> None:
    raw = content()
    change(path, value)(raw)
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(raw, sort_keys=False))
    with pytest.raises(ConfigError) as caught:
        load_matrix(file)
    text = str(caught.value)
    assert text.removeprefix(f"{file}: ").startswith(message), text
    assert "\n" not in text


def test_a_balance_needs_several_sources_and_goes_with_rare_classes() -> None:
    base = tiny.content(Path("data"), oracle=False)
    several = [base["source"], {**base["target"], "weight": 2}]
    assert load_config({**base, "source": several, "balance": "weight"}).balance == "weight"
    with pytest.raises(ConfigError, match="balance: domain, but there are no several data sets"):
        load_config({**base, "balance": "domain"})
    assert load_config({**base, "balance": "domain", "oracle": True}).balance == "domain"
    rows = {"source_only": ["Supervised"], "rare": ["RareClassSampling", "Supervised"]}
    both = load_config({**base, "source": [base["source"], base["target"]], "balance": "domain", "methods": rows})
    assert "rare" in both.methods


def test_other_readers_say_who_takes_a_matrix() -> None:
    for read in (load_config, load_run):
        with pytest.raises(ConfigError, match=r"kind: got 'matrix'; uda bench and uda\.config\.load_matrix take"):
            read(content())
    assert kind_of(tiny.content(Path("data"))) == "benchmark"
    assert kind_of({"source": {}, "target": {}}) == "run"
    assert "DACS" in load_matrix(content(rows={}), presets=["DACS"]).rows
    with pytest.raises(ConfigError, match="kind: matrix is needed, got None"):
        load_matrix(tiny.content(Path("data")))
