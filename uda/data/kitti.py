"""KITTI semantics (Alhaija et al., 2018): 200 labelled images of slightly different sizes."""

from __future__ import annotations

from bisect import bisect_right
from pathlib import Path
from typing import Literal, Unpack

from uda.data import archives
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
# fmt: off
FIRST_OF_DRIVE = (
    0, 2, 4, 7, 13, 18, 22, 34, 43, 47, 54, 57, 60, 62, 70, 72, 82, 83, 85, 87, 88, 99, 105, 112, 118, 128, 130, 133,
    141, 144, 149, 151, 155, 156, 157, 165, 168, 170, 199,
)
# fmt: on
"""Numbers at which another drive begins: the 200 images are in the order of the raw recordings (2011_09_26_drive_0005,
..., 2011_10_03_drive_0047; the devkit's ``train_mapping.txt``, as in UnFlow's ``kitti_training_2015.txt``). The 58
images whose recording was not published stand between those of known drives; each such run counts as one drive, which
may be too few (170 to 198 are 29 images)."""


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
        folder = self.annotation or ("semantic" if archives.is_dir(base / "semantic") else "semantic_rgb")
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

    @classmethod
    def sequence(cls, name: str) -> str:
        """The drive of one of the 200 training images; every other image is its own."""
        number = int(Path(name).name.split("_")[0])
        if Path(name).parts[0] != "training" or number >= 200:
            return name
        return f"drive {bisect_right(FIRST_OF_DRIVE, number) - 1}"
