"""One pass over a data set: everything that is kept of an image, from one decoding and one forward pass."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from uda.engine.inference import at_size
from uda.engine.scoring import most_probable
from uda.functional import cell_labels
from uda.gap.columns import image_columns
from uda.gap.regions import region_sums
from uda.gap.style import as_pixels
from uda.metrics import CalibrationError, confusion, miou
from uda.opencv import cv2
from uda.types import IGNORE, Sample, SegOutput

Floats = npt.NDArray[np.float64]
Bytes = npt.NDArray[np.uint8]
LOSS_SCALE = (0.0, 3.0)
"""Of the loss maps, in nats; 3.0 is the loss of a guess among twenty classes."""
QUALITY = 60
"""Of the lossy pictures (WebP)."""


@dataclass(frozen=True)
class Measured:
    """What is kept of one image under one model."""

    columns: dict[str, float]
    """Numbers of the image and of the prediction; those that need a label are NaN without one."""
    loss_sum: float
    pixels: int
    """Labelled pixels."""
    confusion: npt.NDArray[np.int64]
    """``(C, C)``, all 0 without a label."""
    regions: dict[str, Floats]
    """See :func:`uda.gap.regions.region_sums`; empty without a label."""
    features: npt.NDArray[np.float32]
    """``(D,)`` bottleneck features, mean over the image."""
    class_features: npt.NDArray[np.float32] | None
    """``(C, D)`` mean over the cells that one class fills; NaN for a class that fills none."""
    pictures: dict[str, bytes]
    """WebP files by what they show: image, label, prediction, loss, error."""


def measure(
    sample: Sample,
    output: SegOutput | Tensor,
    label: Tensor | None,
    palette: Bytes,
    *,
    columns: Mapping[str, float] | None = None,
    width: int = 256,
    by_class: bool = False,
    picture_names: Sequence[str] = ("image", "label", "prediction", "loss", "error"),
) -> Measured:
    """Measure one image.

    Args:
        sample: the image, as decoded.
        output: of the model for it, a batch of one; logits of any size, brought to the label's (or the image's).
        label: ``(H, W)`` int64 in the model's classes, or ``None``.
        palette: ``(C, 3)`` uint8 colours.
        columns: of the image, where they are known already.
        width: of the pictures, at most, pixels.
        by_class: pool the features by class as well.
        picture_names: which pictures to draw.
    """
    logits = output.logits if isinstance(output, SegOutput) else output
    size = sample.image.shape[-2:] if label is None else label.shape[-2:]
    logits = at_size(logits.detach().float(), size)
    classes = logits.shape[1]
    logs = logits.log_softmax(1)
    confidence, prediction = logs[0].amax(0).exp(), most_probable(logits[0])
    pixels = as_pixels(sample.image)
    numbers = dict(image_columns(pixels) if columns is None else columns)
    numbers["confidence"] = float(confidence.mean())
    numbers["entropy"] = -float(logs.exp().mul_(logs).sum(1).mean()) / math.log(classes) if classes > 1 else 0.0
    losses: npt.NDArray[np.float32] | None = None
    matrix, regions = np.zeros((classes, classes), np.int64), {}
    loss_sum, count, mean_iou, calibration = math.nan, 0, math.nan, math.nan
    if label is not None:
        label = label.to(logits.device)
        pixel_losses = F.nll_loss(logs, label[None], ignore_index=IGNORE, reduction="none")[0]
        losses, ids = pixel_losses.cpu().numpy(), label.cpu().numpy()
        regions = region_sums(losses, ids, classes)
        matrix = confusion(prediction, label, classes).cpu().numpy()
        count = int(matrix.sum())
        loss_sum = float(regions["class"][0].sum()) if count else math.nan
        mean_iou = float(miou(torch.from_numpy(matrix), over="labelled"))
        errors = CalibrationError()
        errors.add(confidence, prediction, label)
        calibration = errors.value() if count else math.nan
    numbers |= {"loss": loss_sum / count if count else math.nan, "miou": mean_iou, "calibration_error": calibration}
    maps, cells = _features(output, label, classes if by_class else 0)
    drawn = _pictures(pixels, prediction.cpu().numpy(), None if label is None else label.cpu().numpy(), losses,
                      palette, width)  # fmt: skip
    pictures = {name: drawn[name] for name in picture_names if name in drawn}
    return Measured(numbers, loss_sum, count, matrix, regions, maps, cells, pictures)


def _features(
    output: SegOutput | Tensor, label: Tensor | None, classes: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32] | None]:
    if not isinstance(output, SegOutput):
        return np.zeros(0, np.float32), None
    features = output.features.detach().float()[0]
    pooled = features.mean((1, 2)).cpu().numpy()
    if label is None or not classes:
        return pooled, None
    cells = cell_labels(label[None], features.shape[-2:], classes)[0]
    means = [features[:, cells == k].mean(1).cpu().numpy() for k in range(classes)]
    return pooled, np.stack(means)


def _pictures(
    image: Bytes,
    prediction: npt.NDArray[np.int64],
    label: npt.NDArray[np.int64] | None,
    losses: npt.NDArray[np.float32] | None,
    palette: Bytes,
    width: int,
) -> dict[str, bytes]:
    """Small WebP files; label maps without loss, each pixel the nearest one's."""
    factor = min(1.0, width / image.shape[1])
    size = (max(1, round(image.shape[1] * factor)), max(1, round(image.shape[0] * factor)))
    table = np.zeros((256, 3), np.uint8)
    table[: len(palette)] = palette

    def small(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return np.asarray(cv2.resize(array, size, interpolation=cv2.INTER_NEAREST))

    pictures = {
        "image": webp(np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA))),
        "prediction": webp(table[small(prediction.astype(np.uint8))], lossless=True),
    }
    if label is not None and losses is not None:
        ignored = label == IGNORE
        shown = np.where(ignored, 0, losses).astype(np.float32)
        shown = np.asarray(cv2.resize(shown, size, interpolation=cv2.INTER_AREA))
        colours = (loss_colours()[(shown.clip(*LOSS_SCALE) / LOSS_SCALE[1] * 255).astype(np.uint8)]).copy()
        wrong = np.where(ignored, 2, prediction != label).astype(np.uint8)
        pictures["loss"] = webp(colours)
        pictures["label"] = webp(table[small(label.astype(np.uint8))], lossless=True)
        # right grey, wrong orange, ignored black: told apart by everyone
        pictures["error"] = webp(
            np.array([(200, 200, 200), (213, 94, 0), (0, 0, 0)], np.uint8)[small(wrong)], lossless=True
        )
    return pictures


def loss_colours() -> Bytes:
    """``(256, 3)`` uint8 of the loss map."""
    import matplotlib

    return np.asarray(matplotlib.colormaps["inferno"](np.arange(256))[:, :3] * 255).round().astype(np.uint8)


def webp(image: Bytes, *, lossless: bool = False) -> bytes:
    """``(H, W, 3)`` uint8 RGB as a WebP file."""
    quality = 101 if lossless else QUALITY
    written, data = cv2.imencode(".webp", image[..., ::-1], [cv2.IMWRITE_WEBP_QUALITY, quality])
    if not written:
        raise ValueError(f"an image of {image.shape[1]}x{image.shape[0]} pixels could not be written as WebP")
    return data.tobytes()
