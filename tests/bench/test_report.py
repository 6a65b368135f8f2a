"""The page of a benchmark: what it opens with, its charts, its pictures, and how a browser takes it."""

from __future__ import annotations

import html
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from tests.bench import tiny
from tests.bench.test_table import METHODS, fill
from uda.bench import BenchResult, Estimate, Table, make_table, write_tables
from uda.bench.gallery import error_map, read_samples
from uda.bench.headline import headline
from uda.bench.render import control_difference
from uda.bench.report import html as page_of
from uda.config import BenchConfig, load_config
from uda.plots.differences import Difference, draw_forest
from uda.plots.scores import draw_scatter
from uda.plots.steps import Curve, draw_curves
from uda.plots.svg import as_svg


@pytest.fixture(scope="module")
def config() -> BenchConfig:
    return load_config(tiny.content(Path("data"), seeds=[0, 1, 2], methods=METHODS))


@pytest.fixture(scope="module")
def table(config: BenchConfig, tmp_path_factory: pytest.TempPathFactory) -> Table:
    folder = tmp_path_factory.mktemp("made_up")
    fill(config, folder)
    return make_table(config, folder)


def forest(title: str, lines: list[Difference]) -> str:
    return as_svg(title, lambda theme: draw_forest(title, lines, theme=theme))


def texts(svg: str) -> list[str]:
    """What is written in a chart, in its order."""
    return [html.unescape(text) for text in re.findall(r"<text[^>]*>([^<]*)</text>", svg)]


def test_page_opens_with_sentence_origin_and_command(config: BenchConfig, table: Table, tmp_path: Path) -> None:
    page = page_of(config, tmp_path, table, "uda bench 'my config.yaml'")
    body = page[page.index("<body>") :]
    assert body.index(headline(table)) < body.index("uda bench &#39;my config.yaml&#39;") < body.index("<svg")
    assert body.index("<svg") < body.index('id="predictions"') < body.index('id="table"')
    assert "saved as tiny.yaml" in page_of(config, tmp_path, table)


def test_page_says_that_images_are_procedural(finished: BenchResult, config: BenchConfig, table: Table) -> None:
    page = page_of(finished.config, finished.folder, finished.table)
    assert page.index("Procedural images, not photographs") < page.index("<svg")
    assert "not photographs" not in page_of(config, finished.folder, table)


def test_the_same_folder_gives_the_same_bytes(finished: BenchResult, copy: Path) -> None:
    first = page_of(finished.config, finished.folder, finished.table)
    assert page_of(finished.config, copy / "tiny", make_table(finished.config, copy / "tiny")) == first


def test_differences_are_drawn_in_order_with_their_joint_intervals(table: Table, config: BenchConfig) -> None:
    page = page_of(config, Path("nowhere"), table)
    first = page[page.index("<svg") : page.index("</svg>")]
    rows = [row.name for row in table.rows if control_difference(row.scores["target"]).known]
    ordered = sorted(rows, key=lambda name: -control_difference(table.row(name).scores["target"]).value)
    assert [text for text in texts(first) if text in rows] == ordered
    assert first.count("var(--helps)") > 0
    assert first.count("var(--hurts)") > 0
    assert page.count("<svg") == 2 * 3 + 1, "control and source-only of three domains, target against source"
    assert 'id="domain1" checked' in page


def test_an_interval_is_as_long_as_it_is() -> None:
    """Twice the interval, twice the line; the axis is the same because of a third row."""
    frame = Difference("frame", Estimate(0.0, -0.5, 0.5))

    def length(half: float) -> float:
        svg = forest("t", [frame, Difference("a", Estimate(0.1, 0.1 - half, 0.1 + half), "helps")])
        (path,) = re.findall(r'<path d="M ([\d.]+) [\d.]+ \nL ([\d.]+) [\d.]+ \n"[^>]*stroke: var\(--helps\)', svg)
        return float(path[1]) - float(path[0])

    assert length(0.2) == pytest.approx(2 * length(0.1), rel=1e-3)
    unknown = forest("t", [frame, Difference("a", Estimate(0.1), "helps")])
    assert not re.findall(r'L [^"]*"[^>]*stroke: var\(--helps\); stroke-width: 1.6', unknown)


def test_charts_have_no_ink_of_their_own_and_keep_names_as_text() -> None:
    names = ["_under", "$x^2$", "<script>alert(1)</script>", "plain"]
    points = {name: (Estimate(0.1, 0.0, 0.2), Estimate(0.3, 0.2, float("inf"))) for name in names}
    lines = {name: Curve([1, 2], [0.1, 0.2], [0.0, 0.1], [0.2, 0.3]) for name in names}
    for svg in (
        forest("title", [Difference(name, Estimate(0.1, 0.0, 0.2)) for name in names]),
        as_svg("scatter", lambda theme: draw_scatter("title", ("x", "y"), points, names, theme=theme)),
        as_svg("curves", lambda theme: draw_curves("title", lines, names, theme=theme)),
    ):
        assert not set(re.findall(r"#[0-9a-f]{6}", svg))
        assert "<script" not in svg
        assert set(names) <= {text.strip("\u200b") for text in texts(svg)}


def test_curves_are_means_with_bands(finished: BenchResult, copy: Path) -> None:
    shutil.copytree(copy / "tiny/fda/seed0", copy / "tiny/fda/seed1")
    log = copy / "tiny/fda/seed1/scalars.jsonl"
    log.write_text('{"step": 0, "loss/made_up": 1.0}\n{"step": 1, "loss/made_up": 3.0}\n')
    (copy / "tiny/fda/seed0/scalars.jsonl").write_text(
        '{"step": 0, "loss/made_up": 2.0}\n{"step": 1, "loss/made_up": 3}\n'
    )
    rows = [replace(row, seeds=(0, 1)) if row.name == "fda" else row for row in finished.table.rows]
    page = page_of(finished.config, copy / "tiny", replace(finished.table, rows=tuple(rows)))
    chart = next(svg for svg in re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL) if "loss made_up" in svg)
    assert "fill-opacity: 0.12" in chart


def test_pictures_carry_the_score_of_their_image(finished: BenchResult, copy: Path) -> None:
    first = next(read_samples(finished.config, "target", copy / "tiny", {"fda": 0}))
    path = copy / "tiny/fda/seed0/pictures/target_0.png"
    prediction = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    data = next(spec for name, spec in finished.config.domains.items() if name == "target")
    from uda.bench.build import open_dataset

    label = open_dataset(data, finished.config.space)[0].label.numpy()
    by_hand = [
        ((prediction == cls) & (label == cls)).sum() / (((prediction == cls) & (label != 255)) | (label == cls)).sum()
        for cls in np.unique(label[label != 255])
    ]
    assert first.pictures[0].miou == pytest.approx(np.mean(by_hand))
    path.write_bytes(b"no image")
    assert next(read_samples(finished.config, "target", copy / "tiny", {"fda": 0})).pictures == ()


def test_error_maps_have_right_wrong_and_ignored() -> None:
    pixels = error_map(np.array([[0, 1, 2]], dtype=np.uint8), np.array([[0, 2, 255]]))
    assert [tuple(pixel) for pixel in pixels[0].tolist()] == [(214, 214, 214), (213, 94, 0), (0, 0, 0)]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless chromium."""
    playwright = pytest.importorskip("playwright.sync_api")
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("there is no chromium")
    with playwright.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_shows_the_page_and_asks_for_nothing(
    finished: BenchResult, copy: Path, tmp_path: Path, browser: Any, width: int
) -> None:
    rows = [replace(row, methods="<script>document.title = 'run'</script>") for row in finished.table.rows]
    command = "uda bench '<img src=x onerror=alert(1)>'" + "/very_long" * 50
    paths = write_tables(finished.config, copy / "tiny", replace(finished.table, rows=tuple(rows)), command)
    view = browser.new_page(viewport={"width": width, "height": 900}, color_scheme="dark")
    requests: list[str] = []
    messages: list[str] = []
    view.on("request", lambda request: requests.append(request.url))
    view.on("console", lambda message: messages.append(message.text))
    view.on("pageerror", lambda error: messages.append(str(error)))
    view.goto(paths["html"].resolve().as_uri())
    assert [url for url in requests if not url.startswith("data:")] == [paths["html"].resolve().as_uri()]
    assert messages == []
    assert view.title() == "tiny"
    assert view.evaluate("document.documentElement.scrollWidth") == width
    assert view.locator("script").count() == 0
    assert view.locator("li", has_text="<script>document.title").count() == len(rows)
    # sticky: after scrolling a table aside, its first column is where it was
    scroll = view.locator(".scroll").first
    left = scroll.locator("tbody th").first.bounding_box()["x"]
    scroll.evaluate("table => { table.scrollLeft = 120 }")
    assert scroll.locator("tbody th").first.bounding_box()["x"] == left
    assert scroll.evaluate("table => table.scrollLeft") > 0
    # the switch shows one domain at a time, and a click on a picture fills the window
    assert view.locator(".domain1").is_visible()
    view.locator("label[for=domain2]").click()
    assert view.locator(".domain2").is_visible()
    assert not view.locator(".domain1").is_visible()
    picture = view.locator("figure img").first
    picture.click()
    assert picture.bounding_box() == {"x": 0, "y": 0, "width": width, "height": 900}
    picture.click()
    assert picture.bounding_box()["width"] < width
    ground = view.evaluate("getComputedStyle(document.body).backgroundColor")
    view.emulate_media(color_scheme="light")
    assert view.evaluate("getComputedStyle(document.body).backgroundColor") != ground
    view.emulate_media(media="print")
    assert view.locator(".domain1").is_visible()
    view.close()
