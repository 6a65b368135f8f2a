"""Image and label files to arrays, with an error that names the file for all that can be wrong with one."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from uda.data.errors import DataError

LabelFormat = Literal["auto", "ids", "colours", "synthia"]
"""How a label file codes its classes: ``ids`` one channel or palette index, ``colours`` three channels, ``auto`` by the
file's channels, ``synthia`` 16 bit with the class in the red channel."""

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")


def read_image(path: Path) -> npt.NDArray[np.uint8]:
    """``(H, W, 3)`` uint8 RGB of an image file.

    Raises:
        DataError: the file is missing, truncated or no image.
    """
    image = cv2.imdecode(_whole_file(path), cv2.IMREAD_COLOR)
    if image is None:
        raise DataError(f"{path}: cannot be decoded as an image")
    return np.ascontiguousarray(image[:, :, ::-1], dtype=np.uint8)


def read_label(path: Path, how: LabelFormat = "auto") -> npt.NDArray[Any]:
    """``(H, W)`` integer ids, or ``(H, W, 3)`` uint8 RGB colours, of a label file.

    Palette files hold ids (their indices) unless ``how`` is ``"colours"``.

    Raises:
        DataError: the file is missing, truncated, no image, or its channels do not fit ``how``.
    """
    data = _whole_file(path)
    if how != "colours" and _is_palette(data):
        with Image.open(path) as indexed:
            return np.array(indexed)
    label = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    if label is None:
        raise DataError(f"{path}: cannot be decoded as a label image")
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
