"""A search's config: every mistake is one line that names the key, before anything runs."""

from __future__ import annotations

import math
from typing import Any

import pytest

from uda.config import ConfigError
from uda.config.search import OBJECTIVES, Objective, is_better, load_search

RATE = {"settings.lr": {"low": 1e-4, "high": 1e-2, "log": True}}


def content(space: Any = None, **search: Any) -> dict[str, Any]:
    data = {"kind": "cityscapes", "root": "nowhere"}
    return {
        "name": "s", "space": "street8",
        "source": {**data, "split": "train"}, "source_val": {**data, "split": "val"},
        "target": {"kind": "kitti", "root": "nowhere"},
        "method": ["Supervised", {"FDA": {"beta": 0.01}}],
        "settings": {"steps": 10},
        "search": {"space": RATE if space is None else space, **search},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (content({}), "search.space: "),
        (content({"settings.lrr": [1, 2]}), r"search\.space\.settings\.lrr: 1: .*settings\.lrr.*nearest is 'lr'"),
        (content({"settings.lr": {"low": -1.0, "high": 1.0}}), r"search\.space\.settings\.lr: -1\.0: .*settings\.lr"),
        (content({"settings.lr": {"low": 0.1, "high": 0.01}}), r"settings\.lr.*low must be below high"),
        (content({"settings.lr": {"low": 0, "high": 0.1, "log": True}}), r"settings\.lr.*log needs bounds above 0"),
        (content({"settings.lr": [0.1]}), r"settings\.lr.*choices"),
        (content({"settings.lr": [0.1, 0.1]}), r"settings\.lr.*choices must be different"),
        (content({"method.FDB.beta": [0.1, 0.2]}), r"no method 'FDB' in it; the nearest is 'FDA'"),
        (content({"method.FDA.betta": [0.1, 0.2]}), r"method\.FDA\.betta.*nearest is 'beta'"),
        (content({"method.FDA.beta": {"low": 0.1, "high": 7.0}}), r"search\.space\.method\.FDA\.beta: 7\.0: .*beta"),
        (content(objective="source_mioux"), r"search\.objective: .*'source_mioux'"),
        (content(objectives="source_miou"), r"search\.objectives: unknown key; .*nearest is 'objective'"),
        (content(objective="peeking_target_miou"), r"target_val: is missing: search.objective peeking_target_miou"),
        (content(trials=0), r"search\.trials: .*got 0"),
        (content(sampler="grid"), r"space\.settings\.lr: sampler grid needs choices"),
        ({key: value for key, value in content().items() if key != "search"}, r"search: is missing"),
        ({**content(), "method": None}, r"method: is missing"),
        ({**content(), "source_val": None}, r"source_val: is missing: search.objective source_miou"),
        ({**content(), "name": "a/b"}, r"name: "),
    ],
)
def test_mistakes_are_named(raw: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_search(raw)
    assert "\n" not in str(caught.value)


def test_values_reach_settings_and_methods_however_these_are_written() -> None:
    values = {"settings.lr": 0.5, "settings.augment.flip": 0.0, "method.FDA.beta": 0.07}
    space = {"settings.lr": [0.1, 0.5], "settings.augment.flip": [0.0, 0.5], "method.FDA.beta": [0.01, 0.07]}
    plain = content(space)
    for raw in (plain, {**plain, "method": {"methods": plain["method"]}}, {**plain, "method": ["Supervised", "FDA"]}):
        run, row = load_search(raw).trial(values, "trial007")
        assert run.name == "trial007"
        assert (run.settings.lr, run.settings.augment.flip) == (0.5, 0.0)
        methods = run.methods[row].methods or []
        assert {"FDA": {"beta": 0.07}} in [dict(spec) if isinstance(spec, dict) else spec for spec in methods]
    raw = content({"method.ClassMix.threshold": [0.9, 0.95]})
    raw["method"] = {"preset": "DACS", "change": {"ClassMix.threshold": 0.5}}
    run, row = load_search(raw).trial({"method.ClassMix.threshold": 0.9})
    assert any("0.9" in str(spec) and "ClassMix" in str(spec) for spec in run.methods[row].methods or [])


def test_whole_bounds_mean_whole_numbers_and_an_objective_knows_which_way_it_points() -> None:
    space = load_search(content({"settings.steps": {"low": 2, "high": 8}, "settings.lr": [0.1, 0.2]})).spec.space
    assert space["settings.steps"].whole  # type: ignore[union-attr]
    assert space["settings.lr"].ends == [0.1, 0.2]
    assert set(Objective.__args__) == set(OBJECTIVES)  # type: ignore[attr-defined]
    assert is_better("source_miou", 0.5, 0.4)
    assert is_better("source_loss", 0.4, 0.5)
    assert is_better("source_loss", 0.4, math.nan)
    assert not is_better("source_loss", math.nan, 0.4)
