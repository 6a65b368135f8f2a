"""What a run writes while it trains: TensorBoard events and the same scalars as JSON lines."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from uda.data.encode import colourise
from uda.files import atomic_write
from uda.types import IGNORE

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor
    from torch.utils.tensorboard import SummaryWriter

    from uda.step import Step

TAIL = 1 << 16
"""Bytes at the end of a run's scalars that its last record is looked for in."""
PICTURES = 2
"""Images of a batch that are written."""


class RunLog:
    """Scalars and pictures of one run folder.

    After a kill the run is resumed at an earlier step: what was written at or after ``start`` is cut from
    ``scalars.jsonl`` and marked as superseded in TensorBoard, so that both read as if the run had never stopped.

    Args:
        out: the run folder; ``None`` writes nothing.
        start: first step that will be written.
    """

    def __init__(self, out: Path | None, start: int = 0) -> None:
        self.out = out
        self._writer: SummaryWriter | None = None
        if out is None:
            return
        from torch.utils.tensorboard import SummaryWriter  # not before something is written

        out.mkdir(parents=True, exist_ok=True)
        self._lines = out / "scalars.jsonl"
        earlier = [line for line in read_scalars(out) if line["step"] < start]
        with atomic_write(self._lines) as file:
            file.write("".join(json.dumps(line) + "\n" for line in earlier))
        # at 0 too: a run that was killed before its first checkpoint left curves that nothing goes on from
        self._writer = SummaryWriter(str(out / "tensorboard"), purge_step=start)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Write scalars by tag at a step."""
        if self._writer is None:
            return
        for tag, value in values.items():
            self._writer.add_scalar(tag, value, step)
        self._writer.flush()  # a checkpoint that follows must not be newer than the curves
        with self._lines.open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")

    def timing(self, tag: str, value: float, step: int) -> None:
        """Write a scalar that is another in every run, in TensorBoard alone: the lines are equal for equal runs."""
        if self._writer is not None:
            self._writer.add_scalar(tag, value, step)

    def pictures(self, tag: str, images: Tensor, step: int) -> None:
        """Write the first images ``(N, 3, H, W)`` float in [0, 1] of a batch, side by side."""
        if self._writer is not None:
            row = torch.cat(list(images[:PICTURES].detach().float().cpu().clamp(0, 1)), dim=-1)
            self._writer.add_image(tag, row, step)

    def step_pictures(self, step: Step, colours: np.ndarray, names: Mapping[str, str] | None = None) -> None:
        """Write, for every view of a step, its images (``original`` too where a method restyled them), the student's
        prediction and, where labels are known, label and error.

        Args:
            step: whose views.
            colours: ``(C, 3)`` uint8 by train id.
            names: of views, in place of their own in the tags.
        """
        if self._writer is None:
            return
        for name in step.view_names:
            view, tag = step.view(name), (names or {}).get(name, name)
            self.pictures(f"{tag}/input", view.images, step.index)
            if name in step.original_names and step.original(name).images is not view.images:
                self.pictures(f"{tag}/original", step.original(name).images, step.index)
            prediction = step.infer(view.images).logits.argmax(1)
            self.pictures(f"{tag}/prediction", paint(prediction, colours), step.index)
            if view.labels is not None:
                wrong = (prediction != view.labels) & (view.labels != IGNORE)
                self.pictures(f"{tag}/label", paint(view.labels, colours), step.index)
                self.pictures(f"{tag}/error", wrong[:, None].float().expand(-1, 3, -1, -1), step.index)

    def text(self, tag: str, text: str) -> None:
        """Write a text under a tag, at step 0."""
        if self._writer is not None:
            self._writer.add_text(tag, f"```\n{text}\n```", 0)

    def hyper_parameters(self, values: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
        """Write the run's hyper-parameters beside the metrics they led to (TensorBoard's HParams tab)."""
        if self._writer is None:
            return
        from torch.utils.tensorboard.summary import hparams

        plain = {
            key: value if isinstance(value, (bool, int, float, str)) else str(value) for key, value in values.items()
        }
        for summary in hparams(plain, dict(metrics)):
            self._writer._get_file_writer().add_summary(summary)

    def close(self) -> None:
        """Flush everything to disk."""
        if self._writer is not None:
            self._writer.close()


def paint(labels: Tensor, colours: np.ndarray) -> Tensor:
    """Label maps ``(N, H, W)`` as colours ``(N, 3, H, W)`` float in [0, 1]; ignored pixels are black."""
    return torch.from_numpy(colourise(labels.cpu(), colours)).permute(0, 3, 1, 2).float() / 255


def last_scalars(out: Path) -> dict[str, Any]:
    """The last whole record of :func:`read_scalars`, of a run that may be writing; empty where there is none."""
    try:
        with (out / "scalars.jsonl").open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL))
            lines = file.read().splitlines()
    except OSError:
        return {}
    for line in reversed(lines):
        with contextlib.suppress(ValueError):
            record = json.loads(line)
            if isinstance(record, dict) and isinstance(record.get("step"), int) and "lr" in record:
                return record
    return {}


def read_scalars(out: Path) -> list[dict[str, Any]]:
    """The scalars of a run folder, one record a written step; lines cut short or damaged are left out."""
    path = out / "scalars.jsonl"
    records = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []:
        with contextlib.suppress(ValueError):
            record = json.loads(line)
            if isinstance(record, dict) and isinstance(record.get("step"), int):
                records.append(record)
    return records
