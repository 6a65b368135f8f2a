"""Classical colour transfer: mean and deviation, Reinhard in a decorrelated space, histogram matching.

Images are ``(N, 3, H, W)`` RGB in [0, 1] unless a function says otherwise; every image of a batch is matched by itself.
``torch.compile`` takes every function into one graph; what OpenCV and scikit-image compute is one operator there, and
the values of statistics are not checked.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from uda.functional.colour_spaces import lab_to_rgb, lalphabeta_to_rgb, rgb_to_lab, rgb_to_lalphabeta

Space = Literal["lab", "lalphabeta"]


def image_stats(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and population standard deviation of each channel of each image.

    ``images``: ``(N, C, H, W)`` floating point, any range. Returns two ``(N, C)`` tensors of the same dtype. Raises
    ValueError for other inputs.

    Example:
        >>> import torch
        >>> from uda.functional import image_stats
        >>> images = torch.tensor([1.0, 3.0]).view(1, 1, 1, 2)
        >>> mean, std = image_stats(images)
        >>> round(mean.item(), 4), round(std.item(), 4)
        (2.0, 1.0)
    """
    _check_images("images", images)
    quick = images.device.type == "cpu" and not images.requires_grad and images.dtype == torch.float32
    if not quick or torch.compiler.is_compiling():  # a graph cannot look for cancellation
        std, mean = torch.std_mean(images, dim=(2, 3), correction=0)
        return mean, std
    # Sum and norm run at memory speed where std_mean takes tens of passes; cancellation is caught below.
    # Plane by plane the second of the two reads it from the cache.
    n, c, height, width = images.shape
    moments = [(plane.mean(), torch.linalg.vector_norm(plane)) for plane in images.flatten(0, 1)]
    mean, norm = (torch.stack(values).view(n, c) for values in zip(*moments, strict=True))
    power = norm.square() / (height * width)
    variance = power - mean.square()
    if bool((variance < 1e-3 * power).any()):
        variance = (images - mean[:, :, None, None]).square().mean(dim=(2, 3))
    return mean, variance.sqrt()


def match_mean_std(
    images: Tensor,
    mean: Tensor | tuple[float, ...],
    std: Tensor | tuple[float, ...],
    target_mean: Tensor | tuple[float, ...],
    target_std: Tensor | tuple[float, ...],
) -> Tensor:
    r"""``(x - mean) * target_std / std + target_mean`` for each channel.

    $$ \hat{x} = \frac{\sigma_t}{\sigma_s} (x - \mu_s) + \mu_t $$

    Args:
        images: ``(N, C, H, W)`` floating point.
        mean, std, target_mean, target_std: ``(C,)`` (of a data set or a batch), ``(N, C)`` or ``(1, C)`` (of each
            image), on the scale of ``images``. A channel with ``std`` 0 becomes ``target_mean``.

    Returns:
        ``(N, C, H, W)`` of the dtype of ``images``, not clipped.

    Raises:
        ValueError: for statistics of another shape or a negative or non-finite standard deviation.

    Example:
        >>> import torch
        >>> from uda.functional import match_mean_std
        >>> images = torch.tensor([1.0, 3.0]).view(1, 1, 1, 2)
        >>> match_mean_std(images, mean=(2.0,), std=(1.0,), target_mean=(0.0,), target_std=(0.5,)).flatten().tolist()
        [-0.5, 0.5]
    """
    _check_images("images", images)
    n, c = images.shape[:2]
    names = ("mean", "std", "target_mean", "target_std")
    tensors = []
    for name, value in zip(names, (mean, std, target_mean, target_std), strict=True):
        tensor = torch.as_tensor(value, device=images.device).to(images.dtype)
        if tuple(tensor.shape) not in ((c,), (1, c), (n, c)):
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}, must be ({c},) or ({n}, {c})")
        looked_at = name.endswith("std") and not torch.compiler.is_compiling()
        if looked_at and not bool((tensor >= 0).all() & tensor.isfinite().all()):
            raise ValueError(f"{name} is {tensor.tolist()}, must be finite and >= 0")
        tensors.append(tensor.expand(n, c))
    m, s, target_m, target_s = tensors
    # Dividing by 1 where the deviation is 0 keeps NaN out of the gradient of the quotient that is not taken.
    scale = torch.where(s > 0, target_s / torch.where(s > 0, s, torch.ones_like(s)), torch.zeros_like(s))
    return _affine(images, scale, target_m - m * scale)


def _affine(images: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """``images * scale + shift`` with ``(N, C)`` factors, in one pass."""
    if images.device.type == "cpu" and images.is_contiguous():
        # Batch norm in evaluation mode is PyTorch's only vectorised multiply-add with a factor for each plane.
        n, c, height, width = images.shape
        mean, variance = torch.zeros_like(scale).flatten(), torch.ones_like(scale).flatten()
        planes = images.view(1, n * c, height, width)
        eps = torch.finfo(torch.float32).tiny  # 1 + eps is 1; not every torch takes 0
        return F.batch_norm(planes, mean, variance, scale.flatten(), shift.flatten(), eps=eps).view_as(images)
    return torch.addcmul(shift[:, :, None, None], images, scale[:, :, None, None])


def colour_stats(images: Tensor, space: Space = "lab") -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each image in the space in which :func:`reinhard` works.

    ``images``: ``(N, 3, H, W)`` RGB, floating point in [0, 1] or uint8. Returns two ``(N, 3)`` float tensors.

    Example:
        >>> import torch
        >>> from uda.functional import colour_stats
        >>> mean, std = colour_stats(torch.ones(1, 3, 4, 4))
        >>> [round(value) for value in mean[0].tolist()]  # white in Lab
        [100, 0, 0]
    """
    _check_space(space)
    _check_images("images", images, channels=3, byte=True)
    if space == "lab" and _opencv_can(images):
        return _compiled_stats(images) if torch.compiler.is_compiling() else _opencv_stats(images)
    return image_stats((rgb_to_lab if space == "lab" else rgb_to_lalphabeta)(_as_float(images)))


def reinhard(images: Tensor, target: Tensor | tuple[Tensor, Tensor], space: Space = "lab") -> Tensor:
    r"""Reinhard colour transfer: give images the mean and deviation of a target in a decorrelated colour space.

    $$ \hat{l} = \frac{\sigma_t^l}{\sigma_s^l} (l - \mu_s^l) + \mu_t^l \quad \text{and so for the other two
    channels} $$

    Reinhard et al., "Color transfer between images", IEEE CG&A 2001, equations 10 and 11.

    Args:
        images: ``(N, 3, H, W)`` RGB, floating point in [0, 1], or uint8.
        target: target images, ``(N, 3, h, w)`` or ``(1, 3, h, w)`` of the same dtype, or their :func:`colour_stats`:
            two ``(3,)``, ``(1, 3)`` or ``(N, 3)`` tensors, of one image, a data set, or of each image.
        space: ``"lab"`` (CIE Lab, result clipped to the range of the dtype) or ``"lalphabeta"`` (the paper's; a
            floating point result is not clipped).

    Returns:
        ``(N, 3, H, W)`` of the dtype of ``images``. In Lab, uint8 and float32 images on the CPU that need no
        gradient go through OpenCV, whose tables are within a grey level of the formula for float32 and within a few for
        uint8; every other input is computed by the formula on its own device, and is differentiable.

    Raises:
        ValueError: for other shapes or dtypes, a wrong space, or negative deviations.

    Example:
        >>> import torch
        >>> from uda.functional import reinhard
        >>> images, target = torch.full((2, 3, 8, 8), 0.25), torch.full((1, 3, 4, 4), 0.5)
        >>> matched = reinhard(images, target)
        >>> matched.shape, round(matched.mean().item(), 1)
        (torch.Size([2, 3, 8, 8]), 0.5)
    """
    _check_space(space)
    _check_images("images", images, channels=3, byte=True)
    if isinstance(target, Tensor):
        _check_pair(images, target)
        target = colour_stats(target, space)
    if space == "lab" and _opencv_can(images):
        mean, std = (_per_image(t, images, name) for t, name in zip(target, _STATS, strict=True))
        return (_compiled_reinhard if torch.compiler.is_compiling() else _reinhard_opencv)(images, mean, std)
    forward, backward = (rgb_to_lab, lab_to_rgb) if space == "lab" else (rgb_to_lalphabeta, lalphabeta_to_rgb)
    pixels = forward(_as_float(images))
    out = backward(match_mean_std(pixels, *image_stats(pixels), *target))
    return _to_byte(out) if images.dtype == torch.uint8 else out


def match_histograms(images: Tensor, target: Tensor, *, quantise: bool = False) -> Tensor:
    r"""Give each channel of each image the histogram of the target's, with scikit-image's result.

    $$ \hat{x} = F_t^{-1}(F_s(x)), \qquad F: \text{cumulative histogram of a channel} $$

    Known trap: where the target's sky is saturated, the brightest source pixels are stretched over it and tinted.

    Args:
        images: ``(N, C, H, W)``, uint8 or floating point of any range.
        target: ``(N, C, h, w)`` or ``(1, C, h, w)`` of the same dtype; the size may differ.
        quantise: floating point images in [0, 1] are taken as their nearest of 256 levels, which needs no sorting. The
            result is scikit-image's for those levels.

    Returns:
        Like ``images``: uint8 is truncated towards zero as scikit-image does, floating point is not rounded. Counting
        and sorting happen on the CPU, and no gradient flows.

    Raises:
        ValueError: for other dtypes, or shapes that do not fit.

    Example:
        >>> import torch
        >>> from uda.functional import match_histograms
        >>> images = torch.tensor([0.0, 1.0, 2.0, 3.0]).view(1, 1, 2, 2)
        >>> target = torch.tensor([8.0, 6.0, 7.0, 5.0]).view(1, 1, 1, 4)
        >>> match_histograms(images, target).flatten().tolist()
        [5.0, 6.0, 7.0, 8.0]
    """
    _check_pair(images, target)
    images, target = images.detach(), target.detach()
    if torch.compiler.is_compiling():
        matched: Tensor = _compiled_histograms(images, target, quantise)
        return matched
    return _match_histograms(images, target, quantise)


def _match_histograms(images: Tensor, target: Tensor, quantise: bool) -> Tensor:
    if images.dtype == torch.uint8:
        return _match_levels(images, target, floating=False)
    if quantise:
        return _match_levels(_to_byte(images), _to_byte(target), floating=True).to(images.dtype)
    from skimage import exposure

    matched = [
        exposure.match_histograms(image.double().cpu().numpy(), style.double().cpu().numpy(), channel_axis=0)
        for image, style in zip(images, target.expand(len(images), -1, -1, -1), strict=True)
    ]
    return torch.from_numpy(np.stack(matched)).to(images)


def _match_levels(images: Tensor, target: Tensor, *, floating: bool) -> Tensor:
    """uint8 images through one table of 256 values for each channel; ``floating`` results are in [0, 1]."""
    from uda.opencv import cv2

    counts, target_counts = _level_counts(images), _level_counts(target)
    cpu = images.cpu().contiguous()
    out = torch.empty(cpu.shape, dtype=torch.float32 if floating else torch.uint8)
    for n, c in np.ndindex(*cpu.shape[:2]):
        reference = target_counts[n % len(target_counts), c]
        occurring = np.flatnonzero(reference)
        quantiles, reference_quantiles = (np.cumsum(h) / h.sum() for h in (counts[n, c], reference[occurring]))
        table = np.interp(quantiles, reference_quantiles, occurring)
        table = (table / 255).astype(np.float32) if floating else table.astype(np.uint8)
        cv2.LUT(cpu[n, c].numpy(), table, dst=out[n, c].numpy())
    return out.to(images.device)


def _level_counts(images: Tensor) -> npt.NDArray[np.int64]:
    """``(N, C, 256)`` pixel counts of uint8 images."""
    from uda.opencv import cv2

    counts = np.empty((*images.shape[:2], 256), dtype=np.int64)
    for n, c in np.ndindex(*images.shape[:2]):
        plane = images[n, c].cpu().contiguous().numpy()
        if plane.size < 2**24:  # OpenCV counts in float32
            counts[n, c] = cv2.calcHist([plane], [0], None, [256], [0, 256]).ravel()  # OpenCV 4 gives a column
        else:
            counts[n, c] = np.bincount(plane.ravel(), minlength=256)
    return counts


_BYTE_SCALE, _BYTE_SHIFT = np.array([2.55, 1.0, 1.0]), np.array([0.0, 128.0, 128.0])
_STATS = ("target mean", "target std")
_Moments = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]


def _opencv_can(images: Tensor) -> bool:
    return images.device.type == "cpu" and images.dtype in (torch.float32, torch.uint8) and not images.requires_grad


def _strips(height: int, width: int) -> Iterator[slice]:
    """Rows that fit in the processor's cache together."""
    step = max(1, 2**16 // width)
    return (slice(top, top + step) for top in range(0, height, step))


def _opencv_lab(image: Tensor, out: npt.NDArray[Any] | None = None) -> _Moments:
    """Mean and deviation of one ``(3, H, W)`` image in OpenCV's Lab, and its Lab pixels ``(H, W, 3)`` in ``out``.

    Without ``out`` a float image is quantised: the statistics are as exact as by OpenCV's float tables, and quicker.
    """
    from uda.opencv import cv2

    total, power = np.zeros(3), np.zeros(3)
    for rows in _strips(*image.shape[1:]):
        strip = image[:, rows] if out is not None or image.dtype == torch.uint8 else _to_byte(image[:, rows])
        dst = None if out is None else out[rows]
        lab = cv2.cvtColor(cv2.merge(list(strip.numpy())), cv2.COLOR_RGB2LAB, dst=dst)
        mean, std = (np.float64(m).ravel() for m in cv2.meanStdDev(lab))
        share = lab.shape[0] / image.shape[1]
        total += share * mean
        power += share * (std**2 + mean**2)
    return total, np.sqrt(np.maximum(power - total**2, 0))


def _opencv_stats(images: Tensor) -> tuple[Tensor, Tensor]:
    mean, std = (np.stack(m) for m in zip(*map(_opencv_lab, images.contiguous()), strict=True))
    mean, std = (mean - _BYTE_SHIFT) / _BYTE_SCALE, std / _BYTE_SCALE
    return torch.from_numpy(mean).float(), torch.from_numpy(std).float()


def _reinhard_opencv(images: Tensor, target_mean: Tensor, target_std: Tensor) -> Tensor:
    from uda.opencv import cv2

    out = torch.empty(images.shape, dtype=images.dtype)
    byte = images.dtype == torch.uint8
    to_mean, to_std = target_mean.double().numpy(), target_std.double().numpy()
    if byte:
        to_mean, to_std = to_mean * _BYTE_SCALE + _BYTE_SHIFT, to_std * _BYTE_SCALE
    for image, planes, m, s in zip(images.contiguous(), out.numpy(), to_mean, to_std, strict=True):
        pixels = np.empty((*planes.shape[1:], 3), dtype=planes.dtype)
        mean, std = _opencv_lab(image, pixels)
        scale = np.divide(s, std, out=np.zeros(3), where=std > 0)
        affine = np.column_stack([np.diag(scale), m - mean * scale])
        for rows in _strips(*planes.shape[1:]):
            lab = cv2.transform(pixels[rows], affine)  # rounds and saturates bytes
            cv2.split(cv2.cvtColor(lab, cv2.COLOR_LAB2RGB), mv=list(planes[:, rows]))
    return out


def _to_byte(images: Tensor) -> Tensor:
    if _opencv_can(images):
        from uda.opencv import cv2

        # six times as fast; negative values must go first, it takes absolute ones
        flat = images.clamp(min=0).reshape(-1, images.shape[-1]).numpy()
        return torch.from_numpy(cv2.convertScaleAbs(flat, alpha=255)).view(images.shape)
    return (images * 255).round_().clamp_(0, 255).to(torch.uint8)


def _as_float(images: Tensor) -> Tensor:
    return images.float() / 255 if images.dtype == torch.uint8 else images


def _per_image(stats: Tensor, images: Tensor, name: str) -> Tensor:
    n, c = images.shape[:2]
    if tuple(stats.shape) not in ((c,), (1, c), (n, c)):
        raise ValueError(f"{name} has shape {tuple(stats.shape)}, must be ({c},) or ({n}, {c})")
    if name == _STATS[1] and not torch.compiler.is_compiling() and not bool((stats >= 0).all()):
        raise ValueError(f"{name} is {stats.tolist()}, must be >= 0")
    return stats.detach().cpu().expand(n, c)


def _check_space(space: str) -> None:
    if space not in get_args(Space):
        raise ValueError(f"space is {space!r}, must be one of {', '.join(map(repr, get_args(Space)))}")


def _check_images(name: str, images: Tensor, channels: int | None = None, byte: bool = False) -> None:
    known_type = images.is_floating_point() or (byte and images.dtype == torch.uint8)
    if images.ndim != 4 or images.numel() == 0 or not known_type or channels not in (None, images.shape[1]):
        wanted = f"{'uint8 or ' if byte else ''}floating point (N, {channels or 'C'}, H, W)"
        raise ValueError(f"{name} is {images.dtype} {tuple(images.shape)}, must be {wanted}")


def _check_pair(images: Tensor, target: Tensor) -> None:
    _check_images("images", images, byte=True)
    _check_images("target", target, byte=True)
    if target.dtype != images.dtype or target.shape[1] != images.shape[1] or len(target) not in (1, len(images)):
        raise ValueError(
            f"target is {target.dtype} {tuple(target.shape)}, must be {images.dtype} "
            f"({len(images)} or 1, {images.shape[1]}, h, w)"
        )


# Operators that torch.compile takes into its graph as they are: what OpenCV and scikit-image compute has no other form.


@torch.library.custom_op("uda::match_histograms", mutates_args=())
def _compiled_histograms(images: Tensor, target: Tensor, quantise: bool) -> Tensor:
    return _match_histograms(images, target, quantise)


@_compiled_histograms.register_fake
def _(images: Tensor, target: Tensor, quantise: bool) -> Tensor:
    return torch.empty(images.shape, dtype=images.dtype, device=images.device)


@torch.library.custom_op("uda::lab_stats", mutates_args=())
def _compiled_stats(images: Tensor) -> tuple[Tensor, Tensor]:
    return _opencv_stats(images)


@_compiled_stats.register_fake
def _(images: Tensor) -> tuple[Tensor, Tensor]:
    return images.new_empty(images.shape[:2], dtype=torch.float32), images.new_empty(
        images.shape[:2], dtype=torch.float32
    )


@torch.library.custom_op("uda::reinhard_lab", mutates_args=())
def _compiled_reinhard(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    return _reinhard_opencv(images, mean, std)


@_compiled_reinhard.register_fake
def _(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    return torch.empty(images.shape, dtype=images.dtype)
