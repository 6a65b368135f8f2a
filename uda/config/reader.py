"""YAML to checked configs: every mistake is named before anything runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from uda.config.checks import check, check_model, check_rows_learn
from uda.config.content import read_content
from uda.config.entries import adaptation_rows, read_settings, rows_of, spec_of, substitute, with_curve
from uda.config.factorial import KIND as FACTORIAL
from uda.config.factorial import LEVELS, PLACES, FactorialConfig
from uda.config.file import ConfigFile
from uda.config.matrix import KIND, MatrixConfig, is_matrix
from uda.config.records import SOURCE_ONLY, BenchConfig, StreetsSpec
from uda.config.runs import METHOD, SUPERVISED, RunError, as_benchmark, is_run
from uda.engine.settings import Settings
from uda.methods.base import Method
from uda.registry import short


def load_config(
    source: Path | str | Mapping[str, Any],
    roots: Mapping[str, str] | None = None,
    *,
    changes: Mapping[str, Any] | None = None,
    presets: Sequence[str] = (),
) -> BenchConfig:
    """Read and check a benchmark config.

    Args:
        source: a YAML file, the name of a benchmark that comes with the library (:mod:`uda.shipped`), or its content.
        roots: values of ``${name}`` variables. ``${streets}`` is set by the ``streets`` section.
        changes: single entries by dotted key: ``{"settings.steps": 200, "source.root": "data"}``.
        presets: published recipes to add as rows of their names (:data:`uda.presets.PRESETS`).

    Raises:
        ConfigError: anything is wrong with it, in one line.
    """
    file, content = read_content(source, changes)
    reader = _Reader(file)
    reader.refuse_matrix(content)
    if is_run(content):
        hint = "is of a single run: uda train takes it" if METHOD in content else "is missing: {row: [methods]}"
        raise reader.file.fail(METHOD if METHOD in content else "methods", hint)
    for key in ("source_val", "target_val"):
        if content.get(key) is None:
            raise reader.file.fail(key, "is missing: labelled images that rows are scored on; uda train goes without")
    reader.add_presets(content, presets)
    return check_rows_learn(reader.file, reader.read(content, roots or {}))


def load_run(
    source: Path | str | Mapping[str, Any],
    roots: Mapping[str, str] | None = None,
    *,
    row: str | None = None,
    changes: Mapping[str, Any] | None = None,
    recipe: str | None = None,
    name: str | None = None,
) -> tuple[BenchConfig, str]:
    """Read and check what one training run needs, from the config of a single run or of a benchmark.

    Args:
        source: a YAML file, or its content; see :mod:`uda.config.runs`. Nothing but source and target is needed.
        roots: values of ``${name}`` variables.
        row: of a benchmark config; ``source_only`` by default.
        changes: single entries by dotted key.
        recipe: a preset's name, in place of the method of a single run, or as one more row of a benchmark.
        name: of a single run whose config has none; by default the file's.

    Returns:
        The config, and the name of its row that is to be trained.

    Raises:
        ConfigError: anything is wrong with it, in one line.
    """
    file, content = read_content(source, changes)
    reader = _Reader(file)
    reader.refuse_matrix(content)
    if not is_run(content):
        if row is not None and recipe is not None:
            raise reader.file.fail("", f"row {short(row)} or preset {short(recipe)}, not both")
        reader.add_presets(content, [recipe] if recipe else [])
        return check_rows_learn(reader.file, reader.read(content, roots or {})), row or recipe or SOURCE_ONLY
    if row is not None:
        raise reader.file.fail("", f"a single run has no rows, so no {short(row)}; write {METHOD}:")
    if recipe is not None:
        content[METHOD] = {"preset": recipe}
    own = name or (recipe if isinstance(source, Mapping) else Path(source).stem) or "run"
    try:
        benchmark, label = as_benchmark(content, own)
    except RunError as error:
        raise reader.file.fail(error.key, error.message) from error
    reader.file.written = {f"methods.{label}": METHOD}
    return check_rows_learn(reader.file, reader.read(benchmark, roots or {})), label


def load_matrix(
    source: Path | str | Mapping[str, Any],
    roots: Mapping[str, str] | None = None,
    *,
    changes: Mapping[str, Any] | None = None,
    presets: Sequence[str] = (),
) -> MatrixConfig:
    """Read and check the config of a cross-data-set matrix, and every benchmark that it is made of.

    Args:
        source: a YAML file, the name of a matrix that comes with the library, or its content.
        roots: values of ``${name}`` variables.
        changes: single entries by dotted key.
        presets: published recipes to add as adaptation rows, in every direction.

    Raises:
        ConfigError: anything is wrong with it, in one line.
    """
    file, content = read_content(source, changes)
    reader = _Reader(file)
    if content.get("kind") != KIND:
        raise reader.file.fail("kind", f"{KIND} is needed, got {short(content.get('kind'))}")
    reader.add_presets(content, presets, "rows")
    return reader.read_matrix(content, roots or {})


def load_factorial(
    source: Path | str | Mapping[str, Any],
    roots: Mapping[str, str] | None = None,
    *,
    changes: Mapping[str, Any] | None = None,
) -> FactorialConfig:
    """Read and check the config of a study of factors, and the benchmark that it is made of.

    Args:
        source: a YAML file, the name of a study that comes with the library, or its content.
        roots: values of ``${name}`` variables.
        changes: single entries by dotted key.

    Raises:
        ConfigError: anything is wrong with it, in one line.
    """
    file, content = read_content(source, changes)
    reader = _Reader(file)
    if content.get("kind") != FACTORIAL:
        raise reader.file.fail("kind", f"{FACTORIAL} is needed, got {short(content.get('kind'))}")
    return reader.read_factorial(content, roots or {})


def kind_of(source: Path | str | Mapping[str, Any], changes: Mapping[str, Any] | None = None) -> str:
    """``matrix``, ``factorial``, ``run`` or ``benchmark``: which of them a config is, right or wrong.

    Raises:
        ConfigError: it cannot be read.
    """
    content = read_content(source, changes)[1]
    if content.get("kind") == FACTORIAL:
        return FACTORIAL
    return KIND if is_matrix(content) else "run" if is_run(content) else "benchmark"


def load_recorded(path: Path | Mapping[str, Any]) -> BenchConfig:
    """The config that a run's folder holds, of a benchmark or a single run.

    Raises:
        ConfigError: the file is damaged, or of another version.
    """
    file, content = read_content(path, None)
    return _Reader(file).read(content, {})


def streets_folder(section: StreetsSpec) -> Path:
    """Where the images of a ``streets`` section lie: its ``out`` and the hash of everything else in it."""
    content = json.dumps(section.model_dump(mode="json", exclude={"out"}), sort_keys=True)
    return Path(section.out) / hashlib.sha256(content.encode()).hexdigest()[:10]


class _Reader:
    """Turns the content of one file into a config."""

    def __init__(self, file: str) -> None:
        self.file = ConfigFile(file)

    def refuse_matrix(self, content: Mapping[str, Any]) -> None:
        """The config of a matrix is none of a benchmark or a run."""
        if is_matrix(content):
            kind = FACTORIAL if content["kind"] == FACTORIAL else KIND
            hint = f"uda bench and uda.config.load_{kind} take a {kind}; a config of one shift has no such key"
            raise self.file.fail("kind", f"got {short(content['kind'])}; {hint}")

    def add_presets(self, content: dict[str, Any], names: Sequence[str], key: str = "methods") -> None:
        """Add rows of presets."""
        for name in names:
            rows = content.get(key) or {}
            if not isinstance(rows, dict) or name in rows:
                raise self.file.fail(f"{key}.{name}", "is there already; the preset would be a row of that name")
            content[key] = {**rows, name: {"preset": name}}

    def read(self, raw: dict[str, Any], roots: Mapping[str, str]) -> BenchConfig:
        """The checked config of the file's content."""
        content = self.filled(raw, roots)
        if isinstance(content.get("source"), dict):
            content["source"] = [content["source"]]
        self.file.known_keys(BenchConfig, content, "")
        content["methods"] = with_curve(self.file, rows_of(self.file, content.get("methods")), content)
        settings = read_settings(self.file, content)
        config = self.file.validate(BenchConfig, content, "")
        check(self.file, config, settings)
        return config

    def read_matrix(self, raw: dict[str, Any], roots: Mapping[str, str]) -> MatrixConfig:
        """The checked config of a matrix, its benchmarks checked like any."""
        content = self.filled(raw, roots)
        self.file.known_keys(MatrixConfig, content, "")
        content["rows"] = adaptation_rows(self.file, content.get("rows"))
        settings = read_settings(self.file, content)
        config = self.file.validate(MatrixConfig, content, "")
        for part in config.parts():
            self.file.written = part.written
            check(self.file, part.config, settings)
            check_rows_learn(self.file, part.config)
        return config

    def read_factorial(self, raw: dict[str, Any], roots: Mapping[str, str]) -> FactorialConfig:
        """The checked config of a study: every level of every factor, then the benchmark that it is."""
        content = self.filled(raw, roots)
        self.file.known_keys(FactorialConfig, content, "")
        if isinstance(content.get("source"), dict):
            content["source"] = [content["source"]]
        methods = content.get("methods", [SUPERVISED])
        if not isinstance(methods, list) or not methods:
            raise self.file.fail("methods", f"a list of at least one method is needed, got {short(methods)}")
        content["methods"] = [spec_of(self.file, spec, f"methods.{at}", Method) for at, spec in enumerate(methods)]
        read_settings(self.file, content)
        config = self.file.validate(FactorialConfig, content, "")
        for name, factor in config.factors.items():
            for level in LEVELS:
                for key, value in getattr(factor, level).items():
                    self.check_level(config, key, value, f"factors.{name}.{level}")
        # what is wrong with runs beside that is in the entries that they share
        try:
            benchmark = config.benchmark()
        except ValidationError as error:
            raise self.file.explain(BenchConfig, error, "") from None
        self.file.written = {"methods.source_only.methods": "methods"}
        for run in config.runs():
            self.file.written |= {f"methods.{run.name}.{place}": place for place in PLACES}
            self.file.written[f"methods.{run.name}"] = "methods"
        check(self.file, benchmark, benchmark.settings.model_dump(exclude={"seed"}))
        check_rows_learn(self.file, benchmark)
        return config

    def check_level(self, config: FactorialConfig, key: str, value: Any, path: str) -> None:
        """One entry of a factor's level, in the place that it changes."""
        try:
            changed = config.changed({key: value})
        except ValueError as error:
            raise self.file.fail(path, str(error)) from error
        self.file.validate(Settings, changed["settings"], f"{path}.settings")
        for spec in changed["methods"]:
            spec_of(self.file, spec, f"{path}.{key}", Method)
        check_model(self.file, changed["model"], f"{path}.model")

    def filled(self, raw: dict[str, Any], roots: Mapping[str, str]) -> dict[str, Any]:
        """The content with its variables filled in; ``${streets}`` is the folder of its ``streets`` section."""
        values = dict(roots)
        if raw.get("streets") is not None:
            written = substitute(self.file, raw["streets"], values, "streets")
            section = self.file.validate(StreetsSpec, written, "streets")
            values.setdefault("streets", str(streets_folder(section)))
        content: dict[str, Any] = substitute(self.file, raw, values, "")
        return content
