from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from uda.methods import CoTTA, PredictionTimeBN
from uda.testing.methods import TestTimeContract
from uda.testing.tiny import TinySegmenter


class TestCoTTA(TestTimeContract):
    __test__ = True
    make = lambda self: CoTTA(lr=0.01, decay=0.9, scales=(0.5, 1.0))  # noqa: E731
    invalid = (
        {"lr": 0.0}, {"optimizer": "rmsprop"}, {"decay": 1.5}, {"threshold": -0.1}, {"scales": (0.0, 1.0)},
        {"scales": ()}, {"restore": 2.0}, {"statistics": "target"}, {"seed": -1},
        {"labels": "both"},
    )  # fmt: skip

    def test_adapts(self) -> None:
        tested, model = self.attached()
        before = copy.deepcopy(model.state_dict())
        first, second = (tested(self.images(1)).logits for _ in range(2))
        assert not torch.equal(first, second)
        assert any(not torch.equal(value, before[name]) for name, value in model.state_dict().items())
        torch.testing.assert_close(first.exp().sum(1), torch.ones(1, 32, 64))

    @pytest.mark.parametrize("labels", ["hard", "soft"])
    @pytest.mark.parametrize("threshold", [0.69, 1.0])
    def test_three_images_as_the_published_code_does(self, threshold: float, labels: str) -> None:
        """The authors' loop (mmseg/apis/test.py, single_gpu_cotta; encoder_decoder.py, aug_test), line by line."""
        _, model = self.attached()
        with torch.no_grad():
            model.head.weight.mul_(20)  # sure of some pixels, unsure of others
        model.eval()
        anchor_model, student, ema_model = (copy.deepcopy(model) for _ in range(3))
        anchor = copy.deepcopy(model.state_dict())
        tested = CoTTA(lr=0.01, decay=0.7, threshold=threshold, scales=RATIOS, restore=0.3, labels=labels)
        tested.attach(model)
        optimizer = torch.optim.Adam(list(student.parameters()), lr=0.01, betas=(0.9, 0.999))
        generator = torch.Generator().manual_seed(0)
        for image in self.images(3).split(1):
            output = tested(image)
            with torch.no_grad():
                result, _, preds = aug_test(ema_model, image)
                _, probs_, _ = aug_test(anchor_model, image)
            mask = (probs_[VIEW][0] > threshold).long()
            if threshold < 1:
                assert 0 < mask.sum() < mask.numel(), "the gate is one of pixels"
            hard = mask * preds[VIEW][0] + (1 - mask) * result[0].argmax(0)
            assert torch.equal(output.logits.argmax(1)[0], hard)
            logits = student(image).logits
            if labels == "hard":
                loss = F.cross_entropy(logits, hard[None], reduction="none").mean()
            else:
                soft = torch.where(mask.bool(), probabilities(ema_model, image)[0], result[0])
                loss = (-(soft * logits[0].log_softmax(0)).sum(0)).mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            with torch.no_grad():
                for ema_param, param in zip(ema_model.parameters(), student.parameters(), strict=True):
                    ema_param.copy_(0.7 * ema_param + (1 - 0.7) * param)
                for nm, m in student.named_modules():
                    for npp, p in m.named_parameters():
                        if npp in ["weight", "bias"]:
                            drawn = (torch.rand(p.shape, generator=generator) < 0.3).float()
                            p.copy_(anchor[f"{nm}.{npp}"] * drawn + p * (1.0 - drawn))
            for mine, theirs in ((tested.teacher, ema_model), (model, student)):
                for one, other in zip(mine.state_dict().values(), theirs.state_dict().values(), strict=True):
                    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)

    def test_published_defaults(self) -> None:
        tested = CoTTA()
        assert (tested.lr, tested.optimizer, tested.decay, tested.restore) == (0.00006 / 8, "adam", 0.999, 0.01)
        assert (tested.threshold, tested.labels, tested.statistics) == (0.69, "hard", "source")
        assert (len(tested.scales) * 2, tested.flip) == (14, True)

    def test_starts_from_what_its_statistics_are(self) -> None:
        """Its first prediction, of a source network that is sure of everything, is that method's or the model's own."""
        for statistics, method in (("source", None), ("batch", PredictionTimeBN())):
            _, model = self.attached()
            plain = copy.deepcopy(model).eval()
            tested = CoTTA(statistics=statistics, threshold=0.0)
            tested.attach(model)
            assert tested.starts_from == (None if method is None else type(method).__name__)
            if method is not None:
                method.attach(plain)
            expected = (plain if method is None else method)(self.images(2)).logits
            torch.testing.assert_close(tested(self.images(2)).logits.exp(), expected.softmax(1), rtol=1e-4, atol=1e-5)

    def test_as_many_passes_as_views(self) -> None:
        """The plain view counts as one of the copies; where every pixel is sure no copy is made."""
        for threshold, scales, passes in ((0.0, RATIOS, 1), (1.0, RATIOS, 4), (1.0, (0.5, 2.0), 5)):
            tested, _ = self.attached()
            tested.threshold, tested.scales = threshold, scales
            tested.teacher.passes.clear()
            tested(self.images(1))
            assert len(tested.teacher.passes) == passes

    def test_the_confidence_is_that_of_the_source_network(self) -> None:
        """However the student has changed since."""
        tested, model = self.attached()
        with torch.no_grad():
            model.head.bias.add_(torch.tensor([50.0, 0, 0, 0, 0]))  # a student that is sure of everything
        tested.threshold = 0.9
        tested.teacher.passes.clear()
        tested(self.images(1))
        assert len(tested.teacher.passes) == 4

    def test_a_share_of_the_weights_is_restored(self) -> None:
        tested, model = self.attached()

        def at_source(restore: float) -> Tensor:
            tested.reset()
            tested.restore = restore
            tested(self.images(1))
            return torch.cat([(p == tested._source_state[name]).flatten() for name, p in model.named_parameters()])

        moved = ~at_source(0.0)
        assert 0.15 < at_source(0.25)[moved].float().mean() < 0.35
        assert at_source(1.0).all()

    def test_stored_statistics_and_no_dropout_by_default(self) -> None:
        tested, model = self.attached()
        before = {name: value.clone() for name, value in model.named_buffers()}
        tested.threshold = 0.0
        wanted = copy.deepcopy(model).eval()(self.images(2)).logits.softmax(1)
        torch.testing.assert_close(tested(self.images(2)).logits.exp(), wanted, rtol=1e-4, atol=1e-5)
        assert all(torch.equal(value, before[name]) for name, value in model.named_buffers())
        assert not any(training for training, _ in model.passes[-2:])

    def test_source_network_and_teacher_may_see_the_batch_statistics(self) -> None:
        tested, model = self.attached()
        tested.statistics = "batch"
        before = {name: value.clone() for name, value in model.named_buffers()}
        tested(self.images(1))
        assert all(torch.equal(value, before[name]) for name, value in model.named_buffers())
        tested.threshold = 0.0
        tested.reset()
        plain = copy.deepcopy(model).train()
        plain.dropout.eval()
        wanted = plain(self.images(1)).logits.softmax(1)
        torch.testing.assert_close(tested(self.images(1)).logits.exp(), wanted, rtol=1e-4, atol=1e-5)

    def test_detach_lets_go_of_the_teacher(self) -> None:
        tested, _ = self.attached()
        tested.detach_model()
        assert tested.teacher is None


RATIOS = (0.5, 1.0)
VIEW = 2
"""Views are ordered (ratio, mirrored): ratio 1 without a mirror, number 4 among the published fourteen."""


def probabilities(model: TinySegmenter, image: Tensor, ratio: float = 1.0, flip: bool = False) -> Tensor:
    """``inference`` of encoder_decoder.py: resize, mirror, predict, resize, softmax, mirror back."""
    img = F.interpolate(image, (int(32 * ratio), int(64 * ratio)), mode="bilinear", align_corners=False)
    seg_logit = model(img.flip(dims=(3,)) if flip else img).logits
    output = F.softmax(F.interpolate(seg_logit, (32, 64), mode="bilinear", align_corners=False), dim=1)
    return output.flip(dims=(3,)) if flip else output


def aug_test(model: TinySegmenter, image: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """The mean probabilities, and each view's confidences and classes."""
    views = [probabilities(model, image, ratio, flip) for ratio in RATIOS for flip in (False, True)]
    return sum(views) / len(views), [view.amax(1) for view in views], [view.argmax(1) for view in views]
