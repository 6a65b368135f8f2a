"""Figures as SVG text of a page: colours are CSS variables, so that one chart serves light, dark and print.

The same figure gives the same bytes.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from uda.plots.style import Theme, rc

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROLES = {
    "#010203": "currentColor", "#010204": "var(--helps)", "#010205": "var(--hurts)", "#010206": "var(--faint)",
    "#010207": "var(--ground)",
    **{f"#0102{16 + at:02x}": f"var(--row{at})" for at in range(8)},
}  # fmt: skip
"""Colours that no chart has otherwise -> what stands for them in the page; matplotlib knows no CSS."""
_INK, _HELPS, _HURTS, _FAINT, _GROUND, *_ROWS = ROLES
PAGE = Theme(_INK, _HELPS, _HURTS, _FAINT, rows=tuple(_ROWS), ground=_GROUND)
"""For :func:`as_svg`."""


def as_svg(name: str, draw: Callable[[Theme], Figure]) -> str:
    """A figure as an ``<svg>`` of a page, its label as alt text.

    Args:
        name: of the chart, once in a page: its parts are called after it.
        draw: gives the figure in the colours of a theme, which become the page's.
    """
    from matplotlib import rc_context

    text = io.StringIO()
    settings = {**rc(PAGE), "svg.fonttype": "none", "svg.hashsalt": name, "savefig.facecolor": "none"}
    with rc_context(settings):
        figure = draw(PAGE)
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = text.getvalue()
    # inside HTML an <svg> needs neither prolog, metadata nor namespaces, which are web addresses
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # the same in every chart of a page, and nothing refers to them
    for colour, role in ROLES.items():
        svg = svg.replace(colour, role)
    return svg.replace("<svg", f'<svg role="img" aria-label="{html.escape(str(figure.get_label()))}"', 1)
