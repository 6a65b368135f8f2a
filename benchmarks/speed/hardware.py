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
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from measuring import Noise, clock, in_own_process, machine, resident
from rich.console import Console
from rich.table import Table

from uda.data import CITYSCAPES19
from uda.engine import Settings, Update
from uda.files import atomic_write
from uda.methods import ClassMix, Supervised
from uda.models import build_model
from uda.presets import preset
from uda.types import TaskSpec

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
DIGITS = 4
"""Of seconds in the record."""


def network(name: str) -> dict[str, Any]:
    """The model of a preset, or the library's ``default`` one, by name and options, without weights."""
    options = {"name": "segmenter"} if name == "default" else preset(name)["model"]
    return {**options, "weights": None}


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
    views = {domain: Noise(domain, size).view(count, domain == "source") for domain in ("source", "target")}
    warm_up = round(clock(device, lambda: [update(views) for _ in range(WARM_UP)]), DIGITS)
    gc.collect()
    reset_peak(device)
    seconds = [round(clock(device, lambda: update(views, log=False)), DIGITS) for _ in range(steps)]
    peak = torch.cuda.max_memory_allocated() if device != "cpu" else resident("VmHWM") - before
    return {"seconds": seconds, "peak": peak, "warm_up": warm_up, "skipped": update.skipped}


def reset_peak(device: str) -> None:
    """Count the peak from now on."""
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        return
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def piece(request: Mapping[str, Any], limit: float) -> dict[str, Any]:
    """:func:`measure` in a process of its own; what went wrong as ``{"error": ...}``."""
    return in_own_process(__file__, "--piece", json.dumps(request), limit=limit)


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
    about = machine(
        args.device, cores=os.cpu_count(), threads=torch.get_num_threads(), python=platform.python_version()
    )
    record = started(path, about, {**size, "device": args.device}, args.fresh)
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
