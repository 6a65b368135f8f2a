"""What is quick stays quick: heavy libraries are imported where they are used, not before."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "uda"
HEAVY = {
    *("accelerate", "cv2", "matplotlib", "ot", "pandas", "scipy.stats", "segmentation_models_pytorch", "skimage"),
    *("kornia_rs", "sklearn", "submitit", "tensorboard", "timm", "torchvision", "transformers"),
}
EVERY_METHOD = "import uda.methods as m; [getattr(m, name) for name in m.__all__]"
SHOWN = "import contextlib\nfrom uda.cli import main\nwith contextlib.suppress(SystemExit): main([{!r}])"


def python(code: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter, with ``path`` before everything else that it imports from."""
    places = [str(path)] if path else []
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*places, str(PACKAGE.parent)])}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import uda, uda.methods", HEAVY | {"torch", "numpy"}),
        (SHOWN.format("--help"), HEAVY | {"torch", "numpy"}),
        (SHOWN.format("--version"), HEAVY | {"torch", "numpy"}),
        (EVERY_METHOD, HEAVY),
        ("import uda.models; uda.models.Segmenter", HEAVY),
        ("import uda.engine, uda.data.transforms, uda.config, uda.presets, uda.bench, uda.plots", HEAVY - {"cv2"}),
    ],
    ids=["methods", "help", "version", "every method", "models", "engine and bench"],
)
def test_heavy_libraries_are_left_alone(code: str, absent: set[str]) -> None:
    done = python(f"{code}\nimport sys; print('LOADED', *({absent!r} & set(sys.modules)))")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("LOADED")[1].split() == []


def test_opencv_is_imported_in_one_place() -> None:
    """So that what it needs of the system is said wherever it is missing."""
    places = [
        str(path.relative_to(PACKAGE))
        for path in sorted(PACKAGE.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Import) and any(alias.name.partition(".")[0] == "cv2" for alias in node.names)
    ]
    assert places == ["opencv.py"]


@pytest.mark.parametrize("library", ["libGL.so.1", "libgthread-2.0.so.0"])
def test_a_missing_system_library_is_named_with_what_to_do(library: str, tmp_path: Path) -> None:
    (tmp_path / "cv2.py").write_text(
        f"raise ImportError('{library}: cannot open shared object file: No such file or directory')\n"
    )
    check = "import sys; sys.argv = ['uda', 'data', 'check', 'kitti', '.']; from uda.cli import main; main()"
    done = python(check, tmp_path)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    for part in (library, "apt install libgl1 libglib2.0-0", "pip install opencv-python-headless"):
        assert part in line
    done = python("from uda.data import Kitti", tmp_path)
    assert "apt install libgl1" in done.stderr.splitlines()[-1]


def test_another_failure_of_opencv_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "cv2.py").write_text("raise ImportError('numpy.core.multiarray failed to import')\n")
    done = python("from uda.data import Kitti", tmp_path)
    assert "multiarray failed" in done.stderr
    assert "apt install" not in done.stderr
