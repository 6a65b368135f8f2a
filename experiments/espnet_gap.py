"""Why real networks of others lose on KITTI: ESPNet trained on Cityscapes, and ESPNet trained on CamVid.

    python experiments/espnet_gap.py --espnet FOLDER --kitti ROOT --camvid ROOT --out OUT

FOLDER holds ``Model.py``, ``espnet_p_2_q_8.pth`` and ``espnet_p_2_q_8_camvid.pth`` of sacmehta/ESPNet (MIT licence).
Writes a report of ``uda gap`` for each network and a table, ``OUT/README.md``. Cityscapes' images need an account:
the first network's source is the published mean and deviation, and its loss on the source stays unknown.
"""

from __future__ import annotations

import argparse
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from uda.data import CITYSCAPES19, CamVid, Kitti
from uda.data.label_spaces import CAMVID11
from uda.data.statistics import published_stats
from uda.engine import Inference
from uda.gap import Gap, Options, Summary, analyse, sentences, write_report
from uda.gap.verdict import percent, plain, points
from uda.models import adapt
from uda.types import LabelledDataset

WORK = "work"


def cityscapes_network(folder: Path) -> nn.Module:
    """ESPNet (q = 8) from Cityscapes as its authors feed it; the twentieth output is void."""
    mean, std = (72.39, 82.91, 73.16), (45.32, 46.15, 44.91)
    return _adapted(folder, "espnet_p_2_q_8.pth", 20, mean, std)


def camvid_network(folder: Path, train: LabelledDataset) -> nn.Module:
    """ESPNet (q = 8) from CamVid; mean and deviation are means of its training images' own, blue first."""
    images = [train[index].as_float() * 255 for index in range(len(train))]
    means = np.array([image.mean((1, 2)).numpy() for image in images]).mean(0)
    deviations = np.array([image.std((1, 2), correction=0).numpy() for image in images]).mean(0)
    return _adapted(folder, "espnet_p_2_q_8_camvid.pth", 12, means[::-1], deviations[::-1])


def _adapted(folder: Path, weights: str, classes: int, mean: Any, std: Any) -> nn.Module:
    definition = runpy.run_path(str(folder / "Model.py"))
    network = definition["ESPNet"](classes=classes, p=2, q=8)
    if weights.endswith("camvid.pth"):
        _concatenate_the_image(network, definition["CBR"](classes + 19, classes, 3, 1), classes)
    network.load_state_dict(torch.load(folder / weights, weights_only=True, map_location="cpu"))
    return adapt(
        network, num_classes=classes, mean=[float(value) / 255 for value in mean], std=[float(value) for value in std],
        bgr=True, feature_layer="encoder.b3", divisor=8,
    )  # fmt: skip


def _concatenate_the_image(network: nn.Module, conv: nn.Module, classes: int) -> None:
    """The CamVid weights are of an earlier definition, whose last layer sees the reduced image beside level 1."""
    level_1: list[torch.Tensor] = []
    network.conv = conv
    network.encoder.b1.register_forward_hook(lambda module, inputs, output: level_1.append(output))
    conv.register_forward_pre_hook(lambda module, inputs: (torch.cat([inputs[0][:, :classes], level_1.pop()], 1),))


def analysis(
    name: str, out: Path, model: nn.Module, space: Any, source: Any, target: Any, **arguments: Any
) -> tuple[Gap, Summary]:
    """Analyse and write the report of one network."""
    result = analyse(
        model,
        source,
        target,
        work=out / name / WORK,
        class_names=(*space.names, "void"),
        palette=[*(label.colour for label in space.classes), (0, 0, 0)],
        options=Options(),
        **arguments,
    )
    summary = write_report(result, out / name, command=f"python experiments/espnet_gap.py ({name})", title=name)
    return result, summary


def table(results: dict[str, tuple[Gap, Summary]]) -> str:
    """Shares and fixes of all networks as Markdown."""
    lines = []
    for name, (result, summary) in results.items():
        lines += [f"## {name}", "", *(f"{line}\n" for line in sentences(result, summary))]
        if summary.shares:
            lines += [
                "| factor | share of the excess loss | change of the loss when only this is edited |",
                "|---|---:|---:|",
            ]
            for share in (*summary.shares, *summary.groups):
                shown = "–" if share.share.value != share.share.value else percent(share.share)
                lines.append(f"| {share.label} | {shown} | {plain(share.alone)} |")
            lines.append("")
        lines += ["| fix at test time | loss | Δ loss | Δ mIoU, points | |", "|---|---:|---:|---:|---|"]
        for fix in summary.fixes:
            change = percent(fix.change, signed=True)
            lines.append(
                f"| {fix.result.fix.name} | {fix.loss:.2f} | {change} | {points(fix.miou_change)} | {fix.verdict} |"
            )
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name in ("espnet", "kitti", "camvid", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    arguments = parser.parse_args()
    out: Path = arguments.out
    kitti = Kitti(arguments.kitti, split="val")
    results = {
        "espnet_cityscapes": analysis(
            "espnet_cityscapes", out, cityscapes_network(arguments.espnet), CITYSCAPES19, published_stats("cityscapes"),
            kitti, source_name="published:cityscapes",
            adapt_on=Kitti(arguments.kitti, split="train").unlabelled(), inference=Inference(scale=2.0),
        ),
        "espnet_camvid": analysis(
            "espnet_camvid", out, camvid_network(arguments.espnet, CamVid(arguments.camvid, split="train")), CAMVID11,
            CamVid(arguments.camvid, split="test"), Kitti(arguments.kitti, split="val", space=CAMVID11),
            adapt_on=Kitti(arguments.kitti, split="train", space=CAMVID11).unlabelled(),
        ),
    }  # fmt: skip
    (out / "README.md").write_text(table(results))
    print(table(results))


if __name__ == "__main__":
    main()
