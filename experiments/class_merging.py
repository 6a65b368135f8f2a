"""What is gained by training data sets of different classes together without merging their classes: a measurement.

    python experiments/class_merging.py --camvid DIR --kitti DIR [--steps 300] [--seeds 3] [--balance domain]

Two data sets train one small network: CamVid (11 classes) and 30 images of KITTI (Cityscapes' 19), each half of the
draws (with ``--balance image`` every image equally often, so that KITTI is a thirteenth of them). Rows:

* ``fine only``: 19 classes, KITTI alone;
* ``by name``: 19 classes, both; a class of CamVid goes to the one of its name, the others are ignored;
* ``marginal``: 19 classes, both; CamVid's classes teach the sum of the probabilities of all that they cover;
* ``merged``: 11 classes, both; everything merged to CamVid's classes.

All are scored on KITTI's validation images and on CamVid's test images (two sequences), in CamVid's classes
(probabilities summed) and, where they have them, in the 19. Prints the table of docs/howto/classes.md; intervals are
those of ``uda.bench.intervals``.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch

from uda.bench.intervals import ImageScores
from uda.data import CAMVID11, CITYSCAPES19, dataset, union_space
from uda.data.balance import balanced
from uda.engine import Settings, Trainer, evaluate
from uda.methods import Supervised
from uda.models import build_model

ROWS = ("fine only", "by name", "marginal", "merged")
DOMAINS = ("KITTI, 19 classes", "KITTI, 11 classes", "CamVid, 11 classes")


def sources(row: str, camvid: Any, kitti: Any, balance: Any) -> Any:
    """The labelled images of a row, in its space."""
    if row == "merged":
        return balanced([(kitti.remap(CAMVID11), 1.0), (camvid.remap(CAMVID11), 1.0)], balance)
    fine = kitti.remap(CITYSCAPES19)
    if row == "fine only":
        return fine
    space = CITYSCAPES19 if row == "by name" else union_space(CITYSCAPES19, CAMVID11)
    return balanced([(fine, 1.0), (camvid.remap(space), 1.0)], balance)


def confusions(row: str, seed: int, options: argparse.Namespace, data: dict[str, Any]) -> dict[str, Any]:
    """Train a row with a seed; per-image confusion matrices by domain."""
    source = sources(row, data["camvid"], data["kitti"], options.balance)
    torch.manual_seed(seed)
    model = build_model("segmenter", source.space.num_classes, encoder="tf_efficientnet_lite0", decoder="FPN")
    settings = Settings(steps=options.steps, batch_size=2, crop=(128, 256), seed=seed, lr=1e-3, head_multiplier=1.0)
    trainer = Trainer(model, [Supervised()], settings, progress=False)
    trainer.fit(source)
    fine = row != "merged"
    scored = {"KITTI, 19 classes": evaluate(model, data["kitti_val"])} if fine else {}
    for name, key in (("KITTI, 11 classes", "kitti_val"), ("CamVid, 11 classes", "camvid_test")):
        coarse = data[key].remap(CAMVID11)
        scored[name] = evaluate(model, coarse, space=CAMVID11) if fine else evaluate(model, coarse)
    return {name: evaluation.confusions for name, evaluation in scored.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--camvid", type=Path, required=True)
    parser.add_argument("--kitti", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--balance", choices=("domain", "image"), default="domain", help="how the two are drawn")
    parser.add_argument(
        "--images", type=int, default=30, help="of the finely labelled data set, and of each that scores"
    )
    options = parser.parse_args()
    data = {
        "camvid": dataset("camvid", root=options.camvid, split="train", cache="memory"),
        "kitti": spaced(dataset("kitti", root=options.kitti, split="train", cache="memory"), options.images),
        "kitti_val": dataset("kitti", root=options.kitti, split="val", cache="memory").remap(CITYSCAPES19),
        "camvid_test": spaced(dataset("camvid", root=options.camvid, split="test", cache="memory"), options.images),
    }
    runs: dict[str, list[dict[str, Any]]] = {row: [] for row in ROWS}
    for seed in range(options.seeds):
        for row in ROWS:
            runs[row].append(confusions(row, seed, options, data))
            print(seed, row, {name: round(miou(value), 1) for name, value in runs[row][-1].items()}, flush=True)
    print(table(runs, {"KITTI": data["kitti_val"].sequences, "CamVid": data["camvid_test"].sequences}))


def spaced(images: Any, count: int) -> Any:
    """``count`` images, evenly spaced."""
    return images.subset(np.linspace(0, len(images) - 1, min(count, len(images))).round().astype(int).tolist())


def miou(matrices: np.ndarray) -> float:
    """Mean IoU in % of the classes that are labelled."""
    total = matrices.sum(0)
    labelled = total.sum(1) > 0
    union = total.sum(0) + total.sum(1) - total.diagonal()
    return float(100 * (total.diagonal()[labelled] / union[labelled]).mean())


def table(runs: dict[str, list[dict[str, Any]]], sequences: dict[str, list[str]]) -> str:
    """mIoU of each row and its difference to ``marginal``, with 95 % intervals, as Markdown."""
    columns: list[list[str]] = []
    for domain in DOMAINS:
        by_seed = {row: {k: run[domain] for k, run in enumerate(runs[row]) if domain in run} for row in ROWS}
        groups = np.unique(sequences[domain.split(",")[0]], return_inverse=True)[1]
        scores = ImageScores({row: value for row, value in by_seed.items() if value}, groups=groups)
        columns.append([_cell(scores, row) for row in ROWS])
    lines = [f"| | {' | '.join(DOMAINS)} |", "|---|" + "---|" * len(DOMAINS)]
    return "\n".join(
        [*lines, *(f"| {row} | {' | '.join(cells)} |" for row, *cells in zip(ROWS, *columns, strict=True))]
    )


def _cell(scores: ImageScores, row: str) -> str:
    if row not in scores.rows:
        return "–"
    text = f"{100 * scores.score(row).value:.1f}"
    if row == "marginal":
        return text
    less = scores.difference("marginal", row)
    return f"{text} (marginal {100 * less.value:+.1f}, {100 * less.low:+.1f} to {100 * less.high:+.1f})"


if __name__ == "__main__":
    main()
