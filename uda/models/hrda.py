"""HRDA (Hoyer et al. 2022b): context at half resolution, detail crops at full resolution, learnt scale attention.

Two scales, 0.5 and 1. The attention ``a = sigmoid(raw)`` comes from the low-resolution features; the fused logits are
``up(a) * detail + up((1 - a) * context)``, with ``a`` zero outside the detail crop.

Departures: the attention head sees the encoder levels of any network, concatenated at the logits' size; sides of crops
are multiples of twice the network's divisor, and offsets of twice the logits' stride (HRDA: 8, so with a stride of 4);
the last offset can be drawn (the published code's draw leaves it out); without gradient the detail always covers the
whole image by sliding windows, as it does for HRDA's pseudo-labels and in its inference.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from uda.models.base import FrozenEncoder, SegmentationNetwork, check_images, encoder_and_head, pad_to, resize
from uda.models.recompute import Part, whole_part
from uda.processes import agreed
from uda.registry import Configurable
from uda.types import SegOutput

if TYPE_CHECKING:
    from torch import Tensor

Box = tuple[int, int, int, int]
"""Top, bottom, left and right of a crop in full-resolution pixels; bottom and right are outside."""


def slide_boxes(
    height: int, width: int, crop: tuple[int, int], overlap: bool = True, stride: tuple[int, int] | None = None
) -> list[Box]:
    """Windows of ``crop`` (height, width) that cover an image, row by row.

    They start every half crop (``overlap``), every crop, or every ``stride`` (rows, columns), at most a crop; the last
    of an axis are moved back to end at the border, as in mmsegmentation.
    """
    strides = stride or tuple(max(window // 2, 1) if overlap else window for window in crop)

    def starts(side: int, window: int, stride: int) -> list[int]:
        count = max(side - window + stride - 1, 0) // stride + 1
        return [max(min(k * stride, side - window), 0) for k in range(count)]

    return [
        (top, min(top + crop[0], height), left, min(left + crop[1], width))
        for top in starts(height, crop[0], strides[0])
        for left in starts(width, crop[1], strides[1])
    ]


def average_slides(crops: Iterable[Tensor], boxes: Sequence[Box], stride: int, size: tuple[int, int]) -> Tensor:
    """The mean of overlapping crops' logits.

    Args:
        crops: ``(N, C, h, w)`` logits of each box; a generator need not hold more than one of them.
        boxes: the crops' boxes in full-resolution pixels, at ``stride`` pixels a logit (truncated).
        size: height and width of the logits of the whole image.

    Returns:
        ``(N, C, *size)``; zero where no box lies.
    """
    total: Any = None
    for crop, (top, bottom, left, right) in zip(crops, boxes, strict=True):
        if total is None:
            total, count = crop.new_zeros(*crop.shape[:2], *size), crop.new_zeros(1, 1, *size)
        where = (..., slice(top // stride, bottom // stride), slice(left // stride, right // stride))
        total[where] += crop
        count[where] += 1
    mean: Tensor = total / count.clamp(min=1)
    return mean


def fuse_scales(
    context: Tensor, attention: Tensor, detail: Tensor, box: Box | None = None, stride: int = 4
) -> tuple[Tensor, Tensor]:
    """Fuse logits of the half-resolution image with those of the full-resolution crop.

    Args:
        context: ``(N, C, h, w)`` logits of the image at half resolution.
        attention: ``(N, C, h, w)`` or ``(N, 1, h, w)`` attention before the sigmoid.
        detail: ``(N, C, h_c, w_c)`` logits of the crop, or ``(N, C, 2h, 2w)`` without a box.
        box: the crop in full-resolution pixels; ``None`` for the whole image.
        stride: full-resolution pixels to one logit of ``detail``.

    Returns:
        The fused logits ``(N, C, 2h, 2w)``, and the attenuated context ``(1 - a) * context``, ``(N, C, h, w)``.
    """
    size = (2 * context.shape[-2], 2 * context.shape[-1])
    a = attention.sigmoid()
    if box is not None:
        low = [edge // (2 * stride) for edge in box]
        mask = torch.zeros_like(a[:1, :1])
        mask[..., low[0] : low[1], low[2] : low[3]] = 1
        a = a * mask
        high = [edge // stride for edge in box]
        inserted = detail.new_zeros(*detail.shape[:2], *size)
        inserted[..., high[0] : high[1], high[2] : high[3]] = detail
        detail = inserted
    attenuated = (1 - a) * context
    return resize(a, size) * detail + resize(attenuated, size), attenuated


class ScaleAttention(nn.Module):
    """Encoder maps -> raw attention: each embedded by a 1x1 convolution, resized, concatenated and fused (SegFormer's).

    Args:
        in_channels: channels of the maps.
        maps: attention maps that come out, C or 1.
        embed_channels: channels of the embeddings and the fusion.
    """

    def __init__(self, in_channels: Sequence[int], maps: int, embed_channels: int = 256) -> None:
        super().__init__()
        self.embed = nn.ModuleList(nn.Conv2d(channels, embed_channels, 1) for channels in in_channels)
        self.fuse = nn.Sequential(
            nn.Conv2d(len(in_channels) * embed_channels, embed_channels, 1, bias=False),
            nn.BatchNorm2d(embed_channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(embed_channels, maps, 1),
        )

    def forward(self, stages: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Attention before the sigmoid, ``(N, maps, *size)``."""
        embedded = [resize(embed(x), size) for embed, x in zip(self.embed, stages, strict=True)]
        out: Tensor = self.fuse(torch.cat(embedded, dim=1))
        return out


class HrdaSegmenter(Configurable, nn.Module):
    """A network at two resolutions with learnt scale attention; images in, :class:`~uda.types.SegOutput` out.

    Where gradients are recorded in train mode, one random detail crop is seen for the batch (torch's global random
    numbers); else the detail slides over the whole image. The logits are the fused ones; bottleneck features, the
    decoder's features and auxiliary logits are the context's. With a random crop, ``extra`` has ``"detail"``, its
    logits ``(N, C, bottom - top, right - left)`` at image resolution, and ``"detail_box"``, ``(4,)`` int64 on the CPU:
    top, bottom, left and right in the pixels of the image.

    Args:
        base: the network; shared by both resolutions.
        crop: height and width of the detail crop in pixels, rounded up to twice the base's divisor; ``None`` is half
            of each side of the image.
        class_attention: one attention map per class instead of one for all.
        embed_channels: width of the attention head.

    Raises:
        ValueError: a crop side below 1.
    """

    def __init__(
        self,
        base: SegmentationNetwork,
        crop: tuple[int, int] | None = None,
        class_attention: bool = True,
        embed_channels: int = 256,
    ) -> None:
        super().__init__()
        if crop is not None and min(crop) < 1:
            raise ValueError(f"crop must be at least 1 pixel on each side, got {crop}")
        self.base = base
        self.crop = crop
        self.num_classes = base.num_classes
        self.feature_channels = base.feature_channels
        self.has_aux = base.has_aux
        self.unit = 2 * max(base.divisor, 8)
        self.smallest = base.at_least * base.divisor
        self.levels = min(4, len(base.stage_channels) - 1)  # the first is the image itself in most encoders
        maps = base.num_classes if class_attention else 1
        self.attention = ScaleAttention(base.stage_channels[-self.levels :], maps, embed_channels)

    @property
    def encoder(self) -> nn.Module:
        """The base's encoder."""
        return self.base.encoder

    @property
    def mean_colour(self) -> tuple[float, ...]:
        """The base's."""
        return self.base.mean_colour

    def _pad(self, images: Tensor) -> Tensor:
        check_images(images)
        return pad_to(images, self.unit, -(-2 * self.smallest // self.unit))

    def _crop_size(self, height: int, width: int) -> tuple[int, int]:
        """The detail crop for a padded image."""
        wanted = self.crop or (height // 2, width // 2)
        high, wide = (-(-max(side, self.smallest) // self.unit) * self.unit for side in wanted)
        return min(high, height), min(wide, width)

    def _random_box(self, padded: Sequence[int], size: Sequence[int], grid: int) -> Box:
        """A crop of the padded image that starts inside the image, at multiples of ``grid`` pixels."""
        edges: list[int] = []
        for whole, side, crop in zip(padded, size, self._crop_size(*padded), strict=True):
            steps = min((whole - crop) // grid, (side - 1) // grid)
            start = int(agreed(torch.randint(steps + 1, ()))) * grid
            edges += [start, start + crop]
        return edges[0], edges[1], edges[2], edges[3]

    def _detail(self, images: Tensor, boxes: Sequence[Box], stride: int) -> Sequence[Tensor]:
        """Logits of crops of one size at ``stride`` pixels a logit, all in one batch."""
        top, bottom, left, right = boxes[0]
        logits = self.base.scores(torch.cat([images[..., y0:y1, x0:x1] for y0, y1, x0, x1 in boxes])).logits
        resized = resize(logits, ((bottom - top) // stride, (right - left) // stride))
        crops: tuple[Tensor, ...] = resized.unflatten(0, (len(boxes), images.shape[0])).unbind()
        return crops

    def forward(self, images: Tensor) -> SegOutput:
        """Predict images ``(N, 3, H, W)`` in [0, 1] of any size.

        Raises:
            ValueError: not float ``(N, 3, H, W)``.
        """
        padded = self._pad(images)
        (height, width), (full_height, full_width) = images.shape[-2:], padded.shape[-2:]
        half = (full_height // 2, full_width // 2)
        stages, context, aux, decoded = self.base.scores(resize(padded, half))
        stride = 2 ** round(math.log2(half[0] / context.shape[-2]))  # DeepLabV2's maps are a row larger
        size = (half[0] // stride, half[1] // stride)
        context = resize(context, size)
        attention = self.attention(stages[-self.levels :], size)
        crop, box = None, None
        if self.training and torch.is_grad_enabled():
            box = self._random_box((full_height, full_width), (height, width), 2 * stride)
            (crop,) = self._detail(padded, [box], stride)
            detail = crop
        else:
            boxes = slide_boxes(full_height, full_width, self._crop_size(full_height, full_width))
            # a teacher in train mode normalises all windows together, as the published code does
            turns = [boxes] if self.training else [[window] for window in boxes]
            crops = (crop for turn in turns for crop in self._detail(padded, turn, stride))
            detail = average_slides(crops, boxes, stride, (2 * size[0], 2 * size[1]))
        fused, _ = fuse_scales(context, attention, detail, box, stride)
        extra = {"decoder": decoded}
        if crop is not None and box is not None:
            top, bottom, left, right = box
            at_pixels = resize(crop, (bottom - top, right - left))
            bottom, right = min(bottom, height), min(right, width)
            extra["detail"] = at_pixels[..., : bottom - top, : right - left]
            extra["detail_box"] = torch.tensor([top, bottom, left, right])
        return SegOutput(
            resize(fused, (full_height, full_width))[..., :height, :width],
            stages[-1],
            None if aux is None else resize(aux, (full_height, full_width))[..., :height, :width],
            extra,
        )

    def recomputable(self, what: str) -> list[Part]:
        """What activation checkpointing computes again: the base's parts, with ``"all"`` the attention too."""
        return [*self.base.recomputable(what), *([whole_part(self.attention)] if what == "all" else [])]

    def encode(self, images: Tensor) -> Tensor:
        """Bottleneck features ``(N, D, h, w)`` of the half-resolution image."""
        padded = self._pad(images)
        half = resize(padded, (padded.shape[-2] // 2, padded.shape[-1] // 2))
        return self.base.encode(half)

    def pretrained_encoder(self) -> FrozenEncoder:
        """The base's frozen pretrained encoder, at half resolution: its features fit this network's.

        Raises:
            ValueError: the base was built without pretrained weights.
        """
        frozen = self.base.pretrained_encoder()
        at_least = -(-2 * self.smallest // self.unit)
        return FrozenEncoder(frozen.encoder, frozen.normalise, self.unit, at_least, shrink=2)

    def parameter_groups(
        self, lr: float, head_multiplier: float = 10.0, weight_decay: float = 0.01
    ) -> list[dict[str, Any]]:
        """Groups for a torch optimiser: encoder at ``lr``, decoder and attention at ``lr * head_multiplier``."""
        return encoder_and_head(self, self.encoder, lr, head_multiplier, weight_decay)


def build_hrda(
    num_classes: int,
    base: str = "daformer",
    crop: tuple[int, int] | None = None,
    class_attention: bool = True,
    embed_channels: int = 256,
    **options: Any,
) -> HrdaSegmenter:
    """HRDA over a network by name.

    Args:
        num_classes: classes C, at least 1.
        base: the network that sees both resolutions, by its name among the models.
        crop: height and width of the detail crop, see :class:`HrdaSegmenter`.
        class_attention: attention for each class, otherwise one for all.
        embed_channels: of the attention head.
        options: of the base.

    Raises:
        ValueError: no such base network, or one that is no :class:`~uda.models.SegmentationNetwork`.
    """
    from uda.models import build_model

    if base == "hrda":
        raise ValueError("HRDA cannot be its own base")
    network = build_model(base, num_classes, **options)
    if not isinstance(network, SegmentationNetwork):
        raise ValueError(f"base is {base!r}, must be one of the library's networks, whose scales HRDA fuses")
    own = {"base": base, "crop": crop, "class_attention": class_attention, "embed_channels": embed_channels}
    hrda = HrdaSegmenter(network, None if crop is None else (crop[0], crop[1]), class_attention, embed_channels)
    vars(hrda)["built_as"] = {"name": "hrda", "options": {**own, **options}}  # for uda.models.save
    return hrda
