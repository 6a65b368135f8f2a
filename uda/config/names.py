"""Names in configs that are names of folders and files too: one rule for all of them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import Any

from uda.registry import short

LONGEST = 100
"""Bytes of a name; file systems take 255, and files are called after it."""
RESERVED = ("results.md", "results.csv", "results.json", "report.html")
"""Files of a benchmark's folder, where the rows' folders lie."""
WARM_START = "warm_start"
"""Begins the names of the cells that others start from."""
_RULE = "a name, which is also a folder's, has letters, digits and . _ + - only"
_DEVICES = re.compile(r"con|prn|aux|nul|(com|lpt)\d")


def check_name(name: Any) -> str:
    """The name, if it is one on every system.

    Raises:
        ValueError: it is none; the message says why, but not whose name it is.
    """
    if isinstance(name, bool) or not isinstance(name, str | int):
        raise ValueError(f"a name is a text, got {short(name)}; write it in quotes")
    text = str(name)
    if not re.fullmatch(r"[\w.+-]+", text):
        raise ValueError(_RULE)
    if not re.match(r"\w", text):
        raise ValueError(f"{_RULE}, and begins with a letter, a digit or _")
    if text.endswith("."):
        raise ValueError(f"{_RULE}, and does not end with a dot")
    if len(text.encode()) > LONGEST:
        raise ValueError(f"a name, which is also a folder's, has at most {LONGEST} bytes, got {len(text.encode())}")
    if _DEVICES.fullmatch(_folded(text).partition(".")[0]):
        raise ValueError(f"Windows has no folder of that name; {_RULE}")
    return text


def check_row(name: Any) -> str:
    """:func:`check_name` of a row, which lies in a benchmark's folder beside other things."""
    text = check_name(name)
    if _folded(text) in RESERVED or _folded(text).startswith(WARM_START):
        raise ValueError(
            f"this name is taken by the benchmark itself, as are {', '.join(RESERVED)} and all that begin with "
            f"{WARM_START}; choose another"
        )
    return text


def check_different(names: Iterable[str]) -> None:
    """See that all names are different in every letter case.

    Raises:
        ValueError: two differ by case only; both are named.
    """
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(_folded(name), name)
        if other != name:
            raise ValueError(f"{short(other)} and {short(name)} differ by case only and are one folder on some systems")


def free_name(label: str, taken: Iterable[str]) -> str:
    """``label``, or with a number behind it the first that differs from all others in more than case."""
    folded = {_folded(name) for name in taken}
    name, number = label, 2
    while _folded(name) in folded:
        name, number = f"{label}-{number}", number + 1
    return name


def as_name(text: str) -> str:
    """A name that is like a text."""
    name = re.sub(r"[^\w.+-]+", "-", text).strip(".-+")
    while len(name.encode()) > LONGEST:
        name = name[:-1].rstrip(".")
    try:
        return check_name(name)
    except ValueError:
        return f"run-{name}" if name else "run"


def _folded(name: str) -> str:
    return unicodedata.normalize("NFKC", name).casefold()
