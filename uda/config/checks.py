"""What the parts of a config say of each other: a fair comparison, models and data sets that there are."""

from __future__ import annotations

import inspect
from typing import Any

from uda.config.entries import settings_of
from uda.config.file import ConfigFile
from uda.config.options import OptionError, check_options
from uda.config.records import ORACLE, SOURCE_ONLY, BenchConfig, DatasetSpec, EvaluateSpec, MethodEntry
from uda.config.spaces import build_space
from uda.config.specs import ConfigError, Spec, build_method
from uda.data import DATASETS, Folder, dataset_options
from uda.engine.inference import Inference, check_passes
from uda.methods.base import Method, check_learning
from uda.models import MODELS, model_options
from uda.registry import nearest, short


def check(file: ConfigFile, config: BenchConfig, settings: Any) -> None:
    """What the parts of a config say of each other; ``settings`` as they are written."""
    check_space(file, config)
    check_methods(file, config, settings)
    check_evaluate(file, config)
    check_models(file, config)
    check_data(file, config)


def check_space(file: ConfigFile, config: BenchConfig) -> None:
    """A label space that there is."""
    try:
        build_space(config.space)
    except ConfigError as error:
        raise file.fail("", str(error)) from error


def check_methods(file: ConfigFile, config: BenchConfig, settings: Any) -> None:
    """What makes the comparison fair: an honest baseline, equal steps."""
    row = config.methods[SOURCE_ONLY]
    if not row.methods or row.test_time or any(_needs_target(spec) for spec in row.methods):
        raise file.fail(f"methods.{SOURCE_ONLY}", "must train without target images; write [Supervised]")
    if config.oracle is not None and ORACLE in config.methods:
        raise file.fail(f"methods.{ORACLE}", "is built in; leave the row out, or set oracle: false")
    if row.control is not None:
        raise file.fail(f"methods.{SOURCE_ONLY}.control", "is what others are compared to; it has none")
    if row.evaluate:
        raise file.fail(f"methods.{SOURCE_ONLY}.evaluate", "is the config's own evaluate; write it there")
    if row.target_labels is not None:
        raise file.fail(f"methods.{SOURCE_ONLY}.target_labels", "is what others are compared to; add another row")
    for name, row in config.methods.items():
        path = f"methods.{name}.settings"
        if row.settings and not row.trains:
            raise file.fail(path, "this row does not train")
        if row.target_labels is not None:
            check_target_labels(file, config, row, f"methods.{name}.target_labels")
        if "steps" in row.settings:
            raise file.fail(f"{path}.steps", "all rows of a table train for the same number of steps")
        if row.settings:
            settings_of(file, row.settings, settings, path)
        if row.control is not None and (row.control == name or row.control not in config.methods):
            known = nearest(row.control, [other for other in config.methods if other != name])
            raise file.fail(f"methods.{name}.control", f"no other row {short(row.control)}; {known}")


def _needs_target(spec: Spec) -> bool:
    method = build_method(spec)
    return isinstance(method, Method) and method.needs_target


def check_target_labels(file: ConfigFile, config: BenchConfig, row: MethodEntry, path: str) -> None:
    """Labelled target images for a row that trains, and a network to choose them with."""
    if not row.trains:
        raise file.fail(path, "this row does not train")
    if row.target_labels is not None and row.target_labels.choose != "random" and config.warm_start is None:
        raise file.fail(f"{path}.choose", f"{row.target_labels.choose} looks at the network of a warm_start; add it")


def check_rows_learn(file: ConfigFile, config: BenchConfig) -> BenchConfig:
    """The config, if the methods of each row learn from images; not asked of what is recorded already."""
    for name, row in config.methods.items():
        built = [build_method(spec) for spec in row.methods or []]
        try:
            if row.trains:
                check_learning([method for method in built if isinstance(method, Method)])
        except ValueError as error:
            raise file.fail(f"methods.{name}", str(error)) from error
    return config


def check_evaluate(file: ConfigFile, config: BenchConfig) -> None:
    """How the rows are scored: domains and classes that there are, a teacher, one pass for methods that adapt."""
    if config.evaluate.classes:
        try:
            config.evaluate.check_classes(build_space(config.space).names)
        except ValueError as error:
            raise file.fail("evaluate", str(error)) from error
    if config.evaluate.model == "teacher" and not any(map(config.has_teacher, config.methods.values())):
        raise file.fail("evaluate.model", "no row has a teacher")
    for name, row in {"": MethodEntry(), **config.methods}.items():
        path = f"methods.{name}.evaluate" if row.evaluate else "evaluate"
        if "classes" in row.evaluate:
            raise file.fail(f"{path}.classes", "all rows of a table have the same means; write it in the config's")
        own = file.validate(EvaluateSpec, {**config.evaluate.model_dump(), **row.evaluate}, path)
        for domain in own.domains:
            if domain not in config.domains:
                raise file.fail(f"{path}.domains", f"no domain {short(domain)}; {nearest(domain, config.domains)}")
        if any(_labels_at(own.on(domain)) != _labels_at(config.evaluate.on(domain)) for domain in config.domains):
            raise file.fail(path, "all rows of a table are scored against the same labels, those at the config's size")
        if row.evaluate.get("model") == "teacher" and not config.has_teacher(row):
            raise file.fail(f"{path}.model", "the network of this row is trained without a teacher")
        averaged = row.settings.get("average", config.settings.average)
        if averaged and name and config.evaluate_of(row).model == "teacher":
            raise file.fail(f"{path}.model", "is teacher, but with settings.average the average is what is scored")
        if row.test_time is not None:
            try:
                for domain in config.domains:
                    check_passes(own.on(domain), build_method(row.test_time))
            except ValueError as error:
                raise file.fail(f"methods.{name}.evaluate", str(error)) from error


def _labels_at(inference: Inference) -> tuple[Any, ...] | None:
    """The size that labels are brought to; ``None``: their own."""
    return None if inference.score_at == "label" else (inference.input_size, inference.scale)


def check_models(file: ConfigFile, config: BenchConfig) -> None:
    """Names and options of all models, before any is built."""
    places = {"model": config.model}
    places |= {f"methods.{name}.model": row.model for name, row in config.methods.items() if row.model is not None}
    for path, model in places.items():
        check_model(file, model, path)


def check_model(file: ConfigFile, model: dict[str, Any], path: str) -> None:
    """Name and options of a model, before it is built."""
    name = model.get("name", "segmenter")
    try:
        known = [*model_options(name), "name"]
    except ValueError as error:
        raise file.fail(f"{path}.name", str(error)) from error
    takes_any = any(p.kind is p.VAR_KEYWORD for p in inspect.signature(MODELS[name]).parameters.values())
    for key in model:
        if key not in known and not takes_any:
            raise file.fail(f"{path}.{key}", f"model {short(name)} has no such option; {nearest(key, known)}")


def check_data(file: ConfigFile, config: BenchConfig) -> None:
    """Kinds and options of all data sets, before any is opened."""
    specs = {"target": config.target}
    specs |= {key: spec for key in ("source_val", "target_val") if (spec := getattr(config, key)) is not None}
    specs |= {f"source.{at}" if len(config.source) > 1 else "source": spec for at, spec in enumerate(config.source)}
    specs |= {f"unseen.{name}": spec for name, spec in config.unseen.items()}
    for path, spec in specs.items():
        try:
            options = dataset_options(spec.kind)
        except ValueError as error:
            raise file.fail(f"{path}.kind", str(error)) from error
        # the space is the config's, so that all data sets have the same
        names = [*(key for key in options if key != "space"), "kind", "weight"]
        if spec.weight != 1 and not path.startswith("source."):
            raise file.fail(f"{path}.weight", "only a source that lists several data sets has weights")
        if spec.marginal and path != "target" and path.split(".")[0] != "source":
            raise file.fail(f"{path}.marginal", "is for training data; `uda eval --merge-to` scores coarse labels")
        if "root" in options and "root" not in spec.arguments:
            raise file.fail(f"{path}.root", "is missing: the folder of the data set")
        for key in spec.arguments:
            if key not in names:
                raise file.fail(f"{path}.{key}", f"unknown key; {nearest(key, names)}")
        try:
            check_options(spec.kind, spec.arguments)
        except OptionError as error:
            raise file.fail(f"{path}.{error.key}", error.message) from error
        check_labels(file, config, path, spec)
    mixed = len(config.source) > 1 or (config.oracle is not None and config.oracle.labels == "both")
    if config.balance != "image" and not mixed:
        raise file.fail("balance", f"{config.balance}, but there are no several data sets with labels to balance")


def check_labels(file: ConfigFile, config: BenchConfig, path: str, spec: DatasetSpec) -> None:
    """Labels where they are trained on or scored, and what those of a folder hold."""
    labelled = spec.arguments.get("labelled", True)
    if DATASETS.get(spec.kind.lower()) is Folder and labelled and spec.arguments.get("classes") is None:
        raise file.fail(
            f"{path}.classes",
            "is missing: what the labels hold, names in the order of their ids; images without labels have "
            "labelled: false",
        )
    if labelled is not False:
        return
    if path == "target" and config.oracle is not None:
        raise file.fail(f"{path}.labelled", "the oracle trains on the target's labels; set oracle: false")
    few = [name for name, row in config.methods.items() if row.target_labels is not None]
    if path == "target" and few:
        raise file.fail(f"{path}.labelled", f"row {short(few[0])} trains on labels of the target (target_labels)")
    if path != "target":
        what = "trains on" if path.startswith("source") and path != "source_val" else "is scored against"
        raise file.fail(f"{path}.labelled", f"is false, but the run {what} these labels; leave it out")
