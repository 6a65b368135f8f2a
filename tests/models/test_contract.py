"""What every segmenter of the library keeps to, and every decoder besides."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from uda.models import DeepLabV2, HrdaSegmenter, Segmenter, adapt, build_model
from uda.types import SegOutput

SMALL = "mobilenetv3_small_050"


class Foreign(nn.Module):
    """A network of somebody else's: normalised images to logits at a quarter."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 4, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.Conv2d(8, num_classes, 1)

    def forward(self, x):
        return {"out": self.head(self.body(x))}


def foreign(num_classes: int):
    return adapt(
        Foreign(num_classes), num_classes=num_classes, mean=(0.5,) * 3, std=(0.25,) * 3, feature_layer="body", divisor=8
    )


NETWORKS = {
    "segmenter": lambda classes: Segmenter(classes, SMALL, weights=None),
    "segmenter+aux": lambda classes: Segmenter(classes, SMALL, weights=None, aux=True, dropout=0.2, output_stride=8),
    "deeplabv2": lambda classes: DeepLabV2(classes, None, blocks=(1, 1, 1, 1), width=4),
    "daformer": lambda classes: build_model(
        "daformer", classes, encoder=SMALL, weights=None, embed_channels=8, channels=8
    ),
    "hrda": lambda classes: build_model(
        "hrda", classes, base="segmenter", encoder=SMALL, weights=None, embed_channels=8, crop=(32, 32)
    ),
    "hrda(deeplabv2)": lambda classes: HrdaSegmenter(DeepLabV2(classes, None, blocks=(1, 1, 1, 1), width=4)),
    "adapted": foreign,
}
KITTI_TINY = (47, 155)  # 187x621 scaled, both odd


@pytest.fixture(params=NETWORKS)
def build(request):
    return NETWORKS[request.param]


def test_shapes_strides_and_one_backward(build):
    model = build(5)
    output = model(torch.rand(2, 3, 64, 96))
    assert isinstance(output, SegOutput)
    assert output.logits.shape == (2, 5, 64, 96)
    assert output.features.shape[:2] == (2, model.feature_channels)
    assert 1 < output.features.shape[-1] <= 24
    assert (output.aux is not None) == model.has_aux
    loss = output.logits.square().mean() + output.features.mean()
    if output.aux is not None:
        assert output.aux.shape == output.logits.shape
        loss = loss + output.aux.square().mean()
    if "detail" in (output.extra or {}):
        loss = loss + output.get("detail").square().mean()
    loss.backward()
    trained = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.isfinite().all()}
    wanted = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == wanted


def inputs_of(modules):
    """What goes into some modules from now on, pass after pass."""
    seen = []
    for module in modules:
        module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    return seen


@pytest.mark.parametrize("network", [name for name in NETWORKS if name != "adapted"])
def test_features_before_the_classifier(network):
    """``extra["decoder"]`` is what a classifier of C classes gets (but for dropout), at a coarser size than the image.

    An adapted network gives it where ``extra_layers`` says so, see test_networks.py.
    """
    model, images = NETWORKS[network](7), torch.rand(2, 3, 64, 96)
    classifiers = (
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d) and module.out_channels == 7 and "aux" not in name and "attention" not in name
    )
    seen = inputs_of(classifiers)
    output = model.eval()(images)
    decoded = output.get("decoder")
    assert decoded.shape[0] == 2
    assert output.features.shape[-1] <= decoded.shape[-1] < 96
    assert any(torch.equal(decoded, tensor) for tensor in seen)
    decoded.mean().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    channels = decoded.shape[1]
    assert model.train()(torch.rand(1, 3, *KITTI_TINY)).get("decoder").shape[:2] == (1, channels)


def test_batch_of_one_of_odd_size_and_any_class_count(build):
    model = build(1)
    for size in (KITTI_TINY, (33, 32)):
        output = model(torch.rand(1, 3, *size))
        assert output.logits.shape == (1, 1, *size)
        output.logits.mean().backward()
        with torch.no_grad():
            assert model.eval()(torch.rand(1, 3, *size)).logits.isfinite().all()
        model.train()


def test_state_round_trip_and_copies(build):
    model, images = build(3), torch.rand(2, 3, 48, 64)
    model(images)
    other = build(3)
    other.load_state_dict(model.state_dict())
    clone = copy.deepcopy(model)
    with torch.no_grad():
        expected = model.eval()(images).logits
        torch.testing.assert_close(other.eval()(images).logits, expected)
        torch.testing.assert_close(clone.eval()(images).logits, expected)


def test_parameter_groups_hold_every_parameter_once(build):
    model = build(3)
    groups = model.parameter_groups(0.1, head_multiplier=10.0, weight_decay=0.05)
    torch.optim.AdamW(groups)
    found = [id(p) for group in groups for p in group["params"]]
    assert len(found) == len(set(found))
    assert set(found) == {id(p) for p in model.parameters()}, "a frozen one may be trained later"
    for group in groups:
        assert group["lr"] == pytest.approx(1.0 if group["name"].startswith("head") else 0.1)
        assert group["weight_decay"] == (0 if group["name"].endswith("no_decay") else 0.05)
        assert all((p.ndim <= 1) == group["name"].endswith("no_decay") for p in group["params"])


def test_encode_gives_the_features_of_forward(build):
    model, images = build(3).eval(), torch.rand(1, 3, *KITTI_TINY)
    with torch.no_grad():
        torch.testing.assert_close(model.encode(images), model(images).features)


def test_refuses_what_is_no_image(build):
    model = build(3)
    with pytest.raises(ValueError, match="uint8"):
        model(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"\(3, 32, 32\)"):
        model(torch.zeros(3, 32, 32))


@pytest.mark.parametrize(
    ("encoder", "decoder"),
    [
        (SMALL, "Unet"),
        (SMALL, "UnetPlusPlus"),
        (SMALL, "Linknet"),
        (SMALL, "MAnet"),
        (SMALL, "DeepLabV3"),
        (SMALL, "FPN"),
        (SMALL, "PSPNet"),
        (SMALL, "PAN"),
        (SMALL, "UPerNet"),
        ("pvt_v2_b0", "Segformer"),
        ("vit_tiny_patch16_224", "DPT"),
    ],
)
def test_other_decoders(encoder, decoder):
    options = {"embed_dim": 24} if decoder == "DPT" else None
    model = Segmenter(3, encoder, decoder, weights=None, options=options)
    seen = inputs_of([model.model.segmentation_head])
    output = model(torch.rand(1, 3, *KITTI_TINY))
    assert output.logits.shape == (1, 3, *KITTI_TINY)
    assert output.features.shape[1] == model.feature_channels
    assert torch.equal(output.get("decoder"), seen[0])
    output.logits.mean().backward()


def test_padding_changes_nothing_where_none_is_needed():
    model = Segmenter(3, SMALL, weights=None).eval()
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        scores = model.scores(images)
        assert scores.logits.shape[-1] == 16
        expected = F.interpolate(scores.logits, size=(64, 64), mode="bilinear", align_corners=False)
        torch.testing.assert_close(model(images).logits, expected)
