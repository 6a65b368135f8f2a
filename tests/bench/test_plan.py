from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.bench import tiny
from uda.bench.identity import Identities
from uda.bench.plan import Cell, make_plan
from uda.config import ConfigError, load_config


def plan(methods: list[str] | None = None, seeds: list[int] | None = None, **changes: Any) -> dict[str, Cell]:
    config = load_config(tiny.content(Path("data"), **changes))
    return {cell.name: cell for cell in make_plan(config, methods, seeds)}


def test_every_cell_comes_after_what_it_needs() -> None:
    cells = list(plan(seeds=[0, 1]).values())
    done: set[str] = set()
    for cell in cells:
        assert set(cell.needs) <= done
        done.add(cell.name)
    assert len(cells) == 2 * 5


def test_rows_have_the_same_steps_and_start() -> None:
    cells = plan()
    trained = [cells[f"{name}/seed0"] for name in ("source_only", "oracle", "fda")]
    assert {cell.settings.steps for cell in trained if cell.settings} == {2}
    assert {cell.needs for cell in trained} == {("warm_start/seed0",)}
    assert len({cell.training["warm_start"] for cell in trained}) == 1
    assert cells["adabn/seed0"].needs == ("source_only/seed0",)
    assert [cell.training["labels"] for cell in trained] == ["source", "both", "source"]


def test_warm_start_does_not_share_its_batches_with_what_follows() -> None:
    cells = plan(seeds=[0, 1])
    seeds = [cell.settings.seed for cell in cells.values() if cell.settings]
    warm = [cell.settings.seed for cell in cells.values() if cell.settings and cell.kind == "warm_start"]
    assert not set(warm) & {seed for seed in seeds if seed not in warm}
    assert len(set(warm)) == 2


def test_without_warm_start_nothing_is_needed() -> None:
    cells = plan(warm_start=None)
    assert "warm_start/seed0" not in cells
    assert cells["fda/seed0"].needs == ()


def test_own_model_gets_its_own_warm_start() -> None:
    rows = {"source_only": ["Supervised"], "big": {"methods": ["Supervised"], "model": {"weights": None, "aux": True}}}
    cells = plan_rows(rows)
    assert cells["big/seed0"].needs[0] != cells["source_only/seed0"].needs[0]
    assert cells[cells["big/seed0"].needs[0]].training["model"] == {"weights": None, "aux": True}


def plan_rows(rows: dict[str, Any]) -> dict[str, Cell]:
    config = load_config(tiny.content(Path("data")) | {"methods": rows})
    return {cell.name: cell for cell in make_plan(config)}


def test_only_some_rows_bring_what_they_start_from() -> None:
    assert set(plan(methods=["adabn"])) == {"warm_start/seed0", "source_only/seed0", "adabn/seed0"}
    assert set(plan(methods=["oracle"], seeds=[7])) == {"warm_start/seed7", "oracle/seed7"}
    with pytest.raises(ConfigError, match="no row 'x'; known: source_only, oracle, fda"):
        plan(methods=["x"])


def identities(data: Path, methods: dict[str, Any] | None = None, **changes: Any) -> Identities:
    content = tiny.content(data, **changes)
    content["methods"] |= methods or {}
    config = load_config(content)
    return Identities(config, make_plan(config))


def different(one: Identities, other: Identities, name: str) -> list[str]:
    return other.differences(other.cells[name], {"identity": one.training(one.cells[name])})


@pytest.mark.parametrize("name", ["warm_start/seed0", "fda/seed0", "adabn/seed0"])
def test_what_determines_the_weights_is_in_the_identity_and_nothing_else(data: Path, name: str) -> None:
    settings, base = tiny.content(data)["settings"], identities(data)
    where = {"warm_start/seed0": "", "fda/seed0": "", "adabn/seed0": "base."}[name]
    assert different(base, identities(data, settings={**settings, "lr": 0.5}), name) == [
        f"{where}settings.lr: 0.001 -> 0.5",
        *([f"{where}warm_start.settings.lr: 0.001 -> 0.5"] if name != "warm_start/seed0" else []),
    ]
    incidental = {**settings, "workers": 2, "device": None, "log_every": 7, "checkpoint_every": 9}
    for same in (
        identities(data, settings=incidental),
        identities(data, unseen={}),
        identities(data, {"x": ["Supervised"]}),
    ):
        assert different(base, same, name) == []


def test_the_oracle_is_another_run_than_source_only(data: Path) -> None:
    told = identities(data)
    source_only, oracle = (told.training(told.cells[f"{row}/seed0"]) for row in ("source_only", "oracle"))
    assert source_only["source"]["name"] == "cityscapes/train"
    assert oracle["source"]["name"] == "cityscapes/train+kitti/train"
    assert source_only["target"] is oracle["target"] is None, "no target image is opened by either"
    assert told.training(told.cells["fda/seed0"])["target"]["name"] == "kitti/train"


def test_moved_data_is_the_same_and_lost_data_is_unknown(data: Path, tmp_path: Path) -> None:
    base = identities(data)
    shutil.copytree(data, tmp_path / "moved")
    assert different(base, identities(tmp_path / "moved"), "fda/seed0") == []
    assert different(base, identities(tmp_path / "nowhere"), "fda/seed0") == []
    cell = base.cells["fda/seed0"]
    done = {"scores": base.scores(cell)}
    assert identities(tmp_path / "nowhere").missing_scores(cell, done) == []
    next((tmp_path / "moved/cityscapes").rglob("*_labelIds.png")).unlink()
    changed = tiny.content(tmp_path / "moved")
    changed["source"] = {**changed["source"], "strict": False}
    config = load_config(changed)
    found = different(base, Identities(config, make_plan(config)), "fda/seed0")
    assert found[0] == "source.samples: 3 -> 2"


def test_the_model_counts_with_its_arguments_and_weights(data: Path, tmp_path: Path) -> None:
    base = identities(data)
    found = different(base, identities(data, model={"weights": None, "dropout": 0.1}), "fda/seed0")
    assert "model.arguments.dropout: None -> 0.1" in found
    weights = tmp_path / "encoder.pth"
    weights.write_bytes(b"one")
    first = identities(data, model={"weights": str(weights)})
    assert first.training(first.cells["fda/seed0"])["model"]["weights"]["file"] == "encoder.pth"
    shutil.copy(weights, tmp_path / "copy.pth")
    weights.write_bytes(b"two")
    second = identities(data, model={"weights": str(weights)})
    assert any(text.startswith("model.weights.content") for text in different(first, second, "fda/seed0"))


def test_a_new_domain_asks_for_its_scores_only(data: Path) -> None:
    before, after = identities(data, unseen={}), identities(data)
    cell = after.cells["fda/seed0"]
    assert after.missing_scores(cell, {"scores": before.scores(before.cells["fda/seed0"])}) == ["ika"]
    assert after.missing_scores(cell, {"scores": after.scores(cell)}) == []
    assert after.missing_scores(cell, None) == ["source", "target", "ika"]
    scaled = identities(data, evaluate={"scale": 0.5})
    assert scaled.missing_scores(scaled.cells["fda/seed0"], {"scores": after.scores(cell)}) == [
        "source",
        "target",
        "ika",
    ]


def test_a_row_by_preset() -> None:
    rows = {
        "source_only": ["Supervised"],
        "daformer": {
            "preset": "DAFormer", "change": {"ClassMix.threshold": 0.9, "FeatureDistance": None, "settings.lr": 1e-3},
            "settings": {"crop": [64, 64], "warmup": 1},
        },
        "methods_only": {"preset": "DACS", "parts": ["methods"]},
    }  # fmt: skip
    cells = plan_rows(rows)
    cell = cells["daformer/seed0"]
    assert [next(iter(spec)) for spec in cell.training["methods"]] == ["Supervised", "RareClassSampling", "ClassMix"]
    assert cell.training["methods"][2]["ClassMix"]["threshold"] == 0.9
    assert cell.settings is not None
    assert (cell.settings.lr, cell.settings.crop, cell.settings.warmup) == (1e-3, (64, 64), 1)
    assert cell.settings.schedule == {"poly": {"power": 1.0}}
    assert cell.training["model"] == {"name": "daformer"}
    assert cells["methods_only/seed0"].training["model"] == {"weights": None}
    config = load_config(tiny.content(Path("data")) | {"methods": rows})
    assert load_config(config.resolved()) == config


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"preset": "Daformr"}, "no preset 'Daformr'; the nearest is 'DAFormer'"),
        ({"preset": "DACS", "change": {"ClassMx.weight": 1}}, "has no 'ClassMx'; the nearest is 'ClassMix'"),
        ({"preset": "DACS", "change": {"ClassMix.wieght": 1}}, "no argument 'wieght'; the nearest is 'weight'"),
        ({"preset": "DACS", "methods": ["Supervised"]}, "are the preset's; write what differs under change"),
        ({"preset": "DACS", "parts": ["method"]}, "no part 'method' of a preset; the nearest is 'methods'"),
        ({"preset": "DACS", "change": [1]}, "a mapping of entries is needed"),
        ({"methods": ["Supervised"], "change": {}}, "change and parts go with preset"),
    ],
)
def test_a_wrong_preset_is_named(row: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan_rows({"source_only": ["Supervised"], "row": row})
