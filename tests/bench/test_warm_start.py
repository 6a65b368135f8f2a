"""A warm start is where the rows of a seed begin, and nobody sees its first batches again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.bench import tiny
from uda.bench import run
from uda.bench.plan import WARM_SEED, make_plan
from uda.config import load_config
from uda.engine import checkpoint


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_data(tmp_path_factory.mktemp("streets"))


def weights(folder: Path) -> torch.Tensor:
    state = checkpoint.load(folder / "checkpoint.pt")["model"]
    return torch.cat([value.flatten() for name, value in state.items() if name.endswith("weight")])


def test_rows_begin_where_the_warm_start_ended(data: Path, tmp_path: Path) -> None:
    content = tiny.content(data, warm_start={"steps": 2, "lr": 1e-2}, oracle=False)
    # at this rate nothing moves: what a row ends with it began with
    content["settings"] |= {"lr": 1e-12, "weight_decay": 0.0, "optimizer": "sgd"}
    result = run(content, out=tmp_path, methods=["source_only"])
    assert result.failed == {}
    warm, row = (weights(result.folder / name / "seed0") for name in ("warm_start", "source_only"))
    torch.testing.assert_close(row, warm, rtol=0, atol=1e-7)
    cold = run({**content, "warm_start": None, "name": "cold"}, out=tmp_path, methods=["source_only"])
    assert (weights(cold.folder / "source_only/seed0") - warm).abs().max() > 1e-3


def test_a_warm_start_has_a_seed_of_its_own(data: Path) -> None:
    config = load_config(tiny.content(data, seeds=[0, 5]))
    cells = {cell.name: cell for cell in make_plan(config)}
    for seed in (0, 5):
        warm, row = cells[f"warm_start/seed{seed}"].settings, cells[f"fda/seed{seed}"].settings
        assert warm is not None
        assert row is not None
        assert (row.seed, warm.seed) == (seed, seed + WARM_SEED)
        assert warm.seed > max(config.seeds)
