"""Procedural street scenes: reproducible, exactly labelled, on disk as the real data sets, and different by domain."""

from __future__ import annotations

import hashlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from uda.data.cityscapes import Cityscapes
from uda.data.ika import Ika
from uda.data.kitti import VAL_NUMBERS, Kitti
from uda.data.label_spaces import IKA
from uda.data.streets import DOMAINS, generate, render
from uda.data.streets.camera import Camera, Canvas
from uda.data.streets.write import id_colours

SIZE = (48, 96)
IDS = {0, 7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 32, 33}


@pytest.fixture(scope="module")
def scenes() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Eighteen scenes of each domain: images and labels."""
    made = {name: [render(name, 5, SIZE, index=i) for i in range(18)] for name in DOMAINS}
    return {name: (np.stack([s[0] for s in all_]), np.stack([s[1] for s in all_])) for name, all_ in made.items()}


def tree(root: Path) -> dict[str, str]:
    return {
        str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(root.rglob("*"))
        if p.is_file()
    }


@pytest.mark.parametrize("domain", sorted(DOMAINS))
def test_render_is_a_function_of_its_arguments(domain: str) -> None:
    threads = cv2.getNumThreads()
    first = render(domain, 3, SIZE)
    cv2.setNumThreads(1)
    try:
        second = render(domain, 3, SIZE)
    finally:
        cv2.setNumThreads(threads)
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    for other in (render(domain, 4, SIZE), render(domain, 3, SIZE, index=1)):
        assert not np.array_equal(first[0], other[0])
    assert first[0].dtype == first[1].dtype == np.uint8
    assert first[0].shape == (*SIZE, 3)
    assert first[1].shape == SIZE


@pytest.mark.parametrize("domain", sorted(DOMAINS))
def test_default_size(domain: str) -> None:
    image, label = render(domain, 0)
    assert image.shape[:2] == label.shape == DOMAINS[domain].view.size


@pytest.mark.parametrize("domain", sorted(DOMAINS))
def test_only_known_ids_and_all_classes_occur(domain: str, scenes: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    found = set(np.unique(scenes[domain][1]).tolist())
    expected = IDS if DOMAINS[domain].view.bonnet else IDS - {0}
    assert found <= expected
    assert expected - found <= {12, 13, 19, 28, 32, 33}, "a frequent class is absent from 18 scenes"


@pytest.mark.parametrize("domain", sorted(DOMAINS))
def test_street_is_composed_like_a_street(domain: str, scenes: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    labels = scenes[domain][1]
    upper, lower = labels[:, : SIZE[0] // 4], labels[:, -SIZE[0] // 4 :]
    assert 0.2 < (labels == 7).mean() < 0.5
    assert np.isin(lower, (0, 7, 8, 22, 26, 27, 28)).mean() > 0.8
    assert np.isin(upper, (11, 17, 21, 23, 27, 28)).mean() > 0.9
    assert not np.isin(upper, (7, 8, 22)).any()


def test_channel_statistics_come_near_the_published_ones(scenes: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    published = {
        "cityscapes": ((0.287, 0.325, 0.284), (0.176, 0.181, 0.178)),
        "kitti": ((0.379, 0.398, 0.384), (0.298, 0.308, 0.315)),
    }
    for name, (mean, std) in published.items():
        pixels = scenes[name][0].reshape(-1, 3) / 255
        assert np.abs(pixels.mean(0) - mean).max() < 0.06, (name, pixels.mean(0))
        assert np.abs(pixels.std(0) - std).max() < 0.06, (name, pixels.std(0))


def test_domains_differ_in_colour_contrast_and_camera(scenes: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    pixels = {name: images.reshape(-1, 3) / 255 for name, (images, _) in scenes.items()}
    mean, std = ({name: f(p) for name, p in pixels.items()} for f in (lambda p: p.mean(0), lambda p: p.std(0)))
    green = {name: m[1] - (m[0] + m[2]) / 2 for name, m in mean.items()}
    assert green["cityscapes"] > 0.02
    assert mean["ika"][0] - mean["ika"][2] > 0.07, "not warm"
    assert (std["kitti"] > 1.4 * std["cityscapes"]).all()
    sky = {name: images[labels == 23].mean() / 255 for name, (images, labels) in scenes.items()}
    assert sky["kitti"] > 0.85
    assert sky["kitti"] > sky["cityscapes"] + 0.1
    greenery = {name: np.isin(labels, (21, 22)).mean() for name, (_, labels) in scenes.items()}
    assert greenery["kitti"] > 1.5 * greenery["cityscapes"]


def test_a_fill_writes_colour_and_label_of_the_same_pixels() -> None:
    canvas = Canvas(Camera(80, 60, 60.0, (40.0, 25.0), (0.0, 1.5), 0.05, 0.001), (128, 128, 128), 1e9)
    canvas.poly([(-2, 0, 5), (-2, 3, 5), (1, 3, 9), (1, 0, 9)], (200, 10, 20), 11)
    board = canvas.board(0.5, 0.0, 6.0)
    assert board is not None
    board.disc(0, 1, (0.5, 0.8), (10, 200, 20), 21)
    board.limb((0, 0), (0.3, 2), 0.1, (10, 20, 200), 17)
    colour_of = {0: (0, 0, 0), 11: (200, 10, 20), 21: (10, 200, 20), 17: (10, 20, 200)}
    colour, label = canvas.buffer[..., :3], canvas.buffer[..., 3]
    assert set(np.unique(label).tolist()) == set(colour_of)
    for code, value in colour_of.items():
        wanted = np.minimum(np.abs(colour[label == code].astype(int) - value), 255)
        assert wanted.max() <= 1


def test_polygons_are_cut_at_the_camera() -> None:
    camera = Camera(80, 60, 60.0, (40.0, 25.0), (0.0, 1.5), 0.0, 0.0)
    canvas = Canvas(camera, (0, 0, 0), 1e9)
    canvas.poly([(2, 0, -10), (2, 4, -10), (2, 4, 50), (2, 0, 50)], (255, 255, 255), 11)
    covered = canvas.buffer[..., 3] == 11
    assert covered[:55, -1].all()  # at the right edge the wall is 3 m away and meets the ground in row 55
    assert not covered[:, :40].any()
    behind = Canvas(camera, (0, 0, 0), 1e9)
    behind.poly([(2, 0, -10), (2, 4, -10), (2, 4, -5), (2, 0, -5)], (255, 255, 255), 11)
    assert not behind.buffer.any()


def test_ground_and_projection_agree() -> None:
    camera = Camera(120, 80, 70.0, (60.0, 30.0), (1.2, 1.6), 0.08, 0.002)
    top, across, forward = camera.ground()
    rows, columns = np.indices(across.shape)
    points = np.stack([across, np.zeros_like(across), forward], -1)[5:]
    pixels = camera.to_pixels(camera.to_camera(points))
    assert np.allclose(pixels[..., 0], columns[5:] + 0.5, atol=1e-2)
    assert np.allclose(pixels[..., 1], rows[5:] + top + 0.5, atol=1e-2)


def test_cityscapes_layout(tmp_path: Path) -> None:
    generate(tmp_path, "cityscapes", {"train": 2, "val": 1}, SIZE, seed=2)
    images, labels = (
        sorted(tmp_path.glob("leftImg8bit/train/*/*_leftImg8bit.png")),
        sorted(tmp_path.glob("gtFine/*/*/*.png")),
    )
    assert len(images) == 2
    assert len(labels) == 3
    assert images[0].name == f"{images[0].parent.name}_000000_000000_leftImg8bit.png"
    data = Cityscapes(tmp_path, "train")
    assert len(data) == 2
    rgb, ids = render("cityscapes", 2, SIZE, index=1)
    sample = data[1]
    assert np.array_equal(sample.image.numpy().transpose(1, 2, 0), rgb)
    assert np.array_equal(cv2.imread(str(labels[1]), cv2.IMREAD_UNCHANGED), ids)


def test_kitti_layout(tmp_path: Path) -> None:
    generate(tmp_path, "kitti", {"train": 4, "val": 2}, SIZE)
    numbers = sorted(int(p.name[:6]) for p in (tmp_path / "training/image_2").glob("*_10.png"))
    assert numbers == sorted({*VAL_NUMBERS[:2], *[n for n in range(200) if n not in VAL_NUMBERS][:4]})
    shapes = set()
    for path in (tmp_path / "training/semantic").glob("*.png"):
        ids = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        colours = cv2.imread(str(tmp_path / "training/semantic_rgb" / path.name))[..., ::-1]
        assert np.array_equal(id_colours()[ids], colours)
        assert cv2.imread(str(tmp_path / "training/image_2" / path.name)).shape[:2] == ids.shape
        shapes.add(ids.shape)
    assert len(shapes) > 1
    assert (len(Kitti(tmp_path, "train")), len(Kitti(tmp_path, "val"))) == (4, 2)


def test_ika_layout(tmp_path: Path) -> None:
    generate(tmp_path / "one", "ika", {"all": 2}, SIZE)
    assert {p.stem + "_gtFine_labelColor.png" for p in (tmp_path / "one/input").iterdir()} == {
        p.name for p in (tmp_path / "one/label").iterdir()
    }
    assert len(Ika(tmp_path / "one")) == 2
    generate(tmp_path / "two", "ika", {"train": 2, "val": 1}, SIZE)
    data = Ika(tmp_path / "two", "train")
    assert (len(data), len(Ika(tmp_path / "two", "val"))) == (2, 1)
    assert data.space.names == IKA.names
    label, ids = data[1].label, render("ika", 0, SIZE, index=1)[1]
    assert label is not None
    for raw, name in (
        (7, "road"),
        (23, "sky"),
        (26, "car"),
        (25, "two wheeler"),
        (12, "barrier"),
        (27, "large vehicle"),
    ):
        assert (label.numpy()[ids == raw] == list(IKA.names).index(name)).all()


def test_bytes_do_not_depend_on_other_splits(tmp_path: Path) -> None:
    generate(tmp_path / "a", "kitti", {"train": 2, "val": 2}, (32, 64), seed=9)
    generate(tmp_path / "b", "kitti", {"val": 1}, (32, 64), seed=9)
    a, b = tree(tmp_path / "a"), tree(tmp_path / "b")
    assert len(a) == 13
    assert b.items() < a.items()


@pytest.mark.slow
def test_bytes_do_not_depend_on_workers(tmp_path: Path) -> None:
    generate(tmp_path / "a", "kitti", {"train": 3, "val": 2}, (32, 64), seed=9)
    generate(tmp_path / "b", "kitti", {"train": 3, "val": 2}, (32, 64), seed=9, workers=2)
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"domain": "gta"}, "'gta'.*cityscapes, ika, kitti"),
        ({"size": (8, 64)}, r"\(8, 64\).*16"),
        ({"size": (64.5, 64)}, r"64\.5"),
        ({"seed": -1}, "seed is -1.*from 0"),
        ({"workers": 0}, "workers is 0.*from 1"),
        ({"splits": {"dev": 1}}, "'dev'.*train, val, test"),
        ({"splits": {"train": -1}}, "-1.*0 to"),
        ({"domain": "kitti", "splits": {"val": 31}}, "31.*0 to 30"),
        ({"domain": "kitti", "splits": {"train": 171}}, "171.*0 to 170"),
        ({"domain": "ika", "splits": {"all": 1, "val": 1}}, "'all' alone"),
    ],
)
def test_wrong_arguments_name_value_and_allowed(tmp_path: Path, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generate(tmp_path, **arguments)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_render_refuses_wrong_arguments() -> None:
    for arguments, message in (
        (("mars", 0), "mars.*cityscapes"), (("kitti", -2), "seed is -2"), (("kitti", 0, (4, 4)), r"\(4, 4\)"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            render(*arguments)  # type: ignore[arg-type]
