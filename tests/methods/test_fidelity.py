"""Three whole training steps against plain loops that follow each paper line by line."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from uda.engine import Trainer
from uda.functional.augment import draw_strong_augmentation, strong_augment
from uda.methods import FDA, AdvEnt, ClassMix, Supervised
from uda.models.discriminator import Discriminator
from uda.testing.methods import settings, train
from uda.testing.tiny import TinyDataset, TinySegmenter, tiny_target
from uda.types import IGNORE, View

STEPS = 3


def student() -> TinySegmenter:
    """The network that ``train`` starts from."""
    torch.manual_seed(0)
    return TinySegmenter().train()


def batches(run: Trainer) -> Iterator[tuple[View, View]]:
    """What the trainer's loader gives, step by step."""
    pairs = run.pairs(TinyDataset(), tiny_target().unlabelled())
    return ((pairs[index]["source"], pairs[index]["target"]) for index in range(STEPS))


def sgd(model: nn.Module) -> torch.optim.SGD:
    """As AdaptSegNet, ADVENT, FDA and DACS build it: all that is trained, biases and norms too, with one decay.

    Each tensor once, and all at one rate, as this network has no parts; see tests/engine/test_optimisation.py.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.SGD([{"params": trained, "lr": 0.01}], momentum=0.9, weight_decay=0.01)


def poly(optimizer: torch.optim.Optimizer, base: float, index: int) -> None:
    for group in optimizer.param_groups:
        group["lr"] = base * (1 - index / STEPS) ** 0.9


def check(model: nn.Module, plain: nn.Module) -> None:
    for (name, got), wanted in zip(model.state_dict().items(), plain.state_dict().values(), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6, msg=name)
    assert any(not torch.equal(p, q) for p, q in zip(plain.parameters(), student().parameters(), strict=True))


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels, ignore_index=IGNORE)


def test_advent() -> None:
    run = train([Supervised(), AdvEnt(width=4, weight=0.1)], steps=STEPS, decayed="all")

    s, model = settings(), student()
    torch.manual_seed(s.seed)
    discriminator = Discriminator(5, 4)
    optimizer = sgd(model)
    optimizer_d = torch.optim.Adam(discriminator.parameters(), lr=1e-4, betas=(0.9, 0.99))

    def judge(logits: Tensor) -> Tensor:
        p = logits.softmax(1)
        return discriminator(-p * torch.log2(p + 1e-30) / torch.log2(torch.tensor(5.0)))

    def bce(scores: Tensor, label: float) -> Tensor:
        return F.binary_cross_entropy_with_logits(scores, torch.full_like(scores, label))

    for index, (source, target) in enumerate(batches(run)):
        poly(optimizer, s.lr, index)
        poly(optimizer_d, 1e-4, index)
        optimizer.zero_grad()
        optimizer_d.zero_grad()
        # train the segmenter on the source, then against the discriminator on the target
        discriminator.requires_grad_(False)
        logits_source = model(source.images).logits
        cross_entropy(logits_source, source.labels).backward()
        logits_target = model(target.images).logits
        (0.1 * bce(judge(logits_target), 0)).backward()
        # train the discriminator on both
        discriminator.requires_grad_(True)
        (bce(judge(logits_source.detach()), 0) / 2).backward()
        (bce(judge(logits_target.detach()), 1) / 2).backward()
        optimizer.step()
        optimizer_d.step()
    check(run.model, model)
    mine = run.methods[1].discriminators["main"]
    for got, wanted in zip(mine.parameters(), discriminator.parameters(), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6)


def test_fda() -> None:
    run = train([Supervised(), FDA(beta=0.05, entropy_weight=0.1, eta=1.5)], steps=STEPS, decayed="all")

    s, model, generator = settings(), student(), torch.Generator().manual_seed(3)
    torch.manual_seed(s.seed)
    optimizer = sgd(model)
    for index, (source, target) in enumerate(batches(run)):
        poly(optimizer, s.lr, index)
        style = target.images[torch.randperm(2, generator=generator)]
        # swap the centred low-frequency square of the amplitude, keep the phase
        spectrum, other = (torch.fft.fftshift(torch.fft.fft2(x.double()), dim=(-2, -1)) for x in (source.images, style))
        amplitude, (h, w) = spectrum.abs(), source.images.shape[-2:]
        b, ch, cw = int(min(h, w) * 0.05), h // 2, w // 2
        square = (..., slice(ch - b, ch + b + 1), slice(cw - b, cw + b + 1))
        amplitude[square] = other.abs()[square]
        mixed = torch.polar(amplitude, spectrum.angle())
        restyled = torch.fft.ifft2(torch.fft.ifftshift(mixed, dim=(-2, -1))).real.float()
        optimizer.zero_grad()
        cross_entropy(model(restyled).logits, source.labels).backward()
        p = model(target.images).logits.softmax(1)
        entropy = -(p * p.log()).sum(1) / torch.log(torch.tensor(5.0))
        (0.1 * (entropy**2 + 1e-8).pow(1.5).mean()).backward()
        optimizer.step()
    check(run.model, model)


def test_dacs() -> None:
    threshold = 0.4
    run = train([Supervised(), ClassMix(threshold=threshold, teacher={"decay": 0.6})], steps=STEPS, decayed="all")

    s, model, generator = settings(), student(), torch.Generator().manual_seed(3)
    torch.manual_seed(s.seed)
    teacher = copy.deepcopy(model)
    teacher.dropout.eval()
    optimizer, shares = sgd(model), []
    for index, (source, target) in enumerate(batches(run)):
        poly(optimizer, s.lr, index)
        with torch.no_grad():
            confidence, pseudo = teacher(target.images).logits.softmax(1).max(1)
        shares.append((confidence >= threshold).sum() / confidence.numel())
        masks = []
        for labels in source.labels:
            classes = labels.unique()
            chosen = classes[torch.randperm(len(classes), generator=generator)[: (len(classes) + 1) // 2]]
            masks.append((labels[None] == chosen[:, None, None]).any(0))
        mask = torch.stack(masks)
        images = mask[:, None] * source.images + ~mask[:, None] * target.images
        labels = mask * source.labels + ~mask * pseudo
        weights = mask * 1.0 + ~mask * shares[-1]
        draws = [draw_strong_augmentation(generator) for _ in images]
        images = torch.cat([strong_augment(x[None], parameters=d) for x, d in zip(images, draws, strict=True)])
        optimizer.zero_grad()
        cross_entropy(model(source.images).logits, source.labels).backward()
        loss = F.cross_entropy(model(images).logits, labels, ignore_index=IGNORE, reduction="none")
        (loss * weights).mean().backward()
        optimizer.step()
        alpha = min(1 - 1 / (index + 1), 0.6)
        for mine, theirs in zip(teacher.parameters(), model.parameters(), strict=True):
            mine.data = alpha * mine.data + (1 - alpha) * theirs.data
    assert any(0 < share < 1 for share in shares)
    check(run.model, model)
    for (name, got), wanted in zip(
        run.update.teacher.model.state_dict().items(), teacher.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize("decayed", ["weights", "all_but_encoder_norms", "all_but_biases"])
def test_the_comparison_sees_what_is_decayed(decayed: str) -> None:
    right, other = (train([Supervised()], steps=STEPS, decayed=rule) for rule in ("all", decayed))
    with pytest.raises(AssertionError):
        check(other.model, right.model)


def test_supervised_and_class_mix_alone_are_dacs() -> None:
    """The teacher's decay and the order of its update are the method's, not the run's."""
    run = train([Supervised(), ClassMix()], steps=1)
    teacher = run.update.teacher
    assert (teacher.decay, teacher.when, teacher.mode) == (0.99, "after", "train")
