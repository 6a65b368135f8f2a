"""Write docs/fidelity.md: every method against its authors' code, from the code and the golden tests.

    python experiments/fidelity_table.py [--golden-dir DIR] [--out docs/fidelity.md]

Runs ``tests/golden``, finds out from the sources which of our functions each recorded function is compared with and
which of them each method uses, and copies the departures out of the files' heads. Fails if a recorded case fails.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import pytest

import uda.functional
from uda.methods import METHODS, TEST_TIME_METHODS, Method, method

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "golden"

AUTHORS = {
    "Supervised": "wasidennis/AdaptSegNet",
    "PassOnly": "",
    "StrongSource": "vikolss/DACS",
    "MeanStd": "",
    "Reinhard": "",
    "HistogramMatching": "scikit-image (package)",
    "ColourTransport": "POT (package)",
    "ColourAtTest": "",
    "FDA": "YanchaoYang/FDA",
    "FDAMultiBand": "YanchaoYang/FDA",
    "AdaptSegNet": "wasidennis/AdaptSegNet",
    "AdvEnt": "valeoai/ADVENT",
    "MinEnt": "valeoai/ADVENT",
    "CBST": "yzou2/CRST",
    "CRST": "yzou2/CRST",
    "ClassMix": "vikolss/DACS, lhoyer/DAFormer",
    "FeatureDistance": "lhoyer/DAFormer",
    "HRDA": "lhoyer/HRDA",
    "MIC": "lhoyer/MIC",
    "MaxSquare": "ZJULearning/MaxSquareLoss",
    "CLAN": "RoyalVane/CLAN",
    "Coral": "thuml/Transfer-Learning-Library",
    "MMD": "thuml/Transfer-Learning-Library",
    "MCC": "thuml/Transfer-Learning-Library",
    "SlicedWasserstein": "POT (package)",
    "MRNet": "layumi/Seg-Uncertainty",
    "ProDA": "microsoft/ProDA",
    "SAC": "visinf/da-sac",
    "RareClassSampling": "lhoyer/DAFormer",
    "L1": "",
    "L2SP": "",
    "AdaBN": "",
    "PredictionTimeBN": "DequanWang/tent (its norm baseline)",
    "TENT": "DequanWang/tent",
    "CoTTA": "qinenergy/cotta",
}
"""Where the authors' code is, by method; empty where there is none."""
PLUMBING = {"uda.methods", "uda.methods.base", "uda.methods.support.checks", "uda.registry"}
"""Modules that every method imports and that compute nothing."""
NEEDS = {
    "HRDA": ("uda.models.hrda", "HrdaSegmenter"),
    "RareClassSampling": ("uda.functional.sampling", "rcs_probs"),
}
"""What a method cannot do without and reaches by way of the network or the loader."""


class Results:
    """A pytest plugin: which recorded cases passed."""

    def __init__(self) -> None:
        self.cases: dict[str, dict[str, bool]] = defaultdict(dict)
        self._of: dict[str, tuple[str, str]] = {}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            mark = item.get_closest_marker("golden")
            if mark is not None:
                self._of[item.nodeid] = (mark.args[0], item.callspec.id)  # type: ignore[attr-defined]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.nodeid in self._of and not report.skipped:
            function, case = self._of[report.nodeid]
            self.cases[function][case] = self.cases[function].get(case, True) and report.passed

    def count(self, functions: Iterable[str]) -> str:
        """``passed/recorded`` over some recorded functions."""
        found = [passed for function in functions for passed in self.cases[function].values()]
        return f"{sum(found)}/{len(found)}" if found else "—"


class Source(NamedTuple):
    """A parsed file."""

    imports: dict[str, tuple[str, str]]
    """Name -> (module, name) that it is taken from; what is only imported for type checking is left out."""
    uses: dict[str, set[str]]
    """Function, class or constant -> the names in it, ``module.attribute`` included."""


def read_source(text: str, *, deep: bool = False) -> Source:
    """A file's imports from the library and its definitions; ``deep``: imports inside functions too."""
    imports, uses = {}, {}
    tree = ast.parse(text)
    for node in ast.walk(tree) if deep else tree.body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("uda"):
            imports |= {alias.asname or alias.name: (str(node.module), alias.name) for alias in node.names}
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            uses[node.name] = names_in(node)
        elif isinstance(node, ast.Assign):
            uses |= {one.id: names_in(node.value) for one in node.targets if isinstance(one, ast.Name)}
    return Source(imports, uses)


def names_in(node: ast.AST) -> set[str]:
    found = {one.id for one in ast.walk(node) if isinstance(one, ast.Name)}
    attributes = (one for one in ast.walk(node) if isinstance(one, ast.Attribute) and isinstance(one.value, ast.Name))
    return found | {ast.unparse(one) for one in attributes}


@cache
def source_of(module: str) -> Source:
    return read_source(inspect.getsource(import_module(module)))


def reach(module: str, name: str, seen: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """(module, name) of everything of ``uda`` that ``name`` uses, itself included; added to ``seen``."""
    if (module, name) in seen or module in PLUMBING:
        return seen
    seen.add((module, name))
    source = source_of(module)
    if name in source.imports:
        return reach(*source.imports[name], seen)
    return follow(module, source, source.uses.get(name, set()), seen)


def follow(module: str, source: Source, names: set[str], seen: set[tuple[str, str]]) -> set[tuple[str, str]]:
    for name in names:
        base, _, attribute = name.partition(".")
        if base in source.imports and is_module(*source.imports[base]):
            if attribute:
                reach(".".join(source.imports[base]), attribute, seen)
        elif base in source.imports:
            reach(*source.imports[base], seen)
        elif base in source.uses:
            reach(module, base, seen)
    return seen


def compared() -> dict[str, set[str]]:
    """Recorded function -> the names of ``uda`` that its tests call, directly or by a helper of the same file."""
    found: dict[str, set[str]] = defaultdict(set)
    for path in sorted(GOLDEN.glob("test_*.py")):
        source, tree = read_source(path.read_text()), ast.parse(path.read_text())
        for node in tree.body:
            for decorator in node.decorator_list if isinstance(node, ast.FunctionDef) else ():
                recorded = re.match(r"pytest\.mark\.golden\('([^']+)'", ast.unparse(decorator))
                if recorded:
                    found[recorded[1]] |= called(source, node.name)
    return found


def called(source: Source, test: str) -> set[str]:
    """The names of ``uda`` in a golden test and the helpers of its file."""
    reached, front = set(), {test}
    while front:
        reached |= front
        front = {deeper for name in front & source.uses.keys() for deeper in source.uses[name]} - reached
    modules = {name for name, origin in source.imports.items() if is_module(*origin)}
    by_module = {name.partition(".")[2] for name in reached if name.partition(".")[0] in modules and "." in name}
    return by_module | {source.imports[name][1] for name in reached & source.imports.keys() - modules}


def is_module(package: str, name: str) -> bool:
    return (ROOT / package.replace(".", "/") / f"{name}.py").is_file()


def used_by(name: str, cls: type) -> set[str]:
    """Names from ``uda.functional`` and ``uda.models`` that a method computes with, however indirectly."""
    seen = reach(cls.__module__, name, set())
    if getattr(method(name), "teacher", None) is not None and issubclass(cls, Method):
        reach("uda.models.teacher", "Teacher", seen)
    if name in NEEDS:
        reach(*NEEDS[name], seen)
    return {name for module, name in seen if module.startswith(("uda.functional", "uda.models"))}


def paragraphs(module: str) -> list[str]:
    text = inspect.cleandoc(import_module(module).__doc__ or "")
    text = re.sub(r":\w+:`[~.]?([^`]+)`", r"`\1`", text).replace("``", "`").replace("|", "\\|")
    return [" ".join(part.split()) for part in text.split("\n\n")]


def departures(module: str) -> str:
    """What a file's head says about departures; empty if nothing."""
    for part in paragraphs(module):
        found = re.search(r"(No departures\b|Departures?(?: [a-z ]+)?:)(.*)", part)
        if found:
            text = found[0] if found[1] == "No departures" else found[2].strip()
            return text[0].upper() + text[1:]
    return ""


def method_rows(results: Results, tested: dict[str, set[str]]) -> Iterator[str]:
    yield "| method | paper | authors' code | our functions with recorded cases | cases passed |"
    yield "|---|---|---|---|---|"
    for name, cls in {**METHODS, **TEST_TIME_METHODS}.items():
        uses = used_by(name, cls)
        recorded = sorted(function for function, ours in tested.items() if ours & uses)
        ours = sorted(set().union(*(tested[function] & uses for function in recorded)))
        code = ", ".join(f"`{one}`" for one in ours) or "—"
        paper = paragraphs(cls.__module__)[0]
        yield f"| `{name}` | {paper} | {AUTHORS[name] or '—'} | {code} | {results.count(recorded)} |"


def function_rows(results: Results, tested: dict[str, set[str]]) -> Iterator[str]:
    yield "| recorded function | ours | cases passed |"
    yield "|---|---|---|"
    for function in sorted(results.cases):
        ours = ", ".join(f"`{one}`" for one in sorted(tested[function])) or "—"
        yield f"| `{function}` | {ours} | {results.count([function])} |"


def departure_rows() -> Iterator[str]:
    modules = {cls.__module__: f"`{name}`" for name, cls in {**METHODS, **TEST_TIME_METHODS}.items()}
    packages = ("methods", "functional", "models", "data")
    others = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for package in packages
        for path in sorted((ROOT / "uda" / package).rglob("*.py"))
        if path.stem != "__init__"
    ]
    yield "| file | departures |"
    yield "|---|---|"
    for module in [*modules, *(one for one in others if one not in modules)]:
        text = departures(module)
        if text or module in modules:
            yield f"| `{module.removeprefix('uda.').replace('.', '/')}.py` | {text or 'None stated.'} |"


def toolbox_rows() -> Iterator[str]:
    """Public functions that nothing in the library calls: for users' own code."""
    called_by: set[str] = set()
    for path in sorted((ROOT / "uda").rglob("*.py")):
        text = path.read_text()
        if path.parent.name != "functional":
            called_by |= {alias for _, alias in read_source(text, deep=True).imports.values()}
        else:
            source = read_source(text)
            for name, uses in source.uses.items():
                called_by |= uses - {name}
    yield "| function | what it is |"
    yield "|---|---|"
    for name in sorted(uda.functional.__all__):
        thing = getattr(uda.functional, name)
        if inspect.isfunction(thing) and name not in called_by:
            summary = (inspect.getdoc(thing) or "").split("\n\n")[0].replace("\n", " ").replace("|", "\\|")
            summary = re.sub(r":\w+:`[~.]?([^`]+)`", r"`\1`", summary).replace("``", "`")
            yield f"| `{name}` | {summary} |"


def whole_steps() -> str:
    """The methods whose whole training steps are compared with a plain loop."""
    files = sorted((ROOT / "tests" / "methods").glob("test_fidelity*.py"))
    tests = [re.findall(r"^def test_(\w+)\(", path.read_text(), re.MULTILINE) for path in files]
    return ", ".join(sorted(one for found in tests for one in found if not one.startswith("the_")))


def document(results: Results) -> str:
    tested = compared()
    missing = {*METHODS, *TEST_TIME_METHODS} ^ AUTHORS.keys()
    if missing:
        raise SystemExit(f"AUTHORS does not fit the methods: {sorted(missing)}")
    lines = [
        "# Fidelity",
        "",
        "Written by `python experiments/fidelity_table.py` from the code and a run of `tests/golden`; do not edit.",
        "",
        f"{results.count(results.cases)} recorded cases of {len(results.cases)} functions passed. They were recorded "
        "from the authors' implementations, or, where there is none, from a plain float64 formula "
        "(see `tests/data/golden/README.md`).",
        "",
        "Three whole training steps through the trainer equal a plain loop that follows the paper's algorithm "
        f"(`tests/methods/test_fidelity*.py`) for: {whole_steps()}.",
        "",
        "## Methods",
        "",
        "Cases count for every method that uses the function, directly or inside another one.",
        "",
        *method_rows(results, tested),
        "",
        "## Recorded functions",
        "",
        *function_rows(results, tested),
        "",
        "## Toolbox",
        "",
        "Functions of the papers that no method here calls; for code of your own.",
        "",
        *toolbox_rows(),
        "",
        "## Departures",
        "",
        "As the files' heads state them, methods first.",
        "",
        *departure_rows(),
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--golden-dir", type=Path, default=ROOT / "tests" / "data" / "golden")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "fidelity.md")
    arguments = parser.parse_args()
    results = Results()
    code = pytest.main(
        [str(GOLDEN), "-q", f"--rootdir={ROOT}", f"--golden-dir={arguments.golden_dir}"], plugins=[results]
    )
    if code != pytest.ExitCode.OK:
        sys.exit(int(code))
    arguments.out.write_text(document(results))
    print(f"{arguments.out}: {results.count(results.cases)} cases")


if __name__ == "__main__":
    main()
