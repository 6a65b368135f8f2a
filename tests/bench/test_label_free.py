"""What is said of a run without labels: each image goes through the network once."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from uda.bench import label_free
from uda.config import EvaluateSpec
from uda.engine import evaluate
from uda.engine.certainty import CertaintySums, certainty
from uda.functional.sampling import evenly_spaced
from uda.testing.tiny import TinyDataset, TinySegmenter, tiny_target


def test_the_source_is_predicted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = TinyDataset(length=9), tiny_target()
    for name, value in (("build_space", source.space), ("open_source", source), ("open_dataset", target)):
        monkeypatch.setattr(label_free.build, name, lambda *args, value=value: value)
    monkeypatch.setattr(label_free, "IMAGES", 4)
    torch.manual_seed(0)
    model = TinySegmenter().eval()
    config: Any = SimpleNamespace(space="", source=[], source_val=None, target=None)
    report = label_free.look(config, EvaluateSpec(), model, tmp_path, "fp32")
    pictures = min(label_free.PICTURES, len(target))
    assert len(model.passes) == 4 + 4 + pictures
    assert sorted(set(source.touched)) == evenly_spaced(9, 4) == [1, 3, 5, 7]
    # the same numbers as from passes of their own
    some: Any = label_free.Spaced(source, 4)
    alone = certainty(model, some, source.space.names)
    assert report["source"]["confidence"] == pytest.approx(alone.confidence)
    assert report["source"]["shares"] == pytest.approx(alone.shares)
    assert report["source"]["images"] == 4
    assert report["source"]["miou"] == pytest.approx(evaluate(model, some).miou())
    assert report["source"]["seen"] is True


def test_sums_count_each_image_alike() -> None:
    logits = torch.tensor([[4.0, 0.0], [0.0, 0.0]])[..., None, None].expand(2, 2, 3, 3)
    sums = CertaintySums(["a", "b"])
    with pytest.raises(ValueError, match="no image"):
        sums.certainty()
    sums.add(logits)
    sure = 1 / (1 + np.exp(-4))
    values = sums.certainty()
    assert values.images == 2
    assert values.confidence == pytest.approx((sure + 0.5) / 2)
    assert values.sure == pytest.approx(0.5)
    entropy = -(sure * np.log(sure) + (1 - sure) * np.log(1 - sure)) / np.log(2)
    assert values.entropy == pytest.approx((entropy + 1) / 2, rel=1e-5)
    assert values.shares == {"a": 1.0, "b": 0.0}


@pytest.mark.parametrize(("total", "count", "expected"), [(9, 3, [1, 4, 7]), (2, 3, [0, 1]), (1, 5, [0]), (0, 3, [])])
def test_evenly_spaced(total: int, count: int, expected: list[int]) -> None:
    assert evenly_spaced(total, count) == expected
