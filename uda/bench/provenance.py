"""When, with which code and on which machine a cell was measured."""

from __future__ import annotations

import os
import platform
import subprocess
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from importlib import metadata
from pathlib import Path

import torch

import uda

PACKAGES = (
    "torch",
    "torchvision",
    "numpy",
    "timm",
    "segmentation-models-pytorch",
    # the four distributions of OpenCV; a bare server has a headless one
    "opencv-python",
    "opencv-python-headless",
    "opencv-contrib-python",
    "opencv-contrib-python-headless",
)
GIT_SECONDS = 10.0
"""A repository on a network drive may take long; a run does not wait for it."""


def now() -> str:
    """The time in UTC, ``2026-03-01T12:00:00+00:00``."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@lru_cache(maxsize=1)
def commit(package: Path | None = None) -> str:
    """The commit of the git checkout that a package's code is in, ``1a2b3c4d5e6f``, with ``-dirty`` where files differ.

    Args:
        package: its folder; that of ``uda`` by default.

    Returns:
        The commit; empty where the code is not tracked by git (an installed package) or git is not there.
    """
    folder = Path(uda.__file__).parent if package is None else package

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=GIT_SECONDS, encoding="utf-8"
        ).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "__init__.py")  # a virtual environment may lie inside another repository
        return git("describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")
    except (OSError, subprocess.SubprocessError):
        return ""


def versions() -> dict[str, str]:
    """Versions of what a result depends on, as far as they are known: a run does not fail for a missing one."""
    known = {"uda": uda.__version__, "python": platform.python_version()}
    for name in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            known[name] = metadata.version(name)
    return known


def machine() -> str:
    """The processor count, and the accelerator where there is one."""
    cores = f"{os.cpu_count()} CPU cores ({platform.machine()})"
    return f"{torch.cuda.get_device_name()}, {cores}" if torch.cuda.is_available() else cores
