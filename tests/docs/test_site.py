"""What the site is made of: every key and argument has a meaning, every public name a page, links and formulas."""

from __future__ import annotations

import inspect
import re
from importlib import import_module
from pathlib import Path

import pytest

pytest.importorskip("griffe", reason="the docs extra is not installed")
pytest.importorskip("mkdocs", reason="the docs extra is not installed")
pytest.importorskip("latex2mathml", reason="the docs extra is not installed")

from mkdocs.exceptions import PluginError
from sitegen import api, figures, hooks, markup, methods, results, yaml_keys

from uda.config import BenchConfig
from uda.engine import Settings


def test_every_yaml_key_has_a_meaning() -> None:
    keys = [(title, key) for title, (_, listed) in yaml_keys.sections().items() for key in listed]
    assert not [f"{title}: {key.name}" for title, key in keys if not key.meaning.strip()]
    assert {key.name for title, key in keys if title == "A benchmark"} == set(BenchConfig.model_fields)
    assert {key.name for title, key in keys if title == "settings"} == set(Settings.model_fields)


def test_keys_are_shown_as_yaml_has_them() -> None:
    keys = {key.name: key for key in yaml_keys.sections()["settings"][1]}
    assert keys["crop"][1:3] == ("[whole number, whole number]", "`[256, 512]`")
    assert keys["lr"][1:3] == ("number, > 0", "`0.0001`")
    assert keys["steps"].default == "required"
    assert keys["optimizer"].type == "name or `{name: {argument: value}}`"
    splits = {key.name: key.meaning for key in yaml_keys.sections()["kind: gta5"][1]}["split"]
    assert splits == "One of `all`, `train`, `val`, `test`."


def test_the_reference_is_a_page() -> None:
    page = yaml_keys.page()
    assert "## settings.augment" in page
    assert "| `steps` | whole number, > 0 | required | Optimiser steps" in page


def test_every_argument_of_a_method_has_a_meaning() -> None:
    for name in methods.names():
        rows = [line for line in methods.constructor(name) if line.startswith("| `")]
        assert not [row for row in rows if row.endswith("|  |")], name


def test_every_method_has_a_page_of_its_own() -> None:
    uris = [methods.uri(name) for name in methods.names()]
    assert len(set(uris)) == len(uris)


@pytest.mark.parametrize("module", [module.path for module in markup.packages()])
def test_every_public_name_is_on_a_page(module: str) -> None:
    page = api.pages()[f"api/{module}.md"]
    for name in getattr(import_module(module), "__all__", ()):
        target = markup.offered(next(m for m in markup.packages() if m.path == module))[name]
        assert f"::: {target}\n" in page or f"[`{target}`]" in page, name


def test_a_role_becomes_a_link_where_there_is_a_page() -> None:
    text = markup.markdown("see :class:`~uda.types.View`, :func:`wrap` and :data:`_PLACES`::", "uda.data")
    assert text == "see [`View`][uda.types.View], [`wrap`][uda.data.wrapped.wrap] and `_PLACES`:"


def test_links_follow_the_files(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    for name in ("README.md", "docs/colour.md", "run.yaml"):
        (tmp_path / name).touch()
    pages = {tmp_path / "README.md": "index.md", tmp_path / "docs" / "colour.md": "colour.md"}
    text = "[a](../README.md#x) [b](../run.yaml) [c](https://example.org)\n```\n[d](../run.yaml)\n```\n"
    assert markup.relink(text, tmp_path / "docs" / "colour.md", "howto/x.md", pages) == (
        "[a](../index.md#x) b [c](https://example.org)\n```\n[d](../run.yaml)\n```\n"
    )
    with pytest.raises(ValueError, match=r"link to gone\.md, which is not there"):
        markup.relink("[a](gone.md)", tmp_path / "README.md", "index.md", pages)


def test_formulas_are_mathml() -> None:
    page = markup.with_mathml('<div class="arithmatex">\\[ a &lt; \\frac{1}{2} \\]</div>')
    assert ("<mfrac>" in page and "arithmatex" not in page and "&lt;" in page) or "&#x0003C;" in page


def test_every_formula_can_be_drawn() -> None:
    texts = [path.read_text() for part in ("functional", "methods") for path in Path("uda", part).rglob("*.py")]
    found = [formula for text in texts for formula in markup.formulas(text)]
    assert len(found) > 30
    for formula in found:
        drawn = markup.convert(formula)
        assert "\\" not in re.sub(r"&[^;]+;", "", drawn), formula


def test_recorded_rows_are_those_of_the_results() -> None:
    rows = dict(results.rows_of("CBST"))
    assert {"quickstart", "streets_kitti"} <= set(rows)
    table = (markup.ROOT / "benchmarks/results/streets_kitti/results.md").read_text()
    shown = results.line("streets_kitti", rows["streets_kitti"])
    assert "| 19.2 | -7.1 [-11.1, -3.1] | -13.3 [-21.8, -4.8] to `bn_only` |" in shown
    assert "| cbst | 3 | 19.2 [13.6, 24.8] | -7.1 [-11.1, -3.1] | -13.3 [-21.8, -4.8] |" in table


def test_a_figure_is_the_same_each_time_and_shows_a_change() -> None:
    png, shows = figures.figure("ClassMix")
    assert shows == ["source", "target", "the mixed image"]
    assert png == figures.figure("ClassMix")[0]
    assert not figures.makes_images("AdvEnt")


def test_the_vendored_shim_is_the_one_that_the_theme_asks_for() -> None:
    import material

    package = Path(inspect.getfile(material)).parent
    asked = [path for path in package.rglob("*.py") if "unpkg.com/iframe-worker/shim" in path.read_text()]
    assert asked, "the theme fetches another file now; see docs/sitegen/hooks.py"


def test_no_page_fetches_from_outside() -> None:
    asked = f'<script src="{hooks.SHIM}"></script><a href="https://example.org">a link</a>'
    assert '<script src="../iframe-worker.js">' in hooks.offline(asked, "methods/fda.md", "../")
    assert '<script src="iframe-worker.js">' in hooks.on_post_template(asked, "404.html")
    with pytest.raises(PluginError, match=r"x\.md fetches from outside: <img"):
        hooks.offline('<img src="https://example.org/a.png">', "x.md", "")
