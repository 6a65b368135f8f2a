"""A run whose methods learn from no image is refused by its config, and warned of by the trainer."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from tests.bench import tiny
from uda.config import ConfigError, load_config, load_recorded, load_run
from uda.engine import Settings, Trainer
from uda.methods import FDA, L1, Method, Supervised
from uda.presets import preset_trainer
from uda.step import Step
from uda.testing import TinyDataset, TinySegmenter, tiny_target

RUN: dict[str, Any] = {
    "source": {"kind": "cityscapes", "root": "nowhere", "split": "train"},
    "target": {"kind": "folder", "root": "nowhere"},
    "settings": {"steps": 2},
}
HERE = "tests.test_learning"


class OwnPass(Method):
    """A method of somebody else's, whose loss passes images by a way of its own."""

    def losses(self, step: Step) -> dict[str, Tensor]:
        raise NotImplementedError


class OwnPenalty(OwnPass):
    """One whose losses look at no image."""

    learns = False


class OwnRestyler(Method):
    """One that has no loss."""


NOTHING = [
    ["FDA"],
    ["MeanStd", "FDA"],
    ["RareClassSampling"],
    ["L1"],
    ["L2SP", {"FDA": {"entropy_weight": 0}}],
    ["StrongSource"],
    ["PassOnly"],
    [f"{HERE}:OwnRestyler"],
    [f"{HERE}:OwnPenalty", "MeanStd"],
]
SOMETHING = [
    ["Supervised", "FDA"],
    ["Supervised", "L1"],
    ["MinEnt"],
    [{"FDA": {"entropy_weight": 0.005}}],
    [f"{HERE}:OwnPass"],
]


@pytest.mark.parametrize("methods", NOTHING, ids=str)
def test_a_run_that_learns_nothing_is_refused_before_any_data_is_read(methods: list[Any]) -> None:
    names = [next(iter(spec)) if isinstance(spec, dict) else spec.rpartition(":")[2] for spec in methods]
    with pytest.raises(ConfigError) as refused:
        load_run({**RUN, "method": methods})
    message = str(refused.value)
    assert ": method: " in message
    assert ", ".join(names) in message
    assert f"[Supervised, {', '.join(names)}]" in message
    assert "\n" not in message


@pytest.mark.parametrize("methods", SOMETHING, ids=str)
def test_one_loss_on_an_image_is_enough(methods: list[Any]) -> None:
    load_run({**RUN, "method": methods})


def test_a_benchmarks_row_is_named() -> None:
    rows = {
        "source_only": ["Supervised"],
        "fine": ["Supervised", "FDA"],
        "styled": ["FDA"],
        "adabn": {"test_time": "AdaBN"},
    }
    content = tiny.content(Path("nowhere"), methods=rows)
    with pytest.raises(ConfigError, match=r"methods\.styled: .* of FDA .*\[Supervised, FDA\]"):
        load_config(content)
    with pytest.raises(ConfigError, match=r"methods\.source_only: .* of StrongSource "):
        load_config({**content, "methods": {"source_only": ["StrongSource"]}})
    del rows["styled"]
    load_config(content)


def test_a_preset_without_its_only_loss_is_refused() -> None:
    changes = {"Supervised": None, "FDA.entropy_weight": 0.0}
    with pytest.raises(ConfigError, match=r"method: .* of FDA .*Supervised"):
        load_run({**RUN, "method": {"preset": "FDA", "change": changes}})
    with pytest.raises(ValueError, match=r"FDA .*Supervised"):
        preset_trainer("FDA", 5, changes=changes)


def test_what_an_earlier_version_recorded_can_be_read() -> None:
    content = tiny.content(Path("nowhere"), methods={"source_only": ["Supervised"], "styled": ["FDA"]})
    assert "styled" in load_recorded(content).methods


@pytest.mark.parametrize(
    ("methods", "warned"), [([FDA(), L1()], True), ([Supervised(), FDA()], False)], ids=["no", "loss"]
)
def test_the_trainer_warns_and_trains(methods: list[Method], warned: bool) -> None:
    trainer = Trainer(TinySegmenter(), methods, Settings(steps=1, crop=(32, 64), batch_size=2, device="cpu"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.fit(TinyDataset(), tiny_target())
    said = [warning for warning in caught if "FDA, L1" in str(warning.message)]
    assert len(said) == warned
    assert all(warning.filename == __file__ for warning in said)
    assert trainer.step_index == 1
