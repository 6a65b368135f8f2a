"""What goes wrong with data, and how names that do not exist are reported."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class DataError(ValueError):
    """Something is wrong with a data set on disk; the message names the file."""


def nearest(name: str, known: Iterable[str]) -> str:
    """``; did you mean 'x'? known: a, b, c`` for error messages about an unknown name."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}known: {', '.join(names)}"
