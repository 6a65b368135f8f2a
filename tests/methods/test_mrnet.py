from __future__ import annotations

import pytest
import torch

from uda.functional.entropy import kl_divergence_map
from uda.functional.losses import uncertainty_rectified_loss
from uda.methods import MRNet, Supervised
from uda.testing.methods import MethodContract, Recorder, one_step, train


class TestMRNet(MethodContract):
    make = lambda self: MRNet()  # noqa: E731
    aux = True
    invalid = ({"weight": -1.0}, {"aux_weight": -0.1}, {"memory_weight": -2.0}, {"start": 1.5})

    @pytest.mark.parametrize("batch_size", [1, 3])
    def test_terms_are_the_rectified_losses_of_the_teachers_labels(self, batch_size: int) -> None:
        run = self.train([MRNet(weight=2.0, aux_weight=0.25)], steps=2, batch_size=batch_size)
        step = one_step(run)
        terms = run.methods[0].losses(step)
        output, taught = step.predict("target"), step.teach("target")
        labels = (taught.logits.softmax(1) + 0.5 * taught.aux.softmax(1)).argmax(1)
        main = uncertainty_rectified_loss(output.logits, output.aux, labels)
        other = uncertainty_rectified_loss(output.aux, output.logits, labels)
        torch.testing.assert_close(terms, {"rectified": 2 * main, "rectified_auxiliary": 0.25 * other})

    def test_memory_regularisation_before_start(self) -> None:
        run = self.train([Supervised(), MRNet(start=0.5, memory_weight=0.3)], steps=4, trainer=Recorder)
        tags = [sorted(tag for tag in logs if tag.startswith("loss/MRNet")) for logs in run.logs]
        late = ["loss/MRNet/rectified", "loss/MRNet/rectified_auxiliary"]
        assert tags == [["loss/MRNet/memory"]] * 2 + [late] * 2
        step = one_step(run)
        step.index = 0
        output = step.predict("target")
        both = kl_divergence_map(output.logits, output.aux) + kl_divergence_map(output.aux, output.logits)
        torch.testing.assert_close(run.methods[1].losses(step), {"memory": 0.3 * both.mean()})

    def test_a_pixel_on_which_the_classifiers_disagree_counts_less(self) -> None:
        logits = torch.tensor([3.0, 0.0]).view(1, 2, 1, 1)
        labels = torch.ones(1, 1, 1, dtype=torch.int64)

        def pull(other: torch.Tensor) -> float:
            mine = logits.clone().requires_grad_()
            v = kl_divergence_map(mine, other).detach().mean()
            loss = uncertainty_rectified_loss(mine, other, labels)
            return ((loss - v) / torch.nn.functional.cross_entropy(mine, labels)).item()

        assert pull(logits) == pytest.approx(1.0)
        assert pull(-logits) < 0.1


def test_needs_two_classifiers() -> None:
    with pytest.raises(ValueError, match="MRNet needs two classifiers"):
        train([MRNet()], steps=1)
