"""Exported files give what the network gives, with other runtimes; what does not is refused and leaves no file."""

from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from timm.layers.conv2d_same import Conv2dSame
from torch import nn

from tests.models.test_pretrained import worn
from uda.data.label_spaces import CAMVID11
from uda.models import ParityError, adapt, build_model, export, exporting, save
from uda.models.exporting import ModelError, _CeilMaxPool, _SamePadded, read_metadata

SMALL = "mobilenetv3_small_050"
NETWORKS: dict[str, dict[str, Any]] = {
    "segmenter": {"weights": None},  # the default: DeepLabV3+ over EfficientNet-Lite0
    "deeplabv2_resnet101": {"weights": None, "blocks": [1, 1, 1, 1], "width": 4, "bgr": True},
    "daformer": {"encoder": SMALL, "weights": None},
}


class Plain(nn.Module):
    """Somebody's network, with a pool that rounds up."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.MaxPool2d(3, 2, 1, ceil_mode=True))
        self.head = nn.Conv2d(8, 11, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(images))


def adapted() -> nn.Module:
    torch.manual_seed(0)
    statistics: dict[str, Any] = {"mean": (0.3, 0.4, 0.5), "std": (0.2, 0.2, 0.2)}
    network = adapt(Plain(), num_classes=11, feature_layer="body", **statistics).eval()
    network.space = CAMVID11  # type: ignore[assignment]
    return network


def images(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(3))


def onnx_output(path: Path, batch: torch.Tensor) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"images": batch.numpy()})[0])


@torch.no_grad()
def _agrees(network: nn.Module, path: Path, *shapes: tuple[int, ...]) -> None:
    for shape in shapes:
        batch = images(*shape)
        expected = network(batch).logits.numpy()
        np.testing.assert_allclose(onnx_output(path, batch), expected, atol=1e-4 * max(1, np.abs(expected).max()))


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_an_adapted_network_as_onnx(tmp_path: Path) -> None:
    network = adapted()
    written = export(network, tmp_path / "a.onnx")
    assert 0 <= written.difference < 1e-4
    assert len({shape[0] for shape in written.tried}) > 1
    assert len({shape[1:] for shape in written.tried}) > 1
    _agrees(network, written.path, (1, 3, 5, 7), (4, 3, 61, 90))
    told = read_metadata(written.path)
    assert [entry["name"] for entry in told["classes"]] == list(CAMVID11.names)
    np.testing.assert_allclose(told["normalised_inside"]["mean"], [0.3, 0.4, 0.5], rtol=1e-6)
    assert "[0, 1]" in told["input"]


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_of_any_size_as_onnx(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = worn(build_model(name, 11, **NETWORKS[name]))
    before = {key: value.clone() for key, value in network.state_dict().items()}
    written = export(network, tmp_path / "a.onnx")
    _agrees(network, written.path, (1, 3, 5, 64), (3, 3, 130, 67), (1, 3, 64, 64))
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert next(network.parameters()).requires_grad or name == "deeplabv2_resnet101"


@pytest.mark.slow
def test_torch_program_labels_and_probabilities(tmp_path: Path) -> None:
    network = adapted()
    for output in ("labels", "probabilities"):
        written = export(network, tmp_path / f"{output}.pt2", format="torch", output=output)
        program = torch.export.load(written.path).module()
        for shape in ((1, 3, 33, 41), (3, 3, 64, 20)):
            batch = images(*shape)
            logits = network(batch).logits
            expected = logits.argmax(1) if output == "labels" else logits.softmax(1)
            torch.testing.assert_close(program(batch), expected)
    assert read_metadata(written.path)["output"].startswith("probabilities: float32, (N, 11, H, W)")


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_one_size(tmp_path: Path) -> None:
    torch.manual_seed(0)
    base = {"base": "deeplabv2_resnet101", **NETWORKS["deeplabv2_resnet101"], "crop": [48, 96], "embed_channels": 8}
    network = build_model("hrda", 11, **base).eval()
    with pytest.raises(ModelError, match="HRDA's number of detail windows depends on the image's size"):
        export(network, tmp_path / "a.pt2", format="torch")
    written = export(network, tmp_path / "a.pt2", format="torch", size=(64, 96))
    assert {shape[1:] for shape in written.tried} == {(64, 96)}
    batch = images(2, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(torch.export.load(written.path).module()(batch), network(batch).logits)


def test_a_file_that_differs_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = exporting._torch

    def wrong(program: Any, description: Any) -> Any:
        content, run = made(program, description)
        return content, lambda batch: run(batch) + 0.1 * (batch.shape[-1] == 107)

    monkeypatch.setattr(exporting, "_torch", wrong)
    with pytest.raises(ParityError, match=r"a.pt2: on 2 images of 75x107 the file differs from the network by 0.1, "):
        export(adapted(), tmp_path / "a.pt2", format="torch")
    assert not list(tmp_path.iterdir())


def test_labels_that_differ_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = exporting._torch

    def wrong(program: Any, description: Any) -> Any:
        content, run = made(program, description)
        return content, lambda batch: (run(batch) + 1) % 11

    monkeypatch.setattr(exporting, "_torch", wrong)
    with pytest.raises(ParityError, match="differs"):
        export(adapted(), tmp_path / "a.pt2", format="torch", output="labels")


def test_what_cannot_be_traced_is_refused(tmp_path: Path) -> None:
    class Moody(Plain):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return super().forward(images) * (1 if images.mean() > 0.5 else 2)

    network = adapt(Moody(), num_classes=11, mean=(0, 0, 0), std=(1, 1, 1), feature_layer="body")
    with pytest.raises(ModelError, match=r"SegmenterAdapter cannot be exported for images of any size; for one size"):
        export(network, tmp_path / "a.pt2", format="torch")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "onxx"}, "format is 'onxx'; the nearest is 'onnx'"),
        ({"output": "logit"}, "output is 'logit'; the nearest is 'logits'"),
        ({"size": (0, 5)}, r"size is \(0, 5\), must be"),
        ({"tolerance": float("nan")}, "tolerance is nan, must be a number > 0"),
        ({"format": "torch"}, r"a.onnx: a file of the format torch ends in .pt2"),
    ],
)
def test_wrong_arguments(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=message):
        export(adapted(), tmp_path / "a.onnx", **options)


def test_a_missing_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **more: Any) -> Any:
        if name == "onnxscript":
            raise ImportError("No module named 'onnxscript'")
        return real(name, *args, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ModelError, match=r"needs the package onnxscript .*pip install 'uda-seg\[export\]'"):
        export(adapted(), tmp_path / "a.onnx")


@pytest.mark.parametrize("side", range(3, 12))
def test_the_pool_without_a_branch_is_the_pool(side: int) -> None:
    pool = nn.MaxPool2d(3, 2, 1, ceil_mode=True)
    assert _CeilMaxPool.fits(pool)
    assert not _CeilMaxPool.fits(nn.MaxPool2d(2, 2, 1, ceil_mode=True))
    batch = torch.randn(2, 3, side, side + 1)
    assert torch.equal(_CeilMaxPool(pool)(batch), pool(batch))


@pytest.mark.slow
def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tests.test_cli import call

    torch.manual_seed(0)
    network = build_model("deeplabv2_resnet101", 11, **NETWORKS["deeplabv2_resnet101"])
    place = save(network, tmp_path / "model", CAMVID11)
    command = ["export", place, "--format", "torch", "--size", "32x64", "--output", "labels"]
    assert call(*command) == 0
    assert "model.pt2: labels differ from the network's by at most" in capsys.readouterr().out
    assert read_metadata(place / "model.pt2")["size"] == [32, 64]
    assert call(*command) == 2
    assert "exists already; --overwrite replaces it" in capsys.readouterr().err
    assert call("export", place, "--network", "teacher", "--format", "torch", "--out", tmp_path / "t.pt2") == 2
    assert "has no teacher" in capsys.readouterr().err
    (tmp_path / "mine.onnx").write_text(json.dumps({}))
    assert call("export", place, "--out", tmp_path / "mine.onnx", "--overwrite") == 2
    assert "is no earlier output of this command" in capsys.readouterr().err


@pytest.mark.parametrize(("kernel", "stride", "dilation"), [(3, 2, 1), (5, 2, 1), (3, 1, 2), (1, 2, 1)])
def test_constant_same_padding_is_timms(kernel: int, stride: int, dilation: int) -> None:
    conv = Conv2dSame(4, 4, kernel, stride, dilation=dilation)
    batch = images(1, 4, 16, 22)
    torch.testing.assert_close(_SamePadded(conv)(batch), conv(batch))
