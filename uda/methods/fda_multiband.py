"""FDA's multi-band transfer: pseudo-labels of several networks' mean prediction (Yang and Soatto, CVPR 2020).

Networks trained with FDA at different band sizes err differently; the mean of their probabilities labels the target. A
pixel keeps its label where its confidence is not below its class's threshold: the confidence at ``portion`` of the
class's ascending list over the target images, at most ``cap``.

Departures: any number of networks, equally weighted. The thresholds are taken once, at the first step, from at most
``images`` images and a subset of their pixels; labels are made afresh for the augmented crop where the paper stores one
label map for each image. Entropy on the target, which the paper keeps in this stage, is a method of its own.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from uda.functional.class_balance import multiband_probabilities, portion_thresholds, threshold_labels
from uda.functional.losses import cross_entropy_2d
from uda.methods.base import Method, log_pseudo_labels
from uda.methods.support.checks import in_range, not_negative, whole
from uda.methods.support.target_pass import target_confidences

if TYPE_CHECKING:
    from torch import Tensor

    from uda.step import Step
    from uda.types import TaskSpec, UnlabelledDataset


class FDAMultiBand(Method):
    """Cross-entropy of target pixels with the labels of several trained networks.

    Args:
        models: the networks, usually three; each a segmenter (images -> :class:`~uda.types.SegOutput`) or a file with
            the weights of one like the run's: a state dict, or a checkpoint that has one under ``"model"``. Modules are
            put in evaluation mode on the run's device, are not trained and are no part of the method's state. With
            none, a copy of the run's own network as it is at the start (plain self-training), which is part of it.
        weight: of the loss, at least 0.
        portion: share of each class's pixels to drop, in [0, 1], but for those above ``cap``.
        cap: largest threshold, in [0, 1].
        images: target images that the thresholds are taken from, at most.

    Raises:
        ValueError: a value out of its range; from ``setup``: a network for another number of classes.
    """

    reads = frozenset({"target"})
    own_images = frozenset({"losses"})
    thresholds: Tensor
    _target: UnlabelledDataset
    measured: Tensor

    def __init__(
        self,
        *,
        models: Sequence[nn.Module | Path | str] = (),
        weight: float = 1.0,
        portion: float = 0.66,
        cap: float = 0.9,
        images: int = 500,
    ) -> None:
        super().__init__()
        # a tuple hides the modules from this one's parameters and state
        self.models = tuple(models)
        self.start: nn.Module | None = None
        self._networks: tuple[nn.Module, ...] = ()
        self.weight = not_negative("weight", weight)
        self.portion = in_range("portion", portion, 0.0, 1.0)
        self.cap = in_range("cap", cap, 0.0, 1.0)
        self.images = whole("images", images, 1)
        self._class_names: tuple[str, ...] = ()

    @property
    def arguments(self) -> dict[str, Any]:
        """The constructor's arguments; files as paths, which a run's identity knows by their content."""
        arguments = super().arguments
        models = [Path(model) if isinstance(model, str) else model for model in arguments["models"]]
        return {**arguments, "models": tuple(models)}

    def setup(self, spec: TaskSpec) -> None:
        self._class_names, self._target = spec.class_names, spec.target_images
        if not self.models:
            self.start = copy.deepcopy(cast("nn.Module", spec.model)).requires_grad_(False).eval()
        self._networks = tuple(self._network(model, spec) for model in self.models or (cast("nn.Module", self.start),))
        self.register_buffer("thresholds", torch.zeros(spec.num_classes))
        self.register_buffer("measured", torch.tensor(False))

    def _network(self, model: nn.Module | Path | str, spec: TaskSpec) -> nn.Module:
        if not isinstance(model, nn.Module):
            state = torch.load(model, map_location="cpu", weights_only=True)
            model = copy.deepcopy(cast("nn.Module", spec.model))
            model.load_state_dict(state.get("model", state))
        classes = getattr(model, "num_classes", spec.num_classes)
        if classes != spec.num_classes:
            raise ValueError(f"FDAMultiBand: a network has {classes} classes, the run has {spec.num_classes}")
        return model.to(spec.device).eval()

    def prepare(self, step: Step) -> None:
        if self.measured:
            return
        device, count = self.thresholds.device, len(self.thresholds)
        labels, confidences = target_confidences(self._target, self.probabilities, self.images, step.generator, device)
        self.thresholds.copy_(portion_thresholds(labels, confidences, count, portion=self.portion, cap=self.cap))
        self.measured.fill_(True)

    def losses(self, step: Step) -> dict[str, Tensor]:
        confidence, labels = self.probabilities(step.view("target").images).max(1)
        labels = threshold_labels(labels, confidence, self.thresholds)
        log_pseudo_labels(step, labels, self._class_names)
        return {"pseudo_label": self.weight * cross_entropy_2d(step.predict("target").logits, labels)}

    @torch.no_grad()
    def probabilities(self, images: Tensor) -> Tensor:
        """The networks' mean ``(N, C, H, W)`` probabilities of ``(N, 3, H, W)`` images in [0, 1]."""
        return multiband_probabilities([network(images).logits.float() for network in self._networks])
