"""The page of ``uda gap``: one self-contained HTML file that opens offline, every picture with its number beside it.

Plotly draws and is inlined once; the page's own script only wires points, lists and the sample panel together. A
Content-Security-Policy forbids every request, and the same content gives the same bytes.
"""

from __future__ import annotations

import html
import json
import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import plotly.graph_objects as go
from markupsafe import Markup
from plotly.colors import sequential
from plotly.offline import get_plotlyjs
from plotly.subplots import make_subplots

from uda.files import atomic_write

OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#F0E442")
"""Colours that colour-blind people can tell apart (Okabe and Ito, 2008), without black, which a dark page hides."""

SYMBOLS = ("circle", "diamond", "square", "triangle-up", "cross", "star", "hexagon")
"""Plotly's marker of each data set, so that colour is never the only sign."""

GREY = "#8A8F98"
"""What is unexplained, unclear or not known."""

WEBGL_ABOVE = 2000
"""Samples above which points are drawn by WebGL instead of SVG."""

VERDICTS = {"helps": ("#009E73", "circle"), "hurts": ("#D55E00", "x"), "no clear effect": (GREY, "circle-open")}
STATES = {"source": "source", "target": "target, before", "after": "target, after"}
PLACES = ("classes", "height", "boundary", "size")
SECTIONS = {
    "numbers": "Numbers",
    "causes": "Causes and fixes",
    "space": "Feature space",
    "worst": "Worst samples",
    "where": "Where in the scene",
    "correlations": "Correlations",
    "change": "Before and after",
    "how": "How it was measured",
}

_ESCAPES = {ord(character): f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}


def write_page(content: Mapping[str, Any], path: Path) -> None:
    """Write the page of a gap analysis; the file is there whole or not at all.

    Args:
        content: plain data as JSON has it; every key may be missing or None, then its section gives the reason in
            ``content["missing"][section]``. Losses are in nats, mIoU and shares are fractions, colours RGB in 0 to 255,
            pictures data URIs. Numbers that are not finite are shown as missing.

            * ``title``, ``command``, ``version``, ``date``, ``config`` (YAML): text; ``verdict``, ``how``: sentences
            * ``columns`` and ``samples``: what is known of each of the n samples, one list of n values per column; a
              column may name the picture that it belongs to (``"picture": "prediction"``)
            * ``after``: the columns that a fix changes
            * ``latent``: ``method``, two ``axes``, ``before`` and ``after`` as n pairs
            * ``pictures``: ``before`` and ``after``, each kind of picture with n data URIs
            * ``loss_scale``: the two ends of the loss map's colours, in nats
            * ``loss_colours``: those colours from low to high (Cividis where missing)
            * ``classes``: ``name`` and ``colour``
            * ``numbers``, ``factors``, ``fixes``, ``distances``, ``correlations``, ``worse``: rows of a table;
              ``where``: four of them, by ``classes``, ``height``, ``boundary`` and ``size``
        path: of the HTML file.

    Raises:
        ValueError: a list has not one entry per sample, a column has no values, or a row of ``worse`` names no sample.
        OSError: the file cannot be written.
    """
    with atomic_write(path) as file:
        file.write(page(content))


def page(content: Mapping[str, Any]) -> str:
    """The page, as text; the arguments and errors of :func:`write_page`."""
    content = {key: value for key, value in _finite(content).items() if value is not None}
    count = _count(content)
    data = {
        "count": count,
        **{
            key: content.get(key)
            for key in ("columns", "samples", "after", "latent", "pictures", "loss_scale", "classes")
        },
        "palette": OKABE_ITO,
        "symbols": SYMBOLS,
        "grey": GREY,
    }
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("uda.gap", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        number=number, points=points, percent=percent, interval=interval, decimals=decimals, colour=_css_colour
    )
    drawn = figures(content, count)
    low, high = content.get("loss_scale") or (None, None)
    return environment.get_template("page.html.j2").render(
        content=content,
        count=count,
        sections=SECTIONS,
        places=PLACES,
        columns={column["name"]: column for column in content.get("columns") or ()},
        colours={row["name"]: row["colour"] for row in content.get("classes") or ()},
        drawn=set(drawn),
        webgl=count > WEBGL_ABOVE,  # its shaders' glue is made by eval; a request is still impossible
        missing=content.get("missing") or {},
        loss_colours=_loss_colours(content),
        loss_low=low,
        loss_high=high,
        plotly=Markup(get_plotlyjs()),
        data=_embed(data),
        figures=_embed({name: json.loads(figure.to_json(engine="json")) for name, figure in drawn.items()}),
    )


def number(value: float | None, digits: int = 3, *, sign: bool = False) -> str:
    """``0.310``, with a true minus; a dash where there is none.

    Example:
        >>> number(-0.2715, 2), number(0.5, 1, sign=True), number(None)
        ('−0.27', '+0.5', '–')
    """
    if value is None:
        return "–"
    return f"{round(value, digits) + 0.0:{'+' if sign else ''}.{digits}f}".replace("-", "−")


def points(value: float | None, digits: int = 1, *, sign: bool = False) -> str:
    """A fraction times 100, without the sign of per cent: as mIoU is written.

    Example:
        >>> points(0.481), points(-0.08, sign=True)
        ('48.1', '−8.0')
    """
    return number(_times(100, value), digits, sign=sign)


def percent(value: float | None, digits: int = 0, *, sign: bool = False) -> str:
    """A fraction in per cent, as :func:`number` writes it, kept on one line by a no-break space.

    Example:
        >>> percent(-0.27, sign=True).split(), percent(0.3149, 1).split()
        (['−27', '%'], ['31.5', '%'])
    """
    return "–" if value is None else f"{points(value, digits, sign=sign)}\u00a0%"


def interval(low: float | None, high: float | None, digits: int = 3, *, scale: float = 1.0) -> str:
    """``[0.2, 0.4]``, of both ends times ``scale``; nothing where an end is missing.

    Example:
        >>> interval(-0.1, 0.25, 2), interval(0.3, 0.4, 0, scale=100), interval(None, 1.0)
        ('[−0.10, 0.25]', '[30, 40]', '')
    """
    return "" if low is None or high is None else f"[{number(scale * low, digits)}, {number(scale * high, digits)}]"


def decimals(value: float | None) -> int:
    """How many decimals give three significant digits, at most three.

    Example:
        >>> decimals(41.2), decimals(0.03), decimals(None)
        (1, 3, 3)
    """
    return 3 if not value else min(3, max(0, 2 - math.floor(math.log10(abs(value)))))


def figures(content: Mapping[str, Any], count: int) -> dict[str, go.Figure]:
    """Plotly's figures by the ``id`` of their place; those of samples have no points yet, the choice of columns is the
    reader's."""
    drawn = {}
    if factors := content.get("factors"):
        if any(row.get("share") is not None for row in factors):
            drawn["figure-factors"] = _waterfall(factors)
        edits = [
            (row.get("label") or row["name"], *_triple(row, "alone"), *_group_mark(row, factors))
            for row in factors
            if row.get("alone") is not None
        ]
        if edits:
            drawn["figure-alone"] = _forest(edits, title="nats", names=None)
    if fixes := content.get("fixes"):
        drawn["figure-fixes"] = _forest(
            [
                (
                    row["name"], *(_times(100, row.get(key)) for key in ("change", "low", "high")),
                    *VERDICTS.get(row.get("verdict") or "", (GREY, "circle-open")),
                )
                for row in fixes
            ],
            title="change of the target's loss (%)",
            names={colour: verdict for verdict, (colour, _) in VERDICTS.items()},
        )  # fmt: skip
    if distances := content.get("distances"):
        drawn["figure-distances"] = _distances(distances)
    if correlations := content.get("correlations"):
        labels = {column["name"]: column.get("label") or column["name"] for column in content.get("columns") or ()}
        drawn["figure-correlations"] = _forest(
            [
                (labels.get(row["column"], row["column"]), row.get("rho"), row.get("low"), row.get("high"),
                 OKABE_ITO[0], "circle")
                for row in correlations
            ],
            title="rank correlation with the loss",
            names=None,
            span=(-1, 1),
        )  # fmt: skip
    for place in PLACES:
        if rows := ((content.get("where") or {}).get(place) or {}).get("rows"):
            drawn[f"figure-{place}"] = _places(rows)
    if latent := content.get("latent"):
        states = [state for state in ("before", "after") if latent.get(state)]
        spans = [_span([point[axis] for state in states for point in latent[state]]) for axis in (0, 1)]
        for state in states:
            drawn[f"figure-{state}"] = _points(count, latent.get("axes") or ("first axis", "second axis"), spans)
    if content.get("after") and content.get("samples"):
        figure = _points(count, ("before", "after"), (None, None))
        figure.update_layout(dragmode=False)
        drawn["figure-change"] = figure
    return drawn


def _waterfall(rows: Sequence[Mapping[str, Any]]) -> go.Figure:
    """Shares of the excess loss, each bar from where the one above ends; their sum last."""
    figure = go.Figure()
    starts = [0.0]
    for row in rows:
        starts.append(starts[-1] + 100 * (row.get("share") or 0.0))
    groups = list(dict.fromkeys(_group(row) for row in rows))
    for group in groups:
        places = [place for place, row in enumerate(rows) if _group(row) == group]
        shares = [_triple(rows[place], "share", "low", "high") for place in places]
        figure.add_bar(
            orientation="h",
            name=_text(group),
            y=places,
            base=[starts[place] for place in places],
            x=[_times(100, share) or 0.0 for share, _, _ in shares],
            error_x=_whiskers([tuple(_times(100, part) for part in share) for share in shares]),
            marker={
                "color": _group_mark(rows[places[0]], rows)[0],
                "pattern": {
                    "shape": ["/" if (share or 0.0) < 0 else "" for share, _, _ in shares],
                    "fillmode": "overlay",
                    "fgcolor": "white",
                },
            },
            width=0.62,
            text=[percent(share) for share, _, _ in shares],
            textposition="none",
            hovertemplate="%{text}<extra></extra>",
        )
    figure.add_bar(
        orientation="h", y=[len(rows)], x=[starts[-1]], width=0.62, marker={"color": GREY, "opacity": 0.45},
        showlegend=False, text=[percent(starts[-1] / 100)], textposition="none", hovertemplate="%{text}<extra></extra>",
    )  # fmt: skip
    steps = [(starts[place + 1], place + edge) for place in range(len(rows)) for edge in (0.31, 0.69)]
    figure.add_scatter(
        x=[step[0] for pair in zip(steps[::2], steps[1::2], strict=True) for step in (*pair, (None,))],
        y=[step[1] for pair in zip(steps[::2], steps[1::2], strict=True) for step in (*pair, (0, None))],
        mode="lines", line={"color": GREY, "width": 1, "dash": "dot"}, hoverinfo="skip", showlegend=False,
    )  # fmt: skip
    names = [row.get("label") or row["name"] for row in rows]
    _rows(figure, [*names, "whole excess loss"], "% of the excess loss", legend=len(groups) > 1)
    figure.update_layout(barmode="overlay")
    return figure


def _forest(
    rows: Sequence[tuple[str, float | None, float | None, float | None, str, str]],
    *,
    title: str,
    names: Mapping[str, str] | None,
    span: tuple[float, float] | None = None,
) -> go.Figure:
    """Values with their intervals, one row each; ``names`` are the colours' in the legend."""
    figure = go.Figure()
    for colour in dict.fromkeys(row[4] for row in rows):
        places = [place for place, row in enumerate(rows) if row[4] == colour and row[1] is not None]
        if not places:
            continue
        figure.add_scatter(
            name=_text((names or {}).get(colour, "")),
            x=[rows[place][1] for place in places],
            y=places,
            error_x=_whiskers([rows[place][1:4] for place in places]),
            mode="markers",
            marker={"color": colour, "size": 11, "symbol": [rows[place][5] for place in places], "line": {"width": 2}},
            text=[f"{number(rows[place][1])} {interval(*rows[place][2:4])}" for place in places],
            hovertemplate="%{text}<extra></extra>",
        )
        figure.data[-1].marker.line.color = colour
    _rows(figure, [row[0] for row in rows], title, legend=names is not None)
    figure.update_xaxes(range=span, zeroline=True, zerolinewidth=2)
    return figure


def _distances(rows: Sequence[Mapping[str, Any]]) -> go.Figure:
    """Each distance on an axis of its own, over the same distance between two halves of the source."""
    figure = make_subplots(
        rows=len(rows),
        cols=1,
        subplot_titles=[_text(row["name"]) for row in rows],
        vertical_spacing=0.55 / len(rows) if len(rows) > 1 else 0.0,
    )
    marks = (("", "source to target", OKABE_ITO[1], "diamond"), ("baseline", "baseline", GREY, "circle-open"))
    named: set[str] = set()
    for place, row in enumerate(rows, 1):
        digits = decimals(row.get("value"))
        for level, (prefix, name, colour, symbol) in enumerate(marks):
            triple = _triple(row, prefix or "value", *(f"{prefix}_{end}".lstrip("_") for end in ("low", "high")))
            if triple[0] is None:
                continue
            figure.add_scatter(
                row=place, col=1, name=name, legendgroup=name, showlegend=name not in named, x=[triple[0]], y=[level],
                error_x=_whiskers([triple]), mode="markers", hovertemplate="%{text}<extra></extra>",
                text=[f"{name} {number(triple[0], digits)} {interval(triple[1], triple[2], digits)}"],
                marker={"color": colour, "size": 11, "symbol": symbol, "line": {"width": 2, "color": colour}},
            )  # fmt: skip
            named.add(name)
    figure.update_annotations(x=0, xanchor="left", font={"size": 13})
    figure.update_yaxes(visible=False, range=[-0.7, 1.7], fixedrange=True)
    figure.update_xaxes(fixedrange=True, showline=True, ticks="outside", nticks=6)
    figure.update_layout(height=70 + 92 * len(rows), margin={"l": 12, "r": 16, "t": 62, "b": 30}, **_bare(True))
    figure.update_layout(legend={"y": 1, "yref": "container", "yanchor": "top"})
    return figure


def _places(rows: Sequence[Mapping[str, Any]]) -> go.Figure:
    """The loss of the source, and of the target before and after, side by side for each part of the scene."""
    figure = go.Figure()
    for level, (state, name) in enumerate(STATES.items()):
        losses = [row.get(f"loss_{state}") for row in rows]
        if all(loss is None for loss in losses):
            continue
        ends = [(row.get("low"), row.get("high")) if state == "target" else (None, None) for row in rows]
        figure.add_bar(
            orientation="h", name=name, y=list(range(len(rows))), x=losses,
            error_x=_whiskers([(loss, *pair) for loss, pair in zip(losses, ends, strict=True)]),
            marker={
                "color": OKABE_ITO[level],
                "pattern": {"shape": "/" if state == "after" else "", "fillmode": "overlay", "fgcolor": "white"},
            },
            text=[f"{name}: {number(loss)}" for loss in losses], textposition="none",
            hovertemplate="%{text}<extra></extra>",
        )  # fmt: skip
    _rows(figure, [row["name"] for row in rows], "loss (nats)", legend=True, height=16 + 11 * len(figure.data))
    figure.update_layout(barmode="group", bargap=0.28)
    return figure


def _points(count: int, axes: Sequence[str], spans: Sequence[list[float] | None]) -> go.Figure:
    """Axes and one empty trace as the pattern of those with points; axes that share ``spans`` can be compared."""
    kind = go.Scattergl if count > WEBGL_ABOVE else go.Scatter
    pattern = kind(mode="markers", hoverinfo="none", marker={"opacity": 0.9, "line": {"width": 0.8, "color": "white"}})
    if kind is go.Scatter:
        pattern.update(cliponaxis=False)
    pattern.update(selected={"marker": {"opacity": 1}}, unselected={"marker": {"opacity": 0.16}})
    figure = go.Figure(pattern)
    figure.update_xaxes(title=_text(axes[0]), range=spans[0], zeroline=False)
    figure.update_yaxes(title=_text(axes[1]), range=spans[1], zeroline=False)
    figure.update_layout(
        height=460, dragmode="lasso", hovermode="closest", margin={"l": 56, "r": 14, "t": 44, "b": 52}, **_bare(True)
    )
    bar = {"orientation": "h", "thickness": 12, "y": -0.16, "yanchor": "top", "outlinewidth": 0}
    figure.update_layout(coloraxis={"colorscale": "Cividis", "colorbar": bar})
    return figure


def _rows(figure: go.Figure, names: Sequence[str], title: str, *, legend: bool, height: int = 30) -> None:
    """One row per name from the top down; the places are numbers, so that equal names stay apart."""
    figure.update_yaxes(
        tickmode="array",
        tickvals=list(range(len(names))),
        ticktext=["<br>".join(_text(line) for line in textwrap.wrap(str(name), 24) or [""]) for name in names],
        range=[len(names) - 0.45, -0.55],
        fixedrange=True,
        automargin=True,
        zeroline=False,
        showgrid=False,
    )
    figure.update_xaxes(title=_text(title), fixedrange=True, automargin=True, zeroline=True)
    figure.update_layout(
        height=(88 if legend else 62) + height * len(names),
        margin={"l": 8, "r": 16, "t": 34 if legend else 8, "b": 46},
        **_bare(legend),
    )


def _bare(legend: bool) -> dict[str, Any]:
    """Of every figure: no template of its own, the page's script sets the colours of the reader's scheme."""
    place = {"orientation": "h", "x": 0, "xanchor": "left", "y": 1, "yanchor": "bottom", "title": {"text": ""}}
    return {"template": go.layout.Template(), "showlegend": legend, "legend": place}


def _group(row: Mapping[str, Any]) -> str:
    return row.get("group") or str(row["name"])


def _group_mark(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """Colour and symbol of a factor's group; what is unexplained is grey."""
    groups = list(dict.fromkeys(_group(other) for other in rows if other["name"] != "unexplained"))
    if row["name"] == "unexplained":
        return GREY, "circle-open"
    place = groups.index(_group(row))
    return OKABE_ITO[place % len(OKABE_ITO)], SYMBOLS[place % len(SYMBOLS)]


def _triple(row: Mapping[str, Any], value: str, low: str = "", high: str = "") -> tuple[float | None, ...]:
    return row.get(value), row.get(low or f"{value}_low"), row.get(high or f"{value}_high")


def _whiskers(triples: Sequence[Sequence[float | None]]) -> dict[str, Any] | None:
    """Plotly's two-sided error bars of (value, low, high); none where an end is missing."""
    ends = [
        (high - value, value - low) if value is not None and low is not None and high is not None else (None, None)
        for value, low, high in triples
    ]
    if all(up is None for up, _ in ends):
        return None
    return {
        "type": "data", "symmetric": False, "array": [up for up, _ in ends], "arrayminus": [down for _, down in ends],
        "thickness": 1.6, "width": 4,
    }  # fmt: skip


def _times(factor: float, value: float | None) -> float | None:
    return None if value is None else factor * value


def _span(values: Sequence[float | None]) -> list[float]:
    known = [value for value in values if value is not None] or [0.0, 1.0]
    edge = 0.06 * (max(known) - min(known)) or 1.0
    return [min(known) - edge, max(known) + edge]


def _text(value: Any) -> str:
    """Text that Plotly shows as it is: of its own it reads HTML-like tags and entities."""
    return html.escape(str(value), quote=False)


def _css_colour(colour: Sequence[int]) -> str:
    return f"#{bytes(int(part) for part in colour).hex()}"


def _loss_colours(content: Mapping[str, Any]) -> list[str]:
    colours = content.get("loss_colours")
    return [_css_colour(colour) for colour in colours] if colours else list(sequential.Cividis)


def _embed(data: Any) -> Markup:
    """JSON that no browser takes for HTML, whatever its strings hold."""
    return Markup(json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":")).translate(_ESCAPES))


def _finite(value: Any) -> Any:
    """The same data with None for NaN and infinity, which JSON does not have."""
    if isinstance(value, Mapping):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _count(content: Mapping[str, Any]) -> int:
    """How many samples there are; every list of samples must have as many."""
    samples = content.get("samples") or {}
    lists = {f"samples[{name!r}]": values for name, values in samples.items()}
    lists |= {f"after[{name!r}]": values for name, values in (content.get("after") or {}).items()}
    latent, pictures = content.get("latent") or {}, content.get("pictures") or {}
    lists |= {f"latent[{state!r}]": latent[state] for state in ("before", "after") if latent.get(state)}
    lists |= {
        f"pictures[{state!r}][{kind!r}]": uris
        for state, kinds in pictures.items() for kind, uris in (kinds or {}).items()
    }  # fmt: skip
    lists = {name: values for name, values in lists.items() if values is not None}
    first = next(iter(lists), "")
    count = len(lists[first]) if lists else 0
    for name, values in lists.items():
        if len(values) != count:
            raise ValueError(f"{name} has {len(values)} entries where {first} has {count}; each has one per sample")
    for column in content.get("columns") or ():
        if column["name"] not in samples:
            raise ValueError(f"column {column['name']!r} has no values; samples has {', '.join(samples) or 'none'}")
    for row in content.get("worse") or ():
        if not 0 <= row["index"] < count:
            raise ValueError(f"worse: index {row['index']} of {row['file']!r} is none of the {count} samples")
    return count
