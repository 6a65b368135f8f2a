"""What training settings are worth on this machine: seconds of a step and peak memory, and the settings to take.

    python benchmarks/speed/hardware.py --name cpu-2-cores [--height 96] [--width 192] [--networks default DAFormer]

Each piece (a network, a set of settings) is a process of its own that trains a few steps of source loss and ClassMix on
noise, with random weights. What is measured is written after each piece, so that a killed script goes on where it was;
a piece that fails or takes longer than ``--limit`` is recorded as that. The record, with device, versions and sizes, is
``FOLDER/NAME.json``; ``uda/presets/hardware/NAME.yaml`` gets the settings with the least time, as the geometric mean of
the ratios to ``fp32`` over the networks: ``uda train mine.yaml --settings NAME``. Less than 5 % is taken for noise.

Seconds are wall clock; with one thread of a CPU they are processor time, which a busy machine changes little.
Memory is the peak of allocated blocks on a GPU; on a CPU what the process holds at most during the timed steps, beyond
what it held with the network built (after ``compile`` that is the compiler too). Compilation comes before the timed
steps and is told apart (``warm_up``, in processor time without the C++ compiler's own processes).
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import math
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.console import Console
from rich.table import Table

import uda
from uda.data import CITYSCAPES19
from uda.engine import Settings, Update
from uda.files import atomic_write
from uda.methods import ClassMix, Supervised
from uda.models import build_model
from uda.presets import preset
from uda.types import TaskSpec, View

ROOT = Path(__file__).resolve().parents[2]
KEYS = ("precision", "channels_last", "activation_checkpointing", "compile")
"""Settings that are varied; all else is as it is by default."""
BASE = "fp32"
VARIANTS: dict[str, dict[str, Any]] = {
    BASE: {},
    "bf16": {"precision": "bf16"},
    "fp16": {"precision": "fp16"},
    "channels_last": {"channels_last": True},
    "compile": {"compile": True},
    "encoder": {"activation_checkpointing": "encoder"},
    "all": {"activation_checkpointing": "all"},
    "bf16 + channels_last": {"precision": "bf16", "channels_last": True},
    "fp16 + channels_last": {"precision": "fp16", "channels_last": True},
    "bf16 + compile": {"precision": "bf16", "compile": True},
    "channels_last + compile": {"channels_last": True, "compile": True},
    "bf16 + channels_last + compile": {"precision": "bf16", "channels_last": True, "compile": True},
    "channels_last + all": {"channels_last": True, "activation_checkpointing": "all"},
    "bf16 + channels_last + all": {"precision": "bf16", "channels_last": True, "activation_checkpointing": "all"},
}
GPU_VARIANTS: dict[str, dict[str, Any]] = {
    "CUDA graphs": {"compile": {"mode": "reduce-overhead"}},
    "bf16 + CUDA graphs": {"precision": "bf16", "compile": {"mode": "reduce-overhead"}},
}
NOISE = 0.05
"""Share of the time that two runs of the same differ by."""
WARM_UP = 2


def network(name: str) -> dict[str, Any]:
    """The model of a preset, or the library's ``default`` one, by name and options, without weights."""
    options = {"name": "segmenter"} if name == "default" else preset(name)["model"]
    return {**options, "weights": None}


def batch(size: Sequence[int], count: int, classes: int) -> dict[str, View]:
    """Noise of both domains, the source's with labels in blocks of 16 pixels."""
    draws = torch.Generator().manual_seed(0)
    height, width = size
    images = [torch.rand(count, 3, height, width, generator=draws) for _ in range(2)]
    blocks = torch.randint(0, classes, (count, -(-height // 16), -(-width // 16)), generator=draws)
    labels = blocks.repeat_interleave(16, 1).repeat_interleave(16, 2)[:, :height, :width].contiguous()
    return {"source": View(images[0], labels), "target": View(images[1])}


def measure(
    model: Mapping[str, Any], changes: Mapping[str, Any], size: Sequence[int], count: int, steps: int, device: str
) -> dict[str, Any]:
    """Train a few steps: the seconds of each, the peak in bytes, the seconds of what comes before."""
    torch.manual_seed(0)
    settings = Settings(steps=WARM_UP + steps, **changes)
    built = build_model(num_classes=len(CITYSCAPES19.names), **model).to(device)
    before = resident() if device == "cpu" else 0
    update = Update(
        built, [Supervised(), ClassMix()], total_steps=settings.steps, device=device,
        **{key: getattr(settings, key) for key in KEYS},
    )  # fmt: skip
    update.setup(TaskSpec.of(built, CITYSCAPES19))
    views = batch(size, count, len(CITYSCAPES19.names))
    warm_up = clock(device, lambda: [update(views) for _ in range(WARM_UP)])
    gc.collect()
    reset_peak(device)
    seconds = [clock(device, lambda: update(views, log=False)) for _ in range(steps)]
    peak = torch.cuda.max_memory_allocated() if device != "cpu" else resident("VmHWM") - before
    return {"seconds": seconds, "peak": peak, "warm_up": warm_up, "skipped": update.skipped}


def clock(device: str, call: Callable[[], Any]) -> float:
    """Seconds of a call, see the head of this file."""
    wait: Callable[[], Any] = (lambda: None) if device == "cpu" else torch.cuda.synchronize
    now = time.process_time if device == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    wait()
    start = now()
    call()
    wait()
    return round(now() - start, 4)


def reset_peak(device: str) -> None:
    """Count the peak from now on."""
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        return
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def resident(field: str = "VmRSS") -> int:
    """Bytes that this process holds now, or held at most (``VmHWM``); 0 where the system does not say."""
    with contextlib.suppress(OSError):
        match = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
        return int(match[1]) * 1024 if match else 0
    return 0


def piece(request: Mapping[str, Any], limit: float) -> dict[str, Any]:
    """:func:`measure` in a process of its own; what went wrong as ``{"error": ...}``."""
    command = [sys.executable, __file__, "--piece", json.dumps(request)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        return {"error": f"longer than {limit:g} s"}
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        return {"error": lines[-1][:300]}
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def machine(device: str) -> dict[str, Any]:
    """What the numbers hold for."""
    if device != "cpu":
        name = torch.cuda.get_device_name()
    else:
        name = platform.processor() or platform.machine()
        with contextlib.suppress(OSError):
            match = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
            name = match[1] if match else name
    return {
        "device": name, "cores": os.cpu_count(), "threads": torch.get_num_threads(), "torch": torch.__version__,
        "python": platform.python_version(), "uda": uda.__version__,
    }  # fmt: skip


def ratios(pieces: Mapping[str, Mapping[str, Any]], networks: Sequence[str], variant: str) -> tuple[float, float]:
    """Time and memory as shares of ``fp32``'s, geometric means over networks; infinite where a piece failed."""
    shares: list[tuple[float, float]] = []
    for name in networks:
        base, own = pieces.get(f"{name}: {BASE}", {}), pieces.get(f"{name}: {variant}", {})
        if "seconds" not in base or "seconds" not in own:
            return math.inf, math.inf
        time_share = statistics.median(own["seconds"]) / statistics.median(base["seconds"])
        shares.append((time_share, max(own["peak"], 1) / max(base["peak"], 1)))
    return statistics.geometric_mean(s for s, _ in shares), statistics.geometric_mean(m for _, m in shares)


def best(pieces: Mapping[str, Mapping[str, Any]], networks: Sequence[str], variants: Sequence[str]) -> tuple[str, str]:
    """The quickest variant, ``fp32`` itself where none is quicker by more than noise, and the least memory's."""
    shares = {variant: ratios(pieces, networks, variant) for variant in variants}
    quickest = min(shares, key=lambda variant: shares[variant][0])
    smallest = min(shares, key=lambda variant: shares[variant][1])
    return (quickest if shares[quickest][0] < 1 - NOISE else BASE), smallest


def fragment(record: Mapping[str, Any], networks: Sequence[str], variants: Mapping[str, Any]) -> str:
    """The settings to take, as YAML with what they are worth."""
    pieces, size = record["pieces"], record["size"]
    quickest, smallest = best(pieces, networks, list(variants))
    plain = Settings(steps=1).model_dump(include=set(KEYS))
    about = record["machine"]
    lines = [
        f"# {about['device']}, {about['cores']} cores, {about['threads']} threads, torch {about['torch']}",
        f"# batch {size['batch']} of {size['height']}x{size['width']}; {', '.join(networks)}",
    ]
    for label, variant in (("settings", quickest), ("least memory", smallest)):
        seconds, memory = ratios(pieces, networks, variant)
        lines.append(f"# {label}: {variant}, {seconds:.2f} of fp32's time, {memory:.2f} of its memory")
    lines.append("# made by benchmarks/speed/hardware.py")
    settings = {key: {**plain, **variants[quickest]}[key] for key in KEYS}
    return "\n".join(lines) + "\n" + yaml.safe_dump({"settings": settings}, sort_keys=False)


def show(record: Mapping[str, Any], networks: Sequence[str], variants: Sequence[str]) -> None:
    """Print the table."""
    size = record["size"]
    table = Table(title=f"a step, batch {size['batch']}, {size['height']} x {size['width']}", title_justify="left")
    table.add_column("settings")
    for name in networks:
        for heading in (f"{name}: s", "of fp32", "peak MB", "of fp32", "warm-up s"):
            table.add_column(heading, justify="right")
    for variant in variants:
        cells: list[str] = []
        for name in networks:
            own = record["pieces"].get(f"{name}: {variant}", {})
            if "seconds" not in own:
                cells += [own.get("error", "not measured"), "", "", "", ""]
                continue
            seconds, memory = ratios(record["pieces"], [name], variant)
            middle, peak = statistics.median(own["seconds"]), own["peak"] / 1e6
            cells += [f"{middle:.3f}", f"{seconds:.2f}", f"{peak:.0f}", f"{memory:.2f}", f"{own['warm_up']:.1f}"]
        table.add_row(variant, *cells)
    Console(width=40 + 50 * len(networks)).print(table)


def started(path: Path, about: Mapping[str, Any], size: Mapping[str, Any], fresh: bool) -> dict[str, Any]:
    """The record so far.

    Raises:
        SystemExit: it is of another machine, version or size.
    """
    record = json.loads(path.read_text()) if path.is_file() and not fresh else {}
    for part, now in (("machine", about), ("size", size)):
        if record.get(part, now) != now:
            raise SystemExit(f"{path}: is of {part} {record[part]}, now it is {now}; --fresh measures anew")
    return {"machine": about, "size": size, "pieces": record.get("pieces", {})}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is missing, print the table, write the record and the settings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", help="of the machine, as in `uda train --settings NAME`")
    parser.add_argument("--networks", nargs="+", default=["default", "DAFormer"], help="presets, or `default`")
    parser.add_argument("--only", nargs="+", help="settings by the table's names; fp32 is always measured")
    for option, default in (("height", 96), ("width", 192), ("batch", 2), ("steps", 5), ("limit", 600)):
        parser.add_argument(f"--{option}", type=int, default=default)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--record", type=Path, default=ROOT / "benchmarks" / "results" / "hardware")
    parser.add_argument("--settings", type=Path, default=ROOT / "uda" / "presets" / "hardware")
    parser.add_argument("--fresh", action="store_true", help="measure everything anew")
    parser.add_argument("--piece", help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.piece:
        print(json.dumps(measure(**json.loads(args.piece))))
        return
    if args.name is None:
        parser.error("--name is needed: what the machine is called")
    known = VARIANTS if args.device == "cpu" else {**VARIANTS, **GPU_VARIANTS}
    if unknown := [name for name in args.only or () if name not in known]:
        parser.error(f"--only has {unknown[0]!r}, must be of {', '.join(known)}")
    variants = {name: known[name] for name in known if name == BASE or not args.only or name in args.only}
    size = {name: getattr(args, name) for name in ("batch", "height", "width", "steps")}
    path = args.record / f"{args.name}.json"
    record = started(path, machine(args.device), {**size, "device": args.device}, args.fresh)
    for name in args.networks:
        for variant, changes in variants.items():
            key = f"{name}: {variant}"
            if "seconds" in record["pieces"].get(key, {}):
                continue
            request = {
                "model": network(name), "changes": changes, "size": [args.height, args.width], "count": args.batch,
                "steps": args.steps, "device": args.device,
            }  # fmt: skip
            record["pieces"][key] = piece(request, args.limit)
            print(f"{key}: {record['pieces'][key].get('error', 'measured')}", flush=True)
            with atomic_write(path) as file:
                file.write(json.dumps(record, indent=1) + "\n")
    show(record, args.networks, list(variants))
    with atomic_write(args.settings / f"{args.name}.yaml") as file:
        file.write(fragment(record, args.networks, variants))
    print(f"written: {path}, {args.settings / f'{args.name}.yaml'}")


if __name__ == "__main__":
    main()
