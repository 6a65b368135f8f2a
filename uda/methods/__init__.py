"""Adaptation methods: one paper a file, found here by name; nothing is imported before it is asked for.

A constructor's keyword-only arguments are the method's config schema (:func:`parameters`). Installed packages add
methods by the entry points ``uda.methods`` and ``uda.test_time_methods``; any other is named by its place,
``package.module:Name``.
"""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import TYPE_CHECKING, Any

from uda.registry import Registry, keyword_arguments, nearest

if TYPE_CHECKING:
    from uda.methods.adabn import AdaBN
    from uda.methods.adaptsegnet import AdaptSegNet
    from uda.methods.advent import AdvEnt
    from uda.methods.base import Method, TestTimeMethod
    from uda.methods.cbst import CBST
    from uda.methods.clan import CLAN
    from uda.methods.class_mix import ClassMix
    from uda.methods.colour_at_test import ColourAtTest
    from uda.methods.colour_transport import ColourTransport
    from uda.methods.coral import Coral
    from uda.methods.cotta import CoTTA
    from uda.methods.crst import CRST
    from uda.methods.fda import FDA
    from uda.methods.fda_multiband import FDAMultiBand
    from uda.methods.feature_distance import FeatureDistance
    from uda.methods.histogram_matching import HistogramMatching
    from uda.methods.hrda import HRDA
    from uda.methods.l1 import L1
    from uda.methods.l2_sp import L2SP
    from uda.methods.max_square import MaxSquare
    from uda.methods.mcc import MCC
    from uda.methods.mean_std import MeanStd
    from uda.methods.mic import MIC
    from uda.methods.minent import MinEnt
    from uda.methods.mmd import MMD
    from uda.methods.mrnet import MRNet
    from uda.methods.pass_only import PassOnly
    from uda.methods.prediction_time_bn import PredictionTimeBN
    from uda.methods.proda import ProDA
    from uda.methods.rare_class_sampling import RareClassSampling
    from uda.methods.reinhard import Reinhard
    from uda.methods.sac import SAC
    from uda.methods.sliced_wasserstein import SlicedWasserstein
    from uda.methods.strong_source import StrongSource
    from uda.methods.supervised import Supervised
    from uda.methods.support.protocol import Prediction, Protocol, stream
    from uda.methods.tent import TENT

_TRAINING = {
    "Supervised": "supervised",
    "PassOnly": "pass_only",
    "StrongSource": "strong_source",
    "MeanStd": "mean_std",
    "Reinhard": "reinhard",
    "HistogramMatching": "histogram_matching",
    "ColourTransport": "colour_transport",
    "FDA": "fda",
    "AdaptSegNet": "adaptsegnet",
    "AdvEnt": "advent",
    "MinEnt": "minent",
    "CBST": "cbst",
    "ClassMix": "class_mix",
    "FeatureDistance": "feature_distance",
    "HRDA": "hrda",
    "MIC": "mic",
    "MaxSquare": "max_square",
    "CLAN": "clan",
    "Coral": "coral",
    "MMD": "mmd",
    "SlicedWasserstein": "sliced_wasserstein",
    "MCC": "mcc",
    "CRST": "crst",
    "MRNet": "mrnet",
    "ProDA": "proda",
    "FDAMultiBand": "fda_multiband",
    "SAC": "sac",
    "RareClassSampling": "rare_class_sampling",
    "L1": "l1",
    "L2SP": "l2_sp",
}
_TEST_TIME = {
    "AdaBN": "adabn",
    "PredictionTimeBN": "prediction_time_bn",
    "ColourAtTest": "colour_at_test",
    "TENT": "tent",
    "CoTTA": "cotta",
}
_MORE = {
    "Method": "base",
    "TestTimeMethod": "base",
    "Prediction": "support.protocol",
    "Protocol": "support.protocol",
    "stream": "support.protocol",
}
_PLACES = {name: f"uda.methods.{module}" for name, module in {**_TRAINING, **_TEST_TIME, **_MORE}.items()}


def _is_a(*bases: str) -> Any:
    def accepts(candidate: Any) -> bool:
        module = import_module("uda.methods.base")
        return inspect.isclass(candidate) and issubclass(candidate, tuple(getattr(module, base) for base in bases))

    return accepts


METHODS: Registry[type[Method]] = Registry(
    "method",
    {name: f"uda.methods.{module}:{name}" for name, module in _TRAINING.items()},
    group="uda.methods",
    accepts=_is_a("Method"),
)
"""Training-time methods by name."""
TEST_TIME_METHODS: Registry[type[TestTimeMethod]] = Registry(
    "test-time method",
    {name: f"uda.methods.{module}:{name}" for name, module in _TEST_TIME.items()},
    group="uda.test_time_methods",
    accepts=_is_a("TestTimeMethod"),
)
"""Test-time methods by name."""
_EVERY: Registry[type[Method] | type[TestTimeMethod]] = Registry(
    "method", {**METHODS.table, **TEST_TIME_METHODS.table}, accepts=_is_a("Method", "TestTimeMethod")
)


def find_method(name: str) -> type[Method] | type[TestTimeMethod]:
    """A method's class by its name, or by its place ``package.module:Name``.

    Raises:
        ValueError: no such method; the message has the nearest known one.
    """
    for registry in (METHODS, TEST_TIME_METHODS):
        if name in registry:
            return registry[name]  # type: ignore[return-value]
    if ":" in name:
        return _EVERY[name]
    raise ValueError(f"no method {name!r}; {nearest(name, [*METHODS, *TEST_TIME_METHODS])}, or package.module:Name")


def parameters(name: str | type) -> dict[str, inspect.Parameter]:
    """The config schema of a method, by name or class: its constructor's keyword-only arguments.

    Raises:
        ValueError: no method of that name.
    """
    cls = find_method(name) if isinstance(name, str) else name
    named = keyword_arguments(cls)
    return {key: value for key, value in named.items() if value.kind is inspect.Parameter.KEYWORD_ONLY}


def method(name: str, **arguments: Any) -> Method | TestTimeMethod:
    """Build a method by the name of its class.

    Args:
        name: of ``METHODS`` or ``TEST_TIME_METHODS``, or ``package.module:Name``.
        arguments: of its constructor.

    Raises:
        ValueError: an unknown name or argument (the message has the nearest known one), or a value out of range.
    """
    cls = find_method(name)
    known = parameters(cls)
    for key in arguments:
        if key not in known:
            raise ValueError(f"{name} has no argument {key!r}; {nearest(key, known)}")
    missing = [key for key, value in known.items() if value.default is value.empty and key not in arguments]
    if missing:
        raise ValueError(f"{name} needs the argument {missing[0]!r}")
    return cls(**arguments)


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_PLACES[name]), name)
    globals()[name] = value  # found once
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


__all__ = [
    "CBST",
    "CLAN",
    "CRST",
    "FDA",
    "HRDA",
    "L1",
    "L2SP",
    "MCC",
    "METHODS",
    "MIC",
    "MMD",
    "SAC",
    "TENT",
    "TEST_TIME_METHODS",
    "AdaBN",
    "AdaptSegNet",
    "AdvEnt",
    "ClassMix",
    "CoTTA",
    "ColourAtTest",
    "ColourTransport",
    "Coral",
    "FDAMultiBand",
    "FeatureDistance",
    "HistogramMatching",
    "MRNet",
    "MaxSquare",
    "MeanStd",
    "Method",
    "MinEnt",
    "PassOnly",
    "Prediction",
    "PredictionTimeBN",
    "ProDA",
    "Protocol",
    "RareClassSampling",
    "Reinhard",
    "SlicedWasserstein",
    "StrongSource",
    "Supervised",
    "TestTimeMethod",
    "find_method",
    "method",
    "parameters",
    "stream",
]
