"""Which images of a domain to label first, chosen without looking at a label.

* ``random``: a seeded order.
* ``diverse``: greedy k-centre on the bottleneck features, averaged over each image (Sener and Savarese, "Active
  learning for convolutional neural networks: a core-set approach", ICLR 2018, algorithm 1). Departure: no target image
  is labelled beforehand, so the first is the one nearest to the mean of all, and not the farthest from a labelled pool.
* ``entropy``: the images whose pixels' predictions have the highest mean entropy (uncertainty sampling).
* ``both``: greedy weighted k-centre, the next image being the one with the largest entropy times distance (Dyer and
  Frieze, "A simple heuristic for the p-centre problem", Operations Research Letters 1985); the first has the highest
  entropy. Departure: their weights are demands; here they are entropies, for a label is wanted where the network is
  unsure *and* nothing alike is labelled yet.

All give an order, so that the first five of ten images are the five.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from uda.engine.inference import PLAIN, Inference, resize_images
from uda.engine.precision import autocast
from uda.functional.entropy import softmax_entropy
from uda.models.batch_norm import Domain, normalising
from uda.models.modes import evaluating
from uda.registry import nearest
from uda.types import LabelledDataset, SegOutput, UnlabelledDataset

Choice = Literal["random", "diverse", "entropy", "both"]
CHOICES: tuple[str, ...] = get_args(Choice)


@dataclass(frozen=True)
class Seen:
    """What a network sees in images.

    Attributes:
        features: ``(N, D)`` float32 bottleneck features, mean over each image.
        entropy: ``(N,)`` float32 mean entropy of the pixels' predictions as a share of log C, in [0, 1].
    """

    features: Tensor
    entropy: Tensor


def choose_images(
    images: UnlabelledDataset,
    count: int,
    how: Choice = "random",
    *,
    model: nn.Module | None = None,
    seed: int = 0,
    inference: Inference = PLAIN,
    precision: str = "fp32",
    domain: Domain = "source",
) -> list[int]:
    """The images to label, the most wanted first.

    Args:
        images: of the domain; of a labelled data set, its unlabelled view is taken.
        count: of images to choose.
        how: ``"random"``, ``"diverse"``, ``"entropy"`` or ``"both"``, see the head of this file.
        model: images ``(N, 3, H, W)`` in [0, 1] -> :class:`~uda.types.SegOutput`; not needed for ``"random"``.
        seed: of ``"random"``; the others have nothing random.
        inference: at which size images are looked at; windows, flips and further scales are left out.
        precision: ``bf16`` and ``fp16`` run the forward under autocast.
        domain: whose batch-norm statistics serve, where the model has two sets: the source's, which are all that a
            network has learned that never saw the target.

    Returns:
        ``count`` different indices into ``images``.

    Raises:
        ValueError: an unknown way to choose, fewer images than are wanted, or no model where one is needed.
        TypeError: a model that gives no :class:`~uda.types.SegOutput`.

    Example:
        >>> from uda.data import wrap
        >>> images = wrap([(torch.rand(3, 4, 4), torch.zeros(4, 4, dtype=torch.uint8))] * 9, "street8").unlabelled()
        >>> chosen = choose_images(images, 4, seed=1)
        >>> choose_images(images, 2, seed=1) == chosen[:2]
        True
    """
    if how not in CHOICES:
        raise ValueError(f"no way {how!r} to choose images; {nearest(how, CHOICES)}")
    if isinstance(images, LabelledDataset):
        images = images.unlabelled()
    if not 1 <= count <= len(images):
        raise ValueError(f"{images.name}: {count} images to label, but there are {len(images)}")
    if how == "random":
        return torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[:count].tolist()
    if model is None:
        raise ValueError(f"choosing by {how!r} needs a model to look at the images with")
    seen = look_at(model, images, inference=inference, precision=precision, domain=domain)
    if how == "entropy":
        return seen.entropy.argsort(descending=True, stable=True)[:count].tolist()
    return farthest_first(seen.features, count, seen.entropy if how == "both" else None)


def farthest_first(features: Tensor, count: int, weights: Tensor | None = None) -> list[int]:
    """Greedy k-centre: each next point is the one farthest from all before it, times its weight where it has one.

    Its largest distance to a chosen point is at most twice that of the best choice (without weights).

    Args:
        features: ``(N, D)`` points.
        count: of points, 1 to N.
        weights: ``(N,)`` at least 0; the first point is then the heaviest, else the one nearest to the mean.

    Returns:
        Different indices, in the order in which they were chosen; the first of equals goes first.

    Example:
        >>> farthest_first(torch.tensor([[0.0], [1.0], [5.0], [9.0]]), 3)
        [2, 0, 3]
    """
    if not 1 <= count <= len(features):
        raise ValueError(f"{count} of {len(features)} points cannot be chosen")
    points = features.double()
    first = (points - points.mean(0)).norm(dim=1).argmin() if weights is None else weights.argmax()
    chosen = [int(first)]
    distance = torch.full((len(points),), math.inf, dtype=torch.float64, device=points.device)
    while len(chosen) < count:
        distance = torch.minimum(distance, (points - points[chosen[-1]]).norm(dim=1))
        score = distance if weights is None else distance * weights.to(distance)
        # a chosen point is at distance 0, and so may others be
        score = score.index_fill(0, torch.tensor(chosen, device=score.device), -1.0)
        chosen.append(int(score.argmax()))
    return chosen


@torch.no_grad()
def look_at(
    model: nn.Module,
    images: UnlabelledDataset,
    *,
    inference: Inference = PLAIN,
    precision: str = "fp32",
    domain: Domain = "source",
) -> Seen:
    """The features and entropy of images, one pass each; see :func:`choose_images`."""
    device, features, entropies = next(model.parameters()).device, [], []
    with evaluating(model), normalising(model, domain):
        for index in range(len(images)):
            resized = resize_images(images[index].as_float()[None].to(device), inference)
            with autocast(device.type, precision):
                output = model(resized)
            if not isinstance(output, SegOutput):
                raise TypeError(f"{type(model).__name__} gives no SegOutput, so no features; see uda.models.adapt")
            logits = output.logits.float()
            features.append(output.features.float().mean((2, 3))[0].cpu())
            entropies.append((softmax_entropy(logits).mean() / math.log(logits.shape[1])).cpu())
    return Seen(torch.stack(features), torch.stack(entropies))
