"""Amplitude swap of Fourier domain adaptation (Yang and Soatto, "FDA", CVPR 2020, equation 3).

The low-frequency amplitude of a source image is replaced by that of a target image, its phase is kept. Only the
``(2b + 1)²`` lowest coefficients change, so no full transform is needed: thin DFT products, and an FFT along the lines
where the band is wide, give those coefficients of both images, and their adjoint adds the change to the source.

Bands (``b = floor(min(H, W) * beta)`` on both axes, in signed frequency indices):

* ``"symmetric"``: ``|k| <= b``. The paper and the authors' NumPy demonstration; ``b = 0`` still swaps the mean.
* ``"half-open"``: ``-b <= k < b``. What the authors' training code swaps: one row and one column narrower, nothing at
  all for ``b = 0``. It breaks the conjugate symmetry of a real image's spectrum; the real part of the inverse transform
  is taken, which halves the change of the coefficients whose mirror image is outside the band. (The authors'
  complex-to-real inverse ignored one half of the spectrum instead; its operator is gone from PyTorch.)

Within ``torch.compile`` the swap is one operator of the graph.

Departures from the authors: a batch may share one target; a source coefficient below rounding noise has no phase and
takes phase 0 (as an exact zero does in NumPy).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Band = Literal["symmetric", "half-open"]
_FEW = 15
"""Frequencies up to which products along an image's rows are quicker than the FFT of its lines."""
_LINES = 256
"""Lines whose FFT a processor makes at once: its cache holds what comes of it."""


def half_width(height: int, width: int, beta: float) -> int:
    """Half width ``b = floor(min(H, W) * beta)`` of the swapped band, in frequency bins.

    Raises ValueError unless ``beta`` is in [0, 0.5] (0.5 is the whole spectrum of the shorter side).

    Example:
        >>> from uda.functional import half_width
        >>> half_width(512, 1024, 0.01)
        5
    """
    if not 0.0 <= beta <= 0.5:
        raise ValueError(f"beta is {beta}, must be in [0, 0.5]")
    return math.floor(min(height, width) * beta)


def low_freq_swap(amp_src: Tensor, amp_trg: Tensor, beta: float) -> Tensor:
    """Copy the four low-frequency corners of one un-shifted amplitude spectrum into another.

    The half-open band of the authors' training code, on spectra as ``torch.fft.fft2`` gives them. ``amp_src``,
    ``amp_trg``: ``(..., H, W)`` of equal shape. Returns a new tensor like ``amp_src``. Raises ValueError for unequal
    shapes or ``beta`` outside [0, 0.5].

    Example:
        >>> import torch
        >>> from uda.functional import low_freq_swap
        >>> low_freq_swap(torch.zeros(4, 4), torch.ones(4, 4), beta=0.25).int().tolist()
        [[1, 0, 0, 1], [0, 0, 0, 0], [0, 0, 0, 0], [1, 0, 0, 1]]
    """
    if amp_src.shape != amp_trg.shape:
        raise ValueError(f"amplitudes are {tuple(amp_src.shape)} and {tuple(amp_trg.shape)}, must have equal shapes")
    height, width = amp_src.shape[-2:]
    b = half_width(height, width, beta)
    out = amp_src.clone()
    for rows in (slice(0, b), slice(height - b, height)):
        for columns in (slice(0, b), slice(width - b, width)):
            out[..., rows, columns] = amp_trg[..., rows, columns]
    return out


@torch.no_grad()
def fda_source_to_target(source: Tensor, target: Tensor, beta: float = 0.01, band: Band = "symmetric") -> Tensor:
    r"""Give source images the low-frequency amplitude of target images.

    $$ x^{s \to t} = \mathcal{F}^{-1} \left( \left[ M_{\beta} \circ \mathcal{F}^A(x^t)
    + (1 - M_{\beta}) \circ \mathcal{F}^A(x^s), \; \mathcal{F}^P(x^s) \right] \right) $$

    Args:
        source: ``(N, C, H, W)`` images, floating point, any range (the result has the same scale).
        target: ``(N, C, H, W)``, or ``(1, C, H, W)`` for one style for all; same height and width.
        beta: band size as a fraction of the shorter side, in [0, 0.5] (the paper uses 0.01, 0.05, 0.09).
        band: ``"symmetric"`` (paper) or ``"half-open"`` (the authors' training code); see the module's text.

    Returns:
        ``(N, C, H, W)`` in the dtype of ``source``; neither clipped nor rounded, so it may leave the input's range.
        Computed in float64 for float64 input and in float32 otherwise, whatever autocast says. No gradient flows.

    Raises:
        ValueError: for another number of dimensions or channels, another image size of the target (resize it first),
            integer images, ``beta`` outside [0, 0.5] or an unknown band.

    Example:
        >>> import torch
        >>> from uda.functional import fda_source_to_target
        >>> source, target = torch.rand(2, 3, 16, 16), torch.rand(1, 3, 16, 16)
        >>> adapted = fda_source_to_target(source, target, beta=0.0)  # only the mean is swapped
        >>> adapted.shape, torch.allclose(adapted.mean((2, 3)), target.mean((2, 3)), atol=1e-4)
        (torch.Size([2, 3, 16, 16]), True)
    """
    _check(source, target, band)
    height, width = source.shape[-2:]
    b = half_width(height, width, beta)
    if b == 0 and band == "half-open":
        return source.clone()
    if torch.compiler.is_compiling():
        swapped: Tensor = _compiled_swap(source.detach(), target.detach(), b, band)
        return swapped
    return _swap(source, target, b, band)


def _swap(source: Tensor, target: Tensor, b: int, band: str) -> Tensor:
    height, width = source.shape[-2:]
    dtype = torch.float64 if torch.float64 in (source.dtype, target.dtype) else torch.float32
    with torch.autocast(source.device.type, enabled=False), _exact_products():
        images = source.to(dtype)
        rows, columns = (_dft_table(n, b, dtype, source.device) for n in (height, width))
        plus_s, minus_s = _coefficients(images, rows, columns)
        plus_t, minus_t = _coefficients(target.to(dtype), rows, columns)
        floor = torch.finfo(dtype).eps * torch.maximum(plus_s.abs(), minus_s.abs()).amax((-2, -1), keepdim=True)
        weight_plus, weight_minus = (
            torch.from_numpy(w).to(source.device, dtype) for w in _band_weights(height, width, b, band == "half-open")
        )
        plus = _amplitude_change(plus_s, plus_t, floor) * weight_plus
        minus = _amplitude_change(minus_s, minus_t, floor) * weight_minus
        # Real part of the inverse DFT of the change, as products with the same cosines and sines.
        top = torch.cat([(plus + minus).real, -(plus + minus).imag], dim=-1)
        bottom = torch.cat([(minus - plus).imag, (minus - plus).real], dim=-1)
        change = torch.cat([top, bottom], dim=-2)
        out = _with_change(images, change, rows, columns)
    return out.to(source.dtype)


@torch.library.custom_op("uda::fda_swap", mutates_args=())
def _compiled_swap(source: Tensor, target: Tensor, b: int, band: str) -> Tensor:
    """An operator that torch.compile takes into its graph as it is: tables, products in parts, their precision."""
    return _swap(source, target, b, band)


@_compiled_swap.register_fake
def _(source: Tensor, target: Tensor, b: int, band: str) -> Tensor:
    return torch.empty(source.shape, dtype=source.dtype, device=source.device)


def _check(source: Tensor, target: Tensor, band: str) -> None:
    if band not in get_args(Band):
        raise ValueError(f"band is {band!r}, must be one of {', '.join(map(repr, get_args(Band)))}")
    for name, images in (("source", source), ("target", target)):
        if images.ndim != 4 or not images.is_floating_point() or images.numel() == 0:
            raise ValueError(f"{name} is {images.dtype} {tuple(images.shape)}, must be floating point (N, C, H, W)")
    if target.shape[1:] != source.shape[1:] or target.shape[0] not in (1, source.shape[0]):
        raise ValueError(
            f"target is {tuple(target.shape)}, must be {tuple(source.shape)} or a batch of one: resize the target first"
        )


@contextmanager
def _exact_products() -> Iterator[None]:
    """Keep TF32 and bfloat16 out of float32 products: their error would be visible in the image."""
    backends = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)  # type: ignore[attr-defined]
    saved = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = "ieee"
        yield
    finally:
        for backend, precision in zip(backends, saved, strict=True):
            backend.fp32_precision = precision


@lru_cache(maxsize=32)
def _dft_table_numpy(b: int, n: int, double: bool) -> npt.NDArray[np.floating]:
    # The angle is reduced in integers, so that the table is exact to its last digit.
    angle = 2 * np.pi * (np.arange(b + 1)[:, None] * np.arange(n) % n) / n
    table = np.concatenate([np.cos(angle), np.sin(angle)])
    return table.astype(np.float64 if double else np.float32)


def _dft_table(n: int, b: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """``(2(b + 1), n)``: cosines, then sines, of the frequencies 0..b."""
    return torch.from_numpy(_dft_table_numpy(b, n, dtype == torch.float64)).to(device)


@lru_cache(maxsize=16)
def _band_weights(height: int, width: int, b: int, half_open: bool) -> tuple[npt.NDArray[np.float64], ...]:
    """How often each computed coefficient counts in the inverse transform, over ``H W``.

    Two ``(b + 1, b + 1)`` arrays, for the coefficients ``(+ky, kx)`` and ``(-ky, kx)``. The mirror image ``(-ky, -kx)``
    is not computed: it adds one more of the same real part where it is a different bin and in the band.
    """
    indices = range(-b, b if half_open else b + 1)
    in_rows, in_columns = {k % height for k in indices}, {k % width for k in indices}
    weights = np.zeros((2, b + 1, b + 1))
    for sign in (0, 1):
        for ky in range(b + 1):
            if sign and -ky % height == ky:
                continue  # the same bin as +ky
            row = -ky if sign else ky
            for kx in range(b + 1):
                weights[sign, ky, kx] = row % height in in_rows and kx % width in in_columns
                if -kx % width != kx:
                    weights[sign, ky, kx] += -row % height in in_rows and -kx % width in in_columns
    weights /= height * width
    return weights[0], weights[1]


def _coefficients(images: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """DFT coefficients ``(+ky, kx)`` and ``(-ky, kx)`` of images, each complex ``(N, C, b + 1, b + 1)``."""
    n, c, height, width = images.shape
    count = len(columns) // 2
    # Without their mean, roughly, the sums round to a tenth of the error; what is taken off is added to the DC bin.
    mean = images[:, :, ::16].mean((2, 3))
    if count <= _FEW:
        thin = images.new_empty(n, c, len(rows), width)
        for planes, level, result in zip(*(_planes(x) for x in (images, mean[..., None, None], thin)), strict=True):
            torch.matmul(rows, planes - level, out=result)
        sums = thin @ columns.t()
    else:
        thin = images.new_empty(n, c, height, len(columns))
        for lines, result in zip(_lines(images), _lines(thin), strict=True):
            spectra = torch.fft.rfft(lines)[:, :count]
            result[:, :count] = spectra.real
            torch.neg(spectra.imag, out=result[:, count:])
        thin[..., 0] -= mean[..., None] * width
        sums = rows @ thin
    (cos_cos, cos_sin), (sin_cos, sin_sin) = (half.chunk(2, dim=-1) for half in sums.chunk(2, dim=-2))
    plus = torch.complex(cos_cos - sin_sin, -(cos_sin + sin_cos))
    minus = torch.complex(cos_cos + sin_sin, sin_cos - cos_sin)
    for coefficients in (plus, minus):
        coefficients[..., 0, 0] += mean * (height * width)
    return plus, minus


def _with_change(images: Tensor, change: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Images plus the waves of a change, cosines and sines on both axes: ``(N, C, 2(b + 1), 2(b + 1))``."""
    count, width = len(columns) // 2, images.shape[-1]
    out = torch.empty_like(images, memory_format=torch.contiguous_format)
    if count <= _FEW:
        for planes, part, result in zip(*(_planes(x) for x in (images, change @ columns, out)), strict=True):
            torch.matmul(rows.t(), part, out=result).add_(planes)
        return out
    # a real line's spectrum has each frequency twice but for the mean and the highest
    twice = change.new_full((count,), 0.5)
    twice[:: width // 2 if width % 2 == 0 else width] = 1
    cosines, sines = (rows.t() @ (change * twice.repeat(2))).chunk(2, dim=-1)
    for lines, part, result in zip(*(_lines(x) for x in (images, torch.complex(cosines, -sines), out)), strict=True):
        torch.add(lines, torch.fft.irfft(part, n=width, norm="forward"), out=result)
    return out


def _planes(images: Tensor) -> tuple[Tensor, ...]:
    """``(N, C, H, W)`` as planes ``(n, H, W)``: on a CPU one at a time, for its cache to hold what is made of it."""
    planes = images.flatten(0, 1)
    return torch.split(planes, 1 if images.device.type == "cpu" else len(planes))


def _lines(images: Tensor) -> tuple[Tensor, ...]:
    """``(N, C, H, W)`` as lines ``(n, W)``, likewise."""
    lines = images.flatten(0, 2)
    return torch.split(lines, _LINES if images.device.type == "cpu" else len(lines))


def _amplitude_change(source: Tensor, target: Tensor, floor: Tensor) -> Tensor:
    """What must be added to the source's coefficients for them to have the target's amplitude."""
    amplitude = source.abs()
    noise = amplitude <= floor
    unit = source / torch.where(noise, torch.ones_like(amplitude), amplitude)
    unit = torch.where(noise, torch.ones_like(unit), unit)
    return unit * target.abs() - source
