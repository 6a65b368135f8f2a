from __future__ import annotations

import pytest
import torch
from torch import nn

from uda.engine import Trainer
from uda.functional.losses import hrda_losses, weighted_cross_entropy
from uda.methods import HRDA, MIC, ClassMix, Supervised
from uda.models import HrdaSegmenter, Segmenter
from uda.testing.methods import MethodContract, Recorder, one_step, settings, train
from uda.testing.tiny import TinyDataset, TinySegmenter, tiny_target
from uda.types import SegOutput, View


class TestHRDA(MethodContract):
    make = lambda self: HRDA()  # noqa: E731
    invalid = ({"weight": -1.0}, {"view": "target"})

    def test_detail_is_compared_with_its_part_of_labels_and_weights(self) -> None:
        one = HRDA(weight=0.3)
        run = self.train([one], steps=1)
        labels = torch.randint(0, 5, (2, 32, 64))
        weight = torch.rand(2, 32, 64)
        view = View(torch.rand(2, 3, 32, 64), labels, weight)
        step = one_step(run, {"source": view})
        with step.running("test", "losses", one.reads, one.looks):
            (loss,) = one.losses(step).values()
            output = step.predict("source")
        top, bottom, left, right = output.get("detail_box").tolist()
        part = (slice(None), slice(top, bottom), slice(left, right))
        torch.testing.assert_close(loss, 0.3 * weighted_cross_entropy(output.get("detail"), labels[part], weight[part]))
        labels[:, bottom:] = 0
        with step.running("test", "losses", one.reads, one.looks):
            assert one.losses(step)["detail_source"] == loss


def test_with_the_rest_of_the_weight_it_is_the_published_loss() -> None:
    run = train([Supervised(weight=0.9), HRDA()], steps=1)
    labels = torch.randint(0, 5, (2, 32, 64))  # all labelled, where both divisors agree
    step = one_step(run, {"source": View(torch.rand(2, 3, 32, 64), labels)})
    terms = [*run.methods[0].losses(step).values(), *run.methods[1].losses(step).values()]
    output = step.predict("source")
    box = tuple(output.get("detail_box").tolist())
    published = hrda_losses(output.logits, None, output.get("detail"), labels, None, box)
    torch.testing.assert_close(terms, [published.fused, published.high])


def test_each_view_in_its_own_backward_pass() -> None:
    methods = [Supervised(weight=0.9), ClassMix(weight=0.9), MIC(block=8, weight=0.9, threshold=0.2)]
    details = [HRDA(view=view) for view in ("source", "mixed", "masked")]
    run = train([*methods, *details], trainer=Recorder, teacher={"update": "before"})
    assert [[run.update.labels[at] for at in group] for group in run.update.groups] == [
        ["Supervised", "HRDA"], ["ClassMix", "HRDA2"], ["MIC", "HRDA3"],
    ]  # fmt: skip
    for label, view in (("HRDA", "source"), ("HRDA2", "mixed"), ("HRDA3", "masked")):
        assert run.logs[-1][f"loss/{label}/detail_{view}"] > 0
    assert not HRDA().needs_target
    assert HRDA(view="mixed").needs_target


def test_trains_the_real_network() -> None:
    """Context, detail and attention all learn."""
    torch.manual_seed(0)
    network = HrdaSegmenter(Segmenter(5, "resnet18", "FPN", weights=None), embed_channels=8)
    before = {name: value.clone() for name, value in network.named_parameters()}
    run = Trainer(network, [Supervised(weight=0.9), HRDA()], settings(steps=1, crop=(64, 128)))
    run.fit(TinyDataset(), tiny_target())
    for part in ("base.model.encoder", "base.model.segmentation_head", "attention"):
        assert any(not torch.equal(p, before[n]) for n, p in network.named_parameters() if n.startswith(part)), part


def test_a_network_without_detail_is_refused() -> None:
    class Plain(TinySegmenter):
        def forward(self, images: torch.Tensor) -> SegOutput:
            return super().forward(images)._replace(extra=None)

    network: nn.Module = Plain()
    with pytest.raises(ValueError, match="model 'hrda'"):
        Trainer(network, [HRDA()], settings(steps=1)).fit(TinyDataset())


def test_a_view_that_no_method_makes_is_named() -> None:
    with pytest.raises(KeyError, match="no view 'mixed'"):
        train([Supervised(), HRDA(view="mixed")])
