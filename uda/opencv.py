"""OpenCV, or what to do where it cannot be loaded; everything here imports it as ``from uda.opencv import cv2``."""

from __future__ import annotations

try:
    import cv2
except ImportError as error:
    if not str(error).startswith("lib"):  # a package that is not installed, or broken in another way
        raise
    # opencv-python draws windows too, and a bare server has not the system libraries for that
    raise ImportError(
        f"OpenCV needs a system library that is not here ({error}): apt install libgl1 libglib2.0-0, "
        "or: pip uninstall opencv-python && pip install opencv-python-headless",
        name="cv2",
    ) from error

__all__ = ["cv2"]
