"""The benchmark configs that come with the library, by name: ``uda bench quickstart`` in any directory."""

from __future__ import annotations

from importlib import resources
from pathlib import Path


def benchmarks() -> dict[str, Path]:
    """The configs by name, sorted: files of ``uda/benchmarks`` in an installed wheel, of ``benchmarks`` in a checkout.

    Example:
        >>> from uda.shipped import benchmarks
        >>> benchmarks()["quickstart"].name
        'quickstart.yaml'
    """
    package = Path(str(resources.files("uda")))
    folder = next((place for place in (package / "benchmarks", package.parent / "benchmarks") if place.is_dir()), None)
    return {} if folder is None else {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def hardware() -> dict[str, Path]:
    """Settings measured to be good on a machine, by its name, sorted: what ``uda train --settings NAME`` takes.

    Each file is made by ``benchmarks/speed/hardware.py`` on that machine.
    """
    folder = Path(str(resources.files("uda"))) / "presets" / "hardware"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def config_file(source: Path | str) -> Path:
    """The file that a config's path or name stands for.

    Args:
        source: a path, or a name of :func:`benchmarks`. A file of that path, or of that name with ``.yaml`` in the
            working directory, goes before the config that comes with the library.

    Returns:
        The file; ``source`` as it is where nothing has that name.
    """
    path = Path(source)
    if path.is_file() or str(source) not in (known := benchmarks()):
        return path
    local = Path(f"{source}.yaml")
    return local if local.is_file() else known[str(source)]


def hides(source: Path | str) -> Path | None:
    """The config of the library that a local file of the same name goes before; ``None`` where none does."""
    known = benchmarks().get(str(source))
    return None if known is None or known.samefile(config_file(source)) else known


def summary(path: Path) -> str:
    """What a config is about: its first line, which is a comment."""
    with path.open(encoding="utf-8") as file:
        return file.readline().removeprefix("#").strip()
