"""Which rows a benchmark has for comparison's sake, and what each row is compared to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.bench import tiny
from uda.bench.plan import make_plan
from uda.bench.rows import PlannedRow, control_methods, rows_of
from uda.config import ConfigError, load_config


def rows(methods: dict[str, Any], **changes: Any) -> dict[str, PlannedRow]:
    content = tiny.content(Path("data"), **changes) | {"methods": {"source_only": ["Supervised"], **methods}}
    config = load_config(content)
    planned = rows_of(config)
    again = rows_of(load_config(config.resolved()))
    assert planned == again, "a resolved config gives the same rows"
    return planned


def test_methods_that_pass_the_target_share_one_control() -> None:
    planned = rows({"advent": ["Supervised", "AdvEnt"], "minent": ["Supervised", {"MinEnt": {"weight": 0.5}}]})
    assert list(planned) == ["source_only", "oracle", "bn_only", "advent", "minent"]
    assert planned["bn_only"].entry.methods == [{"Supervised": {}}, {"PassOnly": {}}]
    assert planned["bn_only"].added
    assert {planned[name].control for name in ("advent", "minent")} == {"bn_only"}
    assert {row.baseline for name, row in planned.items() if name != "source_only"} == {"source_only"}
    assert planned["bn_only"].control == "source_only"
    assert planned["source_only"].control is planned["source_only"].baseline is None


def test_a_control_that_the_config_lists_is_not_added() -> None:
    planned = rows({"advent": ["Supervised", "AdvEnt"], "passes": ["Supervised", "PassOnly"]})
    assert list(planned) == ["source_only", "oracle", "advent", "passes"]
    assert planned["advent"].control == "passes"
    written_out = {"Supervised": {"weight": 1.0}}
    planned = rows({"advent": ["Supervised", "AdvEnt"], "passes": [written_out, {"PassOnly": {"views": ["target"]}}]})
    assert planned["advent"].control == "passes", "by resolved arguments"


def test_what_a_method_adds_passes_in_its_control() -> None:
    planned = rows({"class_mix": ["Supervised", "ClassMix"], "mic": ["Supervised", "ClassMix", {"MIC": {"block": 16}}]})
    mixed = {"PassOnly": {"views": [], "of": {"ClassMix": {}}}}
    assert planned["class_mix"].control == "bn_only+ClassMix"
    assert planned["bn_only+ClassMix"].entry.methods == [{"Supervised": {}}, mixed]
    assert planned["mic"].control == "bn_only+ClassMix+MIC"
    masked = {"PassOnly": {"views": [], "of": {"MIC": {"block": 16}}}}
    assert planned["bn_only+ClassMix+MIC"].entry.methods == [{"Supervised": {}}, mixed, masked]


def test_colours_alone_pass_no_target_image() -> None:
    planned = rows({
        "mean_std": ["MeanStd", "Supervised"],
        "fda": [{"FDA": {"beta": 0.01}}, "Supervised"],
        "fda_entropy": [{"FDA": {"entropy_weight": 0.005}}, "Supervised"],
        "both": ["MeanStd", "Supervised", "ClassMix"],
        "l1": ["Supervised", "L1"],
    })  # fmt: skip
    controls = {name: planned[name].control for name in ("mean_std", "fda", "fda_entropy", "both", "l1")}
    assert controls == {
        "mean_std": "source_only", "fda": "source_only", "fda_entropy": "bn_only", "both": "bn_only+ClassMix",
        "l1": "source_only",
    }  # fmt: skip


def test_own_settings_and_networks_have_rows_of_their_own() -> None:
    planned = rows({
        "frozen": {"methods": ["Supervised", "AdvEnt"], "settings": {"batch_norm": "frozen"}},
        "own": {"methods": ["Supervised", "AdvEnt"], "model": {"weights": None, "aux": True}},
        "big": {"methods": ["Supervised"], "model": {"weights": None, "aux": True}},
    })  # fmt: skip
    assert planned["frozen"].baseline == "source_only"
    control = planned["frozen-control"]
    assert (planned["frozen"].control, control.entry.settings) == ("frozen-control", {"batch_norm": "frozen"})
    assert planned["own"].baseline == "big", "which is listed"
    assert planned["big"].baseline is planned["big"].control is None
    assert planned["own-control"].entry.model == {"weights": None, "aux": True}
    assert planned["own-control"].baseline == "big"
    planned = rows({"own": {"methods": ["Supervised", "AdvEnt"], "model": {"weights": None, "aux": True}}})
    assert planned["own"].baseline == "source_only-own"
    assert planned["source_only-own"].entry.methods == [{"Supervised": {}}]


def test_a_recipe_keeps_what_needs_no_target_in_its_control() -> None:
    planned = rows({"daformer": {"preset": "DAFormer", "settings": {"crop": [64, 64], "warmup": 1}}})
    names = [next(iter(spec)) for spec in planned["daformer-control"].entry.methods or []]
    assert names == ["Supervised", "RareClassSampling", "FeatureDistance", "PassOnly"]
    names = [next(iter(spec)) for spec in planned["source_only-daformer"].entry.methods or []]
    assert names == ["Supervised", "RareClassSampling", "FeatureDistance"]


def test_test_time_rows_are_compared_to_what_they_start_from() -> None:
    planned = rows({
        "adabn": {"test_time": "AdaBN"},
        "tent": {"test_time": "TENT"},
        "cotta": {"test_time": "CoTTA"},
        "cotta_batch": {"test_time": {"CoTTA": {"statistics": "batch"}}},
        "tent_stored": {"test_time": {"TENT": {"statistics": "source"}}},
        "advent_adabn": {"methods": ["Supervised", "AdvEnt"], "test_time": "AdaBN"},
    })  # fmt: skip
    assert planned["adabn"].control == "source_only"
    assert planned["tent"].control == "prediction_time_bn"
    assert planned["prediction_time_bn"].entry.test_time == {"PredictionTimeBN": {}}
    assert planned["tent_stored"].control == "source_only"
    assert planned["advent_adabn"].control == "advent_adabn-control"
    assert planned["advent_adabn-control"].entry.test_time is None
    assert planned["advent_adabn-control"].control == "bn_only"


def test_a_control_may_be_named_or_left_out() -> None:
    listed = {
        "class_mix": ["Supervised", "ClassMix"],
        "both": {"methods": ["MeanStd", "Supervised", "ClassMix"], "control": "class_mix"},
    }
    assert rows(listed)["both"].control == "class_mix"
    without = rows(listed, controls=False, oracle=False)
    assert list(without) == ["source_only", "class_mix", "both"]
    assert (without["class_mix"].control, without["both"].control) == ("source_only", "class_mix")
    for wrong in ("clas_mix", "both"):
        with pytest.raises(ConfigError, match=r"methods.both.control: no other row '\w+'.*class_mix"):
            rows(listed | {"both": {**listed["both"], "control": wrong}})
    with pytest.raises(ConfigError, match=r"source_only.control: is what others are compared to"):
        rows({"source_only": {"methods": ["Supervised"], "control": "both"}})


def test_the_oracle_has_its_own_length_and_labels() -> None:
    content = tiny.content(Path("data"), oracle={"steps": 7, "labels": "target"})
    cells = {cell.name: cell for cell in make_plan(load_config(content))}
    oracle = cells["oracle/seed0"]
    assert oracle.settings is not None
    assert (oracle.settings.steps, oracle.training["labels"]) == (7, "target")
    assert rows({}, oracle=True)["oracle"].labels == "both"
    with pytest.raises(ConfigError, match=r"oracle.labels: .* got 'source'"):
        rows({}, oracle={"labels": "source"})


def test_a_control_is_the_same_for_itself() -> None:
    methods = [{"MeanStd": {}}, {"Supervised": {}}, {"ClassMix": {}}, {"AdvEnt": {}}, {"MinEnt": {}}]
    control = control_methods(methods)
    assert [next(iter(spec)) for spec in control] == ["Supervised", "PassOnly", "PassOnly"]
    assert control_methods(control) == control


def test_rows_evaluated_in_their_own_way_are_compared_to_source_only_evaluated_alike() -> None:
    planned = rows({
        "plain": ["Supervised", "AdvEnt"],
        "flip": {"methods": ["Supervised", "AdvEnt"], "evaluate": {"flip": True}},
        "fda": {"methods": ["Supervised", "FDA"], "evaluate": {"flip": True}},
        "adabn": {"test_time": "AdaBN", "evaluate": {"scales": [0.5, 1.0]}},
        "mix": {"methods": ["Supervised", "ClassMix"], "evaluate": {"model": "teacher"}},
        "twice": {"evaluate": {"scale": 2.0}},
    })  # fmt: skip
    alike = planned["source_only-flip"]
    assert (alike.entry.trains, alike.entry.evaluate, alike.added) == (False, {"flip": True}, True)
    assert (alike.baseline, alike.control) == ("source_only", "source_only")
    assert planned["flip"].baseline == planned["fda"].baseline == planned["fda"].control == "source_only-flip"
    control = planned[planned["flip"].control or ""]
    assert control.entry.methods == [{"Supervised": {}}, {"PassOnly": {}}]
    assert (control.entry.evaluate, control.baseline) == ({"flip": True}, "source_only-flip")
    assert (planned["plain"].control, planned["plain"].baseline) == ("bn_only", "source_only")
    assert planned["adabn"].baseline == planned["adabn"].control == "source_only-adabn"
    assert planned["mix"].baseline == "source_only", "which has no teacher"
    assert (planned["twice"].baseline, planned["twice"].control) == ("source_only", "source_only")
    without = rows({"flip": {"methods": ["Supervised", "FDA"], "evaluate": {"flip": True}}}, controls=False)
    assert without["flip"].baseline == without["flip"].control == "source_only"
