"""What the commands write replaces nothing that they did not write."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.bench import tiny
from tests.test_cli import call
from uda.data.base import DataError
from uda.data.label_spaces import CAMVID11
from uda.data.streets import generate
from uda.engine.predict import LEGEND, find_images, predict
from uda.models import Segmenter, save


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_data(tmp_path_factory.mktemp("streets"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(Segmenter(11, decoder="FPN", weights=None), tmp_path_factory.mktemp("model"), CAMVID11)


def write(path: Path, size: tuple[int, int] = (32, 48)) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8))
    return path.read_bytes()


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_streets_never_replace_real_data(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for number in range(3):
        write(tmp_path / f"kitti/training/image_2/{number:06}_10.png")
    before = content(tmp_path)
    size = ["--size", "32x64", "--split", "val=2"]
    assert call("data", "streets", "--out", tmp_path, *size) == 2
    assert f"{tmp_path / 'kitti'}: holds other files" in capfd.readouterr().err
    assert content(tmp_path) == before  # the domains before it neither
    assert call("data", "streets", "--out", tmp_path, "--domain", "cityscapes", *size) == 0
    once = content(tmp_path)
    assert call("data", "streets", "--out", tmp_path, "--domain", "cityscapes", *size) == 0
    assert content(tmp_path) == once
    with pytest.raises(DataError, match="holds street scenes in the look of 'cityscapes', which kitti scenes"):
        generate(tmp_path / "cityscapes", "kitti", {"val": 1}, (32, 64))
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="is no folder"):
        generate(tmp_path / "file", "kitti", {"val": 1}, (32, 64))


def test_a_killed_call_can_be_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import uda.data.streets.write as module

    def killed(job: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "_run", killed)
        with pytest.raises(KeyboardInterrupt):
            generate(tmp_path, "cityscapes", {"val": 1}, (32, 64))
    assert any(tmp_path.iterdir())
    generate(tmp_path, "cityscapes", {"val": 1}, (32, 64))


@pytest.mark.parametrize("folder", ["overlay", "train_ids"])
def test_predictions_never_replace_their_input(folder: str, model: Path, tmp_path: Path) -> None:
    image = tmp_path / folder / "a.png"
    write(image)
    (tmp_path / folder / "a.jpg").write_bytes(image.read_bytes())
    before = content(tmp_path)
    for images in (image, tmp_path / folder, tmp_path):
        assert call("predict", model, images, "--out", tmp_path) == 2
    assert content(tmp_path) == before


def test_predictions_never_replace_what_no_prediction_wrote(model: Path, tmp_path: Path) -> None:
    write(tmp_path / "images/a.png")
    write(tmp_path / "out/overlay/a.jpg")
    before = content(tmp_path)
    assert call("predict", model, tmp_path / "images", "--out", tmp_path / "out") == 2
    assert content(tmp_path) == before
    assert call("predict", model, tmp_path / "images", "--out", tmp_path / "out", "--no-overlay") == 0


def test_predictions_are_made_again_and_have_a_legend(model: Path, tmp_path: Path) -> None:
    write(tmp_path / "a.png")
    for _ in range(2):  # the second time the first one's output lies among the images
        assert call("predict", model, tmp_path, "--out", tmp_path) == 0
        assert find_images(tmp_path, tmp_path) == [tmp_path / "a.png"]
    legend = json.loads((tmp_path / LEGEND).read_text())
    assert legend["ignored"] == 255
    assert [entry["name"] for entry in legend["classes"]] == list(CAMVID11.names)
    assert legend["classes"][3]["colour"] == CAMVID11.colours[3].tolist()
    assert cv2.imread(str(tmp_path / "train_ids/a.png"), cv2.IMREAD_UNCHANGED).max() < len(legend["classes"])


def test_every_image_has_an_output_of_its_own(model: Path, tmp_path: Path) -> None:
    names = ["a.png", "a.jpg", "a.jpg.png", "A.bmp", "b.png", "sub/b.png", "b-2.png"]
    for at, name in enumerate(names):
        write(tmp_path / "images" / name, (32, 32 + 8 * at))
    assert call("predict", model, tmp_path / "images", "--out", tmp_path / "out") == 0
    for folder in ("train_ids", "overlay"):
        written = [path for path in (tmp_path / "out" / folder).rglob("*") if path.is_file()]
        widths = sorted(cv2.imread(str(path)).shape[1] for path in written)
        assert widths == [32 + 8 * at for at in range(len(names))]
        assert len({str(path).lower() for path in written}) == len(names)
    # of other folders, without a common root
    report = predict(Segmenter(11, decoder="FPN", weights=None).eval(), [tmp_path / "images/b.png",
                     tmp_path / "images/sub/b.png"], tmp_path / "flat", CAMVID11)  # fmt: skip
    assert len(set(report.written)) == 2


def test_a_broken_image_does_not_stop_the_others(
    model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "images/a.png")
    (tmp_path / "images/gone.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "images/empty.jpg").write_bytes(b"")
    (tmp_path / "images/dir.png").mkdir()
    assert call("predict", model, tmp_path / "images", "--out", tmp_path / "out") == 1
    out, err = capfd.readouterr()
    assert "1 of 4 images predicted" in out
    for name in ("gone.png", "empty.jpg", "dir.png"):
        assert f"images/{name}" in err
    assert [path.name for path in (tmp_path / "out/train_ids").iterdir()] == ["a.png"]


def test_scores_and_sheets_replace_nothing_unasked(
    model: Path, data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    kitti = ["--kind", "kitti", "--root", data / "kitti", "--split", "val", "--option", "space=camvid11"]
    before = content(model)
    assert call("eval", model, *kitti, "--json", model / "model.safetensors") == 2
    assert "model.safetensors: the file is a JSON and must end in .json" in capfd.readouterr().err
    assert call("eval", model, *kitti, "--json", model / "model.json") == 2
    assert "model.json: exists already; --overwrite replaces it" in capfd.readouterr().err
    assert content(model) == before
    scores = [*kitti, "--json", tmp_path / "x.json", "--csv", tmp_path / "x.csv"]
    assert call("eval", model, *scores) == 0
    assert call("eval", model, *scores) == 2
    assert call("eval", model, *scores, "--overwrite") == 0
    sheet = ["data", "show", "kitti", data / "kitti", "--split", "val", "--out"]
    image = data / "kitti/training/image_2"
    photo = next(image.iterdir())
    pixels = photo.read_bytes()
    assert call(*sheet, photo) == 2
    assert photo.read_bytes() == pixels
    assert call(*sheet, tmp_path / "sheet.jpg") == 2
    assert call(*sheet, tmp_path / "sheet.png") == 0
    assert call(*sheet, tmp_path / "sheet.png") == 2
    assert call(*sheet, tmp_path / "sheet.png", "--overwrite") == 0


def test_inputs_are_not_replaced_even_when_asked(
    model: Path, data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    copied = tmp_path / "kitti"
    shutil.copytree(data / "kitti", copied)
    before, saved = content(copied), content(model)
    for part in ("image_2", "semantic"):
        file = next((copied / "training" / part).iterdir())
        link = tmp_path / f"{part}.png"
        link.symlink_to(file)
        for out in (file, link):
            assert call("data", "show", "kitti", copied, "--split", "val", "--out", out, "--overwrite") == 2
            assert "is no earlier output of this command" in capfd.readouterr().err
    kitti = ["--kind", "kitti", "--root", copied, "--split", "val", "--option", "space=camvid11"]
    for option, name in (("--json", "model.json"), ("--json", "model.safetensors"), ("--csv", "x.json")):
        assert call("eval", model, *kitti, option, model / name, "--overwrite") == 2
        assert ("is no earlier output of this command" in capfd.readouterr().err) == (name == "model.json")
    assert content(copied) == before
    assert content(model) == saved
    assert call("eval", model, *kitti, "--json", model / "scores.json") == 0
    assert call("eval", model, *kitti, "--json", model / "scores.json", "--overwrite") == 0
