"""What ProDA keeps of the target: a prototype of each class, and the soft labels of a fixed network."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from torch import nn

from uda.functional.losses import resize_logits
from uda.functional.prototypes import (
    class_mean,
    crop_soft_labels,
    pack_soft_labels,
    prototype_distance,
    prototype_update,
)

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from uda.step import Step
    from uda.types import SegmenterLike, SegOutput, TaskSpec, UnlabelledDataset

UNKNOWN = 1e6
"""Distance to the prototype of a class that was never seen: no share of a soft assignment goes there."""


class PrototypeBank(nn.Module):
    """``(C, K)`` prototypes and how many vectors each has seen.

    Args:
        num_classes: C.
        channels: K, of the features.
        features: which tensor of an output they are: an extra one by its name, or ``"bottleneck"``.
        min_share: least share of an image's cells that a class must have to count there, in [0, 1]; of a cell at least.
    """

    prototypes: Tensor
    counts: Tensor

    def __init__(self, num_classes: int, channels: int, features: str = "bottleneck", min_share: float = 0.0) -> None:
        super().__init__()
        self.features, self.min_share = features, min_share
        self.register_buffer("prototypes", torch.zeros(num_classes, channels))
        self.register_buffer("counts", torch.zeros(num_classes))

    @classmethod
    def of(cls, spec: TaskSpec, features: str, min_share: float) -> PrototypeBank:
        """A bank for the task's network, which tells its channels on a blank image.

        Raises:
            ValueError: the network gives no such features; the message lists those it gives.
        """
        copied = cast("nn.Module", copy.deepcopy(spec.network)).eval()
        with torch.no_grad():
            output = copied(torch.zeros(1, 3, 64, 64, device=spec.device))
        try:
            channels = _feature_map(output, features).shape[1]
        except KeyError as error:
            raise ValueError(f"features is {features!r}, but {error.args[0]}, or 'bottleneck'") from None
        return cls(spec.num_classes, channels, features, min_share)

    @property
    def known(self) -> Tensor:
        """``(C,)`` bool: the classes that have a prototype."""
        return self.counts > 0

    def distance(self, output: SegOutput) -> Tensor:
        """Euclidean distances ``(N, C, h, w)`` of an output's features; ``UNKNOWN`` for a class never seen."""
        distance = prototype_distance(_feature_map(output, self.features).float(), self.prototypes)
        return distance.masked_fill(~self.known[:, None, None], UNKNOWN)

    def initialise(
        self,
        target: UnlabelledDataset,
        predict: Callable[[Tensor], SegOutput],
        images: int | None,
        generator: Generator,
    ) -> None:
        """Feed at most ``images`` (``None``: all) target images, in a CPU generator's order, into running means."""
        for index in torch.randperm(len(target), generator=generator)[:images].tolist():
            image = target[index].as_float().to(self.counts.device)
            self.feed(predict(image[None]), None)

    @torch.no_grad()
    def feed(self, output: SegOutput, momentum: float | None) -> None:
        """Take in the mean feature of each class that each image shows, by its prediction at the features' size.

        Args:
            output: of any network.
            momentum: share of a new vector; ``None`` for the running mean. A class's first vector is its prototype.
        """
        with torch.autocast(output.logits.device.type, enabled=False):
            features = _feature_map(output, self.features).float()
            height, width = features.shape[-2:]
            logits = F.interpolate(output.logits.float(), (height, width), mode="bilinear")
            min_pixels = max(1, round(self.min_share * height * width))
            vectors, ids = class_mean(features, logits, min_pixels=min_pixels)
            prototypes, counts = prototype_update(
                self.prototypes, self.counts, vectors, ids, momentum=momentum, mean_first=1
            )
        self.prototypes.copy_(prototypes)
        self.counts.copy_(counts)


def _feature_map(output: SegOutput, name: str) -> Tensor:
    return output.features if name == "bottleneck" else output.get(name)


class FrozenSoftLabels(nn.Module):
    """Soft labels of whole target images by a network that no longer changes, seen through training crops.

    An image is predicted when it is first asked for, in evaluation mode, and kept packed in main memory, a byte for
    each class and cell of the decoder's features. The state is the network alone: what was kept is made again.

    Args:
        network: copied; :meth:`freeze` gives the copy its final weights.
        target: the images that windows refer to.
    """

    def __init__(self, network: SegmenterLike, target: UnlabelledDataset) -> None:
        super().__init__()
        self.network = cast("nn.Module", copy.deepcopy(network)).requires_grad_(False).eval()
        self.target = target
        self.packed: dict[int, Tensor] = {}

    def freeze(self, student: SegmenterLike) -> None:
        """Take over the student's weights as they are now."""
        self.network.load_state_dict(student.state_dict())
        self.packed = {}

    def _load_from_state_dict(self, *args: Any) -> None:
        self.packed = {}
        super()._load_from_state_dict(*args)

    def crops(self, step: Step) -> Tensor:
        """``(N, C, H, W)`` soft labels of the step's target view, 0 outside of its images.

        Raises:
            ValueError: the view does not say which windows of which images it shows.
        """
        view = step.view("target")
        if len(view.windows) != len(view.images):
            raise ValueError(
                "ProDA's soft labels are of whole target images, and this view does not say what part of which image "
                "it shows; give View(..., windows=...) as uda.data.Pairs does, or soft_labels='teacher'"
            )
        size = view.images.shape[-2:]
        packed = [self._of_image(step, window.sample, view.images.device) for window in view.windows]
        return torch.stack([crop_soft_labels(p, w, size) for p, w in zip(packed, view.windows, strict=True)])

    def _of_image(self, step: Step, index: int, device: torch.device) -> Tensor:
        if index not in self.packed:
            output = step.infer(self.target[index].as_float().to(device)[None], model=self.network)
            cells = (output.extra or {}).get("decoder", output.features)
            soft_labels = resize_logits(output.logits.float().softmax(1), cells[:, 0])
            self.packed[index] = pack_soft_labels(soft_labels[0]).cpu()
        return self.packed[index].to(device)
