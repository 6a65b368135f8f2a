"""What ``uda gap`` costs beside its forward passes: time, the share of each part, and memory.

    python benchmarks/speed/gap_speed.py --data FOLDER [--images 700] [--source-share 0.3] [--small 200] [--minutes 5]

Analyses streets of 512 x 256 pixels (written to ``--data`` once) that differ in all factors, with a network of two
1 x 1 convolutions, as the command does: images decoded from their files, every edit, every fix, the page. Each size
runs in a process of its own. Printed are seconds of wall clock and of processor without the forward passes, images a
second, the share of each part, and the peak memory at ``--small`` and at ``--images`` images. Exit 1 where ``--images``
take more than ``--minutes``, or more than ``--memory`` times the peak of ``--small``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SPACE = "cityscapes"
LOOKS: dict[str, tuple[dict[str, Any], tuple[int, int]]] = {
    "source": ({}, (240, 512)),
    "target": (
        {"camera.blur": 0.8, "camera.gamma": 1.4, "camera.ramp": [0.08, -0.08], "camera.scale": 0.8,
         "camera.shift": [0.06, 0.0, -0.03], "camera.noise": 0.02},
        (256, 512),
    ),
}  # fmt: skip
"""How they are changed, and their size; the source's is another one so that all factors differ."""


def data(folder: Path, counts: dict[str, int]) -> None:
    """Source and target of so many images, unless they are there."""
    from uda.data.streets import generate, vary

    for seed, (name, (domain, size)) in enumerate(LOOKS.items()):
        count = counts[name]
        if len(list((folder / name / "leftImg8bit").rglob("*.png"))) < count:
            print(f"{name}: {count} images are written", flush=True)
            look = vary("cityscapes", domain, name=name) if domain else "cityscapes"
            generate(folder / name, look, {"val": count}, size=size, seed=seed, workers=2)


def parts(folder: Path, sources: int, targets: int) -> tuple[Any, Any, Any]:
    """A network that costs next to nothing, and the first images of either data set."""
    import torch
    from torch import nn

    from uda.data import Cityscapes
    from uda.data.label_spaces import label_space
    from uda.models import adapt

    torch.manual_seed(0)
    classes = label_space(SPACE).num_classes
    body = nn.Sequential(nn.AvgPool2d(8), nn.Conv2d(3, 32, 1), nn.BatchNorm2d(32), nn.ReLU())
    network = nn.Sequential(body, nn.Conv2d(32, classes, 1))
    model = adapt(network, num_classes=classes, mean=(0.5,) * 3, std=(0.25,) * 3, feature_layer="0").eval()
    source, target = (
        Cityscapes(folder / name, "val", space=SPACE).subset(range(count))
        for name, count in (("source", sources), ("target", targets))
    )
    return model, source, target


class Clock:
    """Seconds of wall clock and of processor by part; those of the network are kept apart."""

    def __init__(self) -> None:
        self.parts: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        self._began: list[tuple[float, float]] = []

    def start(self, *_: Any) -> None:
        self._began.append((time.perf_counter(), time.process_time()))

    def stop(self, name: str) -> None:
        wall, cpu = self._began.pop()
        self.parts[name][0] += time.perf_counter() - wall
        self.parts[name][1] += time.process_time() - cpu

    @contextmanager
    def part(self, label: str, total: int) -> Iterator[Callable[[], None]]:
        """As ``analyse`` wants its progress."""
        self.start()
        yield lambda: None
        self.stop(label)


def child(folder: Path, sources: int, targets: int, out: Path) -> dict[str, Any]:
    """One analysis in this process."""
    from measuring import resident

    from uda.gap import analyse, write_report
    from uda.gap.store import remove_work

    model, source, target = parts(folder, sources, targets)
    clock = Clock()
    model.register_forward_pre_hook(clock.start)
    model.register_forward_hook(lambda *_: clock.stop("forward"))
    clock.start()
    result = analyse(
        model, source, target, work=out / "work", class_names=source.space.names,
        palette=[label.colour for label in source.space.classes], progress=clock.part,
    )  # fmt: skip
    with clock.part("report", 1):
        write_report(result, out)
        remove_work(out / "work")
    clock.stop("all")
    plan = result.plan
    return {
        "parts": dict(clock.parts),
        "peak": resident("VmHWM") / 2**20,
        "factors": [] if plan is None else list(plan.factors),
        "exact": plan is None or plan.exact,
        "page": (out / "report.html").stat().st_size / 1e6,
    }


def measured(folder: Path, images: int, share: float) -> dict[str, Any]:
    """The same in a process of its own, whose memory is its own."""
    sources = round(images * share)
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, __file__, "--data", str(folder), "--child", str(sources), str(images - sources), out]
        run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    content: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return content


def show(images: int, content: dict[str, Any]) -> float:
    """Print one measurement; the seconds of wall clock without the forward passes."""
    (wall, cpu), (forward, forward_cpu) = content["parts"].pop("all"), content["parts"].pop("forward")
    names = ", ".join(content["factors"])
    print(
        f"\n{images} images: {wall - forward:.0f} s, {cpu - forward_cpu:.0f} s of processor "
        f"({images / (wall - forward):.2f} images/s; {(cpu - forward_cpu) / images:.3f} s of processor an image); "
        f"forward passes {forward:.0f} s more; peak {content['peak']:.0f} MB; page {content['page']:.1f} MB\n"
        f"shares: {'all combinations' if content['exact'] else 'sampled orders'} of {names}"
    )
    for name, (seconds, busy) in sorted(content["parts"].items(), key=lambda item: -item[1][0]):
        print(f"  {100 * seconds / wall:5.1f} %  {seconds:7.1f} s  {busy:7.1f} s of processor  {name}")
    return float(wall - forward)


def main() -> None:
    """Measure two sizes; exit 1 if a limit is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    for name, default in (("images", 700), ("small", 200)):
        parser.add_argument(f"--{name}", type=int, default=default)
    for name, number in (("source-share", 0.3), ("minutes", 5.0), ("memory", 1.15)):
        parser.add_argument(f"--{name}", type=float, default=number)
    parser.add_argument("--child", nargs=3, metavar=("SOURCES", "TARGETS", "OUT"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(child(args.data, int(args.child[0]), int(args.child[1]), Path(args.child[2]))))
        return
    sources = round(args.images * args.source_share)
    data(args.data, {"source": sources, "target": args.images - sources})
    peaks, seconds = [], 0.0
    for images in (args.small, args.images):
        content = measured(args.data, images, args.source_share)
        peaks.append(content["peak"])
        seconds = show(images, content)
    grown = peaks[1] / peaks[0]
    missed = [f"{seconds:.0f} s, must be at most {60 * args.minutes:.0f}"] if seconds > 60 * args.minutes else []
    missed += [f"memory, must be at most {args.memory:g} times"] if grown > args.memory else []
    print(
        f"\npeak memory of {args.images} images is {grown:.3f} times that of {args.small}; "
        + ("MISSED: " + "; ".join(missed) if missed else "ok")
    )
    raise SystemExit(1 if missed else 0)


if __name__ == "__main__":
    main()
