"""Names, knobs and the batch norm of a batch of one."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from uda.models import Segmenter, build_model
from uda.models.base import Normalise, SingleValueBatchNorm2d, pad_to, split_decay

SMALL = "mobilenetv3_small_050"


def test_single_value_batch_norm():
    ours, theirs = SingleValueBatchNorm2d(4), nn.BatchNorm2d(4)
    many = torch.randn(2, 4, 3, 3)
    torch.testing.assert_close(ours(many), theirs(many))
    one, before = torch.randn(1, 4, 1, 1), ours.running_mean.clone()
    with pytest.raises(ValueError, match="more than 1 value"):
        theirs(one)
    trained = ours(one)
    assert torch.equal(ours.running_mean, before)
    torch.testing.assert_close(trained, ours.eval()(one))


def test_padding_reflects_or_repeats():
    x = torch.arange(12.0).view(1, 1, 3, 4)
    assert pad_to(x, 4, at_least=1).shape == (1, 1, 4, 4)
    torch.testing.assert_close(pad_to(x, 4, at_least=1)[0, 0, 3], x[0, 0, 1])
    repeated = pad_to(x, 8, at_least=1)
    assert repeated.shape == (1, 1, 8, 8)
    assert (repeated[0, 0, 2:, 3:] == x[0, 0, 2, 3]).all()


def test_normalise():
    images = torch.rand(1, 3, 2, 2)
    plain = Normalise((0.1, 0.2, 0.3), (0.5, 0.6, 0.7))(images)
    torch.testing.assert_close(plain[0, 1], (images[0, 1] - 0.2) / 0.6)
    caffe = Normalise((104.0, 117.0, 123.0), (1.0, 1.0, 1.0), scale=255, bgr=True)(images)
    torch.testing.assert_close(caffe[0, 0], images[0, 2] * 255 - 104, rtol=1e-4, atol=1e-3)
    with pytest.raises(ValueError, match="above 0"):
        Normalise((0.0,) * 3, (1.0, 0.0, 1.0))
    with pytest.raises(ValueError, match="three"):
        Normalise((0.0,), (1.0,))


def test_the_default_normalisation_is_that_of_the_weights():
    assert Segmenter(2, weights=None).normalise.mean.flatten().tolist() == [0.5] * 3
    assert Segmenter(2, SMALL, weights=None).normalise.mean[0, 0].item() == pytest.approx(0.485)
    assert Segmenter(2, SMALL, weights=None, mean=(0.1,) * 3).normalise.mean[0, 0].item() == pytest.approx(0.1)


def test_dropout_is_in_the_decoders_place_or_before_the_classifier():
    def rates(model):
        return {m.p for m in model.modules() if isinstance(m, (nn.Dropout, nn.Dropout2d))}

    assert 0.25 in rates(Segmenter(2, SMALL, weights=None, dropout=0.25).model)
    unet = Segmenter(2, SMALL, "Unet", weights=None, dropout=0.25)
    assert isinstance(unet.dropout, nn.Dropout2d)
    assert unet.dropout.p == 0.25
    assert isinstance(Segmenter(2, SMALL, "Unet", weights=None).dropout, nn.Identity)


def test_output_stride():
    images = torch.rand(1, 3, 64, 64)
    assert Segmenter(2, SMALL, weights=None, output_stride=8).encode(images).shape[-1] == 8
    assert Segmenter(2, SMALL, weights=None, output_stride=16).encode(images).shape[-1] == 4


def test_stochastic_depth_reaches_timm():
    model = Segmenter(2, weights=None, drop_path=0.2)
    assert max(getattr(m, "drop_prob", 0.0) or 0.0 for m in model.encoder.modules()) > 0.1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 0}, "num_classes must be at least 1, got 0"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
        ({"drop_path": -0.1}, r"drop_path must be in \[0, 1\), got -0.1"),
        ({"encoder": "tf_efficient_lite0"}, "the nearest are 'tf_efficientnet_lite0'"),
        ({"decoder": "DeepLabV3+"}, "the nearest is 'DeepLabV3'"),
        (
            {"encoder": "vit_tiny_patch16_224", "decoder": "DPT", "options": {"patch_size": 14, "embed_dim": 24}},
            "power of two",
        ),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        Segmenter(**({"num_classes": 3, "weights": None} | arguments))


def test_nvidias_encoder_warns_of_its_licence():
    with pytest.warns(UserWarning, match="non-commercial"):
        Segmenter(2, "mit_b0", "Segformer", weights=None)


def test_position_embeddings_are_not_decayed_and_frozen_parameters_are_there():
    module = nn.Module()
    module.pos_embed = nn.Parameter(torch.zeros(1, 4, 8))
    module.weight = nn.Parameter(torch.zeros(2, 2))
    module.frozen = nn.Parameter(torch.zeros(2, 2), requires_grad=False)
    decayed, kept = split_decay(module, "x", 0.1, 0.2)
    assert [p.shape for p in decayed["params"]] == [(2, 2), (2, 2)]
    assert [p.shape for p in kept["params"]] == [(1, 4, 8)]


def test_build_model_by_name():
    assert isinstance(build_model("segmenter", 2, encoder=SMALL, weights=None), Segmenter)
    with pytest.raises(ValueError, match=r"the nearest is 'daformer' .*deeplabv2_resnet101"):
        build_model("dafromer", 2)
    with pytest.raises(ValueError, match=r"no option 'encodr'; the nearest is 'encoder' \(known: encoder, decoder"):
        build_model("segmenter", 2, encodr=SMALL)
    with pytest.raises(ValueError, match=r"'segmenter' has no option 'encodr'"):
        build_model("hrda", 2, base="segmenter", encodr=SMALL)
    with pytest.raises(ValueError, match="own base"):
        build_model("hrda", 2, base="hrda")
