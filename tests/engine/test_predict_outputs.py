"""What a prediction writes on request: colours, probabilities, and a page that needs no other file."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors import safe_open

from uda.data.base import DataError
from uda.data.encode import write_image
from uda.data.folder import inline_space
from uda.engine import predict as module
from uda.engine.inference import Inference
from uda.engine.predict import find_images, label_map, predict
from uda.testing.tiny import TinySegmenter

SPACE = inline_space(["road", "<b>car", "sky & air", "tree", "person"])
NAMES = {"a.png": (20, 30), "straße/ü 日本.jpg": (33, 17), "deep/er/<script>x.png": (8, 40)}


class Page(HTMLParser):
    """Tags, text and the addresses of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag == "img":
            self.images.append(dict(attrs))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def model() -> torch.nn.Module:
    torch.manual_seed(1)
    network = TinySegmenter().eval()
    torch.nn.init.normal_(network.head.weight, std=3)
    return network


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for number, (name, size) in enumerate(NAMES.items()):
        pixels = np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)
        write_image(tmp_path / "images" / name, pixels)
    return tmp_path / "images"


def read(path: Path) -> np.ndarray:
    pixels = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)
    return pixels if pixels.ndim == 2 else pixels[..., ::-1]


def test_colours_and_probabilities(model: torch.nn.Module, images: Path, tmp_path: Path) -> None:
    out, inference = tmp_path / "out", Inference(flip=True, average="probabilities")
    report = predict(
        model, find_images(images), out, SPACE, root=images, overlay=None, colour=True, probabilities=True,
        inference=inference,
    )  # fmt: skip
    assert len(report.written) == len(NAMES)
    for name, size in NAMES.items():
        image = read(images / name)
        labels = label_map(model, image, inference)
        stem = Path(name).with_suffix("")
        np.testing.assert_array_equal(read(out / "train_ids" / f"{stem}.png"), labels)
        np.testing.assert_array_equal(read(out / "colour" / f"{stem}.png"), SPACE.colours[labels])
        with safe_open(out / "probabilities" / f"{stem}.safetensors", "pt") as file:
            probabilities = file.get_tensor("probabilities")
            assert json.loads(file.metadata()["classes"]) == list(SPACE.names)
        assert probabilities.dtype == torch.float16
        assert probabilities.shape == (5, *size)
        batch = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 255
        with torch.no_grad():
            plain = (model(batch).logits.softmax(1) + model(batch.flip(-1)).logits.flip(-1).softmax(1)) / 2
        torch.testing.assert_close(probabilities.float(), plain[0], atol=1e-3, rtol=0)
    assert not (out / "overlay").exists()


def test_the_page(model: torch.nn.Module, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (images / "broken.png").write_bytes(b"no image")
    report = predict(model, find_images(images), out, SPACE, root=images, ids=(), overlay=None, html=True)
    assert len(report.failed) == 1
    assert report.written == []
    text = (out / "predictions.html").read_text(encoding="utf-8")
    page = Page(text)
    assert len(page.images) == 3 * len(NAMES)
    assert all(image["loading"] == "lazy" for image in page.images)
    assert not {"script", "link", "b"} & set(page.tags)
    assert not re.search(r"https?://", text)  # it works offline
    for name in NAMES:
        assert name in page.text
    labels = {name: label_map(model, read(images / name)) for name in NAMES}
    counts = np.bincount(np.concatenate([values.ravel() for values in labels.values()]), minlength=5)
    for name, count in zip(SPACE.names, counts, strict=True):
        if count:
            assert f"{name} {100 * count / counts.sum():.1f} %" in page.text
    # the pictures in the page are the predictions
    (source,) = (image["src"] for image in page.images if image["alt"] == "prediction of a.png")
    assert source is not None
    pixels = cv2.imdecode(np.frombuffer(base64.b64decode(source.split(",")[1]), np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(pixels[..., ::-1], SPACE.colours[labels["a.png"]])


def test_a_long_list_is_sampled(
    model: torch.nn.Module, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SHEET_IMAGES", 2)
    predict(model, find_images(images), tmp_path / "out", SPACE, root=images, ids=(), overlay=None, html=True)
    page = Page((tmp_path / "out/predictions.html").read_text(encoding="utf-8"))
    assert len(page.images) == 6
    assert "3 images" in page.text
    assert "Shown: 2 of them" in page.text


def test_no_foreign_file_is_replaced(model: torch.nn.Module, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "predictions.html").write_text("mine")
    files = find_images(images)
    with pytest.raises(DataError, match=r"predictions.html: is there, and no earlier prediction wrote it"):
        predict(model, files, out, SPACE, root=images, html=True)
    assert [path.name for path in out.iterdir()] == ["predictions.html"]
    predict(model, files, out, SPACE, root=images)  # nothing of that name is asked for
    (out / "probabilities").mkdir()
    (out / "probabilities" / "x.safetensors").write_text("")
    predict(model, files, tmp_path / "again", SPACE, root=images, html=True)
    predict(model, files, tmp_path / "again", SPACE, root=images, html=True)  # an earlier page is ours
