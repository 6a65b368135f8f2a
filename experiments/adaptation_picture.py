"""Draws what adaptation does: a source image, a target image, both networks' predictions of it, and its labels.

python experiments/adaptation_picture.py --out docs/adaptation.png

Runs the rows ``source_only`` and ``class_mix`` of benchmarks/quickstart.yaml, seed 0, as far as they are missing under
``--runs`` (a few minutes on two CPU cores), and draws the first images of the validation sets.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.patches import Patch

from uda.bench import run
from uda.config import load_config
from uda.data import dataset
from uda.engine import evaluate
from uda.engine.predict import label_map
from uda.models import load

ROOT = Path(__file__).resolve().parent.parent
ROWS = {"source_only": "source only", "class_mix": "adapted (ClassMix)"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/adaptation.png"))
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--image", type=int, default=0, help="which validation image of the target")
    arguments = parser.parse_args()
    config = load_config(ROOT / "benchmarks" / "quickstart.yaml")
    run(config, out=arguments.runs, methods=list(ROWS), seeds=[0])
    networks = {row: load(arguments.runs / config.name / row / "seed0").eval() for row in ROWS}
    space = networks["source_only"].space
    labelled = {name: dataset(spec.kind, space=space, **spec.arguments) for name, spec in config.domains.items()}
    source, target = labelled["source"][arguments.image], labelled["target"][arguments.image]
    image = target.image.permute(1, 2, 0).numpy()
    pictures = {"source image (labelled)": source.image.permute(1, 2, 0).numpy(), "target image (no labels)": image}
    for row, title in ROWS.items():
        miou = evaluate(networks[row], labelled["target"]).miou()
        pictures[f"{title}: mIoU {100 * miou:.0f} %"] = space.colourise(label_map(networks[row], image))
    pictures["label (to score only)"] = space.colourise(target.label.numpy())
    figure, axes = plt.subplots(1, len(pictures), figsize=(15, 2.2), layout="constrained")
    for axis, (title, picture) in zip(axes, pictures.items(), strict=True):
        axis.imshow(picture, interpolation="nearest", aspect="auto")
        axis.set_title(title, fontsize=10)
        axis.set_axis_off()
    colours = [Patch(color=[value / 255 for value in colour]) for colour in space.colours]
    figure.legend(colours, space.names, loc="outside lower center", ncol=len(colours), fontsize=8, frameon=False)
    figure.savefig(arguments.out, dpi=80)
    print(f"written: {arguments.out}")


if __name__ == "__main__":
    main()
