from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.bench import tiny
from uda.bench.plan import Cell, make_plan, missing_scores
from uda.config import ConfigError, load_config


def plan(methods: list[str] | None = None, seeds: list[int] | None = None, **changes: Any) -> dict[str, Cell]:
    config = load_config(tiny.content(Path("data"), **changes))
    return {cell.name: cell for cell in make_plan(config, methods, seeds)}


def test_every_cell_comes_after_what_it_needs() -> None:
    cells = list(plan(seeds=[0, 1]).values())
    done: set[str] = set()
    for cell in cells:
        assert set(cell.needs) <= done
        done.add(cell.name)
    assert len(cells) == 2 * 5


def test_rows_have_the_same_steps_and_start() -> None:
    cells = plan()
    trained = [cells[f"{name}/seed0"] for name in ("source_only", "oracle", "fda")]
    assert {cell.settings.steps for cell in trained if cell.settings} == {2}
    assert {cell.needs for cell in trained} == {("warm_start/seed0",)}
    assert len({cell.training["warm_start"] for cell in trained}) == 1
    assert cells["adabn/seed0"].needs == ("source_only/seed0",)
    assert [cell.training["labels"] for cell in trained] == ["source", "target", "source"]


def test_warm_start_does_not_share_its_batches_with_what_follows() -> None:
    cells = plan(seeds=[0, 1])
    seeds = [cell.settings.seed for cell in cells.values() if cell.settings]
    warm = [cell.settings.seed for cell in cells.values() if cell.settings and cell.kind == "warm_start"]
    assert not set(warm) & {seed for seed in seeds if seed not in warm}
    assert len(set(warm)) == 2


def test_without_warm_start_nothing_is_needed() -> None:
    cells = plan(warm_start=None)
    assert "warm_start/seed0" not in cells
    assert cells["fda/seed0"].needs == ()


def test_own_model_gets_its_own_warm_start() -> None:
    rows = {"source_only": ["Supervised"], "big": {"methods": ["Supervised"], "model": {"weights": None, "aux": True}}}
    cells = plan_rows(rows)
    assert cells["big/seed0"].needs[0] != cells["source_only/seed0"].needs[0]
    assert cells[cells["big/seed0"].needs[0]].training["model"] == {"weights": None, "aux": True}


def plan_rows(rows: dict[str, Any]) -> dict[str, Cell]:
    config = load_config(tiny.content(Path("data")) | {"methods": rows})
    return {cell.name: cell for cell in make_plan(config)}


def test_only_some_rows_bring_what_they_start_from() -> None:
    assert set(plan(methods=["adabn"])) == {"warm_start/seed0", "source_only/seed0", "adabn/seed0"}
    assert set(plan(methods=["oracle"], seeds=[7])) == {"warm_start/seed7", "oracle/seed7"}
    with pytest.raises(ConfigError, match="no row 'x'; known: source_only, oracle, fda"):
        plan(methods=["x"])


def test_keys_change_with_what_determines_the_weights_and_nothing_else() -> None:
    settings = tiny.content(Path("data"))["settings"]
    base = plan()
    other_lr = plan(settings={**settings, "lr": 0.5})
    loader = plan(settings={**settings, "workers": 2, "device": None})
    no_unseen = plan(unseen={})
    for name in ("warm_start/seed0", "fda/seed0", "adabn/seed0"):
        assert base[name].key != other_lr[name].key
        assert base[name].key == loader[name].key == no_unseen[name].key
    assert base["fda/seed0"].key != base["oracle/seed0"].key != base["source_only/seed0"].key


def test_a_new_domain_asks_for_its_scores_only() -> None:
    before, after = plan(unseen={})["fda/seed0"], plan()["fda/seed0"]
    assert missing_scores(after, {"scores": before.scores}) == ["ika"]
    assert missing_scores(after, {"scores": after.scores}) == []
    assert missing_scores(after, None) == ["source", "target", "ika"]
