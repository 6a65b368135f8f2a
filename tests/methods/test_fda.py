from __future__ import annotations

import math

import pytest
import torch

from uda.functional.fourier import fda_source_to_target
from uda.methods import FDA, Supervised
from uda.methods.support.restyle import pairing
from uda.testing.methods import MethodContract, one_step, train


class TestFDA(MethodContract):
    make = lambda self: FDA(beta=0.05)  # noqa: E731
    trains_segmenter = False
    invalid = ({"beta": 0.7}, {"beta": -0.1}, {"band": "round"}, {"entropy_weight": -1.0}, {"eta": 0.0})

    def test_source_is_restyled_with_a_target_of_the_step(self) -> None:
        one = self.make()
        step = one_step(self.train([one], steps=1))
        before, target = step.view("source"), step.view("target").images
        one.prepare(step)
        after = step.view("source")
        assert after.labels is before.labels
        assert step.original("source").images is before.images
        for source, restyled in zip(before.images, after.images, strict=True):
            candidates = [fda_source_to_target(source[None], style[None], 0.05)[0] for style in target]
            assert any(torch.allclose(restyled, candidate, atol=1e-6) for candidate in candidates)

    def test_clip(self) -> None:
        one = FDA(beta=0.4, clip=True)
        step = one_step(self.train([one], steps=1))
        one.prepare(step)
        images = step.view("source").images
        assert images.min() >= 0
        assert images.max() <= 1


class TestFDAWithEntropy(MethodContract):
    make = lambda self: FDA(entropy_weight=0.005)  # noqa: E731

    def test_the_penalty_is_the_papers_times_its_weight(self) -> None:
        run = self.train([FDA(entropy_weight=0.005, eta=2.0)], steps=1)
        step = one_step(run)
        prob = step.predict("target").logits.softmax(1)
        entropy = -(prob * prob.log()).sum(1) / math.log(prob.shape[1])
        penalty = (entropy.square() + 1e-8).square().mean()
        torch.testing.assert_close(run.methods[0].losses(step)["entropy"], 0.005 * penalty, rtol=1e-4, atol=1e-7)

    def test_reads_the_target_only_for_the_entropy(self) -> None:
        assert self.make().reads == {"target"}
        assert FDA().reads == frozenset()


@pytest.mark.parametrize(("sources", "targets"), [(4, 4), (2, 5), (5, 2)])
def test_pairing_uses_targets_equally(sources: int, targets: int) -> None:
    index = pairing(sources, targets, torch.Generator().manual_seed(0))
    counts = torch.bincount(index, minlength=targets)
    assert len(index) == sources
    assert counts.max() - counts.min() <= 1


def test_pairing_differs_from_step_to_step() -> None:
    run = train([Supervised(), FDA()], batch_size=6, steps=1)
    draws = {tuple(pairing(6, 6, run.update.generator).tolist()) for _ in range(10)}
    assert len(draws) > 5
