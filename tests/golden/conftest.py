"""Recorded vectors as test parameters.

    @pytest.mark.golden("advent/entropy_loss")
    def test_entropy_loss(case):
        logits = case.t("in_logits", grad=True)
        loss = entropy_loss(logits.softmax(1))
        case.check(loss, "out_loss", rtol=1e-5, atol=1e-6)
        case.check_grad(loss, logits, "out_grad_logits")

The test runs once for each ``<golden dir>/advent/entropy_loss_<case>.npz`` and fails if it leaves an ``out_*`` array
of the file unread (``partial=True`` in the mark allows that, for functions that several tests share).
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor


def compare(actual: Any, expected: Any, *, rtol: float, atol: float, what: str = "") -> None:
    """|actual - expected| <= atol + rtol |expected| elementwise, nan equal to nan, same shape."""
    if isinstance(actual, Tensor):
        actual = actual.detach().cpu().numpy()
    actual, expected = np.asarray(actual), np.asarray(expected)
    np.testing.assert_allclose(actual, expected, rtol=rtol, atol=atol, equal_nan=True, err_msg=what)
    assert np.shape(actual) == np.shape(expected), f"{what}: shape {np.shape(actual)}, recorded {np.shape(expected)}"


class Case:
    """One recorded case: arrays by name (``in_*``, ``param_*``, ``w_*``, ``out_*``)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.read: set[str] = set()
        with np.load(path, allow_pickle=False) as archive:
            self._arrays = {name: archive[name] for name in archive.files}

    def __contains__(self, name: str) -> bool:
        return name in self._arrays

    def __getitem__(self, name: str) -> np.ndarray:
        self.read.add(name)
        return self._arrays[name]

    def names(self, prefix: str = "") -> list[str]:
        """The arrays whose name starts with a prefix, sorted."""
        return sorted(name for name in self._arrays if name.startswith(prefix))

    def t(self, name: str, *, grad: bool = False) -> Tensor:
        """An array as a tensor of its own dtype, optionally a leaf that collects gradients."""
        return torch.from_numpy(np.array(self[name])).requires_grad_(grad)

    def scalar(self, name: str) -> Any:
        """A 0-d array as a Python number."""
        return self[name].item()

    def weights(self, prefix: str = "w_") -> dict[str, Tensor]:
        """The recorded network weights as a state dict."""
        return {name.removeprefix(prefix): self.t(name) for name in self.names(prefix)}

    def unread_outputs(self) -> list[str]:
        """Recorded results that nobody has looked at."""
        return [name for name in self.names("out") if name not in self.read]

    def check(self, actual: Any, name: str, *, rtol: float = 1e-5, atol: float = 1e-6) -> None:
        """Compare with a recorded result."""
        compare(actual, self[name], rtol=rtol, atol=atol, what=f"{self.path.name}: {name}")

    def check_equal(self, actual: Any, name: str) -> None:
        """Compare with a recorded result, exactly."""
        self.check(actual, name, rtol=0, atol=0)

    def check_grad(self, loss: Tensor, leaf: Tensor, name: str, *, rtol: float = 1e-5, atol: float = 1e-6) -> None:
        """Compare the gradient of a scalar with a recorded one, relative to the largest recorded entry."""
        (grad,) = torch.autograd.grad(loss, leaf, retain_graph=True)
        expected = self[name]
        scale = float(np.nanmax(np.abs(expected))) or 1.0
        compare(grad.numpy() / scale, expected / scale, rtol=rtol, atol=atol, what=f"{self.path.name}: {name} / max")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    mark = metafunc.definition.get_closest_marker("golden")
    if mark is None:
        return
    method, function = mark.args[0].split("/")
    directory: Path = metafunc.config.getoption("golden_dir") / method
    # a case name holds no underscore, so that lr_schedule_a is not taken for a case of lr
    paths = [path for path in sorted(directory.glob(f"{function}_*.npz")) if path.stem.rpartition("_")[0] == function]
    metafunc.parametrize("case", paths, indirect=True, ids=[path.stem for path in paths])


_PASSED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    report = yield
    if call.when == "call":
        item.stash[_PASSED] = report.passed
    return report


@pytest.fixture
def case(request: pytest.FixtureRequest) -> Iterator[Case]:
    """The recorded case of a test marked with ``golden``."""
    loaded = Case(request.param)
    yield loaded
    mark = request.node.get_closest_marker("golden")
    if request.node.stash.get(_PASSED, False) and not mark.kwargs.get("partial", False):
        unread = loaded.unread_outputs()
        assert not unread, f"{loaded.path.name}: recorded but never compared: {unread}"


@pytest.fixture
def golden_dir(request: pytest.FixtureRequest) -> Path:
    """The directory of the recorded vectors."""
    return request.config.getoption("golden_dir")
