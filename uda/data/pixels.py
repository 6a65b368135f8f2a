"""A sample as files and caches hold it, for those who need a part of it only."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from uda.types import Sample


class Pixels(NamedTuple):
    """A decoded sample whose image is not copied and whose label is not mapped yet.

    A training crop needs a part of both: of an image that is mapped from a cache, no more than the crop's rows are read
    from disk, and a label becomes train ids after it is cut.
    """

    image: npt.NDArray[np.uint8]
    """``(H, W, 3)`` RGB; may be read-only."""
    label: npt.NDArray[np.uint8] | None
    """``(H, W)`` train ids of the files' own label space; may be read-only."""
    table: npt.NDArray[np.uint8] | None
    """``(256,)``: train ids of the files' space -> of the data set's; ``IGNORE`` stays itself."""
    name: str
    """As :attr:`uda.types.Sample.name`."""
    weight: float = 1.0
    """As :attr:`uda.types.Sample.weight`."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.image.shape[0], self.image.shape[1]

    def part(self, top: int, left: int, bottom: int, right: int) -> torch.Tensor:
        """``(3, h, w)`` uint8: a part of the image; no other pixel is touched."""
        part = self.image[top:bottom, left:right]
        return torch.from_numpy(part if part.flags.writeable else np.array(part)).permute(2, 0, 1)

    def label_at(self, rows: torch.Tensor, columns: torch.Tensor, outside: int) -> torch.Tensor | None:
        """``(h, w)`` int64 train ids at rows ``(h,)`` and columns ``(w,)``, positions in pixels as
        :func:`uda.functional.window_positions` gives them; ``outside`` beyond the image's edges."""
        if self.label is None or self.table is None:
            return None
        picked, beyond = self.label, []
        for axis, positions in enumerate((rows, columns)):
            index, side = positions.floor().long().numpy(), self.size[axis]
            picked = picked.take(index.clip(0, side - 1), axis=axis)
            beyond.append((index < 0) | (index >= side))
        label = self.table.astype(np.int64).take(picked)
        label[beyond[0]] = outside
        label[:, beyond[1]] = outside
        return torch.from_numpy(label)

    def sample(self) -> Sample:
        """All of it, in tensors of its own."""
        image = self.image if self.image.flags.writeable else np.array(self.image)
        label = None
        if self.label is not None and self.table is not None:
            label = torch.from_numpy(self.table[self.label].astype(np.int64))
        return Sample(torch.from_numpy(image.transpose(2, 0, 1)), label, self.name, self.weight)


def pixels_of(dataset: Any, index: int) -> Pixels | Sample:
    """A sample of any data set, as :class:`Pixels` where the data set has them."""
    # of the class, not of the object: what stands in for a data set has samples of its own
    read = getattr(type(dataset), "pixels", None)
    sample: Pixels | Sample = dataset[index] if read is None else read(dataset, index)
    return sample
