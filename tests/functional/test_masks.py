"""ClassMix and block masks: what is drawn, and that it can be repeated."""

from __future__ import annotations

import pytest
import torch

from uda.functional.masks import block_mask, choose_classes, class_mix_masks, label_classes, mix


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_masks_repeat_with_the_seed() -> None:
    labels = torch.randint(8, (3, 20, 30))
    first, again, other = (class_mix_masks(labels, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_mask_is_made_of_whole_classes_of_its_image() -> None:
    labels = torch.randint(7, (4, 16, 16))
    labels[0, :4] = 255
    for label, mask in zip(labels, class_mix_masks(labels, generator(0)), strict=True):
        inside, outside = label[mask].unique(), label[~mask].unique()
        assert not torch.isin(inside, outside).any()
        assert len(inside) == (len(label.unique()) + 1) // 2


def test_ignored_pixels_may_be_barred() -> None:
    labels = torch.full((5, 4, 4), 255)
    labels[:, :, 0] = 3
    masks = class_mix_masks(labels, generator(0), ignore_index=255)
    assert torch.equal(masks, labels == 3)
    assert not class_mix_masks(torch.full((1, 4, 4), 255), generator(0), ignore_index=255).any()


def test_batch_classes_may_be_absent_from_an_image() -> None:
    labels = torch.stack([torch.full((4, 4), value) for value in range(4)])
    masks = class_mix_masks(labels, generator(0), batch_classes=True)
    assert not masks.flatten(1).any(1).all()  # 2 of 4 classes each: some image has none
    assert class_mix_masks(labels, generator(0)).all()


def test_every_class_is_chosen_equally_often() -> None:
    draws = torch.stack([choose_classes(torch.arange(4), generator(seed)) for seed in range(400)])
    counts = draws.flatten().bincount(minlength=4)
    assert counts.sum() == 800
    assert ((counts - 200).abs() < 50).all()


def test_chosen_must_fit_the_batch() -> None:
    with pytest.raises(ValueError, match="1 images"):
        class_mix_masks(torch.zeros(2, 3, 3, dtype=torch.long), chosen=[torch.tensor([0])])


def test_mix_takes_each_pixel_from_one_side() -> None:
    mask = torch.tensor([[[True, False]]])
    source, target = torch.ones(1, 3, 1, 2), torch.zeros(1, 3, 1, 2)
    assert torch.equal(mix(mask, source, target)[0, :, 0], torch.tensor([[1.0, 0.0]] * 3))
    assert torch.equal(mix(mask, source[:, 0], target[:, 0]), mask.float())
    assert torch.equal(mix(mask[0].long(), source[0], target[0])[1], torch.tensor([[1.0, 0.0]]))


def test_label_classes_are_the_distinct_values() -> None:
    labels = torch.tensor([[4, 255], [0, 4]])
    assert label_classes(labels).tolist() == [0, 4, 255]
    assert label_classes(labels, ignore_index=255).tolist() == [0, 4]


def test_block_mask_masks_the_share_asked_for() -> None:
    mask = block_mask((64, 96), batch=8, block=4, ratio=0.7, generator=generator(0))
    assert mask.shape == (8, 1, 64, 96)
    assert 1 - mask.mean().item() == pytest.approx(0.7, abs=0.03)
    blocks = mask.unfold(2, 4, 4).unfold(3, 4, 4).flatten(4)
    assert (blocks == blocks[..., :1]).all()
    assert not torch.equal(mask[0], mask[1])


@pytest.mark.parametrize(("ratio", "kept"), [(0.0, 1.0), (1.0, 0.0)])
def test_block_mask_at_its_ends(ratio: float, kept: float) -> None:
    # a block larger than the image: one cell; torch.rand may draw 0, which the strict comparison masks
    mask = block_mask((5, 7), block=64, ratio=ratio, draw=torch.full((1, 1, 1, 1), 0.5))
    assert (mask == kept).all()


@pytest.mark.parametrize("options", [{"ratio": 1.5}, {"ratio": -0.1}, {"block": 0}])
def test_block_mask_says_what_is_wrong(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="got"):
        block_mask((8, 8), **options)
