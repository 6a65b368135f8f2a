"""A benchmark of seconds: few procedural scenes, the smallest network without weights, two steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from uda.data.streets import generate

SIZES = {"cityscapes": (64, 96), "kitti": (64, 96), "ika": (64, 80)}


def write_data(root: Path) -> Path:
    """Three domains with three images a split."""
    for name, size in SIZES.items():
        generate(root / name, domain=name, splits={"train": 3, "val": 3} if name != "ika" else {"val": 2}, size=size)
    return root


def content(data: Path, **changes: Any) -> dict[str, Any]:
    """A config as YAML would give it."""
    base: dict[str, Any] = {
        "name": "tiny",
        "space": "street8",
        "source": {"kind": "cityscapes", "root": f"{data}/cityscapes", "split": "train"},
        "source_val": {"kind": "cityscapes", "root": f"{data}/cityscapes", "split": "val"},
        "target": {"kind": "kitti", "root": f"{data}/kitti", "split": "train"},
        "target_val": {"kind": "kitti", "root": f"{data}/kitti", "split": "val"},
        "unseen": {"ika": {"kind": "ika", "root": f"{data}/ika", "split": "val"}},
        "model": {"weights": None},
        "settings": {"steps": 2, "crop": [64, 64], "batch_size": 1, "lr": 1e-3, "log_every": 1, "device": "cpu"},
        "warm_start": {"steps": 1},
        "seeds": [0],
        "methods": {
            "source_only": ["Supervised"],
            "fda": ["Supervised", {"FDA": {"beta": 0.05}}],
            "adabn": {"test_time": {"AdaBN": {"prior": 0.5}}},
        },
        "resamples": 100,
    }
    return {**base, **changes}
