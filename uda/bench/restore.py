"""Trained models back from run folders, for evaluation and prediction."""

from __future__ import annotations

import runpy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import nn

from uda.bench.build import build_segmenter, build_space, open_source
from uda.bench.plan import CONFIG, DESCRIPTION
from uda.bench.rows import rows_of
from uda.bench.stored import description_damage, network_damage, read_description
from uda.config import SOURCE_ONLY, BenchConfig, ConfigError, EvaluateSpec, Spec, build_method, load_recorded
from uda.config.content import read_content
from uda.data.label_spaces import LabelSpace
from uda.engine import checkpoint
from uda.methods import TestTimeMethod
from uda.models import load
from uda.models.batch_norm import add_target_norms, needs_target_norms
from uda.models.pretrained import CHECKPOINT
from uda.models.pretrained import DESCRIPTION as MODEL
from uda.models.teacher import inner_state
from uda.types import LabelledDataset, TaskSpec, UnlabelledDataset


@dataclass(frozen=True)
class RunFolder:
    """A cell's folder: where its checkpoint lies and how it was made."""

    path: Path
    config: BenchConfig
    method: str
    seed: int
    training: dict[str, Any]
    """Of the run that made the checkpoint."""
    checkpoint: Path
    test_time: Spec | None

    @property
    def space(self) -> LabelSpace:
        """The label space of the model's classes."""
        return build_space(self.training["space"])

    @property
    def evaluate(self) -> EvaluateSpec:
        """How the row is scored."""
        rows = rows_of(self.config)
        # a warm start is no row
        return self.config.evaluate_of(rows[self.method if self.method in rows else SOURCE_ONLY].entry)


def open_run(path: Path) -> RunFolder:
    """Read a cell's folder (``<out>/<name>/<method>/seed<k>``); a test-time cell has its base's checkpoint.

    Raises:
        ConfigError: no run folder, or one without a checkpoint yet.
    """
    path = path.parent if path.name == CHECKPOINT else path
    cell = read_description(path)
    if cell is None and (what := description_damage(path)):
        raise ConfigError(f"{path / DESCRIPTION}: {what}; the benchmark writes it again when it is called")
    if cell is None:
        raise ConfigError(
            f"{path}: {'not a run folder (no cell.json)' if path.is_dir() else 'no such folder'}; those of a benchmark "
            "are <out>/<benchmark>/<method>/seed<k>"
        )
    base = path if cell["kind"] != "test_time" else path.parent.parent / cell["needs"][0]
    if not (base / CHECKPOINT).is_file():
        raise ConfigError(f"{base}: no {CHECKPOINT}; the run has not got that far")
    training = (read_description(base) or cell)["training"]
    config = load_recorded(path / CONFIG if "identity" in cell else upgraded(path / CONFIG))
    return RunFolder(path, config, cell["method"], cell["seed"], training, base / CHECKPOINT, cell["test_time"])


def upgraded(path: Path) -> dict[str, Any]:
    """The config of a run that was recorded before runs had one identity, in today's words.

    Only what evaluation and prediction need is kept exactly; how such a run was drawn and regularised is in its file.
    """
    _, content = read_content(path, None)
    rows = content.get("methods") or {}
    for section in (
        content.get("settings"),
        content.get("warm_start"),
        *(row.get("settings") for row in rows.values()),
    ):
        for key in ("l1", "rare_class_temperature"):
            (section or {}).pop(key, None)
        if not section:
            continue
        power, momentum = section.pop("power", None), section.pop("momentum", None)
        if section.get("schedule", "poly") == "poly" and power is not None:
            section["schedule"] = {"poly": {"power": power}}
        if section.get("optimizer") == "sgd" and momentum is not None:
            section["optimizer"] = {"sgd": {"momentum": momentum}}
    return content


def load_model(run: RunFolder | Path, network: str = "student") -> nn.Module:
    """The trained segmenter of a run folder, on the CPU, in evaluation mode.

    Args:
        run: the folder.
        network: ``"student"``, or ``"teacher"`` for its EMA teacher, with the batch-norm statistics that are its own.

    Raises:
        ConfigError: no run folder, a run without a teacher, or a network that is neither.
        CheckpointError: a damaged checkpoint.
    """
    _network(network)
    run = run if isinstance(run, RunFolder) else open_run(run)
    content = checkpoint.load(run.checkpoint)
    state = content["model"] if network == "student" else _teacher_state(content.get("teacher"), run)
    # the checkpoint has every weight: the pretrained ones need not be there
    model = build_segmenter({**run.training["model"], "weights": None}, run.space.num_classes, run.seed)
    if needs_target_norms(state):
        add_target_norms(model)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
        what = network_damage({"model": state}, shapes) or type(error).__name__
        raise checkpoint.CheckpointError(f"{run.checkpoint}: {what}") from error
    model.space = run.space  # type: ignore[assignment]  # evaluation compares classes by name
    return model.eval()


def _network(name: str | None) -> Literal["student", "teacher"]:
    if name is None or name == "student":
        return "student"
    if name == "teacher":
        return "teacher"
    raise ConfigError(f"model is {name!r}, must be 'student' or 'teacher'")


def _teacher_state(state: dict[str, Any] | None, run: RunFolder) -> dict[str, Any]:
    """The weights of the network inside a :class:`~uda.models.Teacher`."""
    if state is None:
        raise ConfigError(f"{run.path}: trained without a teacher; only its student can be scored")
    return inner_state(state)


def open_model(
    text: str, space: str | None = None, network: str | None = None
) -> tuple[nn.Module, LabelSpace, RunFolder | None]:
    """A trained model as the command line names it, with the label space of its classes.

    Args:
        text: a run folder of a benchmark, any folder that :func:`uda.models.load` takes, or ``FILE.py:FUNCTION``: a
            function without arguments that gives a model from images ``(N, 3, H, W)`` in [0, 1] to
            :class:`~uda.types.SegOutput` (see :func:`uda.models.adapt`). The file is executed: it is the user's own
            code.
        space: label space of the model's classes; needed for a function, a run folder has its own.
        network: of a run folder, see :func:`load_model`; by default the one that the run was scored with.

    Raises:
        ConfigError: no such folder, file or function, no label space, or one of another number of classes.
    """
    file, colon, function = text.rpartition(":")
    if not (colon and file.endswith(".py")):
        if space is not None:
            raise ConfigError(f"{text}: a run folder has its own label space; leave --space out")
        place = Path(text)
        folder = place if place.is_dir() else place.parent
        if (folder / MODEL).is_file() and read_description(folder) is None:
            model = load(place, network=_network(network))
            known: LabelSpace | None = getattr(model, "space", None)
            if known is None:
                raise ConfigError(f"{text}: does not say which classes the network has")
            return model, known, None
        run = open_run(place)
        return load_model(run, network or run.evaluate.model), run.space, run
    if network == "teacher":
        raise ConfigError(f"{text}: a function gives one network, which has no teacher")
    if space is None:
        raise ConfigError(f"{text}: --space must say which classes the model predicts")
    if not Path(file).is_file():
        raise ConfigError(f"{file}: no such file")
    factory = runpy.run_path(file).get(function)
    if not callable(factory):
        raise ConfigError(f"{file}: no function {function!r}")
    model = factory()
    if not isinstance(model, nn.Module):
        raise ConfigError(f"{text}: gave {type(model).__name__}, not a torch module")
    classes = build_space(space)
    predicted = getattr(model, "num_classes", classes.num_classes)
    if predicted != classes.num_classes:
        raise ConfigError(f"{text}: predicts {predicted} classes, {classes.name!r} has {classes.num_classes}")
    return model.eval(), classes, None


def adaptation_images(config: BenchConfig, domain: str, dataset: LabelledDataset) -> UnlabelledDataset:
    """What a test-time method may see of a config's domain beforehand: its training images, else the scored ones."""
    specs = {"source": config.source, "target": [config.target]}.get(domain)
    return (open_source(specs, config.space) if specs else dataset).unlabelled()


def attach(
    spec: Spec | None, model: nn.Module, source: LabelledDataset | None, images: UnlabelledDataset | None
) -> nn.Module:
    """A fresh test-time method around a model (the model itself without one).

    Args:
        spec: which method.
        model: a trained segmenter; ``detach_model`` of the result gives it back as it was.
        source: the source data, for methods that need its statistics.
        images: unlabelled images of the domain, for methods that look at some beforehand.
    """
    if spec is None:
        return model
    method = build_method(spec)
    if not isinstance(method, TestTimeMethod):
        raise ConfigError(f"{next(iter(spec))} acts in training, not at test time")
    try:
        task = TaskSpec.at_test_time(model, source, images)
    except TypeError as error:
        raise ConfigError(f"{next(iter(spec))} needs a segmenter: {error}") from error
    method.attach(model, task)
    return method
