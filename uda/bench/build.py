"""From a config's plain values to a label space, data sets and models."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from uda.claims import claimed
from uda.config import BenchConfig, ConfigError, DatasetSpec, StreetsSpec, streets_folder
from uda.config.spaces import build_space as build_space
from uda.data import dataset, streets, union_space
from uda.data.balance import Balance, balanced
from uda.data.unions import check_covered, raw_spaces
from uda.files import atomic_write
from uda.models import build_model
from uda.types import LabelledDataset


def open_dataset(spec: DatasetSpec, space: str | dict[str, Any]) -> LabelledDataset:
    """One data set in the config's label space; opened once a process."""
    return _opened(spec.model_copy(update={"marginal": False}).model_dump_json(), json.dumps(space))


def open_source(
    specs: Sequence[DatasetSpec], space: str | dict[str, Any], balance: Balance = "image"
) -> LabelledDataset:
    """The source: one data set, or a mixture of several; how often each is drawn matters to training alone."""
    coarse = tuple(spec.model_dump_json() for spec in specs if spec.marginal)
    opened = [
        _marginal(spec.model_dump_json(), json.dumps(space), coarse) if spec.marginal else open_dataset(spec, space)
        for spec in specs
    ]
    return (
        opened[0]
        if len(opened) == 1
        else balanced([(source, spec.weight) for source, spec in zip(opened, specs, strict=True)], balance)
    )


@lru_cache(maxsize=32)
def _opened(spec_json: str, space_json: str) -> LabelledDataset:
    spec = DatasetSpec.model_validate_json(spec_json)
    opened: Any = dataset(spec.kind, **spec.arguments)
    remapped: LabelledDataset = opened.remap(build_space(json.loads(space_json)), spec.aliases or None)
    return remapped


@lru_cache(maxsize=32)
def _files(spec_json: str) -> Any:
    """A data set in its own label space."""
    spec = DatasetSpec.model_validate_json(spec_json)
    return dataset(spec.kind, **spec.arguments)


@lru_cache(maxsize=32)
def _marginal(spec_json: str, space_json: str, coarse: tuple[str, ...]) -> LabelledDataset:
    """One data set in the config's space with the unions that this and all other coarse ones need."""
    specs = [DatasetSpec.model_validate_json(text) for text in coarse]
    spec = DatasetSpec.model_validate_json(spec_json)
    try:
        spaces = raw_spaces([_files(text) for text in coarse])
        aliases = [each.aliases or None for each in specs]
        unions = union_space(build_space(json.loads(space_json)), *zip(spaces, aliases, strict=True))
        remapped: LabelledDataset = _files(spec_json).remap(unions, spec.aliases or None)
        check_covered(remapped, spec.aliases)
    except ValueError as error:
        raise ConfigError(f"source: {spec.kind} with marginal: true: {error}") from error
    return remapped


def build_segmenter(arguments: dict[str, Any], num_classes: int, seed: int) -> nn.Module:
    """A model from a config's ``model`` section; its new layers are a function of the seed."""
    torch.manual_seed(seed)
    options = {"name": "segmenter", **arguments}
    return build_model(options.pop("name"), num_classes, **options)


def open_device(name: str | None) -> torch.device:
    """The device of that name; the GPU where there is one, by default.

    Raises:
        ConfigError: no such device here.
    """
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:
        raise ConfigError(f"device: {str(error).splitlines()[0]}") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"device: no {name!r} here; CUDA devices found: {torch.cuda.device_count()}")
    return device


def make_streets(section: StreetsSpec, workers: int = 1) -> bool:
    """Write the procedural data of a config unless it is there, or another process writes it; whether this one did."""
    folder = streets_folder(section)
    marker = folder / "complete.json"
    if marker.is_file():
        return False
    with claimed(folder, wait=True) as claim:
        if marker.is_file():
            return False
        for name, domain in section.domains.items():
            streets.generate(
                folder / name, domain.made(name), splits=domain.splits, size=domain.size, seed=section.seed,
                workers=workers,
            )  # fmt: skip
        claim.check()
        with atomic_write(marker) as file:
            file.write(section.model_dump_json(indent=2) + "\n")
    return True


def check(config: BenchConfig) -> None:
    """Open everything that a config names, so that a mistake ends the run before any training.

    Raises:
        ConfigError: the label space, a model or a device is wrong.
        DataError: a data set is missing or damaged (the message names the file).
    """
    for device in {config.settings.device, *(row.settings.get("device") for row in config.methods.values())}:
        open_device(device)
    classes = build_space(config.space).num_classes
    open_source(config.source, config.space)
    for spec in (config.target, *config.domains.values()):
        open_dataset(spec, config.space)
    models = {
        json.dumps(model): model
        for model in [config.model, *(row.model or config.model for row in config.methods.values())]
    }
    for path, model in models.items():
        try:
            build_segmenter(model, classes, seed=0)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"model: {path}: {error}") from error
