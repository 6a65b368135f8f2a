"""DeepLabV2 with ResNet-101 as the adaptation literature uses it (Chen et al. 2018; AdaptSegNet, ADVENT).

A Caffe-style ResNet (the stride sits in a block's first 1x1 convolution), stride 8 by dilation 2 and 4 in the last two
stages, max pooling with ``ceil_mode``, frozen affine parameters of batch norm, and one sum of four dilated
convolutions as classifier; a second such classifier on ``layer3`` is AdaptSegNet's lower level.

Two things differ between the published codes. The classifier's loop ends after its first turn in AdaptSegNet, DACS and
MaxSquare, which sum the dilations 6 and 12 alone (``dilations=(6, 12)``; DAFormer's, HRDA's and MIC's tables have them
so on purpose); ADVENT, CLAN, FDA, CRST and SAC sum all four, as DeepLabV2 does. Batch norm's scales and shifts are
trained in SAC, ProDA and MRNet's second stage (``frozen_affine="none"``) and, but for the stem's, in MaxSquare
(``"stem"``). ProDA's and MRNet's own classifier, a pyramid with group norm, is not here.

Departures: logits are resized with ``align_corners=False`` (ADVENT: True); images are normalised as torchvision's
weights expect, whose tensors have the same names but were trained with the stride in the 3x3 convolution. For the
authors' Caffe weights give their file and ``mean=(104.01, 116.67, 122.68), std=(1, 1, 1), scale=255, bgr=True``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from uda.models.base import Normalise, SegmentationNetwork
from uda.models.weights import load_encoder_weights
from uda.types import IMAGENET_MEAN, IMAGENET_STD

if TYPE_CHECKING:
    from torch import Tensor


FROZEN_AFFINE = ("all", "stem", "none")
"""Whose batch norms' scales and shifts are not trained."""


class AsppHead(nn.Module):
    """The sum of parallel dilated 3x3 convolutions: ``(N, in_channels, h, w)`` -> logits ``(N, C, h, w)``."""

    def __init__(self, in_channels: int, num_classes: int, dilations: Sequence[int] = (6, 12, 18, 24)) -> None:
        super().__init__()
        self.conv2d_list = nn.ModuleList(
            nn.Conv2d(in_channels, num_classes, 3, padding=dilation, dilation=dilation) for dilation in dilations
        )
        for conv in self.conv2d_list:
            nn.init.normal_(conv.weight, std=0.01)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Class logits at the size of ``x``."""
        return torch.stack([conv(x) for conv in self.conv2d_list]).sum(0)


class Bottleneck(nn.Module):
    """Caffe-style residual bottleneck, ``(N, inputs, H, W)`` -> ``(N, 4 * width, H / stride, W / stride)``.

    Args:
        inputs: channels that come in.
        width: channels of the 3x3 convolution.
        stride: of the first 1x1 convolution and of the shortcut.
        dilation: of the 3x3 convolution.
        project: whether the shortcut is a convolution.
        frozen_affine: take the gradient from batch norm's scale and shift.
    """

    expansion = 4

    def __init__(
        self,
        inputs: int,
        width: int,
        stride: int = 1,
        dilation: int = 1,
        project: bool = False,
        frozen_affine: bool = True,
    ) -> None:
        super().__init__()
        outputs = self.expansion * width
        self.conv1 = nn.Conv2d(inputs, width, 1, stride=stride, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if project:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
            )
        if frozen_affine:
            freeze_batch_norm_affine(self)

    def forward(self, x: Tensor) -> Tensor:
        """The block's output after the last ReLU."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        out: Tensor = self.relu(self.bn3(self.conv3(x)) + shortcut)
        return out


def freeze_batch_norm_affine(module: nn.Module) -> None:
    """Take the gradient from batch norms' weights and biases; their running statistics still follow in training."""
    for child in module.modules():
        if isinstance(child, nn.BatchNorm2d):
            child.requires_grad_(False)


class DilatedResNet(nn.Module):
    """A Caffe-style ResNet of stride 8 with torchvision's tensor names; gives the four stages' outputs.

    Args:
        blocks: blocks of each stage; (3, 4, 23, 3) is ResNet-101.
        width: channels of the stem.
        frozen_affine: which batch norms' scales and shifts are not trained: ``"all"``, the ``"stem"``'s or ``"none"``.

    Raises:
        ValueError: another ``frozen_affine``.
    """

    def __init__(self, blocks: Sequence[int] = (3, 4, 23, 3), width: int = 64, frozen_affine: str = "all") -> None:
        super().__init__()
        if frozen_affine not in FROZEN_AFFINE:
            known = ", ".join(map(repr, FROZEN_AFFINE))
            raise ValueError(f"frozen_affine is {frozen_affine!r}, must be one of {known}")
        in_blocks = frozen_affine == "all"
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True)
        inputs = width
        for stage, (count, stride, dilation) in enumerate(zip(blocks, (1, 2, 1, 1), (1, 1, 2, 4), strict=True)):
            inner = width * 2**stage
            layer = [Bottleneck(inputs, inner, stride, dilation, project=True, frozen_affine=in_blocks)]
            inputs = inner * Bottleneck.expansion
            layer += [Bottleneck(inputs, inner, dilation=dilation, frozen_affine=in_blocks) for _ in range(count - 1)]
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layer))
        self.out_channels = [Bottleneck.expansion * width * 2**stage for stage in range(4)]
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if frozen_affine != "none":
            freeze_batch_norm_affine(self.bn1)

    def forward(self, x: Tensor) -> list[Tensor]:
        """The stages' outputs of ``(N, 3, H, W)``, at strides 4, 8, 8 and 8."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        stages = []
        for number in range(1, 5):
            x = self.get_submodule(f"layer{number}")(x)
            stages.append(x)
        return stages


class DeepLabV2(SegmentationNetwork):
    """DeepLabV2; see :class:`~uda.models.base.SegmentationNetwork` for what comes out.

    Args:
        num_classes: classes C, at least 1.
        weights: ``"auto"`` (torchvision's ResNet-101 by name through timm, which needs the network once), a file of
            torchvision's or the authors' names, or ``None``.
        aux: add the classifier on ``layer3``.
        blocks: blocks of each stage.
        width: channels of the stem.
        dilations: of the classifiers' convolutions, at least one; AdaptSegNet, DACS and MaxSquare have (6, 12).
        frozen_affine: which batch norms' scales and shifts are not trained: ``"all"`` (AdaptSegNet, ADVENT, CLAN, CRST,
            DACS, FDA), the ``"stem"``'s (MaxSquare) or ``"none"`` (ProDA, SAC).
        mean: of the images, see :class:`~uda.models.base.Normalise`.
        std: likewise.
        scale: largest grey value that mean and std belong to.
        bgr: give the network blue first.

    Raises:
        ValueError: a value out of range, or weights that do not fit.
    """

    def __init__(
        self,
        num_classes: int,
        weights: str | None = "auto",
        aux: bool = True,
        blocks: Sequence[int] = (3, 4, 23, 3),
        width: int = 64,
        dilations: Sequence[int] = (6, 12, 18, 24),
        frozen_affine: str = "all",
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        scale: float = 1.0,
        bgr: bool = False,
    ) -> None:
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        if not dilations or min(dilations) < 1:
            raise ValueError(f"dilations is {tuple(dilations)}, must be whole numbers >= 1, at least one")
        encoder = DilatedResNet(blocks, width, frozen_affine)
        super().__init__(
            num_classes=num_classes,
            stage_channels=encoder.out_channels,
            has_aux=aux,
            divisor=1,
            at_least=16,
            normalise=Normalise(mean, std, scale=scale, bgr=bgr),
            encoder_name="resnet101.tv_in1k",
            weights=None if weights is None else str(weights),
        )
        self.encoder = encoder
        self.head = AsppHead(encoder.out_channels[-1], num_classes, dilations)
        self.aux_head = AsppHead(encoder.out_channels[-2], num_classes, dilations) if aux else None
        load_encoder_weights(self.encoder, "timm" if weights == "auto" else weights, self.encoder_name)

    def decode(self, stages: list[Tensor], *extra: Any) -> tuple[Tensor, Tensor | None, None]:
        """Logits of ``layer4`` and, with the auxiliary classifier, of ``layer3``, at an eighth of the image."""
        return self.head(stages[-1]), None if self.aux_head is None else self.aux_head(stages[-2]), None


def deeplabv2_resnet101(num_classes: int, weights: str | None = "auto", aux: bool = True, **options: Any) -> DeepLabV2:
    """The literature's network.

    Args:
        num_classes: classes C, at least 1.
        weights: see :class:`DeepLabV2`.
        aux: add the classifier on the second-last stage (AdaptSegNet's multi-level).
        options: further ones of :class:`DeepLabV2`.
    """
    return DeepLabV2(num_classes, weights, aux, **options)
