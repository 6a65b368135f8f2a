"""Three training steps of DAFormer against a plain loop that follows the paper and its code line by line."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.methods.test_fidelity import check, student
from uda.engine import Trainer
from uda.functional.augment import draw_strong_augmentation, strong_augment
from uda.methods import ClassMix, FeatureDistance, RareClassSampling, Supervised
from uda.testing.methods import train
from uda.testing.tiny import TinyDataset, tiny_target
from uda.types import View

STEPS, WARMUP, THRESHOLD, DECAY, TOP, BOTTOM = 3, 2, 0.3, 0.6, 3, 5
MARGINS = {"top": TOP / 32, "bottom": BOTTOM / 32}
"""Of the whole images, of which the crops show parts."""
RUN: dict[str, Any] = {
    "steps": STEPS, "optimizer": "adamw", "lr": 1e-2, "schedule": {"poly": {"power": 1.0}}, "warmup": WARMUP,
    "decayed": "all_but_encoder_norms",
}  # fmt: skip
"""DAFormer's settings, the numbers made larger so that three steps show them."""


def source() -> TinyDataset:
    """Partly ignored: the published loss is divided by all pixels."""
    return TinyDataset(ignored=0.2)


def batches(run: Trainer) -> Iterator[tuple[View, View]]:
    """What the loader gives, with rare class sampling."""
    pairs = run.pairs(source(), tiny_target().unlabelled())
    return ((pairs[index]["source"], pairs[index]["target"]) for index in range(STEPS))


class Loop:
    """The plain loop, with the terms that a test switches on."""

    def __init__(self) -> None:
        self.model, self.base, self.generator = student(), 1e-2, torch.Generator().manual_seed(3)
        self.imagenet = self.model.pretrained_encoder()
        self.ema = copy.deepcopy(self.model)
        self.ema.dropout.eval()
        # mmcv's rule with DAFormer's keys: 0.01 on all but the encoder's norms; the head's bias is decayed
        norms = [*self.model.stem[1].parameters(), *self.model.body[1].parameters()]
        rest = [self.model.stem[0].weight, self.model.body[0].weight, *self.model.head.parameters()]
        groups = [{"params": rest, "weight_decay": 0.01}, {"params": norms, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=1e-2)
        self.shares: list[float] = []
        self.things = 0
        torch.manual_seed(3)

    def start(self, index: int) -> None:
        """The learning rate and the teacher of an iteration."""
        lr = self.base * (1 - index / STEPS)
        if index < WARMUP:
            lr *= 1 - (1 - index / WARMUP) * (1 - 1e-6)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.zero_grad()
        alpha = min(1 - 1 / (index + 1), DECAY) if index else 0.0
        for mine, theirs in zip(self.ema.parameters(), self.model.parameters(), strict=True):
            mine.data = alpha * mine.data + (1 - alpha) * theirs.data

    def train_source(self, view: View, weight: float) -> None:
        """Cross-entropy and the feature distance of the thing class, 1."""
        output = self.model(view.images)
        loss = F.cross_entropy(output.logits, view.labels, ignore_index=255, reduction="none").mean()
        filled = F.avg_pool2d((view.labels == 1).float()[:, None], 4)[:, 0] >= 0.75
        self.things += int(filled.sum())
        if filled.any():
            distance = (output.features - self.imagenet(view.images)).square().sum(1).sqrt()
            loss = loss + weight * distance[filled].mean()
        loss.backward()

    def pseudo_label(self, target: View) -> tuple[Tensor, Tensor]:
        """The teacher's labels, and their weight: the share of sure pixels, none at the images' top and bottom."""
        with torch.no_grad():
            confidence, labels = self.ema(target.images).logits.softmax(1).max(1)
        share = (confidence >= THRESHOLD).sum() / confidence.numel()
        self.shares.append(float(share))
        weight = share * torch.ones_like(confidence)
        valid = [0] * TOP + [1] * (32 - TOP - BOTTOM) + [0] * BOTTOM
        for image, window in enumerate(target.windows):
            for row in range(32):
                weight[image, row] *= valid[int(window.top + (row + 0.5) * window.height / 32)]
        return labels, weight

    def mix(self, view: View, target: View, pseudo: Tensor, pseudo_weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Half of the batch's classes pasted onto each target image, then colour jitter and blur."""
        classes, masks = view.labels.unique(), []
        for labels in view.labels:
            order = torch.randperm(len(classes), generator=self.generator)
            chosen = classes[order[: (len(classes) + len(classes) % 2) // 2]]
            masks.append((labels[None] == chosen[:, None, None]).any(0))
        mask = torch.stack(masks)
        images = mask[:, None] * view.images + ~mask[:, None] * target.images
        return self.augment(images), mask * view.labels + ~mask * pseudo, mask * 1.0 + ~mask * pseudo_weight

    def augment(self, images: Tensor) -> Tensor:
        draws = [draw_strong_augmentation(self.generator, strength=0.2) for _ in images]
        return torch.cat([strong_augment(x[None], parameters=d) for x, d in zip(images, draws, strict=True)])

    def train_weighted(self, images: Tensor, labels: Tensor, weight: Tensor) -> None:
        loss = F.cross_entropy(self.model(images).logits, labels, ignore_index=255, reduction="none")
        (loss * weight).mean().backward()

    def check(self, run: Trainer) -> None:
        check(run.model, self.model)
        for (name, got), wanted in zip(
            run.update.teacher.model.state_dict().items(), self.ema.state_dict().values(), strict=True
        ):
            torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6, msg=name)


def class_mix(**teacher: Any) -> ClassMix:
    return ClassMix(
        threshold=THRESHOLD, classes="batch", jitter=0.2, margins=MARGINS,
        teacher={"decay": DECAY, "update": "before", **teacher},
    )  # fmt: skip


def daformer(weight: float = 0.5, **teacher: Any) -> list[Any]:
    return [Supervised(average="all"), RareClassSampling(), FeatureDistance(weight=weight), class_mix(**teacher)]


@pytest.mark.parametrize("weight", [0.005, 0.5])
def test_daformer(weight: float) -> None:
    run = train(daformer(weight), source=source(), **RUN)

    loop = Loop()
    for index, (view, target) in enumerate(batches(run)):
        loop.start(index)
        loop.train_source(view, weight)
        pseudo, pseudo_weight = loop.pseudo_label(target)
        loop.train_weighted(*loop.mix(view, target, pseudo, pseudo_weight))
        loop.optimizer.step()
    assert any(0 < share < 1 for share in loop.shares)
    assert loop.things > 0
    loop.check(run)


@pytest.mark.parametrize(
    ("methods", "changes"),
    [
        (daformer(update="after"), {}),
        (daformer(), {"warmup": 0}),
        (daformer(), {"decayed": "weights"}),
        (daformer(), {"decayed": "all"}),
        ([part for part in daformer() if not isinstance(part, RareClassSampling)], {}),
    ],
    ids=["teacher", "warmup", "biases", "norms", "sampling"],
)
def test_the_comparison_sees_each_setting(methods: list[Any], changes: dict[str, Any]) -> None:
    """Another setting of the run gives other weights."""
    right = train(daformer(), source=source(), **RUN)
    other = train(methods, source=source(), **{**RUN, **changes})
    with pytest.raises(AssertionError):
        check(other.model, right.model)
