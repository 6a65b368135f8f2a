"""Image and label files to arrays, with an error that names the file for all that can be wrong with one."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from uda.data import archives
from uda.data.errors import DataError, LossyLabelError
from uda.opencv import cv2

LabelFormat = Literal["auto", "ids", "colours", "synthia"]
"""How a label file codes its classes: ``ids`` one channel or palette index, ``colours`` three channels, ``auto`` by the
file's channels, ``synthia`` 16 bit with the class in the red channel."""

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")


_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "PNG"), (b"\xff\xd8\xff", "JPEG"), (b"BM", "BMP"), (b"II*\0", "TIFF"), (b"MM\0*", "TIFF"),
    (b"GIF8", "GIF"),
)  # fmt: skip
LOSSLESS = "PNG, BMP, TIFF or lossless WebP"
MOST_PIXELS = 1 << 30
"""Of an image, as OpenCV has it; a header that claims more is not believed."""


def read_image(path: Path) -> npt.NDArray[np.uint8]:
    """``(H, W, 3)`` uint8 RGB of an image file, as its pixels are stored: an EXIF orientation is not applied.

    Grey, palette, 1-bit and CMYK files are converted, alpha is dropped, 16 bits become 8; by the content, whatever the
    suffix says.

    Raises:
        DataError: the file is missing, truncated, no image, too large to be decoded, or of floating-point numbers.
    """
    data, file = _whole_file(path)
    if _format(data) == "TIFF" and _is_float_tiff(file, data):
        raise DataError(f"{file}: an image of floating-point numbers, whose range nothing says; save it with 8 bits")
    plain = _plain_png(data, _RGB)
    if plain is not None:
        return plain
    # labels have no orientation, so neither have images
    image = _decoded(file, data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION, "an image")
    return np.ascontiguousarray(image[:, :, ::-1], dtype=np.uint8)


def read_size(path: Path) -> tuple[int, int]:
    """Height and width of an image file by its header; what Pillow has no header of is decoded.

    Raises:
        DataError: the file is missing, or no image.
    """
    try:
        with Image.open(path if path.is_file() else io.BytesIO(archives.read(path))) as image:
            return image.height, image.width
    except Exception:  # Pillow's decoders raise what they like
        height, width, _ = read_image(path).shape
        return height, width


def read_label(path: Path, how: LabelFormat = "auto") -> npt.NDArray[Any]:
    """``(H, W)`` integer ids, or ``(H, W, 3)`` uint8 RGB colours, of a label file.

    Palette files hold ids (their indices) unless ``how`` is ``"colours"``.

    Raises:
        DataError: the file is missing, truncated, no image, compressed with loss, not of whole numbers, or its channels
            do not fit ``how``.
    """
    data, file = _whole_file(path)
    mode = _label_mode(file, data)
    if how != "colours" and mode == "P":
        indices = _plain_png(data, _PALETTE)
        return _palette_indices(file, data) if indices is None else indices
    if how in ("auto", "colours") and (colours := _plain_png(data, _RGB)) is not None:
        return colours
    label: npt.NDArray[Any] | None = _plain_png(data, _GREY)
    if label is None:
        label = _decoded(file, data, cv2.IMREAD_UNCHANGED, "a label image")
    if label.dtype.kind not in "ui":
        raise DataError(f"{file}: labels are whole numbers, found {_describe(label)}")
    if _is_narrow_grey(data):
        raise DataError(f"{file}: grey PNG with fewer than 8 bits a pixel; save the label ids with 8 or 16 bits")
    if how == "synthia":
        if label.ndim != 3 or label.dtype != np.uint16:
            raise DataError(f"{file}: expected 16-bit colour (SYNTHIA's GT/LABELS), found {_describe(label)}")
        return np.ascontiguousarray(label[:, :, 2])
    if label.ndim == 2:
        if how == "colours":
            raise DataError(f"{file}: expected label colours, found {_describe(label)}")
        return label
    if how == "ids":
        if not (label[..., :1] == label[..., 1:3]).all():
            raise DataError(f"{file}: expected label ids in one channel, found {_describe(label)}")
        return np.ascontiguousarray(label[..., 0])
    if label.dtype != np.uint8 or label.shape[2] not in (3, 4):
        raise DataError(f"{file}: expected 8-bit label colours, found {_describe(label)}")
    return np.ascontiguousarray(label[:, :, 2::-1])


def _decoded(file: str, data: bytes, flags: int, what: str) -> npt.NDArray[Any]:
    """The pixels of a file's bytes, whatever goes wrong as an error that names it."""
    try:
        pixels = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), flags)
    except (cv2.error, MemoryError) as error:
        reason = str(getattr(error, "err", "") or "") or " ".join(str(error).split())
        raise DataError(f"{file}: cannot be decoded as {what} ({reason[:120] or type(error).__name__})") from error
    if pixels is None:
        raise DataError(f"{file}: cannot be decoded as {what}")
    return pixels


def _palette_indices(file: str, data: bytes) -> npt.NDArray[Any]:
    """``(H, W)`` uint8: the indices of a palette file, which OpenCV would turn into colours."""
    try:
        with Image.open(io.BytesIO(data)) as checked:
            checked.verify()  # the checksums, which decoding does not look at
        with Image.open(io.BytesIO(data)) as indexed:
            return np.array(indexed)
    except Exception as error:  # Pillow's decoders raise what they like
        reason = " ".join(str(error).split()).partition(" <_io.")[0]  # without the address of what held the bytes
        raise DataError(f"{file}: cannot be decoded as a label image ({reason[:120]})") from error


def _format(data: bytes) -> str:
    """The format of a file by its first bytes; empty for one that is not known here."""
    start = data[:16]
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "WebP"
    return next((name for magic, name in _MAGIC if start.startswith(magic)), "")


def _is_float_tiff(file: str, data: bytes) -> bool:
    mode, _ = _header(data)
    # Pillow knows floats of one channel alone; what it cannot read is decoded to see
    return mode == "F" or (not mode and _decoded(file, data, cv2.IMREAD_UNCHANGED, "an image").dtype.kind == "f")


def _header(data: bytes) -> tuple[str, str]:
    """Pillow's mode of a file and its compression, without decoding; empty for what Pillow cannot read."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.mode, str(image.info.get("compression", "")).lower()
    except Exception:  # Pillow's decoders raise what they like
        return "", ""


def _label_mode(file: str, data: bytes) -> str:
    """Pillow's mode of a label file, ``P`` for palettes; a lossy compression, which changes numbers, is refused."""
    name = _format(data)
    lossy = name in ("JPEG", "GIF") or (name == "WebP" and b"VP8 " in data[:64])
    mode = "P" if _is_palette(data) else ""
    if name in ("TIFF", "BMP"):
        mode, compression = _header(data)
        lossy = "jpeg" in compression
    if lossy or mode in ("CMYK", "YCbCr", "LAB"):
        kind = "TIFF compressed as JPEG" if lossy and name == "TIFF" else name if lossy else f"{mode} {name}"
        refuse = LossyLabelError if lossy else DataError
        raise refuse(f"{file}: labels are lossless ids or RGB colours ({LOSSLESS}), found {kind}")
    return mode


def _describe(array: npt.NDArray[Any]) -> str:
    return f"{1 if array.ndim == 2 else array.shape[2]} channel(s) of {array.dtype}"


def _whole_file(path: Path) -> tuple[bytes, str]:
    """A file's bytes, and what it is called in errors."""
    data, file = archives.read(path), archives.described(path)
    # OpenCV fills what is missing of a truncated JPEG with grey and only prints, so the end marks are looked for here
    if data.startswith(b"\x89PNG") and b"IEND" not in data[-4096:]:
        raise DataError(f"{file}: truncated PNG ({len(data)} bytes)")
    if data.startswith(b"\xff\xd8") and b"\xff\xd9" not in data[-4096:]:
        raise DataError(f"{file}: truncated JPEG ({len(data)} bytes)")
    if not data:
        raise DataError(f"{file}: empty file")
    return data, file


_GREY, _RGB, _PALETTE = 0, 2, 3
"""Colour types of a PNG, as its header has them."""
_MODES = {_GREY: "mono", _RGB: "rgb", _PALETTE: "mono"}


def _plain_png(data: bytes, colour_type: int) -> npt.NDArray[np.uint8] | None:
    """The pixels of a PNG with 8 bits a channel, RGB ``(H, W, 3)``, grey or palette indices ``(H, W)``; twice as fast
    as by OpenCV.

    ``None`` for every other file, and for a damaged one, about which OpenCV has the last word.
    """
    if data[:8] != b"\x89PNG\r\n\x1a\n" or len(data) < 33 or (data[24], data[25]) != (8, colour_type):
        return None
    from kornia_rs.io import decode_image_png_u8

    width, height = int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    if width * height > MOST_PIXELS:
        return None
    try:
        pixels: npt.NDArray[np.uint8] = decode_image_png_u8(data, (height, width), _MODES[colour_type])
    except Exception:  # its only error has no class of its own
        return None
    return pixels if colour_type == _RGB else pixels[..., 0]


def _is_palette(data: bytes) -> bool:
    return data[:4] == b"\x89PNG" and len(data) > 25 and data[25] == 3


def _is_narrow_grey(data: bytes) -> bool:
    return data[:4] == b"\x89PNG" and len(data) > 25 and data[25] == 0 and data[24] < 8
