"""What a benchmark will cost on this machine, from measured pieces: seconds, memory and disk, cell by cell.

Every row is run three times with one seed, through the very code that will run it, much shorter and into a folder of
its own: with few steps, with more, and with more images to score. Seconds are linear in both, so that

    seconds of a cell = start + steps * seconds of a step + pixels scored * seconds of a scored pixel

What long runs do more or less often than short ones is measured apart: checkpoints and the scores of a curve are added,
and the decoding of images that a cache will hold is taken off; it then counts once for each worker. Work that comes at
fixed step numbers (not at shares of the run) and later than a short run ends is not seen.
"""

from __future__ import annotations

import heapq
import json
import math
import shutil
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from uda.bench import build
from uda.bench.plan import Cell, make_plan
from uda.bench.ranks import is_launched, join
from uda.bench.run import run
from uda.bench.stored import read_result
from uda.bench.work import Event, only_warn
from uda.config import BenchConfig, ConfigError
from uda.config.records import DatasetSpec, MethodEntry
from uda.engine import checkpoint, launch
from uda.models.pretrained import CHECKPOINT

STEPS = (4, 24)
"""Of the short runs: few and more."""
IMAGES = (2, 10)
"""Of each domain that the short runs score."""
LOOKS = 5
"""Images whose decoding is timed."""


@dataclass(frozen=True)
class CellCost:
    """What one cell takes."""

    name: str
    needs: tuple[str, ...]
    start: float
    """Seconds before the first step and after the last, without scores."""
    step: float
    """Seconds of a step."""
    steps: int
    scoring: float
    """Seconds of all scores, those of a curve too."""
    saving: float
    """Seconds of all checkpoints but the last."""
    decoding: float
    """Seconds of decoding images that a cache will hold, which are in ``step``; counted off."""
    memory: int
    """Bytes at its peak."""
    disk: int
    """Bytes that it leaves on disk, of its checkpoint."""
    launch: float = 0.0
    """Seconds in which the processes that train it together start, before what a cell itself takes."""

    @property
    def seconds(self) -> float:
        """Of the whole cell, once its processes are there."""
        return max(0.0, self.start + self.step * self.steps + self.scoring + self.saving - self.decoding)


class Costs(NamedTuple):
    """What a benchmark takes."""

    cells: list[CellCost]
    """Of one seed."""
    once: float
    """Seconds that each worker decodes images for that its cache then holds."""


def measure_costs(
    config: BenchConfig,
    folder: Path,
    *,
    workers: int = 1,
    processes: int = 1,
    methods: Collection[str] | None = None,
    report: Callable[[Event], None] = only_warn,
) -> Costs:
    """Measure the pieces and put them together, for every cell of one seed; the other seeds cost the same.

    Args:
        config: the benchmark.
        folder: for the short runs; deleted before and afterwards.
        workers: cells side by side, as the benchmark will have them: cells that share cores and memory are slower.
        processes: that train each cell together, as the benchmark's will be.
        methods: only these rows, and what they start from.
        report: told what the short runs do.

    Raises:
        ConfigError: the config is wrong, or a short run failed (the message names the cell and the reason), or this is
            one of a launcher's processes.
        DataError: a data set is missing or damaged.
    """
    if is_launched():
        raise ConfigError("costs are measured by processes of its own (--processes), not under a launcher (torchrun)")
    shutil.rmtree(folder, ignore_errors=True)
    variants = [(STEPS[0], IMAGES[0]), (STEPS[1], IMAGES[0]), (STEPS[0], IMAGES[1])]
    places, counts = [], []
    for number, (steps, scored_images) in enumerate(variants):
        short = shortened(config, steps, scored_images)
        result = run(
            short, out=folder / str(number), workers=workers, processes=processes, methods=methods, report=report
        )
        for name, reason in result.failed.items():
            raise ConfigError(f"{config.name}: {name} fails after {steps} steps: {reason}")
        places.append(result.folder)
        counts.append(_pixels(short))
    plan = {cell.name: cell for cell in make_plan(config, methods, config.seeds[:1])}
    whole, images = _pixels(config), _decoded_images(config)
    runs = {name: [read_result(place / name) or {} for place in places] for name in plan}
    per_pixel = _scoring_seconds(plan, runs, counts[2] - counts[0])
    launching = _launch_seconds(processes, config)
    costs = []
    for name, cell in plan.items():
        few = runs[name][0]
        per_step = 0.0 if cell.settings is None else _step_seconds(*runs[name][:2])
        fixed = few["seconds"] - per_step * (STEPS[0] if cell.settings else 0) - per_pixel[name] * counts[0]
        looked_at = whole + _curve_pixels(config, cell, whole) if cell.scoring else 0.0
        saves, saved = _checkpoint(places[0] / name)
        costs.append(
            CellCost(
                name, cell.needs, max(0.0, fixed), per_step, cell.settings.steps if cell.settings else 0,
                per_pixel[name] * looked_at, saves * _checkpoints(cell), _decoding(config, cell, images),
                max(short["peak_memory"] for short in runs[name]), saved, launching if cell.settings else 0.0,
            )
        )  # fmt: skip
    shutil.rmtree(folder, ignore_errors=True)
    return Costs(costs, sum(count * seconds for count, seconds in images))


def shortened(config: BenchConfig, steps: int, images: int) -> BenchConfig:
    """The same benchmark with one seed, so many steps, and so many scored images of each domain at most."""

    def fewer(spec: DatasetSpec | None) -> DatasetSpec | None:
        if spec is None or ":" in spec.kind:  # another's class may know no limit, and is scored whole
            return spec
        limit = spec.arguments.get("limit")
        return spec.model_copy(update={"limit": images if limit is None else min(images, limit)})

    def shorter(settings: Any) -> Any:
        changes = {"steps": steps, "checkpoint_every": steps, "eval_every": 0, "image_every": 0}
        return None if settings is None else settings.model_copy(update=changes)

    def as_often(entry: MethodEntry) -> MethodEntry:
        settings = {key: value for key, value in entry.settings.items() if key not in _HOW_OFTEN}
        return entry.model_copy(update={"settings": settings})

    return config.model_copy(
        update={
            "seeds": config.seeds[:1], "curves": None, "settings": shorter(config.settings),
            "warm_start": shorter(config.warm_start), "source_val": fewer(config.source_val),
            "target_val": fewer(config.target_val),
            "unseen": {name: fewer(spec) for name, spec in config.unseen.items()},
            "source": [_uncached(spec) for spec in config.source], "target": _uncached(config.target),
            "methods": {name: as_often(entry) for name, entry in config.methods.items()},
        }
    )  # fmt: skip


_HOW_OFTEN = {"checkpoint_every", "eval_every", "image_every"}


def wall_seconds(costs: Sequence[CellCost], seeds: int, workers: int, once: float = 0.0) -> float:
    """Seconds until all cells of all seeds are done by so many workers, each taking the next that is ready.

    Args:
        costs: of one seed's cells.
        seeds: how many.
        workers: that take cells.
        once: seconds that each worker needs before its first cell (images that go into its cache).

    Example:
        >>> first = CellCost("warm_start/seed0", (), 1, 0.1, 90, 0, 0, 0, 0, 0)
        >>> row = CellCost("a/seed0", ("warm_start/seed0",), 1, 0.1, 40, 0, 0, 0, 0, 0)
        >>> wall_seconds([first, row], seeds=2, workers=1), wall_seconds([first, row], seeds=2, workers=8)
        (30.0, 15.0)
    """
    ready_at = {(seed, cost.name): 0.0 for seed in range(seeds) for cost in costs if not cost.needs}
    waiting = {(seed, cost.name): cost for seed in range(seeds) for cost in costs}
    free = [once] * workers
    while waiting:
        ready = [(ready_at[key], key) for key in waiting if key in ready_at]
        begins, key = min(ready)
        cost = waiting.pop(key)
        ended = max(heapq.heappop(free), begins) + cost.launch + cost.seconds
        heapq.heappush(free, ended)
        for other, after in waiting.items():
            if other[0] == key[0] and key[1] in after.needs:
                ready_at[other] = ended  # no cell starts from more than one other
    return max(free)


def taken(cost: CellCost, folder: Path, seeds: Sequence[int]) -> float | None:
    """Mean seconds of the cells of a row that are done in a benchmark's folder; ``None`` without any."""
    row = cost.name.rpartition("/")[0]
    results = [read_result(folder / row / f"seed{seed}") for seed in seeds]
    done: list[float] = [result["seconds"] for result in results if result is not None]
    return sum(done) / len(done) if done else None


def _launch_seconds(processes: int, config: BenchConfig) -> float:
    """Until processes that train together have started and met; none where a cell needs no new ones."""
    if processes == 1:
        return 0.0
    started = time.perf_counter()
    launch(processes, _meet, config.settings.device)
    return time.perf_counter() - started


def _meet(device: str | None) -> None:
    together = join(device)
    if together is not None:
        together.wait()


def _step_seconds(few: dict[str, Any], more: dict[str, Any]) -> float:
    """Of a step in a long run, from the mean of two short ones, which leave out the first step and the scored last.

    What a method does at shares of the run (rounds of labels) takes the same in both, and is taken out of the mean.
    """
    few_sum, more_sum = (run["seconds_per_step"] * (steps - 2) for run, steps in zip((few, more), STEPS, strict=True))
    difference: float = more_sum - few_sum
    return max(0.0, difference / (STEPS[1] - STEPS[0]))


def _scoring_seconds(
    plan: Mapping[str, Cell], runs: Mapping[str, Sequence[dict[str, Any]]], pixels: float
) -> dict[str, float]:
    """By cell: seconds of a scored pixel, the median over the cells that are scored alike."""
    slopes: dict[str, list[float]] = {}
    alike = {
        name: json.dumps([cell.scoring, cell.training.get("model")], sort_keys=True) for name, cell in plan.items()
    }
    for name, cell in plan.items():
        few, _, scored = runs[name]
        # where the short runs score all there is, it is in what is fixed
        slope = (scored["seconds"] - few["seconds"]) / pixels if cell.scoring and pixels > 0 else 0.0
        slopes.setdefault(alike[name], []).append(slope)
    return {name: max(0.0, median(slopes[alike[name]])) for name in plan}


def _pixels(config: BenchConfig) -> float:
    """Pixels of all images that a cell scores."""
    return float(sum(len(dataset) * _size(dataset) for dataset in _scored(config).values()))


def _scored(config: BenchConfig) -> dict[str, Any]:
    return {name: build.open_dataset(spec, config.space) for name, spec in config.domains.items()}


def _size(dataset: Any) -> float:
    """Pixels of an image."""
    return float(math.prod(dataset[0].image.shape[-2:]))


def _curve_pixels(config: BenchConfig, cell: Cell, whole: float) -> float:
    """Pixels that a cell scores on its way; ``whole`` are those that it scores at its end."""
    if cell.settings is None:
        return 0.0
    if cell.settings.eval_every:
        return whole * ((cell.settings.steps - 1) // cell.settings.eval_every)
    if config.curves is None or config.target_val is None:
        return 0.0
    target = build.open_dataset(config.target_val, config.space)
    return config.curves.points * min(config.curves.images, len(target)) * _size(target)


def _checkpoints(cell: Cell) -> int:
    """How many checkpoints a cell writes before its last."""
    return 0 if cell.settings is None else (cell.settings.steps - 1) // cell.settings.checkpoint_every


def _checkpoint(folder: Path) -> tuple[float, int]:
    """Seconds in which a cell's checkpoint is written, and its bytes; zeros where there is none."""
    path = folder / CHECKPOINT
    if not path.is_file():
        return 0.0, 0
    state = checkpoint.load(path)
    started = time.perf_counter()
    checkpoint.save(state, path)
    return time.perf_counter() - started, path.stat().st_size


def _decoding(config: BenchConfig, cell: Cell, images: Sequence[tuple[int, float]]) -> float:
    """Seconds that a cell would decode images for, if none of them were in a cache."""
    if cell.settings is None:
        return 0.0
    draws = cell.settings.steps * cell.settings.batch_size * cell.settings.accumulate
    *sources, (_, target) = images
    every = sum(count for count, _ in sources)
    both = sum(draws * count / every * seconds for count, seconds in sources)
    return both if cell.kind == "warm_start" else both + draws * target


def _decoded_images(config: BenchConfig) -> list[tuple[int, float]]:
    """Of each source and of the target: how many images, and seconds of decoding one; 0 where there is no cache."""
    images = []
    for at, spec in enumerate((*config.source, config.target)):
        plain, cached = (build.open_dataset(each, config.space) for each in (_uncached(spec), spec))
        looks: list[Any] = [plain, cached] if at < len(config.source) else [plain.unlabelled(), cached.unlabelled()]
        differences = []
        for index in range(min(LOOKS, len(plain)) if "cache" in spec.arguments else 0):
            for dataset in looks:
                dataset[index]  # into the cache, the plain one's file into the system's
            first, second = (_timed(dataset, index) for dataset in looks)
            differences.append(first - second)
        images.append((len(plain), max(0.0, median(differences or [0.0]))))
    return images


def _timed(dataset: Any, index: int) -> float:
    started = time.perf_counter()
    dataset[index]
    return time.perf_counter() - started


def _uncached(spec: DatasetSpec) -> DatasetSpec:
    return DatasetSpec.model_validate({k: v for k, v in spec.model_dump(mode="json").items() if k != "cache"})
