"""Evaluation: per-image confusion matrices over a labelled data set, from which every score is derived."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from uda.data.classes import LabelSpace
from uda.engine.inference import PLAIN, Inference, predict_logits, resize_labels
from uda.engine.merging import How, Merging
from uda.engine.scoring import predict_and_loss
from uda.files import atomic_write
from uda.methods.base import TestTimeMethod
from uda.metrics import confusion, iou, miou
from uda.models.batch_norm import Domain, normalising
from uda.models.modes import evaluating
from uda.processes import Processes
from uda.registry import nearest
from uda.types import IGNORE, LabelledDataset, Sample

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Evaluation:
    """Scores of one model on one data set, kept per image so that intervals can be made later."""

    confusions: np.ndarray
    """``(n, C, C)`` int64 per image; rows ground truth, columns predictions."""
    losses: np.ndarray
    """``(n,)`` float64 mean cross-entropy per image over labelled pixels; NaN for an image without any."""
    names: tuple[str, ...]
    class_names: tuple[str, ...]

    @property
    def confusion(self) -> np.ndarray:
        """``(C, C)`` summed over the data set."""
        return np.asarray(self.confusions.sum(axis=0))

    def iou(self) -> np.ndarray:
        """``(C,)`` IoU in [0, 1]; NaN for a class without labels, whatever was predicted."""
        return np.asarray(iou(torch.from_numpy(self.confusion), "labelled").numpy())

    def miou(self, classes: Sequence[str] | None = None) -> float:
        """Mean IoU over the classes that occur in the labels, in [0, 1]; NaN where no pixel is labelled.

        ``over="labelled"`` in the words of :mod:`uda.metrics`; ADVENT and others count a class that is only ever
        predicted as 0, here all models are averaged over the same classes.

        Args:
            classes: names of the classes of the mean, all by default (13 of SYNTHIA's 16). Pixels of the others still
                count as errors of these.

        Raises:
            ValueError: an unknown class; the message has the nearest known one.
        """
        subset = None if classes is None else class_indices(classes, self.class_names)
        return float(miou(torch.from_numpy(self.confusion), subset, over="labelled"))

    def loss(self) -> float:
        """Mean over images of the per-image cross-entropy (natural log)."""
        return _nanmean(self.losses)

    def save(self, path: Path) -> None:
        """Write as compressed ``.npz``, whole or not at all."""
        with atomic_write(path, binary=True) as file:
            np.savez_compressed(
                file, confusions=self.confusions, losses=self.losses, names=self.names, class_names=self.class_names
            )

    @classmethod
    def load(cls, path: Path) -> Evaluation:
        """Read what :meth:`save` wrote."""
        with np.load(path) as file:
            return cls(
                file["confusions"], file["losses"], tuple(map(str, file["names"])), tuple(map(str, file["class_names"]))
            )


def evaluate(
    model: nn.Module,
    dataset: LabelledDataset,
    *,
    batch_size: int = 1,
    inference: Inference = PLAIN,
    device: torch.device | str | None = None,
    precision: str = "fp32",
    domain: Domain = "target",
    progress: Callable[[Iterable[Tensor]], Iterable[Tensor]] | None = None,
    watch: Callable[[Tensor], None] | None = None,
    space: LabelSpace | str | None = None,
    merging: How = "sum",
    processes: Processes | None = None,
) -> Evaluation:
    """Score a model on a labelled data set, by default in one pass at the images' own size.

    Args:
        model: images ``(N, 3, H, W)`` in [0, 1] -> :class:`SegOutput`. A segmenter is put in evaluation mode and
            back; a :class:`TestTimeMethod` keeps the modes it set itself and sees the images in the data set's order.
        dataset: labelled images, of any sizes, with labels in the model's classes.
        batch_size: consecutive images of equal size that go through the model together.
        inference: how images are predicted, and at which size predictions are scored.
        device: where to run; by default where the model's parameters are.
        precision: ``bf16`` and ``fp16`` run the forward under autocast.
        domain: of the images; whose batch-norm statistics serve, where the model keeps a set for each.
        progress: wraps the batches, for a progress bar.
        watch: is given each batch's logits ``(N, C, h, w)`` at the size that is scored.
        space: a coarser label space to score in; the data set is mapped to it, unless it is in it already. The model
            must say which classes it has.
        merging: ``"sum"``: the coarse class whose fine classes' probabilities have the highest sum; ``"argmax"``: that
            of the most probable fine class. The loss is that of the sums either way.
        processes: that score the data set together, each its share of the images, none of them twice; each gets the
            evaluation of all. ``progress`` and ``watch`` see this one's share.

    Raises:
        ValueError: an empty data set, classes that the model does not have (where it says which it has, as one from
            :func:`uda.models.load` and a trained one do; the same classes in another order are mapped by name), a label
            outside the model's classes (names the file and the value), or a model that cannot be predicted so (see
            :func:`~uda.engine.inference.predict_logits`).
    """
    if len(dataset) == 0:
        raise ValueError(f"{dataset.name}: no image to evaluate on")
    if processes is not None and isinstance(model, TestTimeMethod):
        raise ValueError(f"{type(model).__name__} sees images in their order; one process alone scores it")
    merged = None if space is None else Merging.of(_trained_space(model), space, merging)
    if merged is None:
        class_names, table = _by_name(model, dataset)
    else:
        dataset, class_names, table = merged.dataset(dataset), merged.new.names, None
        check_labelled(dataset)
    where = torch.device(device) if device is not None else next(model.parameters()).device
    # a test-time method keeps the modes that it set itself
    mode = nullcontext() if isinstance(model, TestTimeMethod) else evaluating(model)
    confusions: list[np.ndarray] = []
    losses: list[float] = []
    names: list[str] = []
    indices = range(len(dataset)) if processes is None else range(processes.rank, len(dataset), processes.world)
    batches: Iterable[list[Sample]] = same_size_batches(dataset, batch_size, indices)
    with mode, normalising(model, domain):
        for batch in progress(batches) if progress else batches:  # type: ignore[arg-type]
            images = torch.stack([sample.checked().image for sample in batch]).to(where).float() / 255
            size = inference.scored_size(*images.shape[-2:])
            stacked = torch.stack([_label(sample) for sample in batch])
            labels = resize_labels((stacked if table is None else table[stacked]).to(where), size)
            whole = watch is not None or merged is not None
            batch_logits = predict_logits(model, images, inference, precision=precision, size=size, resized=whole)
            if watch is not None:
                watch(batch_logits)
            predictions = merged.predict(batch_logits) if merged is not None and merged.how == "argmax" else None
            if merged is not None:
                batch_logits = merged.scores(batch_logits)
            for at, (sample, logits, label) in enumerate(zip(batch, batch_logits, labels, strict=True)):
                _check_label(label, logits.shape[0], sample.name)
                prediction, loss = predict_and_loss(logits, label)
                if predictions is not None:
                    prediction = predictions[at]
                confusions.append(confusion(prediction, label, logits.shape[0]).cpu().numpy())
                losses.append(loss)
                names.append(sample.name)
    rows = list(zip(indices, confusions, losses, names, strict=True))
    if processes is not None:
        rows = sorted((row for share in processes.objects(rows) for row in share), key=lambda row: row[0])
    return Evaluation(
        np.stack([row[1] for row in rows]),
        np.array([row[2] for row in rows]),
        tuple(row[3] for row in rows),
        class_names,
    )


def _trained_space(model: nn.Module) -> LabelSpace:
    """The label space of the model's classes; ``ValueError`` where it does not say."""
    trained = getattr(model.model if isinstance(model, TestTimeMethod) else model, "space", None)
    if trained is None:
        raise ValueError("the model does not say which classes it has, so they cannot be merged; set model.space")
    space: LabelSpace = trained
    return space


def check_labelled(dataset: LabelledDataset) -> None:
    """See that a data set's labels are looked for.

    Raises:
        ValueError: it was opened with ``labelled=False``, which gives labels without a labelled pixel.
    """
    if not getattr(dataset, "labelled", True):
        raise ValueError(f"{dataset.name}: opened without labels (labelled=False), and they are needed here")


def _by_name(model: nn.Module, dataset: LabelledDataset) -> tuple[tuple[str, ...], Tensor | None]:
    """The model's classes, and a table from the data set's train ids to the model's where these differ."""
    if not hasattr(dataset, "space"):
        raise ValueError(f"{dataset.name}: an unlabelled data set cannot be evaluated on")
    check_labelled(dataset)
    own = tuple(dataset.space.names)
    trained = getattr(model.model if isinstance(model, TestTimeMethod) else model, "space", None)
    if trained is None or tuple(trained.names) == own:
        return own, None
    unknown = [name for name in own if name not in trained.names]
    if unknown:
        raise ValueError(
            f"{dataset.name}: the model was trained without {', '.join(map(repr, unknown[:3]))}"
            f"{f' and {len(unknown) - 3} more' if len(unknown) > 3 else ''} (its classes: {', '.join(trained.names)}); "
            "take the data set in the model's classes: dataset.remap(model.space)"
        )
    # what is no class stays none, so that it is refused below and not ignored
    table = torch.arange(256).clamp(min=len(trained.names))
    table[: len(own)] = torch.tensor([trained.names.index(name) for name in own])
    return tuple(trained.names), table


def same_size_batches(
    dataset: LabelledDataset, batch_size: int, indices: Sequence[int] | None = None
) -> Iterator[list[Sample]]:
    """Consecutive images of equal size, at most ``batch_size`` together, in the data set's order; all by default."""
    batch: list[Sample] = []
    for index in range(len(dataset)) if indices is None else indices:
        sample = dataset[index]
        if batch and (len(batch) == batch_size or sample.image.shape != batch[0].image.shape):
            yield batch
            batch = []
        batch.append(sample)
    if batch:
        yield batch


def class_indices(classes: Sequence[str], known: Sequence[str]) -> list[int]:
    """Train ids of classes by name.

    Raises:
        ValueError: no such class (the nearest is named), one that is named twice, or none at all.
    """
    for name in classes:
        if name not in known:
            raise ValueError(f"no class {name!r}; {nearest(str(name), known)}")
    if not classes or len(set(classes)) < len(classes):
        raise ValueError(f"classes are different and at least one, got {list(classes)}")
    return [list(known).index(name) for name in classes]


def _nanmean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def _label(sample: Sample) -> Tensor:
    if sample.label is None:
        raise ValueError(f"{sample.name}: an unlabelled data set cannot be evaluated on")
    return sample.label


def _check_label(label: Tensor, classes: int, name: str) -> None:
    highest = int(label.masked_fill(label == IGNORE, -1).max())
    if highest >= classes:
        raise ValueError(f"{name}: label {highest} but the model has classes 0..{classes - 1}")
