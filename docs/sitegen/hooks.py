"""Hooks of mkdocs: the pages that code writes, links between files of the repository, formulas."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[2])]

from sitegen import api, markup, methods, results, yaml_keys  # noqa: E402
from sitegen.markup import ROOT  # noqa: E402

from uda.methods import find_method  # noqa: E402

SOURCES = {"index.md": ROOT / "README.md", "benchmarks.md": ROOT / "benchmarks" / "README.md"}
"""Pages that are a README of the repository."""
RECORDED = "<!-- recorded -->"
"""Where a page has the table of all recorded rows."""
SHIM = "https://unpkg.com/iframe-worker/shim"
"""What the theme would fetch for searching pages that are opened from a disk; docs/iframe-worker.js is the same."""


def on_config(config: Any) -> Any:
    """Put the pages that code writes into the navigation."""
    pages = [{"All methods": "methods/index.md"}, *({name: methods.uri(name)} for name in methods.names())]
    config.nav = [
        *({**entry, "Methods": pages} if "Methods" in entry else entry for entry in config.nav),
        {"API": [{uri.removeprefix("api/").removesuffix(".md"): uri} for uri in api.pages()]},
    ]
    return config


def on_files(files: Files, config: Any) -> Files:
    own = {uri: path.read_text(encoding="utf-8") for uri, path in SOURCES.items()}
    for uri, content in {**own, **api.pages(), **methods.pages(), "yaml.md": yaml_keys.page()}.items():
        files.append(File.generated(config, uri, content=content))
    return files


def on_page_markdown(text: str, page: Any, config: Any, files: Files) -> str:
    uri = page.file.src_uri
    source = SOURCES.get(uri, ROOT / "docs" / uri)
    if not source.exists():
        return text
    pages = {path: to for to, path in SOURCES.items()}
    pages |= {ROOT / "docs" / file.src_uri: file.src_uri for file in files if not file.generated_by}
    # the repository has no pages of methods; there a link goes to the file, here to the page made from it
    pages |= {
        ROOT / f"{find_method(name).__module__.replace('.', '/')}.py": methods.uri(name) for name in methods.names()
    }
    pages |= {ROOT / "docs" / "sitegen" / "yaml_keys.py": "yaml.md", ROOT / "uda" / "methods": "methods/index.md"}
    return markup.relink(text, source, uri, pages).replace(RECORDED, results.table())


def on_page_content(content: str, **_: Any) -> str:
    return markup.with_mathml(content)


def on_post_page(output: str, page: Any, **_: Any) -> str:
    return offline(output, page.file.src_uri, "../" * page.file.dest_uri.count("/"))


def on_post_template(output: str, template_name: str, **_: Any) -> str:
    return offline(output, template_name, "") if template_name.endswith(".html") else output


def offline(output: str, name: str, root: str) -> str:
    """A page that fetches nothing from outside; ``root`` leads from it to the top of the site.

    Raises:
        PluginError: it still would.
    """
    output = output.replace(SHIM, f"{root}iframe-worker.js")
    fetched = re.search(r"""<(?:script|img|iframe|link)\b[^>]*\b(?:src|href)=["']?(?:https?:)?//[^>]*>""", output)
    if fetched and 'rel="canonical"' not in fetched[0]:
        raise PluginError(f"{name} fetches from outside: {fetched[0]}")
    return output
