"""The fully convolutional domain discriminator of AdaptSegNet (Tsai et al. 2018) and ADVENT (Vu et al. 2019)."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor

_STRIDE = 32


class Discriminator(nn.Sequential):
    """Five 4x4 convolutions of stride 2, LeakyReLU 0.2 between them, no normalisation, no sigmoid.

    The state dict has ADVENT's names (``0.weight``, ``2.weight``, ... ``8.bias``).

    Args:
        in_channels: channels of the map that is judged (C for probabilities or self-information).
        width: channels after the first convolution; then 2, 4 and 8 times that, then 1.

    Raises:
        ValueError: a number of channels below 1.
    """

    def __init__(self, in_channels: int, width: int = 64) -> None:
        if in_channels < 1 or width < 1:
            raise ValueError(f"in_channels and width must be at least 1, got {in_channels} and {width}")
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise((in_channels, width, 2 * width, 4 * width, 8 * width)):
            layers += [nn.Conv2d(inputs, outputs, 4, stride=2, padding=1), nn.LeakyReLU(0.2, inplace=True)]
        super().__init__(*layers, nn.Conv2d(8 * width, 1, 4, stride=2, padding=1))

    def forward(self, input: Tensor) -> Tensor:
        """Domain logits ``(N, 1, H // 32, W // 32)`` of ``(N, in_channels, H, W)``.

        Departure: sides below 32 pixels, which leave the authors' network nothing to give, are padded with zeros to 32.
        """
        right, bottom = (max(_STRIDE - input.shape[axis], 0) for axis in (-1, -2))
        if right or bottom:
            input = F.pad(input, (0, right, 0, bottom))
        judged: Tensor = super().forward(input)
        return judged
