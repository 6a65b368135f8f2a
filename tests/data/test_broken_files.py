"""Damaged and unusual files: the right pixels, or an error that names the file; nothing left out without a word."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from uda.data import DATASETS, Cityscapes, DataError, Folder, Unlabelled, dataset, decode
from uda.data.base import FileDataset, image_files
from uda.data.check import check
from uda.data.decode import read_image, read_label
from uda.data.streets import generate

PIXELS = np.asarray(
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)).resize((48, 32), 3)
)
IDS = np.random.default_rng(1).integers(0, 19, (32, 48)).astype(np.uint8)


def saved(path: Path, mode: str, **options: Any) -> npt.NDArray[np.uint8]:
    """Write the picture in one of Pillow's modes; what Pillow reads back as RGB."""
    Image.fromarray(PIXELS).convert(mode).save(path, **options)
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("P", {"format": "PNG"}), ("1", {"format": "PNG"}), ("L", {"format": "PNG"}), ("LA", {"format": "PNG"}),
        ("RGBA", {"format": "PNG"}), ("CMYK", {"format": "JPEG", "quality": 95}), ("L", {"format": "JPEG"}),
        ("CMYK", {"format": "TIFF"}), ("P", {"format": "TIFF"}), ("1", {"format": "TIFF"}), ("P", {"format": "BMP"}),
        ("P", {"format": "GIF"}), ("RGB", {"format": "WEBP", "lossless": True}),
    ],
    ids=str,
)  # fmt: skip
def test_every_kind_of_image_is_converted_whatever_its_suffix_says(
    mode: str, options: dict[str, Any], tmp_path: Path
) -> None:
    for suffix in (".png", ".jpg"):
        path = tmp_path / f"image{suffix}"
        expected = saved(path, mode, **options)
        # JPEG decoders round differently
        assert np.abs(read_image(path).astype(int) - expected).max() <= (2 if options["format"] == "JPEG" else 0)


@pytest.mark.parametrize("mode", ["RGB", "L", "P"])
@pytest.mark.parametrize("damage", ["", "cut", "flipped", "another size"])
def test_the_fast_way_reads_what_the_slow_one_does(
    mode: str, damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.png"
    saved(path, mode)
    whole = path.read_bytes()
    at = whole.index(b"IDAT") + 40
    path.write_bytes(
        {
            "": whole, "cut": whole[:at] + whole[-12:],
            "flipped": whole[:at] + bytes([whole[at] ^ 8]) + whole[at + 1 :],
            "another size": whole[:19] + b"\x07" + whole[20:],
        }[damage]
    )  # fmt: skip

    def outcome(read: Callable[[Path], npt.NDArray[Any]]) -> object:
        try:
            return read(path).tolist()
        except DataError as error:
            return str(error)

    plain = decode._plain_png(path.read_bytes(), {"RGB": 2, "L": 0, "P": 3}[mode])
    assert (plain is None) == bool(damage), "of a damaged file the slow one has the last word"
    fast = [outcome(read_image), outcome(read_label)]
    monkeypatch.setattr(decode, "_plain_png", lambda data, colour_type: None)
    assert fast == [outcome(read_image), outcome(read_label)]


def test_an_image_is_read_as_it_is_stored(tmp_path: Path) -> None:
    orientation = Image.Exif()
    orientation[274] = 6
    Image.fromarray(PIXELS).save(tmp_path / "turned.jpg", exif=orientation, quality=100)
    assert read_image(tmp_path / "turned.jpg").shape == PIXELS.shape


def test_floating_point_images_are_refused(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).convert("F").save(tmp_path / "f.tif")
    cv2.imwrite(str(tmp_path / "rgb.tif"), PIXELS.astype(np.float32))
    for name in ("f.tif", "rgb.tif"):
        with pytest.raises(DataError, match=rf"{tmp_path}/{name}: an image of floating-point numbers"):
            read_image(tmp_path / name)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
@pytest.mark.parametrize(
    ("mode", "options", "found"),
    [
        ("L", {"format": "JPEG"}, "found JPEG"),
        ("RGB", {"format": "JPEG"}, "found JPEG"),
        ("CMYK", {"format": "JPEG"}, "found JPEG"),
        ("CMYK", {"format": "TIFF"}, "found CMYK TIFF"),
        ("RGB", {"format": "TIFF", "compression": "jpeg"}, "found TIFF compressed as JPEG"),
        ("RGB", {"format": "WEBP", "quality": 80}, "found WebP"),
        ("P", {"format": "GIF"}, "found GIF"),
    ],
)
def test_labels_that_lost_something_are_refused(
    mode: str, options: dict[str, Any], found: str, suffix: str, tmp_path: Path
) -> None:
    path = tmp_path / f"label{suffix}"
    Image.fromarray(PIXELS).convert(mode).save(path, **options)
    for how in ("auto", "ids", "colours"):
        with pytest.raises(DataError, match=f"{path}: labels are lossless ids or RGB colours .*{found}"):
            read_label(path, how)  # type: ignore[arg-type]


def test_labels_are_whole_numbers(tmp_path: Path) -> None:
    Image.fromarray(IDS.astype(np.float32) + 0.5).save(tmp_path / "f.tif")
    with pytest.raises(DataError, match=r"labels are whole numbers, found 1 channel\(s\) of float32"):
        read_label(tmp_path / "f.tif")


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
def test_lossless_labels_keep_their_ids(suffix: str, tmp_path: Path) -> None:
    if suffix == ".webp":
        Image.fromarray(IDS).convert("RGB").save(tmp_path / "l.webp", lossless=True)
    else:
        Image.fromarray(IDS).save(tmp_path / f"l{suffix}")
    assert (read_label(tmp_path / f"l{suffix}", "ids") == IDS).all()


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_palette_labels_are_their_indices(form: str, tmp_path: Path) -> None:
    indexed = Image.fromarray(IDS, mode="P")
    indexed.putpalette(np.random.default_rng(2).integers(0, 256, 768, dtype=np.uint8).tobytes())
    indexed.save(tmp_path / "label", format=form)
    assert (read_label(tmp_path / "label") == IDS).all()


def huge(colour_type: int) -> bytes:
    """A PNG whose header says 60000 x 60000."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 60000, 60000, 8, colour_type, 0, 0, 0)
    palette = chunk(b"PLTE", bytes(768)) if colour_type == 3 else b""
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + palette
        + chunk(b"IDAT", zlib.compress(bytes(100)))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("colour_type", [0, 2, 3])
@pytest.mark.parametrize("read", [read_image, read_label])
def test_a_header_that_lies_is_named(read: Callable[[Path], Any], colour_type: int, tmp_path: Path) -> None:
    path = tmp_path / "huge.png"
    path.write_bytes(huge(colour_type))
    with pytest.raises(DataError, match=f"{path}: cannot be decoded"):
        read(path)


def test_a_broken_palette_label_is_named(tmp_path: Path) -> None:
    indexed = Image.fromarray(IDS, mode="P")
    indexed.putpalette(bytes(768))
    indexed.save(tmp_path / "label.png")
    whole = (tmp_path / "label.png").read_bytes()
    for cut in range(45, len(whole) - 12, 40):
        (tmp_path / "label.png").write_bytes(whole[:cut] + whole[-12:])
        with contextlib.suppress(DataError):  # some cuts leave a picture
            read_label(tmp_path / "label.png")
    (tmp_path / "label.png").write_bytes(whole[:50] + whole[-12:])
    with pytest.raises(DataError, match=f"{tmp_path}/label.png: cannot be decoded"):
        read_label(tmp_path / "label.png")


def test_a_flipped_bit_of_a_palette_label_is_noticed(tmp_path: Path) -> None:
    indexed = Image.fromarray(IDS, mode="P")
    indexed.putpalette(bytes(768))
    indexed.save(tmp_path / "label.png")
    whole = (tmp_path / "label.png").read_bytes()
    for at in range(len(whole) - 40, len(whole) - 16):  # in the compressed pixels, which PNG guards by a checksum
        for bit in range(8):
            (tmp_path / "label.png").write_bytes(whole[:at] + bytes([whole[at] ^ (1 << bit)]) + whole[at + 1 :])
            with pytest.raises(DataError, match=f"{tmp_path}/label.png"):
                read_label(tmp_path / "label.png")


def write(path: Path, pixels: Any = PIXELS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), pixels)
    return path


def test_links_are_followed_once(tmp_path: Path) -> None:
    write(tmp_path / "root/a/x.png")
    write(tmp_path / "elsewhere/b/y.png")
    (tmp_path / "root/b").symlink_to(tmp_path / "elsewhere/b", target_is_directory=True)
    (tmp_path / "root/a/loop").symlink_to(tmp_path / "root", target_is_directory=True)
    (tmp_path / "root/z.png").symlink_to(tmp_path / "elsewhere/b/y.png")
    shutil.copy(tmp_path / "root/a/x.png", tmp_path / "root/a/UPPER.PNG")
    files = [path.relative_to(tmp_path / "root").as_posix() for path in image_files(tmp_path / "root")]
    assert files == ["a/UPPER.PNG", "a/x.png", "b/y.png", "z.png"]
    assert [path.name for path in image_files(tmp_path / "root", "per.png")] == ["UPPER.PNG"]


def test_linked_cities_are_there(tmp_path: Path) -> None:
    real = generate(tmp_path / "real", "cityscapes", {"train": 4}, (32, 64))
    whole = Cityscapes(real).names
    for part in ("leftImg8bit", "gtFine"):
        for city in (real / part / "train").iterdir():
            moved = tmp_path / "moved" / part / city.name
            moved.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(city, moved)
            city.symlink_to(moved, target_is_directory=True)
    assert Cityscapes(real).names == whole


@pytest.mark.parametrize("damage", ["dangling", "folder"])
def test_what_is_named_like_an_image_and_is_none(damage: str, tmp_path: Path) -> None:
    write(tmp_path / "images/a.png")
    write(tmp_path / "labels/a.png", IDS)
    broken = tmp_path / "images/b.png"
    if damage == "dangling":
        broken.symlink_to(tmp_path / "gone.png")
    else:
        broken.mkdir()
    reason = "is a link to a file that is not there" if damage == "dangling" else "named like an image and is a folder"
    with pytest.raises(DataError, match=rf"{broken}: .*{reason}"):
        Folder(tmp_path, classes="cityscapes34")
    opened = Folder(tmp_path, classes="cityscapes34", strict=False)
    assert opened.names == ["images/a.png"]
    assert any(str(broken) in problem and reason in problem for problem in check(opened).problems)
    with pytest.raises(DataError, match=str(broken)):
        Folder(tmp_path, labelled=False)


def test_a_limit_is_a_whole_number(tmp_path: Path) -> None:
    write(tmp_path / "images/a.png")
    for limit in (0, 1.5, "2", True):
        with pytest.raises(ValueError, match="limit is a whole number of at least 1, not"):
            Folder(tmp_path, labelled=False, limit=limit)  # type: ignore[arg-type]


def test_lists_of_images(tmp_path: Path) -> None:
    for name in ("a.png", "my image.png", "sub/b.png"):
        write(tmp_path / name)
        write(tmp_path / "masks" / name, IDS)
    listed = tmp_path / "list.txt"
    lines = ["\ufeff# comment", "a.png masks/a.png  # and another", "'my image.png' \"masks/my image.png\"", ""]
    listed.write_text("\n".join([*lines, "sub/b.png masks/sub/b.png"]), encoding="utf-8")
    opened = Folder(tmp_path, images="list.txt", classes="cityscapes34")
    assert opened.names == ["a.png", "my image.png", "sub/b.png"]
    assert opened.items[1].label == tmp_path / "masks/my image.png"
    for content, message in (
        (b"'a.png masks/a.png\n", r"list.txt, line 1: No closing quotation; quote names with blanks"),
        (b"a.png b c\n", "list.txt, line 1: expected 'image' or 'image label', not 3 entries"),
        (b"\xff\xfea\x00", r"list.txt: a list of images is a UTF-8 text"),
        (b"\n\ngone.png\n", "list.txt, line 3: no such image"),
    ):
        listed.write_bytes(content)
        with pytest.raises(DataError, match=message):
            Folder(tmp_path, images="list.txt", classes="cityscapes34")


def test_two_images_do_not_share_a_label(tmp_path: Path) -> None:
    for name in ("a.png", "a.jpg"):
        write(tmp_path / "images" / name)
    write(tmp_path / "labels/a.png", IDS)
    with pytest.raises(DataError, match=r"images/a.png: has the same label as .*images/a.jpg: .*labels/a.png"):
        Folder(tmp_path, classes="cityscapes34")
    assert len(Folder(tmp_path, labelled=False)) == 2


def test_names_that_are_no_text(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from tests.test_cli import call

    write(tmp_path / "images/a.png")
    name = os.fsdecode(b"images/\xff.png")
    try:
        os.rename(tmp_path / "images/a.png", tmp_path / name)
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    assert Folder(tmp_path, labelled=False).names == [r"images/\udcff.png"]
    (tmp_path / name).write_bytes(b"")
    assert call("data", "check", "folder", tmp_path, "--option", "labelled=false") == 1
    assert "empty file" in capfd.readouterr().out


def pairs(root: Path, *names: str) -> Path:
    """Images and labels of those names; the folder."""
    for name in names:
        write(root / f"images/{name}.png")
        write(root / f"labels/{name}.png", IDS)
    return root


def test_a_folder_of_images_alone_has_what_it_names(tmp_path: Path) -> None:
    write(tmp_path / "a.png")
    (tmp_path / "b.png").mkdir()
    with pytest.raises(DataError, match=r"b\.png: is named like an image and is a folder"):
        Unlabelled.folder(tmp_path)


@pytest.mark.parametrize("kind", ["folder", "camvid"])
def test_two_images_of_one_label_by_name(kind: str, tmp_path: Path) -> None:
    images, labels = ("images", "labels") if kind == "folder" else ("val", "valannot")
    for name in ("a", "b"):
        write(tmp_path / f"{images}/{name}.png")
        write(tmp_path / f"{labels}/{name}.png", IDS % 11)
    write(tmp_path / f"{images}/a.jpg")
    options: dict[str, Any] = {"classes": "cityscapes34"} if kind == "folder" else {"split": "val"}
    message = rf"{images}/a\.png: has the same label as .*{images}/a\.jpg: {tmp_path}/{labels}/a\.png"
    with pytest.raises(DataError, match=message):
        dataset(kind, root=tmp_path, **options)
    lenient = dataset(kind, root=tmp_path, strict=False, **options)
    assert lenient.names == [f"{images}/b.png"]
    assert len(check(lenient).problems) == 2  # nothing says which of the two the label belongs to
    assert len(dataset(kind, root=tmp_path, labelled=False, **options)) == 3


@pytest.mark.parametrize(("image", "label"), [("a.png", "a.PNG"), ("a.PNG", "a.png"), ("a.PNG", "a.PNG")])
def test_capital_suffixes_of_labels(image: str, label: str, tmp_path: Path) -> None:
    for part, name, pixels in (("image_2", image, PIXELS), ("semantic", label, IDS)):
        file = write(tmp_path / f"training/{part}/written.png", pixels)
        file.rename(file.with_name(name.replace("a", "000004_10")))
    kitti = dataset("kitti", root=tmp_path, split="all")
    assert kitti.names == [f"training/image_2/{image.replace('a', '000004_10')}"]
    assert kitti[0].label.shape == IDS.shape


def test_a_list_may_give_a_label_to_several_images(tmp_path: Path) -> None:
    pairs(tmp_path, "a", "b")
    (tmp_path / "pairs.txt").write_text("images/a.png labels/a.png\nimages/b.png labels/a.png\n")
    assert len(Folder(tmp_path, images="pairs.txt", classes="cityscapes34")) == 2


def test_a_listed_image_that_is_gone_is_a_problem(tmp_path: Path) -> None:
    pairs(tmp_path, "a")
    (tmp_path / "pairs.txt").write_text("images/gone.png\nimages/a.png labels/a.png")
    opened = Folder(tmp_path, images="pairs.txt", classes="cityscapes34", strict=False)
    assert opened.names == ["images/a.png"]
    assert "line 1" in opened.problems[0]
    assert "no such image: " in opened.problems[0]


# every reader against a table of damages


def layout(kind: str, root: Path) -> tuple[FileDataset, dict[str, Any]] | None:
    """A small data set of a kind and how it is opened; ``None`` where nothing here writes its layout."""
    if kind in ("cityscapes", "kitti", "ika"):
        generate(root, kind, {"val": 3}, (32, 64))
        options: dict[str, Any] = {"split": "val"}
    elif kind == "folder":
        for name in "abc":
            write(root / f"images/{name}.png")
            write(root / f"labels/{name}.png", IDS)
        options = {"classes": [f"class {index}" for index in range(19)]}
    elif kind == "camvid":
        for name in "abc":
            write(root / f"val/{name}.png")
            write(root / f"valannot/{name}.png", IDS % 11)
        options = {"split": "val"}
    elif kind == "gta5":
        for name in ("00001", "00002", "00003"):
            write(root / f"images/{name}.png")
            indexed = Image.fromarray(IDS + 7, mode="P")
            indexed.putpalette(bytes(768))
            (root / "labels").mkdir(exist_ok=True)
            indexed.save(root / f"labels/{name}.png")
        options = {"split": "all"}
    elif kind == "synthia":
        for name in "abc":
            write(root / f"RGB/{name}.png")
            label = np.zeros((*IDS.shape, 3), np.uint16)
            label[..., 2] = IDS % 12
            write(root / f"GT/LABELS/{name}.png", label)
        options = {"split": "all"}
    elif kind == "acdc":
        for name in "abc":
            write(root / f"rgb_anon/fog/val/GOPR1/{name}_rgb_anon.png")
            write(root / f"gt/fog/val/GOPR1/{name}_gt_labelIds.png", IDS)
        options = {"split": "val", "condition": "fog"}
    else:
        return None
    return dataset(kind, root=root, unknown="ignore", **options), options


def damages(content: bytes, draw: random.Random) -> Iterator[tuple[str, bytes | None]]:
    """Name and content of a damaged file; ``None``: the file itself is replaced."""
    yield "cut", content[: draw.randrange(1, len(content) - 1)]
    yield "cut, with the end mark", content[: len(content) // 2] + content[-12:]
    yield "empty", b""
    yield "zeros", bytes(len(content))
    yield "text", b"<html>404</html>"
    flipped = bytearray(content)
    for _ in range(4):
        flipped[draw.randrange(8, min(60, len(flipped)))] ^= 1 << draw.randrange(8)
    yield "flipped header", bytes(flipped)
    yield "flipped body", content[:60] + bytes(byte ^ (draw.random() < 0.01) for byte in content[60:])
    yield "huge", huge(draw.choice([0, 2, 3]))
    yield "JPEG", cv2.imencode(".jpg", PIXELS)[1].tobytes()
    yield "float TIFF", cv2.imencode(".tiff", IDS.astype(np.float32))[1].tobytes()
    yield "folder", None
    yield "dangling link", None
    yield "gone", None


def outcome(opened: FileDataset, index: int) -> tuple[str, Any]:
    """The message of a refused sample, or the sample."""
    try:
        return "", opened[index]
    except DataError as error:
        return str(error), None


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(DATASETS))
def test_every_reader_gives_samples_or_names_the_file(kind: str, tmp_path: Path) -> None:
    made = layout(kind, tmp_path / kind)
    assert made is not None, f"write a layout of {kind!r} above, so that it is tried too"
    opened, options = made
    draw = random.Random(kind)
    reference = [opened[index] for index in range(3)]
    for which in ("image", "label"):
        path: Path = getattr(opened.items[1], which)
        content = path.read_bytes()
        for name, damaged in damages(content, draw):
            path.unlink()
            if name == "folder":
                path.mkdir()
            elif name == "dangling link":
                path.symlink_to(tmp_path / "nowhere")
            elif damaged is not None:
                path.write_bytes(damaged)
            try:
                tried = dataset(kind, root=opened.root, unknown="ignore", strict=False, **options)
                report = check(tried)  # goes on with the others, whatever is wrong with one
                assert len(report.problems) <= 2, (name, report.problems)
                assert report.samples >= 2, (name, report.problems)
                assert all(str(path) in problem or str(opened.items[1].image) in problem for problem in report.problems)
                if name in ("cut", "empty", "zeros", "text", "huge", "folder", "dangling link") or (
                    name == "gone" and which == "label"  # an image that is gone is no sample
                ):
                    assert report.problems, f"{which}: {name} goes unnoticed"
                for index in range(len(tried)):
                    message, sample = outcome(tried, index)
                    assert str(path) in message if sample is None else sample.image.shape[1:] == sample.label.shape, (
                        name
                    )
            finally:
                if path.is_dir() and not path.is_symlink():
                    path.rmdir()
                else:
                    path.unlink(missing_ok=True)
                path.write_bytes(content)
    again = dataset(kind, root=opened.root, unknown="ignore", **options)
    assert all((again[index].label == reference[index].label).all() for index in range(3))
