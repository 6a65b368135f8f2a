"""The papers' files: presets as they are written, and where each of their values comes from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

PAPERS = Path(__file__).parent / "papers"
CONTENT = ("paper", "start", "steps", "methods", "settings", "model", "evaluate")
"""Keys of a preset, in order."""


@dataclass(frozen=True)
class Origin:
    """Where a value comes from."""

    lines: tuple[str, ...] = ()
    """``file:line`` in the authors' repository."""
    reason: str = ""
    """Why the library decides, where the authors do not."""


@dataclass(frozen=True)
class Origins:
    """Where the values of one preset come from."""

    repo: str
    """``owner/name`` on GitHub."""
    commit: str
    known: Mapping[str, Origin]
    """By dotted key as in :func:`leaves`; a key holds for everything below it, the longest that fits counts."""
    departures: tuple[str, ...]
    """What the library does otherwise."""

    def key_of(self, leaf: str) -> str | None:
        """The key of ``known`` that holds for a leaf; ``None``: nobody knows where it comes from."""
        parts = leaf.split(".")
        keys = (".".join(parts[:count]) for count in range(len(parts), 0, -1))
        return next((key for key in keys if key in self.known), None)


def leaves(preset: Mapping[str, Any]) -> dict[str, Any]:
    """Every single value of a preset by dotted key, as ``changes`` writes them: ``ClassMix.teacher.decay``,
    ``settings.lr``; of a method that occurs twice ``HRDA2.weight``."""
    values = {"steps": preset["steps"]}
    count: dict[str, int] = {}
    for spec in preset["methods"]:
        ((name, arguments),) = spec.items()
        count[name] = count.get(name, 0) + 1
        values |= _flat(name if count[name] == 1 else f"{name}{count[name]}", arguments)
    for part in ("settings", "model", "evaluate"):
        values |= _flat(part, preset[part])
    return values


def _flat(prefix: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping) or not value:
        return {prefix: value}
    return {key: leaf for name, child in value.items() for key, leaf in _flat(f"{prefix}.{name}", child).items()}


def _read() -> Iterator[tuple[str, dict[str, Any], Origins]]:
    """Name, content and origins of every preset, paper by paper."""
    common = yaml.safe_load((PAPERS / "common.yaml").read_text(encoding="utf-8"))
    for path in sorted(PAPERS.glob("*.yaml")):
        if path.name == "common.yaml":
            continue
        paper = yaml.safe_load(path.read_text(encoding="utf-8"))
        for name, entry in paper["presets"].items():
            known: dict[str, Origin] = {}
            for section in (common, paper, entry):
                known |= {key: Origin(reason=reason) for key, reason in section.get("own", {}).items()}
                for key, lines in section.get("sources", {}).items():
                    known[key] = Origin(lines=(lines,) if isinstance(lines, str) else tuple(lines))
            texts = [*entry.get("departures", []), *paper.get("departures", [])]
            departures = tuple(common["departures"].get(text, text) for text in texts)
            origins = Origins(paper["repo"], paper["commit"], known, departures)
            yield name, {key: entry[key] for key in CONTENT}, origins


WRITTEN: dict[str, dict[str, Any]] = {}
"""Every preset by name, as its paper's file has it."""
ORIGINS: dict[str, Origins] = {}
"""By preset: where its values come from."""
for _name, _content, _origins in _read():
    WRITTEN[_name], ORIGINS[_name] = _content, _origins
