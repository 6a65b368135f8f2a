"""GTA5, "Playing for Data" (Richter et al., 2016)."""

from __future__ import annotations

from pathlib import Path
from typing import Unpack

from uda.data.base import FileDataset, Item, Options, image_files
from uda.data.errors import DataError
from uda.data.label_spaces import GTA5, GTA5_RAW


class Gta5(FileDataset):
    """``images/NNNNN.png`` with ``labels/NNNNN.png``: palette files of Cityscapes ids (as published), grey or colours.

    Splits: ``all`` (what the adaptation literature trains on), or ``train``, ``val``, ``test`` of the authors, which
    need their ``split.mat`` beside the two folders. A few published labels differ from their image in size; they are
    an error here, as everywhere, until they are left out.
    """

    kind = "gta5"
    splits = ("all", "train", "val", "test")
    raw_space = GTA5_RAW
    default_space = GTA5

    def __init__(self, root: str | Path, split: str = "all", **options: Unpack[Options]) -> None:
        super().__init__(root, split, **options)

    def find(self) -> list[Item]:
        """The split's images by number."""
        chosen = None if self.split == "all" else self._published_split()
        return [
            Item(path, self.root / "labels" / f"{path.stem}.png")
            for path in image_files(self.root / "images", recursive=False)
            if chosen is None or (path.stem.isdigit() and int(path.stem) in chosen)
        ]

    def _published_split(self) -> set[int]:
        path = self.root / "split.mat"
        if not path.is_file():
            raise DataError(f"{path}: not found; it defines GTA5's {self.split!r} split (split='all' needs none)")
        from scipy.io import loadmat
        from scipy.io.matlab import MatReadError  # not at the top: only this one split needs it

        try:
            return set(loadmat(path)[f"{self.split}Ids"].ravel().tolist())
        except (KeyError, IndexError, ValueError, NotImplementedError, OSError, MatReadError) as error:
            raise DataError(f"{path}: cannot be read as GTA5's split file ({error})") from error
