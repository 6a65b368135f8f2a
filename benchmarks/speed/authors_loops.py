"""The authors' training loops and test-time classes beside ours, on the same network and images, one CPU thread.

    for repo in valeoai/ADVENT RoyalVane/CLAN ZJULearning/MaxSquareLoss vikolss/DACS DequanWang/tent qinenergy/cotta
    do git clone --depth 1 https://github.com/$repo authors/${repo#*/}; done
    pip install --no-deps --target kornia_site kornia kornia_rs  # for DACS, no dependency of uda
    PYTHONPATH=kornia_site python benchmarks/speed/authors_loops.py --authors authors [--only advent,clan]
        [--height 128 --width 256] [--steps 3] [--network resnet101|small]

Their own code runs (``authors_code.py``), held before every step; steps of both alternate, so that a busy machine slows
both. Times are medians of processor time, the first step left out; memory is the peak in a second step of all tensors
that live, the networks' and optimisers' included, counted over every operation as in ``step_speed.py``. In the first
two steps the losses that the authors' code prints must be ours within 2 % (with ``resnet101`` in the first step, as its
random weights blow rounding up; in float64 the second step's are equal too). For that both resize logits there with
``align_corners=False`` and move each parameter once: the authors' optimisers list most of the network's three times and
step over them as often. Timed is what they do. A limit is 1.05 for time and for memory; exit code 1 where one
is missed, or where losses differ. The last table has the floating point operations of a step over the speed of a large
matrix product on the same thread.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import statistics
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from authors_code import CASES, CHECKED, Case, Enough, Scene, without_gpu
from measuring import clock
from rich.console import Console
from rich.table import Table
from step_speed import LiveBytes, SmoothNoise
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

LIMIT = 1.05
TOLERANCE = 0.02
NETWORKS = {"resnet101": (3, 4, 23, 3), "small": (1, 1, 1, 1)}


class Measured(NamedTuple):
    """Of one loop: peak bytes, operations of a step, and the losses of each checked step."""

    peak: int
    operations: int
    losses: list[Mapping[str, float]]


class Turns:
    """A function in a thread of its own that goes on by one step at a time."""

    def __init__(self, run: Callable[[Callable[[], None]], None]) -> None:
        self.go, self.done = threading.Semaphore(0), threading.Semaphore(0)
        self.ended, self.error = False, None
        self.thread = threading.Thread(target=self._run, args=(run,), daemon=True)
        self.thread.start()
        self._wait()

    def _run(self, run: Callable[[Callable[[], None]], None]) -> None:
        torch.set_num_threads(1)
        try:
            run(self._before)
        except Enough:
            pass
        except BaseException as error:
            self.error = error
        self.done.release()

    def _before(self) -> None:
        if not self.ended:
            self.done.release()
            self.go.acquire()
        if self.ended:
            raise Enough

    def _wait(self) -> None:
        self.done.acquire()
        if self.error is not None:
            raise self.error

    def step(self) -> None:
        """Let it make a step."""
        self.go.release()
        self._wait()

    def end(self) -> None:
        """Let it go."""
        self.ended = True
        self.step()
        self.thread.join()


@contextmanager
def alike() -> Iterator[None]:
    """Inside, all bilinear resizing is about the centres of pixels, and an optimiser moves each parameter once."""
    resize, add = F.interpolate, torch.optim.Optimizer.add_param_group

    def resize_about_centres(input: Any, *args: Any, **kwargs: Any) -> Any:
        args = args[:3]  # the authors' layers give align_corners by its place
        kwargs.pop("align_corners", None)
        kwargs.pop("recompute_scale_factor", None)
        mode = kwargs.get("mode", args[2] if len(args) > 2 else "nearest")
        return resize(input, *args, **kwargs, align_corners=False if mode == "bilinear" else None)

    def add_each_once(self: Any, group: dict[str, Any]) -> None:
        add(self, {**group, "params": list(dict.fromkeys(group["params"]))})

    with (
        patch.object(F, "interpolate", resize_about_centres),
        patch.object(torch.optim.Optimizer, "add_param_group", add_each_once),
    ):
        yield


def checked(case: Case) -> tuple[Measured, Measured]:
    """Both from nothing: operations of the first step, memory of the second, losses of both."""
    with alike():
        with LiveBytes(0) as live, redirect_stdout(io.StringIO()) as text:
            theirs = Watch(live, text)
            with suppress(Enough):
                case.theirs(theirs.before)
        numbers = [{name: float(value) for name, value in PRINTED.findall(part)} for part in theirs.texts[1:]]
        with LiveBytes(0) as live:
            ours = Watch(live, io.StringIO())
            step = case.ours()
            read = []
            for _ in range(CHECKED):
                ours.before()
                read.append(case.read(step()))
    return Measured(theirs.live.peak, theirs.operations, numbers), Measured(live.peak, ours.operations, read)


class Watch:
    """Called before every step: counts the operations of the first and the memory of the last that is checked."""

    def __init__(self, live: LiveBytes, text: io.StringIO) -> None:
        self.live, self.text = live, text
        self.texts: list[str] = []
        self.counter = FlopCounterMode(display=False)
        self.operations = 0

    def before(self) -> None:
        """A step is over, or building is."""
        if len(self.texts) > CHECKED:
            raise Enough
        self.texts.append(self.text.getvalue())
        self.text.truncate(self.text.seek(0))
        if len(self.texts) == 1:
            self.counter.__enter__()
        elif len(self.texts) == CHECKED:
            # the counter's hooks hold tensors, so memory is that of a step without it
            self.counter.__exit__(None, None, None)
            self.operations = self.counter.get_total_flops()
            self.live.peak = self.live.now
        else:
            raise Enough


PRINTED = re.compile(r"(\w+) ?= ?(-?\d+\.\d+)")


def compare(case: Case, theirs: Measured, ours: Measured) -> tuple[float, str]:
    """The largest relative difference of losses, and a line that tells the steps' losses."""
    worst, parts = 0.0, []
    for number, (printed, logs) in enumerate(zip(theirs.losses, ours.losses, strict=True), 1):
        for name, (keys, factor) in case.printed.items():
            if name not in printed:
                continue  # not every step prints
            mine = factor * sum(logs[key] for key in keys)
            # the authors round to three or four decimals
            difference = max(0.0, abs(mine - printed[name]) - 1e-3) / max(abs(mine), abs(printed[name]), 1e-9)
            if number <= case.alike:
                worst = max(worst, difference)
            parts.append(f"{name} {printed[name]:g} ({mine:.4g})")
        if number == 1 and not parts:
            raise SystemExit(f"{case.name}: the authors' code printed none of {', '.join(case.printed)}")
    return worst, ", ".join(parts)


def timed(case: Case, steps: int) -> tuple[list[float], list[float]]:
    """Seconds of processor time of the steps of both, in turn."""
    silent = io.StringIO()
    with redirect_stdout(silent):
        theirs, ours = Turns(case.theirs), case.ours()
        times: tuple[list[float], list[float]] = ([], [])
        for number in range(steps + 1):
            for which in (0, 1) if number % 2 else (1, 0):
                times[which].append(clock("cpu", (theirs.step, ours)[which]))
        theirs.end()
    return times[0][1:], times[1][1:]


def fastest_product(size: int = 2048) -> float:
    """Operations a second of a large float32 matrix product on this thread."""
    a, b = torch.rand(size, size), torch.rand(size, size)
    return 2 * size**3 / min(clock("cpu", lambda: a @ b) for _ in range(6))


def main() -> None:
    """Measure every loop and print the tables; exit 1 if a limit is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--authors", type=Path, required=True, help="folder of the authors' clones")
    parser.add_argument("--only", default="", help=f"of {','.join(CASES)}")
    for name, default in (("height", 128), ("width", 256), ("steps", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--network", choices=tuple(NETWORKS), default="resnet101")
    args = parser.parse_args()
    wanted = args.only.split(",") if args.only else list(CASES)
    unknown = [name for name in wanted if name not in CASES]
    if unknown:
        parser.error(f"--only has {', '.join(unknown)}, must be of {', '.join(CASES)}")
    torch.set_num_threads(1)
    size = (args.height, args.width)
    scene = Scene(SmoothNoise("source", size, 1).view(), SmoothNoise("target", size, 2).view())
    rows = []
    for name in wanted:
        try:
            case = CASES[name](args.authors.resolve(), NETWORKS[args.network], scene)
        except ModuleNotFoundError as error:
            print(f"{name} is left out: no module {error.name!r} (--help says how to install kornia)")
            continue
        with without_gpu(), redirect_stderr(io.StringIO()):
            measured = checked(case)
            times = timed(case, args.steps)
        rows.append((case, measured, times))
        print(f"{case.name}: {case.note}\n  theirs (ours): {compare(case, *measured)[1]}", flush=True)
    raise SystemExit(1 if show(rows, args) else 0)


def show(rows: Sequence[tuple[Case, tuple[Measured, Measured], tuple[list[float], list[float]]]], args: Any) -> int:
    """Print the tables; how many limits were missed."""
    title = f"a step, {args.network}, {args.height} x {args.width}, one thread, {args.steps} steps of each in turn"
    table, arithmetic = Table(title=title, title_justify="left"), Table(title="arithmetic", title_justify="left")
    for heading in ("loop", "theirs s", "ours s", "ratio", "minima", "theirs MB", "ours MB", "ratio ", "losses", ""):
        table.add_column(heading, justify="left" if heading == "loop" else "right")
    for heading in ("loop", "theirs GFLOP", "ours", "at the peak, s", "share: theirs", "share: ours"):
        arithmetic.add_column(heading, justify="left" if heading == "loop" else "right")
    peak, missed = fastest_product(), 0
    for case, (theirs, ours), times in rows:
        medians = [statistics.median(values) for values in times]
        ratio, memory = medians[1] / medians[0], ours.peak / theirs.peak
        difference, _ = compare(case, theirs, ours)
        good = ratio <= LIMIT and memory <= LIMIT and difference <= TOLERANCE
        missed += not good
        table.add_row(
            case.name,
            *(f"{value:.2f}" for value in medians),
            f"{ratio:.3f}",
            f"{min(times[1]) / min(times[0]):.3f}",
            *(f"{value.peak / 1e6:.0f}" for value in (theirs, ours)),
            f"{memory:.3f}",
            f"{100 * difference:.2f} %",
            "ok" if good else "MISSED",
        )
        arithmetic.add_row(
            case.name,
            *(f"{value.operations / 1e9:.1f}" for value in (theirs, ours)),
            f"{ours.operations / peak:.2f}",
            *(
                f"{100 * value.operations / peak / seconds:.0f} %"
                for value, seconds in zip((theirs, ours), medians, strict=True)
            ),
        )
    console = Console(width=150)
    console.print(table)
    console.print(arithmetic)
    console.print(f"a product of 2048 x 2048: {peak / 1e9:.1f} GFLOP/s; limits {LIMIT} of time and of memory")
    return missed


if __name__ == "__main__":
    main()
