"""Whole images and the windows that augmentation cuts out of them: maps of the whole, seen through a window.

Labels, stored pseudo-labels and margins of the whole image (an ego car's bonnet, the seams of a rectified camera) all
go through :func:`window_positions`, so that they meet pixel by pixel.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from uda.types import Window


def window_positions(window: Window, crop: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Where the pixel centres of a crop lie in the whole image, in its pixels.

    Args:
        window: that was resized to the crop.
        crop: height h and width w of the crop.

    Returns:
        rows ``(h,)`` and columns ``(w,)`` float64; below 0 or from the image's size on where the window is outside.

    Example:
        >>> from uda.functional import window_positions
        >>> from uda.types import Window
        >>> rows, columns = window_positions(Window(0, (8, 8), top=2, left=0, height=4, width=8, flip=True), (2, 4))
        >>> rows.tolist(), columns.tolist()
        ([3.0, 5.0], [7.0, 5.0, 3.0, 1.0])
    """
    height, width = crop
    rows = window.top + (torch.arange(height, dtype=torch.float64) + 0.5) * (window.height / height)
    columns = window.left + (torch.arange(width, dtype=torch.float64) + 0.5) * (window.width / width)
    return rows, columns.flip(0) if window.flip else columns


def cut_window(whole: Tensor, window: Window, crop: Sequence[int], *, outside: float) -> Tensor:
    """A map of the whole image as its crop shows it, nearest.

    Args:
        whole: ``(..., H, W)`` of any size that covers the whole image (labels, or a smaller prediction).
        window: of the crop.
        crop: height h and width w.
        outside: value where the window reaches outside of the image.

    Returns:
        ``(..., h, w)``.

    Example:
        >>> import torch
        >>> from uda.functional import cut_window
        >>> from uda.types import Window
        >>> whole = torch.arange(4).view(1, 4)
        >>> cut_window(whole, Window(0, (1, 4), top=0, left=2, height=1, width=4), (1, 4), outside=255)
        tensor([[  2,   3, 255, 255]])
    """
    rows, columns = window_positions(window, crop)
    for axis, (positions, full) in enumerate(zip((rows, columns), window.size, strict=True)):
        side = whole.shape[axis - 2]
        index = (positions * (side / full)).floor().long()
        whole = whole.index_select(axis - 2, index.clamp(0, side - 1).to(whole.device))
        beyond = ((index < 0) | (index >= side)).to(whole.device)
        if beyond.any():
            whole = whole.masked_fill(beyond[:, None] if axis == 0 else beyond, outside)
    return whole


def inside_margins(
    windows: Sequence[Window],
    crop: Sequence[int],
    *,
    top: float = 0.0,
    bottom: float = 0.0,
    left: float = 0.0,
    right: float = 0.0,
) -> Tensor:
    """Which pixels of a batch of crops lie in their whole images, and in none of its margins.

    DAFormer (Hoyer et al., CVPR 2022) gives no weight to the first 15 and the last 120 of 512 rows of a Cityscapes
    image; HRDA (ECCV 2022) to 30 and 240 of 1024 rows and to 30 of 2048 columns left and right.

    Args:
        windows: of the crops.
        crop: height h and width w.
        top: share of the whole image's height, in [0, 1]; likewise ``bottom``.
        left: share of its width, likewise ``right``. A mirrored crop has them mirrored.

    Returns:
        ``(N, h, w)`` bool.

    Example:
        >>> from uda.functional import inside_margins
        >>> from uda.types import Window
        >>> window = Window(0, (8, 8), top=4, left=0, height=4, width=8)
        >>> inside_margins([window], (4, 1), bottom=0.25)[0, :, 0].tolist()
        [True, True, False, False]
    """
    masks = []
    for window in windows:
        (rows, columns), (height, width) = window_positions(window, crop), window.size
        tall = (rows >= top * height) & (rows < (1 - bottom) * height)
        wide = (columns >= left * width) & (columns < (1 - right) * width)
        masks.append(tall[:, None] & wide)
    return torch.stack(masks)
