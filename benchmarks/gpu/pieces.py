"""What needs a GPU, in pieces that resume: steps of published recipes at their sizes, then long runs on photographs.

    benchmarks/gpu/run.sh [--root camvid=PATH --root kitti=PATH] [--budget 900] [--only DACS runs] [--record FOLDER]

Pieces, each a process of its own of at most ``--limit`` seconds (540):

* a step of a recipe (its methods, network, crop and batch; random weights, images of noise) in fp32, bf16, bf16 with
  channels-last, and compiled: seconds, images in a second, peak memory;
* the same of DINOv2-S/B/L with a DPT decoder, tuned and with a frozen encoder (ClassMix, two images of 512 x 512);
* benchmarks on CamVid and KITTI, by ``uda bench``: what reaches the limit is interrupted and goes on in the next piece.

What is measured is written at once (``gpu.json``), so that the next call does what is left; ``gpu.md`` has the tables,
with "not measured" where nothing is. With ``--budget`` no piece is begun that could end after so many seconds. Without
a GPU it refuses, but for ``--toy``: tiny networks and images on the CPU, which tests its logic and nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from uda.config.specs import build_method
from uda.data import CITYSCAPES19
from uda.engine import Settings, Trainer
from uda.files import atomic_write
from uda.models import build_model
from uda.presets import preset
from uda.types import TaskSpec

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "speed"))
import measuring
from measuring import Noise, clock, in_own_process, reason

ROOT = Path(__file__).resolve().parents[2]
NOT = "not measured"
WARM_UP, STEPS = 3, 10
DIGITS = 5
"""Of seconds in the record."""
VARIANTS: dict[str, dict[str, Any]] = {
    "fp32": {},
    "bf16": {"precision": "bf16"},
    "bf16 + channels_last": {"precision": "bf16", "channels_last": True},
    "bf16 + compile": {"precision": "bf16", "compile": True},
}
RUNS = ("camvid_kitti", "labels_kitti", "matrix_camvid_kitti", "factorial_camvid_kitti")
"""Benchmarks, in the order of what is wanted most."""


class Recipe(NamedTuple):
    """What is trained: a network, methods, sizes."""

    model: dict[str, Any]
    methods: list[Any]
    settings: dict[str, Any]
    frozen: bool = False
    """Whether the encoder takes no gradient."""


def recipes(toy: bool) -> dict[str, Recipe]:
    """By the name of the table."""
    if toy:
        settings = {"batch_size": 1, "crop": [32, 64]}
        return {
            name: Recipe({"name": "segmenter", "encoder": "resnet18"}, [{"Supervised": {}}, *more], settings, frozen)
            for name, more, frozen in (("toy", [{"AdvEnt": {}}], False), ("toy, frozen", [{"ClassMix": {}}], True))
        }
    chosen = {}
    for name in ("AdvEnt", "DACS", "DAFormer", "MIC-DAFormer", "HRDA", "MIC-HRDA"):
        published = preset(name)
        # the presets' own is small, so that they run anywhere
        encoder = {} if published["model"]["name"] == "deeplabv2_resnet101" else {"encoder": "mit_b5"}
        chosen[name] = Recipe({**published["model"], **encoder}, published["methods"], published["settings"])
    settings = {"batch_size": 2, "crop": [512, 512], "lr": 1e-5}
    for size in ("small", "base", "large"):
        model = {
            "name": "segmenter", "encoder": f"tu-vit_{size}_patch14_dinov2.lvd142m", "decoder": "DPT",
            "options": {"patch_size": 16},
        }  # fmt: skip
        for frozen in (True, False):
            label = f"DINOv2-{size[0].upper()}, {'frozen' if frozen else 'tuned'}"
            chosen[label] = Recipe(model, [{"Supervised": {}}, {"ClassMix": {}}], settings, frozen)
    return chosen


def build(recipe: Recipe) -> Any:
    """The network, with random weights that it takes for pretrained ones where a method asks for these."""
    model = build_model(num_classes=len(CITYSCAPES19.names), **recipe.model, weights=None)
    if any("FeatureDistance" in spec for spec in recipe.methods):
        network = getattr(model, "base", model)  # what HRDA passes images of two sizes through
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "encoder.pth"
            torch.save(network.encoder.state_dict(), path)
            network.weights = str(path)
            encoder = model.pretrained_encoder()
        model.pretrained_encoder = lambda: encoder
    if recipe.frozen:
        model.encoder.requires_grad_(False)
    return model


def measure(name: str, variant: str, toy: bool) -> dict[str, Any]:
    """Some steps of a recipe: seconds of each, images that it sees in one, peak memory in bytes."""
    recipe, device = recipes(toy)[name], "cpu" if toy else "cuda"
    torch.manual_seed(0)
    settings = Settings(steps=100_000, device=device, **{**recipe.settings, **VARIANTS[variant]})
    model = build(recipe)
    update = Trainer(model, [build_method(spec) for spec in recipe.methods], settings).update
    sizes = {"source": settings.crop, "target": settings.target_crop or settings.crop}
    data = {domain: Noise(domain, size) for domain, size in sizes.items()}
    update.setup(TaskSpec.of(model, CITYSCAPES19, **data, draws_source=True))
    views = {domain: images.view(settings.batch_size, domain == "source") for domain, images in data.items()}
    warm_up = round(clock(device, lambda: [update(views) for _ in range(WARM_UP)]), DIGITS)
    if not toy:
        torch.cuda.reset_peak_memory_stats()
    seconds = [round(clock(device, lambda: update(views, log=False)), DIGITS) for _ in range(1 if toy else STEPS)]
    peak = 0 if toy else torch.cuda.max_memory_allocated()
    sides = {domain: f"{height}x{width}" for domain, (height, width) in sizes.items()}
    return {"seconds": seconds, "warm_up": warm_up, "peak": peak, "batch": settings.batch_size, "sizes": sides}


def step_piece(name: str, variant: str, toy: bool, limit: float) -> dict[str, Any]:
    """:func:`measure` in a process of its own; what went wrong as ``{"error": ...}``."""
    return in_own_process(__file__, "--piece", name, variant, *(["--toy"] if toy else []), limit=limit)


def run_piece(name: str, options: argparse.Namespace, limit: float) -> dict[str, Any]:
    """A benchmark until it is done or the limit is reached; that interrupts it as Ctrl-C does, and it goes on later."""
    record = options.record / name
    command = [
        sys.executable, "-m", "uda.cli", "bench", f"benchmarks/{name}.yaml", "--workers", str(options.workers),
        "--out", str(options.out), "--record", str(record), "--quiet",
        *(part for root in options.root for part in ("--root", root)),
    ]  # fmt: skip
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        try:
            _, errors = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            try:
                process.communicate(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
            return {"state": "begun"}
    if process.returncode:
        return {"state": "failed", "error": reason(errors, process.returncode)}
    return {"state": "done", "record": os.path.relpath(record, ROOT)}


def machine(toy: bool) -> dict[str, Any]:
    """What the numbers hold for."""
    return measuring.machine("cpu" if toy else "cuda", cuda=torch.version.cuda, toy=toy)


def table(content: Mapping[str, Any], names: Sequence[str]) -> str:
    """What is measured, as Markdown."""
    about, steps, runs = content["machine"], content["steps"], content["runs"]
    lines = [
        "# Measured on a GPU",
        "",
        f"`benchmarks/gpu/run.sh` on {about['device']}, torch {about['torch']}, CUDA {about['cuda']}, uda "
        f"{about['uda']}. Random weights and noise: nothing is read from a disk.",
        "",
        "| recipe | batch, source, target | settings | s a step | source images a second | peak GB |",
        "|---|---|---|---:|---:|---:|",
    ]
    for name in names:
        for variant in VARIANTS:
            piece = steps.get(f"{name}: {variant}", {})
            if "seconds" not in piece:
                lines.append(f"| {name} | | {variant} | {piece.get('error', NOT)} | | |")
                continue
            seconds, sizes = statistics.median(piece["seconds"]), piece["sizes"]
            sides = f"{piece['batch']}, {sizes['source']}, {sizes['target']}"
            rate = f"{piece['batch'] / seconds:.2f}"
            lines.append(f"| {name} | {sides} | {variant} | {seconds:.3f} | {rate} | {piece['peak'] / 1e9:.2f} |")
    lines += ["", "| benchmark | state |", "|---|---|"]
    for name in RUNS:
        piece = runs.get(name, {})
        said = piece.get("record") or piece.get("error") or piece.get("state", NOT)
        lines.append(f"| {name} | {said} |")
    return "\n".join(lines) + "\n"


class Pieces:
    """The record of what is done, and the time that is left."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.started = options, time.monotonic()
        self.path = options.record / "gpu.json"
        about = machine(options.toy)
        self.content = {"machine": about, "steps": {}, "runs": {}}
        if self.path.is_file() and not options.fresh:
            self.content = json.loads(self.path.read_text(encoding="utf-8"))
            if self.content["machine"] != about:
                raise SystemExit(f"{self.path}: is of {self.content['machine']}, this is {about}; --fresh begins anew")

    @property
    def limit(self) -> float:
        """Seconds that the next piece may take; none where the budget is used up."""
        left = self.options.budget - (time.monotonic() - self.started)
        return max(0.0, min(self.options.limit, left))

    def keep(self, part: str, key: str, value: Mapping[str, Any]) -> None:
        """Write a piece down, and the tables with it."""
        self.content[part][key] = dict(value)
        print(f"{key}: {value.get('error') or value.get('state') or 'measured'}", flush=True)
        with atomic_write(self.path) as file:
            file.write(json.dumps(self.content, indent=1) + "\n")
        self.write_table()

    def write_table(self) -> None:
        """Write the tables."""
        with atomic_write(self.options.record / "gpu.md") as file:
            file.write(table(self.content, list(recipes(self.options.toy))))

    def steps(self) -> None:
        """Measure the steps that are not measured."""
        for name in recipes(self.options.toy):
            for variant in VARIANTS:
                key = f"{name}: {variant}"
                wanted = not self.options.only or name in self.options.only
                if wanted and "seconds" not in self.content["steps"].get(key, {}) and self.limit > self.options.least:
                    self.keep("steps", key, step_piece(name, variant, self.options.toy, self.limit))

    def runs(self) -> None:
        """Go on with the benchmarks that are not done."""
        for name in () if self.options.toy else RUNS:
            wanted = not self.options.only or {"runs", name} & set(self.options.only)
            while wanted and self.limit > self.options.least:
                result = run_piece(name, self.options, self.limit)
                self.keep("runs", name, result)
                if result["state"] != "begun":
                    break


def main(arguments: Sequence[str] | None = None) -> None:
    """Do what is left, as far as the budget goes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", action="append", default=[], metavar="NAME=PATH", help="of CamVid and KITTI")
    parser.add_argument("--only", nargs="+", help="recipes or benchmarks by name; `runs`: all benchmarks")
    parser.add_argument("--budget", type=float, default=float("inf"), help="seconds of this call")
    parser.add_argument("--limit", type=float, default=540, help="seconds of a piece")
    parser.add_argument("--least", type=float, default=20, help="seconds left under which no piece is begun")
    parser.add_argument("--workers", type=int, default=12, help="cells of a benchmark side by side")
    parser.add_argument("--record", type=Path, default=ROOT / "benchmarks" / "results" / "gpu")
    parser.add_argument("--out", type=Path, default=ROOT / "runs", help="of the benchmarks")
    parser.add_argument("--fresh", action="store_true", help="measure everything anew")
    parser.add_argument("--toy", action="store_true", help="tiny, on the CPU: for tests")
    parser.add_argument("--piece", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if not options.toy and not torch.cuda.is_available():
        parser.error("there is no GPU here (torch.cuda.is_available() is false)")
    if options.piece:
        print(json.dumps(measure(*options.piece, options.toy)))
        return
    known = [*recipes(options.toy), "runs", *RUNS]
    if unknown := [name for name in options.only or () if name not in known]:
        parser.error(f"--only has {unknown[0]!r}, must be of {', '.join(known)}")
    options.record, options.out = options.record.absolute(), options.out.absolute()
    pieces = Pieces(options)
    pieces.steps()
    pieces.runs()
    pieces.write_table()
    print(f"written: {pieces.path}, {options.record / 'gpu.md'}")


if __name__ == "__main__":
    main()
