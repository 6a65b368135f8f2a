"""Who reads one paper's method opens few files: papers stand in ``methods/``, and nothing else does."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from uda.methods import METHODS, TEST_TIME_METHODS

ROOT = Path(__file__).parents[2]
COMMON = {
    "uda.types", "uda.step", "uda.registry", "uda.methods", "uda.methods.base", "uda.methods.support.checks",
    "uda.models.modes",
}  # fmt: skip
"""What every reader has open: the protocol, the step, the table of names, the checks of arguments."""
MOST = 5
PLACES = {
    registry.table[name].partition(":")[0]: name for registry in (METHODS, TEST_TIME_METHODS) for name in registry.table
}


def path_of(module: str) -> Path:
    return ROOT / (module.replace(".", "/") + ".py")


def imports(module: str) -> set[str]:
    """Modules of ``uda`` that a module uses when it runs; what only types need is not read."""
    found: set[str] = set()
    waiting: list[ast.AST] = list(ast.parse(path_of(module).read_text()).body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("uda."):
            found.add(str(node.module))
        waiting += list(ast.iter_child_nodes(node))
    return found


def walk(module: str) -> set[str]:
    """The files of a paper: its own, those of a paper it is a variant of, helpers, and the maths they call."""
    seen: set[str] = set()
    front = {module}
    while front:
        current = front.pop()
        if current in COMMON or current in seen:
            continue
        seen.add(current)
        if current.startswith("uda.methods"):
            front |= imports(current)
    return seen


@pytest.mark.parametrize("module", sorted(PLACES), ids=lambda module: PLACES[module])
def test_a_walk_of_at_most_five_files(module: str) -> None:
    files = walk(module)
    assert len(files) <= MOST, sorted(files)


def test_only_papers_stand_beside_each_other() -> None:
    here = {f"uda.methods.{path.stem}" for path in (ROOT / "uda" / "methods").glob("*.py")}
    assert here - {"uda.methods.__init__", "uda.methods.base"} == set(PLACES)


@pytest.mark.parametrize("module", sorted(PLACES), ids=lambda module: PLACES[module])
def test_a_paper_is_one_file_of_moderate_length(module: str) -> None:
    assert path_of(module).read_text().count("\n") <= 155


def test_inheritance_only_where_the_paper_is_a_variant() -> None:
    variants = {"AdvEnt": "AdaptSegNet", "CRST": "CBST"}
    for registry in (METHODS, TEST_TIME_METHODS):
        for name in registry:
            base = registry[name].__mro__[1].__name__
            assert base == variants.get(name, base), name
            assert base in {*variants.values(), "Method", "TestTimeMethod"}, name
