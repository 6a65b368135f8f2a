"""Passes over a data set, chunk by chunk, each kept in the working folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from uda.gap.asking import Asker
from uda.gap.columns import IMAGE_COLUMNS, image_columns
from uda.gap.measure import Measured, measure
from uda.gap.results import DomainResult, Progress
from uda.gap.store import CHUNK, Store, chunks, pack, unpack
from uda.gap.style import StyleSums, as_pixels
from uda.gap.threads import in_threads
from uda.types import LabelledDataset, Sample, SegOutput, UnlabelledDataset


class Pass:
    """Passes over a data set, chunk by chunk."""

    def __init__(
        self, store: Store, palette: npt.NDArray[np.uint8], width: int, by_class: bool, watch: Progress
    ) -> None:
        self.store, self.palette, self.width, self.by_class, self.watch = store, palette, width, by_class, watch
        # a chunk's pictures are wanted one by one, in no order; a hundred chunks' are a few megabytes
        self._pictures_of = lru_cache(maxsize=128)(_pictures_of)

    def base(self, ask: Asker, domain: str, dataset: UnlabelledDataset) -> DomainResult:
        """Decode, keep and measure every image of a data set."""
        labelled = isinstance(dataset, LabelledDataset) and getattr(dataset, "labelled", True)
        sums, rows = StyleSums(), []
        names: list[str] = []
        with self.watch(f"{domain}: measured", len(dataset)) as tick:
            for part in chunks(len(dataset), CHUNK):
                content = self.store.chunk(
                    f"before_{domain}_{part.start:06d}", partial(self._part, ask, domain, dataset, part, labelled)
                )
                for row in content["rows"]:
                    rows.append(unpack(row))
                names += content["names"]
                _add(sums, content["style"])
                for _ in part:
                    tick()
        sequences = tuple(getattr(dataset, "sequences", None) or names)
        return DomainResult(dataset.name, tuple(names), sequences, rows, sums.style(), labelled)

    def _part(self, ask: Asker, domain: str, dataset: UnlabelledDataset, part: range, labelled: bool) -> dict[str, Any]:
        def outputs() -> Iterator[tuple[Sample, SegOutput | Tensor]]:
            for index in part:
                sample = dataset[index].checked()
                if not labelled:
                    sample = sample._replace(label=None)
                self.store.put_sample(domain, index, sample)
                yield sample, ask.of_sample(sample)

        def row(task: tuple[Sample, SegOutput | Tensor]) -> tuple[dict[str, Any], str, StyleSums]:
            sample, output = task
            pixels = as_pixels(sample.image)
            columns, own = image_columns(pixels), StyleSums()
            own.add(pixels, columns["noise"])
            return self.row(sample, output, columns), sample.name, own

        rows, names, styles = zip(*in_threads(row, outputs()), strict=True)
        sums = StyleSums()
        for own in styles:
            _add(sums, _sums(own))
        return {"rows": list(rows), "names": list(names), "style": _sums(sums)}

    def again(self, ask: Asker, domain: str, before: DomainResult) -> list[Measured]:
        """Measure the kept images of a domain with another network."""
        rows: list[Measured] = []

        def make(part: range) -> dict[str, Any]:
            samples = map(partial(self.store.sample, domain), part)
            tasks = ((s, ask.of_sample(s), before.before[k].columns) for k, s in zip(part, samples, strict=True))
            row = partial(self.row, pictures=("prediction", "loss", "error"))
            return {"rows": list(in_threads(lambda task: row(*task), tasks))}

        with self.watch(f"{domain}: after", len(before.before)) as tick:
            for part in chunks(len(before.before), CHUNK):
                content = self.store.chunk(f"after_{domain}_{part.start:06d}", partial(make, part))
                rows += [unpack(row) for row in content["rows"]]
                for _ in part:
                    tick()
        return rows

    def row(
        self,
        sample: Sample,
        output: SegOutput | Tensor,
        columns: Mapping[str, float],
        pictures: Sequence[str] = ("image", "label", "prediction", "loss", "error"),
    ) -> dict[str, Any]:
        """One image, as it is kept."""
        numbers = {name: columns[name] for name in IMAGE_COLUMNS}
        try:
            return pack(measure(
                sample, output, sample.label, self.palette, columns=numbers, width=self.width, by_class=self.by_class,
                picture_names=pictures,
            ))  # fmt: skip
        except (RuntimeError, IndexError, ValueError) as error:
            raise ValueError(f"{sample.name}: {_label_problem(sample, output) or error}") from error

    def pictures(self, domain: str, state: str, index: int) -> dict[str, bytes]:
        """Of one image, from the working folder."""
        start = index - index % CHUNK
        return self._pictures_of(self.store.folder / f"{state}_{domain}_{start:06d}.pt")[index - start]


def _pictures_of(chunk: Path) -> list[dict[str, bytes]]:
    return [unpack(row, pictures=True).pictures for row in torch.load(chunk, weights_only=True)["rows"]]


def _label_problem(sample: Sample, output: SegOutput | Tensor) -> str | None:
    logits = output.logits if isinstance(output, SegOutput) else output
    if sample.label is None:
        return None
    highest = int(sample.label.masked_fill(sample.label == 255, -1).max())
    classes = logits.shape[1]
    return f"label {highest} but the model has classes 0..{classes - 1}" if highest >= classes else None


def _sums(sums: StyleSums) -> dict[str, Any]:
    return {
        "counts": torch.from_numpy(sums.counts),
        "low": torch.from_numpy(sums.low),
        "low_power": torch.from_numpy(sums.low_power),
        "high": torch.from_numpy(sums.high),
        "noise": sums.noise,
        "sizes": [list(size) for size in sums.sizes],
    }


def _add(sums: StyleSums, content: Mapping[str, Any]) -> None:
    sums.counts += content["counts"].numpy()
    sums.low += content["low"].numpy()
    sums.low_power += content["low_power"].numpy()
    sums.high += content["high"].numpy()
    sums.noise += content["noise"]
    sums.sizes += [(size[0], size[1]) for size in content["sizes"]]
