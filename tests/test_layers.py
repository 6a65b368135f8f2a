"""Imports point down: types, functional -> data, models, metrics -> step -> methods -> engine -> bench ... -> cli."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "uda"
LAYER = {
    "types": 0,
    "functional": 1,
    "data": 2,
    "models": 2,
    "metrics": 2,
    "step": 3,
    "methods": 4,
    "presets": 6,
    "engine": 5,
    "gap": 6,
    "config": 6,
    "testing": 7,
    "registry": 0,
    "claims": 0,
    "files": 0,
    "progress": 0,
    "opencv": 0,
    "processes": 0,
    "shipped": 0,
    "bench": 6,
    "plots": 6,
    "cli": 7,
}
SOURCES = sorted(PACKAGE.rglob("*.py"))


def imports(tree: ast.AST) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in names if name.startswith("uda.")}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    own = path.relative_to(PACKAGE).with_suffix("").parts[0]
    if own == "__init__":
        own = "types"
    assert own in LAYER, f"uda/{own} has no layer; give it one here"
    for name in imports(ast.parse(path.read_text())):
        other = name.split(".")[1]
        if other == "__version__":
            continue
        assert LAYER[other] <= LAYER[own], f"uda/{own} imports {name}, which lies above it"


def test_engine_names_no_method() -> None:
    for path in sorted((PACKAGE / "engine").glob("*.py")):
        for name in imports(ast.parse(path.read_text())):
            assert not name.startswith("uda.methods.") or name.startswith("uda.methods.base"), f"{path.name}: {name}"


def test_import_uda_is_light() -> None:
    code = "import sys, uda; heavy = {'torch', 'cv2', 'timm', 'matplotlib'} & set(sys.modules); assert not heavy, heavy"
    subprocess.run([sys.executable, "-c", code], check=True)
