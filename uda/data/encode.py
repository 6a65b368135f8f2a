"""Arrays to image files: written whole or not at all, and label maps as colours."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from uda.files import atomic_write
from uda.opencv import cv2
from uda.types import IGNORE


def write_image(path: Path, pixels: npt.NDArray[np.uint8]) -> Path:
    """Write ``(H, W, 3)`` RGB or ``(H, W)`` grey, uint8, in the format of the path's suffix; missing folders are made.

    Raises:
        OSError: it cannot be encoded or written; the message names the file.
    """
    with atomic_write(path, binary=True) as file:
        file.write(encode_image(pixels, path.suffix, str(path)))
    return path


def encode_image(pixels: npt.NDArray[np.uint8], suffix: str, name: str = "image") -> bytes:
    """The bytes of an image file of ``(H, W, 3)`` RGB or ``(H, W)`` grey pixels.

    Raises:
        OSError: it cannot be encoded; the message has ``name``.
    """
    ordered = pixels[..., ::-1] if pixels.ndim == 3 else pixels  # OpenCV writes BGR
    done, data = cv2.imencode(suffix, np.ascontiguousarray(ordered))
    if not done:
        raise OSError(f"{name}: cannot be encoded as {suffix} ({pixels.dtype} {pixels.shape})")
    return bytes(data.tobytes())


def data_uri(pixels: npt.NDArray[np.uint8], suffix: str, width: int) -> str:
    """An image ``(H, W, 3)`` uint8 RGB inside a page, at most ``width`` pixels wide: averaged as ``.jpg``, the nearest
    pixels as ``.png``, which keeps the colours of label maps."""
    scale = min(1.0, width / pixels.shape[1])
    size = max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale))
    method = cv2.INTER_AREA if suffix == ".jpg" else cv2.INTER_NEAREST
    small = np.asarray(cv2.resize(np.ascontiguousarray(pixels), size, interpolation=method), dtype=np.uint8)
    kind = {".jpg": "jpeg", ".png": "png"}[suffix]
    return f"data:image/{kind};base64,{base64.b64encode(encode_image(small, suffix)).decode()}"


def colourise(labels: Any, colours: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Train ids ``(..., H, W)``, array or tensor -> uint8 RGB ``(..., H, W, 3)``; ignored pixels are black.

    Args:
        labels: on the CPU.
        colours: ``(C, 3)`` uint8 by train id.
    """
    table = np.zeros((IGNORE + 1, 3), dtype=np.uint8)
    table[: len(colours)] = colours
    coloured: npt.NDArray[np.uint8] = table[np.asarray(labels)]
    return coloured


def overlay(
    image: npt.NDArray[np.uint8], labels: Any, colours: npt.NDArray[np.uint8], opacity: float = 0.5
) -> npt.NDArray[np.uint8]:
    """``(H, W, 3)`` uint8: an image under the colours of its labels; ignored pixels stay as they are."""
    mixed = (1 - opacity) * image + opacity * colourise(labels, colours)
    return np.where(np.asarray(labels)[..., None] == IGNORE, image, mixed.round().astype(np.uint8))
