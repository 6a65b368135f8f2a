"""The conventions of the library, stated once.

* images: float RGB in [0, 1], ``(N, 3, H, W)``; a model normalises them itself.
* labels: int64 ``(N, H, W)`` train ids of one label space; ``IGNORE`` (255) is never trained on or scored.
* domain label: ``SOURCE`` 0, ``TARGET`` 1 (ADVENT's and AdaptSegNet's).
* mIoU: from one confusion matrix summed over the data set; rows are ground truth, columns predictions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor, device, nn

IGNORE = 255
SOURCE = 0
TARGET = 1


class SegOutput(NamedTuple):
    """What a segmenter gives for a batch of images ``(N, 3, H, W)``."""

    logits: Tensor
    """``(N, C, H, W)`` at image size."""
    features: Tensor
    """``(N, D, h, w)`` bottleneck features."""
    aux: Tensor | None = None
    """``(N, C, H, W)`` logits of the auxiliary classifier, where the model has one."""

    def map(self, function: Callable[[Tensor], Tensor]) -> SegOutput:
        """``function`` of every tensor; subclasses with more tensors take them along."""
        return SegOutput(
            function(self.logits), function(self.features), None if self.aux is None else function(self.aux)
        )

    def tensors(self) -> list[Tensor]:
        """Every tensor there is, in the order in which :meth:`map` visits them."""
        found: list[Tensor] = []

        def keep(tensor: Tensor) -> Tensor:
            found.append(tensor)
            return tensor

        self.map(keep)
        return found

    def detach(self) -> SegOutput:
        """The same numbers without their graph."""
        return self.map(lambda tensor: tensor.detach())


@dataclass(frozen=True)
class View:
    """A batch of images that the networks may look at, with what is known of it."""

    images: Tensor
    """``(N, 3, H, W)`` float in [0, 1]."""
    labels: Tensor | None = None
    """``(N, H, W)`` int64, ``IGNORE`` ignored."""
    weight: Tensor | None = None
    """``(N, H, W)`` float, the loss weight of each pixel, usually in [0, 1]."""
    names: tuple[str, ...] = ()
    """The file behind each image, for error messages."""

    def to(self, where: device | str) -> View:
        """The view with its tensors on a device."""

        def move(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(where, non_blocking=True)

        return replace(
            self, images=self.images.to(where, non_blocking=True), labels=move(self.labels), weight=move(self.weight)
        )


class Sample(NamedTuple):
    """One decoded image of a data set, not augmented."""

    image: Tensor
    """``(3, H, W)`` uint8 RGB as decoded; becomes float in [0, 1] when a batch is made."""
    label: Tensor | None
    """``(H, W)`` int64 train ids, ``IGNORE`` ignored; ``None`` in an unlabelled view."""
    name: str
    """The image's file, relative to the data set's root."""
    weight: float = 1.0
    """Loss weight of the sample (weighted labelled target samples in a mixture)."""


@runtime_checkable
class UnlabelledDataset(Protocol):
    """Images without labels: all that a trainer ever gets of a target domain."""

    name: str

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


@runtime_checkable
class LabelledDataset(UnlabelledDataset, Protocol):
    """Images with labels in one label space."""

    space: Any

    def unlabelled(self) -> UnlabelledDataset:
        """The same images with no way to their labels."""
        ...


@dataclass(frozen=True)
class TaskSpec:
    """What a method may know of the run when it builds its own networks and state."""

    num_classes: int
    class_names: tuple[str, ...]
    feature_channels: int
    """Channels D of ``SegOutput.features``."""
    total_steps: int
    has_aux: bool = False
    thing_classes: tuple[int, ...] = ()
    """Train ids of countable objects (DAFormer's feature distance)."""
    crop_size: tuple[int, int] = (512, 512)
    """Training crop (height, width) in pixels."""
    batch_size: int = 2
    model: nn.Module | None = None
    """The segmenter; to read or copy, never to register as a submodule."""
    source: LabelledDataset | None = None
    target: UnlabelledDataset | None = None
    device: Any = "cpu"
