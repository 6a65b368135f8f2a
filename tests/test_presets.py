from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import uda.presets
from experiments.presets_table import document
from tests.bench import tiny
from uda.config import load_config
from uda.config.records import EvaluateSpec, MethodEntry
from uda.engine import Augment, Settings
from uda.methods import HRDA, method, parameters
from uda.models import build_model
from uda.presets import ORIGINS, PRESETS, describe, leaves, main, preset, preset_trainer
from uda.testing import TinyDataset, TinySegmenter, tiny_target
from uda.testing.methods import Recorder, train
from uda.types import TeacherSpec

NAMES = sorted(PRESETS)


def built(content: dict[str, Any]) -> list[Any]:
    return [method(name, **arguments) for entry in content["methods"] for name, arguments in entry.items()]


@pytest.mark.parametrize("name", NAMES)
def test_is_plain_data_that_everything_accepts(name: str) -> None:
    one = preset(name)
    assert list(one) == ["paper", "start", "steps", "methods", "settings", "model", "evaluate"]
    assert json.loads(json.dumps(one)) == one
    assert built(one)
    settings = Settings(steps=one["steps"], **one["settings"])
    assert json.loads(settings.model_dump_json(include=set(one["settings"]))).keys() == one["settings"].keys()
    MethodEntry(methods=one["methods"], settings=one["settings"], model=one["model"], evaluate=one["evaluate"])
    EvaluateSpec.model_validate(one["evaluate"])


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
    small: dict[str, Any] = {"crop": (32, 64), "target_crop": None, "warmup": min(one["settings"].get("warmup", 0), 1)}
    small |= {"batch_size": min(one["settings"]["batch_size"], 2)}
    for domain in {"augment", "target_augment"} & set(one["settings"]):
        small[domain] = {**one["settings"][domain], "resize": (48, 96)}
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
    assert preset("DACS")["methods"][1]["ClassMix"]["teacher"] == vars(TeacherSpec(0.99, "after", "train"))
    assert preset("MIC-HRDA")["methods"][-2]["MIC"]["ratio"] == 0.7


def test_corrected_values() -> None:
    """What readers of the authors' code found wrong in earlier versions, by hand from that code."""
    clan = preset("CLAN")
    assert clan["methods"][0]["Supervised"]["aux_weight"] == 1
    assert clan["methods"][0]["Supervised"]["focal"] == 2
    assert (clan["steps"], clan["settings"]["warmup"]) == (100_000, 5_000)
    assert clan["settings"]["schedule"] == {"poly": {"power": 0.9, "horizon": 100_000}}
    assert clan["settings"]["augment"]["flip"] == clan["settings"]["target_augment"]["flip"] == 0.5
    assert clan["evaluate"]["aux"] == 1
    fda = preset("FDA")
    assert fda["methods"][1]["FDA"]["band"] == "half-open"
    assert (fda["settings"]["crop"], fda["settings"]["augment"]["resize"]) == ([512, 1024], [720, 1280])
    assert (fda["steps"], fda["settings"]["schedule"]["poly"]["horizon"]) == (100_000, 150_000)
    single, multi = preset("MaxSquare"), preset("MaxSquare-IW")
    assert (single["steps"], single["model"]["aux"], single["start"]) == (
        29_750,
        False,
        "a network trained on the source",
    )
    assert multi["methods"][1]["MaxSquare"] == {
        "weighting": "image", "ratio": 0.2, "weight": 0.09, "level": "multi", "aux_weight": 0.009, "threshold": 0.95,
    }  # fmt: skip
    assert (multi["settings"]["crop"], multi["settings"]["target_crop"]) == ([720, 1280], [640, 1280])
    for name in ("CBST", "CRST"):
        crst = preset(name)
        arguments = crst["methods"][1][name]
        portions = [arguments["portion"] + at * arguments["portion_step"] for at in range(arguments["rounds"])]
        assert portions == pytest.approx([0.2, 0.25, 0.3])
        assert crst["steps"] == 2 * (552 + 577 + 602)
        assert (crst["settings"]["schedule"], crst["settings"]["batch_norm"]) == ({"constant": {}}, "frozen")
        assert (crst["settings"]["augment"]["scale"], crst["settings"]["lr"]) == ([0.5, 1.5], 5e-5)
        assert (crst["evaluate"]["scales"], crst["evaluate"]["flip"]) == ([0.9, 1.0, 1.2], True)
    assert preset("CRST")["methods"][1]["CRST"]["model_weight"] == pytest.approx(0.1 * 0.1)
    proda = preset("ProDA")["settings"]
    assert (proda["weight_decay"], proda["head_multiplier"], proda["augment"]["scale"]) == (2e-4, 1, [0.5, 1.5])
    assert proda["schedule"]["poly"]["horizon"] == 90_000
    assert preset("HRDA")["evaluate"] == {"input_size": [1024, 2048], "window": [1024, 1024], "stride": [512, 512]}
    assert preset("HRDA")["methods"][4]["ClassMix"]["margins"] == {
        "top": 30 / 1024, "bottom": 240 / 1024, "left": 30 / 2048, "right": 30 / 2048,
    }  # fmt: skip
    assert preset("DAFormer")["methods"][3]["ClassMix"]["margins"] == {"top": 15 / 512, "bottom": 120 / 512}


EXPLICIT = {
    "batch_size", "crop", "augment", "optimizer", "lr", "head_multiplier", "weight_decay", "decayed", "schedule",
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_every_value_says_where_it_comes_from(name: str) -> None:
    content, origins = preset(name), ORIGINS[name]
    assert content["settings"].keys() >= EXPLICIT, "the library's defaults are no paper's"
    nowhere = [leaf for leaf in leaves(content) if origins.key_of(leaf) is None]
    assert not nowhere, f"{name}: say in uda/presets/papers where these come from"
    for origin in origins.known.values():
        assert bool(origin.lines) != bool(origin.reason)
        for line in origin.lines:
            assert re.fullmatch(r"[\w./-]+:[1-9]\d*", line)
    assert re.fullmatch(r"[0-9a-f]{40}", origins.commit)


def test_every_source_is_of_a_value() -> None:
    """A key that fits nothing is a typing mistake, or left over."""
    papers = Path(uda.presets.__file__).parent / "papers"
    for path in sorted(papers.glob("*.yaml")):
        paper = yaml.safe_load(path.read_text(encoding="utf-8"))
        entries = paper.get("presets", {})
        keys = {name: {ORIGINS[name].key_of(leaf) for leaf in leaves(preset(name))} for name in entries or PRESETS}
        for section, scope in [(paper, list(keys)), *((entry, [name]) for name, entry in entries.items())]:
            written = {*section.get("sources", {}), *section.get("own", {})}
            assert written <= set().union(*(keys[name] for name in scope)), path.name


def test_the_document_is_up_to_date() -> None:
    written = (Path(__file__).parent.parent / "docs" / "presets.md").read_text(encoding="utf-8")
    assert written == document(), "run: python experiments/presets_table.py"


def test_a_row_is_evaluated_as_its_preset_says() -> None:
    rows = {
        "source_only": ["Supervised"],
        "clan": {
            "preset": "CLAN", "change": {"evaluate.aux": 0.5}, "evaluate": {"flip": True}, "settings": {"warmup": 1},
        },
        "dacs": {"preset": "DACS"},
        "methods": {"preset": "CLAN", "parts": ["methods"], "model": {"weights": None, "aux": True}},
    }  # fmt: skip
    config = load_config(tiny.content(Path("data")) | {"methods": rows})
    clan = config.evaluate_of(config.methods["clan"])
    assert (clan.input_size, clan.interpolation, clan.aux, clan.flip) == ((512, 1024), "bicubic", 0.5, True)
    dacs = config.evaluate_of(config.methods["dacs"])
    assert (dacs.input_size, dacs.score_at) == ((512, 1024), "label"), "all rows have the same labels"
    assert config.evaluate_of(config.methods["methods"]) == config.evaluate


def test_changes_of_single_entries() -> None:
    changed = preset(
        "MIC-HRDA",
        {
            "ClassMix.threshold": 0.9, "HRDA2.weight": 0.2, "FeatureDistance": None, "settings.lr": 1e-3,
            "model.base": "segmenter", "settings.augment.flip": 0.0, "settings.schedule.poly.horizon": 9,
            "evaluate.flip": True, "ClassMix.teacher.decay": 0.9, "MIC": {"block": 32, "teacher": {"decay": 0.5}},
            "MinEnt": {"weight": 0.1},
        },
    )  # fmt: skip
    assert [next(iter(entry)) for entry in changed["methods"]] == [
        "Supervised", "RareClassSampling", "HRDA", "ClassMix", "HRDA", "MIC", "HRDA", "MinEnt",
    ]  # fmt: skip
    assert [entry["HRDA"]["weight"] for entry in changed["methods"] if "HRDA" in entry] == [0.1, 0.2, 0.1]
    assert changed["methods"][3]["ClassMix"]["threshold"] == 0.9
    assert changed["methods"][5]["MIC"]["teacher"] == vars(TeacherSpec(0.5, "before", "train"))
    assert (changed["settings"]["lr"], changed["model"]["base"]) == (1e-3, "segmenter")
    assert changed["methods"][3]["ClassMix"]["teacher"] == vars(TeacherSpec(0.9, "before", "train"))
    assert changed["settings"]["augment"] == {**preset("MIC-HRDA")["settings"]["augment"], "flip": 0.0}
    assert changed["settings"]["schedule"] == {"poly": {"power": 1.0, "horizon": 9}}
    assert changed["evaluate"]["flip"] is True
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
        "settings.device": "cpu", "settings.batch_size": 1, "settings.augment.resize": [48, 96],
        "settings.target_augment.resize": [48, 96], "evaluate.input_size": [24, 48],
    }  # fmt: skip
    trainer = preset_trainer("DACS", 5, changes=small, steps=2, out=tmp_path, evaluate_on={"target": tiny_target()})
    assert trainer.settings.augment == Augment(fit="pixels", resize=(48, 96), scale=(1, 1), flip=0)
    trainer.fit(TinyDataset(), tiny_target())
    pixels = int(trainer.evaluations["target"].confusion.sum())
    assert 0 < pixels <= 24 * 48 * len(tiny_target()), "labels at the size of the input, as DACS scores them"
    assert trainer.update.labels == ["Supervised", "ClassMix"]
    assert trainer.update.teacher.decay == 0.99
    assert (tmp_path / "checkpoint.pt").is_file()
    assert preset_trainer("DACS", 5, changes=small).settings.steps == 250_000


def tiny_model(num_classes: int, aux: bool = False, **options: Any) -> TinySegmenter:
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
