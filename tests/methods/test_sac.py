from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from uda.functional.fusion import draw_windows, warp
from uda.methods import SAC, Supervised
from uda.methods.sac import photometric_noise
from uda.testing import TinySegmenter
from uda.testing.methods import MethodContract, Recorder, one_step
from uda.types import IGNORE


class TestSAC(MethodContract):
    make = lambda self: SAC(crops=2)  # noqa: E731
    invalid = (
        {"weight": -1.0}, {"crops": 0}, {"scale": 0.0}, {"upper": 1.5}, {"lower": -0.2}, {"beta": 0.0},
        {"momentum": 2.0}, {"power": -1.0}, {"jitter": 1.5}, {"grey": -0.1},
    )  # fmt: skip

    @pytest.mark.parametrize("batch_size", [1, 3])
    def test_the_student_learns_the_crops_of_each_image(self, batch_size: int) -> None:
        run = self.train([Supervised(), SAC(crops=3)], batch_size=batch_size, trainer=Recorder)
        step = run.steps[-1]
        target, clean, strong = (step.view(name) for name in ("target", "crops", "crops_strong"))
        assert strong.images.shape == (3 * batch_size, 3, 32, 64)
        assert strong.names == clean.names == tuple(name for name in target.names for _ in range(3))
        for first, whole in zip(clean.images[::3], target.images, strict=True):
            distances = [(first - side).abs().max().item() for side in (whole, whole.flip(-1))]
            assert min(distances) < 1e-5, "the first crop shows the whole image, which may be mirrored"
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
        confidence, labels = step.teach("crops").logits.softmax(1).max(1)
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


def test_published_defaults() -> None:
    """configs/deeplabv2_resnet101_train.yaml and core/config.py of visinf/da-sac."""
    one = SAC()
    assert (one.weight, one.crops, one.scale, one.jitter, one.grey) == (5.0, 4, 0.5, 0.4, 0.2)
    assert (one.upper, one.lower, one.beta, one.momentum, one.power) == (0.75, 0.2, 1e-3, 0.99, 3.0)
    told = "decay 0.99, updated before every 100 steps, in eval mode, without ramp, averaged buffers"
    assert str(one.teacher) == told


def test_a_short_run_keeps_its_first_network_as_the_teacher() -> None:
    """``i % 100 == 0`` of train.py: update 0 copies, and there is no other in five steps."""
    run = TestSAC().train([Supervised(), SAC(crops=2)], steps=5, lr=0.1)
    torch.manual_seed(0)
    first = TinySegmenter(5).state_dict()
    taught = run.update.teacher.model.state_dict()
    assert all(torch.equal(value, first[name]) for name, value in taught.items())
    assert not torch.equal(run.model.head.weight, first["head.weight"])
    moved = TestSAC().train([Supervised(), SAC(crops=2, teacher={"every": 2})], steps=5, lr=0.1)
    assert not torch.equal(moved.update.teacher.model.stem[1].running_mean, first["stem.1.running_mean"])


def test_the_published_training_step_written_out() -> None:
    """models/sac.py of visinf/da-sac, line by line, but for the confidence's channel axis."""
    one = SAC(crops=3, upper=0.9, lower=0.1, power=2.0, beta=0.3)
    run = TestSAC().train([Supervised(), one], steps=2)
    with torch.no_grad():
        run.update.teacher.model.head.weight.mul_(20)  # sure of some pixels, unsure of others
    step, running_conf = one_step(run), one.prior.clone()
    state = step.generator.get_state()
    one.prepare(step)
    loss = one.losses(step)["consistency"]

    step.generator.set_state(state)
    affine_inv, affine = draw_windows(6, 3, 0.5, step.generator)
    with torch.no_grad():
        pred_probs = F.softmax(step.teach("crops").logits, 1)
    probs_avg = pred_probs.mean(0).view(5, -1).mean(-1)
    new_index = (probs_avg > 1e-8) & (running_conf == 0.3)
    running_conf[new_index] = probs_avg[new_index]
    running_conf *= 0.99
    running_conf += (1 - 0.99) * probs_avg
    grid = F.affine_grid(affine, size=pred_probs.size(), align_corners=False)
    aligned = F.grid_sample(pred_probs, grid, align_corners=False)
    grid_inv = F.affine_grid(affine_inv, size=pred_probs.size(), align_corners=False)
    aligned = aligned * F.grid_sample(torch.ones_like(aligned), grid_inv, align_corners=False)
    pooled = aligned.view(-1, 3, 5, 32, 64).sum(1, keepdim=True)
    total = pooled.sum(2, keepdim=True)
    mask = (total > 0.1).float().expand(-1, 3, -1, -1, -1).flatten(0, 1)
    pooled = (pooled / total.clamp(1e-3)).expand(-1, 3, -1, -1, -1).flatten(0, 1)
    refined = F.grid_sample(pooled, grid_inv, align_corners=False)
    refined *= F.grid_sample(mask, grid_inv, align_corners=False)
    max_conf, max_idx = refined.max(1, keepdim=True)
    peaks = torch.zeros_like(refined).scatter_(1, max_idx, max_conf)
    top_peaks, _ = peaks.view(6, 5, -1).max(-1)
    top_peaks *= 0.9
    top_peaks *= (1.0 - torch.exp(-running_conf / 0.3)).view(1, 5)
    top_peaks.clamp_(0.1)
    peaks.gt_(top_peaks.view(6, 5, 1, 1))
    pseudo_labels = max_idx.clone()
    pseudo_labels[peaks.sum(1, keepdim=True) != 1] = 255
    pseudo_labels = pseudo_labels.squeeze(1)
    assert 0 < (pseudo_labels == 255).float().mean() < 1
    focal_weight = (1 - running_conf.clamp(0.0)) ** 2
    logits = step.predict("crops_strong").logits
    loss_ce = F.cross_entropy(logits, pseudo_labels, weight=focal_weight, ignore_index=255, reduction="none")
    own = (loss_ce * max_conf.squeeze(1)).mean()
    torch.testing.assert_close(loss, 5.0 * own, rtol=1e-4, atol=1e-6)
    assert not torch.isclose(own, (loss_ce * max_conf).mean(), rtol=1e-4), "the published broadcast mixes the crops"


def test_noise_as_torchvision_defines_it() -> None:
    """Blur by hand with reflected borders; brightness, contrast and saturation by hand; grey is grey."""
    images = torch.rand(40, 3, 24, 20, generator=torch.Generator().manual_seed(1))
    noisy = photometric_noise(images, torch.Generator().manual_seed(2), jitter=0.4, grey=0.3)
    generator = torch.Generator().manual_seed(2)
    plain, grey = 0, 0
    for image, result in zip(images, noisy, strict=True):
        sigma, jittered, greyed, brightness, contrast, saturation, _ = torch.rand(
            7, generator=generator, dtype=torch.float64
        ).tolist()
        order = torch.randperm(4, generator=generator).tolist()
        offsets = torch.arange(-6.0, 7)
        kernel = torch.exp(-(offsets**2) / (2 * (0.1 + 1.9 * sigma) ** 2))
        kernel /= kernel.sum()
        wanted = F.pad(image[None], (6, 6, 6, 6), mode="reflect")[0]
        wanted = (wanted.unfold(2, 13, 1) * kernel).sum(-1)
        wanted = (wanted.unfold(1, 13, 1) * kernel).sum(-1)
        if jittered < 0.5:
            for operation in [at for at in order if at != 3]:
                dark = wanted[0] * 0.2989 + wanted[1] * 0.587 + wanted[2] * 0.114
                factor = 1 + 0.4 * (2 * (brightness, contrast, saturation)[operation] - 1)
                other = (0.0, dark.mean(), dark)[operation]
                wanted = (factor * wanted + (1 - factor) * other).clamp(0, 1)
        if greyed < 0.3:
            assert torch.equal(result[0], result[1])
            assert torch.equal(result[0], result[2])
            grey += 1
        elif jittered < 0.5:
            # a turn of the hue leaves the largest and the smallest channel of a pixel, if it is the last operation
            if order[-1] == 3:
                torch.testing.assert_close(result.amax(0), wanted.amax(0), rtol=0, atol=1e-5)
                torch.testing.assert_close(result.amin(0), wanted.amin(0), rtol=0, atol=1e-5)
        else:
            torch.testing.assert_close(result, wanted, rtol=0, atol=1e-5)
            plain += 1
    assert plain > 5
    assert grey > 5
    still = photometric_noise(images[:1], torch.Generator().manual_seed(2), jitter=0.0, grey=0.0)
    assert (still - images[:1]).abs().max() > 0.01, "blur is always there"


def test_windows_lie_inside_the_image_and_are_undone() -> None:
    window, back = draw_windows(12, 3, 0.4, torch.Generator().manual_seed(0))
    corners = torch.tensor([[-1.0, -1, 1], [1, 1, 1]]).T
    assert ((window @ corners).abs() <= 1 + 1e-6).all()
    whole = torch.tensor([0.0, 0, 1]).expand(12, 1, 3)
    both = torch.cat([window, whole], 1) @ torch.cat([back, whole], 1)
    torch.testing.assert_close(both, torch.eye(3).expand(12, 3, 3))
    whole_or_mirrored = window[::3].abs()
    assert torch.equal(whole_or_mirrored, torch.eye(3)[:2].expand(4, 2, 3))
    assert 0 < (window[::3, 0, 0] < 0).sum() < 4
    assert 0 < (window[:, 0, 0] < 0).sum() < 12
    smooth = torch.linspace(0, 1, 64).expand(12, 1, 32, 64)
    there_and_back = warp(warp(smooth, window), back)
    inside = warp(warp(torch.ones_like(smooth), window), back) > 0.999
    assert inside.float().mean() > 0.2
    torch.testing.assert_close(there_and_back[inside], smooth[inside], atol=0.03, rtol=0)
