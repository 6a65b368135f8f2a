"""The package is quick to import and complete."""

from __future__ import annotations

import subprocess
import sys

import pytest

import uda.functional


def test_import_leaves_the_heavy_libraries_alone() -> None:
    code = "import sys, uda.functional; print(*(name for name in ('ot', 'scipy', 'sklearn') if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_every_public_name_is_there_and_documented() -> None:
    for name in uda.functional.__all__:
        value = getattr(uda.functional, name)
        assert not callable(value) or value.__doc__, f"{name} has no docstring"
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = uda.functional.no_such_name
