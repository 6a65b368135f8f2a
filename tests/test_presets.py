from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from uda.config.records import MethodEntry
from uda.engine import Settings
from uda.methods import HRDA, method, parameters
from uda.models import build_model
from uda.presets import PRESETS, describe, main, preset, preset_trainer
from uda.testing import TinyDataset, TinySegmenter, tiny_target
from uda.testing.methods import Recorder, train

NAMES = sorted(PRESETS)


def built(content: dict[str, Any]) -> list[Any]:
    return [method(name, **arguments) for entry in content["methods"] for name, arguments in entry.items()]


@pytest.mark.parametrize("name", NAMES)
def test_is_plain_data_that_everything_accepts(name: str) -> None:
    one = preset(name)
    assert list(one) == ["paper", "steps", "methods", "settings", "model"]
    assert json.loads(json.dumps(one)) == one
    assert built(one)
    settings = Settings(steps=one["steps"] or 100_000, **one["settings"])
    assert json.loads(settings.model_dump_json(include=set(one["settings"]))).keys() == one["settings"].keys()
    MethodEntry(methods=one["methods"], settings=one["settings"], model=one["model"])


@pytest.mark.parametrize("name", NAMES)
def test_is_resolved(name: str) -> None:
    for entry in preset(name)["methods"]:
        ((kind, arguments),) = entry.items()
        assert set(arguments) == set(parameters(kind))
    assert yaml.safe_load(describe(name)) == {name: preset(name)}
    assert "&id" not in describe(name)


@pytest.mark.parametrize("name", NAMES)
def test_trains(name: str) -> None:
    """With the settings of the preset, but for sizes and lengths that a test can afford."""
    one = preset(name)
    small = {"crop": (32, 64), "warmup": min(one["settings"].get("warmup", 0), 1)}
    for entry in one["methods"]:
        for arguments in entry.values():
            arguments.update({key: 4 for key in ("width",) if key in arguments})
    run = train(built(one), steps=2, aux=one["model"].get("aux", False), trainer=Recorder, **one["settings"] | small)
    assert all(value == value for logs in run.logs for value in logs.values())
    own = [label for label in run.update.labels if any(tag.startswith(f"loss/{label}/") for tag in run.logs[-1])]
    assert own == [label for label, one in zip(run.update.labels, run.methods, strict=True) if one.reads]


@pytest.mark.parametrize("options", sorted({json.dumps(one["model"]) for one in PRESETS.values()}))
def test_model_is_known(options: str) -> None:
    model = json.loads(options)
    if model["name"] == "deeplabv2_resnet101":
        model |= {"blocks": (1, 1, 1, 1), "width": 8}
    network = build_model(model.pop("name"), 3, weights=None, **model)
    assert network.num_classes == 3
    assert network.has_aux == model.get("aux", False)


def test_hrda_presets_share_the_loss_between_fused_and_detail() -> None:
    for name, views in (("HRDA", ["source", "mixed"]), ("MIC-HRDA", ["source", "mixed", "masked"])):
        methods = built(preset(name))
        details = [one for one in methods if isinstance(one, HRDA)]
        assert [one.view for one in details] == views
        owners = [one for one in methods if type(one).__name__ in ("Supervised", "ClassMix", "MIC")]
        for owner, detail in zip(owners, details, strict=True):
            assert owner.reads == detail.reads
            assert owner.weight + detail.weight == 1


def test_a_preset_is_a_copy() -> None:
    preset("DAFormer")["methods"].clear()
    preset("MIC-DAFormer")["methods"][3]["ClassMix"]["teacher"]["decay"] = 0.5
    assert len(preset("DAFormer")["methods"]) == 4
    assert preset("MIC-DAFormer")["methods"][3]["ClassMix"]["teacher"]["decay"] == 0.999


def test_published_values() -> None:
    """A sample of numbers from the papers."""
    one = preset("DAFormer")
    assert one["settings"]["lr"] == 6e-5
    assert one["settings"]["warmup"] == 1500
    assert one["methods"][2]["FeatureDistance"]["weight"] == 0.005
    assert one["methods"][3]["ClassMix"]["threshold"] == 0.968
    assert preset("DACS")["methods"][1]["ClassMix"]["teacher"] == {"decay": 0.99, "update": "after", "mode": "train"}
    assert preset("MIC-HRDA")["methods"][-2]["MIC"]["ratio"] == 0.7


def test_changes_of_single_entries() -> None:
    changed = preset(
        "MIC-HRDA",
        {
            "ClassMix.threshold": 0.9, "HRDA2.weight": 0.2, "FeatureDistance": None, "settings.lr": 1e-3,
            "model.base": "segmenter", "MIC": {"block": 32, "teacher": {"decay": 0.5}}, "MinEnt": {"weight": 0.1},
        },
    )  # fmt: skip
    assert [next(iter(entry)) for entry in changed["methods"]] == [
        "Supervised", "RareClassSampling", "HRDA", "ClassMix", "HRDA", "MIC", "HRDA", "MinEnt",
    ]  # fmt: skip
    assert [entry["HRDA"]["weight"] for entry in changed["methods"] if "HRDA" in entry] == [0.1, 0.2, 0.1]
    assert changed["methods"][3]["ClassMix"]["threshold"] == 0.9
    assert changed["methods"][5]["MIC"]["teacher"] == {"decay": 0.5, "update": "before", "mode": "train"}
    assert (changed["settings"]["lr"], changed["model"]["base"]) == (1e-3, "segmenter")
    assert preset("MIC-HRDA")["settings"]["lr"] == 6e-5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"ClasMix.weight": 1},
            "'DACS' has no 'ClasMix'; the nearest is 'ClassMix' .known: Supervised, ClassMix, settings",
        ),
        ({"ClassMix.treshold": 1}, "ClassMix has no argument 'treshold'; the nearest is 'threshold'"),
        ({"ClassMix": 3}, "takes a mapping of arguments or null, got 3"),
    ],
)
def test_wrong_changes(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        preset("DACS", changes)


def test_a_trainer_of_a_preset(tmp_path: Path) -> None:
    small = {
        "model.name": "tests.test_presets:tiny_model", "model.aux": False, "settings.crop": [32, 64],
        "settings.device": "cpu", "settings.batch_size": 1,
    }  # fmt: skip
    trainer = preset_trainer("DACS", 5, changes=small, steps=2, out=tmp_path)
    trainer.fit(TinyDataset(), tiny_target())
    assert trainer.update.labels == ["Supervised", "ClassMix"]
    assert trainer.update.teacher.decay == 0.99
    assert (tmp_path / "checkpoint.pt").is_file()
    assert preset_trainer("DACS", 5, changes=small).settings.steps == 250_000
    with pytest.raises(ValueError, match=r"'CBST' has no number of steps .*; say how many"):
        preset_trainer("CBST", 5)


def tiny_model(num_classes: int, aux: bool = False) -> TinySegmenter:
    """A network of somebody's own, by its place."""
    return TinySegmenter(num_classes, aux)


def test_unknown() -> None:
    with pytest.raises(ValueError, match=r"no preset 'daformer'; the nearest is 'DAFormer' .known: AdaptSegNet, "):
        preset("daformer")


def test_prints(capsys: pytest.CaptureFixture[str]) -> None:
    main(["DACS"])
    assert yaml.safe_load(capsys.readouterr().out) == {"DACS": preset("DACS")}
    main([])
    assert yaml.safe_load(capsys.readouterr().out) == PRESETS
