"""Names in configs and on the command line, and what they stand for.

A name is looked up in an explicit table, among the entry points of installed packages, or it *is* its place:
``package.module:Name``. Nothing registers itself; what a name stands for is imported when it is first asked for.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

T = TypeVar("T")
LISTED = 60
"""Names that a message lists at most, and letters of a name that are compared with them."""


def short(value: Any, length: int = 100) -> str:
    """``repr`` of a value as messages show it, cut where it is long.

    Example:
        >>> short("x" * 1000, length=20)
        "'xxxxxxxxx ... xxxx'"
    """
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # a number of thousands of digits, a tree of thousands of levels
        return f"a {type(value).__name__}"
    return text if len(text) <= length else f"{text[: length - 10]} ... {text[-5:]}"


def printable(text: str, length: int = 200) -> str:
    """A text from outside on one line, characters that steer a terminal written out, cut where it is long."""
    line = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text[: 2 * length])
    return line if len(line) <= length else f"{line[: length - 10]} ... {line[-5:]}"


class UnknownName(ValueError):
    """A name that stands for nothing; the message has the nearest known one."""


def nearest(name: str, known: Iterable[str], *, listed: int = LISTED) -> str:
    """The end of every message about an unknown name.

    Args:
        name: what was written.
        known: what could have been.
        listed: how many of them the message lists at most; 0: the three nearest alone, where there are thousands.

    Returns:
        ``the nearest is 'x' (known: x, y, z)``, or ``known: x, y, z`` where nothing resembles it.

    Example:
        >>> nearest("advnt", ["AdvEnt", "FDA"])
        "the nearest is 'AdvEnt' (known: AdvEnt, FDA)"
    """
    names = list(dict.fromkeys(known))
    by_lower = {candidate.lower(): candidate for candidate in names}
    close = difflib.get_close_matches(str(name)[:LISTED].lower(), by_lower, n=1 if listed else 3, cutoff=0.5)
    if not listed:
        quoted = ", ".join(repr(by_lower[candidate]) for candidate in close)
        return f"the nearest are {quoted}" if quoted else "nothing resembles it"
    every = "known: " + (", ".join(names[:listed]) or "none")
    every += f" and {len(names) - listed} more" if len(names) > listed else ""
    return f"the nearest is {by_lower[close[0]]!r} ({every})" if close else every


def import_name(place: str) -> Any:
    """What ``package.module:Name`` stands for; ``Name`` may have dots.

    Raises:
        UnknownName: not of that form, no such module, or nothing of that name in it (the nearest is named).
    """
    module_name, colon, attribute = place.partition(":")
    if not (colon and module_name and attribute):
        raise UnknownName(f"{short(place)} is not of the form package.module:Name")
    try:
        imported: Any = import_module(module_name)
    except ModuleNotFoundError as error:
        # a missing package of the module's own is the module's fault, not the name's
        if error.name is None or not (module_name + ".").startswith(error.name + "."):
            raise UnknownName(f"{place!r}: {module_name} cannot be imported ({error})") from error
        raise UnknownName(f"{place!r}: there is no module {error.name!r} on Python's path") from error
    for part in attribute.split("."):
        if not hasattr(imported, part):
            public = [key for key in vars(imported) if not key.startswith("_")]
            raise UnknownName(f"{place!r}: {module_name} has no {part!r}; {nearest(part, public)}")
        imported = getattr(imported, part)
    return imported


def keyword_arguments(function: Callable[..., Any], *, without: Iterable[str] = ()) -> dict[str, inspect.Parameter]:
    """The arguments of a callable that can be given by keyword, but for those that the caller fills in itself."""
    keyword_kinds = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    left_out = set(without)
    return {
        name: parameter
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind in keyword_kinds and name not in left_out
    }


class Configurable:
    """Mixin of classes whose objects remember what they were built with."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "__init__" in vars(cls):
            cls.__init__ = _remembering(cls.__init__)  # type: ignore[method-assign]

    @property
    def arguments(self) -> dict[str, Any]:
        """The constructor's arguments by name, defaults written out, as they were given."""
        return dict(getattr(self, "_arguments", {}))


def _remembering(init: Callable[..., None]) -> Callable[..., None]:
    """A constructor that notes its arguments, if it is the outermost one."""

    @functools.wraps(init)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> None:
        if "_arguments" not in vars(self):
            with contextlib.suppress(TypeError):  # wrong arguments are the constructor's own to refuse
                bound = inspect.signature(init).bind(self, *args, **kwargs)
                bound.apply_defaults()
                # not by attribute: a torch module would register what it is given
                object.__setattr__(self, "_arguments", dict(list(bound.arguments.items())[1:]))
        init(self, *args, **kwargs)

    return wrapped


class Registry(Mapping[str, T], Generic[T]):
    """Names of one kind of thing, as a read-only mapping.

    Looking a name up imports what it stands for; iterating over the names imports nothing.

    Args:
        what: the kind in a word or two, for messages (``"method"``).
        table: name -> ``package.module:Name``.
        group: entry point group in which installed packages add names; those of ``table`` cannot be replaced.
        accepts: whether an object is of the kind; by default everything is.
    """

    def __init__(
        self,
        what: str,
        table: Mapping[str, str],
        *,
        group: str | None = None,
        accepts: Callable[[Any], bool] = lambda candidate: True,
    ) -> None:
        self.what = what
        self.table = dict(table)
        self.group = group
        self.accepts = accepts

    @cached_property
    def extensions(self) -> dict[str, EntryPoint]:
        """Entry points of installed packages by name."""
        points = entry_points(group=self.group) if self.group else ()
        return {point.name: point for point in points if point.name not in self.table}

    def place(self, name: str) -> str:
        """Where a name's object lives, ``package.module:Name``.

        Raises:
            UnknownName: nothing has that name.
        """
        if not isinstance(name, str):
            raise UnknownName(f"the name of a {self.what} is a text, got {short(name)}")
        if name in self.table:
            return self.table[name]
        if name in self.extensions:
            return self.extensions[name].value
        if ":" in name:
            return name
        raise UnknownName(f"no {self.what} {short(name)}; {nearest(name, self)}, or package.module:Name")

    def __getitem__(self, name: str) -> T:
        place = self.place(name)
        imported: T = import_name(place)
        if not self.accepts(imported):
            raise UnknownName(f"{name!r} stands for {type(imported).__name__} {place}, which is no {self.what}")
        return imported

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and (name in self.table or name in self.extensions)

    def __iter__(self) -> Iterator[str]:
        yield from self.table
        yield from self.extensions

    def __len__(self) -> int:
        return len(self.table) + len(self.extensions)

    def __repr__(self) -> str:
        return f"Registry({self.what!r}, {list(self)})"
