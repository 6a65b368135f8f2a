from __future__ import annotations

import inspect

import pytest

from uda.methods import METHODS, TEST_TIME_METHODS, AdaBN, AdvEnt, method, parameters

EVERY = {**METHODS, **TEST_TIME_METHODS}


def test_builds_by_name_with_arguments() -> None:
    one = method("AdvEnt", weight=0.5)
    assert isinstance(one, AdvEnt)
    assert one.weight == 0.5
    assert isinstance(method("AdaBN", prior=0.5), AdaBN)


@pytest.mark.parametrize(("wrong", "nearest"), [("Advent", "AdvEnt"), ("adabn", "AdaBN"), ("ClasMix", "ClassMix")])
def test_unknown_name_gives_the_nearest_and_the_known(wrong: str, nearest: str) -> None:
    with pytest.raises(ValueError, match=f"no method '{wrong}'; the nearest is '{nearest}' .known: .*Supervised"):
        method(wrong)


def test_unknown_argument_gives_the_nearest() -> None:
    with pytest.raises(ValueError, match="FDA has no argument 'betta'; the nearest is 'beta'"):
        method("FDA", betta=0.1)
    with pytest.raises(ValueError, match="beta is 3"):
        method("FDA", beta=3)


@pytest.mark.parametrize("name", sorted(EVERY))
def test_the_constructor_is_the_schema(name: str) -> None:
    """Keyword-only with annotations and defaults, each documented; plain values are kept under their own names."""
    kind = EVERY[name]
    signature = inspect.signature(kind)
    assert list(signature.parameters) == list(parameters(name))
    one = method(name)
    for key, parameter in signature.parameters.items():
        assert parameter.annotation is not parameter.empty
        assert parameter.default is not parameter.empty
        assert f"{key}:" in (kind.__doc__ or ""), f"{name} does not document {key}"
        assert one.arguments[key] == parameter.default, f"{name} does not keep {key}, so a run would not know it"
