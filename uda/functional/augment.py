"""The strong augmentation of DACS (Tranheden et al., WACV 2021), which DAFormer, HRDA and MIC took over.

Colour jitter, then Gaussian blur, on the mixed image alone; labels and weights are untouched. The authors' definitions
(kornia's of that time) are kept, and they differ from torchvision's: brightness is added, contrast is a plain product
without the mean, saturation acts in HSV.

Departures from the authors: images are in [0, 1] throughout, where they de-normalise, jitter and normalise again; what
leaves that range (after a Fourier swap, say) is clipped by the first operation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

OPERATIONS = ("brightness", "contrast", "saturation", "hue")
"""The names of the jitter's operations by their index in ``order``."""
REACH = 7.0
"""Standard deviations of a blur beyond which its kernel is cut off: 3e-12 of it."""


@dataclass(frozen=True)
class StrongAugmentation:
    """One draw of parameters, shared by a batch; ``None`` where an augmentation is not applied.

    Example:
        >>> import torch
        >>> from uda.functional import StrongAugmentation, strong_augment
        >>> brighter = StrongAugmentation(1.25, None, None, None, order=(0, 1, 2, 3), sigma=None)
        >>> strong_augment(torch.zeros(1, 3, 1, 2), parameters=brighter).unique().tolist()
        [0.25]
    """

    brightness: float | None
    contrast: float | None
    saturation: float | None
    hue: float | None
    order: tuple[int, ...]
    sigma: float | None


def blur_kernel_size(size: int) -> int:
    """Length of DACS' blur kernel for an image side: ``ceil(size / 10)``, or one less where that is even.

    Example:
        >>> from uda.functional import blur_kernel_size
        >>> blur_kernel_size(512), blur_kernel_size(65)
        (51, 7)
    """
    tenth = math.ceil(0.1 * size)
    return math.floor(tenth - 0.5 + tenth % 2)


def gaussian_blur(images: Tensor, sigma: float) -> Tensor:
    """Gaussian blur with DACS' kernel size, reflected borders (the edge is not repeated).

    ``images``: ``(N, C, H, W)`` floating point, any range, ``sigma`` > 0 in pixels, the same on both axes.
    Returns the same shape and dtype. Raises ValueError for other inputs.

    Example:
        >>> import torch
        >>> from uda.functional import gaussian_blur
        >>> images = torch.zeros(1, 3, 32, 32)
        >>> images[:, :, 16, 16] = 1
        >>> blurred = gaussian_blur(images, 1.0)
        >>> bool(blurred.max() < 1), [round(total, 4) for total in blurred.sum((0, 2, 3)).tolist()]
        (True, [1.0, 1.0, 1.0])
    """
    _check(images)
    if not (sigma > 0 and math.isfinite(sigma)):
        raise ValueError(f"sigma is {sigma}, must be a number > 0")
    down, across = (_blur_weights(side, sigma) for side in images.shape[2:])
    recorded = images.requires_grad and torch.is_grad_enabled()
    if (
        images.device.type == "cpu"
        and images.dtype == torch.float32
        and not (recorded or torch.compiler.is_compiling())
    ):
        return _opencv_blur(images.detach(), down, across)
    channels = images.shape[1]
    out = images
    for axis, weights in ((2, down), (3, across)):
        if len(weights) == 1:
            continue
        half = len(weights) // 2
        shape = [1, 1, 1, 1]
        shape[axis] = len(weights)
        padding = (0, 0, half, half) if axis == 2 else (half, half, 0, 0)
        with torch.autocast(images.device.type, enabled=False):
            kernel = weights.to(images).view(shape).expand(channels, -1, -1, -1)
            out = F.conv2d(F.pad(out, padding, mode="reflect"), kernel, groups=channels)
    return out


def _blur_weights(side: int, sigma: float) -> Tensor:
    """DACS' kernel for an image side, float64, without its ends where they are nothing."""
    half = max(blur_kernel_size(side), 1) // 2
    offsets = torch.arange(2 * half + 1, dtype=torch.float64) - half
    weights = torch.softmax(-(offsets**2) / (2 * sigma**2), dim=0)
    if torch.compiler.is_compiling():  # one graph for all deviations
        return weights
    reach = min(half, math.ceil(REACH * sigma))
    return weights[half - reach : half + reach + 1]


def _opencv_blur(images: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """Plane by plane, in a tenth of PyTorch's time and less."""
    from uda.opencv import cv2

    horizontal, vertical = (weights.float().numpy() for weights in (across, down))
    blurred = torch.empty_like(images, memory_format=torch.contiguous_format)
    planes = images.contiguous().flatten(0, 1).numpy()
    for plane, place in zip(planes, blurred.flatten(0, 1).numpy(), strict=True):
        cv2.sepFilter2D(plane, -1, horizontal, vertical, dst=place, borderType=cv2.BORDER_REFLECT_101)
    return blurred


def colour_jitter(
    images: Tensor,
    brightness: float | None = None,
    contrast: float | None = None,
    saturation: float | None = None,
    hue: float | None = None,
    order: Sequence[int] = (0, 1, 2, 3),
) -> Tensor:
    """Colour jitter with given factors; ``None`` leaves an operation out.

    Args:
        images: ``(N, 3, H, W)`` RGB floating point in [0, 1].
        brightness: ``x + (brightness - 1)``, clipped to [0, 1]; >= 0, 1 changes nothing.
        contrast: ``x * contrast``, clipped; >= 0.
        saturation: the S of HSV times ``saturation``, clipped; >= 0.
        hue: the H of HSV plus ``hue`` full turns, wrapped; in [-0.5, 0.5].
        order: indices into :data:`OPERATIONS` in order of application, each at most once; one that is not listed is
            left out.

    Returns:
        ``(N, 3, H, W)`` in [0, 1], same dtype.

    Raises:
        ValueError: for factors out of range, a wrong order or other images.

    Example:
        >>> import torch
        >>> from uda.functional import colour_jitter
        >>> red = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)
        >>> colour_jitter(red, contrast=0.5).flatten().tolist()
        [0.5, 0.0, 0.0]
        >>> colour_jitter(red, hue=0.5).flatten().round(decimals=2).tolist()
        [0.0, 1.0, 1.0]
    """
    _check(images, channels=3)
    factors = (brightness, contrast, saturation, hue)
    for name, factor in zip(OPERATIONS[:3], factors, strict=False):
        if factor is not None and not (factor >= 0 and math.isfinite(factor)):
            raise ValueError(f"{name} is {factor}, must be >= 0")
    if hue is not None and not -0.5 <= hue <= 0.5:
        raise ValueError(f"hue is {hue}, must be in [-0.5, 0.5] turns")
    if len(set(order)) != len(order) or not set(order) <= set(range(4)):
        raise ValueError(f"order is {tuple(order)}, must be different indices in 0..3")
    out = images
    for index in order:
        factor = factors[index]
        if factor is None:
            continue
        if index == 0:
            out = (out + (factor - 1)).clamp(0, 1)
        elif index == 1:
            out = (out * factor).clamp(0, 1)
        else:
            out = _change_hsv(out.clamp(0, 1), *((factor, 0.0) if index == 2 else (1.0, factor)))
    return out


def _change_hsv(images: Tensor, saturation: float, turns: float) -> Tensor:
    """Scale S, clipped to [0, 1], and shift H, in HSV with ``s = (max - min) / (max + 1e-6)``."""
    value, argmax = images.max(dim=1)
    delta = value - images.amin(dim=1)
    s = (delta / (value + 1e-6) * saturation).clamp(0, 1)
    safe = torch.where(delta == 0, torch.ones_like(delta), delta)
    r, g, b = ((value - plane) / safe for plane in images.unbind(1))
    # Sixths of a turn from red, by which channel is the largest.
    sextant = torch.stack([b - g, r - b + 2, g - r + 4]).gather(0, argmax[None])[0]
    sextant = torch.remainder(sextant + 6 * turns, 6)
    # Closed form of the six cases: each channel falls from V by V S over one sextant, stays, and rises.
    planes = []
    for offset in (5, 3, 1):
        k = torch.remainder(sextant + offset, 6)
        planes.append(value - value * s * torch.minimum(k, 4 - k).clamp(0, 1))
    return torch.stack(planes, dim=1)


def draw_strong_augmentation(
    generator: torch.Generator | None = None,
    *,
    strength: float = 0.25,
    jitter_probability: float = 0.8,
    blur_probability: float = 0.5,
    sigma: tuple[float, float] = (0.15, 1.15),
) -> StrongAugmentation:
    """Draw the parameters of :func:`strong_augment` from a CPU generator.

    Args:
        generator: where the numbers come from; always the same count of draws, whatever they turn out to be.
        strength: factors are uniform in 1 ± strength and hue in ± strength turns, in [0, 0.5]; 0.25 in DACS, 0.2 in
            DAFormer and its followers.
        jitter_probability: of all four jitter operations together (the authors' "jitter 0.2" constant is the threshold
            that a draw must exceed).
        blur_probability: of the blur.
        sigma: range of the uniform blur deviation in pixels, 0 < low <= high.

    Raises:
        ValueError: for values out of range.

    Example:
        >>> import torch
        >>> from uda.functional import draw_strong_augmentation
        >>> parameters = draw_strong_augmentation(torch.Generator().manual_seed(0), strength=0.2, jitter_probability=1)
        >>> 0.8 <= parameters.brightness <= 1.2, sorted(parameters.order)
        (True, [0, 1, 2, 3])
    """
    if not 0 <= strength <= 0.5:
        raise ValueError(f"strength is {strength}, must be in [0, 0.5]")
    for name, probability in (("jitter_probability", jitter_probability), ("blur_probability", blur_probability)):
        if not 0 <= probability <= 1:
            raise ValueError(f"{name} is {probability}, must be in [0, 1]")
    if not 0 < sigma[0] <= sigma[1]:
        raise ValueError(f"sigma is {sigma}, must be 0 < low <= high")
    uniform = torch.rand(7, generator=generator, dtype=torch.float64).tolist()
    order = tuple(torch.randperm(4, generator=generator).tolist())
    blur = sigma[0] + uniform[6] * (sigma[1] - sigma[0]) if uniform[1] < blur_probability else None
    if uniform[0] >= jitter_probability:
        return StrongAugmentation(None, None, None, None, order, blur)
    brightness, contrast, saturation, hue = (strength * (2 * u - 1) for u in uniform[2:6])
    return StrongAugmentation(1 + brightness, 1 + contrast, 1 + saturation, hue, order, blur)


def strong_augment(
    images: Tensor, generator: torch.Generator | None = None, *, parameters: StrongAugmentation | None = None
) -> Tensor:
    """DACS' colour jitter and blur on ``(N, 3, H, W)`` images in [0, 1], one draw for the whole batch.

    ``parameters`` (see :func:`draw_strong_augmentation`) are drawn from ``generator`` with DACS' settings where not
    given. Returns the same shape and dtype, in [0, 1] if the input is.

    Example:
        >>> import torch
        >>> from uda.functional import strong_augment
        >>> images = torch.rand(2, 3, 64, 64)
        >>> augmented = strong_augment(images, torch.Generator().manual_seed(0))
        >>> augmented.shape
        torch.Size([2, 3, 64, 64])
        >>> torch.equal(augmented, strong_augment(images, torch.Generator().manual_seed(0)))
        True
    """
    p = draw_strong_augmentation(generator) if parameters is None else parameters
    out = colour_jitter(images, p.brightness, p.contrast, p.saturation, p.hue, p.order)
    return out if p.sigma is None else gaussian_blur(out, p.sigma)


def strong_augment_each(
    images: Tensor,
    generator: torch.Generator | None = None,
    *,
    strength: float = 0.25,
    jitter_probability: float = 0.8,
    blur_probability: float = 0.5,
    parameters: Sequence[StrongAugmentation] | None = None,
) -> Tensor:
    """:func:`strong_augment` with a draw of its own for every image of ``(N, 3, H, W)``.

    Departure: the published codes draw once for the whole batch. ``generator`` and the other arguments are those of
    :func:`draw_strong_augmentation`; all draws are made before the first image is touched. ``parameters`` has the draws
    instead, one for each image; with them (drawn outside) ``torch.compile`` takes it whole, one graph for each order of
    operations.

    Example:
        >>> import torch
        >>> from uda.functional import strong_augment_each
        >>> strong_augment_each(torch.rand(2, 3, 64, 64), torch.Generator().manual_seed(0)).shape
        torch.Size([2, 3, 64, 64])
    """
    draws = parameters or [
        draw_strong_augmentation(
            generator,
            strength=strength,
            jitter_probability=jitter_probability,
            blur_probability=blur_probability,
        )
        for _ in images
    ]
    return torch.cat([strong_augment(image[None], parameters=draw) for image, draw in zip(images, draws, strict=True)])


def _check(images: Tensor, channels: int | None = None) -> None:
    if images.ndim != 4 or not images.is_floating_point() or channels not in (None, images.shape[1]):
        raise ValueError(
            f"images are {images.dtype} {tuple(images.shape)}, must be floating point (N, {channels or 'C'}, H, W)"
        )
