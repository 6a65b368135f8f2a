"""What every segmenter shares: normalisation inside, any image size, parameter groups, the frozen encoder."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from uda.models.recompute import Part, blocks
from uda.models.synced_norm import is_synced
from uda.registry import Configurable
from uda.types import SegOutput

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Self

    from torch import Tensor

    from uda.data.classes import LabelSpace

LARGEST_SIDE = 65536
"""Pixels of a side at most, of the images of an exported network."""

_NEVER_DECAYED = ("pos_embed", "cls_token", "reg_token", "relative_position_bias_table")


class Normalise(nn.Module):
    """``(images - mean) / std`` per channel, with the channels turned to BGR first where a network wants that.

    Args:
        mean: three numbers for RGB images in [0, 1] (``scale=1``) or in [0, ``scale``].
        std: three positive numbers on the same scale.
        scale: the largest grey value of the images that mean and std belong to (1 or 255).
        bgr: give the network B, G, R; mean and std then stand in that order too.

    Raises:
        ValueError: not three numbers, or a standard deviation that is not positive.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float], *, scale: float = 1.0, bgr: bool = False) -> None:
        super().__init__()
        if len(mean) != 3 or len(std) != 3:
            raise ValueError(f"mean and std need three numbers each, got {tuple(mean)} and {tuple(std)}")
        if min(std) <= 0 or scale <= 0:
            raise ValueError(f"std and scale must be above 0, got std={tuple(std)}, scale={scale}")
        self.bgr = bgr
        self.register_buffer("mean", torch.tensor(tuple(mean), dtype=torch.float32).div(scale).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(tuple(std), dtype=torch.float32).div(scale).view(1, 3, 1, 1))

    @property
    def mean_colour(self) -> tuple[float, ...]:
        """The RGB colour in [0, 1] that becomes 0."""
        mean = tuple(self.mean.flatten().tolist())
        return mean[::-1] if self.bgr else mean

    def forward(self, images: Tensor) -> Tensor:
        """Normalise RGB images ``(N, 3, H, W)`` in [0, 1]."""
        return ((images.flip(1) if self.bgr else images) - self.mean) / self.std


class SingleValueBatchNorm2d(nn.BatchNorm2d):
    """Batch norm that can train on one value per channel (a globally pooled batch of one).

    Such a batch has no variance and torch raises; here it is normalised by the running statistics, which then stay.
    With more values, of other processes too, it is ``nn.BatchNorm2d``.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalise ``(N, C, H, W)``."""
        if self.training and input.numel() == input.shape[1] and not is_synced():
            fixed = self.running_mean, self.running_var
            return F.batch_norm(input, *fixed, self.weight, self.bias, training=False, eps=self.eps)
        return super().forward(input)


def allow_single_values(module: nn.Module) -> None:
    """Replace every plain ``nn.BatchNorm2d`` inside ``module`` by :class:`SingleValueBatchNorm2d`, same state."""
    for name, child in module.named_children():
        if type(child) is nn.BatchNorm2d:
            new = SingleValueBatchNorm2d(
                child.num_features, child.eps, child.momentum, child.affine, child.track_running_stats
            )
            new.load_state_dict(child.state_dict())
            setattr(module, name, new)
        else:
            allow_single_values(child)


def resize(x: Tensor, size: Sequence[int] | torch.Size) -> Tensor:
    """Bilinear resize of ``(N, C, h, w)`` to ``size`` (height, width), ``align_corners=False``; free when it fits."""
    if not _any_size and tuple(x.shape[-2:]) == tuple(size):
        return x
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)


def pad_to(x: Tensor, divisor: int, at_least: int = 2) -> Tensor:
    """Pad ``(N, C, H, W)`` at the right and bottom until both sides hold ``divisor`` a whole number of times.

    At least ``at_least`` times: batch norm cannot train on a last stage of a single pixel. The border is reflected,
    or repeated where the image is smaller than the padding.
    """
    if _any_size:
        return _pad_any(x, divisor, at_least)
    height, width = (max(at_least, -(-side // divisor)) * divisor for side in x.shape[-2:])
    bottom, right = height - x.shape[-2], width - x.shape[-1]
    if bottom == 0 and right == 0:
        return x
    fits = bottom < x.shape[-2] and right < x.shape[-1]
    return F.pad(x, (0, right, 0, bottom), mode="reflect" if fits else "replicate")


def cut_to(x: Tensor, size: Sequence[int] | torch.Size) -> Tensor:
    """The first ``size`` (height, width) of ``(N, C, H, W)``: what :func:`pad_to` added is gone."""
    if not _any_size:
        return x[..., : size[0], : size[1]]
    for axis, side in zip((-2, -1), size, strict=True):  # a slice would ask whether an unknown side is long enough
        x = x.index_select(axis, torch.arange(side, device=x.device))
    return x


_any_size = False


@contextmanager
def for_any_size() -> Iterator[None]:
    """Inside, networks have no branch that depends on an image's size, so that one exported graph takes all sizes."""
    global _any_size
    _any_size = True
    try:
        yield
    finally:
        _any_size = False


def _pad_any(x: Tensor, divisor: int, at_least: int) -> Tensor:
    """:func:`pad_to` without a branch: one graph for images of all sizes."""
    sides = x.shape[-2:]
    padded = [_padded_side(side, divisor, at_least) for side in sides]
    known, wanted = (torch.stack([torch.scalar_tensor(n, dtype=torch.int64) for n in ns]) for ns in (sides, padded))
    fits = (wanted - known < known).all()
    for axis, side, whole in zip((-2, -1), sides, padded, strict=True):
        place = torch.arange(whole)
        reflected = (side - 1 - (place - (side - 1)).abs()).clamp(min=0)
        x = x.index_select(axis, torch.where(fits, reflected, place.clamp(max=side - 1)).to(x.device))
    return x


def _padded_side(side: Any, divisor: int, at_least: int) -> Any:
    # out of a tensor, a new symbol: the formula itself would go through every layer, too long to prove anything of
    blocks: Any = ((torch.scalar_tensor(side, dtype=torch.int64) + divisor - 1) // divisor).clamp(min=at_least).item()
    torch._check(blocks >= at_least)
    torch._check(blocks <= LARGEST_SIDE)
    return blocks * divisor


def check_images(images: Tensor) -> None:
    """Refuse what is no batch of float RGB images.

    Raises:
        ValueError: not ``(N, 3, H, W)`` floating point.
    """
    if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
        raise ValueError(f"a model takes float images (N, 3, H, W) in [0, 1], got {images.dtype} {tuple(images.shape)}")


def run_encoder(encoder: nn.Module, x: Tensor) -> tuple[list[Tensor], tuple[Any, ...]]:
    """Features of an encoder, finest first, and what else its decoder wants (DPT: the prefix tokens)."""
    out = encoder(x)
    if isinstance(out, tuple):
        return list(out[0]), tuple(out[1:])
    return list(out), ()


def split_decay(
    module: nn.Module, name: str, lr: float, weight_decay: float, without: Iterable[nn.Parameter] = ()
) -> list[dict[str, Any]]:
    """Parameter groups of a module for a torch optimiser: ``name`` with weight decay, ``name/no_decay`` without.

    Norm weights, biases and position embeddings are not decayed; parameters of ``without`` are left out, and so are
    groups that would be empty. Frozen parameters are there: without gradient no optimiser moves them.
    """
    left_out = {id(parameter) for parameter in without}
    groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for key, parameter in module.named_parameters():
        if id(parameter) not in left_out:
            groups[parameter.ndim > 1 and not key.endswith(_NEVER_DECAYED)].append(parameter)
    return [
        {
            "params": parameters,
            "lr": lr,
            "weight_decay": weight_decay if decayed else 0.0,
            "name": name if decayed else f"{name}/no_decay",
        }
        for decayed, parameters in groups.items()
        if parameters
    ]


def encoder_and_head(
    network: nn.Module, encoder: nn.Module, lr: float, head_multiplier: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Parameter groups of a network: its encoder at ``lr``, all else at ``lr * head_multiplier``."""
    return [
        *split_decay(encoder, "encoder", lr, weight_decay),
        *split_decay(network, "head", lr * head_multiplier, weight_decay, without=encoder.parameters()),
    ]


class Scores(NamedTuple):
    """What a network gives for a normalised image whose sides divide by its divisor."""

    stages: list[Tensor]
    """Encoder features, finest first; the last are the bottleneck ``(N, D, h, w)``."""
    logits: Tensor
    """``(N, C, h', w')`` at the decoder's own resolution."""
    aux: Tensor | None
    """``(N, C, h'', w'')`` of the auxiliary classifier, if there is one."""
    decoded: Tensor
    """``(N, K, h', w')`` features that the classifier gets; the bottleneck itself where no decoder stands between."""


class SegmentationNetwork(Configurable, nn.Module):
    """Base of the segmenters: a subclass gives ``encoder`` and ``decode``.

    Images ``(N, 3, H, W)`` float RGB in [0, 1] of any size become a :class:`~uda.types.SegOutput` with logits and
    auxiliary logits ``(N, C, H, W)``, bottleneck features ``(N, D, h, w)`` and, as ``extra["decoder"]``, the features
    ``(N, K, h', w')`` that the classifier gets: the decoder's or, without one, the bottleneck again. The padding to the
    encoder's divisor (see :func:`pad_to`) is done inside and cut off the logits; the features keep it.
    """

    encoder: nn.Module
    stage_channels: tuple[int, ...]
    """Channels of each of the encoder's feature maps, finest first."""
    feature_channels: int
    """Channels D of the bottleneck, the last of ``stage_channels``."""

    def __init__(
        self,
        *,
        num_classes: int,
        stage_channels: Sequence[int],
        has_aux: bool,
        divisor: int,
        at_least: int = 2,
        normalise: Normalise,
        encoder_name: str,
        weights: str | None,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.stage_channels = tuple(stage_channels)
        self.feature_channels = self.stage_channels[-1]
        self.has_aux = has_aux
        self.divisor = divisor
        self.at_least = at_least
        self.encoder_name = encoder_name
        self.weights = weights
        self.normalise = normalise

    @property
    def mean_colour(self) -> tuple[float, ...]:
        """The RGB colour in [0, 1] that the normalisation takes to 0; what MIC hides blocks with."""
        return self.normalise.mean_colour

    @abstractmethod
    def decode(self, stages: list[Tensor], *extra: Any) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Logits, auxiliary logits and the features before the classifier, at the decoder's own resolution.

        ``None`` in place of the features where the classifier gets the last stage as it is.
        """

    def scores(self, images: Tensor) -> Scores:
        """Encoder features and logits at the decoder's own resolution, for images whose sides divide by ``divisor``."""
        stages, extra = run_encoder(self.encoder, self.normalise(images))
        logits, aux, decoded = self.decode(stages, *extra)
        return Scores(stages, logits, aux, stages[-1] if decoded is None else decoded)

    def forward(self, images: Tensor) -> SegOutput:
        """Predict images ``(N, 3, H, W)`` in [0, 1].

        Raises:
            ValueError: not float ``(N, 3, H, W)``.
        """
        check_images(images)
        height, width = images.shape[-2:]
        padded = pad_to(images, self.divisor, self.at_least)
        stages, logits, aux, decoded = self.scores(padded)
        logits = cut_to(resize(logits, padded.shape[-2:]), (height, width))
        if aux is not None:
            aux = cut_to(resize(aux, padded.shape[-2:]), (height, width))
        return SegOutput(logits, stages[-1], aux, {"decoder": decoded})

    def recomputable(self, what: str) -> list[Part]:
        """What activation checkpointing computes again: the encoder's blocks, with ``"all"`` :meth:`decode` too."""
        parts = blocks(self.encoder)
        if what == "all":
            inside = set(self.encoder.modules())
            parts.append(Part(self, "decode", tuple(module for module in self.modules() if module not in inside)))
        return parts

    def encode(self, images: Tensor) -> Tensor:
        """Bottleneck features ``(N, D, h, w)`` of images ``(N, 3, H, W)`` in [0, 1], without the decoder."""
        check_images(images)
        return run_encoder(self.encoder, self.normalise(pad_to(images, self.divisor, self.at_least)))[0][-1]

    def save_pretrained(self, folder: Path | str, space: LabelSpace | None = None) -> Path:
        """Write the network into a folder; see :func:`uda.models.save`."""
        from uda.models.pretrained import save

        return save(self, folder, space)

    @classmethod
    def from_pretrained(cls, folder: Path | str) -> Self:
        """A network that :meth:`save_pretrained` or a run left in a folder; see :func:`uda.models.load`.

        Raises:
            ModelError: nothing loadable there, or another kind of network.
        """
        from uda.models.pretrained import ModelError, load

        model = load(folder)
        if not isinstance(model, cls):
            raise ModelError(f"{folder}: holds a {type(model).__name__}, no {cls.__name__}; uda.models.load takes any")
        return model

    def pretrained_encoder(self) -> FrozenEncoder:
        """A fresh, frozen copy of the encoder with its pretrained weights: images in [0, 1] -> features.

        The weights are read again from where the constructor took them, so the training done since is not in it.
        On the model's device.

        Raises:
            ValueError: the model was built with ``weights=None``.
        """
        if self.weights is None:
            raise ValueError("the model was built with weights=None; build it with weights='auto' or a file")
        from uda.models.weights import load_encoder_weights  # timm and segmentation-models-pytorch stand behind it

        encoder = copy.deepcopy(self.encoder)
        load_encoder_weights(encoder, self.weights, self.encoder_name)
        return FrozenEncoder(encoder, copy.deepcopy(self.normalise), self.divisor, self.at_least)

    def parameter_groups(
        self, lr: float, head_multiplier: float = 10.0, weight_decay: float = 0.01
    ) -> list[dict[str, Any]]:
        """Groups for a torch optimiser: encoder at ``lr``, everything else at ``lr * head_multiplier``.

        Norm weights and biases have no weight decay. Each group has a ``name``: ``encoder``, ``encoder/no_decay``,
        ``head`` or ``head/no_decay``.
        """
        return encoder_and_head(self, self.encoder, lr, head_multiplier, weight_decay)


class FrozenEncoder(nn.Module):
    """An encoder as a fixed function: images ``(N, 3, H, W)`` in [0, 1] -> bottleneck features ``(N, D, h, w)``.

    Always in evaluation mode, its parameters without gradient; takes over the modules that it is given.
    Images are padded to ``divisor`` (see :func:`pad_to`), then made smaller by ``shrink``.
    """

    def __init__(
        self, encoder: nn.Module, normalise: Normalise, divisor: int, at_least: int = 2, shrink: int = 1
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.normalise = normalise
        self.divisor = divisor
        self.at_least = at_least
        self.shrink = shrink
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> FrozenEncoder:
        """Stays in evaluation mode whatever is asked for."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Features of images ``(N, 3, H, W)`` in [0, 1], without a graph."""
        check_images(images)
        padded = pad_to(images, self.divisor, self.at_least)
        padded = resize(padded, [side // self.shrink for side in padded.shape[-2:]])
        return run_encoder(self.encoder, self.normalise(padded))[0][-1]
