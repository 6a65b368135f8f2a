"""What pyproject.toml has no place for: the benchmark configs lie outside of the package, and go into its wheel."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithBenchmarks(build_py):
    """Copies ``benchmarks/*.yaml`` to ``uda/benchmarks``; an editable install reads them where they are."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            for source, copied in self._configs():
                copied.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, copied)

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        return [*super().get_outputs(include_bytecode), *(str(copied) for _, copied in self._configs())]

    def _configs(self) -> list[tuple[Path, Path]]:
        folder = Path(self.build_lib, "uda", "benchmarks")
        return [(path, folder / path.name) for path in sorted(Path("benchmarks").glob("*.yaml"))]


setup(cmdclass={"build_py": BuildWithBenchmarks})
