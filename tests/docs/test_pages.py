"""What the pages of docs/ show runs as it stands, from top to bottom of a page; what cannot says why."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from uda.config import load_run


def _pages() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_pages", Path(__file__).parent / "pages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


pages = _pages()
RUNNING = [
    path for path in pages.PAGES if any(b.reason is None and b.language in ("sh", "python") for b in pages.blocks(path))
]
LONG = ("classes", "labels", "machines", "processes")
"""Whose commands are run by other tests as well."""


@pytest.mark.slow
@pytest.mark.timeout(900)  # pages draw scenes and train; a busy machine takes its time
@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=[pytest.mark.soak] if path.stem in LONG else [], id=path.stem) for path in RUNNING],
)
def test_a_page_runs_from_top_to_bottom(path: Path, tmp_path: Path) -> None:
    done = pages.run_page(path, tmp_path)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def test_every_block_says_what_it_is() -> None:
    for path in pages.PAGES:
        for block in pages.blocks(path):
            assert block.reason or block.language in ("sh", "python", "yaml"), f"{path.name}: {block.text[:80]}"


def test_yaml_is_yaml_and_whole_runs_are_configs(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = 0
    for path in pages.PAGES:
        for block in pages.blocks(path):
            if block.language == "yaml":
                content = yaml.safe_load(block.text)
                assert isinstance(content, dict), path.name
                if block.file and not any(":" in str(name) for name in (content.get("model") or {}).values()):
                    content["method"] = [name for name in content["method"] if not isinstance(name, dict)]
                    whole += bool(load_run(content))
    assert whole >= 3


def test_a_broken_block_is_noticed(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```python\nx = 1\n```\n\n```python\nassert x == 2\n```\n")
    (tmp_path / "run").mkdir()
    assert pages.run_page(page, tmp_path / "run").returncode != 0
    page.write_text("```python\nx = 1\n```\n\n<!-- not run: shows an error -->\n```python\nassert x == 2\n```\n")
    assert pages.run_page(page, tmp_path / "run").returncode == 0
