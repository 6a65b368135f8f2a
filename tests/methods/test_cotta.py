from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor

from uda.methods import CoTTA
from uda.testing.methods import TestTimeContract
from uda.testing.tiny import TinySegmenter


class TestCoTTA(TestTimeContract):
    __test__ = True
    make = lambda self: CoTTA(lr=0.01, decay=0.9, scales=(0.5, 1.0))  # noqa: E731
    invalid = (
        {"lr": 0.0}, {"optimizer": "rmsprop"}, {"decay": 1.5}, {"threshold": -0.1}, {"scales": (0.0, 1.0)},
        {"scales": ()}, {"restore": 2.0}, {"statistics": "target"}, {"seed": -1},
    )  # fmt: skip

    def test_adapts(self) -> None:
        one, model = self.attached()
        before = copy.deepcopy(model.state_dict())
        first, second = (one(self.images(1)).logits for _ in range(2))
        assert not torch.equal(first, second)
        assert any(not torch.equal(value, before[name]) for name, value in model.state_dict().items())
        torch.testing.assert_close(first.exp().sum(1), torch.ones(1, 32, 64))

    def test_two_images_as_the_paper_says(self) -> None:
        """Algorithm 1 written out: always averaging, no restoring; then all of it restored."""
        for restore in (0.0, 1.0):
            _, model = self.attached()
            model.eval()
            one = CoTTA(lr=0.01, optimizer="sgd", decay=0.7, threshold=1.0, scales=(0.5, 1.0), restore=restore,
                        statistics="source")  # fmt: skip
            student, teacher, images = copy.deepcopy(model), copy.deepcopy(model), self.images(2)
            one.attach(model)
            optimizer = torch.optim.SGD(student.parameters(), lr=0.01, momentum=0.9)
            for image in images.split(1):
                got = one(image)
                wanted = averaged(teacher, image)
                torch.testing.assert_close(got.logits.exp(), wanted, rtol=1e-4, atol=1e-5)
                optimizer.zero_grad()
                (-(wanted * student(image).logits.log_softmax(1)).sum(1)).mean().backward()
                optimizer.step()
                with torch.no_grad():
                    for mine, theirs in zip(teacher.parameters(), student.parameters(), strict=True):
                        mine.copy_(0.7 * mine + 0.3 * theirs)
                    if restore:
                        student.load_state_dict(one._source_state)
                for mine, theirs in zip(one.teacher.parameters(), teacher.parameters(), strict=True):
                    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)
                for mine, theirs in zip(model.parameters(), student.parameters(), strict=True):
                    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)

    def test_a_sure_source_network_saves_the_copies(self) -> None:
        for threshold, passes in ((0.0, 1), (1.0, 5)):
            one, _ = self.attached()
            one.threshold = threshold
            one.teacher.passes.clear()
            one(self.images(1))
            assert len(one.teacher.passes) == passes

    def test_the_confidence_is_that_of_the_source_network(self) -> None:
        """However the student has changed since."""
        one, model = self.attached()
        with torch.no_grad():
            model.head.bias.add_(torch.tensor([50.0, 0, 0, 0, 0]))  # a student that is sure of everything
        one.threshold = 0.9
        one.teacher.passes.clear()
        one(self.images(1))
        assert len(one.teacher.passes) == 5

    def test_a_share_of_the_weights_is_restored(self) -> None:
        one, model = self.attached()
        one.restore = 0.25
        one(self.images(1))
        same = [p.detach() == one._source_state[name] for name, p in model.named_parameters()]
        share = torch.cat([part.flatten() for part in same]).float().mean()
        assert 0.15 < share < 0.35

    def test_source_network_and_teacher_see_the_batch_statistics(self) -> None:
        one, model = self.attached()
        before = {name: value.clone() for name, value in model.named_buffers()}
        one(self.images(1))
        assert all(torch.equal(value, before[name]) for name, value in model.named_buffers())
        one.threshold = 0.0
        one.reset()
        plain = copy.deepcopy(model).train()
        plain.dropout.eval()
        wanted = plain(self.images(1)).logits.softmax(1)
        torch.testing.assert_close(one(self.images(1)).logits.exp(), wanted, rtol=1e-4, atol=1e-5)

    def test_detach_lets_go_of_the_teacher(self) -> None:
        one, _ = self.attached()
        one.detach_model()
        assert one.teacher is None


def averaged(teacher: TinySegmenter, image: Tensor) -> Tensor:
    """Mean probability over half size and full size, each also mirrored."""
    prob = []
    with torch.no_grad():
        for size in ((16, 32), (32, 64)):
            resized = F.interpolate(image, size, mode="bilinear")
            prob.append(F.interpolate(teacher(resized).logits, (32, 64), mode="bilinear").softmax(1))
            mirrored = F.interpolate(teacher(resized.flip(-1)).logits, (32, 64), mode="bilinear").flip(-1)
            prob.append(mirrored.softmax(1))
    return torch.stack(prob).mean(0)
