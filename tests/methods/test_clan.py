from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from uda.functional.adversarial import clan_weight_map, weighted_bce_loss
from uda.methods import CLAN
from uda.testing.methods import MethodContract, one_step, train


class TestCLAN(MethodContract):
    make = lambda self: CLAN(width=4)  # noqa: E731
    aux = True
    invalid = (
        {"weight": -1.0}, {"local_weight": -2.0}, {"epsilon": -0.4}, {"warmup": 1.5}, {"lr": 0.0}, {"width": 0},
    )  # fmt: skip

    @pytest.mark.parametrize("batch_size", [1, 3])
    def test_terms_are_the_weighted_losses(self, batch_size: int) -> None:
        one = CLAN(width=4, weight=0.5, local_weight=10.0, epsilon=0.3, damping=False)
        run = self.train([one], steps=2, batch_size=batch_size)
        step = one_step(run)
        adversarial = one.losses(step)["adversarial"]
        own = one.own_losses(step)
        source, target = step.detached("source"), step.detached("target")
        scores = {name: one.discriminator((x.logits + x.aux).softmax(1)) for name, x in [("s", source), ("t", target)]}
        weights = clan_weight_map(target.logits, target.aux)
        loss = {label: weighted_bce_loss(scores["t"], label, weights, epsilon=0.3, weight=10.0) for label in (0, 1)}
        torch.testing.assert_close(adversarial, 0.5 * loss[0])
        torch.testing.assert_close(own["discriminator_target"], loss[1])
        # the source's loss is plain: on the upsampled score map
        score = F.interpolate(scores["s"], (32, 64), mode="bilinear")
        plain = F.binary_cross_entropy_with_logits(score, torch.zeros_like(score))
        torch.testing.assert_close(own["discriminator_source"], plain)

    def test_plain_loss_before_the_end_of_the_warmup(self) -> None:
        one = CLAN(width=4, weight=1.0, warmup=0.5, damping=False)
        run = self.train([one], steps=1)
        step = one_step(run, index=4, total=10)
        score = one.discriminator((step.predict("target").logits + step.predict("target").aux).softmax(1))
        score = F.interpolate(score, (32, 64), mode="bilinear")
        plain = F.binary_cross_entropy_with_logits(score, torch.zeros_like(score))
        torch.testing.assert_close(one.losses(step)["adversarial"], plain)
        step.index = 5
        assert not torch.isclose(one.losses(step)["adversarial"], plain)

    def test_damping_fades_the_segmenters_term_only(self) -> None:
        one = CLAN(width=4, warmup=0.0)
        run = self.train([one], steps=1)
        step, values = one_step(run, total=4), []
        for step.index in (0, 1, 3):
            values.append([one.losses(step)["adversarial"].item(), one.own_losses(step)["discriminator_target"].item()])
        assert values[1] == pytest.approx([0.75 * values[0][0], values[0][1]])
        assert values[2] == pytest.approx([0.25 * values[0][0], values[0][1]])

    def test_the_weight_map_carries_gradient_to_both_classifiers(self) -> None:
        run = self.train([self.make()], steps=1)
        step = one_step(run)
        term = self.terms(run, run.methods[0], step)["adversarial"]
        output = step.predict("target")
        for grad in torch.autograd.grad(term, [output.logits, output.aux]):
            assert grad.abs().sum() > 0


def test_needs_two_classifiers() -> None:
    with pytest.raises(ValueError, match="CLAN needs two classifiers"):
        train([CLAN()], steps=1)
