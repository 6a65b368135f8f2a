"""HRDA's detail crops, where they differ with the mode: the random box, and the sliding windows of a teacher."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from uda.models import DaformerSegmenter, HrdaSegmenter, Teacher

SMALL = "mobilenetv3_small_050"


def hrda() -> HrdaSegmenter:
    """Logits at stride 4, as HRDA's; crops of 64 pixels."""
    base = DaformerSegmenter(3, SMALL, None, embed_channels=8, channels=8, dropout=0.0)
    return HrdaSegmenter(base, (64, 64), embed_channels=8)


def passes(model: nn.Module) -> list[torch.Tensor]:
    """What the encoder sees from now on, pass after pass."""
    seen: list[torch.Tensor] = []
    model.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    return seen


def test_offsets_of_the_box_are_multiples_of_eight_and_reach_both_ends() -> None:
    model = hrda()
    boxes = [model._random_box((128, 128), (128, 128), 8) for _ in range(400)]
    for first, last in ((0, 1), (2, 3)):
        assert {box[first] for box in boxes} == set(range(0, 65, 8))
        assert all(box[last] - box[first] == 64 for box in boxes)
    offsets = {tuple(model(torch.rand(1, 3, 128, 128)).get("detail_box").tolist()) for _ in range(12)}
    assert len({top % 64 for top, *_ in offsets}) > 2, "not only at whole crops"
    assert all(top % 8 == left % 8 == 0 for top, _, left, _ in offsets)


def test_one_box_serves_the_whole_batch() -> None:
    model, images = hrda(), torch.rand(2, 3, 128, 128)
    seen = passes(model)
    top, bottom, left, right = model(images).get("detail_box").tolist()
    context, detail = seen
    assert context.shape == (2, 3, 64, 64)
    torch.testing.assert_close(detail, model.base.normalise(images[..., top:bottom, left:right]))


def test_a_teacher_in_train_mode_normalises_all_windows_in_one_batch() -> None:
    """As ``extract_slide_feat``: nine windows of each image, half a crop apart, window by window in one batch."""
    images = torch.rand(2, 3, 128, 128)
    teacher = Teacher(hrda())
    seen = passes(teacher.model)
    teacher(images)
    context, detail = seen
    crops = [images[..., y : y + 64, x : x + 64] for y in (0, 32, 64) for x in (0, 32, 64)]
    torch.testing.assert_close(detail, teacher.model.base.normalise(torch.cat(crops)))
    assert context.shape == (2, 3, 64, 64)


@pytest.mark.parametrize("grad", [True, False])
def test_in_evaluation_windows_come_one_by_one(grad: bool) -> None:
    model = hrda().eval()
    seen = passes(model)
    with torch.set_grad_enabled(grad):
        model(torch.rand(2, 3, 128, 128))
    assert [tuple(x.shape) for x in seen] == [(2, 3, 64, 64)] * 10
