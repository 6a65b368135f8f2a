"""The page of a gap analysis: its bytes, what it escapes, and what a reader can do with it in a real browser."""

from __future__ import annotations

import base64
import copy
import html
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from matplotlib import colormaps
from playwright.sync_api import Browser, Page, expect, sync_playwright
from plotly.offline import get_plotlyjs

from uda.gap.page import figures, page, write_page

SCRIPT = "<script>alert(1)</script>"
LONG = "extraordinarily long class name & <b>markup</b>"
CLASSES = [
    ("road", (128, 64, 128)), ("building", (70, 70, 70)), ("vegetation", (107, 142, 35)), ("sky", (70, 130, 180)),
    ("car", (0, 0, 142)), ("person", (220, 20, 60)), (SCRIPT, (244, 35, 232)), (LONG, (250, 170, 30)),
]  # fmt: skip
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def uri(rgb: npt.NDArray[np.uint8], suffix: str = ".png") -> str:
    encoded = cv2.imencode(suffix, rgb[..., ::-1])[1].tobytes()
    return f"data:image/{suffix[1:].replace('jpg', 'jpeg')};base64,{base64.b64encode(encoded).decode()}"


def scene(generator: np.random.Generator, dusk: float) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Image and class indices of a street: sky, houses, trees, road and a few cars, (48, 96)."""
    colours = np.array([colour for _, colour in CLASSES])
    label = np.full((48, 96), 3)
    horizon = 16 + int(generator.integers(0, 8))
    label[horizon - 8 : horizon + 6, : int(generator.integers(20, 60))] = 1
    label[horizon - 4 : horizon + 6, int(generator.integers(50, 80)) :] = 2
    label[horizon + 4 :] = 0
    for _ in range(int(generator.integers(1, 5))):
        left, top = int(generator.integers(0, 80)), horizon + int(generator.integers(2, 16))
        label[top : top + 8, left : left + 14] = 4
    image = colours[label] * dusk + generator.normal(0, 10, (48, 96, 1))
    return image.clip(0, 255).astype(np.uint8), label


def content(n: int = 40, seed: int = 0) -> dict[str, Any]:
    """What an analysis of n samples gives; the same for the same seed."""
    generator = np.random.default_rng(seed)
    colours = np.array([colour for _, colour in CLASSES], dtype=np.uint8)
    half = n // 2
    dataset = ["source"] * half + ["target"] * (n - half)
    loss = np.concatenate([generator.gamma(4, 0.08, half), generator.gamma(4, 0.25, n - half)])
    miou = np.clip(0.75 - 0.25 * loss + generator.normal(0, 0.03, n), 0.05, 0.95)
    brightness = np.concatenate([generator.normal(0.5, 0.05, half), generator.normal(0.32, 0.08, n - half)])
    repaired = loss * np.where(np.arange(n) < half, 1.02, generator.uniform(0.5, 1.1, n))
    pictures: dict[str, dict[str, list[Any]]] = {
        "before": {kind: [] for kind in ("image", "label", "prediction", "loss", "error")},
        "after": {kind: [] for kind in ("prediction", "loss", "error")},
    }
    for index in range(n):
        image, label = scene(generator, 1.3 if index < half else 0.8)
        pictures["before"]["image"].append(uri(image, ".jpg"))
        pictures["before"]["label"].append(uri(colours[label]) if index != half else None)
        for state, level in (("before", loss), ("after", repaired)):
            wrong = cv2.blur(generator.normal(0, 1, label.shape), (7, 7)) > 0.25 - 0.12 * level[index]
            predicted = np.where(wrong, np.roll(label, 5, axis=1), label)
            surprise = np.clip(np.where(predicted != label, 2.2, 0.2) + generator.normal(0, 0.1, label.shape), 0, 3)
            pictures[state]["prediction"].append(uri(colours[predicted]))
            pictures[state]["loss"].append(uri((255 * colormaps["cividis"](surprise / 3)[..., :3]).astype(np.uint8)))
            pictures[state]["error"].append(
                uri(np.where(predicted != label, 255, 0)[..., None].repeat(3, 2).astype(np.uint8))
            )
    files = [f"frames/sequence_{index // 5:02d}/frame_{index:06d}.png" for index in range(n)]
    files[int(loss.argmax())] = SCRIPT
    samples: dict[str, list[Any]] = {
        "dataset": dataset, "file": files, "sequence": [f"sequence {index // 5}" for index in range(n)],
        "loss": loss.round(4).tolist(), "miou": miou.round(4).tolist(), "brightness": brightness.round(4).tolist(),
        "error_rate": (loss / 4).round(4).tolist(),
    }  # fmt: skip
    samples["brightness"][1] = None
    latent = generator.normal(0, 1, (n, 2)) + np.array([[0, 0]] * half + [[3.5, 1.5]] * (n - half))
    moved = latent - np.array([[0, 0]] * half + [[2.2, 1.0]] * (n - half))

    def around(value: float, width: float) -> dict[str, float]:
        return {"low": round(value - width, 4), "high": round(value + width, 4)}

    def factor(name: str, label: str, share: float, alone: float, group: str, note: str = "") -> dict[str, Any]:
        return {
            "name": name,
            "label": label,
            "share": share,
            **around(share, 0.07),
            "alone": alone,
            "alone_low": alone - 0.05,
            "alone_high": alone + 0.06,
            "group": group,
            "meaning": f"{label} of the target set to the source's",
            "note": note,
        }

    def part(name: str, level: float) -> dict[str, Any]:
        return {
            "name": name,
            "loss_source": 0.3 * level,
            "loss_target": level,
            "loss_after": 0.7 * level,
            **around(level, 0.1),
        }

    return {
        "title": "KITTI val against Cityscapes val: DeepLabV3+ trained on Cityscapes",
        "command": "uda gap runs/mine --source cityscapes:data/cs --target kitti:data/kitti --after '{AdaBN: {}}'",
        "version": "uda 0.1.0, torch 2.15.0, seed 0",
        "verdict": [
            "Half of the target's excess loss is colour; AdaBN with prior 0.5 takes a quarter of the loss away.",
            "The loss on the target is 0.98 nats [0.86, 1.11], three times the source's 0.32 [0.28, 0.36].",
            f"Where it costs most: car and {LONG}, taken for buildings in the lower half of the image.",
        ],
        "config": "test_time:\n  AdaBN: {prior: 0.5}\n",
        "numbers": [
            {
                "dataset": "source: cityscapes/val",
                "images": half,
                "sequences": 4,
                "loss": 0.32,
                "loss_low": 0.28,
                "loss_high": 0.36,
                "pooled_loss": 0.3,
                "miou": 0.66,
                "miou_low": 0.63,
                "miou_high": 0.69,
                "state": "before",
            },
            {
                "dataset": "target: kitti/val",
                "images": n - half,
                "sequences": 4,
                "loss": 0.98,
                "loss_low": 0.86,
                "loss_high": 1.11,
                "pooled_loss": 1.02,
                "miou": 0.48,
                "miou_low": 0.44,
                "miou_high": 0.52,
                "state": "before",
            },
            {
                "dataset": "target: kitti/val",
                "images": n - half,
                "sequences": 4,
                "loss": 0.74,
                "loss_low": 0.62,
                "loss_high": 0.87,
                "pooled_loss": 0.77,
                "miou": 0.55,
                "miou_low": 0.5,
                "miou_high": 0.59,
                "state": "after",
            },
        ],
        "columns": [
            {"name": "dataset", "label": "data set", "unit": "", "kind": "text", "meaning": "source or target"},
            {"name": "file", "label": "file", "unit": "", "kind": "text", "meaning": "the image's file"},
            {
                "name": "sequence",
                "label": "sequence",
                "unit": "",
                "kind": "text",
                "meaning": "the drive that the image is of",
            },
            {
                "name": "loss",
                "label": "loss",
                "unit": "nats",
                "kind": "number",
                "meaning": "mean cross-entropy of the labelled pixels",
            },
            {"name": "miou", "label": "mIoU", "unit": "", "kind": "number", "meaning": "of this image's classes"},
            {
                "name": "brightness",
                "label": "brightness",
                "unit": "",
                "kind": "number",
                "meaning": "mean luminance in [0, 1]",
            },
            {
                "name": "error_rate",
                "label": "wrong pixels",
                "unit": "",
                "kind": "number",
                "meaning": "share of labelled pixels",
            },
        ],
        "samples": samples,
        "after": {
            "loss": repaired.round(4).tolist(),
            "miou": (miou + 0.2 * (loss - repaired)).round(4).tolist(),
            "error_rate": (repaired / 4).round(4).tolist(),
        },
        "latent": {
            "method": "PCA",
            "axes": ["PC 1 (31 %)", "PC 2 (12 %)"],
            "before": latent.round(4).tolist(),
            "after": moved.round(4).tolist(),
        },
        "pictures": pictures,
        "loss_scale": [0, 3.0],
        "classes": [{"name": name, "colour": list(colour)} for name, colour in CLASSES],
        "distances": [
            {
                "name": "domain classifier AUC",
                "value": 0.97,
                "low": 0.94,
                "high": 0.99,
                "baseline": 0.52,
                "baseline_low": 0.44,
                "baseline_high": 0.6,
                "meaning": "how well a linear classifier tells source from target; 0.5 is chance",
            },
            {
                "name": "Fréchet distance",
                "value": 41.2,
                "low": 36.0,
                "high": 47.9,
                "baseline": 6.1,
                "baseline_low": 4.0,
                "baseline_high": 8.8,
                "meaning": "between Gaussians of the features",
            },
            {
                "name": "sliced Wasserstein",
                "value": 2.31,
                "low": 2.1,
                "high": 2.5,
                "baseline": 0.4,
                "baseline_low": 0.3,
                "baseline_high": 0.55,
                "meaning": "mean over 256 directions",
            },
        ],
        "factors": [
            factor("mean", "channel mean", 0.31, -0.21, "colour"),
            factor("deviation", "channel deviation", 0.2, -0.1, "colour"),
            factor("spectrum", "sharpness", 0.12, -0.06, "texture"),
            factor("noise", "noise", -0.06, 0.03, "texture", "no difference"),
            factor("crop", f"field of view {SCRIPT}", 0.15, -0.08, "geometry"),
            factor("classes", "class shares", 0.09, -0.02, "content"),
            {
                "name": "unexplained",
                "label": "unexplained",
                "share": 0.19,
                **around(0.19, 0.1),
                "group": "",
                "meaning": "what no edit takes away",
            },
        ],
        "fixes": [
            {
                "name": "AdaBN, prior 0.5",
                "config": "{AdaBN: {prior: 0.5}}",
                "loss": 0.72,
                "change": -0.27,
                "low": -0.38,
                "high": -0.15,
                "miou": 0.55,
                "miou_change": 0.07,
                "miou_low": 0.03,
                "miou_high": 0.11,
                "source_change": 0.02,
                "verdict": "helps",
                "note": "adapted on the scored images",
            },
            {
                "name": "MeanStd at test",
                "config": "{ColourAtTest: {}}",
                "loss": 0.83,
                "change": -0.15,
                "low": -0.33,
                "high": 0.02,
                "miou": 0.51,
                "miou_change": 0.03,
                "miou_low": -0.01,
                "miou_high": 0.07,
                "source_change": 0.0,
                "verdict": "no clear effect",
                "note": "",
            },
            {
                "name": "histogram matching",
                "config": "{ColourAtTest: {map: histogram}}",
                "loss": 1.31,
                "change": 0.34,
                "low": 0.18,
                "high": 0.52,
                "miou": 0.4,
                "miou_change": -0.08,
                "miou_low": -0.13,
                "miou_high": -0.04,
                "source_change": 0.21,
                "verdict": "hurts",
                "note": "",
            },
        ],
        "where": {
            "classes": {
                "title": "By class",
                "rows": [
                    {
                        "name": name,
                        "pixels_source": 0.2 - 0.02 * place,
                        "pixels_target": 0.18 - 0.015 * place,
                        "loss_source": 0.1 + 0.08 * place,
                        "loss_target": 0.4 + 0.25 * place,
                        "loss_after": 0.3 + 0.18 * place,
                        "excess_share": 0.3 - 0.04 * place,
                        "iou_source": 0.9 - 0.05 * place,
                        "iou_target": 0.75 - 0.08 * place,
                        "iou_after": 0.8 - 0.07 * place,
                        "into": "truck 12 %, road 5 %",
                    }
                    for place, (name, _) in enumerate(CLASSES)
                ],
            },
            "height": {
                "title": "By height in the image",
                "rows": [part(f"{10 * row}-{10 * row + 10} %", 0.5 + 0.12 * row) for row in range(5)],
            },
            "boundary": {
                "title": "By distance to a boundary",
                "rows": [part(name, level) for name, level in (("0-2 px", 2.1), ("2-8 px", 1.1), ("over 8 px", 0.6))],
            },
            "size": {
                "title": "By size of the segment",
                "rows": [
                    part(name, level)
                    for name, level in (("under 32² px", 1.9), ("32² to 96² px", 1.0), ("over 96² px", 0.5))
                ],
            },
        },
        "correlations": [
            {"column": "brightness", "rho": -0.44, "low": -0.61, "high": -0.22},
            {"column": "miou", "rho": -0.81, "low": -0.9, "high": -0.7},
        ],
        "worse": [
            {
                "file": files[index],
                "index": int(index),
                "before": float(loss[index].round(4)),
                "after": float(repaired[index].round(4)),
            }
            for index in np.argsort(loss - repaired)[:4]
        ],
        "how": [
            "Losses are means over images; intervals of 95 % by resampling whole sequences.",
            "Both domains are scored at 374×1242.",
        ],
        "missing": {},
    }


@pytest.fixture(scope="module")
def measured() -> dict[str, Any]:
    return content()


@pytest.fixture(scope="module")
def html_page(measured: dict[str, Any]) -> str:
    return page(measured)


def own(text: str) -> str:
    """The page without Plotly's source, which holds strings of all kinds."""
    return text.replace(get_plotlyjs(), "")


def embedded(text: str, name: str) -> Any:
    match = re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', text, re.DOTALL)
    assert match
    return json.loads(match[1])


# ------------------------------------------------------------------------------------------------- without a browser


@pytest.mark.slow
def test_same_content_gives_the_same_bytes(measured: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "content.json").write_text(json.dumps(measured))
    code = (
        "import json, sys; from pathlib import Path; from uda.gap.page import write_page; "
        "write_page(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))"
    )
    for seed in "12":  # the order of sets of strings is another in every process
        command = [sys.executable, "-c", code, str(tmp_path / "content.json"), str(tmp_path / f"{seed}.html")]
        subprocess.run(command, check=True, env={**os.environ, "PYTHONHASHSEED": seed})
    assert (tmp_path / "1.html").read_bytes() == (tmp_path / "2.html").read_bytes()


def test_the_content_is_not_changed(measured: dict[str, Any]) -> None:
    before = copy.deepcopy(measured)
    page(measured)
    assert measured == before


def test_names_stay_text(html_page: str, measured: dict[str, Any]) -> None:
    text = own(html_page)
    assert SCRIPT not in text
    assert "<b>markup</b>" not in text
    assert text.count("<script") == 4  # two of data, Plotly, and the page's own
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert embedded(html_page, "data")["samples"] == measured["samples"]
    for name in ("data", "figures"):
        raw = re.search(rf'id="{name}">(.*?)</script>', html_page, re.DOTALL)
        assert raw
        assert not set("<>&\u2028\u2029") & set(raw[1])


def test_line_separators_are_escaped() -> None:
    text = page({"columns": [{"name": "file", "kind": "text"}], "samples": {"file": ["a\u2028b\u2029c"]}})
    assert "\u2028" not in own(text)
    assert embedded(text, "data")["samples"]["file"] == ["a\u2028b\u2029c"]


def test_plotly_is_there_once_and_nothing_is_loaded(html_page: str) -> None:
    assert html_page.count(get_plotlyjs()) == 1
    assert (
        "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src 'unsafe-inline'\"" in html_page
    )
    assert not re.search(r"""(src|href)=["'](?!#|data:)""", own(html_page))


KEYS = (
    "verdict", "config", "numbers", "factors", "fixes", "latent", "distances", "samples", "pictures", "where",
    "correlations", "after", "worse", "how",
)  # fmt: skip


def reason(key: str) -> str:
    return f"no {key}: there was <nothing> to measure"


@pytest.mark.parametrize("key", KEYS)
def test_an_absent_section_gives_its_reason(measured: dict[str, Any], key: str) -> None:
    part = {name: value for name, value in measured.items() if name != key}
    if key == "samples":  # what belongs to samples goes with them
        part = {name: value for name, value in part.items() if name not in ("columns", "worse", "after")}
    assert html.escape(reason(key)) in own(page({**part, "missing": {key: reason(key)}}))


def test_what_is_there_gives_no_reason(measured: dict[str, Any]) -> None:
    text = own(page({**measured, "missing": {key: reason(key) for key in KEYS}}))
    assert [key for key in KEYS if html.escape(reason(key)) in text] == []


@pytest.mark.parametrize("place", ["classes", "height", "boundary", "size"])
def test_an_absent_part_of_the_scene_gives_its_reason(measured: dict[str, Any], place: str) -> None:
    where = {name: rows for name, rows in measured["where"].items() if name != place}
    text = own(page({**measured, "where": where, "missing": {place: f"no {place} here"}}))
    assert f"no {place} here" in text
    assert f'id="figure-{place}"' not in text


def test_nothing_measured_is_still_a_page() -> None:
    text = own(page({}))
    assert text == own(page(dict.fromkeys(KEYS)))
    assert text.count("Not measured.") >= 10
    assert 'class="plot"' not in text


def test_numbers_stand_in_the_tables(html_page: str) -> None:
    text = own(html_page)
    cells = (
        "0.980", "[0.860, 1.110]", "48.0", "[44.0, 52.0]", "31\u00a0%", "[24, 38]", "−0.210", "−27\u00a0%",
        "[−38, −15]",
        "+7.0", "41.2", "[36.0, 47.9]", "−0.44", "0.10 → 0.40 → 0.30", "90 → 75 → 80",
    )  # fmt: skip
    for cell in cells:
        assert f">{cell}<" in text, cell
    assert "Correlation, not cause" in text


def test_bars_of_causes_follow_each_other(measured: dict[str, Any]) -> None:
    figure = figures(measured, 40)["figure-factors"]
    ends: dict[int, tuple[float, float]] = {}
    for trace in figure.data:
        if trace.type == "bar" and trace.base is not None:
            ends |= {place: (base, size) for place, base, size in zip(trace.y, trace.base, trace.x, strict=True)}
    at = 0.0
    for place, row in enumerate(measured["factors"]):
        base, size = ends[place]
        assert (base, size) == pytest.approx((at, 100 * row["share"]))
        at += size
    assert at == pytest.approx(100)


def test_before_and_after_have_the_same_axes(measured: dict[str, Any]) -> None:
    drawn = figures(measured, 40)
    before, after = drawn["figure-before"].layout, drawn["figure-after"].layout
    assert before.xaxis.range == after.xaxis.range
    assert before.yaxis.range == after.yaxis.range
    points = np.array(measured["latent"]["before"] + measured["latent"]["after"])
    for axis, span in enumerate((before.xaxis.range, before.yaxis.range)):
        assert span[0] < points[:, axis].min()
        assert points[:, axis].max() < span[1]


def test_numbers_that_are_not_finite_are_missing(measured: dict[str, Any]) -> None:
    samples = {**measured["samples"], "brightness": [float("nan"), float("inf"), *[0.5] * 38]}
    factors = [{**measured["factors"][0], "low": float("nan")}, *measured["factors"][1:]]
    text = page({**measured, "samples": samples, "factors": factors})
    assert embedded(text, "data")["samples"]["brightness"] == [None, None, *[0.5] * 38]
    assert not re.search(r"\b(NaN|nan|Infinity)\b", embedded_text(text))


def embedded_text(text: str) -> str:
    return json.dumps([embedded(text, "data"), embedded(text, "figures")])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"after": {"loss": [1.0] * 39}}, "after['loss'] has 39 entries where samples['dataset'] has 40"),
        ({"latent": {"before": [[0.0, 0.0]] * 3}}, "latent['before'] has 3 entries where"),
        ({"pictures": {"before": {"image": [None]}}}, "pictures['before']['image'] has 1 entries where"),
        ({"columns": [{"name": "los", "kind": "number"}]}, "column 'los' has no values; samples has dataset, file"),
        ({"worse": [{"file": "a.png", "index": 40}]}, "worse: index 40 of 'a.png' is none of the 40 samples"),
    ],
)  # fmt: skip
def test_content_that_does_not_fit_is_refused(
    measured: dict[str, Any], change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "gap.html"
    path.write_text("the page of before")
    with pytest.raises(ValueError, match=re.escape(message)):
        write_page({**measured, **change}, path)
    assert path.read_text() == "the page of before"
    assert list(tmp_path.iterdir()) == [path]


def test_700_samples_stay_under_15_mb(measured: dict[str, Any], tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    many = {**measured, "worse": None}
    many["samples"] = {name: (values * 18)[:700] for name, values in measured["samples"].items()}
    many["after"] = {name: (values * 18)[:700] for name, values in measured["after"].items()}
    many["latent"] = {
        "axes": ["1", "2"],
        **{state: (measured["latent"][state] * 18)[:700] for state in ("before", "after")},
    }
    kinds = ("image", "label", "prediction", "loss")
    drawn = {
        kind: ["data:image/png;base64," + base64.b64encode(generator.bytes(2608)).decode() for _ in range(700)]
        for kind in kinds
    }
    many["pictures"] = {"before": drawn}
    write_page(many, tmp_path / "gap.html")
    size = (tmp_path / "gap.html").stat().st_size
    assert 700 * 4 * 3500 < size < 15_000_000


# ------------------------------------------------------------------------------------------------------ in a browser


class Reader:
    """A page in a browser, with what it asked for and complained about."""

    def __init__(self, page: Page, path: Path) -> None:
        self.page = page
        self.path = path
        self.requests: list[str] = []
        self.complaints: list[str] = []
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("dialog", lambda dialog: (self.complaints.append(f"dialog {dialog.message}"), dialog.dismiss()))
        page.goto(path.as_uri())
        page.wait_for_selector("html[data-ready=true]", state="attached")

    def check(self) -> None:
        assert {url for url in self.requests if not url.startswith(("data:", "blob:"))} == {self.path.as_uri()}
        assert self.complaints == []

    def text(self, selector: str) -> str:
        # names may be broken at folders, by a tag without text
        return str(self.page.locator(selector).text_content())

    def point(self, index: int, state: str = "before") -> tuple[float, float]:
        """Of a sample, in pixels of the window, scrolled into view."""
        self.page.locator(f"#figure-{state}").scroll_into_view_if_needed()
        return tuple(self.page.evaluate(
            """([id, index]) => {
              const place = document.getElementById(id), {xaxis, yaxis} = place._fullLayout;
              const box = place.getBoundingClientRect();
              const data = JSON.parse(document.getElementById("data").textContent).latent[id.slice(7)][index];
              return [box.left + xaxis._offset + xaxis.d2p(data[0]), box.top + yaxis._offset + yaxis.d2p(data[1])];
            }""", [f"figure-{state}", index],
        ))  # fmt: skip

    def colours(self, state: str = "before") -> set[str]:
        script = "paths => paths.map(path => getComputedStyle(path).fill)"
        return set(self.page.locator(f"#figure-{state} .scatterlayer .points path").evaluate_all(script))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if BROWSER is None:
        pytest.skip("no Chromium or Chrome on this machine")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def path(html_page: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "gap.html"
    path.write_text(html_page, encoding="utf-8")
    return path


@pytest.fixture
def reader(browser: Browser, path: Path) -> Iterator[Reader]:
    window = browser.new_page(viewport={"width": 1280, "height": 800}, reduced_motion="reduce")
    window.set_default_timeout(20_000)
    yield Reader(window, path)
    window.close()


def lonely(points: list[list[float]]) -> int:
    """The sample that no other lies near."""
    gaps = np.linalg.norm(np.array(points)[:, None] - np.array(points)[None], axis=-1)
    np.fill_diagonal(gaps, np.inf)
    return int(gaps.min(1).argmax())


def test_points_are_drawn_and_open_their_sample(reader: Reader, measured: dict[str, Any]) -> None:
    for state in ("before", "after"):
        assert reader.page.locator(f"#figure-{state} .scatterlayer .points path").count() == 40
    index = lonely(measured["latent"]["before"])
    x, y = reader.point(index)
    reader.page.mouse.move(x, y)
    reader.page.wait_for_selector("#hover:not([hidden])")
    assert measured["samples"]["file"][index] in reader.text("#hover")
    assert reader.page.locator("#hover img").count() == 4
    reader.page.mouse.click(x, y)
    reader.page.wait_for_selector("#panel[open]")
    assert reader.text("#panel-title") == measured["samples"]["file"][index]
    uris = reader.page.locator("#panel-pictures img").evaluate_all("images => images.map(image => image.src)")
    pictures = measured["pictures"]
    assert uris == [
        pictures["before"]["image"][index], pictures["before"]["label"][index],
        *(pictures[state][kind][index] for kind in ("prediction", "loss", "error") for state in ("before", "after")),
    ]  # fmt: skip
    captions = reader.page.locator("#panel-pictures figcaption").all_text_contents()
    loss = measured["samples"]["loss"][index]
    assert f"loss map before · loss {float(f'{loss:.3g}'):g}\u00a0nats" in captions
    assert all(re.search(r"· .*\d", caption) for caption in captions), captions
    assert reader.page.locator("#panel .ramp").count() == 1
    # a ring is around the open sample in both plots, and leaves with the panel
    ring = reader.page.locator("#figure-before .shapelayer path")
    box = ring.bounding_box()
    assert box is not None
    assert (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2) == pytest.approx(reader.point(index), abs=1.5)
    expect(reader.page.locator("#figure-after .shapelayer path")).to_have_count(1)
    reader.page.click("#close")
    expect(ring).to_have_count(0)
    reader.check()


@pytest.mark.slow
def test_the_worst_samples_come_first_and_any_column_sorts(reader: Reader, measured: dict[str, Any]) -> None:
    files, loss = measured["samples"]["file"], np.array(measured["samples"]["loss"])
    shown = lambda: reader.page.locator("#samples .file").all_text_contents()  # noqa: E731
    assert shown() == [f"{place}. {files[index]}" for place, index in enumerate(np.argsort(-loss, kind="stable"), 1)]
    assert SCRIPT in shown()[0]
    reader.page.select_option("#sort", "brightness")
    brightness = [value if value is not None else -1.0 for value in measured["samples"]["brightness"]]
    assert shown()[0] == f"1. {files[int(np.argmax(brightness))]}"
    assert shown()[-1] == f"40. {files[1]}"  # its brightness is missing
    reader.page.select_option("#sort", "miou")
    assert shown()[0] == f"1. {files[int(np.argmin(measured['samples']['miou']))]}"
    reader.page.select_option("#direction", "down")
    assert shown()[0] == f"1. {files[int(np.argmax(measured['samples']['miou']))]}"
    reader.page.select_option("#filter", label="source")
    assert len(shown()) == 20
    reader.page.locator("#samples button").nth(2).click()
    assert reader.text("#panel-title") == shown()[2].removeprefix("3. ")
    reader.check()


@pytest.mark.slow
def test_the_keyboard_does_it_all(reader: Reader, measured: dict[str, Any]) -> None:
    order = np.argsort(-np.array(measured["samples"]["loss"]), kind="stable")
    files, keyboard = measured["samples"]["file"], reader.page.keyboard
    focus = lambda: reader.page.evaluate("document.activeElement.dataset.index")  # noqa: E731
    reader.page.locator("#filter").focus()
    keyboard.press("Tab")
    assert focus() == str(order[0])
    keyboard.press("ArrowRight")
    keyboard.press("ArrowRight")
    keyboard.press("ArrowLeft")
    assert focus() == str(order[1])
    keyboard.press("ArrowDown")
    below = int(focus())
    assert below in order[3:8]
    keyboard.press("ArrowUp")
    keyboard.press("Enter")
    reader.page.wait_for_selector("#panel[open]")
    assert reader.text("#panel-title") == files[order[1]]
    keyboard.press("ArrowRight")
    assert reader.text("#panel-title") == files[order[2]]
    keyboard.press("Escape")
    reader.page.wait_for_selector("#panel", state="hidden")
    assert focus() == str(order[1])
    keyboard.press("End")
    assert focus() == str(order[-1])
    reader.check()


@pytest.mark.slow
def test_columns_change_colours_and_sizes(reader: Reader) -> None:
    blue, vermilion = "rgb(0, 114, 178)", "rgb(213, 94, 0)"
    assert reader.colours() == {blue, vermilion}
    shapes = reader.page.locator("#figure-before .scatterlayer .points path").evaluate_all(
        "all => all.map(path => path.getAttribute('d'))"
    )
    assert {"A" in shape for shape in shapes} == {True, False}  # circles have arcs, diamonds have none
    assert len(set(shapes)) > 30  # the size is the loss
    reader.page.select_option("#colour", "brightness")
    assert len(reader.colours()) > 30
    assert "rgb(138, 143, 152)" in reader.colours()  # the sample without a value
    reader.page.select_option("#colour", "sequence")
    assert len(reader.colours()) == 8  # seven colours, and grey for the eighth sequence
    reader.page.select_option("#size", "")
    shapes = reader.page.locator("#figure-before .scatterlayer .points path").evaluate_all(
        "all => all.map(path => path.getAttribute('d'))"
    )
    assert len(set(shapes)) == 2
    reader.check()


@pytest.mark.slow
def test_a_box_shows_what_its_samples_share(reader: Reader, measured: dict[str, Any]) -> None:
    reader.page.locator("#figure-before").scroll_into_view_if_needed()
    reader.page.locator("#figure-before").hover()
    reader.page.locator('#figure-before .modebar-btn[data-title="Box Select"]').click()
    left, top, right, bottom = reader.page.evaluate(
        """() => {
          const place = document.getElementById("figure-before"), {xaxis, yaxis} = place._fullLayout;
          const box = place.getBoundingClientRect();
          const left = box.left + xaxis._offset, top = box.top + yaxis._offset;
          return [left + xaxis.d2p(2), top + 1, left + xaxis._length - 1, top + yaxis._length - 1];
        }"""
    )
    reader.page.mouse.move(left, top)
    reader.page.mouse.down()
    reader.page.mouse.move((left + right) / 2, (top + bottom) / 2)
    reader.page.mouse.move(right, bottom)
    reader.page.mouse.up()
    inside = np.array(measured["latent"]["before"])[:, 0] > 2
    reader.page.wait_for_selector("#shared:not([hidden])")
    assert f"What {inside.sum()} of 40 samples share" in reader.text("#shared")

    def cells(title: str) -> list[list[str]]:
        table = reader.page.locator("#shared .pair > div").filter(has=reader.page.locator(f"h3:text-is('{title}')"))
        return [row.locator("td").all_text_contents() for row in table.locator("tbody tr").all()]

    dataset, loss = np.array(measured["samples"]["dataset"]), np.array(measured["samples"]["loss"])
    assert cells("Data sets") == [
        [name, str((inside & (dataset == name)).sum()), "20"] for name in ("source", "target")
    ]
    gap = (loss[inside].mean() - loss[~inside].mean()) / loss.std()
    assert {row[0]: row[-1] for row in cells("Where their mean differs most")}["loss"] == f"{gap:+.2f}"
    # one label is missing, so the shares are those of the predictions
    reader.page.wait_for_selector("h3:text-is('Classes')")
    road = []
    for picture in measured["pictures"]["before"]["prediction"]:
        decoded = cv2.imdecode(np.frombuffer(base64.b64decode(picture.split(",")[1]), np.uint8), cv2.IMREAD_COLOR)
        road.append((decoded[..., ::-1] == np.array(CLASSES[0][1])).all(-1).mean())
    share = np.array(road)
    rows = {row[0]: row[1:] for row in cells("Classes")}
    assert set(rows) == {name for name, _ in CLASSES}
    marked, rest = 100 * share[inside].mean(), 100 * share[~inside].mean()
    assert rows["road"] == [f"{marked:.0f}\u00a0%", f"{rest:.0f}\u00a0%", f"{marked - rest:+.1f}".replace("-", "−")]
    # the same samples are marked in the other plot
    faint = "all => all.filter(path => Number(getComputedStyle(path).opacity) < .5).length"
    for state in ("before", "after"):
        assert reader.page.locator(f"#figure-{state} .scatterlayer .points path").evaluate_all(faint) == (~inside).sum()
    reader.page.click("#clear")
    reader.page.wait_for_selector("#shared", state="hidden")
    reader.page.select_option("#mark", "worst")
    assert "What 4 of 40 samples share" in reader.text("#shared")
    reader.check()


@pytest.mark.slow
def test_before_and_after_move_together(reader: Reader) -> None:
    reader.page.evaluate("Plotly.relayout('figure-before', {'xaxis.range': [0, 1], 'yaxis.range': [-1, 1]})")
    reader.page.wait_for_function("String(document.getElementById('figure-after').layout.xaxis.range) === '0,1'")
    assert reader.page.evaluate("document.getElementById('figure-after').layout.yaxis.range") == [-1, 1]
    reader.check()


@pytest.mark.slow
def test_samples_made_worse_are_counted_and_open(reader: Reader, measured: dict[str, Any]) -> None:
    worse = sum(
        after > before for before, after in zip(measured["samples"]["loss"], measured["after"]["loss"], strict=True)
    )
    assert f"{40 - worse} of 40 samples are better after the fix, {worse} are worse" in reader.text("#change-summary")
    assert reader.page.locator("#figure-change .scatterlayer .points path").count() == 40
    reader.page.select_option("#change-column", "miou")
    assert "mIoU after" in reader.text("#figure-change")
    reader.page.locator("#change button[data-index]").first.click()
    assert reader.text("#panel-title") == measured["worse"][0]["file"]
    reader.check()


@pytest.mark.slow
def test_names_are_shown_as_they_are(reader: Reader) -> None:
    assert SCRIPT in reader.text("#figure-classes .yaxislayer-above").replace("\u200b", "")
    assert SCRIPT in reader.text("#figure-factors .yaxislayer-above")
    assert SCRIPT in reader.text("#where")
    reader.page.locator("#samples button").first.click()
    assert reader.text("#panel-title") == SCRIPT
    assert LONG in reader.text("#panel .palette")
    reader.check()


@pytest.mark.slow
@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (390, "dark"), (1280, "light"), (1280, "dark")])
def test_it_fits_the_window(browser: Browser, path: Path, width: int, scheme: Any) -> None:
    window = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme, has_touch=width < 800)
    reader = Reader(window, path)
    wide = "[document.documentElement.scrollWidth, document.body.scrollWidth]"
    assert max(window.evaluate(wide)) <= width
    beyond = (
        "all => all.filter(plot => plot.querySelector('svg').clientWidth > plot.clientWidth + 1).map(plot => plot.id)"
    )
    assert window.locator(".plot").evaluate_all(beyond) == []
    window.locator("#samples button").first.click()
    assert max(window.evaluate(wide)) <= width
    box = window.locator("#panel").bounding_box()
    assert box is not None
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= width
    # text stands out from what is behind it, in the plots as well
    font = window.locator("#figure-fixes .xtick text").first.evaluate("text => getComputedStyle(text).fill")
    behind = window.locator("#causes").evaluate("section => getComputedStyle(section).backgroundColor")
    light, dark = (np.mean([int(part) for part in re.findall(r"\d+", colour)[:3]]) for colour in (font, behind))
    assert abs(light - dark) > 150
    reader.check()
    window.close()


@pytest.mark.slow
@pytest.mark.parametrize("gone", ["everything", "pictures", "latent", "after", "samples", "loss", "dataset", "classes"])
def test_what_is_absent_breaks_nothing(browser: Browser, measured: dict[str, Any], tmp_path: Path, gone: str) -> None:
    part = {} if gone == "everything" else {key: value for key, value in measured.items() if key != gone}
    if gone == "samples":
        part = {key: value for key, value in part.items() if key not in ("columns", "worse", "after")}
    if gone in ("loss", "dataset"):
        for key in ("samples", "after"):
            part[key] = {name: values for name, values in part[key].items() if name != gone}
        part["columns"] = [column for column in part["columns"] if column["name"] != gone]
    write_page(part, tmp_path / "gap.html")
    window = browser.new_page()
    reader = Reader(window, tmp_path / "gap.html")
    if gone not in ("everything", "samples"):
        window.locator("#samples button").first.click()
        assert reader.text("#panel-title") in measured["samples"]["file"]
    reader.check()
    window.close()


@pytest.mark.slow
def test_a_request_is_refused(reader: Reader) -> None:
    refused = reader.page.evaluate("fetch('https://example.invalid/').then(() => 'sent', () => 'refused')")
    assert refused == "refused"
    assert any("Content Security Policy" in complaint for complaint in reader.complaints)


@pytest.mark.slow
def test_print_is_dark_on_white(browser: Browser, path: Path) -> None:
    window = browser.new_page(color_scheme="dark")
    reader = Reader(window, path)
    title = window.locator("#figure-fixes .xtitle")
    colour = "text => getComputedStyle(text).fill"
    on_screen = title.evaluate(colour)
    window.evaluate("dispatchEvent(new Event('beforeprint'))")
    window.emulate_media(media="print", color_scheme="dark")
    assert window.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    verdict = window.locator(".verdict").evaluate("text => getComputedStyle(text).color")
    for dark in (verdict, title.evaluate(colour)):
        assert max(int(part) for part in re.findall(r"\d+", dark)[:3]) < 120
    assert window.locator("nav").is_hidden()
    assert title.evaluate(colour) != on_screen
    window.emulate_media(media="screen", color_scheme="dark")
    window.evaluate("dispatchEvent(new Event('afterprint'))")
    assert title.evaluate(colour) == on_screen
    reader.check()
    window.close()


@pytest.mark.slow
def test_a_plot_can_be_saved(reader: Reader) -> None:
    reader.page.locator("#figure-fixes").hover()
    with reader.page.expect_download() as download:
        reader.page.locator('#figure-fixes .modebar-btn[data-title^="Download"]').click()
    assert Path(download.value.path()).read_bytes()[:4] == b"\x89PNG"
    reader.check()


@pytest.mark.slow
def test_many_samples_are_drawn_by_webgl(browser: Browser, measured: dict[str, Any], tmp_path: Path) -> None:
    many = {key: measured[key] for key in ("columns", "classes")}
    many["samples"] = {name: values * 51 for name, values in measured["samples"].items()}
    many["latent"] = {"axes": ["1", "2"], "before": measured["latent"]["before"] * 51}
    write_page(many, tmp_path / "gap.html")
    window = browser.new_page()
    window.set_default_timeout(60_000)
    reader = Reader(window, tmp_path / "gap.html")
    drawn = window.evaluate("document.getElementById('figure-before').data.map(trace => [trace.type, trace.x.length])")
    assert sum(count for _, count in drawn) == 2040
    assert "WebGL is not supported" not in reader.text("#figure-before")
    assert window.locator("#samples button").count() == 48
    window.click("#more")
    assert window.locator("#samples button").count() == 96
    window.close()
