"""Pretrained weights: the embedded ones, files, and the refusal of what does not fit."""

from __future__ import annotations

import pytest
import skimage.data
import timm
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from uda.models import Segmenter, load_encoder_weights
from uda.models.weights import LITE0, canonical, lite0_state, resolve_encoder


def test_the_embedded_weights_fill_the_encoder():
    model = Segmenter(3)
    state, own = lite0_state(), model.encoder.state_dict()
    assert len(state) == 296
    for key, value in own.items():
        assert torch.equal(value, state[key.removeprefix("model.")])
    assert load_encoder_weights(model.encoder, "auto", LITE0) == 1.0


def test_the_embedded_weights_know_a_cat():
    """Any tensor in the wrong place, or another normalisation than the segmenter's, would not."""
    network, normalise = timm.create_model(LITE0), Segmenter(2, weights=None).normalise
    network.load_state_dict(lite0_state())
    cat = torch.from_numpy(skimage.data.chelsea()).permute(2, 0, 1)[None] / 255
    cat = F.interpolate(cat, size=(224, 336), mode="bilinear", antialias=True)
    with torch.no_grad():
        guess = network.eval()(normalise(cat)).argmax(1).item()
    assert 281 <= guess <= 285  # ImageNet's five domestic cats


def test_no_weights_are_random():
    first, second = (Segmenter(3, weights=None).encoder.state_dict()["model.conv_stem.weight"] for _ in range(2))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("kind", ["plain.pth", "wrapped.pth", "plain.safetensors"])
def test_files(tmp_path, kind):
    path = tmp_path / kind
    state = timm.create_model("resnet10t").state_dict()
    if kind == "plain.safetensors":
        save_file(state, path)
    elif kind == "wrapped.pth":
        torch.save({"state_dict": {f"module.backbone.{key}": value for key, value in state.items()}}, path)
    else:
        torch.save(state, path)
    model = Segmenter(3, "resnet10t", "FPN", weights=str(path))
    assert torch.equal(model.encoder.state_dict()["model.layer1.0.conv1.weight"], state["layer1.0.conv1.weight"])


def test_flattened_names_are_found(tmp_path):
    path = tmp_path / "convnext.pth"
    torch.save(timm.create_model("convnext_atto").state_dict(), path)
    encoder = timm.create_model("convnext_atto", features_only=True)
    assert load_encoder_weights(encoder, path, "convnext_atto") == 1.0
    assert canonical("model.stages_0.blocks.1.gamma") == "stages.0.blocks.1.gamma"


def test_weights_that_do_not_fit_are_refused(tmp_path):
    path = tmp_path / "other.pth"
    torch.save(timm.create_model("resnet18").state_dict(), path)
    with pytest.raises(ValueError, match=r"fill only \d+% of the 240 tensors.*conv_stem"):
        Segmenter(3, weights=str(path))
    state = {key: value for key, value in timm.create_model("resnet10t").state_dict().items() if "layer4" not in key}
    torch.save(state, path)
    with pytest.raises(ValueError, match=r"at least 95% needed\); without a match: .*layer4"):
        Segmenter(3, "resnet10t", "FPN", weights=str(path))


def test_missing_and_empty_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="no_such"):
        Segmenter(3, weights=str(tmp_path / "no_such.pth"))
    torch.save({"epoch": 3}, tmp_path / "empty.pth")
    with pytest.raises(ValueError, match="holds no state dict"):
        Segmenter(3, weights=str(tmp_path / "empty.pth"))


def test_no_network_is_a_clear_error(monkeypatch):
    def offline(*args, **kwargs):
        if kwargs.get("pretrained"):
            raise OSError("no route to host")
        return create(*args, **kwargs)

    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(RuntimeError, match=r"'tu-resnet10t' by name \(no route to host\).*weights=None"):
        Segmenter(3, "resnet10t", "FPN")


def test_the_frozen_encoder_keeps_the_pretrained_weights():
    model, images = Segmenter(3), torch.rand(1, 3, 40, 50)
    before = model.pretrained_encoder()(images)
    assert before.shape == model(images).features.shape
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    frozen = model.pretrained_encoder().train()
    torch.testing.assert_close(frozen(images), before)
    assert not frozen.training
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    with pytest.raises(ValueError, match="weights=None"):
        Segmenter(3, weights=None).pretrained_encoder()


def test_encoder_names():
    assert resolve_encoder("tf_efficientnet_lite0") == "tu-tf_efficientnet_lite0"
    assert resolve_encoder("tu-convnext_atto") == "tu-convnext_atto"
    assert resolve_encoder("resnet34") == "resnet34"
    assert resolve_encoder("resnet50.a1_in1k") == "tu-resnet50.a1_in1k"
