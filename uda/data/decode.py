"""Image and label files to arrays, with an error that names the file for all that can be wrong with one."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

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


def read_image(path: Path) -> npt.NDArray[np.uint8]:
    """``(H, W, 3)`` uint8 RGB of an image file, as its pixels are stored: an EXIF orientation is not applied.

    Grey, palette, 1-bit and CMYK files are converted, alpha is dropped, 16 bits become 8; by the content, whatever the
    suffix says.

    Raises:
        DataError: the file is missing, truncated, no image, too large to be decoded, or of floating-point numbers.
    """
    data = _whole_file(path)
    if _format(data) == "TIFF" and _is_float_tiff(path, data):
        raise DataError(f"{path}: an image of floating-point numbers, whose range nothing says; save it with 8 bits")
    # labels have no orientation, so neither have images
    image = _decoded(path, data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION, "an image")
    return np.ascontiguousarray(image[:, :, ::-1], dtype=np.uint8)


def read_size(path: Path) -> tuple[int, int]:
    """Height and width of an image file by its header; what Pillow has no header of is decoded.

    Raises:
        DataError: the file is missing, or no image.
    """
    try:
        with Image.open(path) as image:
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
    data = _whole_file(path)
    mode = _label_mode(path, data)
    if how != "colours" and mode == "P":
        return _palette_indices(path, data)
    label = _decoded(path, data, cv2.IMREAD_UNCHANGED, "a label image")
    if label.dtype.kind not in "ui":
        raise DataError(f"{path}: labels are whole numbers, found {_describe(label)}")
    if _is_narrow_grey(data):
        raise DataError(f"{path}: grey PNG with fewer than 8 bits a pixel; save the label ids with 8 or 16 bits")
    if how == "synthia":
        if label.ndim != 3 or label.dtype != np.uint16:
            raise DataError(f"{path}: expected 16-bit colour (SYNTHIA's GT/LABELS), found {_describe(label)}")
        return np.ascontiguousarray(label[:, :, 2])
    if label.ndim == 2:
        if how == "colours":
            raise DataError(f"{path}: expected label colours, found {_describe(label)}")
        return label
    if how == "ids":
        if not (label[..., :1] == label[..., 1:3]).all():
            raise DataError(f"{path}: expected label ids in one channel, found {_describe(label)}")
        return np.ascontiguousarray(label[..., 0])
    if label.dtype != np.uint8 or label.shape[2] not in (3, 4):
        raise DataError(f"{path}: expected 8-bit label colours, found {_describe(label)}")
    return np.ascontiguousarray(label[:, :, 2::-1])


def _decoded(path: Path, data: npt.NDArray[np.uint8], flags: int, what: str) -> npt.NDArray[Any]:
    """The pixels of a file's bytes, whatever goes wrong as an error that names it."""
    try:
        pixels = cv2.imdecode(data, flags)
    except (cv2.error, MemoryError) as error:
        reason = str(getattr(error, "err", "") or "") or " ".join(str(error).split())
        raise DataError(f"{path}: cannot be decoded as {what} ({reason[:120] or type(error).__name__})") from error
    if pixels is None:
        raise DataError(f"{path}: cannot be decoded as {what}")
    return pixels


def _palette_indices(path: Path, data: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
    """``(H, W)`` uint8: the indices of a palette file, which OpenCV would turn into colours."""
    try:
        with Image.open(io.BytesIO(data.tobytes())) as checked:
            checked.verify()  # the checksums, which decoding does not look at
        with Image.open(io.BytesIO(data.tobytes())) as indexed:
            return np.array(indexed)
    except Exception as error:  # Pillow's decoders raise what they like
        raise DataError(f"{path}: cannot be decoded as a label image ({' '.join(str(error).split())[:120]})") from error


def _format(data: npt.NDArray[np.uint8]) -> str:
    """The format of a file by its first bytes; empty for one that is not known here."""
    start = data[:16].tobytes()
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "WebP"
    return next((name for magic, name in _MAGIC if start.startswith(magic)), "")


def _is_float_tiff(path: Path, data: npt.NDArray[np.uint8]) -> bool:
    mode, _ = _header(data)
    # Pillow knows floats of one channel alone; what it cannot read is decoded to see
    return mode == "F" or (not mode and _decoded(path, data, cv2.IMREAD_UNCHANGED, "an image").dtype.kind == "f")


def _header(data: npt.NDArray[np.uint8]) -> tuple[str, str]:
    """Pillow's mode of a file and its compression, without decoding; empty for what Pillow cannot read."""
    try:
        with Image.open(io.BytesIO(data.tobytes())) as image:
            return image.mode, str(image.info.get("compression", "")).lower()
    except Exception:  # Pillow's decoders raise what they like
        return "", ""


def _label_mode(path: Path, data: npt.NDArray[np.uint8]) -> str:
    """Pillow's mode of a label file, ``P`` for palettes; a lossy compression, which changes numbers, is refused."""
    name = _format(data)
    lossy = name in ("JPEG", "GIF") or (name == "WebP" and b"VP8 " in data[:64].tobytes())
    mode = "P" if _is_palette(data) else ""
    if name in ("TIFF", "BMP"):
        mode, compression = _header(data)
        lossy = "jpeg" in compression
    if lossy or mode in ("CMYK", "YCbCr", "LAB"):
        kind = "TIFF compressed as JPEG" if lossy and name == "TIFF" else name if lossy else f"{mode} {name}"
        refuse = LossyLabelError if lossy else DataError
        raise refuse(f"{path}: labels are lossless ids or RGB colours ({LOSSLESS}), found {kind}")
    return mode


def _describe(array: npt.NDArray[Any]) -> str:
    return f"{1 if array.ndim == 2 else array.shape[2]} channel(s) of {array.dtype}"


def _whole_file(path: Path) -> npt.NDArray[np.uint8]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    # OpenCV fills what is missing of a truncated JPEG with grey and only prints, so the end marks are looked for here
    if data.startswith(b"\x89PNG") and b"IEND" not in data[-4096:]:
        raise DataError(f"{path}: truncated PNG ({len(data)} bytes)")
    if data.startswith(b"\xff\xd8") and b"\xff\xd9" not in data[-4096:]:
        raise DataError(f"{path}: truncated JPEG ({len(data)} bytes)")
    if not data:
        raise DataError(f"{path}: empty file")
    return np.frombuffer(data, dtype=np.uint8)


def _is_palette(data: npt.NDArray[np.uint8]) -> bool:
    return data[:4].tobytes() == b"\x89PNG" and len(data) > 25 and int(data[25]) == 3


def _is_narrow_grey(data: npt.NDArray[np.uint8]) -> bool:
    return data[:4].tobytes() == b"\x89PNG" and len(data) > 25 and int(data[25]) == 0 and int(data[24]) < 8
