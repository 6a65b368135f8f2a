"""Somebody else's trained network in the place of a segmenter."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from uda.models.base import Normalise, check_images, cut_to, pad_to, resize, split_decay
from uda.models.recompute import Part, blocks, unknown_encoder
from uda.registry import Configurable, nearest
from uda.types import SegOutput

if TYPE_CHECKING:
    from torch import Tensor

_LOGITS_KEYS = ("out", "logits", "seg_logits", "masks", "pred")


def adapt(
    module: nn.Module,
    *,
    num_classes: int,
    mean: Sequence[float],
    std: Sequence[float],
    feature_layer: str,
    extra_layers: Mapping[str, str] | Sequence[str] = (),
    output: str | int | None = None,
    scale: float = 1.0,
    bgr: bool = False,
    divisor: int = 1,
    probe: tuple[int, int] = (64, 64),
) -> SegmenterAdapter:
    """Make any network from images to logits a segmenter: for evaluation, prediction, test-time methods and training.

    Args:
        module: normalised images ``(N, 3, H, W)`` -> logits ``(N, C, h, w)`` of any resolution; a tensor, or a mapping
            (``"out"`` as torchvision's, or ``output``), or a sequence (the first, or the one at ``output``).
        num_classes: classes C of the logits.
        mean: three numbers of the network's input normalisation.
        std: likewise.
        feature_layer: dotted path of the submodule whose output ``(N, D, h, w)`` are the bottleneck features; of a
            sequence the last, of a mapping the last value.
        extra_layers: further submodules whose outputs become ``SegOutput.extra``: paths by the names that they get
            (``{"decoder": "head.2"}``, what some methods look for), or paths alone.
        output: key or index of the logits where the network gives several things.
        scale: the largest grey value that mean and std belong to: 1 or 255.
        bgr: the network wants blue first (mean and std in that order too).
        divisor: pad both sides to multiples of this and cut the logits back.
        probe: size of a blank image that is predicted once, to see that all fits and how many channels there are.

    Raises:
        ValueError: no such layer (the nearest are named), output that is no logits of C classes, or a feature layer
            that gives no map.
    """
    normalise = Normalise(mean, std, scale=scale, bgr=bgr)
    return SegmenterAdapter(module, num_classes, normalise, feature_layer, extra_layers, output, divisor, probe)


class SegmenterAdapter(Configurable, nn.Module):
    """See :func:`adapt`; images ``(N, 3, H, W)`` in [0, 1] -> :class:`~uda.types.SegOutput`.

    A mapping's ``"aux"`` of C classes becomes the auxiliary logits.
    """

    def __init__(
        self,
        module: nn.Module,
        num_classes: int,
        normalise: Normalise,
        feature_layer: str,
        extra_layers: Mapping[str, str] | Sequence[str] = (),
        output: str | int | None = None,
        divisor: int = 1,
        probe: tuple[int, int] = (64, 64),
    ) -> None:
        super().__init__()
        self.extra_layers = dict(
            extra_layers if isinstance(extra_layers, Mapping) else zip(extra_layers, extra_layers, strict=True)
        )
        names = [name for name, _ in module.named_modules() if name]
        for layer in (feature_layer, *self.extra_layers.values()):
            if layer not in names:
                raise ValueError(f"the network has no layer {layer!r}; {nearest(layer, names)}")
        self.module = module
        self.normalise = normalise
        self.num_classes = num_classes
        self.feature_layer = feature_layer
        self.output = output
        self.divisor = divisor
        self.has_aux = False
        self.feature_channels, self.has_aux = self._probe(probe)

    @property
    def mean_colour(self) -> tuple[float, ...]:
        """The RGB colour in [0, 1] that the normalisation takes to 0."""
        return self.normalise.mean_colour

    def _probe(self, size: tuple[int, int]) -> tuple[int, bool]:
        """Feature channels, and whether there are auxiliary logits, from one blank image; the state stays as it was."""
        training = self.module.training
        self.module.eval()
        try:
            with torch.no_grad():
                output, features, _ = self._run(self.normalise.mean.new_zeros(1, 3, *size))
        finally:
            self.module.train(training)
        logits = self._logits(output)
        if logits.ndim != 4 or logits.shape[1] != self.num_classes:
            raise ValueError(f"the output has shape {tuple(logits.shape)}, no logits (N, {self.num_classes}, h, w)")
        if features.ndim != 4:
            raise ValueError(f"layer {self.feature_layer!r} gives shape {tuple(features.shape)}, no map (N, D, h, w)")
        aux = output.get("aux") if isinstance(output, Mapping) else None
        return features.shape[1], isinstance(aux, torch.Tensor) and aux.shape[1] == self.num_classes

    def _run(self, images: Tensor) -> tuple[Any, Tensor, dict[str, Tensor]]:
        """The network's own output, its features and its extra layers', for images in [0, 1]."""
        layers = {"": self.feature_layer, **self.extra_layers}
        caught: dict[str, Any] = {}
        handles = []
        try:
            for name, layer in layers.items():
                # hooked for this pass only: a copy of the adapter (the teacher) must not write into the original
                hook = functools.partial(_catch, caught, name)
                handles.append(self.module.get_submodule(layer).register_forward_hook(hook))
            output = self.module(self.normalise(images))
        finally:
            for handle in handles:
                handle.remove()
        for name, layer in layers.items():
            if name not in caught:
                raise ValueError(f"layer {layer!r} is not used in the network's forward pass")
        maps = {name: _last_map(value) for name, value in caught.items()}
        return output, maps.pop(""), {name: maps[name] for name in self.extra_layers}

    def _logits(self, output: Any) -> Tensor:
        """The logits among what the network gave."""
        if isinstance(output, torch.Tensor):
            return output
        if isinstance(output, Mapping):
            keys = _LOGITS_KEYS if self.output is None else (self.output,)
            logits = next((output[key] for key in keys if key in output), None)
            if logits is None:
                raise ValueError(
                    f"the output has no {' or '.join(map(repr, keys))}; there are: {', '.join(map(str, output))}"
                )
        else:
            logits = output[self.output or 0]
        if not isinstance(logits, torch.Tensor):
            raise ValueError(f"output {self.output!r} is a {type(logits).__name__}, no tensor of logits")
        return logits

    def forward(self, images: Tensor) -> SegOutput:
        """Predict images ``(N, 3, H, W)`` in [0, 1]; logits are resized to the image's size.

        Raises:
            ValueError: not float ``(N, 3, H, W)``.
        """
        check_images(images)
        height, width = images.shape[-2:]
        padded = pad_to(images, self.divisor, at_least=1)
        output, features, extra = self._run(padded)

        def at_image_size(logits: Tensor) -> Tensor:
            return cut_to(resize(logits, padded.shape[-2:]), (height, width))

        aux = at_image_size(output["aux"]) if self.has_aux else None
        return SegOutput(at_image_size(self._logits(output)), features, aux, extra or None)

    def recomputable(self, what: str) -> list[Part]:
        """What activation checkpointing computes again: with ``"all"`` the network's blocks, or all of it at once.

        Raises:
            ValueError: ``"encoder"``, which is not known of an adapted network.
        """
        if what == "encoder":
            raise ValueError(unknown_encoder(self.module))
        return blocks(self.module)

    def encode(self, images: Tensor) -> Tensor:
        """Bottleneck features ``(N, D, h, w)`` of images ``(N, 3, H, W)`` in [0, 1]; the whole network runs."""
        return self.forward(images).features

    def pretrained_encoder(self) -> nn.Module:
        """Refused: what an adapted network was pretrained on is not known.

        Raises:
            ValueError: always.
        """
        raise ValueError("an adapted network has no known pretrained encoder; methods that need one take a Segmenter")

    def parameter_groups(
        self, lr: float, head_multiplier: float = 1.0, weight_decay: float = 0.01
    ) -> list[dict[str, Any]]:
        """Groups for a torch optimiser, all at ``lr``: no part of an adapted network starts from random numbers."""
        return split_decay(self, "model", lr, weight_decay)


def _catch(caught: dict[str, Any], name: str, module: nn.Module, inputs: Any, result: Any) -> None:
    caught[name] = result


def _last_map(value: Any) -> Tensor:
    """Of several maps the last."""
    if isinstance(value, Mapping):
        value = list(value.values())
    while isinstance(value, (tuple, list)):
        value = value[-1]
    tensor: Tensor = value
    return tensor
