"""Write docs/presets.md: every value of every preset with the authors' file and line, and what is done otherwise.

    python experiments/presets_table.py [--out docs/presets.md]

All of it comes from ``uda/presets/papers/``.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import yaml

from uda.files import atomic_write
from uda.presets import ORIGINS, PRESETS, Origin, Origins, leaves

ROOT = Path(__file__).resolve().parent.parent
HEAD = """# Presets

Written by `python experiments/presets_table.py` from `uda/presets/papers/`; not to be edited.

A preset is a paper's published run from GTA5 to Cityscapes, as the authors' code has it. Keys are those that `changes`
takes (`preset_trainer("CLAN", 19, changes={"settings.augment.flip": 0.0})`, in a benchmark `change:`). The last column
has the line of the authors' code that decides a value; where a README's command overrides a default, it is that.
*Library's own* marks values that the authors' code does not decide. What is listed below a table cannot be had with
this library, or is done in another way.

"Starts from" says which weights the authors begin with. A benchmark's `warm_start` trains on the source first; a preset
by itself begins with a pretrained encoder. Rows of a benchmark that name a preset leave `score_at` out, as all rows
of a table are scored against the same labels, and have the config's number of steps. `parts: [methods]` takes the
methods alone; sizes, rates and evaluation are for images of GTA5 and Cityscapes.

"""


def document() -> str:
    """The whole of docs/presets.md."""
    listed = ["| preset | paper | starts from | steps |", "|---|---|---|---|"]
    listed += [
        f"| [{name}](#{name.lower()}) | {preset['paper']} | {preset['start']} | {preset['steps']} |"
        for name, preset in PRESETS.items()
    ]
    return HEAD + "\n".join(listed) + "\n" + "".join(section(name) for name in PRESETS)


def section(name: str) -> str:
    """One preset: a row a source, then the departures."""
    preset, origins = PRESETS[name], ORIGINS[name]
    lines = [
        f"\n## {name}\n",
        f"{preset['paper']}; [{origins.repo}](https://github.com/{origins.repo}/tree/{origins.commit}). "
        f"Starts from: {preset['start']}.\n",
        "| key | value | where |",
        "|---|---|---|",
    ]
    for key, value in grouped(leaves(preset), origins).items():
        lines.append(f"| `{key}` | `{inline(value)}` | {where(origins.known[key])} |")
    if origins.departures:
        lines += ["\nOtherwise than in the authors' code:\n", *(f"* {text.strip()}" for text in origins.departures)]
    return "\n".join(lines) + "\n"


def grouped(values: dict[str, Any], origins: Origins) -> dict[str, Any]:
    """Values by the key that says where they come from, several of them as nested mappings."""
    groups: dict[str, Any] = {}
    for leaf, value in values.items():
        key = origins.key_of(leaf)
        if key is None:
            raise ValueError(f"nothing says where {leaf} comes from")
        below = leaf.removeprefix(key).split(".")[1:]
        content: Any = groups
        *parents, last = [key, *below]
        for name in parents:
            content = content.setdefault(name, {})
        content[last] = value
    return groups


def inline(value: Any) -> str:
    """A value as YAML in one line."""
    return yaml.safe_dump(value, default_flow_style=True, width=10**6, sort_keys=False).removesuffix("...\n").strip()


def where(origin: Origin) -> str:
    """The authors' lines, or why there are none."""
    return ", ".join(f"`{line}`" for line in origin.lines) or f"*library's own*: {origin.reason}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "presets.md")
    path = parser.parse_args().out
    with atomic_write(path) as file:
        file.write(document())
    print(f"written: {path}")


if __name__ == "__main__":
    main()
