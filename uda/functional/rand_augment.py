"""RandAugment as ProDA (Zhang et al., CVPR 2021) draws it, with the pool of FixMatch (Sohn et al., NeurIPS 2020).

A mirror image half of the time, two operations of fourteen, each applied half of the time at a random strength, then a
grey square of a third of the shorter side. Geometry and square can be done to maps of the plain image as well
(:func:`rand_augment_maps`), so that what is known of it follows into the augmented one.

Departures from ProDA's code: the geometry comes after the colours, all of it in one bilinear resampling; maps follow
exactly, where the published transform shifts those of images that are not square too far; uncovered pixels are 0.5, not
127 / 255.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

COLOUR_OPERATIONS = (
    "autocontrast", "brightness", "color", "contrast", "equalize", "identity", "posterize", "sharpness", "solarize",
)  # fmt: skip
"""Operations of the pool that leave pixels in their places."""
GEOMETRY_OPERATIONS = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
"""Those that move them."""
POOL = (*COLOUR_OPERATIONS, *GEOMETRY_OPERATIONS)
GREY = 0.5
"""What uncovered pixels and the square are filled with."""


@dataclass(frozen=True)
class RandAugmentation:
    """One image's draw.

    Example:
        >>> import torch
        >>> from uda.functional import RandAugmentation, rand_augment
        >>> mirrored = RandAugmentation(matrix=((-1.0, 0.0, 0.0), (0.0, 1.0, 0.0)))
        >>> rand_augment(torch.tensor([0.25, 0.75]).expand(1, 3, 2, 2), [mirrored])[0, 0, 0].tolist()
        [0.75, 0.25]
    """

    colours: tuple[tuple[str, int], ...] = ()
    """Colour operations in their order, each with its strength 1..9."""
    matrix: tuple[tuple[float, float, float], tuple[float, float, float]] = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
    """From places in the augmented image to those in the plain one, both axes from -1 to 1 (``F.affine_grid``'s)."""
    hole: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    """Top, bottom, left and right edge of the grey square in shares of height and width; empty: none."""


def draw_rand_augmentation(
    height: int, width: int, generator: torch.Generator | None = None, *, operations: int = 2
) -> RandAugmentation:
    """Draw the parameters of :func:`rand_augment` for an image, from a CPU generator.

    Args:
        height: of the image in pixels, as ``width``.
        generator: where the numbers come from; always the same count of draws.
        operations: drawn of the pool, with replacement, at least 0.

    Example:
        >>> import torch
        >>> from uda.functional import draw_rand_augmentation
        >>> draw = draw_rand_augmentation(64, 128, torch.Generator().manual_seed(0))
        >>> top, bottom, left, right = draw.hole
        >>> 0 <= top < bottom <= 1, len(draw.colours) <= 2
        (True, True)
    """
    flip, *uniform = torch.rand(3 + 4 * operations, generator=generator, dtype=torch.float64).tolist()
    matrix = torch.eye(3, dtype=torch.float64)
    if flip < 0.5:
        matrix[0, 0] = -1.0
    colours = []
    for start in range(2, len(uniform), 4):
        which, strength, applied, sign = uniform[start : start + 4]
        name, value = POOL[int(which * len(POOL))], 1 + int(strength * 9)
        if applied >= 0.5:
            continue
        if name in COLOUR_OPERATIONS:
            colours.append((name, value))
        else:
            matrix = matrix @ _geometry(name, value if sign < 0.5 else -value, height / width)
    side = min(height, width) // 3
    edges = []
    for centre, length in zip(uniform[:2], (height, width), strict=True):
        low = int(max(0.0, centre * length - side / 2))
        edges += [low / length, min(length, low + side) / length]
    first, second, _ = matrix.tolist()
    return RandAugmentation(tuple(colours), (tuple(first), tuple(second)), (edges[0], edges[1], edges[2], edges[3]))


def _geometry(name: str, value: int, aspect: float) -> Tensor:
    """``(3, 3)`` matrix of an operation in coordinates from -1 to 1; shears hold the top left corner, as PIL's do."""
    matrix = torch.eye(3, dtype=torch.float64)
    if name == "rotate":
        cos, sin = math.cos(math.radians(3 * value)), math.sin(math.radians(3 * value))
        matrix[:2, :2] = torch.tensor([[cos, -sin * aspect], [sin / aspect, cos]])
    elif name == "shear_x":
        matrix[0, 1] = matrix[0, 2] = 0.03 * value * aspect
    elif name == "shear_y":
        matrix[1, 0] = matrix[1, 2] = 0.03 * value / aspect
    else:
        matrix[0 if name == "translate_x" else 1, 2] = 2 * 0.03 * value
    return matrix


def rand_augment(images: Tensor, draws: Sequence[RandAugmentation]) -> Tensor:
    """Augment images, each with its own draw.

    Args:
        images: ``(N, 3, H, W)`` RGB floating point in [0, 1].
        draws: N of :func:`draw_rand_augmentation`.

    Returns:
        ``(N, 3, H, W)`` in [0, 1].

    Example:
        >>> import torch
        >>> from uda.functional import draw_rand_augmentation, rand_augment
        >>> generator = torch.Generator().manual_seed(0)
        >>> rand_augment(torch.rand(2, 3, 32, 64), [draw_rand_augmentation(32, 64, generator) for _ in range(2)]).shape
        torch.Size([2, 3, 32, 64])
    """
    coloured = []
    for image, draw in zip(images, draws, strict=True):
        for name, value in draw.colours:
            image = _COLOURS[name](image, value)
        coloured.append(image)
    moved = F.grid_sample(torch.stack(coloured) - GREY, _grid(images, draws), align_corners=False) + GREY
    return moved.masked_fill(_holes(moved, draws), GREY)


def rand_augment_maps(maps: Tensor, draws: Sequence[RandAugmentation], *, outside: float) -> Tensor:
    """Move maps of the plain images to where :func:`rand_augment` moved their pixels, nearest.

    Args:
        maps: ``(N, K, h, w)`` of any size that covers the whole image.
        draws: those of the images.
        outside: value where the augmented image shows nothing of the plain one, the grey square included.

    Returns:
        ``(N, K, h, w)``.

    Example:
        >>> import torch
        >>> from uda.functional import RandAugmentation, rand_augment_maps
        >>> mirrored = RandAugmentation(matrix=((-1.0, 0.0, 0.0), (0.0, 1.0, 0.0)), hole=(0.0, 1.0, 0.0, 0.5))
        >>> rand_augment_maps(torch.tensor([3.0, 4.0]).view(1, 1, 1, 2), [mirrored], outside=-1.0).tolist()
        [[[[-1.0, 3.0]]]]
    """
    grid = _grid(maps, draws)
    moved = F.grid_sample(maps, grid, mode="nearest", align_corners=False)
    covered = F.grid_sample(torch.ones_like(maps[:, :1]), grid, mode="nearest", align_corners=False) > 0
    return moved.masked_fill(~covered | _holes(maps, draws), outside)


def _grid(maps: Tensor, draws: Sequence[RandAugmentation]) -> Tensor:
    matrices = torch.tensor([draw.matrix for draw in draws], dtype=maps.dtype, device=maps.device)
    return F.affine_grid(matrices, list(maps.shape), align_corners=False)


def _holes(maps: Tensor, draws: Sequence[RandAugmentation]) -> Tensor:
    """``(N, 1, h, w)`` bool: cells whose centres lie in the square."""
    height, width = maps.shape[-2:]
    rows = (torch.arange(height, device=maps.device) + 0.5) / height
    columns = (torch.arange(width, device=maps.device) + 0.5) / width
    holes = []
    for top, bottom, left, right in (draw.hole for draw in draws):
        tall, wide = (rows >= top) & (rows < bottom), (columns >= left) & (columns < right)
        holes.append(tall[:, None] & wide)
    return torch.stack(holes).unsqueeze(1)


def _blend(other: Tensor, image: Tensor, value: int) -> Tensor:
    """PIL's enhancement by a factor below 1: from ``other`` towards the image (FixMatch: 0.14 to 0.86)."""
    return other + (image - other) * (0.09 * value + 0.05)


def _grey(image: Tensor) -> Tensor:
    grey: Tensor = (image * image.new_tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(0, keepdim=True)
    return grey


def _autocontrast(image: Tensor, value: int) -> Tensor:
    low, high = image.amin((1, 2), keepdim=True), image.amax((1, 2), keepdim=True)
    return torch.where(high > low, (image - low) / (high - low).clamp(min=1 / 255), image)


def _equalize(image: Tensor, value: int) -> Tensor:
    levels = (image * 255).round().long().clamp(0, 255)
    planes = []
    for plane in levels:
        counts = torch.bincount(plane.flatten(), minlength=256)
        step = (counts.sum() - counts[plane.max()]) // 255
        table = (step // 2 + counts.cumsum(0) - counts) // step.clamp(min=1)
        planes.append(torch.where(step > 0, table.clamp(max=255)[plane], plane))
    return torch.stack(planes).to(image.dtype) / 255


def _posterize(image: Tensor, value: int) -> Tensor:
    unit = 1 << (4 - value * 4 // 10)
    return (image * 255).round().div(unit).floor() * (unit / 255)


def _sharpness(image: Tensor, value: int) -> Tensor:
    kernel = image.new_tensor([[1, 1, 1], [1, 5, 1], [1, 1, 1]]).div(13).expand(3, 1, 3, 3)
    smooth = image.clone()
    with torch.autocast(image.device.type, enabled=False):
        smooth[:, 1:-1, 1:-1] = F.conv2d(image[None], kernel, groups=3)[0]
    return _blend(smooth, image, value)


def _solarize(image: Tensor, value: int) -> Tensor:
    threshold = (256 - value * 256 // 10) / 255
    return torch.where(image >= threshold, 1 - image, image)


_COLOURS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "autocontrast": _autocontrast,
    "brightness": lambda image, value: _blend(torch.zeros_like(image), image, value),
    "color": lambda image, value: _blend(_grey(image), image, value),
    "contrast": lambda image, value: _blend(_grey(image).mean(), image, value),
    "equalize": _equalize,
    "identity": lambda image, value: image,
    "posterize": _posterize,
    "sharpness": _sharpness,
    "solarize": _solarize,
}
