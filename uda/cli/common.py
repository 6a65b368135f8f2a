"""What the commands share: errors in one or two lines, key=value options, progress that suits the terminal."""

from __future__ import annotations

import dis
import functools
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import typer
from rich.progress import Progress

from uda.progress import QUIET_SECONDS
from uda.progress import bars as bars
from uda.progress import columns as columns
from uda.progress import console as console
from uda.registry import nearest, printable, short

FAILED = 1
"""Exit code: something failed in the work."""
WRONG_INPUT = 2
"""Exit code: the input is wrong."""
INTERRUPTED = 130
"""Exit code: Ctrl-C."""

LINE = 4000
"""Letters of a line of an error at most."""
BUGS = (ArithmeticError, AssertionError, AttributeError, LookupError, NameError, TypeError)
"""What code raises by mistake."""

P = ParamSpec("P")
T = TypeVar("T")
_debug = False


def set_debug(on: bool) -> None:
    """Whether :func:`guarded` shows tracebacks."""
    global _debug
    _debug = on


def say(message: str) -> None:
    """A line for the reader, not for a pipe: to stderr."""
    print(message, file=sys.stderr, flush=True)


def guarded(command: Callable[P, None]) -> Callable[P, None]:
    """Turn exceptions of a command into one or two lines and an exit code."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except KeyboardInterrupt:
            say("interrupted; what is finished is kept, and the same command goes on from there")
            raise typer.Exit(INTERRUPTED) from None
        except (typer.Exit, typer.BadParameter):
            raise
        except BrokenPipeError:
            raise typer.Exit(FAILED) from None
        except Exception as error:
            on_purpose = _is_the_librarys(error)
            missing = isinstance(error, (FileNotFoundError, NotADirectoryError))
            wrong = missing or (on_purpose and isinstance(error, ValueError))
            if _debug:
                traceback.print_exc()
            else:
                bug = "internal error: " if isinstance(error, BUGS) and not on_purpose else ""
                hint = "" if wrong else f" ({bug}{type(error).__name__}; --debug shows the traceback)"
                plain = (str(error).strip() or type(error).__name__).split("\n")
                say("error: " + "\n".join(printable(line, LINE) for line in plain[:2]) + hint)
            raise typer.Exit(WRONG_INPUT if wrong else FAILED) from None

    return run


def _is_the_librarys(error: Exception) -> bool:
    """Whether the library raised an error on purpose: one of its own classes, or by a ``raise`` in its code."""
    if _is_ours(type(error).__module__):
        return True
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    if last is None or not _is_ours(last.tb_frame.f_globals.get("__name__", "")):
        return False
    # in the library's code, but perhaps out of a function in C that it called
    return dis.opname[last.tb_frame.f_code.co_code[last.tb_lasti]] == "RAISE_VARARGS"


def _is_ours(module: str) -> bool:
    return module.partition(".")[0] == "uda"


def key_values(assignments: Sequence[str], option: str) -> dict[str, str]:
    """``["a=b"]`` -> ``{"a": "b"}``.

    Raises:
        ValueError: an assignment without ``=``, or a name that is given twice.
    """
    values: dict[str, str] = {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals or not name or not value:
            raise ValueError(f"{option} takes NAME=VALUE, got {assignment!r}")
        if name in values:
            raise ValueError(f"{option} {name} is given twice")
        values[name] = value
    return values


OVERWRITE = typer.Option(False, "--overwrite", help="Replace output files that are there already.")


def output_file(path: Path | None, suffix: str, option: str, overwrite: bool, ours: Callable[[Path], bool]) -> None:
    """See, before any work, that a file to write is of its kind and replaces nothing unasked.

    Args:
        path: the file, if it was asked for.
        suffix: that it must have.
        option: that named it.
        overwrite: whether an earlier output may be replaced.
        ours: whether a file may be an earlier output; any other is not even replaced where that was asked for.

    Raises:
        ValueError: another suffix, a folder, or a file that is there already.
    """
    if path is None:
        return
    if path.suffix.lower() != suffix:
        raise ValueError(f"{option} {path}: the file is a {suffix[1:].upper()} and must end in {suffix}")
    if path.is_dir():
        raise ValueError(f"{option} {path}: is a folder")
    if path.exists() and not overwrite:
        raise ValueError(f"{option} {path}: exists already; --overwrite replaces it")
    if path.exists() and not ours(path):
        raise ValueError(f"{option} {path}: is no earlier output of this command; choose another file")


def integers(text: str | None, option: str) -> list[int] | None:
    """``"0,1,2"`` -> ``[0, 1, 2]``; ``None`` stays.

    Raises:
        ValueError: anything else.
    """
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(map(_is_number, parts)) or len({int(part) for part in parts}) < len(parts):
        raise ValueError(f"{option} takes different whole numbers from 0 with commas between, got {short(text)}")
    return [int(part) for part in parts]


def _is_number(text: str) -> bool:
    """Whether it is a whole number in plain digits, of no more than an ``int64`` has."""
    return text.isascii() and text.isdecimal() and len(text) <= 18


def size(text: str | None, option: str) -> tuple[int, int] | None:
    """``"96x192"`` -> ``(96, 192)``, height first; ``None`` stays.

    Raises:
        ValueError: anything else.
    """
    if text is None:
        return None
    height, times, width = text.lower().partition("x")
    if not (times and _is_number(height) and _is_number(width) and int(height) and int(width)):
        raise ValueError(f"{option} is HEIGHTxWIDTH, such as 96x192, got {short(text)}")
    return int(height), int(width)


def yaml_value(text: str, option: str) -> Any:
    """What a YAML text on the command line means.

    Raises:
        ValueError: it is no YAML.
    """
    from uda.config import parse_value

    try:
        return parse_value(text)
    except ValueError as error:
        raise ValueError(f"{option}: {error}") from None


def reader_options(assignments: Sequence[str]) -> dict[str, Any]:
    """``--option NAME=VALUE`` of a data set's reader, values as YAML.

    Raises:
        ValueError: not of that form.
    """
    return {name: yaml_value(value, f"--option {name}") for name, value in key_values(assignments, "--option").items()}


def changes(assignments: Sequence[str]) -> dict[str, Any]:
    """``--set KEY=VALUE`` of a config, values as YAML.

    Raises:
        ValueError: not of that form.
    """
    return {key: yaml_value(value, f"--set {key}") for key, value in key_values(assignments, "--set").items()}


def settings_of(source: str | None) -> dict[str, Any]:
    """``--settings FILE``, or the name of a machine that comes with the library: its ``settings:`` as changes by key.

    Raises:
        ValueError: no such file or machine, or a file without ``settings:`` alone.
    """
    if source is None:
        return {}
    from uda.shipped import hardware

    known = hardware()
    path = Path(source) if Path(source).is_file() else known.get(source)
    if path is None:
        raise ValueError(f"--settings {source}: no such file, and no machine of that name; {nearest(source, known)}")
    content = yaml_value(path.read_text(encoding="utf-8"), f"--settings {source}")
    if not isinstance(content, Mapping) or set(content) != {"settings"} or not isinstance(content["settings"], Mapping):
        raise ValueError(f"{path}: must have `settings:` with a mapping of keys to values, and nothing else")
    return {f"settings.{key}": value for key, value in content["settings"].items()}


def roots(
    assignments: Sequence[str], config: Path | Mapping[str, Any], changed: Mapping[str, Any] | None = None
) -> dict[str, str]:
    """``--root NAME=PATH`` for the ``${NAME}`` of a config.

    Raises:
        ValueError: not of that form, or a name that the config does not have.
    """
    from uda.config import variables

    values = key_values(assignments, "--root")
    known = sorted(variables(config, changed)) if values else []
    for name in values:
        if name not in known:
            listed = f"it has {', '.join(f'${{{variable}}}' for variable in known)}" if known else "it has none"
            raise ValueError(f"--root {name}: the config has no ${{{name}}}; {listed}")
    return values


@contextmanager
def counter(label: str, total: int, progress: Progress | None) -> Iterator[Callable[[], None]]:
    """A function to call after each item; moves a bar, or writes a plain line now and then."""
    if progress is not None:
        task = progress.add_task(label, total=total)
        try:
            yield lambda: progress.advance(task)
        finally:
            progress.remove_task(task)
        return
    done, last = 0, time.monotonic()

    def tick() -> None:
        nonlocal done, last
        done += 1
        if time.monotonic() - last > QUIET_SECONDS:
            last = time.monotonic()
            say(f"{label}: {done}/{total}")

    yield tick


def track(items: Iterable[T], label: str, total: int, progress: Progress | None) -> Iterator[T]:
    """Go through ``items`` with :func:`counter`."""
    with counter(label, total, progress) as tick:
        for item in items:
            yield item
            tick()
