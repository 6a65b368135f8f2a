"""Training steps as a script would write them: passes, losses and updates, with no step object, logs or checks."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from uda.data import CITYSCAPES19
from uda.engine import Update
from uda.functional.adversarial import bce_loss
from uda.functional.augment import draw_strong_augmentation, strong_augment
from uda.functional.entropy import entropy_loss, self_information
from uda.functional.fourier import fda_source_to_target
from uda.functional.masks import block_mask, class_mix_masks, mix
from uda.functional.pseudo_labels import confident_labels, confident_share
from uda.methods.support.restyle import pairing
from uda.models.teacher import Teacher
from uda.types import IGNORE, View

CLASSES = len(CITYSCAPES19.names)


class Bare:
    """The passes and losses of the named methods in one step, and the updates.

    Networks and optimisers are copies of an update's that was set up.
    """

    def __init__(self, update: Update, names: tuple[str, ...]) -> None:
        methods = dict(zip(names, update.methods, strict=True))
        self.names = frozenset(names)
        self.model, self.generator = copy.deepcopy(update.model), copy.deepcopy(update.generator)
        self.optimizer = matching(update.optimizer, update.model, self.model)
        self.parameters = list(self.model.parameters())
        self.teacher = Teacher(self.model, **vars(update.teacher_spec)) if update.teacher_spec else None
        if "advent" in names:
            theirs: Any = methods["advent"]
            self.discriminator = copy.deepcopy(theirs.discriminators["main"])
            own = update.own_optimizers["AdvEnt"]
            self.own_optimizer = matching(own, theirs.discriminators["main"], self.discriminator)
        if "cbst" in names:
            theirs = methods["cbst"]
            self.stored = torch.cat([theirs.maps.whole(index) for index in range(2)]).long().to(update.device)
        if "mic" in names:
            self.hidden = torch.tensor(update.model.mean_colour, device=update.device).view(1, 3, 1, 1)

    def augmented(self, images: Tensor, strength: float) -> Tensor:
        """Images, each jittered and blurred on its own."""
        draws = [
            draw_strong_augmentation(self.generator, strength=strength, jitter_probability=1.0, blur_probability=1.0)
            for _ in images
        ]
        return torch.cat([strong_augment(x[None], parameters=draw) for x, draw in zip(images, draws, strict=True)])

    def taught(self, target: Tensor) -> tuple[Tensor, Tensor]:
        """The teacher's labels, and the share of pixels that it is sure of."""
        labels, confidence = confident_labels(self.teacher(target).logits)
        return labels, confident_share(confidence)

    def mixed(self, source: Tensor, truth: Tensor, target: Tensor, labels: Tensor, share: Tensor) -> tuple[Tensor, ...]:
        """ClassMix: images, labels, weights."""
        mask = class_mix_masks(truth, self.generator)
        weight = mix(mask, torch.ones_like(labels, dtype=torch.float32), share.expand(labels.shape))
        return self.augmented(mix(mask, source, target), 0.25), mix(mask, truth, labels), weight

    def masked(self, images: Tensor) -> Tensor:
        """MIC: every image augmented, with hidden blocks."""
        changed = self.augmented(images, 0.2)
        size = images.shape[-2:]
        masks = [block_mask(size, block=64, ratio=0.7, generator=self.generator) for _ in images]
        return torch.where(torch.cat(masks).to(images.device).bool(), changed, self.hidden)

    def step(self, index: int, views: Mapping[str, View]) -> None:
        """Update everything once."""
        source, truth, target = views["source"].images, views["source"].labels, views["target"].images
        assert truth is not None
        extra: list[tuple[Tensor, ...]] = []
        if "fda" in self.names:
            source = fda_source_to_target(source, target[pairing(len(source), len(target), self.generator)])
        if self.teacher is not None:
            labels, share = self.taught(target)
        if "classmix" in self.names:
            extra.append(self.mixed(source, truth, target, labels, share))
        if "mic" in self.names:
            extra.append((self.masked(target), labels, share.expand(labels.shape)))
        self.optimizer.zero_grad()
        logits = {"source": self.model(source).logits}
        F.cross_entropy(logits["source"], truth, ignore_index=IGNORE).backward()
        logits["source"] = logits["source"].detach()
        if self.names & {"minent", "advent", "cbst"}:
            logits["target"] = self.target_backward(target)
        for images, pseudo, weight in extra:
            loss = F.cross_entropy(self.model(images).logits, pseudo, ignore_index=IGNORE, reduction="none")
            (loss * weight).mean().backward()
        self.optimizer.step()
        if "advent" in self.names:
            self.own_optimizer.zero_grad()
            for domain, name in enumerate(("source", "target")):
                score = self.discriminator(self_information(logits[name].softmax(1)))
                (0.5 * bce_loss(score, domain)).backward()
            self.own_optimizer.step()
        if self.teacher is not None:
            self.teacher.update(self.model, index)

    def target_backward(self, target: Tensor) -> Tensor:
        """The losses on the target's prediction, which is returned without its graph."""
        logits = self.model(target).logits
        loss = logits.new_zeros(())
        if "advent" in self.names:
            loss = loss + 0.001 * bce_loss(self.discriminator(self_information(logits.softmax(1))), 0)
        if "minent" in self.names:
            loss = loss + 0.001 * entropy_loss(logits.softmax(1))
        if "cbst" in self.names:
            loss = loss + F.cross_entropy(logits, self.stored, ignore_index=IGNORE)
        loss.backward(inputs=self.parameters)
        return logits.detach()


def matching(optimizer: torch.optim.Optimizer, theirs: nn.Module, mine: nn.Module) -> torch.optim.Optimizer:
    """An optimiser of the same kind and values over a copy of a network."""
    copies = dict(zip(theirs.parameters(), mine.parameters(), strict=True))
    groups = [{**group, "params": [copies[p] for p in group["params"]]} for group in optimizer.param_groups]
    return type(optimizer)(groups)
