"""Colour transfer by optimal transport (Ferradans et al. 2014; Perrot et al. 2016), fitted by POT on sampled pixels.

A map is fitted once on two clouds of RGB points and then applied to whole images. Plans and scalings come from POT;
maps of new pixels follow its out-of-sample rules, written for images (a k-d tree, chunks on the image's device).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal, get_args

import numpy as np
import scipy
import torch
from torch import Tensor

Kind = Literal["emd", "sinkhorn", "linear"]
OutOfSample = Literal["default", "nearest"]


def sample_pixels(images: Tensor, count: int, generator: torch.Generator | None = None) -> Tensor:
    """Draw pixels of a batch, uniformly and with replacement.

    ``images``: ``(N, C, H, W)``; ``generator``: a CPU generator. Returns ``(count, C)`` of the same dtype and device.
    Raises ValueError for ``count`` < 1 or another number of dimensions.

    Example:
        >>> import torch
        >>> from uda.functional import sample_pixels
        >>> sample_pixels(torch.rand(2, 3, 4, 4), 10, torch.Generator().manual_seed(0)).shape
        torch.Size([10, 3])
    """
    if images.ndim != 4:
        raise ValueError(f"images are {tuple(images.shape)}, must be (N, C, H, W)")
    if count < 1:
        raise ValueError(f"count is {count}, must be >= 1")
    n, _, height, width = images.shape
    index = torch.randint(n * height * width, (count,), generator=generator).to(images.device)
    image, pixel = index // (height * width), index % (height * width)
    return images.flatten(2)[image, :, pixel]


class ColourMap(ABC):
    """A map of colours, fitted by :func:`fit_colour_map`. Called with images, it gives images.

    Example:
        >>> import torch
        >>> from uda.functional import ColourMap, fit_colour_map
        >>> colour_map = fit_colour_map(torch.rand(8, 3), torch.rand(8, 3), kind="emd")
        >>> isinstance(colour_map, ColourMap), colour_map(torch.rand(2, 3, 4, 4)).shape
        (True, torch.Size([2, 3, 4, 4]))
    """

    @abstractmethod
    def pixels(self, points: Tensor) -> Tensor:
        """Map ``(k, C)`` floating point colours; same dtype and device back, not clipped."""

    def __call__(self, images: Tensor) -> Tensor:
        """Map ``(N, C, H, W)`` floating point images on the scale of the fit; not clipped. No gradient flows."""
        n, c, height, width = images.shape
        points = images.detach().permute(0, 2, 3, 1).reshape(-1, c)
        return self.pixels(points).view(n, height, width, c).permute(0, 3, 1, 2).contiguous()


class LinearMap(ColourMap):
    """``A x + b``, the optimal map between two Gaussians (Monge map).

    Example:
        >>> import torch
        >>> from uda.functional import LinearMap
        >>> halve_and_lift = LinearMap(0.5 * torch.eye(3), torch.full((3,), 0.25))
        >>> halve_and_lift(torch.ones(1, 3, 1, 1)).flatten().tolist()
        [0.75, 0.75, 0.75]
    """

    def __init__(self, matrix: Tensor, bias: Tensor) -> None:
        self.matrix = matrix
        """``(C, C)``, acting on column vectors."""
        self.bias = bias
        """``(C,)``"""

    def pixels(self, points: Tensor) -> Tensor:
        """See :meth:`ColourMap.pixels`."""
        return self._channels(points.t()).t()

    def __call__(self, images: Tensor) -> Tensor:
        """See :meth:`ColourMap.__call__`; here gradients flow."""
        return self._channels(images.transpose(0, 1)).transpose(0, 1).contiguous()

    def _channels(self, planes: Tensor) -> Tensor:
        # Sums of scaled planes, not a matrix product: full precision under autocast and TF32, and no transposed copy.
        if torch.compiler.is_compiling():  # a graph has no numbers of tensors, but tensors of one number
            matrix, bias = self.matrix.to(planes), self.bias.to(planes)
            lines = zip(matrix.unbind(), bias.unbind(), strict=True)
            return torch.stack(
                [sum((p * a for p, a in zip(planes, m.unbind(), strict=True)), start=b) for m, b in lines]
            )
        rows = zip(self.matrix.tolist(), self.bias.tolist(), strict=True)
        return torch.stack(
            [sum((p * a for p, a in zip(planes, row, strict=True)), start=planes[0] * 0 + b) for row, b in rows]
        )


class NearestMap(ColourMap):
    """Moves a colour by the displacement of its nearest training colour: ``x + T(x_i) - x_i``.

    Example:
        >>> import torch
        >>> from uda.functional import NearestMap
        >>> points = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
        >>> raise_the_dark = NearestMap(points, moved=torch.tensor([[0.5], [1.0]], dtype=torch.float64))
        >>> raise_the_dark(torch.tensor([0.25, 0.75]).view(1, 1, 1, 2)).flatten().tolist()
        [0.75, 0.75]
    """

    def __init__(self, points: Tensor, moved: Tensor) -> None:
        self.points = points
        """``(n, C)`` float64 training colours."""
        self.moved = moved
        """``(n, C)`` float64, where the plan sends them (barycentric projection)."""
        self._tree = scipy.spatial.cKDTree(points.numpy())

    def pixels(self, points: Tensor) -> Tensor:
        """See :meth:`ColourMap.pixels`; the search runs on the CPU."""
        _, nearest = self._tree.query(points.detach().double().cpu().numpy())
        displacement = (self.moved - self.points)[torch.from_numpy(nearest)]
        return points + displacement.to(points)


class EntropicMap(ColourMap):
    """The entropic map ``sum_j w_j y_j``, ``w_j`` proportional to ``v_j exp(-|x - y_j|^2 / reg)``.

    Example:
        >>> import torch
        >>> from uda.functional import EntropicMap
        >>> targets = torch.tensor([[0.25], [0.75]], dtype=torch.float64)
        >>> pull = EntropicMap(targets, log_scaling=torch.zeros(2, dtype=torch.float64), reg=0.001)
        >>> [round(value, 4) for value in pull(torch.tensor([0.0, 0.5, 1.0]).view(1, 1, 1, 3)).flatten().tolist()]
        [0.25, 0.5, 0.75]
    """

    def __init__(self, targets: Tensor, log_scaling: Tensor, reg: float) -> None:
        self.targets = targets
        """``(m, C)`` float64 target colours."""
        self.log_scaling = log_scaling
        """``(m,)`` float64 logarithm of the target side's Sinkhorn scaling v."""
        self.reg = reg

    def pixels(self, points: Tensor) -> Tensor:
        """See :meth:`ColourMap.pixels`."""
        work = points.detach().to(torch.promote_types(points.dtype, torch.float32))
        targets, log_scaling = self.targets.to(work), self.log_scaling.to(work)
        out = torch.empty_like(work)
        chunk = max(1, 2**22 // len(targets))
        for part, result in zip(torch.split(work, chunk), torch.split(out, chunk), strict=True):
            # cdist by differences: the expanded square loses the digits that exp(-d / reg) needs.
            distance = torch.cdist(part, targets, compute_mode="donot_use_mm_for_euclid_dist").square_()
            with torch.autocast(points.device.type, enabled=False):
                result.copy_(torch.softmax(log_scaling - distance / self.reg, dim=1) @ targets)
        return out.to(points.dtype)


def emd_cost(source_pixels: Tensor, target_pixels: Tensor) -> float:
    """Squared 2-Wasserstein distance between ``(n, C)`` and ``(m, C)`` points of uniform weight, by the exact plan.

    Example:
        >>> import torch
        >>> from uda.functional import emd_cost
        >>> points = torch.tensor([[0.0], [1.0]])
        >>> round(emd_cost(points, points + 3), 4)
        9.0
    """
    import ot  # seconds, so not before a plan is computed

    source, target = _points("source_pixels", source_pixels), _points("target_pixels", target_pixels)
    return float(ot.emd2([], [], ot.dist(source, target)))


def fit_colour_map(
    source_pixels: Tensor,
    target_pixels: Tensor,
    kind: Kind = "linear",
    reg: float | None = None,
    out_of_sample: OutOfSample = "default",
) -> ColourMap:
    """Fit a map that carries source colours to target colours: uniform weights, squared Euclidean cost.

    Args:
        source_pixels: ``(n, C)`` floating point, usually RGB in [0, 1] (see :func:`sample_pixels`).
        target_pixels: ``(m, C)`` on the same scale.
        kind: ``"emd"``: exact plan, barycentric projection, new colours by their nearest training colour.
            ``"sinkhorn"``: entropic plan. ``"linear"``: map between the two Gaussians with biased covariances.
        reg: for ``"sinkhorn"`` the entropic regularisation on the cost as it is, > 0 (default 0.05); for ``"linear"``
            what is added to the covariances' diagonal, > 0 (default 1e-8).
        out_of_sample: ``"nearest"`` moves new colours by their nearest training colour under ``"sinkhorn"`` too, not
            by the continuous entropic map (POT's older rule).

    Returns:
        The map, fitted in float64 on the CPU; it may be called with images on any device.

    Raises:
        ValueError: for points of another shape, an unknown ``kind``, or a ``reg`` that is not > 0 or not used.

    Example:
        >>> import torch
        >>> from uda.functional import fit_colour_map
        >>> source = torch.rand(64, 3)
        >>> brighten = fit_colour_map(source, source + 0.25, kind="linear")
        >>> images = torch.rand(2, 3, 4, 4)
        >>> torch.allclose(brighten(images), images + 0.25, atol=1e-3)
        True
    """
    if kind not in get_args(Kind):
        raise ValueError(f"kind is {kind!r}, must be one of {', '.join(map(repr, get_args(Kind)))}")
    if out_of_sample not in get_args(OutOfSample):
        raise ValueError(f"out_of_sample is {out_of_sample!r}, must be 'default' or 'nearest'")
    if reg is not None and (kind == "emd" or not reg > 0):
        raise ValueError(f"reg is {reg}, must be > 0 for 'sinkhorn' and 'linear', and None for 'emd'")
    source, target = _points("source_pixels", source_pixels), _points("target_pixels", target_pixels)
    if source.shape[1] != target.shape[1]:
        raise ValueError(f"target_pixels have {target.shape[1]} channels, must have {source.shape[1]}")
    import ot

    if kind == "linear":
        linear = ot.da.LinearTransport(reg=reg or 1e-8).fit(Xs=source, Xt=target)
        return LinearMap(torch.from_numpy(linear.A_.T.copy()), torch.from_numpy(linear.B_.ravel()))
    if kind == "emd":
        plan = ot.da.EMDTransport(max_iter=10_000_000).fit(Xs=source, Xt=target)
    else:
        rule = "continuous" if out_of_sample == "default" else "ferradans"
        plan = ot.da.SinkhornTransport(reg_e=reg or 0.05, out_of_sample_map=rule).fit(Xs=source, Xt=target)
        if rule == "continuous":
            return EntropicMap(torch.from_numpy(target), torch.from_numpy(plan.log_["log_v"]), reg or 0.05)
    return NearestMap(torch.from_numpy(source), torch.from_numpy(plan.transform(Xs=source)))


def _points(name: str, points: Tensor) -> np.ndarray:
    if points.ndim != 2 or len(points) == 0 or not points.is_floating_point():
        raise ValueError(f"{name} is {points.dtype} {tuple(points.shape)}, must be floating point (n, C)")
    return points.detach().double().cpu().numpy()


def transport_colours(
    images: Tensor,
    style: Tensor,
    kind: Kind = "linear",
    *,
    pixels: int = 1000,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Images in the colours of others: each with a map of its own, fitted on sampled pixels.

    Args:
        images: ``(N, 3, H, W)`` floating point in [0, 1].
        style: ``(N, 3, h, w)``, one for each image, or ``(1, 3, h, w)`` for all.
        kind: see :func:`fit_colour_map`.
        pixels: colours drawn from each image to fit its map.
        generator: CPU generator.

    Returns:
        the shape and dtype of ``images``; not clipped.

    Example:
        >>> import torch
        >>> from uda.functional import transport_colours
        >>> dark, bright = torch.rand(1, 3, 16, 16) / 4, torch.rand(1, 3, 16, 16) / 4 + 0.7
        >>> moved = transport_colours(dark, bright, generator=torch.Generator().manual_seed(0))
        >>> moved.shape, bool((moved.mean() - bright.mean()).abs() < 0.05)
        (torch.Size([1, 3, 16, 16]), True)
    """
    moved = []
    for image, style_image in zip(images.float(), style.float().expand(len(images), -1, -1, -1), strict=True):
        cloud, wanted = (sample_pixels(picture[None], pixels, generator) for picture in (image, style_image))
        moved.append(fit_colour_map(cloud, wanted, kind)(image[None]))
    return torch.cat(moved).to(images.dtype)
