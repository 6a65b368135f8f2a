"""``uda eval``."""

from __future__ import annotations

import csv
import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from uda.cli.common import OVERWRITE, bars, console, guarded, key_values, output_file, reader_options, track, yaml_value
from uda.files import atomic_write, spreadsheet_safe

if TYPE_CHECKING:
    from uda.bench.restore import RunFolder
    from uda.config import DatasetSpec, EvaluateSpec, Spec
    from uda.data.label_spaces import LabelSpace
    from uda.engine import Evaluation
    from uda.engine.merging import Merging
    from uda.types import LabelledDataset

MODEL = typer.Argument(
    ..., help="A run folder, or FILE.py:FUNCTION that gives a model (then --space).", show_default=False
)
SPACE = typer.Option(None, "--space", help="Label space of the model's classes, for FILE.py:FUNCTION.")
TEST_TIME = typer.Option(None, "--test-time", help="A test-time method: AdaBN, or '{AdaBN: {prior: 0.5}}'.")
EVALUATE = typer.Option(
    [],
    "--evaluate",
    help="NAME=VALUE, in place of what the run's config says under evaluate: flip=true, 'window=[1024, 1024]', "
    "model=teacher; repeatable.",
)
MERGE_TO = typer.Option(
    None, "--merge-to", help="A coarser label space to score in: cityscapes_categories, ika, street8, ..."
)
MERGING = typer.Option(
    "sum", "--merging", help="sum: of the probabilities of a coarse class's fine ones; argmax: of the best fine one."
)
_COLUMNS = ("dataset", "measure", "value")
DEVICE = typer.Option(None, "--device", help="cpu, cuda, cuda:1; the best there is if left out.")


@guarded
def evaluate(
    model: str = MODEL,
    on: list[str] = typer.Option(
        [], "--on", help="source, target or an unseen domain of the run's config; repeatable."
    ),
    kind: str = typer.Option(None, "--kind", help="Another data set: cityscapes, kitti, ... (with --root)."),
    root: Path = typer.Option(None, "--root", help="Its folder."),
    split: str = typer.Option(None, "--split", help="Its split."),
    option: list[str] = typer.Option([], "--option", help="NAME=VALUE, a further argument of its reader; repeatable."),
    test_time: str = TEST_TIME,
    space: str = SPACE,
    merge_to: str = MERGE_TO,
    merging: str = MERGING,
    evaluate_as: list[str] = EVALUATE,
    batch_size: int = typer.Option(None, "--batch-size", min=1, help="Images of equal size that go through together."),
    scale: float = typer.Option(None, "--scale", min=0.01, help="Resize of the model's input."),
    device: str = DEVICE,
    json_file: Path = typer.Option(None, "--json", help="Write the scores there."),
    csv_file: Path = typer.Option(None, "--csv", help="Write the scores there, one line a data set and class."),
    overwrite: bool = OVERWRITE,
) -> None:
    """Score a trained model on labelled data sets, with a test-time method if asked for.

    --merge-to scores a model of fine classes in a coarser label space, data sets that only have its classes included.
    Without --on and --kind: on every domain of the run's config. Its test-time method, data sets, way to evaluate and
    precision hold where nothing else is said.
    """
    from uda.bench.build import open_device
    from uda.bench.restore import adaptation_images, attach, open_model
    from uda.engine import evaluate as score
    from uda.engine.inference import ResizedImages
    from uda.models.batch_norm import domain_statistics, normalising

    output_file(json_file, ".json", "--json", overwrite, _is_json)
    output_file(csv_file, ".csv", "--csv", overwrite, _is_csv)
    place = open_device(device)
    options = evaluate_options(evaluate_as) | ({"batch_size": batch_size} if batch_size else {})
    options |= {"scale": scale} if scale else {}
    network, classes, run = open_model(model, space, options.get("model"))
    network.to(place)
    merged = _merging(classes, merge_to, merging)
    evaluated_as = evaluate_spec(options, run, classes)
    if merged is not None:
        network.space = classes  # type: ignore[assignment]
        # its means are over the fine classes
        evaluated_as = evaluated_as.model_copy(update={"classes": {}})
    datasets = _datasets(run, classes, on, kind, root, split, option, merged)
    spec = test_time_of(test_time, run)
    results: dict[str, Evaluation] = {}
    with bars() as progress:
        for name, dataset in datasets.items():
            images = dataset.unlabelled()
            if run is not None and spec is not None and name in run.config.domains:
                images = adaptation_images(run.config, name, dataset)
            scoring, statistics = evaluated_as.on(name), domain_statistics(name)
            with normalising(network, statistics):
                wrapped = attach(spec, network, source_of(run), ResizedImages(images, scoring))
                results[name] = score(
                    wrapped,
                    dataset,
                    batch_size=scoring.batch_size,
                    inference=scoring,
                    precision=run.training["settings"]["precision"] if run is not None else "fp32",
                    domain=statistics,
                    progress=functools.partial(track, label=name, total=len(dataset), progress=progress),
                    space=None if merged is None else merged.new,
                    merging="sum" if merged is None else merged.how,
                )
                if wrapped is not network:
                    wrapped.detach_model()  # type: ignore[operator]
    merged_text = None if merged is None else f"{merged.old.name} merged to {merged.new.name} by {merged.how}"
    _show(results, spec, evaluated_as, merged_text)
    content = _content(results, model, spec, evaluated_as)
    if merged is not None:
        content["merged"] = {"from": merged.old.name, "to": merged.new.name, "by": merged.how}
    if json_file is not None:
        with atomic_write(json_file) as file:
            file.write(json.dumps(content, indent=2) + "\n")
    if csv_file is not None:
        _write_csv(content, csv_file)


def source_of(run: RunFolder | None) -> LabelledDataset | None:
    """The data that a run was trained on, for test-time methods that want its statistics; ``None`` if it is gone."""
    from uda.bench.build import open_source

    if run is None:
        return None
    try:
        return open_source(run.config.source, run.config.space)
    except ValueError:
        return None


def evaluate_options(assignments: list[str]) -> dict[str, Any]:
    """``--evaluate NAME=VALUE``, values as YAML.

    Raises:
        ValueError: not of that form.
    """
    pairs = key_values(assignments, "--evaluate")
    return {name: yaml_value(value, f"--evaluate {name}") for name, value in pairs.items()}


def evaluate_spec(options: dict[str, Any], run: RunFolder | None, space: LabelSpace) -> EvaluateSpec:
    """How a run was scored, or the defaults, with other options in place of single ones.

    Raises:
        ValueError: an option or value that there is not.
    """
    from pydantic import ValidationError

    from uda.config import EvaluateSpec
    from uda.registry import nearest

    for name in options:
        if name not in EvaluateSpec.model_fields:
            raise ValueError(f"--evaluate {name}: unknown key; {nearest(name, EvaluateSpec.model_fields)}")
    default = run.evaluate.model_dump() if run is not None else {"domains": {}}
    for by_domain in default["domains"].values():
        for name in options:
            by_domain.pop(name, None)
    try:
        spec = EvaluateSpec.model_validate({**default, **options})
        spec.check_classes(space.names)
    except ValidationError as error:
        first = error.errors()[0]
        where = " ".join(["--evaluate", ".".join(map(str, first["loc"]))]).strip()
        raise ValueError(f"{where}: {first['msg'].removeprefix('Value error, ')}") from error
    except ValueError as error:
        raise ValueError(f"--evaluate {error}") from error
    return spec


def test_time_of(text: str | None, run: RunFolder | None) -> Spec | None:
    """The test-time method that was asked for, else the run's own."""
    from uda.config import parse_spec

    if text:
        return parse_spec(yaml_value(text, "--test-time"))
    return run.test_time if run is not None else None


def _datasets(
    run: RunFolder | None,
    space: LabelSpace,
    on: list[str],
    kind: str | None,
    root: Path | None,
    split: str | None,
    option: list[str],
    merged: Merging | None = None,
) -> dict[str, LabelledDataset]:
    from uda.bench.build import open_dataset
    from uda.data import dataset

    datasets: dict[str, Any] = {}
    if kind is not None:
        if root is None:
            raise ValueError(f"--kind {kind} needs --root, its folder")
        options = reader_options(option)
        if split is not None:
            options["split"] = split
        further_dataset = dataset(kind, root=root, **{"space": space if merged is None else merged.new, **options})
        datasets[further_dataset.name] = further_dataset
    elif run is None:
        raise ValueError("this model comes without data sets of its own; --kind and --root say which to score on")
    domains = run.config.domains if run is not None else {}
    for name in on or ([] if kind is not None else domains):
        if run is None or name not in domains:
            raise ValueError(f"--on {name}: no such domain; there are: {', '.join(domains) or 'none'}")
        spec, space_value = domains[name], run.config.space
        datasets[name] = open_dataset(spec, space_value) if merged is None else _coarse(spec, merged)
    if not datasets:
        raise ValueError("the run's config names no images with labels; --kind and --root say which to score on")
    return datasets


def _merging(classes: LabelSpace, merge_to: str | None, how: str) -> Merging | None:
    """What was asked for by ``--merge-to`` and ``--merging``."""
    from uda.config.spaces import build_space
    from uda.engine.merging import Merging

    if merge_to is None:
        if how != "sum":
            raise ValueError(f"--merging {how}: needs --merge-to, the label space to score in")
        return None
    try:
        return Merging.of(classes, build_space(yaml_value(merge_to, "--merge-to")), how)  # type: ignore[arg-type]
    except ValueError as error:
        raise ValueError(f"--merge-to {merge_to}: {error}") from error


def _coarse(spec: DatasetSpec, merged: Merging) -> LabelledDataset:
    """A run's data set in the coarse space: its files' classes by name, and where its aliases lead."""
    from uda.data import dataset

    coarse = {merged.old.names[index]: merged.new.names[g] for g, group in enumerate(merged.groups) for index in group}
    aliases = {old: None if new is None else coarse.get(new) for old, new in spec.aliases.items()}
    opened: LabelledDataset = dataset(spec.kind, **spec.arguments).remap(merged.new, aliases or None)
    return opened


def _show(results: dict[str, Evaluation], spec: Any, evaluated_as: EvaluateSpec, merged: str | None = None) -> None:
    from rich.table import Table
    from rich.text import Text

    title = f"IoU in %{', ' + next(iter(spec)) + ' at test time' if spec else ''}{', ' + merged if merged else ''}"
    grid = Table("class", title=Text(title))  # names may look like markup
    for name in results:
        grid.add_column(Text(name), justify="right")
    first = next(iter(results.values()))
    ious = [evaluation.iou() for evaluation in results.values()]
    for index, name in enumerate(first.class_names):
        grid.add_row(Text(name), *(_percent(iou[index]) for iou in ious))
    grid.add_section()
    grid.add_row("mean", *(_percent(evaluation.miou()) for evaluation in results.values()), style="bold")
    for name, classes in evaluated_as.classes.items():
        grid.add_row(Text(f"mean, {name}"), *(_percent(evaluation.miou(classes)) for evaluation in results.values()))
    grid.add_row("loss", *(f"{evaluation.loss():.3f}" for evaluation in results.values()))
    grid.add_row("images", *(str(len(evaluation.names)) for evaluation in results.values()))
    console().print(grid)


def _percent(value: float) -> str:
    return f"{100 * value:.1f}" if value == value else "–"


def _content(results: dict[str, Evaluation], model: str, spec: Any, evaluated_as: EvaluateSpec) -> dict[str, Any]:
    def number(value: float) -> float | None:
        return float(value) if value == value else None

    return {
        "model": model,
        "test_time": spec,
        "evaluate": evaluated_as.model_dump(mode="json", exclude_defaults=True),
        "results": {
            name: {
                "miou": number(evaluation.miou()),
                "means": {subset: number(evaluation.miou(classes)) for subset, classes in evaluated_as.classes.items()},
                "loss": number(evaluation.loss()),
                "images": len(evaluation.names),
                "iou": {
                    cls: number(value) for cls, value in zip(evaluation.class_names, evaluation.iou(), strict=True)
                },
            }
            for name, evaluation in results.items()
        },
    }


def _is_json(path: Path) -> bool:
    """Whether a file holds scores that this command wrote; a run's own files are JSON as well."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and {"model", "test_time", "results"} <= set(content)


def _is_csv(path: Path) -> bool:
    try:
        return path.read_text(encoding="utf-8").startswith(",".join(_COLUMNS) + "\n")
    except (OSError, ValueError):
        return False


def _write_csv(content: dict[str, Any], path: Path) -> None:
    with atomic_write(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_COLUMNS)
        for dataset, scores in content["results"].items():
            name = spreadsheet_safe(dataset)
            for measure in ("miou", "loss", "images"):
                writer.writerow([name, measure, scores[measure]])
            for kind, values in (("miou", scores["means"]), ("iou", scores["iou"])):
                writer.writerows(
                    [name, f"{kind}/{key}", "" if value is None else value] for key, value in values.items()
                )
