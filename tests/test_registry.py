"""Names that are open: tables, places, installed packages, and what is said about unknown ones."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from uda.data import DATASETS
from uda.engine import OPTIMIZERS, SCHEDULES
from uda.methods import METHODS, TEST_TIME_METHODS, AdaBN, Method, find_method, method, parameters
from uda.methods.base import TestTimeMethod
from uda.models import MODELS
from uda.presets import PRESETS
from uda.registry import Registry, UnknownName, import_name, nearest

REGISTRIES = [METHODS, TEST_TIME_METHODS, DATASETS, MODELS, OPTIMIZERS, SCHEDULES]


@pytest.mark.parametrize("registry", REGISTRIES, ids=lambda registry: registry.what)
def test_every_name_of_every_table_is_there(registry: Registry[Any]) -> None:
    for name in registry.table:
        assert registry[name] is import_name(registry.table[name])


@pytest.mark.parametrize("registry", REGISTRIES, ids=lambda registry: registry.what)
def test_an_unknown_name_says_the_nearest(registry: Registry[Any]) -> None:
    name = next(iter(registry.table))
    with pytest.raises(UnknownName, match=rf"no {registry.what} '{name}x'; the nearest is '{name}' .known: .*{name}"):
        registry[f"{name}x"]


def test_nearest() -> None:
    assert nearest("xyz", []) == "known: none"
    assert nearest("FDa", ["FDA", "MIC"]) == "the nearest is 'FDA' (known: FDA, MIC)"
    assert nearest("qqqq", ["FDA"]) == "known: FDA"
    assert (
        nearest("a1", [f"a{index}" for index in range(100)], listed=2)
        == "the nearest is 'a1' (known: a0, a1 and 98 more)"
    )
    assert nearest("resnt", ["resnet", "resnext", "vit"], listed=0) == "the nearest are 'resnet', 'resnext'"
    assert nearest("qq", ["resnet"], listed=0) == "nothing resembles it"


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("uda.methods.fda", "not of the form package.module:Name"),
        (":FDA", "not of the form"),
        ("no_such_package.x:Name", "there is no module 'no_such_package' on Python's path"),
        ("uda.no_such_module:Name", "there is no module 'uda.no_such_module'"),
        ("uda.methods.fda:FDa", "uda.methods.fda has no 'FDa'; the nearest is 'FDA'"),
    ],
)
def test_a_wrong_place(place: str, message: str) -> None:
    with pytest.raises(UnknownName, match=message):
        import_name(place)


def test_a_module_that_lacks_a_package_of_its_own_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "needs_more.py").write_text("import a_package_that_is_not_installed\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UnknownName, match=r"needs_more cannot be imported \(No module named 'a_package_that_is_not"):
        import_name("needs_more:Name")


def test_what_is_no_method_is_refused() -> None:
    with pytest.raises(UnknownName, match=r"'torch.nn:Linear' stands for type torch.nn:Linear, which is no method"):
        method("torch.nn:Linear")
    with pytest.raises(UnknownName, match="which is no test-time method"):
        TEST_TIME_METHODS["uda.methods.fda:FDA"]


def test_methods_by_place() -> None:
    assert find_method("uda.methods.adabn:AdaBN") is AdaBN
    assert isinstance(method("uda.methods.fda:FDA", beta=0.1), Method)
    assert set(parameters("uda.methods.minent:MinEnt")) == {"level", "weight", "aux_weight"}


def test_an_installed_package_adds_names_and_replaces_none(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [
        EntryPoint("Mine", "uda.methods.minent:MinEnt", "uda.methods"),
        EntryPoint("FDA", "uda.methods.minent:MinEnt", "uda.methods"),
        EntryPoint("Broken", "no_such_package:Broken", "uda.methods"),
    ]
    monkeypatch.setattr("uda.registry.entry_points", lambda group: points)
    registry: Registry[type[Method]] = Registry("method", METHODS.table, group="uda.methods", accepts=METHODS.accepts)
    assert registry["Mine"].__name__ == "MinEnt"
    assert registry["FDA"].__name__ == "FDA"
    assert list(registry)[-2:] == ["Mine", "Broken"]
    assert "Mine" in registry
    with pytest.raises(UnknownName, match="no_such_package"):
        registry["Broken"]


def test_test_time_and_training_methods_are_told_apart() -> None:
    assert all(issubclass(METHODS[name], Method) for name in METHODS)
    assert all(issubclass(TEST_TIME_METHODS[name], TestTimeMethod) for name in TEST_TIME_METHODS)
    assert not set(METHODS) & set(TEST_TIME_METHODS)
    assert len(PRESETS) >= 16


@pytest.mark.parametrize(
    "statement",
    [
        "from uda.methods import FDA",
        "from uda.methods import AdvEnt, MinEnt, ClassMix, MIC, CBST",
        "import uda.methods, uda.models, uda.data, uda.functional",
        "from uda.models import Discriminator, adapt",
        "from uda.step import Step; from uda.types import SegOutput, View",
    ],
)
def test_a_part_brings_no_more_than_it_needs(statement: str) -> None:
    heavy = ("timm", "segmentation_models_pytorch", "sklearn", "ot", "cv2", "skimage", "torchvision", "matplotlib")
    code = f"import sys; {statement}; print(*(name for name in {heavy} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == []
