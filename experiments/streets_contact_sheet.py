"""Draws a contact sheet of the procedural street scenes: images and labels of each domain.

python experiments/streets_contact_sheet.py --out docs/streets.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from uda.data.streets import DOMAINS, render
from uda.data.streets.write import id_colours

GAP = 6
TITLE = 26


def scenes(domain: str, count: int, seed: int, size: tuple[int, int]) -> list[NDArray[np.uint8]]:
    """Images ``(H, W)`` of a domain, each above its coloured labels, ``(2 * H, W, 3)`` RGB."""
    made = (render(domain, seed, size, index=i) for i in range(count))
    return [np.concatenate([image, id_colours()[ids]]) for image, ids in made]


def strip(domain: str, width: int, seed: int, height: int) -> NDArray[np.uint8]:
    """A row of scenes of a domain below its name: as many as come nearest to a height, then fitted to the width."""
    tall, wide = DOMAINS[domain].view.size
    count = max(1, round(width / (height * wide / tall)))
    one = (width - GAP * (count - 1)) // count
    high = round(one * tall / wide)
    out = np.full((TITLE + 2 * high, width, 3), 255, np.uint8)
    cv2.putText(out, domain, (4, TITLE - 8), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (30, 30, 30), 1, cv2.LINE_AA)
    for i, picture in enumerate(scenes(domain, count, seed, (high, one))):
        out[TITLE:, i * (one + GAP) : i * (one + GAP) + one] = picture
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/streets.png"))
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--height", type=int, default=144, help="of each image, about, pixels")
    parser.add_argument("--width", type=int, default=1080, help="of the sheet, pixels")
    arguments = parser.parse_args()
    strips = [strip(domain, arguments.width, arguments.seed, arguments.height) for domain in DOMAINS]
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(arguments.out), np.concatenate(strips)[..., ::-1]):
        raise OSError(f"{arguments.out}: could not be written")


if __name__ == "__main__":
    main()
