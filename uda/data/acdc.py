"""ACDC, the adverse conditions data set (Sakaridis et al., 2021)."""

from __future__ import annotations

from pathlib import Path
from typing import Unpack

from uda.data.base import FileDataset, Item, Options, image_files
from uda.data.label_spaces import CITYSCAPES19, CITYSCAPES34
from uda.registry import nearest

CONDITIONS = ("fog", "night", "rain", "snow")
"""ACDC's four conditions."""


class Acdc(FileDataset):
    """``rgb_anon/<condition>/<split>/<sequence>/X_rgb_anon.png`` with ``gt/…/X_gt_labelIds.png`` (Cityscapes ids).

    The labels of ``test`` are withheld, and ``train_ref``, ``val_ref`` and ``test_ref`` (the same places in clear
    weather) have none: take these with ``labelled=False`` and ``unlabelled()``.

    Args:
        root: the folder that holds ``rgb_anon`` and ``gt``.
        split: see above.
        condition: one of :data:`CONDITIONS`, or ``None`` for all of them.
        options: see :class:`uda.data.base.Options`.
    """

    kind = "acdc"
    splits = ("train", "val", "test", "train_ref", "val_ref", "test_ref")
    raw_space = CITYSCAPES34
    default_space = CITYSCAPES19
    label_format = "ids"

    def __init__(
        self, root: str | Path, split: str = "train", *, condition: str | None = None, **options: Unpack[Options]
    ) -> None:
        if condition is not None and condition not in CONDITIONS:
            raise ValueError(f"acdc has no condition {condition!r}; {nearest(condition, CONDITIONS)}")
        self.condition = condition
        super().__init__(root, split, **options)

    def find(self) -> list[Item]:
        """The split's frames by condition, sequence and name."""
        items: list[Item] = []
        for condition in [self.condition] if self.condition else CONDITIONS:
            images = self.root / "rgb_anon" / condition / self.split
            labels = self.root / "gt" / condition / self.split
            for path in image_files(images, ".png"):
                stem = path.stem.removesuffix("_rgb_anon").removesuffix("_rgb_ref_anon")
                items.append(Item(path, labels / path.parent.name / f"{stem}_gt_labelIds.png"))
        return items

    @classmethod
    def sequence(cls, name: str) -> str:
        """The recording: the folder of the frame."""
        return Path(name).parent.name
