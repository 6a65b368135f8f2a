"""CamVid (Brostow et al., 2009) in SegNet's eleven classes."""

from __future__ import annotations

from pathlib import Path

from uda.data.base import FileDataset, Item, image_files
from uda.data.label_spaces import CAMVID11


class CamVid(FileDataset):
    """``train|val|test/X.png`` (or ``.jpg``) with ``trainannot|valannot|testannot/X.png`` that hold ids 0 to 11."""

    kind = "camvid"
    splits = ("train", "val", "test")
    raw_space = CAMVID11
    default_space = CAMVID11
    label_format = "ids"

    def find(self) -> list[Item]:
        """The split's images by name."""
        labels = self.root / f"{self.split}annot"
        return [Item(p, labels / f"{p.stem}.png") for p in image_files(self.root / self.split, recursive=False)]

    @classmethod
    def sequence(cls, name: str) -> str:
        """The video, such as ``0016E5``: what stands before the frame's number."""
        return Path(name).stem.partition("_")[0]
