"""Where in the scene loss is: by class, by height in the image, by distance from a boundary, by size of the object."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from skimage import measure

from uda.opencv import cv2
from uda.types import IGNORE

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]
HEIGHTS = tuple(f"{10 * band}-{10 * band + 10} %" for band in range(10))
"""Tenths of the image's height, from the top."""
BOUNDARY_EDGES = (2.0, 4.0, 8.0, 16.0)
BOUNDARIES = ("up to 2", "2 to 4", "4 to 8", "8 to 16", "more than 16")
"""Distance in pixels of the label to the next pixel of another class."""
SIZE_EDGES = (0.001, 0.01, 0.1)
SIZES = ("under 0.1 %", "0.1 to 1 %", "1 to 10 %", "10 % and more")
"""Share of the image that a connected region of one class takes."""


def region_sums(losses: npt.NDArray[np.float32], label: Labels, classes: int) -> dict[str, Floats]:
    """Sums over the labelled pixels of one image.

    Args:
        losses: ``(H, W)`` loss of each pixel; what it is at ignored ones does not matter.
        label: ``(H, W)`` train ids, 255 ignored.
        classes: C.

    Returns:
        ``class`` ``(2, C)``, ``height`` ``(2, 10)``, ``boundary`` ``(2, 5)``, ``size`` ``(2, 4)``: sum of the loss and
        number of pixels.
    """
    scored = label != IGNORE
    rows = np.broadcast_to((np.arange(label.shape[0]) * len(HEIGHTS) // label.shape[0])[:, None], label.shape)
    where = {
        "class": (label, classes),
        "height": (rows, len(HEIGHTS)),
        "boundary": (np.searchsorted(np.array(BOUNDARY_EDGES, np.float32), boundary_distance(label)), len(BOUNDARIES)),
        "size": (np.searchsorted(SIZE_EDGES, object_shares(label), side="right"), len(SIZES)),
    }
    values = losses[scored].astype(np.float64)
    return {
        name: np.stack(
            [
                np.bincount(bins[scored], values, minlength=count),
                np.bincount(bins[scored], minlength=count).astype(np.float64),
            ]
        )
        for name, (bins, count) in where.items()
    }


def boundary_distance(label: Labels) -> npt.NDArray[np.float32]:
    """``(H, W)`` Euclidean distance in pixels to the next pixel of another class; the image's border is none.

    Ignored pixels are no class of their own: the border to them is not counted.
    """
    borders = np.zeros(label.shape, bool)
    across = (label[:, 1:] != label[:, :-1]) & (label[:, 1:] != IGNORE) & (label[:, :-1] != IGNORE)
    down = (label[1:] != label[:-1]) & (label[1:] != IGNORE) & (label[:-1] != IGNORE)
    borders[:, 1:] |= across
    borders[:, :-1] |= across
    borders[1:] |= down
    borders[:-1] |= down
    if not borders.any():
        return np.full(label.shape, np.inf, np.float32)
    # pixels beside the border have distance 1
    inside = (~borders).astype(np.uint8)
    return np.asarray(cv2.distanceTransform(inside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE), np.float32) + 1


def object_shares(label: Labels) -> Floats:
    """``(H, W)`` share of the image that the pixel's connected region (eight neighbours) of its class takes."""
    regions = measure.label(label, background=IGNORE, connectivity=2)
    areas = np.bincount(regions.reshape(-1))
    areas[0] = 0  # of the ignored pixels
    return np.asarray((areas / label.size).take(regions))
