"""How many seeds a difference needs, from measured noise."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from tests.bench import tiny
from tests.bench.test_table import METHODS, fill
from uda.bench import make_table
from uda.bench.forecast import forecast, measured_noises, noises_of_table
from uda.bench.intervals import Noise, detectable_difference
from uda.bench.record import record
from uda.cli import main
from uda.config import BenchConfig, ConfigError, load_config


@pytest.fixture
def config() -> BenchConfig:
    return load_config(tiny.content(Path("data"), seeds=[0, 1, 2], methods=METHODS))


def test_more_seeds_where_the_noise_of_seeds_leads() -> None:
    content = tiny.content(Path("data"), methods={"source_only": ["Supervised"], "advent": ["Supervised", "AdvEnt"]})
    config = load_config(content)
    loud = Noise(seeds=3, seed=0.02**2 / 3, seed_df=6, image=0.001**2, image_df=29)
    control, advent = forecast(config, {"advent": loud}, 0.02)
    assert (advent.row, advent.control, advent.measured) == ("advent", "bn_only", True)
    assert not control.measured
    assert detectable_difference(loud, advent.seeds) <= 0.02 < detectable_difference(loud, advent.seeds - 1)
    assert advent.least_ever < 0.005 < advent.least_now
    still = Noise(seeds=3, seed=1e-8, seed_df=6, image=0.02**2, image_df=29)
    assert forecast(config, {"advent": still}, 0.02)[1].seeds == math.inf
    with pytest.raises(ValueError, match="difference is 0, must be above 0"):
        forecast(config, {"advent": still}, 0)


def test_noise_of_cells_and_of_a_record_are_the_same(config: BenchConfig, tmp_path: Path) -> None:
    fill(config, tmp_path / "runs")
    table = make_table(config, tmp_path / "runs")
    record(config, tmp_path / "runs", table, tmp_path / "record", "uda bench x.yaml")
    noises, origin = measured_noises(config, tmp_path / "runs")
    recorded, file = measured_noises(config, tmp_path / "nowhere", tmp_path / "record/results.json")
    assert recorded == noises == noises_of_table(table)
    assert len(noises) == 6
    assert (origin, file) == (str(tmp_path / "runs"), str(tmp_path / "record/results.json"))


def test_without_noise_it_says_what_to_do(config: BenchConfig, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no two seeds of a row and of its control are done"):
        forecast(config, measured_noises(config, tmp_path)[0], 0.02)
    (tmp_path / "x.json").write_text(json.dumps({"rows": [{"name": "a"}]}))
    for file in ("x.json", "y.json"):
        with pytest.raises(ConfigError, match=f"{file}: no results.json of a recorded benchmark"):
            measured_noises(config, tmp_path, tmp_path / file)


def test_command_line(config: BenchConfig, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    fill(config, tmp_path / config.name)
    (tmp_path / "c.yaml").write_text(json.dumps(config.resolved()))
    with pytest.raises(SystemExit) as caught:
        main(["bench", str(tmp_path / "c.yaml"), "--out", str(tmp_path), "--plan", "1"])
    assert caught.value.code == 0
    output = capfd.readouterr()
    text = output.out + output.err
    assert "seeds for a difference of 1 points" in text
    assert "class_mix" in text
    assert "noise measured in" in text
