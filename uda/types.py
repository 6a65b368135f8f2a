"""The conventions of the library, stated once.

* images: float RGB in [0, 1], ``(N, 3, H, W)``; a model normalises them itself.
* labels: int64 ``(N, H, W)`` train ids of one label space; ``IGNORE`` (255) is never trained on or scored.
* domain label: ``SOURCE`` 0, ``TARGET`` 1 (ADVENT's and AdaptSegNet's).
* mIoU: from one confusion matrix summed over the data set; rows are ground truth, columns predictions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, Self, runtime_checkable

if TYPE_CHECKING:
    import torch
    from torch import Tensor, device, nn

IGNORE = 255
SOURCE = 0
TARGET = 1

IMAGENET_MEAN = (0.485, 0.456, 0.406)
"""Channel means (RGB, images in [0, 1]) of ImageNet, as torchvision's and most of timm's weights expect them."""
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Channel standard deviations beside :data:`IMAGENET_MEAN`."""


class SegOutput(NamedTuple):
    """What a segmenter gives for a batch of images ``(N, 3, H, W)``; a plain tuple of tensors for torch's utilities."""

    logits: Tensor
    """``(N, C, H, W)`` at image size."""
    features: Tensor
    """``(N, D, h, w)`` bottleneck features."""
    aux: Tensor | None = None
    """``(N, C, H, W)`` logits of the auxiliary classifier, where the model has one."""
    extra: dict[str, Tensor] | None = None
    """Further tensors by name, where the model has any: ``"decoder"`` ``(N, K, h', w')``, the features before the
    classifier, which all of the library's models give; HRDA's ``"detail"``; layers that :func:`uda.models.adapt` was
    asked for."""

    @property
    def auxiliary(self) -> Tensor:
        """``aux``, for who cannot do without.

        Raises:
            ValueError: the model has no auxiliary classifier.
        """
        if self.aux is None:
            raise ValueError("auxiliary logits are needed, and this model has no auxiliary classifier (aux=True)")
        return self.aux

    def get(self, name: str) -> Tensor:
        """One of the ``extra`` tensors.

        Raises:
            KeyError: the model gives none of that name; the message lists those it gives.
        """
        extra = self.extra or {}
        if name not in extra:
            raise KeyError(f"this model gives no {name!r}; extra tensors: {', '.join(extra) or 'none'}")
        return extra[name]

    def levels(self, level: str) -> dict[str, Tensor]:
        """``{"main": logits}``, and ``"aux"`` with ``level="multi"``; each ``(N, C, H, W)``.

        Raises:
            ValueError: ``"multi"`` of a model without auxiliary classifier.
        """
        return {"main": self.logits} if level == "single" else {"main": self.logits, "aux": self.auxiliary}

    def map(self, function: Callable[[Tensor], Tensor]) -> SegOutput:
        """``function`` of every tensor."""
        return SegOutput(
            function(self.logits),
            function(self.features),
            None if self.aux is None else function(self.aux),
            None if self.extra is None else {name: function(tensor) for name, tensor in self.extra.items()},
        )

    def tensors(self) -> list[Tensor]:
        """Every tensor there is, in the order in which :meth:`map` visits them."""
        aux = [] if self.aux is None else [self.aux]
        return [self.logits, self.features, *aux, *(self.extra or {}).values()]

    def detach(self) -> SegOutput:
        """The same numbers without their graph."""
        return self.map(lambda tensor: tensor.detach())


class Window(NamedTuple):
    """Which part of a data set's image an augmented one shows, in pixels of the whole image."""

    sample: int
    """Index of the image in its data set."""
    size: tuple[int, int]
    """Height and width of the whole image."""
    top: int
    """First row of the window; what of it lies outside of the image was filled."""
    left: int
    height: int
    width: int
    flip: bool = False
    """Whether it was mirrored after it had been cut out."""


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
    windows: tuple[Window, ...] = ()
    """Where each image comes from, if whoever drew the batch says so."""
    coarse: Tensor | None = None
    """``(N, H, W)`` int64: of pixels whose label covers several classes, the number of classes plus the row in
    ``groups``; ``IGNORE`` elsewhere. ``labels`` ignore these pixels, so that who knows no groups goes without them."""
    groups: tuple[tuple[int, ...], ...] = ()
    """Train ids that each coarse label covers."""

    @property
    def all_labels(self) -> Tensor:
        """``known_labels``, and the coarse ones where a pixel has such a one: for losses that know ``groups``."""
        if self.coarse is None:
            return self.known_labels
        return self.coarse.where(self.coarse != IGNORE, self.known_labels)

    @property
    def known_labels(self) -> Tensor:
        """``labels``, for who cannot do without.

        Raises:
            ValueError: the view has none.
        """
        if self.labels is None:
            raise ValueError("this view has no labels; the target never has, the source does")
        return self.labels

    def to(self, where: device | str) -> View:
        """The view with its tensors on a device."""
        return self._each(lambda tensor: tensor.to(where, non_blocking=True))

    def pin_memory(self) -> View:
        """The view with its tensors in page-locked memory, as a ``DataLoader`` asks for; it needs a GPU."""
        return self._each(lambda tensor: tensor.pin_memory())

    def _each(self, change: Callable[[Tensor], Tensor]) -> View:
        def changed(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else change(tensor)

        return replace(
            self,
            images=change(self.images),
            labels=changed(self.labels),
            weight=changed(self.weight),
            coarse=changed(self.coarse),
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

    def checked(self) -> Sample:
        """The sample, if its image is what it should be.

        Raises:
            TypeError: the image is not ``(3, H, W)`` uint8; :func:`uda.data.wrap` takes others.
        """
        if str(self.image.dtype) != "torch.uint8" or self.image.ndim != 3 or self.image.shape[0] != 3:
            raise TypeError(
                f"{self.name}: the image of a sample is (3, H, W) uint8, got {tuple(self.image.shape)} "
                f"{str(self.image.dtype).removeprefix('torch.')}; uda.data.wrap takes float in [0, 1] too"
            )
        return self

    def as_float(self) -> Tensor:
        """The image as float32 ``(3, H, W)`` in [0, 1], on its device.

        Raises:
            TypeError: see :meth:`checked`.
        """
        return self.checked().image.float() / 255


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


class SegmenterLike(Protocol):
    """What the library asks of a network; any ``nn.Module`` with these three attributes that gives a `SegOutput`.

    :func:`uda.models.adapt` makes one of somebody else's network.
    """

    num_classes: int
    feature_channels: int
    """Channels D of ``SegOutput.features``."""
    has_aux: bool
    training: bool

    def __call__(self, images: Tensor, /) -> SegOutput: ...
    def train(self, mode: bool = True) -> Any: ...
    def eval(self) -> Any: ...
    def parameters(self) -> Iterator[nn.Parameter]: ...
    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...
    def buffers(self) -> Iterator[Tensor]: ...
    def modules(self) -> Iterator[nn.Module]: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: Mapping[str, Any]) -> Any: ...
    def requires_grad_(self, requires_grad: bool = True) -> Any: ...


SEGMENTER_ATTRIBUTES = ("num_classes", "feature_channels", "has_aux")
"""What a network must have beside its forward pass, see :class:`SegmenterLike`."""


@dataclass(frozen=True)
class TeacherSpec:
    """The EMA teacher that a method needs; a run has one, so its methods must agree.

    Raises:
        ValueError: a value out of its range.
    """

    decay: float = 0.999
    """Cap α of the ramp min(1 - 1/(k+1), α) of update k, in [0, 1]."""
    update: Literal["after", "before"] = "after"
    """``after`` the optimiser step (DACS) or ``before`` the step, with the student of the last one (DAFormer, MIC)."""
    mode: Literal["train", "eval"] = "train"
    """``train``: batch norm uses each batch, dropout off (the papers); ``eval``: it uses the running statistics."""
    every: int = 1
    """Steps between updates, at least 1: those of index 0, ``every``, 2 ``every``, ... (SAC: 100)."""
    ramp: bool = True
    """Whether α grows to its cap; without, update 0 makes the teacher the student's copy, and α is ``decay`` from then
    on (SAC)."""
    buffers: Literal["own", "copied", "averaged"] | None = None
    """What an update does with buffers, the running statistics above all: nothing (``own``), the student's are
    ``copied``, or ``averaged`` like parameters (SAC). ``None``: ``own`` in train mode, ``copied`` in eval mode."""

    def __post_init__(self) -> None:
        number = isinstance(self.decay, (int, float)) and not isinstance(self.decay, bool)
        if not number or not 0 <= self.decay <= 1:
            raise ValueError(f"decay is {self.decay!r}, must be in [0, 1]")
        if not isinstance(self.every, int) or isinstance(self.every, bool) or self.every < 1:
            raise ValueError(f"every is {self.every!r}, must be a whole number >= 1")
        if not isinstance(self.ramp, bool):
            raise ValueError(f"ramp is {self.ramp!r}, must be True or False")
        for name, options in (
            ("update", ("after", "before")),
            ("mode", ("train", "eval")),
            ("buffers", ("own", "copied", "averaged", None)),
        ):
            if getattr(self, name) not in options:
                raise ValueError(f"{name} is {getattr(self, name)!r}, must be one of {', '.join(map(repr, options))}")

    @classmethod
    def of(cls, value: TeacherSpec | Mapping[str, Any], default: TeacherSpec) -> TeacherSpec:
        """A spec as configs write it: a mapping of what differs from ``default``.

        Raises:
            ValueError: an unknown key (with those there are), or a value out of its range.
        """
        if isinstance(value, TeacherSpec):
            return value
        known = [field.name for field in fields(cls)]
        for key in value:
            if key not in known:
                raise ValueError(f"teacher has no {key!r} (known: {', '.join(known)})")
        return replace(default, **value)

    def __str__(self) -> str:
        step = "the step" if self.every == 1 else f"every {self.every} steps"
        text = f"decay {self.decay:g}, updated {self.update} {step}, in {self.mode} mode"
        text += "" if self.ramp else ", without ramp"
        return text if self.buffers is None else f"{text}, {self.buffers} buffers"


@dataclass(frozen=True)
class TaskSpec:
    """What a method may know of the run when it builds its own networks and state."""

    num_classes: int
    class_names: tuple[str, ...]
    feature_channels: int
    """Channels D of ``SegOutput.features``."""
    total_steps: int = 0
    """Optimiser steps of the run; :class:`uda.engine.Update` fills in its own."""
    has_aux: bool = False
    thing_classes: tuple[int, ...] = ()
    """Train ids of countable objects (DAFormer's feature distance)."""
    model: SegmenterLike | None = None
    """The segmenter; to read or copy, never to register as a submodule."""
    source: LabelledDataset | None = None
    target: UnlabelledDataset | None = None
    device: torch.device | str = "cpu"
    draws_source: bool = False
    """Whether whoever draws the batches asks the methods how source images are drawn (``Method.source_sampling``)."""

    @property
    def network(self) -> SegmenterLike:
        """``model``, for who cannot do without.

        Raises:
            ValueError: there is none.
        """
        if self.model is None:
            raise ValueError("the segmenter is needed; make the task by TaskSpec.of(model, space)")
        return self.model

    @property
    def target_images(self) -> UnlabelledDataset:
        """``target``, for who cannot do without.

        Raises:
            ValueError: there is none.
        """
        if self.target is None:
            raise ValueError("target images are needed; give fit(source, target) or TaskSpec.of(..., target=target)")
        return self.target

    @classmethod
    def of(
        cls,
        model: nn.Module,
        space: Any,
        *,
        source: LabelledDataset | None = None,
        target: UnlabelledDataset | None = None,
        draws_source: bool = False,
    ) -> Self:
        """The task of a model and a label space.

        Args:
            model: a segmenter, see :class:`SegmenterLike`.
            space: label space of its classes: ``num_classes``, ``names``, ``thing_classes``.
            source: labelled images, for methods that look at all of them beforehand (colour statistics).
            target: images of the target, likewise; a labelled data set is reduced to its unlabelled view.
            draws_source: see the field.

        Raises:
            TypeError: the model is no segmenter.
            ValueError: model and space have different numbers of classes.
        """
        shape = as_segmenter(model)
        if space.num_classes != shape.num_classes:
            named = f"label space {getattr(space, 'name', '')!r}" if source is None else f"the source {source.name}"
            raise ValueError(f"the model has {shape.num_classes} classes, {named} has {space.num_classes}")
        return cls(
            num_classes=shape.num_classes,
            class_names=tuple(space.names),
            feature_channels=shape.feature_channels,
            has_aux=shape.has_aux,
            thing_classes=tuple(space.thing_classes),
            model=shape,
            source=source,
            target=target.unlabelled() if isinstance(target, LabelledDataset) else target,
            device=next((parameter.device for parameter in model.parameters()), "cpu"),
            draws_source=draws_source,
        )

    @classmethod
    def at_test_time(
        cls, model: nn.Module, source: LabelledDataset | None = None, target: UnlabelledDataset | None = None
    ) -> Self:
        """The task of a test-time method; the model may have more outputs than there are classes.

        Args:
            model: a segmenter, see :class:`SegmenterLike`.
            source: data that it was trained on, for methods that need its statistics.
            target: unlabelled images, for methods that look at some beforehand.

        Raises:
            TypeError: the model is no segmenter.
        """
        shape = as_segmenter(model)
        return cls(
            num_classes=shape.num_classes,
            class_names=() if source is None else tuple(source.space.names),
            feature_channels=shape.feature_channels,
            model=shape,
            source=source,
            target=target,
            device=next((parameter.device for parameter in model.parameters()), "cpu"),
        )


def as_segmenter(model: nn.Module) -> SegmenterLike:
    """``model``, if it is a segmenter.

    Raises:
        TypeError: an attribute is missing; the message has the line that adapts a plain network.
    """
    missing = [name for name in SEGMENTER_ATTRIBUTES if not hasattr(model, name)]
    if missing:
        raise TypeError(
            f"{type(model).__name__} has no {missing[0]!r}, so it is no segmenter; wrap it: uda.models.adapt(model, "
            "num_classes=..., mean=(...), std=(...), feature_layer='...')"
        )
    segmenter: Any = model
    return segmenter  # type: ignore[no-any-return]
