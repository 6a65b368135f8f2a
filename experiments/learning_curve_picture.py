"""Draws the learning curve of a benchmark that has been run: scores against labelled target images.

python experiments/learning_curve_picture.py benchmarks/labels_streets.yaml --out docs/labels.png

Trains nothing: it reads what ``uda bench`` left under ``--runs``, and prints what the curve says.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from uda.bench import make_table
from uda.config import load_config
from uda.plots import learning_curve


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs/labels.png"))
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--root", action="append", default=[], help="NAME=PATH for ${NAME} in the config")
    arguments = parser.parse_args()
    config = load_config(arguments.config, dict(root.split("=", 1) for root in arguments.root))
    table = make_table(config, arguments.runs / config.name)
    if table.learning is None:
        raise SystemExit(f"{arguments.config}: has no learning_curve")
    learning_curve(table).savefig(arguments.out, dpi=200)
    print("\n".join(table.learning.sentences))


if __name__ == "__main__":
    main()
