"""Recorded numbers, from benchmarks/results/*/results.json."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from typing import Any

from sitegen.markup import ROOT

HEAD = "| benchmark | row | methods | target mIoU | Δ to source-only | Δ to the control |\n|---|---|---|---:|---:|---:|"


@cache
def recorded() -> dict[str, dict[str, Any]]:
    """Config's name -> its results."""
    files = sorted((ROOT / "benchmarks" / "results").glob("*/results.json"))
    return {path.parent.name: json.loads(path.read_text(encoding="utf-8")) for path in files}


def rows_of(method: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(config, row) of every recorded row that trains or adapts with a method."""
    for name, results in recorded().items():
        written = results["config"]["methods"]
        for row in results["rows"]:
            entry = written.get(row["name"])
            if entry is None:  # a control that the benchmark added by itself
                uses = method == "PassOnly" and "PassOnly" in row["methods"]
            else:
                uses = any(method in spec for spec in [*(entry["methods"] or []), entry["test_time"] or {}])
            if uses:
                yield name, row


def line(name: str, row: dict[str, Any], control: bool = True) -> str:
    """A recorded row as one of a table."""
    target = row["scores"]["target"]
    against = target["control_delta"]
    return (
        f"| {name} | `{row['name']}` | {row['methods']} | {100 * target['miou']['value']:.1f} "
        f"| {points(target['delta'])} | {_against(row, against)} |"
    )


def _against(row: dict[str, Any], against: dict[str, Any] | None) -> str:
    if against is None or against["estimate"] is None:
        return "–"
    limits = {"value": against["estimate"]["value"], "low": against["low"], "high": against["high"]}
    return f"{points(limits)} to `{row['control']}`"


def points(estimate: dict[str, Any] | None) -> str:
    """A difference in points with its interval."""
    if estimate is None or estimate["value"] is None:
        return "–"
    value, low, high = (100 * estimate[key] for key in ("value", "low", "high"))
    return f"{value:+.1f} [{low:.1f}, {high:.1f}]"


def commands(names: Iterator[str] | list[str]) -> list[str]:
    """How the results of some configs were made, one line of Markdown each."""
    return [
        f"* {name}: `{re.sub(r' --record [^ ]+', '', recorded()[name]['command'])}`, "
        f"{len(recorded()[name]['seeds'])} seeds, {recorded()[name]['machine']}"
        for name in dict.fromkeys(names)
    ]


def table() -> str:
    """Every recorded row of every config."""
    rows = [line(name, row) for name, results in recorded().items() for row in results["rows"]]
    return "\n".join([HEAD, *rows, "", *commands(list(recorded()))])
