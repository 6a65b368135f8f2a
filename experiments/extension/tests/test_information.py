"""The contract that every method of uda must keep, and what is this method's own."""

import math

import pytest
import torch
from uda_extension.information import InformationMaximisation, information_maximisation

from uda.testing import MethodContract


class TestInformationMaximisation(MethodContract):
    make = lambda self: InformationMaximisation()  # noqa: E731
    invalid = ({"weight": -1.0},)


def test_certain_and_diverse_is_the_least():
    diverse = 50 * torch.eye(4).view(1, 4, 2, 2)
    assert information_maximisation(diverse).item() == pytest.approx(-math.log(4), abs=1e-4)
    assert information_maximisation(torch.zeros(1, 4, 2, 2)).item() == pytest.approx(0, abs=1e-6)
