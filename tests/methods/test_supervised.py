from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from uda.methods import Supervised
from uda.methods.supervised import labelled_loss
from uda.testing.methods import MethodContract, train
from uda.testing.tiny import TinyDataset, TinySegmenter, TinyUnlabelled, tiny_target
from uda.types import IGNORE, View


class TestSupervised(MethodContract):
    make = lambda self: Supervised()  # noqa: E731
    invalid = (
        {"weight": -1.0},
        {"aux_weight": float("inf")},
        {"class_weights": [1.0, -2.0]},
        {"average": "some"},
        {"focal": -1.0},
        {"label_smoothing": 1.5},
    )


class TestSupervisedWithAux(MethodContract):
    make = lambda self: Supervised(aux_weight=0.4)  # noqa: E731
    aux = True

    def test_auxiliary_term(self) -> None:
        run = self.train([self.make()], steps=1)
        terms = self.terms(run, run.methods[0])
        assert set(terms) == {"segmentation", "auxiliary"}


def view(weight: torch.Tensor | None = None) -> tuple[torch.Tensor, View]:
    logits = torch.randn(2, 5, 6, 7)
    labels = torch.randint(0, 5, (2, 6, 7))
    labels[:, 0] = IGNORE
    return logits, View(torch.zeros(2, 3, 6, 7), labels, weight)


@pytest.mark.parametrize("class_weight", [None, torch.tensor([1.0, 2.0, 0.0, 0.5, 3.0])])
def test_loss_is_torchs_cross_entropy(class_weight: torch.Tensor | None) -> None:
    logits, plain = view()
    expected = F.cross_entropy(logits, plain.labels, weight=class_weight, ignore_index=IGNORE)
    torch.testing.assert_close(labelled_loss(logits, plain, class_weight), expected)
    ones = View(plain.images, plain.labels, torch.ones(2, 6, 7))
    torch.testing.assert_close(labelled_loss(logits, ones, class_weight), expected)


def test_sample_weight_scales_the_sample_and_not_the_divisor() -> None:
    logits, plain = view()
    weight = torch.tensor([1.0, 0.1]).view(2, 1, 1).expand(2, 6, 7)
    halves = [labelled_loss(logits[i : i + 1], View(plain.images[:1], plain.labels[i : i + 1])) for i in range(2)]
    loss = labelled_loss(logits, View(plain.images, plain.labels, weight))
    torch.testing.assert_close(loss, (halves[0] + 0.1 * halves[1]) / 2)


def test_average_over_all_pixels_counts_the_ignored() -> None:
    logits, plain = view()
    assert plain.labels is not None
    known = (plain.labels != IGNORE).float().mean()
    expected = labelled_loss(logits, plain) * known
    torch.testing.assert_close(Supervised(average="all")._loss(logits, plain), expected)


def test_class_weights_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match="class_weights has 3 values, must be one for each of the 5 classes"):
        train([Supervised(class_weights=[1.0, 1.0, 1.0])], steps=1)


class Untouchable(TinyUnlabelled):
    def __getitem__(self, index: int):
        raise AssertionError("a target image was touched")


def test_source_only_never_touches_a_target_image() -> None:
    run = train([Supervised()], target=Untouchable("untouchable", 6, (1, 1, 1), 0))
    assert run.step_index == 3


class Unreadable(TinyDataset):
    """A labelled target whose labels raise."""

    def label(self, index: int):
        raise AssertionError("a target label was read")


def test_target_labels_are_out_of_reach() -> None:
    from uda.methods import CBST, FDA, AdvEnt, ClassMix

    target = Unreadable("tiny/target", tint=(0.3, 0.5, 0.4), seed=2)
    run = train([Supervised(), FDA(), AdvEnt(width=4), CBST(), ClassMix()], target=target)
    assert run.step_index == 3
    with pytest.raises(AssertionError, match="label was read"):
        target[0]


def test_source_only_equals_a_plain_loop_batch_norm_included() -> None:
    """The whole trainer against twelve lines of PyTorch, to the last bit."""
    run = train([Supervised()], steps=4)
    torch.manual_seed(0)
    model = TinySegmenter().train()
    pairs = run.pairs(TinyDataset(), tiny_target().unlabelled())
    norms = [p for name, p in model.named_parameters() if name.endswith("bias") or ".1." in name]
    rest = [p for p in model.parameters() if not any(p is norm for norm in norms)]
    groups = [{"params": rest, "weight_decay": 0.01}, {"params": norms, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=0.01, momentum=0.9)
    torch.manual_seed(3)
    for index in range(4):
        batch = pairs[index]["source"]
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * (1 - index / 4) ** 0.9
        optimizer.zero_grad()
        F.cross_entropy(model(batch.images).logits, batch.labels, ignore_index=IGNORE).backward()
        optimizer.step()
    for (name, mine), plain in zip(run.model.state_dict().items(), model.state_dict().values(), strict=True):
        torch.testing.assert_close(mine, plain, rtol=0, atol=1e-7, msg=name)


def test_focal_factor_by_hand() -> None:
    """CLAN's -(1 - p)^2 log p, the mean over the labelled pixels; pixels and classes may carry weights."""
    logits = torch.tensor([[[[2.0, 0.0, 5.0]], [[0.0, 1.0, -3.0]]]])
    labels = torch.tensor([[[0, 0, IGNORE]]])
    p, q = 1 / (1 + math.exp(-2)), 1 / (1 + math.exp(1))
    terms = [-((1 - p) ** 2) * math.log(p), -((1 - q) ** 2) * math.log(q)]
    images = torch.zeros(1, 3, 1, 3)
    assert labelled_loss(logits, View(images, labels), focal=2.0).item() == pytest.approx(sum(terms) / 2)
    weighted = View(images, labels, torch.tensor([[[1.0, 0.5, 1.0]]]))
    assert labelled_loss(logits, weighted, focal=2.0).item() == pytest.approx((terms[0] + 0.5 * terms[1]) / 2)
    with pytest.raises(ValueError, match='focal needs average "labelled"'):
        Supervised(average="all", focal=2.0)


def test_focal_loss_of_a_sure_pixel_has_a_finite_gradient() -> None:
    logits = torch.tensor([[[[50.0]], [[-50.0]]]], requires_grad=True)
    labelled_loss(logits, View(torch.zeros(1, 3, 1, 1), torch.zeros(1, 1, 1, dtype=torch.int64)), focal=0.5).backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("class_weights", [None, [1.0, 0.0, 2.0, 0.5, 1.0]])
def test_label_smoothing_is_torchs(class_weights: list[float] | None) -> None:
    torch.manual_seed(0)
    logits, plain = view()
    weight = None if class_weights is None else torch.tensor(class_weights)
    expected = F.cross_entropy(logits, plain.labels, weight=weight, ignore_index=IGNORE, label_smoothing=0.1)
    torch.testing.assert_close(labelled_loss(logits, plain, weight, label_smoothing=0.1), expected)
    # pixel weights scale the loss and not the divisor, here of a single smoothed pixel
    probabilities, smooth = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.8 + 0.2 / 3, 0.2 / 3, 0.2 / 3])
    pixel = View(torch.zeros(1, 3, 1, 1), torch.zeros(1, 1, 1, dtype=torch.int64), weight=torch.full((1, 1, 1), 0.5))
    loss = labelled_loss(probabilities.log().reshape(1, 3, 1, 1), pixel, label_smoothing=0.2)
    assert loss.item() == pytest.approx(-0.5 * float((smooth * probabilities.log()).sum()))


def test_label_smoothing_needs_labels_of_single_classes() -> None:
    with pytest.raises(ValueError, match='label_smoothing needs average "labelled"'):
        Supervised(average="all", label_smoothing=0.1)
    logits = torch.zeros(1, 3, 1, 1)
    coarse = View(
        torch.zeros(1, 3, 1, 1), torch.full((1, 1, 1), IGNORE), coarse=torch.full((1, 1, 1), 3), groups=((0, 1),)
    )
    with pytest.raises(ValueError, match="these cover several"):
        labelled_loss(logits, coarse, label_smoothing=0.1)
