"""How predictions are made: input size, sliding windows, scales, mirrored copies, heads; by default one plain pass.

``docs/evaluation.md`` has each paper's evaluation in these options.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import nn
from torch.nn import functional as F

from uda.engine.precision import autocast, widened
from uda.engine.settings import Closed
from uda.functional import cut_window
from uda.methods.base import TestTimeMethod
from uda.models import average_slides, slide_boxes
from uda.opencv import cv2
from uda.types import IGNORE, LabelledDataset, Sample, SegOutput, UnlabelledDataset, Window

if TYPE_CHECKING:
    from torch import Tensor


class Inference(Closed):
    """How a network predicts an image, and at which size the prediction is scored.

    An image is resized to ``input_size`` (or by ``scale``) and from there to each of ``scales``; each copy, mirrored
    ones too, goes through the network, whole or in windows. The results are resized and averaged. All resizing is
    bilinear with ``align_corners=False``, where the authors before 2021 have it true.

    Raises:
        ValueError: a value out of its range, or two that do not go together.
    """

    input_size: tuple[int, int] | None = None
    """Height and width that images are brought to, whatever their aspect; by default their own."""
    scale: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """Resize of the images by a factor, in place of ``input_size``."""
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    """Of the images, antialiased where they shrink; ``bicubic`` is Pillow's."""
    scales: tuple[float, ...] = Field(default=(1.0,), min_length=1)
    """Sizes of the copies whose predictions are averaged, relative to the input."""
    flip: bool = False
    """Average the prediction of the mirrored copy as well."""
    window: tuple[int, int] | None = None
    """Height and width of sliding windows over the input, as mmsegmentation moves them: the last of an axis is moved
    back to end at the border, and the logits are averaged where windows overlap. By default the whole input at once."""
    stride: tuple[int, int] | None = None
    """Rows and columns from one window to the next; by default half a window."""
    aux: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Weight of the auxiliary classifier's logits, added to the main ones."""
    average: Literal["logits", "probabilities"] = "logits"
    """What is resized and averaged over scales and mirrored copies. Probabilities are taken from the logits as the
    network gives them, before they are resized."""
    score_at: Literal["label", "input"] = "label"
    """``input``: predictions have the input's size, and labels are brought to it, each pixel the nearest one's."""

    @model_validator(mode="after")
    def _consistent(self) -> Inference:
        for name in ("input_size", "window", "stride"):
            size = getattr(self, name)
            if size is not None and min(size) < 1:
                raise ValueError(f"{name} is {size}, must be (height, width) of at least 1 pixel each")
        if not all(0 < scale < math.inf for scale in self.scales):
            raise ValueError(f"scales is {self.scales}, must be numbers > 0")
        if self.input_size is not None and self.scale != 1:
            raise ValueError(f"input_size is {self.input_size} and scale {self.scale}; only one of them can hold")
        if self.stride is not None and self.window is None:
            raise ValueError(f"stride is {self.stride}, but there is no window that it could move")
        if any(step > side for step, side in zip(self.stride or (), self.window or (), strict=False)):
            raise ValueError(f"stride is {self.stride}, must not be larger than the window {self.window}")
        return self

    @property
    def several_passes(self) -> bool:
        """Whether one image may go through the network more than once."""
        return self.window is not None or self.flip or len(self.scales) > 1

    @property
    def logits_of_one_pass(self) -> bool:
        """Whether what is predicted is what the network gives, but for the size."""
        return not self.several_passes and self.average == "logits"

    def scored_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the predictions that are scored, of an image of this size."""
        if self.score_at == "label":
            return height, width
        return self.input_size or (math.floor(height * self.scale), math.floor(width * self.scale))


PLAIN = Inference()
"""One pass over the whole image at its own size."""


def predict_logits(
    model: nn.Module,
    images: Tensor,
    inference: Inference = PLAIN,
    *,
    precision: str = "fp32",
    size: Sequence[int] | None = None,
    resized: bool = True,
) -> Tensor:
    """Logits ``(N, C, h, w)`` of images, without gradient, in the mode that the model is in.

    Args:
        model: images -> :class:`SegOutput` or logits of any size; a test-time method adapts on them.
        images: ``(N, 3, H, W)`` float in [0, 1], on the model's device.
        inference: how. With several passes the sum is held in float32, beside one pass's logits at a time.
        precision: ``bf16`` and ``fp16`` run the forward under autocast; of ``fp16`` float32 comes out.
        size: height h and width w; the images' own by default.
        resized: if false, and where :attr:`Inference.logits_of_one_pass`, they have the size that the network gives.

    Returns:
        the mean of the passes; the logarithm of the mean where probabilities are averaged.

    Raises:
        ValueError: several passes through a test-time method that adapts to each of them; an auxiliary classifier is
            wanted that the model does not have.
    """
    check_passes(inference, model)
    size = tuple(size if size is not None else images.shape[-2:])
    passes = [(scale, mirrored) for scale in inference.scales for mirrored in (False, True)[: 1 + inference.flip]]
    total: Tensor | None = None
    for scale, mirrored in passes:
        scores = _scores(model, resize_images(images, inference, scale), mirrored, inference, precision)
        if resized or not inference.logits_of_one_pass:
            scores = at_size(scores, size)
        if len(passes) == 1:
            total = scores
        else:
            total = torch.zeros_like(scores, dtype=torch.float32) if total is None else total
            total += scores
        del scores
    assert total is not None
    if len(passes) > 1:
        total /= len(passes)
    return total.clamp_(min=torch.finfo(total.dtype).tiny).log_() if inference.average == "probabilities" else total


def at_size(scores: Tensor, size: Sequence[int]) -> Tensor:
    """Logits or probabilities ``(N, C, h, w)`` at another size, bilinear about the centres of pixels.

    On a CPU OpenCV does it, plane by plane, in a third of PyTorch's time; it rounds the pixels' weights differently, by
    1e-5 of the result at most. Where a gradient is wanted PyTorch does it.
    """
    height, width = int(size[0]), int(size[1])
    if tuple(scores.shape[-2:]) == (height, width):
        return scores
    wants_gradient = scores.requires_grad and torch.is_grad_enabled()
    if scores.device.type != "cpu" or scores.dtype != torch.float32 or wants_gradient:
        return F.interpolate(scores, size=(height, width), mode="bilinear", align_corners=False)
    planes = scores.detach().flatten(0, 1).numpy()
    resized = torch.empty(len(planes), height, width)
    for plane, place in zip(planes, resized.numpy(), strict=True):
        cv2.resize(np.ascontiguousarray(plane), (width, height), dst=place, interpolation=cv2.INTER_LINEAR)
    return resized.view(len(scores), -1, height, width)


def check_passes(inference: Inference, model: Any) -> None:
    """Refuse several passes through what adapts to each.

    Raises:
        ValueError: names the test-time method and what to leave out.
    """
    if inference.several_passes and isinstance(model, TestTimeMethod) and model.adapts_on_scored:
        raise ValueError(
            f"{type(model).__name__} adapts to every pass, and window, scales or flip would adapt it several times to "
            "one image; leave them out with this method"
        )


def resize_images(images: Tensor, inference: Inference, scale: float = 1.0) -> Tensor:
    """Images ``(N, 3, H, W)`` float in [0, 1] as the network is to see them, at one of the ``scales``."""
    options: dict[str, Any]
    if inference.input_size is not None:
        size = tuple(max(round(side * scale), 1) for side in inference.input_size)
        options = {"size": size, "antialias": True}
        same = size == tuple(images.shape[-2:])
    else:
        scale *= inference.scale
        # the factor itself, not the size: a rounded size would shift the pixels
        options = {"scale_factor": scale, "antialias": scale < 1}
        same = scale == 1
    if same:
        return images
    resized = F.interpolate(images, mode=inference.interpolation, **options)
    return resized.clamp(0, 1) if inference.interpolation == "bicubic" else resized


def resize_labels(labels: Tensor, size: Sequence[int]) -> Tensor:
    """Labels ``(N, H, W)`` int64 at another size, each pixel the one nearest to its centre, as Pillow does it."""
    height, width = labels.shape[-2:]
    if (height, width) == tuple(size):
        return labels
    return cut_window(labels, Window(0, (height, width), 0, 0, height, width), size, outside=IGNORE)


class ResizedImages:
    """Images of a data set as the network will see them, for test-time methods that look at some beforehand.

    Args:
        dataset: whose labels stay out of reach.
        inference: how they will be predicted.
    """

    def __init__(self, dataset: UnlabelledDataset, inference: Inference) -> None:
        self.name = dataset.name
        self._images = dataset.unlabelled() if isinstance(dataset, LabelledDataset) else dataset
        self._inference = inference

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Sample:
        sample = self._images[index]
        image = sample.as_float()[None]
        resized = resize_images(image, self._inference)
        return sample if resized is image else sample._replace(image=(resized[0] * 255).round().byte())


def _scores(model: nn.Module, inputs: Tensor, mirrored: bool, inference: Inference, precision: str) -> Tensor:
    """Logits or probabilities of one copy of the images, upright."""
    inputs = inputs.flip(-1) if mirrored else inputs
    if inference.window is None:
        scores = _forward(model, inputs, inference.aux, precision)
    else:
        height, width = inputs.shape[-2:]
        boxes = slide_boxes(height, width, inference.window, stride=inference.stride)
        crops = (_crop(model, inputs[..., top:bottom, left:right], inference.aux, precision)
                 for top, bottom, left, right in boxes)  # fmt: skip
        scores = average_slides(crops, boxes, 1, (height, width))
    if inference.average == "probabilities":
        scores = scores.float().softmax(1)
    return scores.flip(-1) if mirrored else scores


def _crop(model: nn.Module, crop: Tensor, aux: float, precision: str) -> Tensor:
    """Logits of one window at its own size."""
    logits = _forward(model, crop, aux, precision).float()
    return at_size(logits, crop.shape[-2:])


def _forward(model: nn.Module, images: Tensor, aux: float, precision: str) -> Tensor:
    """One pass: the main logits and ``aux`` times the auxiliary ones, at the network's own size."""
    # a test-time method may need gradients; it stops them itself where it does not
    with autocast(images.device.type, precision), torch.set_grad_enabled(isinstance(model, TestTimeMethod)):
        output = widened(model(images))
    if isinstance(output, SegOutput):
        logits = output.logits.detach()
        return logits + aux * output.auxiliary.detach() if aux else logits
    if aux:
        raise ValueError(f"aux is {aux}, but {type(model).__name__} gives plain logits, of one classifier")
    plain: Tensor = output.detach()
    return plain
