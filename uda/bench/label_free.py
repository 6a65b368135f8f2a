"""What can be said of a run without labels of the target: the source's score, how sure the network is, pictures."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from uda.bench import build
from uda.config import BenchConfig, EvaluateSpec
from uda.data.check import show
from uda.data.label_spaces import LabelSpace
from uda.engine import evaluate
from uda.engine.certainty import CertaintySums, certainty
from uda.engine.inference import Inference
from uda.engine.predict import label_map
from uda.functional.sampling import evenly_spaced
from uda.models.batch_norm import domain_statistics, normalising
from uda.types import LabelledDataset, Sample, UnlabelledDataset

IMAGES = 100
"""At most so many of a domain are looked at, evenly spaced."""
PICTURES = 6
"""Rows of the sheet of predictions."""
SHEET = "predictions.png"
"""Target images beside what the network predicts, in a run's folder."""


def look(
    config: BenchConfig, spec: EvaluateSpec, model: nn.Module, folder: Path, precision: str
) -> dict[str, dict[str, Any]]:
    """Look at a trained network on the images that it was trained on.

    Args:
        config: of the run; without ``source_val``, the source's score is of the training images.
        spec: how the run is scored.
        model: trained, on its device.
        folder: gets ``predictions.png``.
        precision: of the run.

    Returns:
        By domain, ``source`` and ``target``, the values of :class:`~uda.engine.certainty.Certainty`; of the source
        ``miou`` in [0, 1] (``None`` where no pixel is labelled) and ``seen``, whether it was trained on those images.
    """
    space = build.build_space(config.space)
    seen = config.source_val is None
    source: LabelledDataset = build.open_source(
        config.source if config.source_val is None else [config.source_val], config.space
    )
    target = build.open_dataset(config.target, config.space).unlabelled()
    sums, some = CertaintySums(space.names), Spaced(source, IMAGES)
    scored = evaluate(
        model, cast(LabelledDataset, some), inference=spec.on("source"), precision=precision,
        domain=domain_statistics("source"), watch=sums.add,
    )  # fmt: skip
    miou = scored.miou()
    images = Spaced(target, IMAGES)
    certain = certainty(
        model, images, space.names, inference=spec.on("target"), precision=precision, domain=domain_statistics("target")
    )
    report: dict[str, dict[str, Any]] = {
        "source": asdict(sums.certainty()) | {"miou": miou if miou == miou else None, "seen": seen},
        "target": asdict(certain),
    }
    with normalising(model.eval(), domain_statistics("target")):
        show(_Predicted(model, target, space, spec.on("target"), precision), folder / SHEET, PICTURES)
    return report


class Spaced:
    """Some of the samples of a data set, evenly spaced over it.

    Args:
        dataset: any.
        limit: so many of its samples at most.
    """

    def __init__(self, dataset: UnlabelledDataset, limit: int) -> None:
        self.name, self._dataset = dataset.name, dataset
        self.indices = evenly_spaced(len(dataset), limit)
        self.space = getattr(dataset, "space", None)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        return self._dataset[self.indices[index]]


class _Predicted:
    """Images with the network's predictions for labels."""

    def __init__(
        self, model: nn.Module, images: UnlabelledDataset, space: LabelSpace, inference: Inference, precision: str
    ) -> None:
        self.name, self.space = images.name, space
        self._model, self._images, self._inference, self._precision = model, images, inference, precision

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Sample:
        sample = self._images[index]
        image = sample.image.permute(1, 2, 0).numpy()
        labels = label_map(self._model, image, self._inference, precision=self._precision)
        return Sample(sample.image, torch.from_numpy(labels).long(), sample.name)

    def unlabelled(self) -> UnlabelledDataset:
        """The images alone."""
        return self._images
