"""Figures of what the library measured: every function takes its results and returns a matplotlib ``Figure``.

Save one with ``figure.savefig("name.png", dpi=200)`` (``.pdf``, ``.svg``). A figure's label, ``figure.get_label()``,
says its numbers in words: an alt text. Colours are those that colour-blind people can tell apart (Okabe and Ito,
2008), and what a colour says a marker or a dash says too.
"""

from uda.plots.differences import forest
from uda.plots.effects import effects
from uda.plots.labels import learning_curve
from uda.plots.pictures import samples
from uda.plots.scores import target_against_source
from uda.plots.squares import matrix
from uda.plots.steps import curves
from uda.plots.style import PAPER, Theme
from uda.plots.trials import search

__all__ = [
    "PAPER", "Theme", "curves", "effects", "forest", "learning_curve", "matrix", "samples", "search",
    "target_against_source",
]  # fmt: skip
