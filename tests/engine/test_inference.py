"""Every option of inference against a loop written out here."""

from __future__ import annotations

import math
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional as F

from uda.config import EvaluateSpec
from uda.data import label_space
from uda.data.folder import inline_space
from uda.engine import Inference, Settings, Trainer, evaluate
from uda.engine.inference import ResizedImages, at_size, predict_logits, resize_images, resize_labels
from uda.engine.predict import label_map, predict
from uda.methods import TENT, AdaBN, ClassMix, CoTTA, PredictionTimeBN, Supervised
from uda.models import slide_boxes
from uda.testing.tiny import TinyDataset, TinySegmenter, tiny_space, tiny_target
from uda.types import IGNORE, SegOutput

SIZE = (32, 64)
CITYSCAPES = label_space("cityscapes19")


@pytest.fixture
def model() -> TinySegmenter:
    network = TinySegmenter(aux=True).eval()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.5)  # so that predictions vary
    return network


@pytest.fixture
def images() -> Tensor:
    return torch.rand(2, 3, *SIZE, generator=torch.Generator().manual_seed(0))


def passes(model: nn.Module, images: Tensor) -> SegOutput:
    with torch.no_grad():
        output: SegOutput = model(images)
        return output


def bilinear(x: Tensor, size: tuple[int, int], antialias: bool = False) -> Tensor:
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False, antialias=antialias)


# ---- one option at a time -------------------------------------------------------------------------------------------


def test_the_default_is_the_networks_own_numbers(model: TinySegmenter, images: Tensor) -> None:
    torch.testing.assert_close(predict_logits(model, images), passes(model, images).logits, rtol=0, atol=0)
    assert len(model.passes) == 2, "one pass, and the one of this test"


def test_input_size(model: TinySegmenter, images: Tensor) -> None:
    small = bilinear(images, (24, 40), antialias=True)
    expected = bilinear(passes(model, small).logits, SIZE)
    torch.testing.assert_close(predict_logits(model, images, Inference(input_size=(24, 40))), expected)
    own = predict_logits(model, images, Inference(input_size=SIZE))
    torch.testing.assert_close(own, passes(model, images).logits, rtol=0, atol=0)


def test_scale(model: TinySegmenter, images: Tensor) -> None:
    half = bilinear(images, (16, 32), antialias=True)
    expected = bilinear(passes(model, half).logits, SIZE)
    torch.testing.assert_close(predict_logits(model, images, Inference(scale=0.5)), expected)


@pytest.mark.parametrize("size", [(9, 14), (33, 40), (5, 61), (12, 20)])
@pytest.mark.parametrize("contiguous", [True, False])
def test_logits_at_another_size_are_pytorchs(size: tuple[int, int], contiguous: bool) -> None:
    logits = torch.randn(2, 5, 12, 20, generator=torch.Generator().manual_seed(0))
    if not contiguous:
        logits = logits.to(memory_format=torch.channels_last)
    expected = F.interpolate(logits, size, mode="bilinear", align_corners=False)
    torch.testing.assert_close(at_size(logits, size), expected, rtol=0, atol=1e-5)
    wanted = logits.clone().requires_grad_()
    at_size(wanted, size).sum().backward()
    assert wanted.grad is not None
    assert float(wanted.grad.sum()) == pytest.approx(2 * 5 * math.prod(size), rel=1e-5)


def test_bicubic_is_pillows() -> None:
    # far from black and white, where Pillow cuts off what overshoots after each of its two passes
    pixels = np.random.default_rng(0).integers(90, 160, (40, 60, 3), dtype=np.uint8)
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
    for interpolation, filter_ in (("bicubic", Image.Resampling.BICUBIC), ("bilinear", Image.Resampling.BILINEAR)):
        for size in ((20, 30), (50, 90)):
            pillow = np.asarray(Image.fromarray(pixels).resize(size[::-1], filter_), dtype=np.float64)
            ours = resize_images(image, Inference(input_size=size, interpolation=interpolation))[0].permute(1, 2, 0)
            assert ours.min() >= 0
            assert ours.max() <= 1
            # Pillow rounds after each pass
            assert np.abs(ours.double().numpy() * 255 - pillow).max() < 1.6, (interpolation, size)


def mmseg_slide(network: Any, img: Tensor, window: tuple[int, int], stride: tuple[int, int], classes: int) -> Tensor:
    """``slide_inference`` of mmsegmentation 0.16, as lhoyer/HRDA has it, but for its metadata."""
    (h_stride, w_stride), (h_crop, w_crop) = stride, window
    batch_size, _, h_img, w_img = img.size()
    h_grids = max(h_img - h_crop + h_stride - 1, 0) // h_stride + 1
    w_grids = max(w_img - w_crop + w_stride - 1, 0) // w_stride + 1
    preds = img.new_zeros((batch_size, classes, h_img, w_img))
    count_mat = img.new_zeros((batch_size, 1, h_img, w_img))
    for h_idx in range(h_grids):
        for w_idx in range(w_grids):
            y1, x1 = h_idx * h_stride, w_idx * w_stride
            y2, x2 = min(y1 + h_crop, h_img), min(x1 + w_crop, w_img)
            y1, x1 = max(y2 - h_crop, 0), max(x2 - w_crop, 0)
            crop_seg_logit = network(img[:, :, y1:y2, x1:x2])
            preds += F.pad(crop_seg_logit, (x1, preds.shape[3] - x2, y1, preds.shape[2] - y2))
            count_mat[:, :, y1:y2, x1:x2] += 1
    assert (count_mat == 0).sum() == 0
    return preds / count_mat


@pytest.mark.parametrize(
    ("window", "stride"), [((16, 16), (8, 12)), ((16, 24), (16, 24)), ((20, 50), (7, 11)), ((64, 16), (40, 16))]
)
def test_windows_are_mmsegmentations(
    model: TinySegmenter, images: Tensor, window: tuple[int, int], stride: tuple[int, int]
) -> None:
    expected = mmseg_slide(lambda crop: passes(model, crop).logits, images, window, stride, 5)
    calls = len(model.passes)
    torch.testing.assert_close(predict_logits(model, images, Inference(window=window, stride=stride)), expected)
    assert len(model.passes) == 2 * calls, "as many windows"


def test_half_a_window_is_the_default_stride(model: TinySegmenter, images: Tensor) -> None:
    expected = mmseg_slide(lambda crop: passes(model, crop).logits, images, (16, 32), (8, 16), 5)
    torch.testing.assert_close(predict_logits(model, images, Inference(window=(16, 32))), expected)
    assert slide_boxes(32, 64, (16, 32), stride=(8, 16)) == slide_boxes(32, 64, (16, 32))
    assert len(slide_boxes(1024, 2048, (1024, 1024), stride=(512, 512))) == 3, "HRDA's on Cityscapes"
    assert len(slide_boxes(1080, 1920, (1024, 1024), stride=(512, 512))) == 6, "and on ACDC"


def test_windows_slide_over_the_resized_input(model: TinySegmenter, images: Tensor) -> None:
    big = bilinear(images, (48, 96), antialias=True)
    slid = mmseg_slide(lambda crop: passes(model, crop).logits, big, (32, 32), (16, 16), 5)
    inference = Inference(input_size=(48, 96), window=(32, 32), stride=(16, 16))
    torch.testing.assert_close(predict_logits(model, images, inference), bilinear(slid, SIZE))


@pytest.mark.parametrize("average", ["logits", "probabilities"])
def test_scales_and_mirrored_copies(model: TinySegmenter, images: Tensor, average: str) -> None:
    total = torch.zeros(2, 5, *SIZE)
    for size in ((36, 58), (40, 64), (48, 77)):  # 0.9, 1 and 1.2 of 40 x 64, rounded
        copy = bilinear(images, size, antialias=True)
        for mirrored in (False, True):
            logits = passes(model, copy.flip(3) if mirrored else copy).logits
            scores = logits if average == "logits" else logits.softmax(1)
            total += bilinear(scores.flip(3) if mirrored else scores, SIZE)
    mean = total / 6
    inference = Inference(input_size=(40, 64), scales=(0.9, 1.0, 1.2), flip=True, average=average)  # type: ignore[arg-type]
    predicted = predict_logits(model, images, inference)
    torch.testing.assert_close(predicted if average == "logits" else predicted.exp(), mean)


def test_probabilities_of_one_pass_are_resized_as_such(model: TinySegmenter, images: Tensor) -> None:
    small = bilinear(images, (16, 32), antialias=True)
    expected = bilinear(passes(model, small).logits.softmax(1), SIZE)
    inference = Inference(input_size=(16, 32), average="probabilities")
    torch.testing.assert_close(predict_logits(model, images, inference).exp(), expected)


def test_a_mirrored_window_stands_where_it_belongs(model: TinySegmenter, images: Tensor) -> None:
    def slide(x: Tensor) -> Tensor:
        return mmseg_slide(lambda crop: passes(model, crop).logits, x, (32, 24), (32, 20), 5)

    expected = (slide(images) + slide(images.flip(3)).flip(3)) / 2
    inference = Inference(window=(32, 24), stride=(32, 20), flip=True)
    torch.testing.assert_close(predict_logits(model, images, inference), expected)


def test_heads_are_summed_as_logits(model: TinySegmenter, images: Tensor) -> None:
    output = passes(model, images)
    torch.testing.assert_close(
        predict_logits(model, images, Inference(aux=0.5)), output.logits + 0.5 * output.auxiliary
    )
    # MRNet: softmax of main + 0.5 aux, summed over mirrored copies
    mirrored = passes(model, images.flip(3))
    total = (output.logits + 0.5 * output.auxiliary).softmax(1)
    total = total + (mirrored.logits + 0.5 * mirrored.auxiliary).flip(3).softmax(1)
    inference = Inference(aux=0.5, flip=True, average="probabilities")
    torch.testing.assert_close(predict_logits(model, images, inference).exp(), total / 2)


def test_a_second_head_that_there_is_not(images: Tensor) -> None:
    with pytest.raises(ValueError, match="no auxiliary classifier"):
        predict_logits(TinySegmenter().eval(), images, Inference(aux=1.0))
    with pytest.raises(ValueError, match=r"aux is 1\.0, but Conv2d gives plain logits"):
        predict_logits(nn.Conv2d(3, 5, 1), images, Inference(aux=1.0))


def test_bf16_sums_in_float32(model: TinySegmenter, images: Tensor) -> None:
    inference = Inference(flip=True, window=(16, 32))
    predicted = predict_logits(model, images, inference, precision="bf16")
    assert predicted.dtype == torch.float32
    assert predict_logits(model, images, precision="bf16").dtype == torch.bfloat16, (
        "one pass is as the network gives it"
    )
    exact = predict_logits(model, images, inference)
    assert (predicted - exact).abs().max() < 0.05 * exact.abs().max()


# ---- memory ---------------------------------------------------------------------------------------------------------


class Watched(nn.Module):
    """Counts how many of its earlier results are still alive when it is asked for another."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 1)
        self.results: list[weakref.ref[Any]] = []
        self.alive = 0

    def forward(self, images: Tensor) -> Tensor:
        self.alive = max(self.alive, sum(result() is not None for result in self.results))
        logits: Tensor = self.conv(images)
        self.results.append(weakref.ref(logits.untyped_storage()))
        return logits


@pytest.mark.parametrize(
    "inference", [Inference(scales=(1.0, 1.0, 1.0), flip=True), Inference(window=(16, 16)), Inference(window=(32, 8))]
)
def test_no_pass_outlives_the_next(images: Tensor, inference: Inference) -> None:
    network = Watched()
    predict_logits(network, images, inference)
    assert len(network.results) >= 6
    assert network.alive <= 1, "the sum, and at most the pass before"


def test_the_networks_own_tensors_are_not_written_to(images: Tensor) -> None:
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.logits = nn.Parameter(torch.randn(2, 5, *SIZE), requires_grad=False)

        def forward(self, images: Tensor) -> Tensor:
            return self.logits

    network = Constant()
    before = network.logits.clone()
    for average in ("logits", "probabilities"):
        for flip in (False, True):
            predict_logits(network, images, Inference(flip=flip, average=average))  # type: ignore[arg-type]
    assert torch.equal(network.logits, before)


# ---- scoring --------------------------------------------------------------------------------------------------------


def confusion_of(predictions: Tensor, labels: Tensor) -> np.ndarray:
    matrix = np.zeros((5, 5), dtype=np.int64)
    for truth, guess in zip(labels.flatten().tolist(), predictions.flatten().tolist(), strict=True):
        if truth != IGNORE:
            matrix[truth, guess] += 1
    return matrix


def test_labels_go_down_to_the_input_as_pillow_takes_them() -> None:
    labels = torch.from_numpy(np.random.default_rng(0).integers(0, 20, (1, 30, 47)))
    for size in ((15, 23), (11, 20), (30, 47), (44, 60)):
        pillow = Image.fromarray(labels[0].numpy().astype(np.uint8)).resize(size[::-1], Image.Resampling.NEAREST)
        np.testing.assert_array_equal(resize_labels(labels, size)[0].numpy(), np.asarray(pillow))


@pytest.mark.parametrize("options", [{"input_size": (16, 32)}, {"scale": 0.5}])
def test_score_at(model: TinySegmenter, options: dict[str, Any]) -> None:
    data = TinyDataset()
    at_input, at_label = np.zeros((5, 5), dtype=np.int64), np.zeros((5, 5), dtype=np.int64)
    losses = []
    for index in range(len(data)):
        sample = data[index]
        logits = passes(model, bilinear(sample.image[None].float() / 255, (16, 32), antialias=True)).logits
        small = sample.label[1::2, 1::2]  # the pixel right of and below the centre, as Pillow's nearest
        at_input += confusion_of(logits[0].argmax(0), small)
        losses.append(float(F.cross_entropy(logits, small[None], ignore_index=IGNORE)))
        at_label += confusion_of(bilinear(logits, SIZE)[0].argmax(0), sample.label)
    scored = evaluate(model, data, inference=Inference(**options, score_at="input"))
    np.testing.assert_array_equal(scored.confusion, at_input)
    np.testing.assert_allclose(scored.losses, losses, rtol=1e-5)
    np.testing.assert_array_equal(evaluate(model, data, inference=Inference(**options)).confusion, at_label)


def test_probabilities_are_scored_by_their_loss_too(model: TinySegmenter) -> None:
    data = TinyDataset(length=1)
    image = data[0].image[None].float() / 255
    mean = (passes(model, image).logits.softmax(1) + passes(model, image.flip(3)).logits.flip(3).softmax(1)) / 2
    result = evaluate(model, data, inference=Inference(flip=True, average="probabilities"))
    label = data[0].label
    known = label != IGNORE
    picked = mean[0].gather(0, label.masked_fill(~known, 0)[None])[0][known]
    assert result.losses[0] == pytest.approx(float(-picked.log().mean()), rel=1e-4)


def test_mean_over_some_classes() -> None:
    matrix = np.array([[[8, 0, 2, 0], [1, 4, 0, 0], [0, 0, 6, 3], [0, 0, 0, 0]]])
    from uda.engine import Evaluation

    result = Evaluation(matrix, np.array([0.1]), ("a",), ("road", "wall", "car", "train"))
    road, wall, car = 8 / 11, 4 / 5, 6 / 11  # pixels of car as road still are errors of road
    assert result.miou(["road", "car"]) == pytest.approx((road + car) / 2)
    assert result.miou(["car", "road", "train"]) == pytest.approx((road + car) / 2), "train is never labelled"
    assert result.miou() == pytest.approx((road + wall + car) / 3)
    assert math.isnan(result.miou(["train"]))
    with pytest.raises(ValueError, match=r"no class 'raod'; the nearest is 'road'"):
        result.miou(["raod"])
    for classes in (["road", "road"], []):
        with pytest.raises(ValueError, match="different and at least one"):
            result.miou(classes)


# ---- label maps -----------------------------------------------------------------------------------------------------


def test_label_maps_have_the_images_size_and_the_same_inference(model: TinySegmenter, tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    inference = Inference(input_size=(16, 32), flip=True, window=(16, 16), score_at="input")
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
    expected = predict_logits(model, image, inference)[0].argmax(0).numpy()
    np.testing.assert_array_equal(label_map(model, pixels, inference), expected)
    space = inline_space(["a", "b", "c", "d", "e"])
    report = predict(model, [tmp_path / "a.png"], tmp_path / "out", space, inference=inference)
    np.testing.assert_array_equal(np.asarray(Image.open(report.written[0])), expected)


# ---- test-time methods ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"flip": True}, {"scales": (0.5, 1.0)}, {"window": (16, 16)}])
def test_what_adapts_to_each_pass_gets_one(options: dict[str, Any], tmp_path: Path) -> None:
    for method in (TENT(), CoTTA(scales=(1.0,)), PredictionTimeBN()):
        method.attach(TinySegmenter())
        with pytest.raises(ValueError, match=f"{type(method).__name__} adapts to every pass"):
            evaluate(method, tiny_target(), inference=Inference(**options))
        with pytest.raises(ValueError, match="adapts to every pass"):
            predict(method, [], tmp_path, tiny_space(5), inference=Inference(**options))  # type: ignore[arg-type]
        # one pass at another size is as good as at its own
        assert evaluate(method, tiny_target(), inference=Inference(input_size=(24, 48))).names
        method.detach_model()


def test_what_adapts_beforehand_may_see_several_passes(model: TinySegmenter, images: Tensor) -> None:
    method = AdaBN()
    method.attach(model)
    method.calibrate(images)
    inference = Inference(flip=True, window=(32, 32))
    calls = len(model.passes)
    predicted = predict_logits(method, images, inference)
    assert len(model.passes) - calls == 6
    torch.testing.assert_close(predicted, predict_logits(model, images, inference))


def test_images_to_adapt_to_have_the_size_that_is_predicted() -> None:
    data = tiny_target()
    seen = ResizedImages(data, Inference(input_size=(16, 24)))
    assert (len(seen), seen.name) == (len(data), data.name)
    assert seen[1].label is None, "labels stay out of reach"
    expected = bilinear(data[1].image[None].float(), (16, 24), antialias=True)[0]
    assert seen[1].image.dtype == torch.uint8
    assert (seen[1].image.float() - expected).abs().max() <= 0.5 + 1e-3
    assert torch.equal(ResizedImages(data, Inference())[1].image, data[1].image)


# ---- student and teacher --------------------------------------------------------------------------------------------


def test_the_trainer_scores_the_teacher() -> None:
    data = {"target": tiny_target()}
    settings = Settings(steps=2, crop=(32, 32), device="cpu", lr=0.01)
    inference = Inference(flip=True)
    torch.manual_seed(0)
    trainer = Trainer(
        TinySegmenter(), [Supervised(), ClassMix()], settings, evaluate_on=data, inference=inference, score="teacher"
    )
    with pytest.raises(RuntimeError, match="no teacher before fit"):
        _ = trainer.scored
    found = trainer.fit(TinyDataset(), tiny_target())["target"]
    assert trainer.update.teacher is not None
    teacher, student = (
        evaluate(network, data["target"], inference=inference)
        for network in (trainer.update.teacher.model, trainer.model)
    )
    np.testing.assert_array_equal(found.losses, teacher.losses)
    assert (teacher.losses != student.losses).all()
    plain = Trainer(trainer.model, [Supervised()], settings, evaluate_on=data, inference={"source": inference})
    by_name = plain.fit(TinyDataset())["target"]
    np.testing.assert_array_equal(by_name.losses, evaluate(plain.model, data["target"]).losses)


def test_a_teacher_that_nobody_trains_cannot_be_scored() -> None:
    with pytest.raises(ValueError, match="score is 'teacher', but Supervised train without one"):
        Trainer(TinySegmenter(), [Supervised()], Settings(steps=1), score="teacher")


# ---- values ---------------------------------------------------------------------------------------------------------


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"scale": 0}, "scale"),
    ({"scale": math.inf}, "scale"),
    ({"scales": []}, "scales"),
    ({"scales": [1.0, 0.0]}, r"scales is \(1.0, 0.0\)"),
    ({"scales": [math.nan]}, "scales.0\n  Input should be a finite number"),
    ({"input_size": [0, 10]}, r"input_size is \(0, 10\)"),
    ({"input_size": [10, 10], "scale": 0.5}, "only one of them can hold"),
    ({"window": [10, 0]}, "window is"),
    ({"stride": [4, 4]}, "no window"),
    ({"window": [8, 8], "stride": [4, 9]}, "must not be larger than the window"),
    ({"aux": -1}, "aux"),
    ({"average": "votes"}, "average"),
    ({"score_at": "output"}, "score_at"),
    ({"interpolation": "nearest"}, "interpolation"),
    ({"flips": True}, "flips"),
]


@pytest.mark.parametrize(("options", "message"), WRONG, ids=[str(options) for options, _ in WRONG])
def test_wrong_values_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Inference(**options)


def test_the_papers_evaluations_are_configs() -> None:
    text = (Path(__file__).parents[2] / "docs/evaluation.md").read_text()
    cells = [line.split(" | ")[1] for line in text.splitlines() if line.startswith("| ")]
    specs = [cell.strip("`") for cell in cells if cell.startswith("`{")]
    assert len(specs) >= 15
    for spec in specs:
        EvaluateSpec.model_validate(yaml.safe_load(spec.removesuffix("` |"))).check_classes(CITYSCAPES.names)
