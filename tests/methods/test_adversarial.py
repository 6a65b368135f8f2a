from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from uda.functional.entropy import self_information
from uda.methods import AdaptSegNet, AdvEnt, MinEnt, Supervised
from uda.testing.methods import MethodContract, one_step, train

BAD = [{"weight": -0.1}, {"aux_weight": -1.0}, {"level": "triple"}]


class AdversarialContract(MethodContract):
    def test_discriminators_follow_the_runs_schedule(self) -> None:
        run = self.train([Supervised(), self.make()], steps=2)
        (group,) = run.update.own_optimizers[run.update.labels[1]].param_groups
        assert group["initial_lr"] == 1e-4
        assert group["lr"] == pytest.approx(1e-4 * 0.5**0.9)
        assert group["betas"] == (0.9, 0.99)


class TestAdaptSegNet(AdversarialContract):
    make = lambda self: AdaptSegNet(width=4)  # noqa: E731
    invalid = (*BAD, {"lr": 0.0}, {"width": 0}, {"objective": "hinge"})

    @pytest.mark.parametrize("objective", ["vanilla", "least-squares"])
    def test_objective_and_domain_labels(self, objective: str) -> None:
        """Source is 0, target 1; the segmenter's term asks for 0 on the target; the halves are halved."""
        one = AdaptSegNet(width=4, objective=objective, weight=0.5)
        run = self.train([one], steps=1)
        step = one_step(run)
        terms, own = one.losses(step), one.own_losses(step)
        scores = {
            name: one.discriminators["main"](step.detached(name).logits.softmax(1)) for name in ("source", "target")
        }

        def loss(score: torch.Tensor, label: float) -> torch.Tensor:
            wanted = torch.full_like(score, label)
            plain = F.binary_cross_entropy_with_logits if objective == "vanilla" else F.mse_loss
            return plain(score, wanted)

        torch.testing.assert_close(terms["adversarial_main"], 0.5 * loss(scores["target"], 0))
        torch.testing.assert_close(own["discriminator_main_source"], 0.5 * loss(scores["source"], 0))
        torch.testing.assert_close(own["discriminator_main_target"], 0.5 * loss(scores["target"], 1))


class TestAdaptSegNetMultiLevel(AdversarialContract):
    make = lambda self: AdaptSegNet(level="multi", objective="least-squares", width=4)  # noqa: E731
    aux = True

    def test_both_levels(self) -> None:
        run = self.train([self.make()], steps=1)
        assert set(self.terms(run, run.methods[0])) == {"adversarial_main", "adversarial_aux"}


class TestAdvEnt(AdversarialContract):
    make = lambda self: AdvEnt(width=4)  # noqa: E731
    invalid = (*BAD, {"lr": -1.0})

    def test_discriminator_looks_at_self_information(self) -> None:
        prob = torch.randn(1, 5, 4, 4).softmax(1)
        assert torch.equal(self.make().look(prob), self_information(prob))
        assert torch.equal(AdaptSegNet().look(prob), prob)


class TestAdvEntMultiLevel(AdversarialContract):
    make = lambda self: AdvEnt(level="multi", width=4)  # noqa: E731
    aux = True


class TestMinEnt(MethodContract):
    make = lambda self: MinEnt()  # noqa: E731
    invalid = BAD

    def test_lowers_the_entropy(self) -> None:
        run = self.train([MinEnt(weight=1.0)], steps=1)
        first = self.terms(run, run.methods[0])["entropy_main"].item()
        longer = self.train([MinEnt(weight=1.0)], steps=30, lr=0.1)
        assert 0 < self.terms(longer, longer.methods[0])["entropy_main"].item() < 0.9 * first

    def test_is_the_papers_entropy_times_its_weight(self) -> None:
        run = self.train([MinEnt(weight=0.5)], steps=1)
        step = one_step(run)
        prob = step.predict("target").logits.softmax(1)
        entropy = -(prob * (prob + 1e-30).log2()).sum(1).mean() / math.log2(prob.shape[1])
        torch.testing.assert_close(run.methods[0].losses(step)["entropy_main"], 0.5 * entropy)


class TestMinEntMultiLevel(MethodContract):
    make = lambda self: MinEnt(level="multi")  # noqa: E731
    aux = True

    def test_each_level_has_its_weight(self) -> None:
        run = self.train([MinEnt(level="multi", weight=0.5, aux_weight=0.25)], steps=1)
        step = one_step(run)
        output, terms = step.predict("target"), run.methods[0].losses(step)
        for name, logits, weight in (("main", output.logits, 0.5), ("aux", output.auxiliary, 0.25)):
            entropy = self_information(logits.softmax(1)).sum(1).mean()
            torch.testing.assert_close(terms[f"entropy_{name}"], weight * entropy)


@pytest.mark.parametrize("kind", [AdaptSegNet, AdvEnt, MinEnt])
def test_multi_level_needs_an_auxiliary_classifier(kind: type) -> None:
    with pytest.raises(ValueError, match=f"{kind.__name__}: level is 'multi'"):
        train([kind(level="multi")], steps=1)
