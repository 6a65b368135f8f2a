"""Adaptation methods: one paper a file, found here by name.

A constructor's keyword-only arguments are the method's config schema (:func:`parameters`).
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable
from typing import Any

from uda.methods.adabn import AdaBN
from uda.methods.adaptsegnet import AdaptSegNet
from uda.methods.advent import AdvEnt
from uda.methods.base import Method, TestTimeMethod
from uda.methods.cbst import CBST
from uda.methods.clan import CLAN
from uda.methods.class_mix import ClassMix
from uda.methods.colour import HistogramMatching, MeanStd, Reinhard
from uda.methods.colour_at_test import ColourAtTest
from uda.methods.colour_transport import ColourTransport
from uda.methods.coral import Coral
from uda.methods.cotta import CoTTA
from uda.methods.crst import CRST
from uda.methods.dasac import SAC
from uda.methods.fda import FDA
from uda.methods.fda_multiband import FDAMultiBand
from uda.methods.feature_distance import FeatureDistance
from uda.methods.hrda import HRDA
from uda.methods.max_square import MaxSquare
from uda.methods.mcc import MCC
from uda.methods.mic import MIC
from uda.methods.minent import MinEnt
from uda.methods.mmd import MMD
from uda.methods.mrnet import MRNet
from uda.methods.proda import ProDA
from uda.methods.protocol import Prediction, Protocol, stream
from uda.methods.sliced_wasserstein import SlicedWasserstein
from uda.methods.supervised import Supervised
from uda.methods.tent import TENT

_METHODS: tuple[type[Method], ...] = (
    Supervised,
    MeanStd,
    Reinhard,
    HistogramMatching,
    ColourTransport,
    FDA,
    AdaptSegNet,
    AdvEnt,
    MinEnt,
    CBST,
    ClassMix,
    FeatureDistance,
    HRDA,
    MIC,
    MaxSquare,
    CLAN,
    Coral,
    MMD,
    SlicedWasserstein,
    MCC,
    CRST,
    MRNet,
    ProDA,
    FDAMultiBand,
    SAC,
)
_TEST_TIME_METHODS: tuple[type[TestTimeMethod], ...] = (AdaBN, ColourAtTest, TENT, CoTTA)

METHODS: dict[str, type[Method]] = {cls.__name__: cls for cls in _METHODS}
"""Training-time methods by name."""
TEST_TIME_METHODS: dict[str, type[TestTimeMethod]] = {cls.__name__: cls for cls in _TEST_TIME_METHODS}
"""Test-time methods by name."""


def parameters(name: str | type) -> dict[str, inspect.Parameter]:
    """The config schema of a method, by name or class: its constructor's keyword-only arguments.

    Raises:
        ValueError: no method of that name.
    """
    signature = inspect.signature(_find(name) if isinstance(name, str) else name)
    return {key: one for key, one in signature.parameters.items() if one.kind is inspect.Parameter.KEYWORD_ONLY}


def method(name: str, **arguments: Any) -> Method | TestTimeMethod:
    """Build a method by the name of its class.

    Args:
        name: a key of ``METHODS`` or ``TEST_TIME_METHODS``.
        arguments: of its constructor.

    Raises:
        ValueError: an unknown name or argument (the message has the nearest known one), or a value out of range.
    """
    known = parameters(name)
    for key in arguments:
        if key not in known:
            raise ValueError(f"{name} has no argument {key!r}; {_nearest(key, known)}")
    missing = [key for key, one in known.items() if one.default is inspect.Parameter.empty and key not in arguments]
    if missing:
        raise ValueError(f"{name} needs the argument {missing[0]!r}")
    return _find(name)(**arguments)


def _find(name: str) -> type[Method] | type[TestTimeMethod]:
    every: dict[str, type[Method] | type[TestTimeMethod]] = {**METHODS, **TEST_TIME_METHODS}
    if name not in every:
        raise ValueError(f"no method {name!r}; {_nearest(name, every)}")
    return every[name]


def _nearest(name: str, known: Iterable[str]) -> str:
    names = list(known)
    lower = {one.lower(): one for one in names}
    close = difflib.get_close_matches(name.lower(), lower, n=1, cutoff=0.5)
    hint = f"the nearest is {lower[close[0]]!r}; " if close else ""
    return f"{hint}known are {', '.join(names) or 'none'}"


__all__ = [
    "CBST",
    "CLAN",
    "CRST",
    "FDA",
    "HRDA",
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
    "Prediction",
    "ProDA",
    "Protocol",
    "Reinhard",
    "SlicedWasserstein",
    "Supervised",
    "TestTimeMethod",
    "method",
    "parameters",
    "stream",
]
