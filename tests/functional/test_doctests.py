"""Every public function and class has an example in its docstring, and the examples hold."""

from __future__ import annotations

import doctest
import inspect
import pkgutil
from importlib import import_module
from types import ModuleType
from typing import Any

import pytest

import uda.functional

OPTIONS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
MODULES = [module.name for module in pkgutil.iter_modules(uda.functional.__path__)]


def public_objects(module: ModuleType) -> dict[str, Any]:
    """The public functions and classes that a module defines, by name."""
    return {
        name: value
        for name, value in vars(module).items()
        if not name.startswith("_")
        and (inspect.isfunction(value) or inspect.isclass(value))
        and value.__module__ == module.__name__
    }


@pytest.mark.parametrize("name", MODULES)
def test_examples_hold(name: str) -> None:
    module = import_module(f"uda.functional.{name}")
    # Without the module's globals, an example must import what it uses.
    failed, attempted = doctest.testmod(module, globs={}, optionflags=OPTIONS)
    assert failed == 0
    assert attempted > 0 or not public_objects(module)


def test_every_public_object_has_an_example() -> None:
    modules = [import_module(f"uda.functional.{name}") for name in MODULES]
    objects = {name: value for module in modules for name, value in public_objects(module).items()}
    assert set(objects) == {name for name in uda.functional.__all__ if callable(getattr(uda.functional, name))}
    assert [name for name, value in objects.items() if ">>>" not in (value.__doc__ or "")] == []
