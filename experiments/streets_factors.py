"""Draws one street scene in every one-factor domain, beside its base.

python experiments/streets_factors.py --out docs/streets_factors.png
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import matplotlib.pyplot as plt
from PIL import Image

from uda.data.streets import ONE_FACTOR, one_factor, render, vary

COLOURS = 200
"""Of the PNG, which has a palette to be small."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/streets_factors.png"))
    parser.add_argument("--base", default="cityscapes")
    parser.add_argument("--strength", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--index", type=int, default=0, help="of the scene")
    arguments = parser.parse_args()
    domains = {"base": vary(arguments.base, {})}
    for name in ONE_FACTOR:
        domains[name] = vary(arguments.base, one_factor(name, arguments.strength, arguments.base), name)
    images = {name: render(domain, arguments.seed, index=arguments.index)[0] for name, domain in domains.items()}
    height, width = images["base"].shape[:2]
    widest = max(image.shape[1] for image in images.values()) / width  # stands in the last column
    figure, axes = plt.subplots(
        3, 3, figsize=(7.2, 3 * (7.2 / (2 + widest) * height / width + 0.2)), width_ratios=(1, 1, widest),
        layout="constrained",
    )  # fmt: skip
    for axis, (name, image) in zip(axes.flat, images.items(), strict=True):
        axis.imshow(image)
        axis.set_title(f"{name}, {image.shape[0]}×{image.shape[1]}", fontsize=8, loc="left")
        axis.set_anchor("NW")
        axis.axis("off")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    Image.open(buffer).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(arguments.out, optimize=True)
    print(f"{arguments.out}: {arguments.out.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
