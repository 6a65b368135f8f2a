"""Benchmark configs: YAML to typed, closed records, every mistake named before anything runs.

A config is checked as a whole when it is loaded: unknown keys, wrong types and values, ``${root}`` variables without a
value, data set options, and every method's arguments (each method is built once, which costs nothing before
``setup``). Errors are one line: the file, the path of the key, what is wrong and what would be right.
"""

from uda.config.content import parse_value, variables
from uda.config.factorial import FactorialConfig
from uda.config.matrix import MatrixConfig
from uda.config.reader import (
    kind_of,
    load_config,
    load_factorial,
    load_matrix,
    load_recorded,
    load_run,
    streets_folder,
)
from uda.config.records import (
    ORACLE,
    SOURCE_ONLY,
    BenchConfig,
    DatasetSpec,
    EvaluateSpec,
    LearningCurve,
    MethodEntry,
    Scoring,
    StreetsDomain,
    StreetsSpec,
    TargetLabels,
)
from uda.config.specs import ConfigError, Spec, build_method, parse_spec

__all__ = [
    "ORACLE",
    "SOURCE_ONLY",
    "BenchConfig",
    "ConfigError",
    "DatasetSpec",
    "EvaluateSpec",
    "FactorialConfig",
    "LearningCurve",
    "MatrixConfig",
    "MethodEntry",
    "Scoring",
    "Spec",
    "StreetsDomain",
    "StreetsSpec",
    "TargetLabels",
    "build_method",
    "kind_of",
    "load_config",
    "load_factorial",
    "load_matrix",
    "load_recorded",
    "load_run",
    "parse_spec",
    "parse_value",
    "streets_folder",
    "variables",
]
