"""Cityscapes (Cordts et al., 2016)."""

from __future__ import annotations

from pathlib import Path

from uda.data.base import FileDataset, Item, image_files
from uda.data.label_spaces import CITYSCAPES19, CITYSCAPES34


class Cityscapes(FileDataset):
    """``leftImg8bit/<split>/<city>/X_leftImg8bit.png`` with ``gtFine/<split>/<city>/X_gtFine_labelIds.png``.

    The labels of ``test`` are withheld: take it with ``labelled=False`` and ``unlabelled()``.
    """

    kind = "cityscapes"
    splits = ("train", "val", "test")
    raw_space = CITYSCAPES34
    default_space = CITYSCAPES19
    label_format = "ids"

    def find(self) -> list[Item]:
        """All frames of the split, by city and name."""
        images = self.root / "leftImg8bit" / self.split
        labels = self.root / "gtFine" / self.split
        return [
            Item(path, labels / path.parent.name / path.name.replace("_leftImg8bit.", "_gtFine_labelIds."))
            for path in image_files(images, "_leftImg8bit.png")
        ]

    @classmethod
    def sequence(cls, name: str) -> str:
        """City and number of the recording, such as ``frankfurt_000001``."""
        return "_".join(Path(name).name.split("_")[:2])
