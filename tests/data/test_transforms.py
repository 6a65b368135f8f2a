"""Joint augmentation: image and label stay together, everything is a function of the seed."""

from __future__ import annotations

import time

import pytest
import torch

from uda.data.transforms import TrainTransform
from uda.types import IGNORE, Sample


def coded(height: int = 40, width: int = 60) -> Sample:
    """A sample whose label can be read off its image: red = label = column // 10, green = row // 10, smooth areas."""
    columns = (torch.arange(width) // 10).expand(height, width)
    rows = (torch.arange(height) // 10)[:, None].expand(height, width)
    image = torch.stack([columns * 20 + 20, rows * 20 + 20, torch.full((height, width), 200)]).to(torch.uint8)
    return Sample(image, columns.long(), "x.png")


PLAIN = {"flip": 0.0, "jitter": 0.0, "blur": 0.0}


def agreement(image: torch.Tensor, label: torch.Tensor) -> float:
    """Share of pixels away from edges (which the resize blends) whose label is that of their colour."""
    read = ((image[0] * 255 - 20) / 20).round().long()
    around = label[None, None].float()
    spread = [torch.nn.functional.max_pool2d(sign * around, 3, 1, 1)[0, 0] for sign in (1, -1)]
    inside = (label != IGNORE) & (spread[0] == -spread[1])
    return float((read == label)[inside].float().mean()) if inside.any() else 1.0


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"flip": 1.0},
        {"scale": (0.3, 2.0)},
        {"ratio": (0.5, 2.0)},
        {"fit": "pixels", "scale": (0.5, 2.0)},
        {"scale": (1.0, 2.5), "flip": 0.5},
    ],
)
def test_label_stays_on_its_pixels(settings: dict[str, object]) -> None:
    transform = TrainTransform(crop=(32, 48), **{**PLAIN, **settings})
    for seed in range(20):
        image, label, _ = transform(coded(), seed)
        assert image.shape == (3, 32, 48)
        assert image.dtype == torch.float32
        assert label is not None
        assert label.shape == (32, 48)
        assert label.dtype == torch.int64
        assert 0 <= float(image.min()) <= float(image.max()) <= 1
        assert agreement(image, label) > 0.9
        assert set(label.unique().tolist()) <= {*range(6), IGNORE}


def test_flip_mirrors_both() -> None:
    straight = TrainTransform(crop=(40, 60), scale=(1.0, 1.0), flip=0.0)(coded(), 1)
    mirrored = TrainTransform(crop=(40, 60), scale=(1.0, 1.0), flip=1.0)(coded(), 1)
    assert torch.equal(straight[0].flip(-1), mirrored[0])
    assert torch.equal(straight[1].flip(-1), mirrored[1])
    assert torch.equal(straight[1], coded().label), "the whole image at its own size"
    flips = [TrainTransform(crop=(40, 60), scale=(1.0, 1.0))(coded(), seed)[1][0, 0] == 5 for seed in range(60)]
    assert 15 < sum(map(bool, flips)) < 45


def test_scale_is_the_share_of_the_window() -> None:
    for share in (1.0, 0.5):
        _, label, _ = TrainTransform(crop=(40, 60), scale=(share, share), flip=0.0)(coded(), 3)
        assert (label != IGNORE).all()
        assert abs(len(label.unique()) - 6 * share) <= 1


def test_small_images_are_padded_with_ignore() -> None:
    transform = TrainTransform(crop=(80, 120), fit="pixels", scale=(1.0, 1.0), flip=0.0)
    for seed in range(5):
        image, label, _ = transform(coded(), seed)
        outside = label == IGNORE
        assert int((~outside).sum()) == 40 * 60
        assert not image[:, outside].any(), "black outside of the image"
        assert torch.equal(label[~outside].view(40, 60), coded().label)
    other = TrainTransform(crop=(80, 120), fit="pixels", scale=(1.0, 1.0), ignore=254)(coded(), 0)[1]
    assert set(other.unique().tolist()) == {*range(6), 254}


def test_zoomed_out_window_reaches_beyond_the_image() -> None:
    _, label, _ = TrainTransform(crop=(20, 30), scale=(2.0, 2.0), flip=0.0)(coded(), 0)
    assert (label == IGNORE).float().mean() == pytest.approx(0.75, abs=0.06)


def test_never_padded_up_to_the_whole_window() -> None:
    transform = TrainTransform(crop=(31, 57), ratio=(0.6, 1.7), scale=(0.2, 1.0))
    assert all((transform(coded(37, 61), seed)[1] != IGNORE).all() for seed in range(50))


def test_colours_change_only_the_image() -> None:
    plain = TrainTransform(crop=(32, 48), **PLAIN)(coded(), 7)
    for settings in ({"jitter": 0.8}, {"hue": 0.3}, {"blur": 1.0, "blur_sigma": (1.0, 1.0)}):
        changed = TrainTransform(crop=(32, 48), jitter_probability=1.0, **{**PLAIN, **settings})(coded(), 7)
        assert not torch.equal(plain[0], changed[0]), settings
        assert torch.equal(plain[1], changed[1]), settings
    never = TrainTransform(crop=(32, 48), flip=0.0, jitter=0.8, jitter_probability=0.0)(coded(), 7)
    assert torch.equal(plain[0], never[0])


def test_is_a_function_of_the_seed_alone() -> None:
    transform = TrainTransform(crop=(32, 48), jitter=0.5, hue=0.1, blur=0.5, scale=(0.3, 1.5))
    state = torch.get_rng_state()
    first = transform(coded(), 11)
    assert torch.equal(torch.get_rng_state(), state), "the run's own random numbers must not move"
    torch.rand(5)
    again = transform(coded(), 11)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], transform(coded(), 12)[0])


def test_without_label() -> None:
    transform = TrainTransform(crop=(32, 48), jitter=0.5, blur=0.5)
    image, label, _ = transform(coded()._replace(label=None), 5)
    assert label is None
    assert torch.equal(image, transform(coded(), 5)[0]), "labels have no influence on the image"


def test_does_not_touch_the_sample() -> None:
    sample = coded()
    TrainTransform(crop=(32, 48), jitter=0.5)(sample, 0)
    assert torch.equal(sample.image, coded().image)


def test_all_ignored_label() -> None:
    sample = coded()._replace(label=torch.full((40, 60), IGNORE))
    assert (TrainTransform(crop=(32, 48))(sample, 0)[1] == IGNORE).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"crop": (0, 5)}, "crop"),
        ({"scale": (0.0, 1.0)}, "scale"),
        ({"scale": (1.0, 0.5)}, "scale"),
        ({"ratio": (0.0, 1.0)}, "ratio"),
        ({"flip": 1.5}, "flip must be in"),
        ({"jitter": -0.1}, "jitter"),
        ({"hue": 0.7}, "hue"),
        ({"blur": 2.0}, "blur"),
        ({"fit": "other"}, "fit"),
    ],
)
def test_wrong_values(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainTransform(**{"crop": (8, 8), **settings})


def test_is_fast_enough_to_feed_training() -> None:
    """A 128x256 crop of a KITTI-sized image in a few milliseconds (4 on an idle core; the bound allows a busy one)."""
    sample = Sample(torch.randint(0, 256, (3, 375, 1242), dtype=torch.uint8), torch.zeros(375, 1242).long(), "x")
    transform = TrainTransform(crop=(128, 256), jitter=0.4, blur=0.5)
    transform(sample, 0)
    started = time.process_time()
    for seed in range(20):
        transform(sample, seed)
    assert (time.process_time() - started) / 20 < 0.02


def test_a_smaller_image_is_smoothed_and_not_sampled() -> None:
    stripes = (torch.arange(96) % 2 * 255).to(torch.uint8).expand(3, 48, 96).contiguous()
    image, _, _ = TrainTransform(crop=(16, 32), scale=(1.0, 1.0), flip=0.0)(Sample(stripes, None, "stripes"), 0)
    assert (image[..., 2:-2] - 0.5).abs().max() < 0.1


def test_brightness_and_contrast_have_strengths_of_their_own() -> None:
    plain = TrainTransform(crop=(32, 48), **PLAIN)(coded(), 7).image
    brighter = TrainTransform(crop=(32, 48), jitter_probability=1.0, brightness=0.5, **PLAIN)(coded(), 7).image
    unclipped = (plain > 0.02) & (brighter < 1)
    factors = brighter[unclipped] / plain[unclipped]  # torchvision's brightness is a plain product
    assert factors.std() < 1e-4
    assert abs(float(factors.mean()) - 1) > 0.01
    # in place of the common strength: without brightness, contrast and saturation nothing is left of it
    one = {**PLAIN, "jitter": 0.8, "brightness": 0.0, "contrast": 0.0}
    grey = coded().image.float().mean(0, keepdim=True).expand(3, -1, -1).to(torch.uint8)
    sample = Sample(grey, coded().label, "x.png")
    saturated = TrainTransform(crop=(32, 48), jitter_probability=1.0, **one)(sample, 7).image
    torch.testing.assert_close(saturated, TrainTransform(crop=(32, 48), **PLAIN)(sample, 7).image, atol=1e-3, rtol=0)
    same = TrainTransform(crop=(32, 48), jitter=0.5, brightness=0.5, contrast=0.5)
    assert torch.equal(same(coded(), 3).image, TrainTransform(crop=(32, 48), jitter=0.5)(coded(), 3).image)
    with pytest.raises(ValueError, match="contrast must be in"):
        TrainTransform(crop=(32, 48), contrast=1.5)
