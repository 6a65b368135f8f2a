"""What is particular to the discriminator, DeepLabV2, HRDA and the adapter."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.models import resnet101

from uda.models import (
    DaformerSegmenter,
    DeepLabV2,
    Discriminator,
    HrdaSegmenter,
    Segmenter,
    Teacher,
    adapt,
    slide_boxes,
)
from uda.models.deeplabv2 import DilatedResNet
from uda.step import Step
from uda.types import View

SMALL = "mobilenetv3_small_050"


@pytest.mark.parametrize(
    ("size", "expected"), [((64, 96), (2, 3)), ((63, 33), (1, 1)), ((8, 40), (1, 1)), ((1, 1), (1, 1))]
)
def test_discriminator_sizes(size, expected):
    network = Discriminator(5, width=2)
    judged = network(torch.rand(2, 5, *size))
    assert judged.shape == (2, 1, *expected)
    judged.sum().backward()


def test_discriminator_refuses_no_channels():
    with pytest.raises(ValueError, match="at least 1, got 0 and 64"):
        Discriminator(0)


def test_deeplabv2_has_torchvisions_names_and_stride_8():
    with torch.device("meta"):
        ours, theirs = DilatedResNet().state_dict(), resnet101().state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items() if not k.startswith("fc")}
    stages = DilatedResNet((1, 1, 1, 1), 4)(torch.rand(1, 3, 64, 64))
    assert [stage.shape[-1] for stage in stages] == [17, 9, 9, 9]  # ceil_mode


def test_deeplabv2_weights_from_a_file_and_frozen_affine(tmp_path):
    small = {"blocks": (1, 1, 1, 1), "width": 4}
    state = {f"module.{k}": torch.rand_like(v.float()) for k, v in DilatedResNet(**small).state_dict().items()}
    torch.save(state, tmp_path / "resnet.pth")
    model = DeepLabV2(3, str(tmp_path / "resnet.pth"), **small)
    assert torch.equal(model.encoder.layer3[0].conv2.weight, state["module.layer3.0.conv2.weight"])
    for module in model.encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert not module.weight.requires_grad
    before = model.encoder.bn1.running_mean.clone()
    model(torch.rand(2, 3, 32, 32))
    assert not torch.equal(model.encoder.bn1.running_mean, before)
    assert model.pretrained_encoder()(torch.rand(1, 3, 32, 32)).shape[1] == model.feature_channels


def small_hrda(crop=None):
    return HrdaSegmenter(Segmenter(3, SMALL, weights=None, dropout=0.0), crop, embed_channels=8)


def test_hrda_trains_on_a_crop_and_slides_without_gradient():
    model, images = small_hrda(), torch.rand(2, 3, 72, 100)
    boxes = set()
    for _ in range(8):
        output = model(images)
        top, bottom, left, right = box = tuple(output.get("detail_box").tolist())
        assert 0 <= top < bottom <= 72
        assert 0 <= left < right <= 100
        assert output.get("detail").shape == (2, 3, bottom - top, right - left)
        boxes.add(box)
    assert len(boxes) > 1
    released = output.detach()
    assert torch.equal(released.get("detail_box"), output.get("detail_box"))
    assert not released.get("detail").requires_grad
    with torch.no_grad():
        assert "detail" not in model(images).extra
    output = Teacher(model)(images)
    assert "detail" not in output.extra
    assert output.logits.shape == (2, 3, 72, 100)


def test_hrda_attention_of_zero_is_the_context_and_of_one_the_detail():
    model, images = small_hrda((64, 64)).eval(), torch.rand(1, 3, 64, 64)
    last = model.attention.fuse[-1]
    nn.init.zeros_(last.weight)
    with torch.no_grad():
        nn.init.constant_(last.bias, -50.0)
        half = nn.functional.interpolate(images, size=(32, 32), mode="bilinear", align_corners=False)
        context = model.base(half).logits
        upsampled = nn.functional.interpolate(context, size=(64, 64), mode="bilinear", align_corners=False)
        assert (model(images).logits - upsampled).abs().mean() < 0.1 * upsampled.std()
        nn.init.constant_(last.bias, 50.0)
        torch.testing.assert_close(model(images).logits, model.base(images).logits, rtol=1e-4, atol=1e-5)


def test_hrda_frozen_encoder_fits_the_features(tmp_path):
    path = tmp_path / "small.pth"
    torch.save(Segmenter(3, SMALL, weights=None).encoder.state_dict(), path)
    model = HrdaSegmenter(Segmenter(3, SMALL, weights=str(path)), embed_channels=8)
    images = torch.rand(1, 3, 70, 90)
    assert model.pretrained_encoder()(images).shape == model(images).features.shape
    with pytest.raises(ValueError, match=r"crop must be at least 1 .*\(0, 4\)"):
        HrdaSegmenter(model.base, (0, 4))


def test_slide_boxes_cover_every_pixel():
    for size, crop, overlap in [((70, 33), (32, 16), True), ((64, 64), (20, 30), False), ((5, 9), (8, 8), True)]:
        covered = torch.zeros(size)
        for top, bottom, left, right in slide_boxes(*size, crop, overlap):
            assert bottom - top == min(crop[0], size[0])
            assert right - left == min(crop[1], size[1])
            covered[top:bottom, left:right] += 1
        assert (covered > 0).all()


class Foreign(nn.Module):
    def __init__(self, form="tensor") -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 8, 3, 4, 1), nn.ReLU())
        self.classifier = nn.Conv2d(8, 4, 1)
        self.unused = nn.Conv2d(8, 4, 1)
        self.form = form

    def forward(self, x):
        self.seen = x
        features = self.encoder(x)
        logits = self.classifier(features)
        return {
            "tensor": logits,
            "mapping": {"out": logits, "aux": 2 * logits},
            "odd mapping": {"scores": logits},
            "tuple": (features, logits),
        }[self.form]


NORMAL = {"num_classes": 4, "mean": (1.0, 2.0, 3.0), "std": (255.0, 255.0, 255.0), "scale": 255}


@pytest.mark.parametrize(
    ("form", "output"), [("tensor", None), ("mapping", None), ("odd mapping", "scores"), ("tuple", 1)]
)
def test_adapter_finds_the_logits(form, output):
    model = adapt(Foreign(form), feature_layer="encoder", output=output, **NORMAL)
    images = torch.rand(2, 3, 20, 30)
    found = model(images)
    assert found.logits.shape == (2, 4, 20, 30)
    assert found.features.shape == (2, 8, 5, 8)
    assert model.feature_channels == 8
    assert model.has_aux == (form == "mapping")
    torch.testing.assert_close(model.module.seen[:, 1], images[:, 1] - 2 / 255)
    assert not model.module.encoder._forward_hooks


@pytest.mark.parametrize(
    "layers", [{"decoder": "classifier", "first": "encoder.0"}, ("encoder.0", "classifier")], ids=["named", "paths"]
)
def test_adapter_gives_several_layers(layers):
    """By the names that methods look for, or by their paths; a teacher's copy has its own."""
    model = adapt(Foreign(), feature_layer="encoder", extra_layers=layers, **NORMAL)
    images = torch.rand(2, 3, 20, 30)
    output = model(images)
    assert list(output.extra) == list(layers)
    last = "decoder" if isinstance(layers, dict) else "classifier"
    torch.testing.assert_close(output.get(last), model.module.classifier(output.features))
    assert output.get("first" if isinstance(layers, dict) else "encoder.0").shape == (2, 8, 5, 8)
    assert all(not module._forward_hooks for module in model.modules())
    assert torch.equal(Teacher(model)(images).get(last), output.get(last))
    with pytest.raises(ValueError, match="no layer 'clasifier'; the nearest is 'classifier'"):
        adapt(Foreign(), feature_layer="encoder", extra_layers=["clasifier"], **NORMAL)
    with pytest.raises(ValueError, match="layer 'unused' is not used"):
        adapt(Foreign(), feature_layer="encoder", extra_layers=["unused"], **NORMAL)


@pytest.mark.parametrize(
    ("model", "channels"),
    [
        (lambda: Segmenter(3, SMALL, weights=None), 256),
        (lambda: DaformerSegmenter(3, "resnet18", weights=None, embed_channels=8, channels=12), 12),
        (lambda: HrdaSegmenter(Segmenter(3, SMALL, weights=None), embed_channels=8), 256),
    ],
    ids=["segmenter", "daformer", "hrda"],
)
def test_features_before_the_classifier(model, channels):
    network = model().eval()
    images = torch.rand(1, 3, 64, 64)
    output = network(images)
    assert output.get("decoder").shape[1] == channels
    copied = type(output)(*output)
    assert torch.equal(copied.get("decoder"), output.get("decoder"))


def test_a_classifier_on_the_bottleneck_itself_gets_the_bottleneck():
    """Gradients of both names add up, through the leaves of a step too."""
    model, images = DeepLabV2(3, weights=None, aux=False, blocks=(1, 1, 1, 1), width=8), torch.rand(1, 3, 64, 64)
    output = model(images)
    assert output.get("decoder") is output.features
    (output.features.mean() + 2 * output.get("decoder").mean()).backward()
    expected = model.encoder.conv1.weight.grad.clone()
    model.zero_grad()
    step = Step(model, {"target": View(images)}, index=0, total=1, generator=torch.Generator())
    predicted = step.predict("target")
    (predicted.features.mean() + 2 * predicted.get("decoder").mean()).backward()
    torch.autograd.backward(*step.release(["target"]))
    torch.testing.assert_close(model.encoder.conv1.weight.grad, expected)


def test_adapter_gives_blue_first():
    model = adapt(Foreign(), feature_layer="encoder", bgr=True, **NORMAL)
    images = torch.rand(1, 3, 8, 8)
    model(images)
    torch.testing.assert_close(model.module.seen[:, 0], images[:, 2] - 1 / 255)


def test_adapter_teacher_has_its_own_features():
    model = adapt(Foreign(), feature_layer="encoder", **NORMAL)
    teacher, images = Teacher(model), torch.rand(1, 3, 8, 8)
    nn.init.zeros_(model.module.encoder[0].weight)
    nn.init.zeros_(model.module.encoder[0].bias)
    assert teacher(images).features.abs().sum() > 0
    assert model(images).features.abs().sum() == 0


@pytest.mark.parametrize(
    ("form", "arguments", "message"),
    [
        ("tensor", {"feature_layer": "encodr"}, "no layer 'encodr'; the nearest is 'encoder'"),
        ("tensor", {"feature_layer": "unused"}, "not used"),
        ("tensor", {"feature_layer": "encoder", "num_classes": 3}, r"shape \(1, 4, 16, 16\), no logits \(N, 3"),
        ("odd mapping", {"feature_layer": "encoder"}, "there are: scores"),
    ],
)
def test_adapter_says_what_is_wrong(form, arguments, message):
    with pytest.raises(ValueError, match=message):
        adapt(Foreign(form), **(NORMAL | arguments))


def test_adapter_has_no_pretrained_encoder():
    with pytest.raises(ValueError, match="no known pretrained"):
        adapt(Foreign(), feature_layer="encoder", **NORMAL).pretrained_encoder()
