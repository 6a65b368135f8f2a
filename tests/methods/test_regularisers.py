from __future__ import annotations

import pytest
import torch

from uda.data import Pairs, RareClasses, TrainTransform
from uda.methods import L1, L2SP, RareClassSampling, Supervised
from uda.testing import MethodContract, Recorder, TinyDataset, TinySegmenter, tiny_target, train
from uda.types import TaskSpec


class TestL1(MethodContract):
    make = lambda self: L1()  # noqa: E731
    invalid = ({"weight": -1.0},)


class TestL2SP(MethodContract):
    make = lambda self: L2SP(part="all")  # noqa: E731
    invalid = ({"weight": -1.0}, {"new_weight": -0.1}, {"part": "head"})

    def test_starts_at_zero_and_its_start_is_part_of_the_state(self) -> None:
        run = self.train([Supervised(), self.make()], trainer=Recorder)
        values = [logs["loss/L2SP/distance"] for logs in run.logs]
        assert values[0] == 0 < values[1] < values[2]
        start = run.methods[1].state_dict()
        torch.manual_seed(0)
        expected = [p for p in TinySegmenter(5).parameters() if p.ndim > 1]
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(start.values(), expected, strict=True))

    def test_needs_an_encoder_unless_all_is_old(self) -> None:
        with pytest.raises(ValueError, match="part is 'encoder', must be 'all' for TinySegmenter"):
            train([L2SP()], steps=1)


class TestRareClassSampling(MethodContract):
    make = lambda self: RareClassSampling(temperature=0.1)  # noqa: E731
    trains_segmenter = False
    invalid = ({"temperature": 0.0}, {"min_share": 1.0}, {"crop_share": -0.1}, {"tries": 0})

    def test_nothing_labelled_is_no_nan(self) -> None:
        """There is no class to draw by: said, not drawn at random."""
        with pytest.raises(ValueError, match="no labelled pixel to draw rare classes from"):
            self.train([Supervised(), self.make()], source=TinyDataset(ignored=1.0))

    def test_draws_the_source_as_pairs_does(self) -> None:
        run = self.train([Supervised(), RareClassSampling(min_share=0.1, tries=3)])
        mine = run.pairs(TinyDataset(), tiny_target().unlabelled())[1]["source"].names
        plain = Pairs(
            TinyDataset(), None, TrainTransform(crop=(32, 64)), batch_size=2, seed=3,
            rare_class=RareClasses(min_share=0.1, tries=3),
        )  # fmt: skip
        assert mine == plain[1]["source"].names
        assert (
            Pairs(TinyDataset(), None, TrainTransform(crop=(32, 64)), batch_size=2, seed=3)[1]["source"].names != mine
        )

    def test_is_refused_where_nobody_asks_it(self) -> None:
        spec = TaskSpec.of(TinySegmenter(), TinyDataset().space)
        with pytest.raises(ValueError, match=r"acts where source images are drawn: give Pairs\(rare_class="):
            RareClassSampling().setup(spec)
