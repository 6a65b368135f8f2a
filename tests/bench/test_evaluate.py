"""Rows that are evaluated in ways of their own, from the config to the scores and back from the run's folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.bench import tiny
from uda.bench import BenchResult, run
from uda.bench.build import open_dataset
from uda.bench.identity import Identities
from uda.bench.plan import make_plan
from uda.bench.restore import load_model, open_model, open_run
from uda.bench.stored import read_result
from uda.config import BenchConfig, ConfigError, load_config
from uda.engine import Evaluation, Inference, Update, evaluate

METHODS: dict[str, Any] = {
    "source_only": ["Supervised"],
    "mix": ["Supervised", "ClassMix"],
    "taught": {"methods": ["Supervised", "ClassMix"], "evaluate": {"model": "teacher"}},
    "flip": {"methods": ["Supervised", "FDA"], "evaluate": {"flip": True, "scales": [0.5, 1.0]}},
    "adabn": {"test_time": "AdaBN"},
}
EVALUATE: dict[str, Any] = {
    "input_size": [32, 48], "domains": {"ika": {"input_size": None, "window": [64, 32], "average": "probabilities"}},
}  # fmt: skip


@pytest.fixture(scope="module")
def done(data: Path, tmp_path_factory: pytest.TempPathFactory) -> BenchResult:
    content = tiny.content(data, methods=METHODS, evaluate=EVALUATE, oracle=False, warm_start=None)
    result = run(content, out=tmp_path_factory.mktemp("evaluated"))
    assert result.failed == {}
    return result


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("this call trains a step")

    monkeypatch.setattr(Update, "__call__", refuse)


def scored(done: BenchResult, row: str, domain: str) -> Evaluation:
    return Evaluation.load(done.folder / row / "seed0/evaluations" / f"{domain}.npz")


def again(config: BenchConfig, model: nn.Module, domain: str, inference: Inference) -> Evaluation:
    return evaluate(model, open_dataset(config.domains[domain], config.space), inference=inference)


@pytest.mark.slow
@pytest.mark.parametrize("row", ["source_only", "mix", "taught", "flip", "source_only-flip"])
def test_each_row_has_the_scores_of_its_own_way(done: BenchResult, row: str) -> None:
    own = Path(done.folder / row / "seed0")
    network = "teacher" if row == "taught" else "student"
    model = load_model(own, network)
    copies: dict[str, Any] = {"flip": True, "scales": (0.5, 1.0)} if "flip" in row else {}
    target = Inference(input_size=(32, 48), **copies)
    ika = Inference(window=(64, 32), average="probabilities", **copies)
    for domain, inference in (("source", target), ("target", target), ("ika", ika)):
        expected, found = again(done.config, model, domain, inference), scored(done, row, domain)
        np.testing.assert_array_equal(found.losses, expected.losses)
        np.testing.assert_array_equal(found.confusions, expected.confusions)
    assert (scored(done, row, "target").losses != again(done.config, model, "target", Inference()).losses).all()


@pytest.mark.slow
def test_teacher_and_student_of_a_run(done: BenchResult) -> None:
    folder = done.folder / "taught/seed0"
    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    teacher, student = load_model(folder, "teacher"), load_model(folder)
    assert all(torch.equal(value, state["teacher"][f"model.{name}"]) for name, value in teacher.state_dict().items())
    assert all(torch.equal(value, state["model"][name]) for name, value in student.state_dict().items())
    default, _, opened = open_model(str(folder))
    assert opened is not None
    assert opened.evaluate.model == "teacher"
    for name, value in default.state_dict().items():
        assert torch.equal(value, teacher.state_dict()[name]), "what the row was scored with"
    chosen, _, _ = open_model(str(folder), network="student")
    assert any(not torch.equal(value, teacher.state_dict()[name]) for name, value in chosen.state_dict().items())
    with pytest.raises(ConfigError, match="trained without a teacher"):
        load_model(done.folder / "flip/seed0", "teacher")
    with pytest.raises(ConfigError, match="model is 'teecher'"):
        load_model(folder, "teecher")


@pytest.mark.slow
def test_source_only_evaluated_alike_is_not_trained_again(done: BenchResult) -> None:
    cells = {cell.name: cell for cell in make_plan(done.config)}
    alike = cells["source_only-flip/seed0"]
    assert (alike.kind, alike.needs) == ("test_time", ("source_only/seed0",))
    assert not (done.folder / "source_only-flip/seed0/checkpoint.pt").exists()
    assert open_run(done.folder / "source_only-flip/seed0").evaluate.flip


@pytest.mark.slow
def test_adabn_sees_images_of_the_size_that_is_scored(done: BenchResult) -> None:
    from uda.methods import AdaBN

    config = done.config
    model, method = load_model(done.folder / "source_only/seed0"), AdaBN()
    dataset = open_dataset(config.target, config.space)
    images = [dataset[index].image[None].float() / 255 for index in range(len(dataset))]
    small = [nn.functional.interpolate(image, (32, 48), mode="bilinear", antialias=True) for image in images]
    method.attach(model)
    method.calibrate([(image * 255).round() / 255 for image in small])
    expected = again(config, method, "target", Inference(input_size=(32, 48)))
    np.testing.assert_allclose(scored(done, "adabn", "target").losses, expected.losses, rtol=1e-5)


@pytest.mark.slow
def test_another_way_to_evaluate_scores_anew_what_it_changes_and_trains_nothing(
    done: BenchResult, data: Path, tmp_path: Path, no_training: None
) -> None:
    shutil.copytree(done.folder.parent, tmp_path / "runs")
    content = tiny.content(data, methods=METHODS, oracle=False, warm_start=None)
    ika = {**EVALUATE["domains"]["ika"], "window": [32, 32]}
    content["evaluate"] = {**EVALUATE, "domains": {"ika": ika}, "classes": ["road", "vehicle"]}
    config = load_config(content)
    cells = make_plan(config)
    identities = Identities(config, cells)
    for cell in cells:
        missing = identities.missing_scores(cell, read_result(tmp_path / "runs/tiny" / cell.name))
        assert missing == ["ika"], "further means change no score"
    result = run(content, out=tmp_path / "runs", methods=["mix"])
    assert (result.ran, result.failed) == (["mix/seed0"], {})
    np.testing.assert_array_equal(scored(result, "mix", "target").losses, scored(done, "mix", "target").losses)
    assert (scored(result, "mix", "ika").losses != scored(done, "mix", "ika").losses).any()


def test_scores_from_before_the_options_are_those_of_the_defaults(finished: BenchResult) -> None:
    cells = make_plan(finished.config)
    identities = Identities(finished.config, cells)
    for cell in cells:
        result = json.loads((finished.folder / cell.name / "result.json").read_text())
        for identity in result["scores"].values():
            assert set(identity["evaluate"]) > {"batch_size", "scale"}
            identity["evaluate"] = {key: identity["evaluate"][key] for key in ("batch_size", "scale")}
        assert identities.missing_scores(cell, result) == []
    changed = load_config({**finished.config.resolved(), "evaluate": {"flip": True}})
    for cell in (cells := make_plan(changed)):
        if cell.kind != "warm_start":
            assert Identities(changed, cells).missing_scores(cell, result) != []
