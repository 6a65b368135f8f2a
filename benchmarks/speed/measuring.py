"""What the scripts here and in ``benchmarks/gpu`` measure with: a clock, memory, the machine, images of noise, and
pieces in processes of their own."""

from __future__ import annotations

import contextlib
import json
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

import uda
from uda.data import CITYSCAPES19
from uda.types import Sample, View, Window

BLOCK = 16
"""Side in pixels of what has one label."""
LETTERS = 300
"""Of a reason at most."""


def clock(device: str, call: Callable[[], Any]) -> float:
    """Seconds of a call, until the device has done all of it.

    They are wall clock; with one thread of a CPU processor time, which a busy machine changes little.
    """
    wait: Callable[[], Any] = (lambda: None) if device == "cpu" else torch.cuda.synchronize
    now = time.process_time if device == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    wait()
    start = now()
    call()
    wait()
    return now() - start


def resident(field: str = "VmRSS") -> int:
    """Bytes that this process holds now, or held at most (``VmHWM``); 0 where the system does not say."""
    with contextlib.suppress(OSError):
        match = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
        return int(match[1]) * 1024 if match else 0
    return 0


def machine(device: str, **more: Any) -> dict[str, Any]:
    """What numbers hold for: the device by name, versions, and what else is told of it."""
    if device != "cpu":
        name = torch.cuda.get_device_name()
    else:
        name = platform.processor() or platform.machine()
        with contextlib.suppress(OSError):
            match = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
            name = match[1] if match else name
    return {"device": name, "torch": torch.__version__, "uda": uda.__version__, **more}


def in_own_process(*arguments: str, limit: float) -> dict[str, Any]:
    """What a script prints as JSON in its last line; what went wrong, or took too long, as ``{"error": ...}``.

    Args:
        arguments: of Python, the script first.
        limit: seconds.
    """
    command = [sys.executable, *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        return {"error": f"longer than {limit:g} s"}
    if done.returncode:
        return {"error": reason(done.stderr, done.returncode)}
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def reason(errors: str, code: int) -> str:
    """Why a process failed, in one line: the last that it wrote."""
    return (errors.strip().splitlines() or [f"exit code {code}"])[-1][:LETTERS]


class Noise:
    """Four images of noise with labels in blocks, as a data set.

    Args:
        name: of the data set.
        size: height and width.
    """

    def __init__(self, name: str, size: Sequence[int]) -> None:
        self.name, self.size, self.space = name, tuple(size), CITYSCAPES19

    def __len__(self) -> int:
        return 4

    def unlabelled(self) -> Noise:
        """The same; nothing here reads labels that it should not."""
        return self

    def __getitem__(self, index: int) -> Sample:
        draws = torch.Generator().manual_seed(index)
        height, width = self.size
        blocks = torch.randint(0, len(self.space.names), (-(-height // BLOCK), -(-width // BLOCK)), generator=draws)
        label = blocks.repeat_interleave(BLOCK, 0).repeat_interleave(BLOCK, 1)[:height, :width].contiguous()
        image = torch.randint(0, 256, (3, height, width), generator=draws, dtype=torch.uint8)
        return Sample(image, label, f"{self.name}/{index}")

    def view(self, count: int = 2, labelled: bool = True) -> View:
        """A batch."""
        samples = [self[index % len(self)] for index in range(count)]
        images = torch.stack([sample.image for sample in samples]).float() / 255
        labels = torch.stack([sample.label for sample in samples]) if labelled else None
        windows = tuple(Window(at, self.size, 0, 0, *self.size) for at in range(count))
        return View(images, labels, None, tuple(sample.name for sample in samples), windows)
