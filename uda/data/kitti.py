"""KITTI semantics (Alhaija et al., 2018): 200 labelled images of slightly different sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Unpack

from uda.data.base import FileDataset, Item, Options, image_files
from uda.data.errors import DataError
from uda.data.label_spaces import CITYSCAPES34, KITTI

# fmt: off
VAL_NUMBERS = (
    190, 198, 45, 25, 141, 104, 17, 162, 49, 167, 168, 34, 150, 113, 44, 182, 196, 11, 6, 46, 133, 74, 81, 65, 66, 79,
    96, 92, 178, 103,
)
# fmt: on
"""The fixed validation split of 30 images; the other 170 are the training images."""


class Kitti(FileDataset):
    """``training/image_2/NNNNNN_10.png`` with ``training/semantic/`` (Cityscapes ids) or ``training/semantic_rgb/``.

    Splits: ``val`` the 30 images of :data:`VAL_NUMBERS`, ``train`` all others, ``all`` both, ``test`` the unlabelled
    ``testing/image_2`` (only with ``labelled=False``). A folder may hold fewer than the 200 images.

    Args:
        root: the folder that holds ``training``.
        split: see above.
        annotation: which label folder; by default ``semantic`` where it exists.
        options: see :class:`uda.data.base.Options`.
    """

    kind = "kitti"
    splits = ("train", "val", "all", "test")
    raw_space = CITYSCAPES34
    default_space = KITTI

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        *,
        annotation: Literal["semantic", "semantic_rgb"] | None = None,
        **options: Unpack[Options],
    ) -> None:
        if annotation not in (None, "semantic", "semantic_rgb"):
            raise ValueError(f"annotation must be 'semantic' or 'semantic_rgb', not {annotation!r}")
        self.annotation = annotation
        super().__init__(root, split, **options)

    def find(self) -> list[Item]:
        """The split's images by number."""
        base = self.root / ("testing" if self.split == "test" else "training")
        folder = self.annotation or ("semantic" if (base / "semantic").is_dir() else "semantic_rgb")
        self.label_format = "ids" if folder == "semantic" else "colours"
        items: list[Item] = []
        for path in image_files(base / "image_2", "_10.png", recursive=False):
            number = path.name.split("_")[0]
            if not number.isdigit():
                raise DataError(f"{path}: expected a name like 000123_10.png")
            held_out = int(number) in VAL_NUMBERS
            if self.split in ("all", "test") or held_out == (self.split == "val"):
                items.append(Item(path, base / folder / path.name))
        return items
