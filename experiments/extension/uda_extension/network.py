"""A network of somebody's own: any module from images to logits, adapted in three lines."""

from __future__ import annotations

from torch import Tensor, nn

from uda.models import SegmenterAdapter, adapt


class SmallFcn(nn.Module):
    """Four convolutions; knows nothing of ``uda``."""

    def __init__(self, num_classes: int, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, 1, 1), nn.BatchNorm2d(width), nn.ReLU(),
        )  # fmt: skip
        self.classifier = nn.Conv2d(width, num_classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        """``(N, 3, H, W)`` -> logits ``(N, C, H / 4, W / 4)``."""
        logits: Tensor = self.classifier(self.body(images))
        return logits


def small_fcn(num_classes: int, width: int = 16) -> SegmenterAdapter:
    """A segmenter for ``model: {name: small_fcn, width: 16}``."""
    network = SmallFcn(num_classes, width)
    return adapt(network, num_classes=num_classes, mean=(0.5,) * 3, std=(0.25,) * 3, feature_layer="body")
