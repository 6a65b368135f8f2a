"""No public name vanishes unnoticed: what each package offers stands in ``data/public_names.txt``.

Where a name is added or taken away on purpose: ``python tests/test_public_names.py`` writes the list anew.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

LIST = Path(__file__).parent / "data" / "public_names.txt"
PACKAGES = (
    "uda.bench",
    "uda.config",
    "uda.data",
    "uda.engine",
    "uda.functional",
    "uda.methods",
    "uda.metrics",
    "uda.models",
    "uda.plots",
    "uda.presets",
    "uda.testing",
)
MODULES = ("uda.files", "uda.registry", "uda.shipped", "uda.step", "uda.types")


def offered() -> list[str]:
    """``package.name`` of everything public, sorted."""
    names = [f"{package}.{name}" for package in PACKAGES for name in import_module(package).__all__]
    for module in MODULES:
        content = vars(import_module(module)).items()
        names += [
            f"{module}.{name}" for name, value in content
            if not name.startswith("_") and getattr(value, "__module__", module) == module
            and (callable(value) or name.isupper()) and name not in ("T", "TYPE_CHECKING")
        ]  # fmt: skip
    return sorted(names)


def test_nothing_public_vanished_or_came_unnoticed() -> None:
    listed = LIST.read_text().split()
    gone, new = set(listed) - set(offered()), set(offered()) - set(listed)
    assert not gone, f"gone: {sorted(gone)}; if that is meant, run python {Path(__file__).name}"
    assert not new, f"new: {sorted(new)}; run python {Path(__file__).name}"


def test_every_name_is_there() -> None:
    for package in PACKAGES:
        module = import_module(package)
        for name in module.__all__:
            assert hasattr(module, name), f"{package}.{name}"
        assert set(module.__all__) <= set(dir(module))


if __name__ == "__main__":
    LIST.write_text("\n".join(offered()) + "\n")
    print(f"{LIST}: {len(offered())} names")
