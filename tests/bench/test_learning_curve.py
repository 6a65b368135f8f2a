"""The learning curve: its rows, the number of labelled images that a method is worth, and how often its interval holds
the truth.

The last is simulated from a known world (:func:`benchmarks`): of 400 benchmarks with 30 images each, for a row worth
8.4 labelled images, 96 % of the intervals held it at 2 seeds, 97 % at 3 and 97 % at 5. With three times the seed noise
it was 96 % at 2 and 3 seeds, for a row worth 43 images 94 % at 2 and 96 % at 3 (200 benchmarks each).
"""

from __future__ import annotations

import html
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.bench import test_table, tiny
from tests.bench.test_table import fill
from uda import plots
from uda.bench import Table, make_table
from uda.bench.intervals import ImageScores, Ints
from uda.bench.labelled import CHOSEN
from uda.bench.learning_curve import Worth, worth
from uda.bench.record import summary
from uda.bench.render import markdown, number, with_interval
from uda.bench.report import html as page_of
from uda.bench.rows import rows_of
from uda.config import BenchConfig, ConfigError, LearningCurve, TargetLabels, load_config

COUNTS = (0, 5, 10, 20, 50)
CURVE = {count: f"k{count}" if count else "source_only" for count in COUNTS}


def confusions(accuracy: Any, pixels: int = 1000) -> Ints:
    """Two equal classes in each image, ``(n, 2, 2)``, of which that share is right: IoU = a / (2 - a)."""
    right = np.rint(np.asarray(accuracy) * pixels).astype(np.int64)
    wrong = pixels - right
    return np.stack([np.stack([right, wrong], -1), np.stack([wrong, right], -1)], 1)


def scores_of(accuracies: dict[str, list[Any]], images: int = 20) -> ImageScores:
    """Rows with these accuracies, one a seed, the same in every image."""
    return ImageScores(
        {
            row: {seed: confusions(np.full(images, value)) for seed, value in enumerate(values)}
            for row, values in accuracies.items()
        },
        draws=100,
    )


def accuracy_of(iou: float) -> float:
    return 2 * iou / (1 + iou)


def curve_scores(row: list[float], curve: list[list[float]]) -> ImageScores:
    """A row and a curve of given mIoU, one a seed."""
    named = {"uda": row, **dict(zip(CURVE.values(), curve, strict=True))}
    return scores_of({name: [accuracy_of(value) for value in values] for name, values in named.items()})


RISING = [0.2, 0.3, 0.4, 0.5, 0.6]


def spread(values: list[float], noise: float) -> list[list[float]]:
    """Three seeds around each value; the noise of a row is its own."""
    rng = np.random.default_rng(3)
    return [
        list(value + noise * (draw - draw.mean())) for value, draw in zip(values, rng.normal(size=(5, 3)), strict=True)
    ]


def test_worth_is_read_off_the_straight_line_on_the_log_axis() -> None:
    expected = math.expm1((math.log1p(5) + math.log1p(10)) / 2)
    part = worth(curve_scores([0.35] * 3, spread(RISING, 0)), "uda", CURVE)
    assert part is not None
    assert part.value == pytest.approx(expected, rel=0.02)
    assert part.low == pytest.approx(part.value, rel=0.02)
    assert part.high == pytest.approx(part.value, rel=0.02)
    noisy = worth(curve_scores([0.35] * 3, spread(RISING, 0.01)), "uda", CURVE)
    assert noisy is not None
    assert 0 < noisy.low < expected < noisy.high < 50


def test_ends_are_where_the_difference_is_just_clear() -> None:
    scores = curve_scores([0.34, 0.35, 0.36], spread(RISING, 0.01))
    part = worth(scores, "uda", CURVE)
    assert part is not None
    counts = sorted(COUNTS)
    for end in (part.low, part.high):
        left = max(count for count in counts if count <= end)
        right = min(count for count in counts if count > end)
        share = (math.log1p(end) - math.log1p(left)) / (math.log1p(right) - math.log1p(left))
        value, noise = scores.contrast({"uda": 1.0, CURVE[left]: share - 1, CURVE[right]: -share}, pooled=True)
        assert noise.p_value(value) == pytest.approx(0.05, abs=2e-3)


def test_beyond_the_ends_it_says_so() -> None:
    above = worth(curve_scores([0.7] * 3, spread(RISING, 0.005)), "uda", CURVE)
    below = worth(curve_scores([0.1] * 3, spread(RISING, 0.005)), "uda", CURVE)
    little = worth(curve_scores([0.25] * 3, spread(RISING, 0.005)), "uda", CURVE)
    assert above is not None
    assert (above.value, above.low, above.high) == (math.inf, math.inf, math.inf)
    assert above.sentence.endswith("scores as source_only with more than 50 labelled target images, clearly.")
    assert below is not None
    assert (below.value, below.low, below.high) == (0, 0, 0)
    assert below.sentence.endswith("scores no higher than source_only without any, clearly.")
    assert little is not None
    assert 0 < little.value < 5
    assert "with fewer than 5 labelled target images (95 % interval: fewer than 5 to fewer than 5)" in little.sentence


def test_a_flat_curve_says_nothing() -> None:
    part = worth(curve_scores([0.31, 0.29, 0.30], spread([0.3] * 5, 0.01)), "uda", CURVE)
    assert part is not None
    assert (part.low, part.high) == (0, math.inf)
    assert "these runs do not say" in part.sentence
    assert "the scores alone say" in part.sentence


def test_a_dip_does_not_turn_the_curve_back() -> None:
    part = worth(curve_scores([0.45] * 3, spread([0.2, 0.42, 0.38, 0.5, 0.6], 0)), "uda", CURVE)
    assert part is not None
    # 5 and 10 images count as 0.40 each, so halfway from 10 to 20
    assert part.value == pytest.approx(math.expm1((math.log1p(10) + math.log1p(20)) / 2), rel=0.03)


def test_only_shared_seeds_count_and_one_seed_is_told() -> None:
    curve = spread(RISING, 0)
    part = worth(curve_scores([0.35], [values[:1] for values in curve]), "uda", CURVE)
    assert part is not None
    assert part.image_noise_only
    assert worth(curve_scores([0.35] * 3, curve), "uda", {0: "source_only"}) is None
    assert worth(curve_scores([], curve), "uda", CURVE) is None


def test_sentences() -> None:
    part = Worth("dacs", 0.4, 12.3, 5.2, math.inf, 5, 50)
    assert part.sentence == (
        "dacs without labels on the target scores as source_only with about 12 labelled target images "
        "(95 % interval: 5 to more than 50)."
    )
    assert replace(part, low=0.0, high=30.0).sentence.endswith("(95 % interval: none to 30).")
    assert "for other images alone, as there is one seed" in replace(part, image_noise_only=True).sentence
    assert "no interval" in replace(part, low=math.nan, high=math.nan).sentence


# the config's section, and where its results stand

SECTION = {"counts": [1, 2, 3], "rows": {"source_only": ["random", "diverse"], "class_mix": ["random"]}, "weight": 0.5}
METHODS = {"source_only": ["Supervised"], "class_mix": ["Supervised", "ClassMix"], "adabn": {"test_time": "AdaBN"}}


def content(**changes: Any) -> dict[str, Any]:
    base = tiny.content(Path("data"), seeds=[0, 1, 2], methods=METHODS, learning_curve=SECTION)
    return {**base, "oracle": False, "controls": False, **changes}


def made_up(config: BenchConfig, folder: Path, skip: tuple[str, ...] = ()) -> None:
    """Labels help, ClassMix is worth two images, AdaBN one, and chosen images are a little better."""
    quality = {"source_only": 40, "class_mix": 50, "adabn": 45, "k1": 45, "k2": 50, "k3": 55, "diverse": 58}

    def qualities(row: str, seed: int) -> Any:
        level = quality[row.split("-")[-1]]
        return level + np.random.default_rng([level, seed]).integers(-2, 3, test_table.IMAGES)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(test_table, "qualities", qualities)
        fill(config, folder, skip)


@pytest.fixture(scope="module")
def config() -> BenchConfig:
    return load_config(content())


@pytest.fixture(scope="module")
def table(config: BenchConfig, tmp_path_factory: pytest.TempPathFactory) -> Table:
    folder = tmp_path_factory.mktemp("made_up")
    made_up(config, folder)
    for seed in range(3):
        (folder / f"source_only-k1/seed{seed}" / CHOSEN).write_text(json.dumps({"images": [f"<{seed}>.png"]}))
    return make_table(config, folder)


def test_the_section_adds_rows_like_those_it_names(config: BenchConfig) -> None:
    assert list(config.methods) == [
        *METHODS,
        *("source_only-k1", "source_only-k2", "source_only-k3"),
        *("source_only-k1-diverse", "source_only-k2-diverse", "source_only-k3-diverse"),
        *("class_mix-k1", "class_mix-k2", "class_mix-k3"),
    ]
    row = config.methods["class_mix-k2"]
    assert row.methods == config.methods["class_mix"].methods
    assert row.target_labels == TargetLabels(count=2, weight=0.5)
    assert config.methods["source_only-k3-diverse"].target_labels == TargetLabels(count=3, weight=0.5, choose="diverse")
    planned = rows_of(config)
    # without controls a method is seen beside its labels alone
    assert planned["class_mix-k2"].control == "source_only-k2"
    assert planned["class_mix"].control == planned["source_only-k2"].control == "source_only"
    assert "class_mix-k2-control" in rows_of(load_config(content(controls=True)))


def test_a_written_config_reads_back(config: BenchConfig) -> None:
    assert load_config(config.resolved()) == config
    assert load_config(content(learning_curve={**SECTION, "rows": ["source_only"]})).learning_curve == LearningCurve(
        counts=[1, 2, 3], rows={"source_only": ["random"]}, weight=0.5
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"counts": []}, "learning_curve.counts"),
        ({"counts": [5, 1]}, "counts must rise"),
        ({"counts": [0]}, "counts must rise"),
        ({"counts": [-1, 2]}, "counts must rise"),
        ({"rows": {"class_mix": ["random"]}}, r"source_only: \[random\] is missing"),
        ({"rows": {"source_only": ["diverse"]}}, r"source_only: \[random\] is missing"),
        ({"rows": {"source_only": ["random", "random"]}}, "each once"),
        ({"rows": {"source_only": ["random"], "class_mux": ["random"]}}, r"no such row; .*class_mix"),
        ({"rows": {"source_only": ["random"], "adabn": ["random"]}}, "a row that trains"),
        ({"rows": {"source_only": ["random", "clever"]}}, r"learning_curve.rows.source_only.1"),
        ({"count": 3}, r"learning_curve.count: unknown key; .*counts"),
    ],
)
def test_mistakes_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(content(learning_curve={**SECTION, **change}))


def test_another_row_of_the_same_name_is_refused() -> None:
    other = {"methods": ["Supervised"], "target_labels": {"count": 2}}
    with pytest.raises(ConfigError, match=r"methods\.source_only-k2: the learning curve has another row of this name"):
        load_config(content(methods={**METHODS, "source_only-k2": other}))


def test_the_table_says_what_labels_are_worth(table: Table) -> None:
    learning = table.learning
    assert learning is not None
    assert [line.name for line in learning.lines] == ["source_only", "source_only, diverse", "class_mix"]
    assert list(learning.lines[1].points) == [0, 1, 2, 3]
    assert learning.lines[1].points[0] == learning.lines[0].points[0] == table.row("source_only").scores["target"].miou
    gain = table.row("source_only-k2-diverse").scores["target"].to_source_only
    assert learning.lines[1].gains[2] == gain
    worths = {part.row: part for part in learning.worths}
    assert list(worths) == ["class_mix", "adabn"]
    assert worths["class_mix"].value == pytest.approx(2, abs=0.6)
    assert worths["adabn"].value == pytest.approx(1, abs=0.6)
    (chosen,) = learning.chosen
    assert chosen.difference.estimate.value > 0
    assert chosen.what == "source_only, diverse against random images (mean over 1, 2, 3 images)"
    assert [gain.what.rpartition(", ")[2] for gain in learning.added] == [
        "no labelled images each", "1 labelled image each", "2 labelled images each", "3 labelled images each",
    ]  # fmt: skip


def test_what_is_written_down_has_the_curve(config: BenchConfig, table: Table, tmp_path: Path) -> None:
    assert table.learning is not None
    sentence = table.learning.worths[0].sentence
    text = markdown(table)
    assert sentence in text
    assert "| labelled target images | 0 | 1 | 2 | 3 |" in text
    gain = table.row("source_only-k1").scores["target"].to_source_only
    assert f"| source_only | {number(table.row('source_only').scores['target'].miou)} |" in text
    assert f", {with_interval(gain, signed=True)} |" in text
    page = page_of(config, tmp_path, table)
    assert html.escape(sentence) in page
    assert f'aria-label="what labelled target images are worth: {html.escape(sentence)}' in page
    assert "&lt;2&gt;.png" in page
    recorded = summary(config, tmp_path, table, "uda bench")
    json.dumps(recorded, allow_nan=False)
    assert recorded["learning_curve"]["sentences"][0] == sentence
    assert recorded["labelled"]["source_only-k1"][2] == ["<2>.png"]
    assert page_of(config, tmp_path, table) == page


def test_half_a_curve_is_shown_as_far_as_it_is(config: BenchConfig, tmp_path: Path) -> None:
    cells = [f"source_only-k{count}/seed{seed}" for count in (1, 3) for seed in range(3)]
    made_up(config, tmp_path, skip=(*cells, *(f"class_mix/seed{seed}" for seed in range(3))))
    learning = make_table(config, tmp_path).learning
    assert learning is not None
    assert list(learning.lines[0].points) == [0, 2]
    assert [part.row for part in learning.worths] == ["adabn"]
    page_of(config, tmp_path, make_table(config, tmp_path))
    assert make_table(config, tmp_path / "empty").learning is None


def test_the_figure_is_drawn_for_other_papers_too(table: Table, tmp_path: Path) -> None:
    assert table.learning is not None
    plots.learning_curve(table).savefig(tmp_path / "labels.png")
    assert (tmp_path / "labels.png").stat().st_size > 10_000


# coverage


def benchmarks(number: int, seeds: int = 3, images: int = 30) -> Iterator[tuple[ImageScores, dict[str, float]]]:
    """Benchmarks of a known world, with the expected scores: rows differ by training seeds, and images in difficulty,
    in what they do to one row, and in what a seed does to one of them."""
    rng = np.random.default_rng(0)
    logits = {"source_only": -0.4, "k5": 0.1, "k10": 0.3, "k20": 0.5, "k50": 0.8, "uda": 0.25}

    def draw(level: float, size: int, runs: int, difficulty: Any, rng: np.random.Generator) -> Any:
        own = rng.normal(scale=0.25, size=size)
        run = rng.normal(scale=0.10, size=(runs, 1))
        each = rng.normal(scale=0.15, size=(runs, size))
        return 1 / (1 + np.exp(-(level + difficulty + own + run + each)))

    truth = {}
    for name, level in logits.items():
        world = np.random.default_rng(1)
        sums = [draw(level, images, 1, world.normal(scale=0.5, size=images), world).mean() for _ in range(20_000)]
        truth[name] = float(np.mean([mean / (2 - mean) for mean in sums]))
    for _ in range(number):
        difficulty = rng.normal(scale=0.5, size=images)
        yield (
            ImageScores(
                {
                    name: dict(enumerate(map(confusions, draw(level, images, seeds, difficulty, rng))))
                    for name, level in logits.items()
                },
                draws=200,
            ),
            truth,
        )


def true_worth(truth: dict[str, float]) -> float:
    places = np.log1p(COUNTS)
    return float(np.expm1(np.interp(truth["uda"], [truth[name] for name in CURVE.values()], places)))


def coverage(number: int, seeds: int) -> tuple[float, float, float]:
    """Shares of the intervals that hold the truth, and that end on both sides; and the truth."""
    holds, ends = 0, 0
    for scores, truth in benchmarks(number, seeds):
        part = worth(scores, "uda", CURVE)
        assert part is not None
        holds += part.low <= true_worth(truth) <= part.high
        ends += part.low > 0 and part.high < math.inf
    return holds / number, ends / number, true_worth(truth)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [2, 3])
def test_the_interval_holds_the_truth_as_often_as_it_says(seeds: int) -> None:
    holds, ends, _ = coverage(100, seeds)
    assert holds >= 0.89, "95 % less 2.7 standard errors of 100 draws"
    assert ends > 0.2, "an interval that is always open would hold the truth too"
