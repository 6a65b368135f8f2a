"""Figures show the numbers that they were given: points, intervals, bands, pixels, and what is not there."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.bench import tiny
from tests.bench.test_table import METHODS, fill
from uda import plots
from uda.bench import BenchResult, Estimate, make_table
from uda.bench.gallery import error_map
from uda.bench.intervals import Adjusted
from uda.bench.record import record
from uda.bench.render import control_difference
from uda.bench.table import verdict
from uda.config import load_config
from uda.data.encode import write_image
from uda.data.streets import generate
from uda.plots.differences import Difference, draw_forest
from uda.plots.scores import draw_scatter, spread
from uda.plots.svg import as_svg


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> BenchResult:
    """A made-up benchmark of three seeds, whose target is there."""
    data = tmp_path_factory.mktemp("data")
    generate(data / "kitti", domain="kitti", splits={"val": 3}, size=tiny.SIZES["kitti"])
    folder = tmp_path_factory.mktemp("made_up")
    config = load_config(tiny.content(data, seeds=[0, 1, 2], methods=METHODS))
    fill(config, folder)
    return BenchResult(config, folder, make_table(config, folder))


def points(axes: Any) -> list[tuple[float, float]]:
    """The single points of axes, those of labels left out."""
    lines = [line for line in axes.lines if len(line.get_xdata()) == 1 and line.get_transform() == axes.transData]
    return [(line.get_xdata()[0], line.get_ydata()[0]) for line in lines]


def spans(axes: Any) -> list[tuple[tuple[float, ...], tuple[float, ...]]]:
    """The lines between two points in the axes' own units."""
    lines = [line for line in axes.lines if len(line.get_xdata()) == 2 and line.get_transform() == axes.transData]
    return [(tuple(line.get_xdata()), tuple(line.get_ydata())) for line in lines]


# forest


def test_a_forest_has_the_tables_numbers_in_their_order(result: BenchResult) -> None:
    figure = plots.forest(result)
    (axes,) = figure.axes
    known = {row.name: control_difference(row.scores["target"]) for row in result.table.rows}
    known = {name: estimate for name, estimate in known.items() if estimate.known}
    ordered = sorted(known, key=lambda name: -known[name].value)
    assert [label.get_text() for label in axes.get_yticklabels()] == ordered
    assert axes.yaxis_inverted(), "the best is on top"
    values = [100 * known[name].value for name in ordered]
    np.testing.assert_allclose(points(axes), list(zip(values, range(len(ordered)), strict=True)))
    ends = [(100 * known[name].low, 100 * known[name].high) for name in ordered]
    np.testing.assert_allclose([xs for xs, _ in spans(axes)], ends)
    assert [ys for _, ys in spans(axes)] == [(at, at) for at in range(len(ordered))]
    first = known[ordered[0]]
    words = f"{ordered[0]} {100 * first.value:+.1f} [{100 * first.low:.1f}, {100 * first.high:.1f}] helps"
    assert words in figure.get_label()


def test_rows_of_another_domain_stand_in_the_targets_order(result: BenchResult) -> None:
    target, source = (
        [label.get_text() for label in plots.forest(result, domain).axes[0].get_yticklabels()]
        for domain in ("target", "source")
    )
    assert source == target


@pytest.mark.parametrize(
    ("word", "low", "high", "marker", "filled"),
    [
        ("helps", 0.01, 0.09, "o", True),
        ("helps", -0.01, 0.11, "o", False),
        ("hurts", -0.09, -0.01, "s", True),
        ("hurts", -0.11, 0.01, "s", False),
        ("no clear effect", -0.1, 0.2, "o", False),
        ("", 0.01, 0.09, "D", True),
    ],
)
def test_a_mark_says_the_verdict_and_contradicts_no_interval(
    word: str, low: float, high: float, marker: str, filled: bool
) -> None:
    line = Difference("a", Estimate((low + high) / 2, low, high), word)
    (axes,) = draw_forest("t", [line]).axes
    (mark,) = [line for line in axes.lines if len(line.get_xdata()) == 1]
    assert mark.get_marker() == marker
    assert (mark.get_markerfacecolor() == mark.get_color()) is filled
    assert ("Holm's procedure alone" in axes.get_xlabel()) is (word in ("helps", "hurts") and not filled)
    assert ("helps" in axes.get_xlabel()) is bool(word)


def test_one_seed_or_no_noise_gives_no_interval() -> None:
    lines = [
        Difference("seed", Estimate(0.1, 0.0, 0.2, image_noise_only=True), "image noise only"),
        Difference("none", Estimate(0.1), "no interval"),
        Difference("endless", Estimate(0.1, 0.0, math.inf), "no interval"),
    ]
    figure = draw_forest("t", lines)
    assert spans(figure.axes[0]) == []
    assert len(points(figure.axes[0])) == 3
    assert "[" not in figure.get_label()
    scatter = draw_scatter("t", ("x", "y"), {"a": (lines[0].estimate, lines[1].estimate)}, ["a"])
    assert spans(scatter.axes[0]) == []


def test_missing_cells_are_left_out_and_nothing_to_compare_is_said(result: BenchResult) -> None:
    table = result.table
    first = table.rows[0]
    without = replace(table, rows=(replace(first, scores={"source": first.scores["source"]}), *table.rows[1:]))
    assert len(points(plots.target_against_source(without).axes[0])) == len(table.rows) - 1
    assert first.name not in [label.get_text() for label in plots.forest(without).axes[0].get_yticklabels()]
    alone = replace(table, rows=(table.row("source_only"),))
    with pytest.raises(ValueError, match="tiny: no row is compared to control on target"):
        plots.forest(alone)
    with pytest.raises(ValueError, match="no domain 'targets'; the nearest is 'target'"):
        plots.forest(table, "targets")
    with pytest.raises(ValueError, match="no row is scored on both source and target"):
        plots.target_against_source(
            replace(table, rows=(without.rows[0], replace(first, name="b", scores={"target": first.scores["target"]})))
        )  # fmt: skip


# recorded results


def test_a_recorded_result_gives_the_same_figure(result: BenchResult, tmp_path: Path) -> None:
    record(result.config, result.folder, result.table, tmp_path, "a command")
    for draw in (plots.forest, plots.target_against_source):
        here = draw(result)
        for there in (draw(tmp_path), draw(str(tmp_path / "results.json")), draw(result.table)):
            np.testing.assert_allclose(points(there.axes[0]), points(here.axes[0]))
            np.testing.assert_allclose(spans(there.axes[0]), spans(here.axes[0]))
            assert there.get_label() == here.get_label()


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"name": "a", "rows": [{"name": "b"}]}', '{"name": 1, "rows": 3}']
)
def test_what_is_no_recorded_result_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "results.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: is no recorded result"):
        plots.forest(tmp_path)
    with pytest.raises(ValueError, match="cannot be read"):
        plots.forest(tmp_path / "elsewhere.json")


# target against source


def test_points_are_where_the_scores_are_and_names_do_not_overlap(result: BenchResult) -> None:
    figure = plots.target_against_source(result)
    (axes,) = figure.axes
    scores = {row.name: (row.scores["source"].miou, row.scores["target"].miou) for row in result.table.rows}
    expected = [(100 * x.value, 100 * y.value) for x, y in scores.values()]
    np.testing.assert_allclose(points(axes), expected)
    for x, y in scores.values():
        assert any(xs == pytest.approx((100 * x.low, 100 * x.high)) for xs, _ in spans(axes))
        assert any(ys == pytest.approx((100 * y.low, 100 * y.high)) for _, ys in spans(axes))
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in axes.texts if text.get_text()]
    assert len(boxes) == len(scores)
    for at, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:at])


def test_forty_rows_at_one_place_have_forty_labels_that_do_not_overlap() -> None:
    names = [f"{'a long name ' * (at % 4)}{at}" for at in range(40)]
    rows = {name: (Estimate(0.5), Estimate(0.5 + at / 1e4)) for at, name in enumerate(names)}
    figure = draw_scatter("t", ("x", "y"), rows, names)
    figure.draw_without_rendering()
    texts = [text for text in figure.axes[0].texts if text.get_text()]
    boxes = sorted((text.get_window_extent() for text in texts), key=lambda box: box.y0)
    assert len(boxes) == 40
    assert all(upper.y0 >= lower.y1 - 1 for lower, upper in pairwise(boxes))
    looks = {(line.get_color(), line.get_marker()) for line in figure.axes[0].lines}
    assert len(looks) == 40


def test_labels_are_spread_as_little_as_possible() -> None:
    np.testing.assert_allclose(spread([0.2, 0.5, 0.8], [0.1] * 3), [0.2, 0.5, 0.8])
    np.testing.assert_allclose(spread([0.5, 0.5], [0.2, 0.2]), [0.4, 0.6])
    np.testing.assert_allclose(spread([0.0, 1.0], [0.2, 0.2]), [0.1, 0.9])
    np.testing.assert_allclose(np.diff(spread([0.9, 0.9, 0.9], [0.4, 0.4, 0.4])), [0.4, 0.4])


# curves


def runs(folder: Path, values: dict[str, dict[int, float]], scalar: str = "miou/target") -> None:
    """One run for each name, with a scalar by step."""
    for name, by_step in values.items():
        (folder / name).mkdir(parents=True)
        lines = [json.dumps({"step": step - 1, scalar: value}) for step, value in by_step.items()]
        (folder / name / "scalars.jsonl").write_text("\n".join([*lines, ""]))


def test_curves_are_the_mean_and_the_band_from_smallest_to_largest(tmp_path: Path) -> None:
    runs(tmp_path, {"a/seed0": {10: 0.1, 20: 0.3}, "a/seed1": {10: 0.2, 20: 0.6}, "a/seed2": {10: 0.6, 20: 0.6},
                    "b/seed0": {10: 0.4, 20: float("nan"), 30: 0.5}, "warm_start/seed0": {5: 0.9}})  # fmt: skip
    figure = plots.curves(tmp_path)
    (axes,) = figure.axes
    lines = {line.get_label().strip("\u200b"): line for line in axes.lines}
    assert set(lines) == {"a", "b"}
    np.testing.assert_allclose(lines["a"].get_xydata(), [[10, 30], [20, 50]])
    np.testing.assert_allclose(lines["b"].get_xydata(), [[10, 40], [30, 50]])
    (band,) = axes.collections
    corners = {tuple(corner) for corner in np.round(band.get_paths()[0].vertices, 6).tolist()}
    assert corners == {(10, 10), (10, 60), (20, 30), (20, 60)}
    assert "smallest to largest" in axes.get_xlabel()
    assert "a from 30 to 50 [30 to 60] at step 20" in figure.get_label()
    (alone,) = plots.curves({"b": [tmp_path / "b/seed0"]}).axes
    assert "band" not in alone.get_xlabel()


def test_losses_are_no_percent_and_unknown_scalars_and_folders_are_named(tmp_path: Path) -> None:
    runs(tmp_path, {"run": {1: 2.5}}, "loss/total")
    (axes,) = plots.curves(tmp_path / "run", "loss/total").axes
    np.testing.assert_allclose(axes.lines[0].get_xydata(), [[1, 2.5]])
    with pytest.raises(ValueError, match=r"no run has the scalar 'loss/totl'; the nearest is 'loss/total'"):
        plots.curves(tmp_path / "run", "loss/totl")
    with pytest.raises(ValueError, match="holds no run"):
        plots.curves(tmp_path)


# sample pictures


@pytest.fixture
def pictured(result: BenchResult) -> BenchResult:
    """Predictions of the target's first image: all of class 1, and of one row the label itself."""
    from uda.bench.build import open_dataset

    label = open_dataset(result.config.domains["target"], result.config.space)[0].label.numpy().astype(np.uint8)
    for row in result.table.rows:
        prediction = np.where(label == 255, 0, label) if row.name == "fda" else np.full_like(label, 1)
        write_image(result.folder / row.name / "seed0/pictures/target_0.png", prediction.astype(np.uint8))
    return result


def test_samples_are_wide_and_show_input_label_source_only_and_rows(pictured: BenchResult) -> None:
    figure = plots.samples(pictured, rows=["source_only", "fda"])
    figure.canvas.draw()
    shown = [axes for axes in figure.axes if axes.images]
    assert [axes.get_title("left") for axes in shown][:2] == ["input", "label"]
    assert shown[2].get_title("left").startswith("source_only ")
    assert shown[3].get_title("left") == "fda 100.0 %"
    assert all(axes.get_window_extent().width >= 400 for axes in shown)
    space = pictured.config.space
    from uda.bench.build import open_dataset

    sample = open_dataset(pictured.config.domains["target"], space)[0]
    label = sample.label.numpy()
    pixels = [np.asarray(axes.images[0].get_array()) for axes in shown]
    np.testing.assert_array_equal(pixels[0], sample.image.permute(1, 2, 0).numpy())
    np.testing.assert_array_equal(pixels[3][label != 255], pixels[1][label != 255])
    errors = plots.samples(pictured, rows=["source_only"], errors=True, columns=1)
    below = [np.asarray(axes.images[0].get_array()) for axes in errors.axes if axes.images]
    np.testing.assert_array_equal(below[3], error_map(np.full_like(label, 1), label))


def test_samples_begin_with_source_only_and_say_what_is_not_there(pictured: BenchResult) -> None:
    titles = [axes.get_title("left") for axes in plots.samples(pictured).axes if axes.images]
    assert titles[2].startswith("source_only")
    assert len(titles) == 2 + len(pictured.table.rows)
    for arguments, message in (
        ({"image": 99}, r"image: 99; .* shows 3 images of target"),
        ({"domain": "tarqet"}, "no domain 'tarqet'; the nearest is 'target'"),
        ({"rows": ["fdaa"]}, "no finished row 'fdaa'; the nearest is 'fda'"),
        ({"columns": 0}, "columns: 0"),
    ):
        with pytest.raises(ValueError, match=message):
            plots.samples(pictured, **arguments)


# all


def test_a_page_gets_numbers_as_alt_text_and_no_markup_from_names() -> None:
    name = '<script>alert("$x$")</script>'
    lines = [Difference(name, Estimate(0.123, 0.1, 0.2), "helps")]
    svg = as_svg("a", lambda theme: draw_forest("title", lines, theme=theme))
    assert svg == as_svg("a", lambda theme: draw_forest("title", lines, theme=theme))
    assert "<script" not in svg
    assert "+12.3 [10.0, 20.0] helps" in svg[: svg.index(">")]


def test_the_callers_settings_of_matplotlib_are_left_alone_and_change_nothing(result: BenchResult) -> None:
    import matplotlib as mpl

    plain = as_svg("a", lambda theme: plots.forest(result, theme=theme))
    with mpl.rc_context({"text.color": "red", "axes.facecolor": "black", "font.size": 20, "grid.color": "red"}):
        before = dict(mpl.rcParams)
        assert as_svg("a", lambda theme: plots.forest(result, theme=theme)) == plain
        assert dict(mpl.rcParams) == before


def test_learning_curve_of_a_benchmark_without_one_is_said(result: BenchResult) -> None:
    with pytest.raises(ValueError, match="tiny: no finished row of a learning curve"):
        plots.learning_curve(result)


def test_words_by_interval_never_contradict_it() -> None:
    """Clear by Holm's procedure, with 0 in Bonferroni's interval."""
    from uda.bench.intervals import Noise

    noise = Noise(seeds=3, seed=1e-4, seed_df=4, image=1e-5, image_df=30)
    difference = Adjusted(Estimate(0.05, 0.01, 0.09, noise=noise), 0.03, 0.04, low=-0.01, high=0.11)
    assert verdict(difference) == "helps"
    assert verdict(difference, by_interval=True) == "no clear effect"
    assert verdict(replace(difference, low=0.001), by_interval=True) == "helps"
    assert verdict(replace(difference, estimate=replace(difference.estimate, value=-0.05), low=-0.1, high=-0.01),
                   by_interval=True) == "hurts"  # fmt: skip
