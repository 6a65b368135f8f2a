from __future__ import annotations

from types import MappingProxyType

import pytest
import torch
from torch.nn import functional as F

from uda.functional.losses import kld_regulariser, symmetric_cross_entropy
from uda.functional.prototypes import class_mean, prototype_consistency, prototype_update, prototype_weight, rectify
from uda.methods import ProDA, Supervised
from uda.methods.support.prototype_bank import UNKNOWN, PrototypeBank
from uda.testing.methods import MethodContract, Recorder, one_step
from uda.types import IGNORE, SegOutput


class TestProDA(MethodContract):
    make = lambda self: ProDA()  # noqa: E731
    invalid = (
        {"weight": -1.0}, {"alpha": -0.1}, {"beta": -1.0}, {"soft_labels": "none"}, {"threshold": 1.5},
        {"temperature": 0.0}, {"consistency": -1.0}, {"regulariser": -0.1}, {"momentum": 2.0}, {"start": -0.5},
        {"images": 0},
    )  # fmt: skip

    @pytest.mark.parametrize("batch_size", [1, 3])
    def test_terms_follow_the_paper(self, batch_size: int) -> None:
        one = ProDA(weight=2.0, alpha=0.3, beta=0.7, temperature=1.5, consistency=4.0, regulariser=0.2, threshold=0.21)
        run = self.train([one], steps=2, batch_size=batch_size)
        step = one_step(run)
        one.prepare(step)
        terms = one.losses(step)
        taught, logits = step.teach("target"), step.predict("target").logits

        def distance(features: torch.Tensor) -> torch.Tensor:
            difference = features[:, None] - one.bank.prototypes[None, :, :, None, None]
            return torch.where((one.bank.counts == 0)[:, None, None], UNKNOWN, difference.norm(dim=2))

        weight = prototype_weight(distance(taught.features), temperature=1.5)
        soft = one.frozen(step.view("target").images).logits.softmax(1)
        labels, _ = rectify(F.interpolate(weight, soft.shape[-2:], mode="bilinear"), soft, threshold=0.21)
        assert (labels != IGNORE).any()
        strong = distance(step.predict("target_strong").features)
        expected = {
            "pseudo_label": 2 * symmetric_cross_entropy(logits, labels, alpha=0.3, beta=0.7),
            "regulariser": 0.2 * kld_regulariser(logits),
            "consistency": 4 * prototype_consistency(strong, distance(taught.features), temperature=1.5, padding=None),
        }
        torch.testing.assert_close(terms, expected)

    def test_prototypes_start_as_running_means_and_move_with_the_teacher(self) -> None:
        one = ProDA(momentum=0.3)
        run = self.train([Supervised(), one], steps=3)
        step = one_step(run)
        step.index = 0
        one.bank.prototypes.zero_()
        one.bank.counts.zero_()
        order = step.generator.get_state()
        one.prepare(step)
        step.generator.set_state(order)
        prototypes, counts = torch.zeros(5, 8), torch.zeros(5)
        for index in torch.randperm(6, generator=step.generator).tolist():
            output = step.infer(one._target[index].image[None] / 255)
            vectors, ids = class_mean(output.features, F.interpolate(output.logits, (8, 16), mode="bilinear"))
            prototypes, counts = prototype_update(prototypes, counts, vectors, ids, momentum=None)
        assert counts.sum() > 0
        torch.testing.assert_close(one.bank.prototypes, prototypes)
        assert torch.equal(one.bank.counts, counts)
        one.after_step(step)
        taught = step.teach("target")
        vectors, ids = class_mean(taught.features, F.interpolate(taught.logits, (8, 16), mode="bilinear"))
        moved, _ = prototype_update(prototypes, counts, vectors, ids, momentum=0.3, mean_first=1)
        torch.testing.assert_close(one.bank.prototypes, moved)
        assert not torch.equal(moved, prototypes)

    def test_the_frozen_network_is_the_student_at_start_and_stays(self) -> None:
        class Keeper(Recorder):
            def record(self, update, logs):
                super().record(update, logs)
                if update.index == 2:
                    self.at_start = {key: value.clone() for key, value in self.model.state_dict().items()}

        run = self.train([Supervised(), ProDA(start=0.5)], steps=4, trainer=Keeper)
        frozen = run.methods[1].frozen.state_dict()
        assert all(torch.equal(value, run.at_start[key]) for key, value in frozen.items())
        assert any(not torch.equal(value, run.model.state_dict()[key]) for key, value in frozen.items())
        assert ["loss/ProDA/pseudo_label" in logs for logs in run.logs] == [False, False, True, True]

    def test_each_ingredient_can_be_switched_off(self) -> None:
        plain = ProDA(rectification=False, soft_labels="teacher", alpha=1.0, beta=0.0, consistency=0.0, regulariser=0.0)
        assert plain.reads == {"target"}
        run = self.train([Supervised(), plain], trainer=Recorder)
        assert plain.frozen is None
        assert {tag for tag in run.logs[-1] if tag.startswith("loss/ProDA")} == {"loss/ProDA/pseudo_label"}
        assert "target_strong" not in run.steps[-1].view_names
        step = one_step(run)
        labels = step.teach("target").logits.argmax(1)
        expected = F.cross_entropy(step.predict("target").logits, labels)
        torch.testing.assert_close(plain.losses(step)["pseudo_label"], expected)

    def test_prototypes_correct_a_wrong_label(self) -> None:
        """A soft label that is in doubt goes to the class whose prototype is near."""
        one = ProDA(soft_labels="teacher")
        self.train([one], steps=1, num_classes=2)
        one.bank.prototypes.copy_(torch.eye(2, 8) * 5)
        one.bank.counts.fill_(1)
        features = (torch.eye(8)[1] * 5).view(1, 8, 1, 1)
        logits = torch.tensor([0.3, 0.0]).view(1, 2, 1, 1).expand(1, 2, 4, 4)
        taught = SegOutput(logits, features)
        assert (logits.argmax(1) == 0).all()
        labels = one._labels(None, taught, one.bank.distance(features))
        assert (labels == 1).all()


class TestProDATeacherLabels(MethodContract):
    make = lambda self: ProDA(soft_labels="teacher", start=0.5)  # noqa: E731
    settings = MappingProxyType({"steps": 2})

    def test_smoke_step_has_finite_scalar_losses(self) -> None:
        run = self.train([Supervised(), self.make()], trainer=Recorder)
        assert [any("ProDA" in tag for tag in logs) for logs in run.logs] == [False, True]

    def test_gradients_reach_their_owners_only(self) -> None:
        run = self.train([self.make()], steps=2)
        assert set(self.terms(run, run.methods[0])) == {"pseudo_label", "regulariser", "consistency"}


class TestPrototypeBank:
    def test_a_class_never_seen_has_no_weight_and_takes_its_first_vector(self) -> None:
        bank = PrototypeBank(3, 2)
        features = torch.tensor([1.0, 2.0]).view(1, 2, 1, 1).expand(1, 2, 4, 4)
        logits = torch.tensor([0.0, 9.0, 0.0]).view(1, 3, 1, 1).expand(1, 3, 8, 8)
        assert torch.equal(prototype_weight(bank.distance(features)), torch.full((1, 3, 4, 4), 1 / 3))
        bank.feed(SegOutput(logits, features), 1e-4)
        assert bank.prototypes.tolist() == [[0, 0], [1, 2], [0, 0]]
        assert bank.counts.tolist() == [0, 1, 0]
        weight = prototype_weight(bank.distance(features + 100), temperature=3.0)
        assert torch.equal(weight, torch.tensor([0.0, 1.0, 0.0]).view(1, 3, 1, 1).expand(1, 3, 4, 4))

    def test_few_pixels_teach_nothing(self) -> None:
        bank = PrototypeBank(2, 2)
        bank.feed(SegOutput(torch.zeros(1, 2, 6, 6), torch.ones(1, 2, 3, 3)), None)
        assert bank.counts.sum() == 0

    def test_survives_autocast(self) -> None:
        output = SegOutput(torch.randn(1, 2, 8, 8).bfloat16(), torch.randn(1, 4, 8, 8).bfloat16())
        bank, plain = PrototypeBank(2, 4), PrototypeBank(2, 4)
        with torch.autocast("cpu", torch.bfloat16):
            bank.feed(output, None)
        plain.feed(output, None)
        assert torch.equal(bank.prototypes, plain.prototypes)
        assert bank.prototypes.dtype == torch.float32
