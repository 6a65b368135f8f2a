"""The rows of a benchmark: those of the config, and what each of them is compared to.

A row's *control* is the run that passes the same images through the network and learns from the source alone: the row's
own methods that need no target, and :class:`~uda.methods.PassOnly` in place of every other. What a row gains over its
control, its losses gain; what the control gains over source-only, batch norm does. A test-time row is compared to what
it starts from. Rows with a network of their own have a source-only row of their own as well, and rows that are
evaluated in a way of their own are compared to source-only evaluated alike.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal

from uda.config import ORACLE, SOURCE_ONLY, BenchConfig, MethodEntry, Spec, build_method
from uda.config.names import free_name
from uda.engine.identity import plain
from uda.methods import Method, TestTimeMethod

BN_ONLY = "bn_only"
"""The control of methods that pass the target's images as they come; that of ClassMix is ``bn_only+ClassMix``."""
PASS_ONLY = "PassOnly"
Labels = Literal["source", "target", "both"]


@dataclass(frozen=True)
class PlannedRow:
    """One row of the table, and which others it is compared to."""

    name: str
    entry: MethodEntry
    baseline: str | None = None
    """The source-only row of the same network; ``None`` for such a row itself, or where there is none."""
    control: str | None = None
    """The row that sees the same images, often the baseline; ``None`` where there is nothing to compare to."""
    labels: Labels = "source"
    """Whose labels it trains on."""
    added: bool = False
    """Whether it is there for comparison alone, and not in the config."""


def rows_of(config: BenchConfig) -> dict[str, PlannedRow]:
    """All rows in the table's order: source-only, the oracle, the controls that the config does not list, its own."""
    planned = _Rows(config)
    for name, entry in config.methods.items():
        planned.add(name, entry)
    rows = dict(planned.rows)
    first = {SOURCE_ONLY: rows.pop(SOURCE_ONLY)}
    if config.oracle is not None:
        source_only = config.methods[SOURCE_ONLY]
        entry = source_only.model_copy(update={"settings": {**source_only.settings, **config.oracle.settings}})
        first[ORACLE] = PlannedRow(ORACLE, entry, SOURCE_ONLY, labels=config.oracle.labels)
    return first | {name: row for name, row in rows.items() if row.added} | rows


def control_methods(methods: list[Spec]) -> list[Spec]:
    """What passes the images that some methods pass, and learns from the source alone.

    Example:
        >>> from uda.bench.rows import control_methods
        >>> control_methods([{"Supervised": {}}, {"AdvEnt": {}}])
        [{'Supervised': {}}, {'PassOnly': {}}]
        >>> control_methods([{"MeanStd": {}}, {"Supervised": {}}, {"ClassMix": {"threshold": 0.9}}])
        [{'Supervised': {}}, {'PassOnly': {'views': [], 'of': {'ClassMix': {'threshold': 0.9}}}}]
    """
    control: list[Spec] = []
    for spec in methods:
        method = build_method(spec)
        views = (method.reads | method.looks) - {"source"} if isinstance(method, Method) else frozenset()
        if _needs_no_target(spec) or PASS_ONLY in spec:
            control.append(spec)
        elif views - {"target"}:
            control.append({PASS_ONLY: {"views": sorted(views & {"target"}), "of": spec}})
        elif views and {PASS_ONLY: {}} not in control:
            control.append({PASS_ONLY: {}})
    return control


class _Rows:
    """Collects rows, each with those that it is compared to."""

    def __init__(self, config: BenchConfig) -> None:
        self.config = config
        self.rows: dict[str, PlannedRow] = {}
        self._names = {_content(entry): name for name, entry in reversed(config.methods.items())}

    def add(self, name: str, entry: MethodEntry, *, added: bool = False) -> None:
        if name == SOURCE_ONLY:
            self.rows[name] = PlannedRow(name, entry)
        elif name not in self.rows:
            baseline = self.baseline(name, entry)
            self.rows[name] = PlannedRow(name, entry, baseline, self.control(name, entry, baseline), added=added)

    def baseline(self, name: str, entry: MethodEntry) -> str | None:
        if entry.model is None:
            return self.evaluated_alike(name, entry)
        methods = [spec for spec in entry.methods or [] if _needs_no_target(spec)]
        source_only = entry.model_copy(update={"methods": methods, "test_time": None, "target_labels": None})
        is_one = _content(source_only) == _content(entry)
        return None if is_one or not self.config.controls else self.row(f"{SOURCE_ONLY}-{name}", source_only)

    def evaluated_alike(self, name: str, entry: MethodEntry) -> str:
        """Source-only, evaluated as a row is; it has no teacher of its own."""
        alike = MethodEntry(evaluate={key: value for key, value in entry.evaluate.items() if key != "model"})
        if not alike.evaluate or not self.config.controls or _content(alike) == _content(entry):
            return SOURCE_ONLY
        return self.row(f"{SOURCE_ONLY}-{name}", alike)

    def control(self, name: str, entry: MethodEntry, baseline: str | None) -> str | None:
        if entry.control is not None or not self.config.controls:
            return entry.control or baseline
        if entry.test_time is None and entry.methods is None:
            return baseline
        if entry.test_time is None:
            like = entry.model_copy(update={"methods": control_methods(entry.methods or [])})
            label = self.control_label(like) or f"{name}-control"
        else:
            method = build_method(entry.test_time)
            starts_from = method.starts_from if isinstance(method, TestTimeMethod) else None
            if starts_from is None and entry.methods is None:
                return baseline
            like = entry.model_copy(update={"test_time": None if starts_from is None else {starts_from: {}}})
            label = "prediction_time_bn" if entry.methods is None else f"{name}-control"
        source_only = like.methods == self.config.methods[SOURCE_ONLY].methods
        if source_only and not (like.test_time or like.model or like.settings or like.target_labels):
            return baseline
        return baseline if _content(like) == _content(entry) else self.row(label, like)

    def control_label(self, control: MethodEntry) -> str:
        """The name of a control that is nothing but source-only with passes; empty for others."""
        passes = [spec[PASS_ONLY] for spec in control.methods or [] if PASS_ONLY in spec]
        others = [spec for spec in control.methods or [] if PASS_ONLY not in spec]
        own = control.model or control.settings or control.evaluate or control.target_labels
        if own or others != self.config.methods[SOURCE_ONLY].methods:
            return ""
        return "+".join([BN_ONLY, *(next(iter(arguments["of"])) for arguments in passes if arguments.get("of"))])

    def row(self, label: str, entry: MethodEntry) -> str:
        """The name of the row that does this: one of the config's or of those added before, else a new one."""
        content = _content(entry)
        if content not in self._names:
            name = free_name(label, [*self.config.methods, *self.rows])
            self._names[content] = name
            self.add(name, entry.model_copy(update={"control": None}), added=True)
        return self._names[content]


def _needs_no_target(spec: Spec) -> bool:
    method = build_method(spec)
    return isinstance(method, Method) and not method.needs_target


def _content(entry: MethodEntry) -> str:
    """What a row does, with every argument written out, whatever it is compared to."""
    resolved = entry.model_dump(mode="json", exclude={"control"})
    for spec in [*(entry.methods or []), *([entry.test_time] if entry.test_time else [])]:
        resolved.setdefault("resolved", []).append({next(iter(spec)): plain(build_method(spec).arguments)})
    del resolved["methods"]
    resolved["test_time"] = resolved["test_time"] is not None
    return json.dumps(resolved, sort_keys=True)
