from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from uda.functional.fusion import warp
from uda.methods import SAC, Supervised
from uda.methods.sac import draw_windows
from uda.testing.methods import MethodContract, Recorder, one_step
from uda.types import IGNORE


class TestSAC(MethodContract):
    make = lambda self: SAC(crops=2)  # noqa: E731
    invalid = (
        {"weight": -1.0}, {"crops": 0}, {"scale": 0.0}, {"upper": 1.5}, {"lower": -0.2}, {"beta": 0.0},
        {"momentum": 2.0}, {"power": -1.0},
    )  # fmt: skip

    @pytest.mark.parametrize("batch_size", [1, 3])
    def test_the_student_learns_the_crops_of_each_image(self, batch_size: int) -> None:
        run = self.train([Supervised(), SAC(crops=3)], batch_size=batch_size, trainer=Recorder)
        step = run.steps[-1]
        target, clean, strong = (step.view(name) for name in ("target", "crops", "crops_strong"))
        assert strong.images.shape == (3 * batch_size, 3, 32, 64)
        assert strong.names == clean.names == tuple(name for name in target.names for _ in range(3))
        torch.testing.assert_close(clean.images[::3], target.images, atol=1e-5, rtol=0)
        assert not torch.allclose(strong.images, clean.images)

    def test_loss_is_focal_and_weighted_by_each_images_confidence(self) -> None:
        one = SAC(weight=2.0, crops=2, power=2.0)
        run = self.train([one], steps=1)
        step = one_step(run)
        one.prepare(step)
        view = step.view("crops_strong")
        assert (view.labels != IGNORE).any()
        loss = F.cross_entropy(step.predict("crops_strong").logits, view.labels, ignore_index=IGNORE, reduction="none")
        factor = (1 - one.prior[torch.where(view.labels == IGNORE, 0, view.labels)]) ** 2
        torch.testing.assert_close(one.losses(step)["consistency"], 2 * (loss * factor * view.weight).mean())

    def test_one_whole_crop_is_the_teachers_own_label(self) -> None:
        one = SAC(crops=1, upper=0.0, lower=0.0)
        run = self.train([one], steps=1)
        step = one_step(run)
        one.prepare(step)
        confidence, labels = step.teach("target").logits.softmax(1).max(1)
        view = step.view("crops_strong")
        torch.testing.assert_close(view.weight, confidence, atol=1e-4, rtol=0)
        assert (view.labels == labels).float().mean() > 0.999

    def test_prior_follows_the_teachers_mean_prediction(self) -> None:
        one = SAC(crops=2, momentum=0.9)
        run = self.train([one], steps=2)
        step = one_step(run)
        before = one.prior.clone()
        one.prepare(step)
        mean = step.teach("crops").logits.softmax(1).mean((0, 2, 3))
        torch.testing.assert_close(one.prior, 0.9 * before + 0.1 * mean)
        assert abs(one.prior.sum().item() - 1) < 1e-4


def test_windows_lie_inside_the_image_and_are_undone() -> None:
    window, back = draw_windows(12, 3, 0.4, torch.Generator().manual_seed(0))
    corners = torch.tensor([[-1.0, -1, 1], [1, 1, 1]]).T
    assert ((window @ corners).abs() <= 1 + 1e-6).all()
    whole = torch.tensor([0.0, 0, 1]).expand(12, 1, 3)
    both = torch.cat([window, whole], 1) @ torch.cat([back, whole], 1)
    torch.testing.assert_close(both, torch.eye(3).expand(12, 3, 3))
    assert torch.equal(window[::3], torch.eye(3)[:2].expand(4, 2, 3))
    assert 0 < (window[:, 0, 0] < 0).sum() < 8
    smooth = torch.linspace(0, 1, 64).expand(12, 1, 32, 64)
    there_and_back = warp(warp(smooth, window), back)
    inside = warp(warp(torch.ones_like(smooth), window), back) > 0.999
    assert inside.float().mean() > 0.2
    torch.testing.assert_close(there_and_back[inside], smooth[inside], atol=0.03, rtol=0)
