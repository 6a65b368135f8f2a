"""Draws a recorded benchmark: differences with intervals, and target against source.

python experiments/result_figures.py benchmarks/results/quickstart --out docs

Reads ``results.json``, and writes ``figure_forest.png`` and ``figure_scatter.png``; their alt texts are printed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from uda import plots


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path, help="a results.json of uda bench --record, or its folder")
    parser.add_argument("--out", type=Path, default=Path("docs"))
    arguments = parser.parse_args()
    figures = {"forest": plots.forest(arguments.result), "scatter": plots.target_against_source(arguments.result)}
    for name, figure in figures.items():
        figure.savefig(arguments.out / f"figure_{name}.png", dpi=150, metadata={"Software": None})
        print(figure.get_label())


if __name__ == "__main__":
    main()
