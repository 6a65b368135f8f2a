"""Docstrings and pages of the repository as the site's Markdown: roles, literal blocks, links, formulas."""

from __future__ import annotations

import html
import posixpath
import re
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import griffe
from latex2mathml.converter import convert

ROOT = Path(__file__).resolve().parents[2]
_ROLE = re.compile(r":(\w+):`(~?)\.?([^`]+)`")
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)
_DISPLAY = re.compile(r"^[ \t]*\$\$(.+?)\$\$", re.DOTALL | re.MULTILINE)


@cache
def library() -> griffe.Module:
    """The parsed sources of ``uda``; nothing of it is imported."""
    return griffe.load("uda", search_paths=[ROOT], docstring_parser="google", resolve_aliases=True)  # type: ignore[return-value]


def packages() -> list[griffe.Module]:
    """The modules that have public names, sorted: those with ``__all__``, and the single files beside them."""
    inside = [
        module
        for name, module in library().modules.items()
        if not name.startswith("_") and name not in ("cli", "opencv")
    ]
    return [library(), *sorted(inside, key=lambda module: module.path)]


def offered(module: griffe.Module) -> dict[str, str]:
    """Public name -> dotted place of its definition, in the order of ``__all__`` or of the file."""
    if module.exports is not None:
        names = [str(name) for name in module.exports]
    else:
        own = module.members.items()
        names = [name for name, member in own if not (name.startswith("_") or member.is_alias or member.is_module)]
        names = [name for name in names if module[name].has_docstring]
    return {name: place(module[name]) for name in names}


def place(member: Any) -> str:
    """Where something is defined, however it was imported."""
    return member.final_target.path if member.is_alias else member.path


@cache
def documented() -> frozenset[str]:
    """The dotted places that have an anchor on an API page."""
    places = {module.path for module in packages()}
    for module in packages():
        for target in offered(module).values():
            places.add(target)
            thing = library()[target.removeprefix("uda.")]
            if thing.is_class:
                places |= {m.path for n, m in thing.members.items() if not n.startswith("_") and m.has_docstring}
    return frozenset(places)


def resolve(name: str, module: str) -> str | None:
    """The documented place that a docstring of a module means by a name; ``None`` if it has no anchor."""
    for prefix in ("", f"{module}."):
        path = f"{prefix}{name}"
        if path == "uda":
            return path
        if not path.startswith("uda."):
            continue
        try:
            target = place(library()[path.removeprefix("uda.")])
        except (KeyError, griffe.AliasResolutionError):
            continue
        if target in documented():
            return target
    return None


def markdown(text: str, module: str) -> str:
    """A docstring as Markdown: roles become links or code, ``::`` a plain line before an indented block."""

    def role(found: re.Match[str]) -> str:
        name = found[3]
        shown = name.rsplit(".", 1)[-1] if found[2] else name
        target = resolve(name, module)
        return f"[`{shown}`][{target}]" if target else f"`{shown}`"

    text = re.sub(r"^([ \t]*)Example:$", r"\1Examples:", text, flags=re.MULTILINE)  # Google's name of the section
    text = re.sub(r"^[ \t]*::$", "", text, flags=re.MULTILINE)
    text = re.sub(r"::$", ":", text, flags=re.MULTILINE)
    return _ROLE.sub(role, text)


def in_cell(text: str) -> str:
    """A text for a cell of a table, on one line; a bar in code needs no escape."""
    parts = re.split(r"(`[^`]+`)", " ".join(text.split()).replace("``", "`"))
    return "".join(part if part.startswith("`") else part.replace("|", "\\|") for part in parts)


def formulas(text: str) -> list[str]:
    """The displayed formulas of a docstring, in LaTeX."""
    return [found.strip() for found in _DISPLAY.findall(text)]


def arguments(path: str) -> dict[str, str]:
    """Argument -> meaning of a class or function, from the ``Args:`` of its docstring, as Markdown."""
    thing = library()[path.removeprefix("uda.")]
    if thing.docstring is None:
        return {}
    kinds = (griffe.DocstringSectionKind.parameters, griffe.DocstringSectionKind.attributes)
    module = thing.module.path
    sections = thing.docstring.parse("google", warnings=False)
    return {
        item.name: markdown(item.description, module)
        for section in sections if section.kind in kinds for item in section.value
    }  # fmt: skip


def with_mathml(page: str) -> str:
    """The formulas of a page of HTML as MathML, which browsers draw without a script."""

    def drawn(found: re.Match[str]) -> str:
        formula = convert(html.unescape(found[3]), display="block" if found[2] == "[" else "inline")
        return f'<div class="formula">{formula}</div>' if found[2] == "[" else formula

    return _FORMULA.sub(drawn, page)


def relink(text: str, source: Path, page: str, pages: Mapping[Path, str]) -> str:
    """Links between files of the repository as links between pages.

    Args:
        text: Markdown of ``source``.
        source: the file, whose folder links are relative to.
        page: uri of the page that it becomes.
        pages: file of the repository -> uri of its page.

    Raises:
        ValueError: a link to a file that is not there.
    """

    def link(found: re.Match[str]) -> str:
        target, _, anchor = found[3].partition("#")
        if not target or re.match(r"\w+:", target):
            return found[0]
        path = (source.parent / target).resolve()
        if not path.exists():
            raise ValueError(f"{source}: link to {target}, which is not there")
        if path not in pages:  # a file that the site has no page of
            return found[2]
        uri = posixpath.relpath(pages[path], posixpath.dirname(page) or ".")
        return f"{found[1]}[{found[2]}]({uri}{'#' + anchor if anchor else ''})"

    return outside_code(text, lambda part: _LINK.sub(link, part))


def outside_code(text: str, change: Callable[[str], str]) -> str:
    """Change a page, but for its fenced blocks."""
    parts = re.split(r"(^```.*?^```$)", text, flags=re.MULTILINE | re.DOTALL)
    return "".join(part if part.startswith("```") else change(part) for part in parts)


class Docstrings(griffe.Extension):
    """Griffe's extension for mkdocstrings: docstrings in the site's Markdown."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        self._change(pkg, set())

    def _change(self, thing: Any, seen: set[int]) -> None:
        if thing.is_alias or id(thing) in seen:
            return
        seen.add(id(thing))
        if thing.docstring is not None:
            module = thing.path if thing.is_module else thing.module.path
            thing.docstring.value = markdown(thing.docstring.value, module)
        for member in thing.members.values():
            self._change(member, seen)
