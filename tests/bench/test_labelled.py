"""Rows that train on some labelled target images: which, how often, how strongly, and that another choice is a run of
its own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.bench import tiny
from uda.bench import build, run
from uda.bench.labelled import CHOSEN, read_chosen, with_labels
from uda.bench.plan import Cell, make_plan
from uda.bench.rows import rows_of
from uda.config import BenchConfig, ConfigError, load_config, load_run
from uda.data import FileDataset, Mixture
from uda.data.pairs import Pairs
from uda.engine import Update, checkpoint
from uda.models.pretrained import CHECKPOINT

WAYS = ("random", "diverse", "entropy", "both")


def content(data: Path, methods: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    rows = {f"few_{how}": {"methods": ["Supervised"], "target_labels": {"count": 2, "choose": how}} for how in WAYS}
    base = tiny.content(data, name="labels", methods={"source_only": ["Supervised"], **(methods or rows)})
    return {**base, "unseen": {}, "oracle": False, "curves": False, **changes}


@pytest.fixture(scope="module")
def done(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    result = run(content(data), out=tmp_path_factory.mktemp("labels"))
    assert not result.failed, result.failed
    return result.folder


def test_every_way_trains_on_that_many_images_and_says_which(done: Path, data: Path) -> None:
    names = {path.relative_to(data / "kitti").as_posix() for path in (data / "kitti").rglob("image_2/*.png")}
    for how in WAYS:
        folder = done / f"few_{how}/seed0"
        chosen = read_chosen(folder)
        assert len(set(chosen)) == 2
        assert set(chosen) <= names
        assert json.loads((folder / CHOSEN).read_text())["choose"] == how
        identity = checkpoint.load(folder / CHECKPOINT)["identity"]
        first, few = identity["source"]["parts"]
        assert (first["name"], few["name"], few["samples"]) == ("cityscapes/train", "kitti/train", 2)
        assert (few["weight"], few["share"]) == (1.0, 0.5)
    assert not read_chosen(done / "source_only/seed0")


def test_the_same_call_again_does_nothing(done: Path, data: Path, no_training: None) -> None:
    result = run(content(data), out=done.parent)
    assert not result.ran
    assert not result.failed


@pytest.mark.parametrize(
    "change",
    [{"count": 1}, {"weight": 2.0}, {"share": 0.25}, {"choose": "both"}],
    ids=lambda change: next(iter(change)),
)
def test_every_key_makes_another_run(done: Path, data: Path, change: dict[str, Any], no_training: None) -> None:
    rows = content(data)["methods"]
    rows["few_random"]["target_labels"] |= change
    with pytest.raises(ConfigError, match=rf"few_random.*another config(.|\n)*target_labels\.{next(iter(change))}"):
        run(content(data, rows), out=done.parent)
    del rows["few_random"]["target_labels"]
    with pytest.raises(ConfigError, match=r"target_labels: .* -> not there"):
        run(content(data, rows), out=done.parent)


def test_how_images_are_looked_at_matters_where_they_are_chosen_by_it(
    done: Path, data: Path, no_training: None
) -> None:
    changed = content(data, evaluate={"input_size": [32, 48]})
    with pytest.raises(ConfigError, match=r"few_diverse/seed0 and 2 more: (.|\n)*\.looked_at\.input_size"):
        run(changed, out=done.parent)


def test_a_killed_run_goes_on_with_the_images_it_began_with(
    done: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = {"few_diverse": content(data)["methods"]["few_diverse"]}
    steps = Update.__call__

    def killed(update: Update, *args: Any, **kwargs: Any) -> Any:
        if update.index == 1 and "few_diverse" in str(killed):
            raise KeyboardInterrupt
        return steps(update, *args, **kwargs)

    shutil.copytree(done, tmp_path / "labels")
    folder = tmp_path / "labels/few_diverse/seed0"
    whole = checkpoint.load(folder / CHECKPOINT)["model"]
    names = read_chosen(folder)
    for file in ("result.json", CHECKPOINT):
        (folder / file).unlink()
    changed = content(data, few)
    changed["settings"]["checkpoint_every"] = 1
    killed.__qualname__ = "few_diverse"
    monkeypatch.setattr(Update, "__call__", lambda *args, **kwargs: killed(*args, **kwargs))
    with pytest.raises(KeyboardInterrupt):
        run(changed, out=tmp_path)
    assert (folder / CHECKPOINT).is_file()
    monkeypatch.setattr(Update, "__call__", steps)
    # a warm start that would choose others no more changes what the run began with
    monkeypatch.setattr("uda.bench.labelled._choose", lambda *args: pytest.fail("chose again"))
    assert not run(changed, out=tmp_path).failed
    assert read_chosen(folder) == names
    again = checkpoint.load(folder / CHECKPOINT)["model"]
    assert all(torch.equal(value, again[name]) for name, value in whole.items())


def choose(config: BenchConfig, cell: Cell, root: Path, folder: Path) -> list[str]:
    """What a cell would train on, without training it."""
    source = build.open_source(config.source, config.space)
    mixed = with_labels(config, cell, root, folder, source, build.open_dataset(config.target, config.space))
    assert isinstance(mixed, Mixture)
    return mixed.names[len(source) :]


def test_labels_are_hidden_while_choosing(
    done: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(dataset: FileDataset, index: int) -> Any:
        raise AssertionError(f"{dataset.name}: a label was read")

    monkeypatch.setattr(FileDataset, "label", refuse)
    config = load_config(content(data))
    for cell in make_plan(config):
        if cell.method.startswith("few"):
            assert choose(config, cell, done, tmp_path / cell.method) == read_chosen(done / cell.name)


@pytest.mark.parametrize("rare", [False, True])
def test_only_chosen_labels_of_the_target_are_trained_on(data: Path, tmp_path: Path, rare: bool) -> None:
    drawn: list[str] = []
    sources = Pairs._source_sample

    def watched(pairs: Pairs, step: int, slot: int) -> Any:
        sample = sources(pairs, step, slot)
        drawn.append(sample[2].name)
        return sample

    methods = ["Supervised", "ClassMix", *(["RareClassSampling"] if rare else [])]
    rows = {"few": {"methods": methods, "target_labels": {"count": 1, "share": 0.25}}}
    changed = content(data, rows)
    changed["settings"] |= {"steps": 4, "batch_size": 2}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pairs, "_source_sample", watched)
        assert not run(changed, out=tmp_path, methods=["few"]).failed
    (chosen,) = read_chosen(tmp_path / "labels/few/seed0")
    target = [name for name in drawn if "image_2" in name]
    assert target == [chosen] * 2, "a quarter of the row's eight draws, none in the warm start"


def test_choices_are_nested_and_random_ones_differ_by_seed(done: Path, data: Path, tmp_path: Path) -> None:
    for how in WAYS:
        rows = {
            f"k{count}": {"methods": ["Supervised"], "target_labels": {"count": count, "choose": how}}
            for count in (1, 2, 3)
        }
        config = load_config(content(data, rows, seeds=[0, 1, 2, 3] if how == "random" else [0]))
        chosen = {
            (cell.seed, cell.method): choose(config, cell, done, tmp_path / how / cell.name)
            for cell in make_plan(config)
            if cell.method.startswith("k")
        }
        for seed in config.seeds:
            assert chosen[seed, "k1"] == chosen[seed, "k3"][:1]
            assert chosen[seed, "k2"] == chosen[seed, "k3"][:2]
        if how == "random":
            assert len({tuple(chosen[seed, "k3"]) for seed in config.seeds}) > 1


def test_controls_have_the_same_labels(data: Path) -> None:
    labels = {"count": 2, "weight": 0.5}
    rows = {
        "few": {"methods": ["Supervised"], "target_labels": labels},
        "advent": {"methods": ["Supervised", "AdvEnt"], "target_labels": labels},
        "own": {"methods": ["Supervised"], "target_labels": labels, "model": {"weights": None, "encoder": "resnet18"}},
    }
    config = load_config(content(data, rows))
    planned = rows_of(config)
    assert planned["few"].baseline == planned["few"].control == "source_only"
    assert planned["advent"].control == "advent-control"
    control = planned["advent-control"].entry
    assert control.target_labels == config.methods["advent"].target_labels
    assert control.methods == [{"Supervised": {}}, {"PassOnly": {}}]
    assert planned["own"].baseline == "source_only-own"
    assert planned["source_only-own"].entry.target_labels is None
    cells = {cell.name: cell for cell in make_plan(config)}
    assert cells["advent/seed0"].training["target_labels"]["weight"] == 0.5
    assert "target_labels" not in cells["source_only/seed0"].training


@pytest.mark.parametrize(
    ("row", "changes", "message"),
    [
        ({"count": 0}, {}, "target_labels.count"),
        ({"count": 2, "share": 1.0}, {}, "target_labels.share"),
        ({"count": 2, "weight": 0}, {}, "target_labels.weight"),
        ({"count": 2, "choose": "clever"}, {}, "target_labels.choose"),
        ({"count": 2, "shares": 0.5}, {}, r"target_labels.shares: unknown key; .*share"),
        ({"count": 2, "choose": "diverse"}, {"warm_start": None}, "diverse looks at the network of a warm_start"),
    ],
)
def test_mistakes_are_named(data: Path, row: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    rows = {"few": {"methods": ["Supervised"], "target_labels": row}}
    with pytest.raises(ConfigError, match=message):
        load_config(content(data, rows, **changes))


def test_labels_for_rows_that_take_none_are_refused(data: Path) -> None:
    labels = {"target_labels": {"count": 2}}
    with pytest.raises(ConfigError, match=r"adabn.target_labels: this row does not train"):
        load_config(content(data, {"adabn": {"test_time": "AdaBN", **labels}}))
    with pytest.raises(ConfigError, match=r"source_only.target_labels: is what others are compared to"):
        load_config(content(data, {"source_only": {"methods": ["Supervised"], **labels}}))
    changed = content(data)
    changed["target"] = {**changed["target"], "labelled": False}
    with pytest.raises(ConfigError, match=r"target.labelled: row 'few_random' trains on labels"):
        load_config(changed)


def test_more_images_than_there_are_ends_before_any_training(data: Path, tmp_path: Path, no_training: None) -> None:
    rows = {"few": {"methods": ["Supervised"], "target_labels": {"count": 4}}}
    with pytest.raises(ConfigError, match=r"methods.few.target_labels.count: 4, but target has 3 images"):
        run(content(data, rows), out=tmp_path)


def test_a_single_run_takes_labels_too(data: Path) -> None:
    base = content(data)
    single = {key: base[key] for key in ("source", "target", "settings", "space", "model")}
    config, row = load_run({**single, "method": {"methods": ["Supervised"], "target_labels": {"count": 1}}})
    assert config.methods[row].target_labels.count == 1
    assert "labelled" not in config.target.arguments
    config, row = load_run({**single, "method": {"preset": "DACS", "target_labels": {"count": 1}}})
    assert config.methods[row].target_labels.count == 1
