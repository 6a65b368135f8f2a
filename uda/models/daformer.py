"""DAFormer's decoder (Hoyer et al. 2022a): context-aware fusion of four encoder levels.

The head has the authors' tensor names (``embed_layers``, ``fuse_layer``, ``conv_seg``), so that a published
``decode_head`` loads as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from uda.models.base import Normalise, SegmentationNetwork, resize
from uda.models.weights import LITE0, encoder_statistics, load_encoder_weights, resolve_encoder

if TYPE_CHECKING:
    from torch import Tensor

_LEVELS = 4


class _ConvNorm(nn.Module):
    """Convolution without bias, batch norm, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int, dilation: int = 1, groups: int = 1) -> None:
        super().__init__()
        padding = dilation * (kernel // 2)
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=padding, dilation=dilation, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.bn(self.conv(x)))


class _SeparableConvNorm(nn.Module):
    """Depthwise dilated 3x3, then pointwise, each with batch norm and ReLU."""

    def __init__(self, inputs: int, outputs: int, dilation: int) -> None:
        super().__init__()
        self.depthwise_conv = _ConvNorm(inputs, inputs, 3, dilation, groups=inputs)
        self.pointwise_conv = _ConvNorm(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.pointwise_conv(self.depthwise_conv(x))
        return out


class _Embedding(nn.Module):
    """A linear layer over channels."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.proj = nn.Linear(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.proj(x.movedim(1, -1)).movedim(-1, 1)
        return out


class _Aspp(nn.Module):
    """Separable atrous pyramid without image pooling."""

    def __init__(self, inputs: int, outputs: int, dilations: Sequence[int]) -> None:
        super().__init__()
        self.aspp_modules = nn.ModuleList(
            _ConvNorm(inputs, outputs, 1) if dilation == 1 else _SeparableConvNorm(inputs, outputs, dilation)
            for dilation in dilations
        )
        self.bottleneck = _ConvNorm(len(dilations) * outputs, outputs, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.bottleneck(torch.cat([branch(x) for branch in self.aspp_modules], dim=1))
        return out


class DaformerHead(nn.Module):
    """Four feature maps -> logits at the first one's size.

    Args:
        in_channels: channels of the maps, finest first.
        num_classes: classes C.
        embed_channels: channels to which each map is embedded.
        channels: channels after the fusion.
        dilations: of the pyramid's branches; 1 is a plain 1x1 convolution.
        dropout: of whole channels before the classifier.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        num_classes: int,
        embed_channels: int = 256,
        channels: int = 256,
        dilations: Sequence[int] = (1, 6, 12, 18),
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.embed_layers = nn.ModuleDict({str(i): _Embedding(c, embed_channels) for i, c in enumerate(in_channels)})
        self.fuse_layer = _Aspp(len(in_channels) * embed_channels, channels, dilations)
        self.dropout = nn.Dropout2d(dropout)
        self.conv_seg = nn.Conv2d(channels, num_classes, 1)
        nn.init.normal_(self.conv_seg.weight, std=0.01)

    def fuse(self, features: Sequence[Tensor]) -> Tensor:
        """The fused map ``(N, channels, h0, w0)`` before the classifier."""
        size = features[0].shape[-2:]
        embedded = [resize(layer(x), size) for layer, x in zip(self.embed_layers.values(), features, strict=True)]
        out: Tensor = self.fuse_layer(torch.cat(embedded, dim=1))
        return out

    def classify(self, fused: Tensor) -> Tensor:
        """Logits ``(N, C, h0, w0)`` of the fused map."""
        out: Tensor = self.conv_seg(self.dropout(fused))
        return out

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Logits ``(N, C, h0, w0)`` of feature maps ``(N, c_i, h_i, w_i)``, finest first."""
        return self.classify(self.fuse(features))


class DaformerSegmenter(SegmentationNetwork):
    """DAFormer's head over any encoder with maps at strides 4, 8, 16 and 32.

    See :class:`~uda.models.base.SegmentationNetwork` for what comes out. The paper's encoder is ``mit_b5``, whose code
    and weights are NVIDIA's for non-commercial use; it can be named and is not the default.

    Args:
        num_classes: classes C, at least 1.
        encoder: a name of segmentation-models-pytorch or timm.
        weights: see :func:`~uda.models.weights.load_encoder_weights`.
        mean: three numbers for RGB in [0, 1]; ``None`` takes those of the encoder's pretraining.
        std: likewise.
        embed_channels: of the head, to which each level is brought.
        channels: of the head's fused features.
        dilations: of the head's parallel convolutions; 1 is a 1x1 convolution.
        dropout: probability before the classifier, in [0, 1).
        drop_path: stochastic depth rate of a timm encoder, in [0, 1).
        options: further arguments of the encoder.

    Raises:
        ValueError: unknown encoder, one without the four levels, a value out of range, weights that do not fit.
    """

    def __init__(
        self,
        num_classes: int,
        encoder: str = LITE0,
        weights: str | None = "auto",
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        embed_channels: int = 256,
        channels: int = 256,
        dilations: Sequence[int] = (1, 6, 12, 18),
        dropout: float = 0.1,
        drop_path: float = 0.0,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        if not 0 <= dropout < 1 or not 0 <= drop_path < 1:
            raise ValueError(f"dropout and drop_path must be in [0, 1), got {dropout} and {drop_path}")
        import segmentation_models_pytorch as smp  # seconds, so not before a network is built

        name = resolve_encoder(encoder)
        arguments = dict(options or {}) | ({"drop_path_rate": drop_path} if drop_path else {})
        built = smp.encoders.get_encoder(name, weights=None, depth=5, **arguments)
        out_channels = list(built.out_channels)
        if len(out_channels) <= _LEVELS or 0 in out_channels[-_LEVELS:]:
            raise ValueError(
                f"encoder {encoder!r} has channels {out_channels}: no four levels at strides 4, 8, 16 and 32"
            )
        default_mean, default_std = encoder_statistics(name)
        super().__init__(
            num_classes=num_classes,
            stage_channels=out_channels,
            has_aux=False,
            divisor=32,
            normalise=Normalise(mean or default_mean, std or default_std),
            encoder_name=name,
            weights=None if weights is None else str(weights),
        )
        self.encoder = built
        self.head = DaformerHead(out_channels[-_LEVELS:], num_classes, embed_channels, channels, dilations, dropout)
        load_encoder_weights(self.encoder, weights, name)

    def decode(self, stages: list[Tensor], *extra: Any) -> tuple[Tensor, None, Tensor]:
        """Logits and fused features at a quarter of the image; no auxiliary logits."""
        fused = self.head.fuse(stages[-_LEVELS:])
        return self.head.classify(fused), None, fused
