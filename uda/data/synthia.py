"""SYNTHIA-RAND-CITYSCAPES (Ros et al., 2016)."""

from __future__ import annotations

from pathlib import Path
from typing import Unpack

from uda.data.base import FileDataset, Item, Options, image_files
from uda.data.label_spaces import SYNTHIA16, SYNTHIA_RAW


class Synthia(FileDataset):
    """``RGB/NNNNNNN.png`` with ``GT/LABELS/NNNNNNN.png``: 16-bit colour with the class in the red channel.

    It has one split, ``all``; 16 classes by default, ``space="synthia13"`` for the older subset.
    """

    kind = "synthia"
    splits = ("all",)
    raw_space = SYNTHIA_RAW
    default_space = SYNTHIA16
    label_format = "synthia"

    def __init__(self, root: str | Path, split: str = "all", **options: Unpack[Options]) -> None:
        super().__init__(root, split, **options)

    def find(self) -> list[Item]:
        """All images by number."""
        labels = self.root / "GT" / "LABELS"
        return [Item(path, labels / path.name) for path in image_files(self.root / "RGB", ".png", recursive=False)]
