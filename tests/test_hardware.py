"""The script that measures settings on a machine: what it measures, chooses, keeps and writes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from tests.scripts import load_script
from uda.cli.common import settings_of
from uda.engine import Settings
from uda.shipped import hardware

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "speed" / "hardware.py"
NETWORKS = ("a", "b")


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script(SCRIPT, "hardware_script")


def pieces(**seconds_and_peak: Any) -> dict[str, Any]:
    """``bf16=[(1, 2), (3, 4)]``: seconds and peak of the two networks."""
    return {
        f"{name}: {variant}": {"seconds": [s, s, 9 * s], "peak": peak, "warm_up": 1.0}
        for variant, rows in seconds_and_peak.items()
        for name, (s, peak) in zip(NETWORKS, rows, strict=False)
    }


def test_a_piece_is_measured_at_toy_size(script: ModuleType) -> None:
    tiny = {"name": "uda.testing.tiny:TinySegmenter"}
    for changes in ({}, {"precision": "fp16", "activation_checkpointing": "all"}):
        measured = script.measure(tiny, changes, [32, 64], 2, 2, "cpu")
        assert len(measured["seconds"]) == 2
        assert all(0 < seconds < 60 for seconds in [*measured["seconds"], measured["warm_up"]])
    assert {key for changes in script.VARIANTS.values() for key in changes} == set(script.KEYS)
    for changes in (*script.VARIANTS.values(), *script.GPU_VARIANTS.values()):
        Settings(steps=1, **changes)


def test_the_quickest_is_so_by_more_than_noise_and_on_every_network(script: ModuleType) -> None:
    measured = pieces(
        fp32=[(1, 100), (1, 100)], bf16=[(0.5, 90), (0.9, 90)], fp16=[(0.1, 10)], all=[(1.3, 40), (1.2, 50)]
    )
    names = ("fp32", "bf16", "fp16", "all")
    assert script.best(measured, NETWORKS, names) == ("bf16", "all")
    assert script.best(measured, NETWORKS[:1], names) == ("fp16", "fp16")
    assert script.ratios(measured, NETWORKS, "bf16") == pytest.approx((0.45**0.5, 0.9))
    close = pieces(fp32=[(1, 100), (1, 100)], bf16=[(0.97, 90), (0.97, 90)])
    assert script.best(close, NETWORKS, ("fp32", "bf16")) == ("fp32", "bf16")


def test_what_is_measured_stays_and_the_rest_follows(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Mapping[str, Any]] = []

    def measured(request: Mapping[str, Any], limit: float) -> dict[str, Any]:
        asked.append(request)
        if len(asked) == 2:
            raise KeyboardInterrupt
        broken = request["changes"] == {"precision": "fp16"}
        return {"error": "boom"} if broken else {"seconds": [1 / len(asked)], "peak": 10, "warm_up": 1.0}

    monkeypatch.setattr(script, "piece", measured)
    command = ["--name", "mine", "--record", str(tmp_path), "--settings", str(tmp_path), "--device", "cpu"]
    command += ["--networks", "default", "--only", "bf16", "fp16"]
    with pytest.raises(KeyboardInterrupt):
        script.main(command)
    script.main(command)
    assert [request["changes"] for request in asked[1:]] == [
        {"precision": "bf16"},
        {"precision": "bf16"},
        {"precision": "fp16"},
    ]
    record = json.loads((tmp_path / "mine.json").read_text())
    assert record["pieces"]["default: fp16"] == {"error": "boom"}
    assert record["machine"]["torch"]
    settings = yaml.safe_load((tmp_path / "mine.yaml").read_text())["settings"]
    assert settings == {
        "precision": "bf16",
        "channels_last": False,
        "activation_checkpointing": "none",
        "compile": None,
    }
    assert "boom" in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"is of size .*--fresh measures anew"):
        script.main([*command, "--steps", "3"])


def test_a_process_that_fails_or_takes_too_long_is_recorded_as_that(script: ModuleType) -> None:
    request = {"model": {"name": "segmentor"}, "changes": {}, "size": [32, 64], "count": 1, "steps": 1, "device": "cpu"}
    assert "longer than 0.01 s" in script.piece(request, 0.01)["error"]
    assert "no model 'segmentor'" in script.piece(request, 60)["error"]


def test_settings_of_machines_are_settings_and_go_before_a_configs(tmp_path: Path) -> None:
    assert "cpu-2-cores" in hardware()
    for name, path in hardware().items():
        record = Path(__file__).parent.parent / "benchmarks" / "results" / "hardware" / f"{name}.json"
        assert json.loads(record.read_text())["machine"]["device"] in path.read_text()
        Settings(steps=1, **{key.removeprefix("settings."): value for key, value in settings_of(name).items()})
    mine = tmp_path / "mine.yaml"
    mine.write_text("settings: {precision: bf16, compile: {mode: reduce-overhead}}")
    assert settings_of(str(mine)) == {"settings.precision": "bf16", "settings.compile": {"mode": "reduce-overhead"}}
    assert settings_of(None) == {}
