"""Controls: what passes through the network, and that nothing is learnt from it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from uda.functional.augment import strong_augment_each
from uda.methods import MIC, ClassMix, PassOnly, StrongSource, Supervised
from uda.testing import MethodContract, Recorder, assert_same
from uda.testing.methods import train


class TestPassOnly(MethodContract):
    make = lambda self: PassOnly()  # noqa: E731
    trains_segmenter = False
    invalid = ({"views": "target"},)


class TestPassOnlyOfClassMix(MethodContract):
    make = lambda self: PassOnly(views=(), of={"ClassMix": {}})  # noqa: E731
    trains_segmenter = False


class TestStrongSource(MethodContract):
    make = lambda self: StrongSource()  # noqa: E731
    trains_segmenter = False
    invalid = ({"jitter": 0.6}, {"jitter_probability": 1.5}, {"blur_probability": -0.1})

    def test_changes_colours_and_keeps_labels(self) -> None:
        plain = train([Supervised()], trainer=Recorder, steps=1)
        strong = train([StrongSource(), Supervised()], trainer=Recorder, steps=1)
        before, after = (run.steps[0].view("source") for run in (plain, strong))
        assert torch.equal(before.labels, after.labels)
        assert not torch.equal(before.images, after.images)
        generator = torch.Generator().manual_seed(3)
        torch.testing.assert_close(after.images, strong_augment_each(before.images, generator, strength=0.25))


def weights(run: Any) -> dict[str, Tensor]:
    return dict(run.model.named_parameters())


@pytest.mark.parametrize(("tested", "views"), [(ClassMix, {"mixed"}), (MIC, {"masked"})])
def test_passes_what_a_method_adds_and_learns_nothing_of_it(tested: type, views: set[str]) -> None:
    """Weights of source-only; the statistics of a run with the method at weight 0, which passes the same images."""
    name = tested.__name__
    control = train([Supervised(), PassOnly(views=(), of={name: {}})], trainer=Recorder, dropout=0.0)
    source_only = train([Supervised()], trainer=Recorder, dropout=0.0)
    assert_same(weights(control), weights(source_only))
    at_zero = train([Supervised(), tested(weight=0.0)], trainer=Recorder, dropout=0.0)
    looked = control.methods[1].looks
    assert {view.split("/")[-1] for view in looked} == views
    for view in looked:
        assert torch.equal(control.steps[0].view(view).images, at_zero.steps[0].view(view).images)
    assert_same(dict(control.model.state_dict()), dict(at_zero.model.state_dict()))


def test_refuses_what_cannot_pass_in_training() -> None:
    with pytest.raises(ValueError, match="'AdaBN', which acts at test time"):
        PassOnly(of="AdaBN")
    with pytest.raises(ValueError, match="nothing would pass"):
        PassOnly(views=(), of="MinEnt")
    with pytest.raises(ValueError, match="ClassMix"):
        PassOnly(of="ClasMix")
