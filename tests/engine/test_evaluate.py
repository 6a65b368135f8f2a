"""Evaluation against a naive reference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from uda.engine import Evaluation, Inference, evaluate
from uda.testing.tiny import TinyDataset, TinySegmenter, tiny_target
from uda.types import IGNORE, Sample


class Sizes(TinyDataset):
    """Every third image is smaller."""

    def __getitem__(self, index: int) -> Sample:
        sample = super().__getitem__(index)
        return sample if index % 3 else sample._replace(image=sample.image[:, :24], label=sample.label[:24])


def naive(model: nn.Module, dataset: TinyDataset) -> tuple[np.ndarray, list[float]]:
    model.eval()
    matrix, losses = np.zeros((5, 5), dtype=np.int64), []
    for sample in (dataset[index] for index in range(len(dataset))):
        with torch.no_grad():
            logits = model(sample.image[None].float() / 255).logits
        losses.append(float(F.cross_entropy(logits, sample.label[None], ignore_index=IGNORE)))
        for truth, guess in zip(sample.label.flatten().tolist(), logits.argmax(1).flatten().tolist(), strict=True):
            if truth != IGNORE:
                matrix[truth, guess] += 1
    return matrix, losses


@pytest.mark.parametrize("batch_size", [1, 4])
def test_equals_a_naive_loop(batch_size: int) -> None:
    model, data = TinySegmenter(), Sizes()
    nn.init.normal_(model.head.weight, std=5.0)  # so that predictions vary
    matrix, losses = naive(model, data)
    assert (matrix.sum(0) > 0).sum() >= 3
    model.train()
    result = evaluate(model, data, batch_size=batch_size)
    assert model.training, "the model is put back into the mode it had"
    np.testing.assert_array_equal(result.confusion, matrix)
    np.testing.assert_allclose(result.losses, losses, rtol=1e-5)
    assert result.names == tuple(data.names)
    truth, union = matrix.sum(1), matrix.sum(0) + matrix.sum(1) - np.diag(matrix)
    expected = np.where(truth > 0, np.diag(matrix) / np.maximum(union, 1), np.nan)
    np.testing.assert_allclose(result.iou(), expected)
    assert result.miou() == pytest.approx(np.nanmean(expected))


def test_the_mean_runs_over_the_labelled_classes_alone() -> None:
    # class 1 is predicted but never labelled: its pixels are errors of class 0 and no class of the mean
    confusion = np.array([[[3, 1, 0], [0, 0, 0], [0, 0, 4]]])
    result = Evaluation(confusion, np.array([0.5]), ("a",), ("x", "y", "z"))
    np.testing.assert_allclose(result.iou(), [0.75, np.nan, 1.0])
    assert result.miou() == pytest.approx(0.875)


@pytest.mark.filterwarnings("error")
def test_nothing_labelled_scores_nan() -> None:
    result = Evaluation(np.zeros((1, 2, 2), dtype=np.int64), np.array([np.nan]), ("a",), ("x", "y"))
    assert np.isnan(result.miou())
    assert np.isnan(result.loss())


def test_save_and_load(tmp_path: Path) -> None:
    result = evaluate(TinySegmenter(), tiny_target())
    result.save(tmp_path / "target.npz")
    again = Evaluation.load(tmp_path / "target.npz")
    assert again.names == result.names
    assert again.class_names == result.class_names
    np.testing.assert_array_equal(again.confusions, result.confusions)
    np.testing.assert_array_equal(again.losses, result.losses)


def test_label_outside_the_model_names_the_file() -> None:
    with pytest.raises(ValueError, match=r"tiny/source/0\.png: label 4 .* 0\.\.2"):
        evaluate(TinySegmenter(3), TinyDataset())


def test_unlabelled_data_is_refused() -> None:
    with pytest.raises(ValueError, match="unlabelled"):
        evaluate(TinySegmenter(), TinyDataset().unlabelled())  # type: ignore[arg-type]


def test_plain_logits_at_another_size_are_scored_at_the_image_size() -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 5, 2, 2)

        def forward(self, images: Tensor) -> Tensor:
            return self.conv(images)

    data = TinyDataset()
    result = evaluate(Half(), data)
    labelled = sum(int((data.label(index) != IGNORE).sum()) for index in range(len(data)))
    assert result.confusion.sum() == labelled


def test_scale_changes_the_input_not_the_scored_size() -> None:
    model, data = TinySegmenter(), TinyDataset()
    plain, half = evaluate(model, data), evaluate(model, data, inference=Inference(scale=0.5))
    assert plain.confusion.sum() == half.confusion.sum()
    assert (plain.losses != half.losses).all()
