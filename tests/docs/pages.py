"""Runs the code of a Markdown page from top to bottom, as a reader would."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent.parent
PAGES = sorted(path for path in (ROOT / "docs").rglob("*.md"))
_BLOCK = re.compile(
    r"^(?:<!-- not run: (?P<reason>[^\n]+) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S
)
_FILE = re.compile(r"# ([\w./-]+\.(?:py|yaml))\n")


class Block(NamedTuple):
    """A fenced block: its language, its text, and why it does not run, if so."""

    language: str
    text: str
    reason: str | None

    @property
    def file(self) -> str | None:
        """The file that it is, where its first line names one."""
        named = _FILE.match(self.text)
        return named[1] if named else None


def blocks(path: Path) -> list[Block]:
    """The fenced blocks of a page."""
    found = _BLOCK.finditer(path.read_text(encoding="utf-8"))
    return [Block(match["language"], match["text"], match["reason"]) for match in found]


_DRIVER = """
import json, pathlib, subprocess, sys
space = {"__name__": "__main__"}
for number, (language, file, text) in enumerate(json.loads(pathlib.Path("blocks.json").read_text())):
    print(f"-- block {number}: {language} {file or ''}", flush=True)
    if file:
        pathlib.Path(file).write_text(text)
    elif language == "python":
        exec(compile(text, f"block {number}", "exec"), space)
    elif language == "sh":
        subprocess.run(["bash", "-euo", "pipefail", "-c", text], check=True)
"""


def run(arguments: list[str], cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A Python process in a folder, with this checkout's ``uda`` and the environment's commands."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    python_path = os.pathsep.join([str(cwd), str(ROOT), str(ROOT / "experiments" / "extension")])
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PATH": path, "PYTHONPATH": python_path, **environment},
    )  # fmt: skip


def run_page(path: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run every block of a page that is not marked, in order: files are written, Python shares its names."""
    chosen = [(b.language, b.file, b.text) for b in blocks(path) if b.reason is None]
    (folder / "blocks.json").write_text(json.dumps(chosen))
    (folder / "driver.py").write_text(_DRIVER)
    return run(["driver.py"], folder)
