"""A benchmark in one sentence, and where its numbers come from in another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from uda.bench.results import Measured
    from uda.bench.table import Row, Table

NAMED = 4
"""Rows that a sentence names; more are counted."""
VERDICTS = (
    ("helps", "helps", "help"),
    ("hurts", "hurts", "hurt"),
    ("no clear effect", "shows no clear effect", "show no clear effect"),
)
"""A verdict, and its verb for one row and for more."""


def headline(table: Table) -> str:
    """What was compared on which shift, and what came out, by the verdicts on the target."""
    if not table.rows:
        return f"{table.shift}: no finished cell"
    compared = [row for row in table.rows if row.control is not None and row.scores["target"].to_control is not None]
    seeds = max(len(row.seeds) for row in table.rows)
    kind = "procedural " if "target" in table.procedural else ""
    scope = (
        f"{table.shift}: {_number(len(table.rows), 'row')}, {_number(seeds, 'seed')}, "
        f"{_number(table.domains[0].images, f'{kind}target image')}"
    )
    return f"{scope}; {_finding(compared)}"


def _finding(compared: Sequence[Row]) -> str:
    parts = []
    for verdict, singular, plural in VERDICTS:
        rows = [row for row in compared if row.scores["target"].verdict == verdict]
        if rows:
            gains = sorted(rows, key=lambda row: -_gain(row))
            names = [row.name for row in (reversed(gains) if verdict == "hurts" else gains)]
            parts.append(f"{_listed(names)} {singular if len(rows) == 1 else plural}")
    if parts:
        return f"against {'its control' if len(compared) == 1 else 'their controls'}, {', '.join(parts)}"
    if any(row.scores["target"].verdict == "image noise only" for row in compared):
        return "one seed, so nothing is said about training again"
    return "nothing to compare"


def _gain(row: Row) -> float:
    control = row.scores["target"].to_control
    return control.estimate.value if control is not None else 0.0


def _listed(names: Sequence[str]) -> str:
    if len(names) > NAMED:
        return f"{', '.join(names[: NAMED - 1])} and {len(names) - NAMED + 1} more"
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def opened_by(first: str, result: Measured) -> list[str]:
    """What stands before a result: a first sentence, that its images are procedural, where it comes from."""
    origin = about_origin(result)
    return [line for line in (first, about_images(result), f"{origin}." if origin else "") if line]


def about_images(table: Measured) -> str:
    """That images are procedural, where they are; empty otherwise."""
    if not table.procedural:
        return ""
    written = dict.fromkeys(domain.data.split()[0] for domain in table.domains if domain.name in table.procedural)
    if set(table.procedural) == {domain.name for domain in table.domains}:
        which = "Procedural images"
    else:
        which = f"{', '.join(table.procedural)}: procedural images"
    names = "/".join(written)
    if len(written) > 1:
        return f"{which}, not photographs; the domains are called {names} because they are written in those layouts."
    return f"{which}, not photographs; the domain is called {names} because it is written in that layout."


def about_origin(table: Measured) -> str:
    """Date, version and commit, ``Measured until 2026-03-01 with uda 0.1.0 (commit 1a2b3c4d)``; empty if not known."""
    version = f"uda {table.versions['uda']}" if "uda" in table.versions else ""
    if table.commits:
        version = f"{version} ({'commit' if len(table.commits) == 1 else 'commits'} {', '.join(table.commits)})".strip()
    parts = [part for part in (table.date and f"until {table.date[:10]}", version and f"with {version}") if part]
    return " ".join(["Measured", *parts]) if parts else ""
