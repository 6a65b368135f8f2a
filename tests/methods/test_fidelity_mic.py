"""Three training steps of MIC on DAFormer against a plain loop that follows the paper and its code line by line."""

from __future__ import annotations

import torch

from tests.methods.test_fidelity_daformer import DECAY, MARGINS, RUN, THRESHOLD, Loop, batches, daformer, source
from uda.methods import MIC
from uda.testing.methods import train

BLOCK, RATIO, WEIGHT = 8, 0.7, 0.8


def test_mic() -> None:
    mic = MIC(
        weight=WEIGHT, block=BLOCK, ratio=RATIO, threshold=THRESHOLD, margins=MARGINS,
        fill=(0.5, 0.5, 0.5), teacher={"decay": DECAY},
    )  # fmt: skip
    run = train([*daformer(0.005), mic], source=source(), **RUN)

    loop, hidden = Loop(), 0.0
    for index, (view, target) in enumerate(batches(run)):
        loop.start(index)
        loop.train_source(view, 0.005)
        pseudo, pseudo_weight = loop.pseudo_label(target)
        mixed = loop.mix(view, target, pseudo, pseudo_weight)
        masked = []
        for image in loop.augment(target.images):
            # jitter and blur, then blocks of the normalised image times 0
            normalised = (image[None] - 0.5) / 0.25
            grid = torch.rand(1, 1, 32 // BLOCK, 64 // BLOCK, generator=loop.generator)
            keep = (grid > RATIO).float().repeat_interleave(BLOCK, 2).repeat_interleave(BLOCK, 3)
            hidden += float(1 - keep.mean())
            masked.append(normalised * keep * 0.25 + 0.5)
        loop.train_weighted(*mixed)
        loop.train_weighted(torch.cat(masked), pseudo, WEIGHT * pseudo_weight)
        loop.optimizer.step()
    assert any(0 < share < 1 for share in loop.shares)
    assert 0.5 < hidden / 6 < 0.9
    loop.check(run)
