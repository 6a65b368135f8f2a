"""The arithmetic of a step of published recipes at their sizes, and their memory: counted, nothing is timed.

    python benchmarks/speed/step_flops.py [--rate 100]

Passes through the network are counted over a real step on tiny crops; the operations of one pass are counted at the
recipe's own crop on torch's meta device, where tensors have sizes and no numbers. A pass with gradient counts three
times (backward is twice forward), one without (teacher, frozen copy of the encoder, looked at only) once; a multiply
and an add are two operations. Left out: discriminators, losses, augmentation, the optimiser. ``--rate`` is what a
device sustains, in TFLOP/s: the last column is the least that a step can then take.

Memory is of weights, gradients, the optimiser's state and the teacher in float32, without activations.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from measuring import Noise
from torch.utils.flop_counter import FlopCounterMode

from uda.config.specs import build_method
from uda.data import CITYSCAPES19
from uda.engine import Settings, Trainer
from uda.types import TaskSpec

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "gpu"))
from pieces import Recipe, build, recipes

TINY = 64
"""Side of the crops on which passes are counted."""


class Passes(NamedTuple):
    """Images through the network in a step, by domain's size, with and without gradient."""

    with_gradient: int
    without: int
    parameters: int
    state: int
    """Numbers of optimisers and teacher."""


def count_passes(recipe: Recipe) -> Passes:
    """Run one step, and count."""
    model = dict(recipe.model)
    if model["name"] == "hrda":
        model["crop"] = [TINY // 2, TINY // 2]
    small = {**recipe.settings, "crop": [TINY, TINY], "target_crop": None, "device": "cpu"}
    network = build(recipe._replace(model=model))
    update = Trainer(network, [build_method(spec) for spec in recipe.methods], Settings(steps=100_000, **small)).update
    data = {domain: Noise(domain, (TINY, TINY)) for domain in ("source", "target")}
    update.setup(TaskSpec.of(network, CITYSCAPES19, **data, draws_source=True))
    seen = {True: 0, False: 0}

    def count(module: Any, images: Any, output: Any) -> None:
        seen[torch.is_grad_enabled()] += 1

    networks = [network, *([update.teacher.model] if update.teacher else [])]
    for each in networks:
        each.register_forward_hook(count)
    update({domain: images.view(recipe.settings["batch_size"], domain == "source") for domain, images in data.items()})
    moved = [update.optimizer, *update.own_optimizers.values()]
    state = sum(t.numel() for o in moved for values in o.state.values() for t in values.values() if torch.is_tensor(t))
    size = sum(p.numel() for p in network.parameters())
    return Passes(seen[True], seen[False], size, state + (size if update.teacher else 0))


def pass_flops(recipe: Recipe) -> float:
    """Operations of one forward pass over a batch of the recipe's source crop."""
    network = build(recipe._replace(methods=[])).to("meta")
    images = torch.empty(recipe.settings["batch_size"], 3, *recipe.settings["crop"], device="meta")
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        network(images)
    return float(counter.get_total_flops())


def main() -> None:
    """Count and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=100.0, help="TFLOP/s that a device sustains")
    parser.add_argument("--only", nargs="+", help="recipes by name")
    rate = (options := parser.parse_args()).rate
    print(f"| recipe | batch, crop | passes with gradient, without | TFLOP a step | GB | s at {rate:g} TFLOP/s |")
    print("|---|---|---:|---:|---:|---:|")
    for name, recipe in recipes(toy=False).items():
        if options.only and name not in options.only:
            continue
        passes, flops = count_passes(recipe), pass_flops(recipe)
        trained = 1 if recipe.frozen else 3
        total = flops * (trained * passes.with_gradient + passes.without) / 1e12
        memory = 4 * (2 * passes.parameters + passes.state) / 1e9
        height, width = recipe.settings["crop"]
        print(
            f"| {name} | {recipe.settings['batch_size']}, {height}x{width} | {passes.with_gradient}, {passes.without} "
            f"| {total:.2f} | {memory:.2f} | {total / rate:.3f} |", flush=True,
        )  # fmt: skip


if __name__ == "__main__":
    main()
