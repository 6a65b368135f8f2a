"""YAML to checked configs: every mistake is named before anything runs."""

from __future__ import annotations

import hashlib
import inspect
import json
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from uda.config.content import VARIABLE, read_content
from uda.config.factorial import KIND as FACTORIAL
from uda.config.factorial import LEVELS, PLACES, FactorialConfig
from uda.config.matrix import KIND, MatrixConfig, is_matrix
from uda.config.names import check_row
from uda.config.options import OptionError, check_options
from uda.config.records import (
    ORACLE,
    SOURCE_ONLY,
    BenchConfig,
    DatasetSpec,
    EvaluateSpec,
    LearningCurve,
    MethodEntry,
    StreetsSpec,
)
from uda.config.runs import METHOD, SUPERVISED, RunError, as_benchmark, is_run
from uda.config.spaces import build_space
from uda.config.specs import ConfigError, Spec, build_method, parse_spec
from uda.data import DATASETS, Folder, dataset_options
from uda.engine.inference import Inference, check_passes
from uda.engine.settings import Settings
from uda.methods.base import Method, TestTimeMethod, check_learning
from uda.models import MODELS, model_options
from uda.presets import PARTS, preset
from uda.registry import nearest, printable, short

T = TypeVar("T", bound=BaseModel)
MESSAGE = 2000
"""Letters of a message at most: a list of what is known is long, a value never is."""
WORD = 200
"""Letters of a word of it."""


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
        raise reader.fail(METHOD if METHOD in content else "methods", hint)
    for key in ("source_val", "target_val"):
        if content.get(key) is None:
            raise reader.fail(key, "is missing: labelled images that rows are scored on; uda train goes without")
    reader.add_presets(content, presets)
    return reader.check_learning(reader.read(content, roots or {}))


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
            raise reader.fail("", f"row {short(row)} or preset {short(recipe)}, not both")
        reader.add_presets(content, [recipe] if recipe else [])
        return reader.check_learning(reader.read(content, roots or {})), row or recipe or SOURCE_ONLY
    if row is not None:
        raise reader.fail("", f"a single run has no rows, so no {short(row)}; write {METHOD}:")
    if recipe is not None:
        content[METHOD] = {"preset": recipe}
    own = name or (recipe if isinstance(source, Mapping) else Path(source).stem) or "run"
    try:
        benchmark, label = as_benchmark(content, own)
    except RunError as error:
        raise reader.fail(error.key, error.message) from error
    reader.written = {f"methods.{label}": METHOD}
    return reader.check_learning(reader.read(benchmark, roots or {})), label


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
        raise reader.fail("kind", f"{KIND} is needed, got {short(content.get('kind'))}")
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
        raise reader.fail("kind", f"{FACTORIAL} is needed, got {short(content.get('kind'))}")
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
    """Turns the content of one file into a config; every error begins with the file's name."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.written: dict[str, str] = {}
        """Key -> what the file calls it, where that differs."""

    def fail(self, path: str, message: str) -> ConfigError:
        """The error to raise about the key at ``path``."""
        for key, written in self.written.items():
            path = written + path.removeprefix(key) if path == key or path.startswith(f"{key}.") else path
        # what was written may come back from any depth
        message = printable(" ".join(printable(word, WORD) for word in message.split()), MESSAGE)
        return ConfigError(f"{self.file}: {printable(path)}: {message}" if path else f"{self.file}: {message}")

    def refuse_matrix(self, content: Mapping[str, Any]) -> None:
        """The config of a matrix is none of a benchmark or a run."""
        if is_matrix(content):
            kind = FACTORIAL if content["kind"] == FACTORIAL else KIND
            hint = f"uda bench and uda.config.load_{kind} take a {kind}; a config of one shift has no such key"
            raise self.fail("kind", f"got {short(content['kind'])}; {hint}")

    def add_presets(self, content: dict[str, Any], names: Sequence[str], key: str = "methods") -> None:
        """Add rows of presets."""
        for name in names:
            rows = content.get(key) or {}
            if not isinstance(rows, dict) or name in rows:
                raise self.fail(f"{key}.{name}", "is there already; the preset would be a row of that name")
            content[key] = {**rows, name: {"preset": name}}

    def read(self, raw: dict[str, Any], roots: Mapping[str, str]) -> BenchConfig:
        """The checked config of the file's content."""
        content = self.filled(raw, roots)
        if isinstance(content.get("source"), dict):
            content["source"] = [content["source"]]
        self.known_keys(BenchConfig, content, "")
        content["methods"] = self.with_curve(self.methods(content.get("methods")), content)
        settings = self.read_settings(content)
        config = self.validate(BenchConfig, content, "")
        self.check(config, settings)
        return config

    def read_matrix(self, raw: dict[str, Any], roots: Mapping[str, str]) -> MatrixConfig:
        """The checked config of a matrix, its benchmarks checked like any."""
        content = self.filled(raw, roots)
        self.known_keys(MatrixConfig, content, "")
        content["rows"] = self.adaptation_rows(content.get("rows"))
        settings = self.read_settings(content)
        config = self.validate(MatrixConfig, content, "")
        for part in config.parts():
            self.written = part.written
            self.check(part.config, settings)
            self.check_learning(part.config)
        return config

    def read_factorial(self, raw: dict[str, Any], roots: Mapping[str, str]) -> FactorialConfig:
        """The checked config of a study: every level of every factor, then the benchmark that it is."""
        content = self.filled(raw, roots)
        self.known_keys(FactorialConfig, content, "")
        if isinstance(content.get("source"), dict):
            content["source"] = [content["source"]]
        methods = content.get("methods", [SUPERVISED])
        if not isinstance(methods, list) or not methods:
            raise self.fail("methods", f"a list of at least one method is needed, got {short(methods)}")
        content["methods"] = [self.spec(spec, f"methods.{at}", Method) for at, spec in enumerate(methods)]
        self.read_settings(content)
        config = self.validate(FactorialConfig, content, "")
        for name, factor in config.factors.items():
            for level in LEVELS:
                for key, value in getattr(factor, level).items():
                    self.check_level(config, key, value, f"factors.{name}.{level}")
        # what is wrong with runs beside that is in the entries that they share
        try:
            benchmark = config.benchmark()
        except ValidationError as error:
            raise self.explain(BenchConfig, error, "") from None
        self.written = {"methods.source_only.methods": "methods"}
        for run in config.runs():
            self.written |= {f"methods.{run.name}.{place}": place for place in PLACES}
            self.written[f"methods.{run.name}"] = "methods"
        self.check(benchmark, benchmark.settings.model_dump(exclude={"seed"}))
        self.check_learning(benchmark)
        return config

    def check_level(self, config: FactorialConfig, key: str, value: Any, path: str) -> None:
        """One entry of a factor's level, in the place that it changes."""
        try:
            changed = config.changed({key: value})
        except ValueError as error:
            raise self.fail(path, str(error)) from error
        self.validate(Settings, changed["settings"], f"{path}.settings")
        for spec in changed["methods"]:
            self.spec(spec, f"{path}.{key}", Method)
        self.check_model(changed["model"], f"{path}.model")

    def adaptation_rows(self, raw: Any) -> dict[str, Any]:
        """The rows of a matrix in their full form."""
        if raw is None:
            return {}
        if not isinstance(raw, dict) or SOURCE_ONLY in raw:
            message = "the rows of plain training are there already" if isinstance(raw, dict) else short(raw)
            raise self.fail("rows", f"a mapping of adaptation rows by name is needed, got {message}")
        ends = {
            name: {key: row[key] for key in ("source", "target") if key in row} if isinstance(row, dict) else {}
            for name, row in raw.items()
        }
        rows = {
            name: {key: value for key, value in row.items() if key not in ends[name]} if ends[name] else row
            for name, row in raw.items()
        }
        self.written = {"methods": "rows"}
        full = self.methods({SOURCE_ONLY: [SUPERVISED], **rows})
        self.written = {}
        return {str(name): {**full[str(name)], **ends[name]} for name in raw}

    def filled(self, raw: dict[str, Any], roots: Mapping[str, str]) -> dict[str, Any]:
        """The content with its variables filled in; ``${streets}`` is the folder of its ``streets`` section."""
        values = dict(roots)
        if raw.get("streets") is not None:
            section = self.validate(StreetsSpec, self.substitute(raw["streets"], values, "streets"), "streets")
            values.setdefault("streets", str(streets_folder(section)))
        content: dict[str, Any] = self.substitute(raw, values, "")
        return content

    def read_settings(self, content: dict[str, Any]) -> Any:
        """Put the settings' records in place of what is written, which is given."""
        settings, warm = content.get("settings"), content.get("warm_start")
        content["settings"] = self.settings(settings, {}, "settings")
        if warm is not None:
            content["warm_start"] = self.settings(warm, settings, "warm_start")
        return settings

    def check(self, config: BenchConfig, settings: Any) -> None:
        """What the parts of a config say of each other; ``settings`` as they are written."""
        self.check_space(config)
        self.check_methods(config, settings)
        self.check_evaluate(config)
        self.check_models(config)
        self.check_data(config)

    def substitute(self, value: Any, values: Mapping[str, str], path: str) -> Any:
        """Fill ``${name}`` in every string."""
        if isinstance(value, dict):
            return {key: self.substitute(child, values, f"{path}.{key}".lstrip(".")) for key, child in value.items()}
        if isinstance(value, list):
            return [self.substitute(child, values, f"{path}.{at}") for at, child in enumerate(value)]
        if not isinstance(value, str):
            return value
        for name in VARIABLE.findall(value):
            if name not in values:
                raise self.fail(path, f"{short(value)} needs a folder for {short(name)}; give --root {name}=PATH")
        return VARIABLE.sub(lambda match: values[match[1]], value)

    def known_keys(self, model: type[BaseModel], content: Any, path: str) -> None:
        if not isinstance(content, dict):
            raise self.fail(path, f"a mapping of {', '.join(model.model_fields)} is needed, got {short(content)}")
        for key in content:
            if key not in model.model_fields:
                raise self.fail(f"{path}.{key}".lstrip("."), f"unknown key; {nearest(str(key), model.model_fields)}")

    def settings(self, own: Any, base: Any, path: str) -> Settings:
        """Settings of which ``own`` says the ones that differ from ``base``."""
        self.known_keys(Settings, own, path)
        if "seed" in own:
            raise self.fail(f"{path}.seed", "seeds are a list of the config, not a setting")
        if path == "warm_start" and "steps" not in own:
            raise self.fail(path, "steps is missing: how long to train before the methods start")
        return self.validate(Settings, {**base, **own}, path)

    def methods(self, raw: Any) -> dict[str, Any]:
        """Every row in its full form, with arguments checked against the methods' constructors."""
        if not isinstance(raw, dict) or SOURCE_ONLY not in raw:
            raise self.fail("methods", f"{SOURCE_ONLY}: [Supervised] is missing; every other row is compared to it")
        rows: dict[str, Any] = {}
        for name, row in raw.items():
            path = f"methods.{name}"
            try:
                check_row(name)
            except ValueError as error:
                raise self.fail(path, str(error)) from error
            if isinstance(row, list):
                row = {"methods": row}
            row = self.preset(row, path)
            self.known_keys(MethodEntry, row, path)
            row = dict(row)
            if row.get("methods") is not None:
                listed = row["methods"]
                if not isinstance(listed, list) or not listed:
                    raise self.fail(f"{path}.methods", f"a list of at least one method is needed, got {short(listed)}")
                row["methods"] = [self.spec(raw_spec, f"{path}.{at}", Method) for at, raw_spec in enumerate(listed)]
            if row.get("test_time") is not None:
                row["test_time"] = self.spec(row["test_time"], f"{path}.test_time", TestTimeMethod)
            if row.get("methods") is None and row.get("test_time") is None and not row.get("evaluate"):
                raise self.fail(path, "methods or test_time is needed, or another way to evaluate")
            rows[str(name)] = row
        return rows

    def with_curve(self, rows: dict[str, Any], content: dict[str, Any]) -> dict[str, Any]:
        """The rows and those that the learning curve adds; a config that was written down has these already."""
        if content.get("learning_curve") is None:
            return rows
        curve = self.validate(LearningCurve, content["learning_curve"], "learning_curve")
        added: dict[str, Any] = {}
        for name, (row, labels) in curve.labels_of().items():
            path = f"learning_curve.rows.{row}"
            if row not in rows:
                raise self.fail(path, f"no such row; {nearest(row, rows)}")
            if rows[row].get("methods") is None or rows[row].get("target_labels") is not None:
                raise self.fail(path, "a row that trains, without target_labels of its own, is needed")
            # without controls, what a method gains is seen beside the same images with labels
            beside = curve.name_of(SOURCE_ONLY, labels.count, labels.choose)
            listed = row != SOURCE_ONLY and content.get("controls") is False and beside in curve.labels_of()
            entry = {**rows[row], "control": beside if listed else None, "target_labels": labels.model_dump()}
            if name in rows and self.row(rows[name], f"methods.{name}") != self.row(entry, path):
                raise self.fail(f"methods.{name}", "the learning curve has another row of this name")
            added[name] = entry
        return {**rows, **added}

    def row(self, entry: Any, path: str) -> MethodEntry:
        """A row as a record."""
        return self.validate(MethodEntry, entry, path)

    def preset(self, row: Any, path: str) -> Any:
        """A row that names a paper's recipe, with the recipe's methods, settings, model and evaluation written out."""
        if not isinstance(row, dict) or "preset" not in row:
            if isinstance(row, dict) and {"change", "parts"} & set(row):
                raise self.fail(path, "change and parts go with preset")
            return row
        row = dict(row)
        name, changes, parts = row.pop("preset"), row.pop("change", None) or {}, row.pop("parts", list(PARTS))
        if "methods" in row:
            raise self.fail(f"{path}.methods", "are the preset's; write what differs under change")
        for part in parts if isinstance(parts, list) else [parts]:
            if part not in PARTS:
                raise self.fail(f"{path}.parts", f"no part {short(part)} of a preset; {nearest(str(part), PARTS)}")
        if not isinstance(changes, dict):
            raise self.fail(f"{path}.change", f"a mapping of entries is needed, got {short(changes)}")
        try:
            recipe = preset(str(name), changes)
        except ValueError as error:
            raise self.fail(f"{path}.preset", str(error)) from error
        chosen = {part: recipe[part] for part in PARTS if part in parts}
        chosen.get("evaluate", {}).pop("score_at", None)  # all rows of a table are scored against the same labels
        for part in {"settings", "evaluate"} & set(chosen):
            row[part] = {**chosen[part], **(row.get(part) or {})}
        return {**chosen, **row}

    def spec(self, value: Any, path: str, kind: type[Method] | type[TestTimeMethod]) -> Spec:
        """One method, built once to see that its arguments are right."""
        try:
            spec = parse_spec(value)
            method = build_method(spec)
        except ConfigError as error:
            raise self.fail(path, str(error)) from error
        if not isinstance(method, kind):
            hint = "at test time; write it under test_time:" if kind is Method else "in training, not at test time"
            raise self.fail(path, f"{next(iter(spec))} acts {hint}")
        return spec

    def check_space(self, config: BenchConfig) -> None:
        """A label space that there is."""
        try:
            build_space(config.space)
        except ConfigError as error:
            raise self.fail("", str(error)) from error

    def check_methods(self, config: BenchConfig, settings: Any) -> None:
        """What makes the comparison fair: an honest baseline, equal steps."""
        row = config.methods[SOURCE_ONLY]
        if not row.methods or row.test_time or any(self.needs_target(spec) for spec in row.methods):
            raise self.fail(f"methods.{SOURCE_ONLY}", "must train without target images; write [Supervised]")
        if config.oracle is not None and ORACLE in config.methods:
            raise self.fail(f"methods.{ORACLE}", "is built in; leave the row out, or set oracle: false")
        if row.control is not None:
            raise self.fail(f"methods.{SOURCE_ONLY}.control", "is what others are compared to; it has none")
        if row.evaluate:
            raise self.fail(f"methods.{SOURCE_ONLY}.evaluate", "is the config's own evaluate; write it there")
        if row.target_labels is not None:
            raise self.fail(f"methods.{SOURCE_ONLY}.target_labels", "is what others are compared to; add another row")
        for name, row in config.methods.items():
            path = f"methods.{name}.settings"
            if row.settings and not row.trains:
                raise self.fail(path, "this row does not train")
            if row.target_labels is not None:
                self.check_target_labels(config, row, f"methods.{name}.target_labels")
            if "steps" in row.settings:
                raise self.fail(f"{path}.steps", "all rows of a table train for the same number of steps")
            if row.settings:
                self.settings(row.settings, settings, path)
            if row.control is not None and (row.control == name or row.control not in config.methods):
                known = nearest(row.control, [other for other in config.methods if other != name])
                raise self.fail(f"methods.{name}.control", f"no other row {short(row.control)}; {known}")

    def check_target_labels(self, config: BenchConfig, row: MethodEntry, path: str) -> None:
        """Labelled target images for a row that trains, and a network to choose them with."""
        if not row.trains:
            raise self.fail(path, "this row does not train")
        if row.target_labels is not None and row.target_labels.choose != "random" and config.warm_start is None:
            raise self.fail(
                f"{path}.choose", f"{row.target_labels.choose} looks at the network of a warm_start; add it"
            )

    def check_learning(self, config: BenchConfig) -> BenchConfig:
        """The config, if the methods of each row learn from images; not asked of what is recorded already."""
        for name, row in config.methods.items():
            built = [build_method(spec) for spec in row.methods or []]
            try:
                if row.trains:
                    check_learning([method for method in built if isinstance(method, Method)])
            except ValueError as error:
                raise self.fail(f"methods.{name}", str(error)) from error
        return config

    def check_evaluate(self, config: BenchConfig) -> None:
        """How the rows are scored: domains and classes that there are, a teacher, one pass for methods that adapt."""
        if config.evaluate.classes:
            try:
                config.evaluate.check_classes(build_space(config.space).names)
            except ValueError as error:
                raise self.fail("evaluate", str(error)) from error
        if config.evaluate.model == "teacher" and not any(map(config.has_teacher, config.methods.values())):
            raise self.fail("evaluate.model", "no row has a teacher")
        for name, row in {"": MethodEntry(), **config.methods}.items():
            path = f"methods.{name}.evaluate" if row.evaluate else "evaluate"
            if "classes" in row.evaluate:
                raise self.fail(f"{path}.classes", "all rows of a table have the same means; write it in the config's")
            own = self.validate(EvaluateSpec, {**config.evaluate.model_dump(), **row.evaluate}, path)
            for domain in own.domains:
                if domain not in config.domains:
                    raise self.fail(f"{path}.domains", f"no domain {short(domain)}; {nearest(domain, config.domains)}")
            if any(_labels_at(own.on(domain)) != _labels_at(config.evaluate.on(domain)) for domain in config.domains):
                raise self.fail(
                    path, "all rows of a table are scored against the same labels, those at the config's size"
                )
            if row.evaluate.get("model") == "teacher" and not config.has_teacher(row):
                raise self.fail(f"{path}.model", "the network of this row is trained without a teacher")
            averaged = row.settings.get("average", config.settings.average)
            if averaged and name and config.evaluate_of(row).model == "teacher":
                raise self.fail(f"{path}.model", "is teacher, but with settings.average the average is what is scored")
            if row.test_time is not None:
                try:
                    for domain in config.domains:
                        check_passes(own.on(domain), build_method(row.test_time))
                except ValueError as error:
                    raise self.fail(f"methods.{name}.evaluate", str(error)) from error

    def needs_target(self, spec: Spec) -> bool:
        method = build_method(spec)
        return isinstance(method, Method) and method.needs_target

    def check_models(self, config: BenchConfig) -> None:
        """Names and options of all models, before any is built."""
        places = {"model": config.model}
        places |= {f"methods.{name}.model": row.model for name, row in config.methods.items() if row.model is not None}
        for path, model in places.items():
            self.check_model(model, path)

    def check_model(self, model: dict[str, Any], path: str) -> None:
        """Name and options of a model, before it is built."""
        name = model.get("name", "segmenter")
        try:
            known = [*model_options(name), "name"]
        except ValueError as error:
            raise self.fail(f"{path}.name", str(error)) from error
        takes_any = any(p.kind is p.VAR_KEYWORD for p in inspect.signature(MODELS[name]).parameters.values())
        for key in model:
            if key not in known and not takes_any:
                raise self.fail(f"{path}.{key}", f"model {short(name)} has no such option; {nearest(key, known)}")

    def check_data(self, config: BenchConfig) -> None:
        """Kinds and options of all data sets, before any is opened."""
        specs = {"target": config.target}
        specs |= {key: spec for key in ("source_val", "target_val") if (spec := getattr(config, key)) is not None}
        specs |= {f"source.{at}" if len(config.source) > 1 else "source": spec for at, spec in enumerate(config.source)}
        specs |= {f"unseen.{name}": spec for name, spec in config.unseen.items()}
        for path, spec in specs.items():
            try:
                options = dataset_options(spec.kind)
            except ValueError as error:
                raise self.fail(f"{path}.kind", str(error)) from error
            # the space is the config's, so that all data sets have the same
            names = [*(key for key in options if key != "space"), "kind", "weight"]
            if spec.weight != 1 and not path.startswith("source."):
                raise self.fail(f"{path}.weight", "only a source that lists several data sets has weights")
            if spec.marginal and path != "target" and path.split(".")[0] != "source":
                raise self.fail(f"{path}.marginal", "is for training data; `uda eval --merge-to` scores coarse labels")
            if "root" in options and "root" not in spec.arguments:
                raise self.fail(f"{path}.root", "is missing: the folder of the data set")
            for key in spec.arguments:
                if key not in names:
                    raise self.fail(f"{path}.{key}", f"unknown key; {nearest(key, names)}")
            try:
                check_options(spec.kind, spec.arguments)
            except OptionError as error:
                raise self.fail(f"{path}.{error.key}", error.message) from error
            self.check_labels(config, path, spec)
        mixed = len(config.source) > 1 or (config.oracle is not None and config.oracle.labels == "both")
        if config.balance != "image" and not mixed:
            raise self.fail("balance", f"{config.balance}, but there are no several data sets with labels to balance")

    def check_labels(self, config: BenchConfig, path: str, spec: DatasetSpec) -> None:
        """Labels where they are trained on or scored, and what those of a folder hold."""
        labelled = spec.arguments.get("labelled", True)
        if DATASETS.get(spec.kind.lower()) is Folder and labelled and spec.arguments.get("classes") is None:
            raise self.fail(
                f"{path}.classes",
                "is missing: what the labels hold, names in the order of their ids; images without labels have "
                "labelled: false",
            )
        if labelled is not False:
            return
        if path == "target" and config.oracle is not None:
            raise self.fail(f"{path}.labelled", "the oracle trains on the target's labels; set oracle: false")
        few = [name for name, row in config.methods.items() if row.target_labels is not None]
        if path == "target" and few:
            raise self.fail(f"{path}.labelled", f"row {short(few[0])} trains on labels of the target (target_labels)")
        if path != "target":
            what = "trains on" if path.startswith("source") and path != "source_val" else "is scored against"
            raise self.fail(f"{path}.labelled", f"is false, but the run {what} these labels; leave it out")

    def validate(self, model: type[T], content: Any, path: str) -> T:
        try:
            return model.model_validate(content)
        except ValidationError as error:
            raise self.explain(model, error, path) from None
        except (TypeError, OverflowError) as error:
            # what is chosen by name (a schedule, an optimiser) compares its arguments with numbers
            raise self.fail(path, f"a value is of another type than is needed ({error})") from error

    def explain(self, model: type[BaseModel], error: ValidationError, path: str) -> ConfigError:
        """The first of pydantic's errors as one line, with the keys that are known at its place."""
        first = error.errors()[0]
        where = ".".join(str(part) for part in (*([path] if path else []), *first["loc"]))
        message = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            message = f"unknown key; {nearest(str(first['loc'][-1]), _fields_at(model, first['loc'][:-1]))}"
        elif first["type"] == "missing":
            message = "is missing"
        elif first["type"] != "value_error" and not isinstance(first["input"], dict):
            message = f"{message}, got {short(first['input'])}"
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        return self.fail(where, message + more)


def _labels_at(inference: Inference) -> tuple[Any, ...] | None:
    """The size that labels are brought to; ``None``: their own."""
    return None if inference.score_at == "label" else (inference.input_size, inference.scale)


def _fields_at(model: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    """Field names of the record at a place inside ``model``; keys of mappings and lists are skipped."""
    record: Any = model
    for part in path:
        if part in record.model_fields:
            records = list(_records_in(record.model_fields[part].annotation))
            record = records[0] if records else record
    return list(record.model_fields)


def _records_in(annotation: Any) -> typing.Iterator[type[BaseModel]]:
    plain = isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias)
    if plain and issubclass(annotation, BaseModel):
        yield annotation
    for argument in typing.get_args(annotation):
        yield from _records_in(argument)
