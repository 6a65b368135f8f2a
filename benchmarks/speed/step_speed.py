"""The update's step beside a bare loop of the same maths, and the memory of composed runs, in one process.

    python benchmarks/speed/step_speed.py [--repeat 30] [--height 96] [--width 192] [--device cpu] [--only fda]

The bare loop (``bare_loop.py``) makes the forward and backward passes, losses and updates that a composition's papers
ask for. Both start from equal weights and draw equal random numbers; before anything is timed, two steps of both must
end at the same weights. Trainer and loop then alternate, so that a busy machine slows both; ratios are medians over
pairs of processor time (wall clock on a GPU), and ratios of minima.

Memory is the peak of what tensors hold during a step, model and optimisers included (allocated blocks on a GPU),
counted over every operation. It is measured at a larger size, where activations outweigh weights as in training.
Exit code 1 if a limit is missed: 1.05 for time, 1.10 for memory against the most expensive method of the run alone.
"""

from __future__ import annotations

import argparse
import os
import statistics
import weakref
from collections.abc import Callable
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from bare_loop import CLASSES, Bare
from measuring import Noise, clock
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from uda.data import CITYSCAPES19
from uda.engine import Update, constant, segmenter_optimizer
from uda.methods import CBST, FDA, MIC, AdvEnt, ClassMix, MinEnt, Supervised
from uda.methods.base import Method
from uda.models import Segmenter
from uda.types import IGNORE, Sample, TaskSpec, TeacherSpec, View

TIME_LIMIT, MEMORY_LIMIT = 1.05, 1.10
MAKE: dict[str, Callable[[], Method]] = {
    "supervised": Supervised,
    "fda": FDA,
    "minent": MinEnt,
    "advent": AdvEnt,
    "classmix": lambda: ClassMix(blur_probability=1.0, jitter_probability=1.0),
    "mic": lambda: MIC(blur_probability=1.0, jitter_probability=1.0),
    "cbst": CBST,
}
RUNS = (
    ("supervised",),
    ("supervised", "minent"),
    ("supervised", "fda", "minent"),
    ("supervised", "advent"),
    ("supervised", "cbst"),
    ("supervised", "classmix"),
    ("supervised", "mic"),
    ("supervised", "fda", "advent", "classmix"),
    ("supervised", "fda", "advent", "minent", "classmix", "mic"),
)


class SmoothNoise(Noise):
    """Images of smooth noise with labels in blocks, some of which have none."""

    def __init__(self, name: str, size: tuple[int, int], seed: int) -> None:
        super().__init__(name, size)
        self.seed = seed

    def __getitem__(self, index: int) -> Sample:
        generator = torch.Generator().manual_seed(100 * self.seed + index)
        coarse = torch.rand(1, 3, 6, 12, generator=generator)
        blocks = torch.randint(0, CLASSES + 1, (1, 1, 4, 8), generator=generator)
        image = F.interpolate(coarse, self.size, mode="bilinear")[0]
        label = F.interpolate(blocks.float(), self.size)[0, 0].long()
        return Sample((image * 255).byte(), torch.where(label == CLASSES, IGNORE, label), f"{self.name}/{index}")


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the tensors that operations made and that still live."""

    def __init__(self, alive: int) -> None:
        super().__init__()
        self.now = self.peak = alive
        self.seen: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        known = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._add(leaf.untyped_storage(), known)
        return out

    def _add(self, storage: torch.UntypedStorage, known: set[int]) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self.seen or key in known:
            return

        def gone(_: Any) -> None:
            self.now -= size
            del self.seen[key]

        self.seen[key] = weakref.ref(storage, gone)
        self.now += size
        self.peak = max(self.peak, self.now)


def held(update: Update) -> int:
    """Bytes of a run's networks, buffers, gradients and optimisers."""
    modules: list[nn.Module] = [update.model, *update.methods, *([update.teacher] if update.teacher else [])]
    tensors = [t for module in modules for t in (*module.parameters(), *module.buffers())]
    tensors += [p.grad for p in tensors if p.grad is not None]
    states = [state for o in (update.optimizer, *update.own_optimizers.values()) for state in o.state.values()]
    tensors += [t for state in states for t in state.values() if torch.is_tensor(t)]
    return sum(
        storage.nbytes() for storage in {t.untyped_storage()._cdata: t.untyped_storage() for t in tensors}.values()
    )


def build(names: tuple[str, ...], size: tuple[int, int], device: str) -> tuple[Update, dict[str, View]]:
    """An update that is ready for its second step (CBST's label maps are made before the first), and a batch."""
    torch.manual_seed(0)
    model = Segmenter(CLASSES, weights=None)
    update = Update(
        model,
        [MAKE[name]() for name in names],
        total_steps=100_000,
        optimizer=segmenter_optimizer(model, lr=1e-4, head_multiplier=1.0),
        schedule=constant(),
        teacher=TeacherSpec() if {"classmix", "mic"} & set(names) else None,
        device=device,
    )
    source, target = SmoothNoise("source", size, 1), SmoothNoise("target", size, 2)
    update.setup(TaskSpec.of(model, CITYSCAPES19, source=source, target=target))
    update.index = 1
    for method in update.methods:
        if isinstance(method, CBST):
            method.maps.fill(target[index].label[None].byte() for index in range(len(target)))
    return update, {"source": source.view().to(device), "target": target.view(labelled=False).to(device)}


def measure(names: tuple[str, ...], size: tuple[int, int], device: str, repeat: int) -> list[tuple[float, float]]:
    """Pairs of times in milliseconds (update, bare loop).

    Raises:
        SystemExit: the two do not train alike.
    """
    update, views = build(names, size, device)
    bare = Bare(update, names)
    pairs = []
    for index in range(1, repeat + 3):
        # as the trainer does, every tenth step is logged
        calls = [lambda i=index: update(views, log=i % 10 == 0), lambda i=index: bare.step(i, views)]
        times = [0.0, 0.0]
        for which in (0, 1) if index % 2 else (1, 0):
            torch.manual_seed(index)  # dropout
            times[which] = 1e3 * clock(device, calls[which])
        if index <= 2:
            for (name, mine), theirs in zip(update.model.named_parameters(), bare.model.parameters(), strict=True):
                if not torch.allclose(mine, theirs, rtol=1e-3, atol=1e-5):
                    raise SystemExit(f"{names}: {name} differs from the bare loop's by {(mine - theirs).abs().max()}")
        else:
            pairs.append((times[0], times[1]))
    return pairs


def peak_memory(names: tuple[str, ...], size: tuple[int, int], device: str) -> int:
    """Peak bytes of a run's second step; the first, on a corner of the images, makes the optimisers' state."""
    update, views = build(names, size, device)
    update({name: corner(view) for name, view in views.items()})
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        update(views)
        return torch.cuda.max_memory_allocated()
    with LiveBytes(held(update)) as live:
        update(views)
    return live.peak


def corner(view: View, side: int = 64) -> View:
    """The top left of every image."""
    labels = None if view.labels is None else view.labels[:, :side, :side]
    windows = tuple(window._replace(height=side, width=side) for window in view.windows)
    return View(view.images[..., :side, :side], labels, None, view.names, windows)


def main() -> None:
    """Measure every run and print the tables; exit 1 if a limit is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    numbers = (("repeat", 30), ("height", 96), ("width", 192), ("memory-height", 256), ("memory-width", 512))
    for name, default in numbers:
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", default="", help="runs with this method only")
    parser.add_argument("--skip", choices=("time", "memory", ""), default="")
    args = parser.parse_args()
    torch.set_num_threads(1)
    runs = [names for names in RUNS if not args.only or args.only in names]
    missed = 0
    if args.skip != "time":
        missed += times_table(runs, (args.height, args.width), args.device, args.repeat)
    if args.skip != "memory":
        missed += memory_table(runs, (args.memory_height, args.memory_width), args.device)
    raise SystemExit(1 if missed else 0)


def times_table(runs: list[tuple[str, ...]], size: tuple[int, int], device: str, repeat: int) -> int:
    """Print the times; how many limits were missed."""
    table = Table(title=f"a step, batch 2, {size[0]} x {size[1]}, {device}, {repeat} repetitions", title_justify="left")
    for heading in ("methods", "update ms", "bare ms", "median ratio", "minima", "limit", ""):
        table.add_column(heading, justify="left" if heading == "methods" else "right")
    missed = 0
    for names in runs:
        pairs = measure(names, size, device, repeat)
        ours, bare = zip(*pairs, strict=True)
        ratio, minima = statistics.median(a / b for a, b in pairs), min(ours) / min(bare)
        good = ratio <= TIME_LIMIT
        missed += not good
        cells = (f"{statistics.median(ours):.1f}", f"{statistics.median(bare):.1f}", f"{ratio:.3f}", f"{minima:.3f}")
        table.add_row(" + ".join(names), *cells, f"{TIME_LIMIT:.2f}", "ok" if good else "MISSED")
    Console(width=130).print(table)
    return missed


def memory_table(runs: list[tuple[str, ...]], size: tuple[int, int], device: str) -> int:
    """Print the peaks; how many limits were missed."""
    table = Table(title=f"peak memory of a step, batch 2, {size[0]} x {size[1]}, {device}", title_justify="left")
    for heading in ("methods", "MB", "most expensive alone", "MB ", "ratio", "limit", ""):
        table.add_column(heading, justify="left" if heading in ("methods", "most expensive alone") else "right")
    alone = {name: peak_memory((name,), size, device) for name in dict.fromkeys(n for names in runs for n in names)}
    missed = 0
    for names in runs:
        if len(names) == 1:
            continue
        peak, worst = peak_memory(names, size, device), max(names, key=lambda name: alone[name])
        ratio = peak / alone[worst]
        good = ratio <= MEMORY_LIMIT
        missed += not good
        cells = (f"{peak / 1e6:.0f}", worst, f"{alone[worst] / 1e6:.0f}", f"{ratio:.3f}", f"{MEMORY_LIMIT:.2f}")
        table.add_row(" + ".join(names), *cells, "ok" if good else "MISSED")
    Console(width=130).print(table)
    return missed


if __name__ == "__main__":
    main()
