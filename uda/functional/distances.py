"""Distances between two sets of features: MMD, CORAL, sliced Wasserstein, Frechet and the proxy A-distance.

All but the last two are differentiable losses. Features are ``(n, D)`` floating point rows, on any device; sets may
differ in size unless a function says otherwise. Where published codes disagree, the docstring says whose this is.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy
import torch
from torch import Tensor


def _check(x: Tensor, y: Tensor, least: int = 2, equal: bool = False) -> None:
    for name, features in (("x", x), ("y", y)):
        if features.ndim != 2 or len(features) < least or not features.is_floating_point():
            shape = f"{features.dtype} {tuple(features.shape)}"
            raise ValueError(f"{name} is {shape}, must be floating point (n, D) with n >= {least}")
    if x.shape[1] != y.shape[1] or (equal and len(x) != len(y)):
        what = "the same shape" if equal else "the same number of columns"
        raise ValueError(f"x is {tuple(x.shape)} and y is {tuple(y.shape)}, must have {what}")


def _squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """``(n, m)`` as ``|x|² + |y|² - 2 x y``, without an ``(n, m, D)`` tensor.

    Rows are taken from the middle of both sets first, which leaves rounding errors that are small beside the mean
    distance; the gradient is finite where rows are equal. ``_squared_distances(x, x)`` has zeros on its diagonal.
    """
    same = x is y
    middle = (x.detach().mean(0) + y.detach().mean(0)) / 2
    x, y = x - middle, y - middle
    with torch.autocast(x.device.type, enabled=False):
        squared = x.square().sum(1)[:, None] + y.square().sum(1)[None, :] - 2 * (x @ y.t())
    squared = squared.clamp(min=0)
    return squared - torch.diag_embed(squared.diagonal()) if same else squared


def _width(squared: Tensor) -> Tensor:
    """A kernel's width, kept so far from 0 that gradients of equal features stay finite."""
    return squared.clamp(min=torch.finfo(squared.dtype).eps ** 4)


def _off_diagonal_mean(kernel: Tensor) -> Tensor:
    n = len(kernel)
    return (kernel.sum() - kernel.diagonal().sum()) / (n * (n - 1))


def mkmmd(x: Tensor, y: Tensor, alphas: Sequence[float] = (0.5, 1.0, 2.0), linear: bool = False) -> Tensor:
    r"""Multi-kernel maximum mean discrepancy of DAN (Long et al. 2015), as Transfer-Learning-Library computes it.

    $$ \mathcal{L} = \frac{1}{n (n-1)} \sum_{i \neq j} \left[ k(x_i, x_j) + k(y_i, y_j) \right]
    - \frac{2}{n^2} \sum_{i,j} k(x_i, y_j) + \frac{2}{n-1}, \qquad k(x, y) = \sum_{\alpha} e^{-\|x - y\|^2 /
    (2 s_{\alpha})} $$

    The sum of Gaussian kernels ``exp(-d² / (2 s))``, ``s = alpha * mean of all pairwise d²`` of the joined set (the
    diagonal's zeros included; no gradient through s).

    Args:
        x, y: ``(n, D)`` features, equal sizes, n >= 2.
        alphas: bandwidth multipliers, each > 0.
        linear: the O(n) estimate over cyclic neighbours ``i, i + 1`` instead of all pairs.

    Returns:
        A scalar. As in that library, ``2 / (n - 1)`` is added in both variants: two equal sets do not give 0, and the
        gradient is not affected.

    Raises:
        ValueError: for unequal or too small sets, or an ``alpha`` that is not > 0.

    Example:
        >>> import torch
        >>> from uda.functional import mkmmd
        >>> x = torch.rand(8, 3)
        >>> bool(mkmmd(x, x + 1) > mkmmd(x, x))
        True
    """
    _check(x, y, equal=True)
    if not alphas or not all(alpha > 0 for alpha in alphas):
        raise ValueError(f"alphas are {tuple(alphas)}, must be one or more numbers > 0")
    n = len(x)
    joined = torch.cat([x, y])
    squared = _squared_distances(joined, joined)
    scale = _width(squared.detach().mean())
    kernel = torch.stack([torch.exp(-squared / (2 * alpha * scale)) for alpha in alphas]).sum(0)
    xx, yy, xy = kernel[:n, :n], kernel[n:, n:], kernel[:n, n:]
    if linear:
        i = torch.arange(n, device=x.device)
        j = (i + 1) % n
        loss = (xx[i, j] + yy[i, j] - xy[i, j] - xy[j, i]).mean()
    else:
        loss = _off_diagonal_mean(xx) + _off_diagonal_mean(yy) - 2 * xy.mean()
    return loss + 2 / (n - 1)


def mmd(x: Tensor, y: Tensor, linear: bool = False) -> Tensor:
    """Maximum mean discrepancy with one Gaussian kernel, as pytorch-adapt computes it.

    Kernel ``exp(-d² / m)``, m the lower median of all entries of the source-source matrix of d² (its zero diagonal
    included; the target is not used; no gradient through m).

    Args:
        x: ``(n, D)`` source features, n >= 3: with two rows the median is 0.
        y: ``(m, D)`` target features, m >= 2.
        linear: the mean over disjoint pairs (0, 1), (2, 3), ... (equal sizes) instead of all pairs.

    Returns:
        A scalar; the estimate is unbiased and may be negative.

    Raises:
        ValueError: for sets of wrong size.

    Example:
        >>> import torch
        >>> from uda.functional import mmd
        >>> x = torch.rand(8, 3)
        >>> bool(mmd(x, x + 1) > mmd(x, x))
        True
    """
    _check(x, y, equal=linear)
    if len(x) < 3:
        raise ValueError(f"x has {len(x)} rows, must have >= 3 (the median bandwidth of two rows is 0)")
    xx = _squared_distances(x, x)
    median = _width(xx.detach().flatten().median())
    if linear:
        pairs = len(x) // 2
        x1, x2, y1, y2 = x[: 2 * pairs : 2], x[1 : 2 * pairs : 2], y[: 2 * pairs : 2], y[1 : 2 * pairs : 2]

        def kernel(a: Tensor, b: Tensor) -> Tensor:
            return torch.exp(-(a - b).square().sum(1) / median)

        return (kernel(x1, x2) + kernel(y1, y2) - kernel(x1, y2) - kernel(x2, y1)).mean()
    yy, xy = _squared_distances(y, y), _squared_distances(x, y)
    kxx, kyy, kxy = (torch.exp(-d / median) for d in (xx, yy, xy))
    return _off_diagonal_mean(kxx) + _off_diagonal_mean(kyy) - 2 * kxy.mean()


def _mean_covariance(x: Tensor) -> tuple[Tensor, Tensor]:
    mean = x.mean(0)
    centred = x - mean
    return mean, centred.t() @ centred / (len(x) - 1)


def coral(x: Tensor, y: Tensor) -> Tensor:
    r"""Deep CORAL (Sun and Saenko 2016, equation 1): ``|C_x - C_y|_F² / (4 D²)``, unbiased covariances. A scalar.

    $$ \mathcal{L} = \frac{1}{4 D^2} \| C_x - C_y \|_F^2 $$

    ``x``: ``(n, D)``, ``y``: ``(m, D)``, n and m >= 2, else ValueError. Also pytorch-adapt's.

    Example:
        >>> import torch
        >>> from uda.functional import coral
        >>> x, y = torch.tensor([[-1.0], [1.0]]), torch.tensor([[-2.0], [2.0]])
        >>> coral(x, y).item()  # variances 2 and 8: 6^2 / 4
        9.0
    """
    _check(x, y)
    difference = _mean_covariance(x)[1] - _mean_covariance(y)[1]
    return difference.square().sum() / (4 * x.shape[1] ** 2)


def coral_tllib(x: Tensor, y: Tensor) -> Tensor:
    """CORAL as the Transfer-Learning-Library computes it: means are aligned too, and there is no factor 1/4.

    The mean over D² entries of the squared difference of covariances, plus the mean over D of the squared difference of
    means. ``x``: ``(n, D)``, ``y``: ``(m, D)``, n and m >= 2, else ValueError. A scalar.

    Example:
        >>> import torch
        >>> from uda.functional import coral_tllib
        >>> x, y = torch.tensor([[-1.0], [1.0]]), torch.tensor([[0.0], [4.0]])
        >>> coral_tllib(x, y).item()  # variances 2 and 8, means 0 and 2: 6^2 + 2^2
        40.0
    """
    _check(x, y)
    (mean_x, cov_x), (mean_y, cov_y) = _mean_covariance(x), _mean_covariance(y)
    return (cov_x - cov_y).square().mean() + (mean_x - mean_y).square().mean()


def random_projections(dimension: int, count: int, generator: torch.Generator | None = None) -> Tensor:
    """``(dimension, count)`` float32 unit columns, uniform on the sphere, from a CPU generator.

    Example:
        >>> import torch
        >>> from uda.functional import random_projections
        >>> directions = random_projections(3, 5, torch.Generator().manual_seed(0))
        >>> directions.shape, torch.allclose(directions.norm(dim=0), torch.ones(5))
        (torch.Size([3, 5]), True)
    """
    if dimension < 1 or count < 1:
        raise ValueError(f"dimension is {dimension} and count is {count}, both must be >= 1")
    directions = torch.randn(dimension, count, generator=generator)
    return torch.nn.functional.normalize(directions, dim=0)


def sliced_wasserstein(x: Tensor, y: Tensor, projections: Tensor) -> Tensor:
    r"""Sliced 2-Wasserstein distance by POT (Bonneel et al. 2015), differentiable.

    $$ \mathcal{L} = \left( \frac{1}{P} \sum_{p=1}^{P} W_2^2 \left( \theta_p^{\top} x, \theta_p^{\top} y
    \right) \right)^{1/2} $$

    The square root of the mean over projections of the squared 1-D Wasserstein distances.

    Args:
        x: ``(n, D)``; y: ``(m, D)``, n and m >= 1.
        projections: ``(D, P)`` unit columns (see :func:`random_projections`), taken to the dtype and device of ``x``.

    Returns:
        A scalar. Where the distance is exactly 0 its gradient is 0 (POT's square root gives NaN there).

    Raises:
        ValueError: for shapes that do not fit.

    Example:
        >>> import torch
        >>> from uda.functional import sliced_wasserstein
        >>> x = torch.tensor([[0.0], [1.0]])
        >>> round(sliced_wasserstein(x, x + 3, projections=torch.ones(1, 1)).item(), 4)
        3.0
    """
    _check(x, y, least=1)
    if projections.ndim != 2 or len(projections) != x.shape[1]:
        raise ValueError(f"projections are {tuple(projections.shape)}, must be ({x.shape[1]}, P)")
    import ot  # seconds, so not before it is needed

    directions = projections.to(x)
    squared = ot.wasserstein_1d(x @ directions, y.to(x) @ directions, p=2).mean()
    positive = squared > 0
    return torch.where(positive, torch.where(positive, squared, torch.ones_like(squared)).sqrt(), squared * 0)


def frechet(x: Tensor, y: Tensor) -> float:
    """Frechet distance of two Gaussians: ``|m_x - m_y|² + tr(C_x + C_y - 2 (C_x C_y)^½)`` (Heusel et al. 2017).

    ``x``: ``(n, D)``, ``y``: ``(m, D)``, n and m >= 2, else ValueError. Unbiased covariances, float64 on the CPU; no
    gradient. The trace of the root is taken from the eigenvalues of the symmetric ``C_x^½ C_y C_x^½``, which stays real
    for singular covariances.

    Example:
        >>> import torch
        >>> from uda.functional import frechet
        >>> x = torch.tensor([[0.0], [1.0]])
        >>> round(frechet(x, x + 3), 4)  # same covariance: the squared difference of means
        9.0
    """
    _check(x, y)
    (mean_x, cov_x), (mean_y, cov_y) = (_mean_covariance(z.detach().double().cpu()) for z in (x, y))
    values, vectors = scipy.linalg.eigh(cov_x.numpy())
    root = vectors * np.sqrt(values.clip(min=0)) @ vectors.T
    eigenvalues = scipy.linalg.eigvalsh(root @ cov_y.numpy() @ root)
    trace = float(cov_x.trace() + cov_y.trace()) - 2 * float(np.sqrt(eigenvalues.clip(min=0)).sum())
    return float((mean_x - mean_y).square().sum()) + trace


def a_distance(domain_error: Tensor | float) -> Tensor:
    """Proxy A-distance ``2 (1 - 2 error)`` of Ben-David et al. 2006, from a domain classifier's held-out error.

    ``domain_error``: number or tensor in [0, 1], else ValueError. Returns a tensor of the same shape: 2 for
    domains that are told apart without error, 0 at chance, negative below chance.

    Example:
        >>> from uda.functional import a_distance
        >>> a_distance(0.25).item()
        1.0
    """
    error = torch.as_tensor(domain_error)
    if not torch.compiler.is_compiling() and not bool(((error >= 0) & (error <= 1)).all()):
        raise ValueError(f"domain_error is {error.tolist()}, must be in [0, 1]")
    return 2 * (1 - 2 * error)
