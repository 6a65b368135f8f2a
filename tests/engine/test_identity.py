"""What makes a run the same run: resolved arguments, settings that touch the weights, content of the data."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.data.contract import picture, write
from uda.data import CamVid, dataset_identity
from uda.engine import CheckpointError, Settings, Trainer, constant, poly
from uda.engine.checkpoint import load, save
from uda.engine.identity import INCIDENTAL, defaults_of, differences, plain, run_identity, settings_identity
from uda.engine.trainer import CHECKPOINT
from uda.methods import CBST, FDA, AdvEnt, ClassMix, FDAMultiBand, MeanStd, MinEnt, Supervised
from uda.methods.base import Method
from uda.testing import TinyDataset, TinySegmenter, assert_same, tiny_target


def settings(**changes: Any) -> Settings:
    plain_values: dict[str, Any] = {"steps": 4, "crop": (32, 64), "device": "cpu", "checkpoint_every": 2}
    return Settings(**{**plain_values, **changes})


def identity(*methods: Method, model: nn.Module | None = None, **changes: Any) -> dict[str, Any]:
    run = Trainer(model or TinySegmenter(), methods or [Supervised()], settings(**changes))
    return run_identity(
        run.model, run.methods, run.settings, TinyDataset(), tiny_target().unlabelled(), run.update.teacher_spec
    )


def test_arguments_are_remembered_with_their_defaults() -> None:
    assert FDA(beta=0.05).arguments == {
        "beta": 0.05, "band": "symmetric", "clip": False, "entropy_weight": 0.0, "eta": 2.0,
    }  # fmt: skip
    assert AdvEnt().arguments["lr"] == 1e-4, "of the class that was built, not of the one it inherits from"
    assert "objective" not in AdvEnt().arguments
    assert plain(ClassMix(teacher={"decay": 0.9}).arguments["teacher"]) == {
        "decay": 0.9, "update": "after", "mode": "train", "every": 1, "ramp": True, "buffers": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        (
            lambda: identity(Supervised(class_weights=[1, 2, 1, 1, 1])),
            "methods.Supervised.class_weights: None -> [1, 2,",
        ),
        (lambda: identity(MinEnt()), "methods.Supervised: "),
        (lambda: identity(lr=0.5), "settings.lr: 0.0001 -> 0.5"),
        (lambda: identity(augment={"flip": 0.1}), "settings.augment.flip: 0.5 -> 0.1"),
        (lambda: identity(optimizer="sgd"), "settings.optimizer.adamw: {'fused': True} -> not there"),
        (lambda: identity(model=TinySegmenter(aux=True)), "model.parameters: "),
        (lambda: identity(precision="bf16"), "settings.precision: 'fp32' -> 'bf16'"),
    ],
)
def test_what_touches_the_weights_differs(other: Any, difference: str) -> None:
    found = differences(identity(), other(), defaults_of([Supervised()]))
    assert found
    assert any(text.startswith(difference) for text in found), found


@pytest.mark.parametrize("name", INCIDENTAL)
def test_what_touches_no_weight_does_not(name: str) -> None:
    value = {"device": None, "workers": 2, "activation_checkpointing": "all", "compile": True}.get(name, 3)
    assert not differences(identity(), identity(**{name: value}), {})


def test_every_setting_is_in_it_or_known_to_be_incidental() -> None:
    kept = set(settings_identity(settings()))
    assert set(Settings.model_fields) - kept == {
        "workers", "device", "log_every", "image_every", "eval_every", "checkpoint_every", "teacher",
        "activation_checkpointing", "compile",
    }  # fmt: skip
    assert identity(ClassMix())["teacher"]["decay"] == 0.99


def test_colour_statistics_and_files_count() -> None:
    numbers = [[0.2, 0.3, 0.4], [0.1, 0.1, 0.2]]
    found = differences(identity(MeanStd()), identity(MeanStd(statistics=numbers)), {})
    assert found[0].startswith("methods.MeanStd.statistics: 'dataset' -> [[0.2, 0.3")


def test_a_weights_file_counts_by_its_content(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(3)}, tmp_path / "a.pt")
    shutil.copy(tmp_path / "a.pt", tmp_path / "b.pt")
    torch.save({"w": torch.ones(3)}, tmp_path / "c.pt")
    told = [plain(FDAMultiBand(models=[str(tmp_path / name)]).arguments) for name in ("a.pt", "b.pt", "c.pt")]
    content = [each["models"][0]["content"] for each in told]
    assert content[0] == content[1] != content[2]


def test_a_setting_added_since_differs_only_from_its_default() -> None:
    old = identity()
    del old["settings"]["accumulate"], old["methods"]["Supervised"]["average"], old["settings"]["augment"]["hue"]
    known = defaults_of([Supervised()])
    assert not differences(old, identity(), known)
    assert differences(old, identity(accumulate=2), known) == ["settings.accumulate: not there -> 2"]
    found = differences(old, identity(Supervised(average="all")), known)
    assert found == ["methods.Supervised.average: not there -> 'all'"]


def test_a_key_of_the_targets_own_augmentation_is_one_of_the_sources() -> None:
    old = identity(target_augment={"flip": 0.0})
    del old["settings"]["target_augment"]["contrast"], old["settings"]["average"]
    known = defaults_of([Supervised()])
    assert not differences(old, identity(target_augment={"flip": 0.0}), known)
    found = differences(old, identity(target_augment={"flip": 0.0, "contrast": 0.2}), known)
    assert found == ["settings.target_augment.contrast: not there -> 0.2"]


def test_a_teacher_written_before_it_had_intervals_and_buffers_is_the_same() -> None:
    old = identity(ClassMix())
    for teacher in (old["teacher"], old["methods"]["ClassMix"]["teacher"]):
        for key in ("every", "ramp", "buffers"):
            del teacher[key]
    known = defaults_of([ClassMix()])
    assert not differences(old, identity(ClassMix()), known)
    found = differences(old, identity(ClassMix(teacher={"every": 10})), known)
    assert found == ["methods.ClassMix.teacher.every: not there -> 10", "teacher.every: not there -> 10"]


def test_a_changed_default_is_noticed() -> None:
    old = identity()
    old["methods"]["Supervised"]["aux_weight"] = 0.4  # what was written out while 0.4 was the default
    assert differences(old, identity(), defaults_of([Supervised()])) == ["methods.Supervised.aux_weight: 0.4 -> 0.1"]


def test_another_schema_is_another_run() -> None:
    old = {**identity(), "schema": 2}
    assert differences(old, identity(), {}) == ["schema: 2 -> 4 (written by another version of uda)"]


# ---- data -----------------------------------------------------------------------------------------------------------


def test_moved_data_is_the_same_and_changed_data_is_not(tmp_path: Path) -> None:
    for number in range(2):
        write(tmp_path / f"here/train/{number}.png", picture(number))
        write(tmp_path / f"here/trainannot/{number}.png", np.full((6, 9), number, np.uint8))
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    here, there = (CamVid(tmp_path / name) for name in ("here", "there"))
    assert dataset_identity(here) == dataset_identity(there)
    assert dataset_identity(here.unlabelled()) == dataset_identity(there.unlabelled())
    label = there.items[0].label
    label.write_bytes(label.read_bytes() + b"\0")
    assert dataset_identity(here)["content"] != dataset_identity(CamVid(tmp_path / "there"))["content"]
    assert dataset_identity(here) != dataset_identity(here.remap("street8"))
    assert dataset_identity(here) != dataset_identity(here.subset([0]))


def test_data_without_files_counts_by_its_pixels() -> None:
    class Plain:
        name = "plain"

        def __init__(self, seed: int) -> None:
            self.inner = TinyDataset(seed=seed)

        def __len__(self) -> int:
            return 6

        def __getitem__(self, index: int) -> Any:
            return self.inner[index]

    assert dataset_identity(Plain(1)) == dataset_identity(Plain(1)) != dataset_identity(Plain(2))


# ---- resume ---------------------------------------------------------------------------------------------------------


def run(
    out: Path, *methods: Method, source: TinyDataset | None = None, extend: bool = False, **changes: Any
) -> Trainer:
    torch.manual_seed(0)
    trainer = Trainer(TinySegmenter(), [Supervised(), *methods], settings(**changes), out=out)
    trainer.fit(source or TinyDataset(), tiny_target(), extend=extend)
    return trainer


def test_resume_refuses_other_class_weights_statistics_and_data(tmp_path: Path) -> None:
    run(tmp_path, MeanStd())
    with pytest.raises(CheckpointError, match=r"another run.*\nsource\.seed: 1 -> 7"):
        run(tmp_path, MeanStd(), source=TinyDataset(seed=7))
    with pytest.raises(CheckpointError, match=r"another run.*\nmethods\.MeanStd\.statistics: 'dataset' -> 'image'"):
        run(tmp_path, MeanStd(statistics="image"))


def test_a_checkpoint_of_an_older_version_is_named(tmp_path: Path) -> None:
    run(tmp_path)
    state = load(tmp_path / CHECKPOINT)
    state["identity"] = {"settings": "{}", "methods": "{}", "model": "TinySegmenter"}
    save(state, tmp_path / CHECKPOINT)
    with pytest.raises(CheckpointError, match="written by another version of uda"):
        run(tmp_path)


# ---- longer ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", ["constant", {"poly": {"horizon": 100}}])
def test_training_longer_is_as_if_it_had_been_long_from_the_start(tmp_path: Path, schedule: Any) -> None:
    run(tmp_path / "short", MinEnt(), schedule=schedule)
    with pytest.raises(CheckpointError, match=r"another length; pass extend=True to train on\nsettings.steps: 4 -> 6"):
        run(tmp_path / "short", MinEnt(), schedule=schedule, steps=6)
    longer = run(tmp_path / "short", MinEnt(), schedule=schedule, steps=6, extend=True)
    whole = run(tmp_path / "whole", MinEnt(), schedule=schedule, steps=6)
    assert_same(longer.state_dict(), whole.state_dict())


@pytest.mark.parametrize(
    ("methods", "schedule", "reason"),
    [
        ([MinEnt()], "poly", "the schedule depends on it"),
        ([CBST()], "constant", "a method depends on it"),
    ],
)
def test_training_longer_is_refused_where_it_would_be_another_run(
    tmp_path: Path, methods: list[Method], schedule: str, reason: str
) -> None:
    run(tmp_path, *methods, schedule=schedule)
    with pytest.raises(CheckpointError, match=reason):
        run(tmp_path, *[type(each)() for each in methods], schedule=schedule, steps=6, extend=True)


def test_which_schedules_know_the_length() -> None:
    assert poly().needs_total
    assert not poly(horizon=10).needs_total
    assert not constant().needs_total


def test_what_differs_in_one_part_of_a_mixture_is_named_alone() -> None:
    def mixed(weight: float) -> dict[str, Any]:
        files = [{"name": f"{index:03}.png", "content": "0" * 16} for index in range(9)]
        parts = [{"name": "a", "files": files, "weight": 1.0}, {"name": "b", "files": files, "weight": weight}]
        return {"schema": 1, "source": {"parts": parts}}

    assert not differences(mixed(2.0), mixed(2.0), {})
    assert differences(mixed(2.0), mixed(0.5), {}) == ["source.parts.1.weight: 2.0 -> 0.5"]
    fewer = mixed(2.0)
    fewer["source"]["parts"].pop()
    assert differences(mixed(2.0), fewer, {})[0].startswith("source.parts: [")
