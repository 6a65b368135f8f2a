"""A torch data set of somebody's own, named by a config: discs and boxes on a ground, in any colours."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from uda.data import Class, LabelSpace, Wrapped, wrap

SPACE = LabelSpace(
    "shapes",
    (Class("ground", (90, 90, 90), (0,)), Class("disc", (200, 60, 60), (1,)), Class("box", (60, 60, 200), (2,))),
)


class Shapes(Dataset[Any]):
    """Pairs of an image ``(3, H, W)`` float in [0, 1] and a label ``(H, W)`` int64."""

    def __init__(self, count: int, tint: tuple[float, float, float], seed: int) -> None:
        self.count, self.tint, self.seed = count, torch.tensor(tint), seed

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        rng = np.random.default_rng((self.seed, index))
        y, x = np.mgrid[:64, :96]
        label = np.zeros((64, 96), np.int64)
        for kind in (1, 2, 1, 2):
            cy, cx, r = rng.integers(8, 56), rng.integers(8, 88), rng.integers(5, 12)
            distance = np.hypot(y - cy, x - cx) if kind == 1 else np.maximum(abs(y - cy), abs(x - cx))
            label[distance < r] = kind
        shade = torch.tensor([0.3, 0.6, 0.9])[torch.from_numpy(label)]
        noise = torch.from_numpy(rng.normal(0, 0.03, (3, 64, 96))).float()
        return (shade * self.tint[:, None, None] + noise).clamp(0, 1), torch.from_numpy(label)


def shapes(count: int = 20, tint: tuple[float, float, float] = (1.0, 1.0, 1.0), seed: int = 0) -> Wrapped:
    """The data set as ``uda`` takes it: any torch data set, and what its numbers mean.

    Args:
        count: of images.
        tint: factor of each colour channel.
        seed: of everything that is drawn.
    """
    return wrap(Shapes(count, tuple(tint), seed), SPACE, name=f"shapes{tuple(tint)}")
