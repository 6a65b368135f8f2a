"""Searches: what was interrupted ends as what was not, honest ones need no target labels, and the record is right."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from scipy import stats

from tests.bench import tiny
from tests.bench.test_ranks import MODEL
from tests.test_cli import call
from uda.bench import Event
from uda.bench.search import SearchResult, Trial, run_search, study, summarise, write_search
from uda.bench.search.objectives import halves
from uda.bench.search.study import best_by, draw_values, sampler_of
from uda.bench.search.summary import rank_correlation
from uda.bench.stored import read_evaluation
from uda.config import ConfigError, load_run
from uda.config.search import PEEKING, load_search
from uda.engine import checkpoint
from uda.models.pretrained import CHECKPOINT

SPACE = {"settings.lr": {"low": 1e-4, "high": 1e-1, "log": True}, "method.FDA.beta": [0.01, 0.05]}
TRIALS = 7


def content(data: Path, *, labels: bool = True, steps: int = 4, **search: Any) -> dict[str, Any]:
    base = tiny.content(data)
    keys = ("space", "source", "source_val", "target", "model", "settings", *(["target_val"] if labels else []))
    run = {key: base[key] for key in keys} | {"name": "s", "method": ["Supervised", {"FDA": {"beta": 0.05}}]}
    run["settings"] = {**base["settings"], "steps": steps}
    return {**run, "search": {"trials": TRIALS, "looks": 2, "space": SPACE, **search}}


@pytest.fixture(scope="module")
def done(data: Path, tmp_path_factory: pytest.TempPathFactory) -> SearchResult:
    result = run_search(content(data), out=tmp_path_factory.mktemp("search"))
    assert not result.failed, result.failed
    return result


@pytest.fixture
def copy(done: SearchResult, tmp_path: Path) -> Path:
    shutil.copytree(done.folder, tmp_path / "s")
    return tmp_path


def told(trials: list[Trial]) -> list[Any]:
    return [(trial.number, trial.state, trial.values, trial.objectives) for trial in trials]


def test_the_first_five_finish_and_a_bad_one_is_pruned_with_its_value(done: SearchResult) -> None:
    states = [trial.state for trial in done.trials]
    assert states[:5] == ["finished"] * 5
    assert "pruned" in states, "no trial was below the median; choose other bounds for this test"
    for trial in done.trials:
        assert 1e-4 <= trial.values["settings.lr"] <= 1e-1
        assert trial.values["method.FDA.beta"] in (0.01, 0.05)
        if trial.state == "pruned":
            assert set(trial.objectives) == {"source_miou"}
            assert trial.steps == 2
            others = [t.objectives["source_miou"] for t in done.trials if t.number != trial.number]
            assert trial.objectives["source_miou"] < max(others)
        else:
            assert trial.steps == 4
            assert set(trial.objectives) == {
                "source_miou", "source_loss", "target_entropy", "target_confidence", "target_sure", PEEKING
            }  # fmt: skip
    assert done.best is not None
    assert done.best.objectives["source_miou"] == max(
        trial.objectives["source_miou"] for trial in done.trials if trial.state == "finished"
    )


def test_the_same_call_again_does_nothing_and_more_trials_go_on(
    copy: Path, data: Path, monkeypatch: pytest.MonkeyPatch, done: SearchResult
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(study, "train", lambda *args, **kwargs: pytest.fail("trained again"))
        again = run_search(content(data), out=copy)
    assert again.ran == []
    assert told(again.trials) == told(done.trials)
    more = run_search(content(data, trials=TRIALS + 1), out=copy)
    assert more.ran == [TRIALS]
    assert told(more.trials)[:TRIALS] == told(done.trials)


@pytest.mark.slow
def test_an_interrupted_search_ends_as_one_that_was_not(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, done: SearchResult
) -> None:
    train, calls = study.train, []

    def cut(*args: Any, report: Any, **kwargs: Any) -> Any:
        calls.append(args)

        def interrupt(event: Any) -> None:
            if event.kind == "step" and event.step == 3 and len(calls) == 2:
                raise KeyboardInterrupt
            report(event)

        return train(*args, report=interrupt, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(study, "train", cut)
        with pytest.raises(KeyboardInterrupt):
            run_search(content(data), out=tmp_path)
    later = run_search(content(data), out=tmp_path)
    assert later.ran == list(range(1, TRIALS))
    assert told(later.trials) == told(done.trials)
    for trial, other in zip(later.trials, done.trials, strict=True):
        first, second = (checkpoint.load(each.folder / CHECKPOINT)["model"] for each in (trial, other))
        assert all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.mark.parametrize(
    ("changes", "key"),
    [({"space": {**SPACE, "method.FDA.beta": [0.01, 0.09]}}, r"search\.space\.method\.FDA\.beta"),
     ({"objective": "source_loss"}, r"search\.objective"), ({"steps": 6}, r"run\.settings\.steps: 4 -> 6")],
)  # fmt: skip
def test_another_config_is_refused_by_its_key(copy: Path, data: Path, changes: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError, match=rf"holds a search of another config(.|\n)*{key}"):
        run_search(content(data, **changes), out=copy)


@pytest.mark.slow
def test_an_honest_search_is_the_same_without_labels_of_the_target(
    data: Path, tmp_path: Path, done: SearchResult
) -> None:
    blind = run_search(content(data, labels=False, trials=2), out=tmp_path)
    for trial, seen in zip(blind.trials, done.trials, strict=False):
        assert trial.values == seen.values
        assert trial.objectives == {name: value for name, value in seen.objectives.items() if name != PEEKING}
    summary = summarise(blind)
    assert (summary.regrets, summary.target) == ([], {})
    text = write_search(summary)["md"].read_text()
    assert "The target has no labels" in text
    assert PEEKING not in text


@pytest.mark.slow
def test_a_failed_trial_fails_alone_and_the_next_call_leaves_it(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, calls = study.train, []

    def fail_first(config: Any, row: str, **kwargs: Any) -> Any:
        calls.append(config.name)
        if len(calls) == 1:
            config = config.model_copy(update={"model": {"encoder": "no_such_network", "weights": None}})
        return train(config, row, **kwargs)

    monkeypatch.setattr(study, "train", fail_first)
    result = run_search(content(data, trials=2, steps=2), out=tmp_path)
    assert [trial.state for trial in result.trials] == ["failed", "finished"]
    assert "no_such_network" in result.trials[0].message
    assert [name.split("/")[:2] for name in result.failed] == [["trials", "trial000"]]
    assert run_search(content(data, trials=2, steps=2), out=tmp_path).ran == []
    assert "failed: " in write_search(summarise(result))["md"].read_text()


@pytest.mark.slow
def test_workers_train_what_one_process_trains(data: Path, tmp_path: Path) -> None:
    space = {"settings.lr": [1e-3, 1e-2], "method.FDA.beta": [0.01, 0.05]}
    raw = content(data, trials=4, steps=2, sampler="grid", space=space, pruner="none")
    alone, together = (run_search(raw, out=tmp_path / str(n), workers=n) for n in (1, 2))

    def by_values(result: SearchResult) -> dict[str, Any]:
        return {json.dumps(trial.values): trial.objectives for trial in result.trials}

    assert len(by_values(alone)) == 4
    assert by_values(alone).keys() == by_values(together).keys()
    for values, objectives in by_values(alone).items():
        assert by_values(together)[values] == pytest.approx(objectives, rel=1e-5)


RATES = [0.002, 0.004, 0.006, 0.008, 0.01, 0.03, 0.009]
"""With the sixth the loss grows from step to step, so that it is pruned."""


def by_rates(data: Path, trials: int) -> dict[str, Any]:
    """A search whose trials two processes share: without dropout, whose draws are each process' own."""
    plan = {"trials": trials, "sampler": "grid", "objective": "source_loss", "space": {"settings.lr": RATES}}
    raw = content(data, labels=False, **plan)
    settings = {**raw["settings"], "batch_size": 2, "optimizer": "sgd"}
    return {**raw, "model": MODEL, "settings": settings}


@pytest.mark.soak
@pytest.mark.slow
def test_trials_that_several_processes_train_end_as_those_of_one(data: Path, tmp_path: Path) -> None:
    first, alone, shared = (tmp_path / name for name in ("first", "alone", "shared"))
    run_search(by_rates(data, 5), out=first)
    shutil.copytree(first, alone)
    shutil.copytree(first, shared)
    events: list[Event] = []
    ours = run_search(by_rates(data, 7), out=shared, processes=2, report=events.append)
    theirs = run_search(by_rates(data, 7), out=alone)
    assert ours.ran == theirs.ran == [5, 6]
    assert [trial.state for trial in ours.trials[5:]] == ["pruned", "finished"], ours.failed
    for trial, other in zip(ours.trials[5:], theirs.trials[5:], strict=True):
        assert (trial.state, trial.steps, trial.values) == (other.state, other.steps, other.values)
    # as in test_ranks.py: an untrained network of many batch norms makes percents of a rounding
    loss, expected = (result.trials[6].objectives["source_loss"] for result in (ours, theirs))
    assert loss == pytest.approx(expected, rel=0.1)
    assert json.loads((ours.trials[6].folder / "result.json").read_text())["processes"] == 2
    assert checkpoint.load(ours.trials[5].folder / CHECKPOINT)["step"] == 2
    assert {event.cell for event in events if event.kind == "step"} <= {"trial005", "trial006"}


@pytest.mark.slow
def test_a_killed_process_fails_its_trial_alone(data: Path, tmp_path: Path) -> None:
    raw = {**by_rates(data, 1), "method": ["Supervised", "tests.bench.machines:Mortal"]}
    result = run_search(raw, out=tmp_path, processes=2)
    killed = "process 1 of 2 was killed (SIGKILL), and the others were ended"
    assert [trial.message for trial in result.trials] == [killed]


def test_processes_that_cannot_share_a_trial_are_refused(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"settings\.batch_size is 2, must be a multiple of the 3 processes"):
        run_search(by_rates(data, 1), out=tmp_path, processes=3)
    with pytest.raises(ConfigError, match="processes must be at least 1, got 0"):
        run_search(by_rates(data, 1), out=tmp_path, processes=0)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=r"a search starts its processes itself \(--processes\)"):
        run_search(by_rates(data, 1), out=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_draws_follow_from_seed_and_number_alone(data: Path) -> None:
    optuna = study.import_optuna()
    config = load_search(content(data, sampler="random"))

    def values(numbers: range) -> list[dict[str, Any]]:
        own = optuna.create_study()
        drawn = []
        for number in numbers:
            own.sampler = sampler_of(config, number)
            drawn.append(draw_values(config, own.ask()))
        return drawn

    assert values(range(4))[2:] == values(range(2, 4))
    assert values(range(2)) != values(range(2, 4))


def test_what_honesty_costs_is_measured_on_images_that_nobody_chose_by(done: SearchResult) -> None:
    config, _ = done.config.trial({})
    chosen, reported = halves(config)
    assert not set(chosen) & set(reported)
    assert sorted(chosen + reported) == list(range(3))
    summary = summarise(done)
    finished = [trial for trial in done.trials if trial.state == "finished"]

    def miou(trial: Trial, indices: list[int]) -> float:
        evaluation = read_evaluation(trial.folder, "target")
        assert evaluation is not None
        matrix = evaluation.confusions[indices].sum(0)
        labelled, union = matrix.sum(1) > 0, matrix.sum(0) + matrix.sum(1) - matrix.diagonal()
        return float((matrix.diagonal()[labelled] / union[labelled]).mean())

    for trial in finished:
        assert trial.objectives[PEEKING] == pytest.approx(miou(trial, chosen))
        assert summary.target[trial.number] == pytest.approx(miou(trial, reported))
    oracle = max(finished, key=lambda trial: trial.objectives[PEEKING])
    assert summary.regrets[0].objective == "source_miou"
    assert summary.regrets[-1].objective == PEEKING
    for regret in summary.regrets:
        best = best_by(finished, regret.objective)
        assert best is not None
        assert regret.best == best.number
        assert regret.lost.value == pytest.approx(miou(oracle, reported) - miou(best, reported), abs=1e-9)
    assert summary.regrets[-1].lost.value == 0


def test_rank_correlation_by_hand() -> None:
    values, scores = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [0.1, 0.3, 0.2, 0.5, 0.4, 0.6]
    expected = float(stats.spearmanr(values, scores).statistic)
    found_up = rank_correlation(values, scores, "maximize")
    assert found_up.value == pytest.approx(expected)
    half = 1.959964 * np.sqrt((1 + expected**2 / 2) / 3)
    assert found_up.low == pytest.approx(np.tanh(np.arctanh(expected) - half), rel=1e-5)
    assert found_up.high == pytest.approx(np.tanh(np.arctanh(expected) + half), rel=1e-5)
    assert rank_correlation(values, scores, "minimize").value == pytest.approx(-expected)
    assert not rank_correlation([1.0, 1.0, 1.0], [0.1, 0.2, 0.3], "maximize").known
    assert not rank_correlation([1.0, 2.0], [0.1, 0.2], "maximize").known
    assert rank_correlation([1.0, 2.0, float("nan"), 3.0], [0.1, 0.2, 0.0, 0.3], "maximize").value == 1


def test_the_best_is_a_config_that_train_takes(done: SearchResult, tmp_path: Path) -> None:
    paths = write_search(summarise(done), tmp_path)
    config, row = load_run(paths["yaml"])
    assert done.best is not None
    assert config.settings.lr == done.best.values["settings.lr"]
    method = yaml.safe_load(paths["yaml"].read_text())["method"]
    assert method[1] == {"FDA": {"beta": done.best.values["method.FDA.beta"]}}
    assert row in config.methods
    again = write_search(summarise(done), tmp_path / "again")
    assert all(again[key].read_bytes() == paths[key].read_bytes() for key in ("md", "csv", "png", "yaml"))
    lines = paths["csv"].read_text().splitlines()
    assert len(lines) == 1 + TRIALS
    recorded = json.loads(paths["json"].read_text())
    assert recorded["best"] == done.best.number
    assert recorded["regrets"][0]["objective"] == "source_miou"


def test_the_command(copy: Path, data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(yaml.safe_dump(content(data)))
    assert call("search", path, "--out", copy, "--record", tmp_path / "kept") == 0
    shown = " ".join(capfd.readouterr().out.split())
    assert f"{TRIALS} of {TRIALS} trials" in shown
    assert "Best by source_miou: trial" in shown
    assert {file.name for file in (tmp_path / "kept").iterdir()} == {
        "search.md", "search.csv", "search.json", "search.png", "best.yaml"
    }  # fmt: skip
    for command, message in (("train", "uda search takes it"), ("search", "search: is missing")):
        raw = content(data)
        if command == "search":
            del raw["search"]
        path.write_text(yaml.safe_dump(raw))
        assert call(command, path, "--out", copy) == 2
        assert message in capfd.readouterr().err


def test_without_optuna_the_extra_is_named(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(study, "import_module", missing)
    with pytest.raises(ConfigError, match=r"pip install 'uda-seg\[search\]'"):
        run_search(content(data), out=tmp_path)
    assert not (tmp_path / "s").exists()
