"""The identity of a benchmark's cells: what their weights and scores depend on, wherever the data lies."""

from __future__ import annotations

import copy
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from uda.bench import build
from uda.bench.plan import Cell
from uda.bench.stored import network_damage, read_description, read_evaluation, read_result
from uda.config import BenchConfig, DatasetSpec, Scoring, Spec, build_method
from uda.data import DataError, dataset_identity
from uda.data.balance import Balance
from uda.engine import checkpoint
from uda.engine.grouping import shared_teacher, unique_labels
from uda.engine.identity import (
    SCHEMA,
    UNKNOWN,
    defaults_of,
    differences,
    model_identity,
    plain,
    run_identity,
    weights_value,
)
from uda.methods import Method
from uda.models import model_options
from uda.models.batch_norm import add_target_norms, needs_target_norms
from uda.models.pretrained import CHECKPOINT


class Identities:
    """Identities of the cells of one config; data sets are opened once, models have no numbers.

    A data set that is not there is unknown: it differs from nothing, so that a finished benchmark can be shown without
    its data.

    Args:
        config: the benchmark.
        cells: of its plan, with everything that they need.
    """

    def __init__(self, config: BenchConfig, cells: list[Cell]) -> None:
        self.config = config
        self.cells = {cell.name: cell for cell in cells}
        self._training: dict[str, dict[str, Any]] = {}

    def training(self, cell: Cell) -> dict[str, Any]:
        """What the cell's weights depend on; of a test-time cell those of the network it starts from."""
        if cell.name not in self._training:
            self._training[cell.name] = self._of(cell)
        return self._training[cell.name]

    def _of(self, cell: Cell) -> dict[str, Any]:
        needs = [self.training(self.cells[name]) for name in cell.needs]
        if cell.settings is None:
            return {"schema": SCHEMA, "base": needs[0]}
        methods = _methods(cell)
        labels = unique_labels(methods)
        target = self._data([self.config.target])
        labelled = {"target": [self.config.target], "both": [*self.config.source, self.config.target]}
        identity = run_identity(
            _without_numbers(json.dumps(cell.training["model"]), build.build_space(self.config.space).num_classes),
            methods,
            cell.settings,
            self._data(labelled.get(cell.training.get("labels", "source"), self.config.source), self.config.balance),
            _images(target) if any(method.needs_target for method in methods) else None,
            cell.settings.teacher_spec or shared_teacher(methods, labels),
        )
        identity["model"] = _with_weights(identity["model"], cell.training["model"])
        if "target_labels" in cell.training:
            identity["target_labels"] = self._labels(cell.training["target_labels"], target)
        return {**identity, "warm_start": needs[0] if needs else None}

    def _labels(self, labels: dict[str, Any], target: dict[str, Any] | None) -> dict[str, Any]:
        """Which images are labelled follows from this and the seed, or from the warm start and how it looks at them."""
        if labels["choose"] == "random":
            return {**labels, "data": target}
        looked = self.config.evaluate.on("target").model_dump(include={"input_size", "scale", "interpolation"})
        return {**labels, "data": target, "looked_at": plain(looked)}

    def defaults(self, cell: Cell) -> dict[str, Any]:
        """The default values at their places in :meth:`training`."""
        needs = [self.defaults(self.cells[name]) for name in cell.needs]
        if cell.settings is None:
            return {"base": needs[0]}
        return {**defaults_of(_methods(cell)), "warm_start": needs[0] if needs else None}

    def scores(self, cell: Cell) -> dict[str, dict[str, Any]]:
        """By domain: what the cell's evaluation depends on, given its weights."""
        adapts_on = {"source": self.config.source, "target": [self.config.target]}
        return {
            domain: {
                "schema": SCHEMA,
                "space": list(build.build_space(self.config.space).names),
                "test_time": _test_time(content["test_time"]),
                "evaluate": content["evaluate"],
                "data": self._data([self.config.domains[domain]]),
                "adapts_on": self._data(adapts_on.get(domain, [])) if content["test_time"] else None,
            }
            for domain, content in cell.scoring.items()
        }

    def missing_scores(self, cell: Cell, result: dict[str, Any] | None, folder: Path | None = None) -> list[str]:
        """Domains whose evaluation is not there yet, or was made with another data set or test-time method.

        With the cell's folder also those whose scores are damaged or gone.
        """
        done: dict[str, Any] = result["scores"] if result else {}
        defaults = {"evaluate": Scoring().model_dump(mode="json")}
        return [
            domain
            for domain, identity in self.scores(cell).items()
            if not isinstance(done.get(domain), dict)
            or differences(done[domain], identity, defaults)
            or (folder is not None and read_evaluation(folder, domain) is None)
        ]

    def differences(self, cell: Cell, old: dict[str, Any]) -> list[str]:
        """Where the training that a cell's folder describes differs from the cell's."""
        return differences(old.get("identity", {}), self.training(cell), self.defaults(cell))

    def changes(self, cell: Cell, folder: Path) -> list[str]:
        """:meth:`differences` of what a folder holds; empty where it holds nothing.

        Where the description is damaged or gone, the checkpoint says most of it; the trainer compares the rest.
        """
        described = read_description(folder)
        if described is not None:
            return self.differences(cell, described)
        try:
            recorded = checkpoint.load(folder / CHECKPOINT).get("identity", {})
        except checkpoint.CheckpointError:
            return []
        # a trainer knows the model's weights and the target in words of its own, and no warm start
        training = self.training(cell)
        own = {"model", "target", "warm_start"}
        if "target_labels" in training:
            own |= {"target_labels", "source"}
        said = [key for key in training if key not in own]
        return differences(_only(recorded, said), _only(training, said), self.defaults(cell))

    def is_done(self, cell: Cell, root: Path) -> bool:
        """Whether a cell of the benchmark in ``root`` needs no work at all."""
        folder = root / cell.name
        described, result = read_description(folder), read_result(folder)
        if described is None or result is None or self.differences(cell, described):
            return False
        if self.config.target_val is None and cell.kind == "train" and "label_free" not in result:
            return False
        return not self.missing_scores(cell, result, folder)

    def checkpoint_damage(self, cell: Cell, root: Path) -> str:
        """What is wrong with the checkpoint of a cell that trains: unreadable, or of another network; else empty."""
        path = root / cell.name / CHECKPOINT
        try:
            state = checkpoint.load(path)
        except checkpoint.CheckpointError as error:
            return "is missing" if not path.exists() else str(error).removeprefix(f"{path}: ")
        network = _without_numbers(
            json.dumps(cell.training["model"]), build.build_space(cell.training["space"]).num_classes
        )
        if isinstance(state.get("model"), dict) and needs_target_norms(state["model"]):
            network = copy.deepcopy(network)
            add_target_norms(network)
        return network_damage(state, {name: tuple(value.shape) for name, value in network.state_dict().items()})

    def _data(self, specs: list[DatasetSpec], balance: Balance = "image") -> dict[str, Any] | None:
        if not specs:
            return None
        told = _data_identity(
            json.dumps([spec.model_dump(mode="json") for spec in specs]), json.dumps(self.config.space), balance
        )
        return None if told is None else json.loads(told)  # type: ignore[no-any-return]


def _only(identity: dict[str, Any], keys: list[str]) -> dict[str, Any]:
    return {key: value for key, value in identity.items() if key in keys}


def _methods(cell: Cell) -> list[Method]:
    built = [build_method(spec) for spec in cell.training["methods"]]
    return [method for method in built if isinstance(method, Method)]


def _test_time(spec: Spec | None) -> dict[str, Any] | None:
    return None if spec is None else {next(iter(spec)): plain(build_method(spec).arguments)}


def _images(identity: dict[str, Any] | None) -> dict[str, Any] | None:
    """The identity of a labelled data set as that of its images."""
    if identity is None:
        return UNKNOWN
    return {key: value for key, value in identity.items() if key not in ("classes", "label_map", "unknown")}


def _with_weights(identity: dict[str, Any], model: dict[str, Any]) -> dict[str, Any]:
    """The weights that the run really starts from: the network without numbers was built without them."""
    if "weights" not in model_options(model.get("name", "segmenter")):
        return identity
    default = model_options(model.get("name", "segmenter"))["weights"].default
    return {**identity, "weights": plain(weights_value(model.get("weights", default)))}


@lru_cache(maxsize=32)
def _without_numbers(model_json: str, num_classes: int) -> nn.Module:
    """A config's network on the meta device where it can be built there: shapes cost nothing."""
    model: dict[str, Any] = json.loads(model_json)
    if "weights" in model_options(model.get("name", "segmenter")) or model.get("name") == "hrda":
        model["weights"] = None
    try:
        with torch.device("meta"):
            network = build.build_segmenter(model, num_classes, seed=0)
        model_identity(network)
    except (NotImplementedError, RuntimeError):
        network = build.build_segmenter(model, num_classes, seed=0)
    return network


@lru_cache(maxsize=64)
def _data_identity(specs_json: str, space_json: str, balance: Balance) -> str | None:
    specs = [DatasetSpec.model_validate(spec) for spec in json.loads(specs_json)]
    try:
        return json.dumps(dataset_identity(build.open_source(specs, json.loads(space_json), balance)))
    except (DataError, OSError):
        return None
