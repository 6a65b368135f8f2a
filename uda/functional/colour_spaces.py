"""CIE Lab and the l-alpha-beta space of Reinhard et al. 2001, differentiable, for any device and float type."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

# sRGB primaries and the D65 white point of the 2 degree observer, as in scikit-image.
_RGB_TO_XYZ = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
_WHITE = (0.95047, 1.0, 1.08883)

# As printed in Reinhard et al. 2001; the printed inverse is only nearly the inverse.
_RGB_TO_LMS = ((0.3811, 0.5783, 0.0402), (0.1967, 0.7244, 0.0782), (0.0241, 0.1288, 0.8444))
_LMS_TO_RGB = ((4.4679, -3.5873, 0.1193), (-1.2186, 2.3809, -0.1624), (0.0497, -0.2439, 1.2045))
_LMS_TO_LAB = np.diag([3**-0.5, 6**-0.5, 2**-0.5]) @ ((1, 1, 1), (1, 1, -2), (1, -1, 0))
_LAB_TO_LMS = np.array(((1, 1, 1), (1, 1, -1), (1, -2, 0))) @ np.diag([3**-0.5, 6**-0.5, 2**-0.5])
# Plain numbers: an array would be data to torch.compile.
_TO_XYZ = (np.array(_RGB_TO_XYZ) / np.array(_WHITE)[:, None]).tolist()
_FROM_XYZ = (np.linalg.inv(_RGB_TO_XYZ) * np.array(_WHITE)).tolist()
_TO_LAB, _FROM_LAB = _LMS_TO_LAB.tolist(), _LAB_TO_LMS.tolist()


def rgb_to_lab(images: Tensor) -> Tensor:
    """sRGB in [0, 1] to CIE Lab (D65 white, 2 degree observer), with scikit-image's constants.

    ``(N, 3, H, W)`` floating point to the same shape and dtype; L in [0, 100], a and b about [-128, 127].

    Example:
        >>> import torch
        >>> from uda.functional import rgb_to_lab
        >>> [round(value) for value in rgb_to_lab(torch.ones(1, 3, 1, 1)).flatten().tolist()]
        [100, 0, 0]
    """
    _check("images", images)
    linear = torch.where(images > 0.04045, ((images.clamp(min=0.04045) + 0.055) / 1.055).pow(2.4), images / 12.92)
    xyz = _mix(linear, _TO_XYZ)
    f = torch.where(xyz > 0.008856, xyz.clamp(min=0.008856).pow(1 / 3), 7.787 * xyz + 16 / 116)
    x, y, z = f.unbind(1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=1)


def lab_to_rgb(lab: Tensor) -> Tensor:
    """CIE Lab (D65) to sRGB, clipped to [0, 1]; the inverse of :func:`rgb_to_lab`.

    ``(N, 3, H, W)`` floating point, any values: colours out of the gamut are clipped, and a negative f(Z) is set to 0
    as scikit-image does (without its warning).

    Example:
        >>> import torch
        >>> from uda.functional import lab_to_rgb
        >>> white = torch.tensor([100.0, 0.0, 0.0]).view(1, 3, 1, 1)
        >>> [round(value, 2) for value in lab_to_rgb(white).flatten().tolist()]
        [1.0, 1.0, 1.0]
    """
    _check("lab", lab)
    lightness, a, b = lab.unbind(1)
    y = (lightness + 16) / 116
    f = torch.stack([a / 500 + y, y, (y - b / 200).clamp(min=0)], dim=1)
    xyz = torch.where(f > 0.2068966, f.pow(3), (f - 16 / 116) / 7.787)
    linear = _mix(xyz, _FROM_XYZ)
    rgb = torch.where(linear > 0.0031308, 1.055 * linear.clamp(min=0.0031308).pow(1 / 2.4) - 0.055, 12.92 * linear)
    return rgb.clamp(0, 1)


def rgb_to_lalphabeta(images: Tensor, eps: float = 1 / 2550) -> Tensor:
    """RGB in [0, 1] to the l-alpha-beta space of Reinhard et al. 2001 (section 2, equations 4 to 6).

    ``(N, 3, H, W)`` floating point to the same shape and dtype. Gamma is not removed, as in the paper. ``eps`` > 0
    bounds the cone responses below, before the decimal logarithm (no bound in the paper; a tenth of a grey level here).

    Example:
        >>> import torch
        >>> from uda.functional import rgb_to_lalphabeta
        >>> grey = rgb_to_lalphabeta(torch.full((1, 3, 1, 1), 0.1))
        >>> [round(value, 2) for value in grey.flatten().tolist()]  # l is 3^0.5 log10(0.1)
        [-1.73, 0.0, 0.0]
    """
    _check("images", images)
    if not eps > 0:
        raise ValueError(f"eps is {eps}, must be > 0")
    return _mix(_mix(images, _RGB_TO_LMS).clamp(min=eps).log10(), _TO_LAB)


def lalphabeta_to_rgb(lalphabeta: Tensor) -> Tensor:
    """l-alpha-beta back to RGB with the paper's printed matrices (equations 7 and 8), not clipped.

    ``(N, 3, H, W)`` floating point. The printed LMS to RGB matrix is only nearly the inverse of the printed RGB to LMS
    one, so a round trip moves colours by up to about a hundredth.

    Example:
        >>> import torch
        >>> from uda.functional import lalphabeta_to_rgb
        >>> white = lalphabeta_to_rgb(torch.zeros(1, 3, 1, 1))
        >>> [round(value, 1) for value in white.flatten().tolist()]
        [1.0, 1.0, 1.0]
    """
    _check("lalphabeta", lalphabeta)
    return _mix(torch.pow(10.0, _mix(lalphabeta, _FROM_LAB)), _LMS_TO_RGB)


def _mix(images: Tensor, matrix: Sequence[Sequence[float]]) -> Tensor:
    """A linear map of three channels, in full precision whatever autocast and TF32 say of products."""
    first, second, third = images.unbind(1)
    return torch.stack([first * a + second * b + third * c for a, b, c in matrix], dim=1)


def _check(name: str, images: Tensor) -> None:
    if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
        raise ValueError(f"{name} is {images.dtype} {tuple(images.shape)}, must be floating point (N, 3, H, W)")
