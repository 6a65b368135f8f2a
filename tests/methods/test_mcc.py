from __future__ import annotations

import pytest
import torch

from uda.functional.entropy import class_confusion_loss
from uda.methods import MCC
from uda.testing.methods import MethodContract, one_step


class TestMCC(MethodContract):
    make = lambda self: MCC(pixels=100)  # noqa: E731
    invalid = ({"weight": -1.0}, {"temperature": 0.0}, {"pixels": 0})

    @pytest.mark.parametrize("batch_size", [1, 3])
    def test_is_the_confusion_of_all_pixels_where_they_fit(self, batch_size: int) -> None:
        run = self.train([MCC(weight=0.5, temperature=2.0, pixels=10**6)], steps=1, batch_size=batch_size)
        step = one_step(run)
        samples = step.predict("target").logits.permute(0, 2, 3, 1).reshape(-1, 5)
        expected = 0.5 * class_confusion_loss(samples, temperature=2.0)
        torch.testing.assert_close(run.methods[0].losses(step)["confusion"], expected)

    def test_pixels_are_drawn_anew_from_the_steps_generator(self) -> None:
        run = self.train([self.make()], steps=1)
        step, one = one_step(run), run.methods[0]
        state = step.generator.get_state()
        first, second = one.losses(step)["confusion"], one.losses(step)["confusion"]
        step.generator.set_state(state)
        again = one.losses(step)["confusion"]
        assert torch.equal(first, again)
        assert not torch.equal(first, second)

    def test_gradient_reaches_no_more_than_the_chosen_pixels(self) -> None:
        run = self.train([MCC(pixels=7)], steps=1)
        step = one_step(run)
        logits = step.predict("target").logits
        (grad,) = torch.autograd.grad(run.methods[0].losses(step)["confusion"], logits)
        assert (grad.abs().sum(1) > 0).sum() == 7
