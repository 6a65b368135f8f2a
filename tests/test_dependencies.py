"""What pyproject.toml declares is what the library imports, both ways."""

from __future__ import annotations

import ast
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
IMPORTED_FOR = {"torch.utils.tensorboard": "tensorboard"}
"""Modules that bring another distribution in: it is theirs only as an extra."""
CEILINGS = {"mkdocs"}
"""Its second version is another program, which the theme does not work with."""
TESTING = {"pytest"}
"""What ``uda.testing`` needs, declared as the extra ``testing``."""


def declared(requirements: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(text).name) for text in requirements}


def imported() -> dict[str, str]:
    """Distribution -> a file of ``uda/`` that imports it."""
    distributions = packages_distributions()
    users = {}
    for path in sorted((ROOT / "uda").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                names = [node.module]
            for name in names:
                top = name.partition(".")[0]
                if top in sys.stdlib_module_names or top in ("uda", "__future__"):
                    continue
                brought = {IMPORTED_FOR[name]} if name in IMPORTED_FOR else set()
                for distribution in {*distributions.get(top, [top]), *brought}:
                    users[canonicalize_name(distribution)] = f"{path.relative_to(ROOT)}: {name}"
    return users


def test_every_dependency_is_imported() -> None:
    unused = declared(PROJECT["dependencies"]) - set(imported())
    assert not unused, f"declared, but nothing in uda/ imports it: {sorted(unused)}"


def test_every_import_is_declared() -> None:
    known = declared(PROJECT["dependencies"]) | TESTING
    missing = {name: place for name, place in imported().items() if name not in known}
    assert not missing, f"imported, but not declared: {missing}"
    assert declared(PROJECT["optional-dependencies"]["testing"]) == TESTING


def test_every_dependency_has_a_floor_and_a_tested_version() -> None:
    tested = {
        canonicalize_name(line.partition("==")[0])
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if "==" in line
    }
    extras = [text for extra in PROJECT["optional-dependencies"].values() for text in extra]
    for text in [*PROJECT["dependencies"], *extras]:
        requirement = Requirement(text)
        assert canonicalize_name(requirement.name) in tested, f"constraints.txt has no {requirement.name}"
        operators = [part.operator for part in requirement.specifier]
        free = requirement.name.startswith("types-") or requirement.name in CEILINGS
        assert operators == [">="] or free, f"{text}: a floor, and no ceiling"
