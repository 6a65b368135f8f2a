"""Names in the source say what they hold."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import uda

ROOT = Path(uda.__file__).parent
EMPTY = {"one", "found", "given", "kept"}


def bound_names(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Every name that a module's code gives to something, with its line."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield name, node.lineno
            case ast.arg(arg=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield name, node.lineno
            case ast.ExceptHandler(name=str(name)) | ast.alias(asname=str(name)):
                yield name, node.lineno
            case ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)) | ast.MatchMapping(rest=str(name)):
                yield name, node.lineno


def test_no_name_is_empty() -> None:
    empty = [
        f"{path.relative_to(ROOT.parent)}:{line}: {name}"
        for path in sorted(ROOT.rglob("*.py"))
        for name, line in bound_names(ast.parse(path.read_text(encoding="utf-8")))
        if name in EMPTY
    ]
    assert not empty, "\n".join(["a name says what it holds (`row`, `dataset`, `differences`):", *empty])
