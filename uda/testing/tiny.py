"""A network and a data set that are small enough for a training step in a few milliseconds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from uda.types import IGNORE, Sample, SegOutput

SIZE = (32, 64)


class TinySegmenter(nn.Module):
    """Two strided blocks with batch norm and dropout, a classifier, optionally an auxiliary one; counts its passes.

    With gradient it also gives a detail crop, as HRDA's network does.
    """

    def __init__(self, num_classes: int = 5, aux: bool = False, dropout: float = 0.1) -> None:
        super().__init__()
        self.num_classes, self.feature_channels, self.has_aux = num_classes, 8, aux
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1, bias=False), nn.BatchNorm2d(6), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(6, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.dropout = nn.Dropout2d(dropout)
        self.head = nn.Conv2d(8, num_classes, 1)
        self.aux_head = nn.Conv2d(6, num_classes, 1) if aux else None
        self.passes: list[tuple[bool, bool]] = []
        """(training mode, gradient) of every forward pass."""

    def forward(self, images: Tensor) -> SegOutput:
        if not torch.compiler.is_compiling():  # a list that grows would be another graph at every pass
            self.passes.append((self.training, torch.is_grad_enabled()))
        size = images.shape[-2:]
        low = self.stem((images - 0.5) / 0.25)
        features = self.body(low)
        logits = F.interpolate(self.head(self.dropout(features)), size=size, mode="bilinear")
        aux = None if self.aux_head is None else F.interpolate(self.aux_head(low), size=size, mode="bilinear")
        extra = {"decoder": low}
        if self.training and torch.is_grad_enabled():
            top, bottom, left, right = size[0] // 4, size[0] // 2, 0, size[1] // 2
            extra["detail"] = logits[..., top:bottom, left:right] * 2
            extra["detail_box"] = torch.tensor([top, bottom, left, right])
        return SegOutput(logits, features, aux, extra)

    def pretrained_encoder(self) -> nn.Module:
        """Images to features, always the same weights."""
        with torch.random.fork_rng():
            torch.manual_seed(7)
            return TinyEncoder(TinySegmenter().requires_grad_(False).eval())


class TinyEncoder(nn.Module):
    """A network's features without gradient."""

    def __init__(self, network: TinySegmenter) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            features: Tensor = self.network(images).features
            return features


def tiny_space(num_classes: int) -> SimpleNamespace:
    """What the trainer asks of a label space."""
    colours = np.random.default_rng(0).integers(0, 256, (num_classes, 3), dtype=np.uint8)
    names = tuple(f"class{index}" for index in range(num_classes))
    return SimpleNamespace(name="tiny", num_classes=num_classes, names=names, colours=colours, thing_classes=(1,))


class TinyUnlabelled:
    """Blocky random images; ``touch`` is called with each index that is read."""

    def __init__(self, name: str, length: int, tint: Sequence[float], seed: int, size: tuple[int, int] = SIZE) -> None:
        self.name, self.length, self.tint, self.seed, self.size = name, length, tuple(tint), seed, size
        self.names = [f"{name}/{index}.png" for index in range(length)]
        self.touched: list[int] = []

    def __len__(self) -> int:
        return self.length

    def identity(self) -> dict[str, Any]:
        """What the data set is, without reading from it."""
        told = {key: value for key, value in vars(self).items() if key not in ("space", "touched")}
        return {**told, "classes": list(getattr(getattr(self, "space", None), "names", ()))}

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    def _label(self, index: int) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed * 1000 + index)
        coarse = torch.randint(0, 1000, (1, 1, self.size[0] // 8, self.size[1] // 8), generator=generator)
        return F.interpolate(coarse.float(), size=self.size)[0, 0].long()

    def __getitem__(self, index: int) -> Sample:
        self.touched.append(index)
        shade = (self._label(index) % 7).float() / 7
        generator = torch.Generator().manual_seed(self.seed * 1000 + index + 500)
        noise = 0.1 * torch.rand(3, *self.size, generator=generator)
        image = shade * torch.tensor(self.tint)[:, None, None] + noise
        return Sample((image.clamp(0, 1) * 255).byte(), None, self.names[index])


class TinyDataset(TinyUnlabelled):
    """The same with labels, some of them ignored."""

    def __init__(
        self,
        name: str = "tiny/source",
        num_classes: int = 5,
        length: int = 6,
        tint: Sequence[float] = (0.9, 0.6, 0.5),
        seed: int = 1,
        ignored: float = 0.1,
    ) -> None:
        super().__init__(name, length, tint, seed)
        self.space, self.ignored = tiny_space(num_classes), ignored

    def label(self, index: int) -> Tensor:
        raw = self._label(index)
        return torch.where(raw < 1000 * self.ignored, IGNORE, raw % self.space.num_classes)

    def __getitem__(self, index: int) -> Sample:
        return super().__getitem__(index)._replace(label=self.label(index))

    def unlabelled(self) -> TinyUnlabelled:
        return TinyUnlabelled(self.name, self.length, self.tint, self.seed, self.size)


def tiny_target(num_classes: int = 5) -> TinyDataset:
    """The other domain: darker, with another tint."""
    return TinyDataset("tiny/target", num_classes, tint=(0.3, 0.5, 0.4), seed=2)
