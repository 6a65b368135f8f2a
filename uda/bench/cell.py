"""One cell of a benchmark: train (or continue), score what is not scored yet, leave pictures, write the result."""

from __future__ import annotations

import contextlib
import json
import re
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import torch
import yaml
from torch import nn

from uda.bench import build, label_free
from uda.bench.identity import Identities
from uda.bench.label_free import Spaced
from uda.bench.labelled import with_labels
from uda.bench.plan import CONFIG, DESCRIPTION, ERROR, RESULT, Cell, picture_indices
from uda.bench.provenance import commit, machine, now, versions
from uda.bench.restore import adaptation_images, attach, load_model
from uda.bench.stored import evaluation_file, has_training, read_description, read_result
from uda.claims import Claim, LostError, clear, take
from uda.config import BenchConfig, Scoring, build_method
from uda.data import FileDataset
from uda.data.encode import write_image
from uda.data.statistics import image_sizes
from uda.data.streets.write import is_procedural
from uda.data.transforms import CropWarning
from uda.engine import Evaluation, Inference, Settings, Trainer, Update, checkpoint, evaluate
from uda.engine.inference import ResizedImages
from uda.engine.predict import label_map
from uda.files import atomic_write, make_folder, remove_parts
from uda.methods import TestTimeMethod
from uda.models.batch_norm import domain_statistics, normalising
from uda.models.pretrained import CHECKPOINT
from uda.processes import Processes
from uda.progress import losses_of
from uda.types import LabelledDataset

T = TypeVar("T")
SAFE = "what was written before is whole, and the next call goes on from there"
Progress = Callable[[Iterable[int]], Iterable[int]]
OnStep = Callable[[int, int, Mapping[str, float]], None]
"""Told after each step: steps done, steps of the run, the losses (none where they are not logged)."""


@dataclass(frozen=True)
class Outcome:
    """What came of a cell."""

    state: Literal["done", "failed", "elsewhere", "held", "stopped"]
    """``elsewhere``: another process did it in the meantime; ``held``: another process is working on it; ``stopped``:
    asked to, with all that was trained in the checkpoint."""
    message: str = ""
    """Why it failed, in one line."""


class _Stopped(BaseException):
    """Ends a cell's training after its checkpoint."""


def run_cell(
    config: BenchConfig,
    cells: list[Cell],
    cell: Cell,
    root: Path,
    progress: Progress | None = None,
    extend: bool = False,
    on_step: OnStep | None = None,
    again: bool = False,
    stop: Callable[[], bool] | None = None,
    raising: bool = False,
) -> Outcome:
    """Do what is missing of a cell, with a claim on its folder; one that failed leaves its traceback.

    Args:
        config: the benchmark.
        cells: its plan.
        cell: one of them, whose ``needs`` are done.
        root: the benchmark's folder; the cell's is ``root/method/seedK``.
        progress: wraps the training steps, for a progress bar.
        extend: train the checkpoint of a shorter run on.
        on_step: told after each training step.
        again: its checkpoint is damaged and needed, so that it is trained though it has its scores.
        stop: asked after each training step; where it says so, the checkpoint is written and training ends. Of
            processes that train together all have one or none, and one that says so ends all.
        raising: raise what went wrong, once its traceback is written: other processes wait for this one.

    Returns:
        What came of it; of a failure ``error.txt`` in the cell's folder has the traceback.
    """
    folder = root / cell.name
    try:
        claim = take(folder)
    except OSError as error:
        if raising:
            raise
        return Outcome("failed", _line(error))
    if claim is None:
        if raising:
            raise RuntimeError(f"{folder}: another process works there")
        return Outcome("held")
    with claim:
        try:
            identities = Identities(config, cells)
            if not is_left(identities, cell, root, again):
                if raising:
                    raise RuntimeError(f"{folder}: another process has finished it; the next call goes on")
                return Outcome("elsewhere")
            _prepare(identities, cell, root)
            _describe(config, identities, cell, folder)
            _run(config, identities, cell, root, claim, progress, extend, on_step, stop)
            claim.check()
        except LostError:
            if raising:
                raise
            return Outcome("held")
        except _Stopped:
            return Outcome("stopped")
        except Exception as error:
            if not claim.lost:
                with contextlib.suppress(OSError), atomic_write(folder / ERROR) as file:
                    file.write(traceback.format_exc())
            if raising:
                raise
            return Outcome("held") if claim.lost else Outcome("failed", _line(error))
        with contextlib.suppress(OSError):
            (folder / ERROR).unlink(missing_ok=True)
        return Outcome("done")


def _line(error: Exception) -> str:
    safe = f"; {SAFE}" if isinstance(error, OSError) else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())}{safe}"


def is_left(identities: Identities, cell: Cell, root: Path, again: bool = False) -> bool:
    """Whether a cell needs work, see :func:`run_cell`."""
    return not identities.is_done(cell, root) or (again and bool(identities.checkpoint_damage(cell, root)))


def _prepare(identities: Identities, cell: Cell, root: Path) -> None:
    """Clear what another training left: all of a failure's first curves, the result of a shorter run.

    What is damaged is out of the way afterwards: a checkpoint that cannot be gone on from keeps lying beside.
    """
    folder = root / cell.name
    described, differences = read_description(folder), identities.changes(cell, folder)
    if differences and not has_training(folder):
        clear(folder)
    make_folder(folder)
    remove_parts(folder)
    lost = (folder / CHECKPOINT).exists() and bool(identities.checkpoint_damage(cell, root))
    if lost:
        (folder / CHECKPOINT).replace(folder / f"{CHECKPOINT}.damaged")
    # scores of another network, or of one that nothing vouches for
    if differences or described is None or (cell.settings is not None and not (folder / CHECKPOINT).exists()):
        (folder / RESULT).unlink(missing_ok=True)


def _describe(config: BenchConfig, identities: Identities, cell: Cell, folder: Path) -> None:
    """Write the resolved config before the first step, so that a folder always says what it holds."""
    content = {
        "identity": identities.training(cell), "kind": cell.kind, "method": cell.method, "seed": cell.seed,
        "needs": cell.needs,
        "test_time": next(iter(cell.scoring.values()))["test_time"] if cell.scoring else None,
        "training": cell.training,
    }  # fmt: skip
    _write(folder / DESCRIPTION, json.dumps(content, indent=2))
    write_config(config, folder)


def write_config(config: BenchConfig, folder: Path) -> None:
    """Write the resolved config into a cell's folder."""
    _write(folder / CONFIG, yaml.safe_dump(config.resolved(), sort_keys=False))


def _run(
    config: BenchConfig,
    identities: Identities,
    cell: Cell,
    root: Path,
    claim: Claim,
    progress: Progress | None,
    extend: bool,
    on_step: OnStep | None,
    stop: Callable[[], bool] | None,
) -> None:
    folder = root / cell.name
    started, result = time.perf_counter(), read_result(folder)
    missing = list(identities.missing_scores(cell, result, folder))
    datasets = {domain: build.open_dataset(config.domains[domain], config.space) for domain in missing}
    if cell.settings is not None:
        share_first(lambda: missing)
    _reset_peak()
    measured: dict[str, Any] = {}
    scored: dict[str, Evaluation] = {}
    if cell.kind == "test_time":
        network = next(iter(_scoring(cell).values())).model
        model = load_model(root / cell.needs[0], network).to(build.open_device(config.settings.device))
    else:
        clock = _Clock(progress)
        trainer = _train(config, cell, root, folder, datasets, clock, extend, on_step, stop)
        model, scored = trainer.scored, trainer.evaluations if _plain(cell) else {}
        seconds = clock.seconds(trainer.settings) or (result or {}).get("seconds_per_step")
        waited = (result or {}).get("waited_for_data") if trainer.waited is None else trainer.waited
        measured = {"seconds_per_step": seconds, "device": str(trainer.device), "processes": trainer.world}
        measured["waited_for_data"] = waited
        if config.target_val is None and cell.kind == "train":
            spec = config.evaluate_of(config.methods[cell.method])
            measured["label_free"] = label_free.look(config, spec, model, folder, trainer.settings.precision)
    # a call that only scored would report too little
    measured["peak_memory"] = max(_peak(), (result or {}).get("peak_memory", 0))
    for domain, dataset in datasets.items():
        evaluation = _score(config, cell, model, domain, dataset, folder, scored.get(domain))
        claim.check()
        evaluation.save(evaluation_file(folder, domain))
    steps = cell.settings.steps if cell.settings else 0
    device = measured.pop("device", None) or str(next(model.parameters()).device)
    maps = (result or {}).get("label_maps", {}) | {name: _label_map(dataset) for name, dataset in datasets.items()}
    content = {
        "method": cell.method, "seed": cell.seed, "kind": cell.kind, "steps": steps,
        "seconds_per_step": None, "waited_for_data": None, **measured,
        "seconds": time.perf_counter() - started, "device": device, "machine": machine(),
        "threads": torch.get_num_threads(), "versions": versions(), "commit": commit(), "date": now(),
        "scores": identities.scores(cell),
        "label_maps": maps,
        "data": (result or {}).get("data", {}) | {name: _about(dataset) for name, dataset in datasets.items()},
    }  # fmt: skip
    claim.check()
    _write(folder / RESULT, json.dumps(content, indent=2))


def share_cell(
    config: BenchConfig,
    cells: list[Cell],
    cell: Cell,
    root: Path,
    extend: bool = False,
    stop: Callable[[], bool] | None = None,
) -> None:
    """Train a cell together with the process that is in :func:`run_cell`, which alone writes and scores the rest."""
    folder = root / cell.name
    missing: list[str] = share_first(list)
    datasets = {domain: build.open_dataset(config.domains[domain], config.space) for domain in missing}
    with contextlib.suppress(_Stopped):
        _train(config, cell, root, folder, datasets, iter, extend, None, stop)


def _train(
    config: BenchConfig,
    cell: Cell,
    root: Path,
    folder: Path,
    datasets: dict[str, LabelledDataset],
    progress: Progress,
    extend: bool,
    on_step: OnStep | None,
    stop: Callable[[], bool] | None,
) -> Trainer:
    if cell.settings is None:
        raise ValueError(f"{cell.name} does not train")
    space, balance = build.build_space(config.space), config.balance
    model = build.build_segmenter(cell.training["model"], space.num_classes, cell.seed)
    if cell.needs and not (folder / CHECKPOINT).is_file():
        model.load_state_dict(checkpoint.load(root / cell.needs[0] / CHECKPOINT)["model"])
    source = build.open_source(config.source, config.space, balance)
    target = build.open_dataset(config.target, config.space)
    labels = cell.training.get("labels")
    if labels == "target":
        source = target
    elif labels == "both":
        source = build.open_source([*config.source, config.target], config.space, balance)
    together = Processes.current()
    if together is not None and together.rank > 0:
        together.wait()  # until the first has written which images it chose
    source = with_labels(config, cell, root, folder, source, target)
    if together is not None and together.rank == 0:
        together.wait()
    methods: list[Any] = [build_method(spec) for spec in cell.training["methods"]]
    # scored by the trainer, where it does so as the config says, so that the scores stand in the run's TensorBoard too
    watched = datasets if cell.settings.eval_every or _plain(cell) else {}
    scoring = _scoring(cell)
    settings, along = _along(config, cell, cell.settings)

    def tell(update: Update, logs: Mapping[str, torch.Tensor]) -> None:
        if on_step is not None:
            on_step(update.index, settings.steps, losses_of(logs))
        if stop is not None and update.index < settings.steps and _any_says(stop):
            trainer.save()
            raise _Stopped

    trainer = Trainer(
        model, methods, settings, out=folder, evaluate_on=watched, evaluate_along=along, progress=progress,
        inference=scoring, on_step=tell,
        score=next((options.model for options in scoring.values()), "student"),
        labelled=_called(cell),
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CropWarning)  # it is said once for all cells
        trainer.fit(source, target.unlabelled(), extend=extend)
    return trainer


def share_first(value: Callable[[], T]) -> T:
    """What the first of the processes that train together gives."""
    together = Processes.current()
    return value() if together is None else together.first(value)


def _any_says(stop: Callable[[], bool]) -> bool:
    """Whether one of the processes that train together is to stop: all then do, after the same step."""
    together = Processes.current()
    return stop() if together is None else any(together.any([stop()]))


def _called(cell: Cell) -> str:
    """What the labelled images of a cell are."""
    labels = "both" if "target_labels" in cell.training else cell.training.get("labels")
    return {"target": "labelled target", "both": "source and labelled target"}.get(labels or "", "source")


def _along(config: BenchConfig, cell: Cell, settings: Settings) -> tuple[Settings, dict[str, LabelledDataset] | None]:
    """The settings with how often a curve gets a point, and the images of these points; ``None`` without such."""
    if config.curves is None or settings.eval_every or "target" not in cell.scoring:
        return settings, None
    some = Spaced(build.open_dataset(config.domains["target"], config.space), config.curves.images)
    every = -(-settings.steps // config.curves.points)
    return settings.model_copy(update={"eval_every": every}), {"target": cast(LabelledDataset, some)}


def _scoring(cell: Cell) -> dict[str, Scoring]:
    """By domain: how a cell is scored."""
    return {domain: Scoring.model_validate(content["evaluate"]) for domain, content in cell.scoring.items()}


def _plain(cell: Cell) -> bool:
    """Whether a cell is scored just as the trainer does it."""
    one_by_one = all(options.batch_size == 1 for options in _scoring(cell).values())
    return one_by_one and all(content["test_time"] is None for content in cell.scoring.values())


class _Clock:
    """Times the training steps behind a progress bar."""

    def __init__(self, progress: Progress | None) -> None:
        self.progress = progress
        self.times: dict[int, float] = {}

    def __call__(self, steps: Iterable[int]) -> Iterator[int]:
        for index in self.progress(steps) if self.progress else steps:
            started = time.perf_counter()
            yield index
            self.times[index] = time.perf_counter() - started

    def seconds(self, settings: Settings) -> float | None:
        """Mean over the steps, but for the first of this call and those with an evaluation; ``None`` without any."""
        every = settings.eval_every or settings.steps
        durations = [
            duration
            for index, duration in list(self.times.items())[1:]
            if (index + 1) % every and index + 1 < settings.steps
        ]
        return sum(durations) / len(durations) if durations else (min(self.times.values()) if self.times else None)


def _label_map(dataset: LabelledDataset) -> list[str]:
    """How the files' classes became the config's, where that is more than their names."""
    lines: list[str] = dataset.mapping.lines() if isinstance(dataset, FileDataset) else []
    return [line for line in lines if len({part.strip() for part in line.split("<-")}) > 1]


def _about(dataset: LabelledDataset) -> dict[str, Any]:
    """What a table says of an evaluation set: its images' sizes, which are of one recording, if they are procedural."""
    sizes = image_sizes(dataset)
    sequences = getattr(dataset, "sequences", None) or [str(index) for index in range(len(dataset))]
    about = {"sizes": [f"{height}x{width}" for height, width in sorted(set(sizes))], "sequences": sequences}
    return {**about, "origin": ["procedural"]} if is_procedural(getattr(dataset, "root", "")) else about


def _score(
    config: BenchConfig,
    cell: Cell,
    model: nn.Module,
    domain: str,
    dataset: LabelledDataset,
    folder: Path,
    done: Evaluation | None,
) -> Evaluation:
    """Score one domain unless it is ``done``, with a fresh test-time method where the row has one; keep pictures."""
    content, options = cell.scoring[domain], _scoring(cell)[domain]
    precision = (cell.settings or config.settings).precision
    source = build.open_source(config.source, config.space)
    model.eval()
    spec, statistics = content["test_time"], domain_statistics(domain)
    with normalising(model, statistics):
        images = ResizedImages(adaptation_images(config, domain, dataset), options) if spec else None
        wrapped = attach(spec, model, source, images)
        try:
            evaluation = done or evaluate(
                wrapped,
                dataset,
                batch_size=options.batch_size,
                inference=options,
                precision=precision,
                domain=statistics,
            )
            _pictures(wrapped, dataset, folder / "pictures", domain, options, precision)
        finally:
            if isinstance(wrapped, TestTimeMethod):
                wrapped.detach_model()
    return evaluation


def _pictures(
    model: nn.Module, dataset: LabelledDataset, folder: Path, domain: str, inference: Inference, precision: str
) -> None:
    """Keep the predicted train ids of a few images, evenly spaced, as grey PNGs."""
    for index in picture_indices(len(dataset)):
        image = dataset[index].image.permute(1, 2, 0).numpy()
        labels = label_map(model, image, inference, precision=precision)
        write_image(folder / f"{domain}_{index}.png", labels)


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as file:
        file.write(text + "\n")


def _reset_peak() -> None:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return
    # Linux: resets the peak of this process, which may have run other cells before; elsewhere it stays theirs
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak() -> int:
    """Peak memory in bytes: allocated on the GPU, else resident in this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    with contextlib.suppress(OSError):
        match = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
        if match:
            return int(match[1]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
