"""What a file writes in short, in full: variables, settings, rows, presets, learning curves; methods built once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from uda.config.content import VARIABLE
from uda.config.file import ConfigFile
from uda.config.names import check_row
from uda.config.records import SOURCE_ONLY, LearningCurve, MethodEntry
from uda.config.runs import SUPERVISED
from uda.config.specs import ConfigError, Spec, build_method, parse_spec
from uda.engine.settings import Settings
from uda.methods.base import Method, TestTimeMethod
from uda.presets import PARTS, preset
from uda.registry import nearest, short


def substitute(file: ConfigFile, value: Any, values: Mapping[str, str], path: str) -> Any:
    """Fill ``${name}`` in every string."""
    if isinstance(value, dict):
        return {key: substitute(file, child, values, f"{path}.{key}".lstrip(".")) for key, child in value.items()}
    if isinstance(value, list):
        return [substitute(file, child, values, f"{path}.{at}") for at, child in enumerate(value)]
    if not isinstance(value, str):
        return value
    for name in VARIABLE.findall(value):
        if name not in values:
            raise file.fail(path, f"{short(value)} needs a folder for {short(name)}; give --root {name}=PATH")
    return VARIABLE.sub(lambda match: values[match[1]], value)


def read_settings(file: ConfigFile, content: dict[str, Any]) -> Any:
    """Put the settings' records in place of what is written, which is given."""
    settings, warm = content.get("settings"), content.get("warm_start")
    content["settings"] = settings_of(file, settings, {}, "settings")
    if warm is not None:
        content["warm_start"] = settings_of(file, warm, settings, "warm_start")
    return settings


def settings_of(file: ConfigFile, own: Any, base: Any, path: str) -> Settings:
    """Settings of which ``own`` says the ones that differ from ``base``."""
    file.known_keys(Settings, own, path)
    if "seed" in own:
        raise file.fail(f"{path}.seed", "seeds are a list of the config, not a setting")
    if path == "warm_start" and "steps" not in own:
        raise file.fail(path, "steps is missing: how long to train before the methods start")
    return file.validate(Settings, {**base, **own}, path)


def rows_of(file: ConfigFile, raw: Any) -> dict[str, Any]:
    """Every row in its full form, with arguments checked against the methods' constructors."""
    if not isinstance(raw, dict) or SOURCE_ONLY not in raw:
        raise file.fail("methods", f"{SOURCE_ONLY}: [Supervised] is missing; every other row is compared to it")
    rows: dict[str, Any] = {}
    for name, row in raw.items():
        path = f"methods.{name}"
        try:
            check_row(name)
        except ValueError as error:
            raise file.fail(path, str(error)) from error
        if isinstance(row, list):
            row = {"methods": row}
        row = written_out(file, row, path)
        file.known_keys(MethodEntry, row, path)
        row = dict(row)
        if row.get("methods") is not None:
            listed = row["methods"]
            if not isinstance(listed, list) or not listed:
                raise file.fail(f"{path}.methods", f"a list of at least one method is needed, got {short(listed)}")
            row["methods"] = [spec_of(file, raw_spec, f"{path}.{at}", Method) for at, raw_spec in enumerate(listed)]
        if row.get("test_time") is not None:
            row["test_time"] = spec_of(file, row["test_time"], f"{path}.test_time", TestTimeMethod)
        if row.get("methods") is None and row.get("test_time") is None and not row.get("evaluate"):
            raise file.fail(path, "methods or test_time is needed, or another way to evaluate")
        rows[str(name)] = row
    return rows


def adaptation_rows(file: ConfigFile, raw: Any) -> dict[str, Any]:
    """The rows of a matrix in their full form."""
    if raw is None:
        return {}
    if not isinstance(raw, dict) or SOURCE_ONLY in raw:
        message = "the rows of plain training are there already" if isinstance(raw, dict) else short(raw)
        raise file.fail("rows", f"a mapping of adaptation rows by name is needed, got {message}")
    ends = {
        name: {key: row[key] for key in ("source", "target") if key in row} if isinstance(row, dict) else {}
        for name, row in raw.items()
    }
    rows = {
        name: {key: value for key, value in row.items() if key not in ends[name]} if ends[name] else row
        for name, row in raw.items()
    }
    file.written = {"methods": "rows"}
    full = rows_of(file, {SOURCE_ONLY: [SUPERVISED], **rows})
    file.written = {}
    return {str(name): {**full[str(name)], **ends[name]} for name in raw}


def with_curve(file: ConfigFile, rows: dict[str, Any], content: dict[str, Any]) -> dict[str, Any]:
    """The rows and those that the learning curve adds; a config that was written down has these already."""
    if content.get("learning_curve") is None:
        return rows
    curve = file.validate(LearningCurve, content["learning_curve"], "learning_curve")
    added: dict[str, Any] = {}
    for name, (row, labels) in curve.labels_of().items():
        path = f"learning_curve.rows.{row}"
        if row not in rows:
            raise file.fail(path, f"no such row; {nearest(row, rows)}")
        if rows[row].get("methods") is None or rows[row].get("target_labels") is not None:
            raise file.fail(path, "a row that trains, without target_labels of its own, is needed")
        # without controls, what a method gains is seen beside the same images with labels
        beside = curve.name_of(SOURCE_ONLY, labels.count, labels.choose)
        listed = row != SOURCE_ONLY and content.get("controls") is False and beside in curve.labels_of()
        entry = {**rows[row], "control": beside if listed else None, "target_labels": labels.model_dump()}
        if name in rows and row_of(file, rows[name], f"methods.{name}") != row_of(file, entry, path):
            raise file.fail(f"methods.{name}", "the learning curve has another row of this name")
        added[name] = entry
    return {**rows, **added}


def row_of(file: ConfigFile, entry: Any, path: str) -> MethodEntry:
    """A row as a record."""
    return file.validate(MethodEntry, entry, path)


def written_out(file: ConfigFile, row: Any, path: str) -> Any:
    """A row that names a paper's recipe, with the recipe's methods, settings, model and evaluation written out."""
    if not isinstance(row, dict) or "preset" not in row:
        if isinstance(row, dict) and {"change", "parts"} & set(row):
            raise file.fail(path, "change and parts go with preset")
        return row
    row = dict(row)
    name, changes, parts = row.pop("preset"), row.pop("change", None) or {}, row.pop("parts", list(PARTS))
    if "methods" in row:
        raise file.fail(f"{path}.methods", "are the preset's; write what differs under change")
    for part in parts if isinstance(parts, list) else [parts]:
        if part not in PARTS:
            raise file.fail(f"{path}.parts", f"no part {short(part)} of a preset; {nearest(str(part), PARTS)}")
    if not isinstance(changes, dict):
        raise file.fail(f"{path}.change", f"a mapping of entries is needed, got {short(changes)}")
    try:
        recipe = preset(str(name), changes)
    except ValueError as error:
        raise file.fail(f"{path}.preset", str(error)) from error
    chosen = {part: recipe[part] for part in PARTS if part in parts}
    chosen.get("evaluate", {}).pop("score_at", None)  # all rows of a table are scored against the same labels
    for part in {"settings", "evaluate"} & set(chosen):
        row[part] = {**chosen[part], **(row.get(part) or {})}
    return {**chosen, **row}


def spec_of(file: ConfigFile, value: Any, path: str, kind: type[Method] | type[TestTimeMethod]) -> Spec:
    """One method, built once to see that its arguments are right."""
    try:
        spec = parse_spec(value)
        method = build_method(spec)
    except ConfigError as error:
        raise file.fail(path, str(error)) from error
    if not isinstance(method, kind):
        hint = "at test time; write it under test_time:" if kind is Method else "in training, not at test time"
        raise file.fail(path, f"{next(iter(spec))} acts {hint}")
    return spec
