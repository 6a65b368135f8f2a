"""Which colour statistics against which, at prediction: a Cityscapes-trained ESPNet on KITTI, real images.

    python experiments/colour_statistics.py --espnet FOLDER --kitti ROOT --cityscapes ROOT

FOLDER holds ``Model.py`` and ``espnet_p_2_q_8.pth`` of sacmehta/ESPNet (MIT licence). ``--cityscapes`` gives the images
that Reinhard's transfer and histogram matching aim at; any number of them will do. Prints the table of docs/colour.md.
"""

from __future__ import annotations

import argparse
import math
import runpy
from pathlib import Path

import numpy as np
import torch
from scipy import stats
from torch import nn

from uda.bench.intervals import Estimate, ImageScores
from uda.data import CITYSCAPES19, Cityscapes, Kitti
from uda.engine import Evaluation, Inference, evaluate
from uda.methods import AdaBN, ColourAtTest, PredictionTimeBN, TestTimeMethod
from uda.models import adapt
from uda.types import TaskSpec

INFERENCE = Inference(input_size=(374, 1242))
"""About KITTI's own size; the network was trained on 512x1024."""
BASELINE = "nothing"


class WithoutVoid(nn.Module):
    """The 19 classes of a network whose last output is void."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.network(images)
        return logits[:, :-1]


def espnet(folder: Path) -> nn.Module:
    """The authors' network as they feed it, but for its void output."""
    network = runpy.run_path(str(folder / "Model.py"))["ESPNet"](classes=20, p=2, q=8)
    network.load_state_dict(torch.load(folder / "espnet_p_2_q_8.pth", weights_only=True, map_location="cpu"))
    mean, std = (72.39, 82.91, 73.16), (45.32, 46.15, 44.91)
    return adapt(
        WithoutVoid(network), num_classes=19, mean=[value / 255 for value in mean], std=std, bgr=True,
        feature_layer="network.encoder.b3", divisor=8,
    )  # fmt: skip


def rows() -> dict[str, TestTimeMethod | None]:
    """By what is done."""
    return {
        BASELINE: None,
        "MeanStd, KITTI's data set → Cityscapes', published": ColourAtTest(statistics="kitti", reference="cityscapes"),
        "MeanStd, KITTI's data set, measured → Cityscapes', published": ColourAtTest(reference="cityscapes"),
        "MeanStd, each image → Cityscapes', published": ColourAtTest(statistics="image", reference="cityscapes"),
        "MeanStd, KITTI's data set → the reference images": ColourAtTest(),
        "Reinhard, each image → the reference images": ColourAtTest(transfer="reinhard"),
        "histogram, each image → the reference images": ColourAtTest(transfer="histogram"),
        "AdaBN (target training set, prior 0.5), for comparison": AdaBN(prior=0.5),
        "batch norm of the scored image (prior 0), for comparison": PredictionTimeBN(),
    }


def by_group(differences: np.ndarray, groups: np.ndarray) -> Estimate:
    """Mean over images with the 95 % interval of Student's t over groups, which may differ in size."""
    members = np.bincount(groups)
    sums = np.bincount(groups, differences - differences.mean())
    count = len(members)
    error = math.sqrt(count / (count - 1) * (sums**2).sum()) / len(differences)
    half = float(stats.t.ppf(0.975, count - 1)) * error
    mean = float(differences.mean())
    return Estimate(mean, mean - half, mean + half)


def text(estimate: Estimate, factor: float, digits: int) -> str:
    """``+1.2 [0.8, 1.6]``."""
    value, low, high = (factor * number for number in (estimate.value, estimate.low, estimate.high))
    return f"{value:+.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name in ("espnet", "kitti", "cityscapes"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    arguments = parser.parse_args()
    val = Kitti(arguments.kitti, split="val")
    train = Kitti(arguments.kitti, split="train").unlabelled()
    reference = Cityscapes(arguments.cityscapes, split="val")
    results: dict[str, Evaluation] = {}
    for name, method in rows().items():
        model = espnet(arguments.espnet)
        if method is not None:
            method.attach(model, TaskSpec.of(model, CITYSCAPES19, source=reference, target=train))
        results[name] = evaluate(method or model, val, inference=INFERENCE)
    _, groups = np.unique(val.sequences, return_inverse=True)
    scores = ImageScores({name: {0: result.confusions} for name, result in results.items()}, groups=groups)
    baseline = results[BASELINE]
    print("| at prediction | loss | Δ loss | mIoU | Δ mIoU |\n|---|---:|---:|---:|---:|")
    for name, result in results.items():
        loss = by_group(result.losses - baseline.losses, groups)
        cells = [name, f"{result.loss():.3f}", "", f"{100 * result.miou():.1f}", ""]
        if name != BASELINE:
            cells[2], cells[4] = text(loss, 1, 3), text(scores.difference(name, BASELINE), 100, 1)
        print(f"| {' | '.join(cells)} |")
    print(f"\n{len(val)} images of {len(set(groups))} drives; {len(reference)} reference image(s).")


if __name__ == "__main__":
    main()
