"""Studies: effects by hand over made-up evaluations, and a whole one of two steps."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from tests.bench.test_table import IMAGES, NAMES, confusion
from tests.test_factorial_config import FACTORS, content
from uda import plots
from uda.bench import Event
from uda.bench.factorial import Study, make_study, run_factorial, write_study
from uda.bench.factorial.render import markdown, sentences, terminal, to_csv
from uda.bench.identity import Identities
from uda.bench.plan import DESCRIPTION, RESULT, make_plan
from uda.cli import app
from uda.config import FactorialConfig, load_factorial
from uda.engine import Evaluation

POINTS = {"flip": 8.0, "dropout": 0.0, "smoothing": -5.0}
"""What a factor does to the share of right pixels, in points."""
PAIR = 3.0
"""Of flip and dropout together, half of it where their levels are equal, less half of it where not."""


def qualities(config: FactorialConfig, row: str, seed: int) -> np.ndarray:
    """Of each image, with noise of the image that all runs share and of seed and image that none shares."""
    levels = next(run.levels for run in config.runs() if run.name == row)
    right = 80.0 + sum(points * (0.5 if levels[name] else -0.5) for name, points in POINTS.items())
    right += PAIR / 2 * (1 if levels["flip"] == levels["dropout"] else -1)
    own = np.random.default_rng([seed, *row.encode()])
    shared = np.random.default_rng(9).normal(0, 3, IMAGES)
    return np.minimum(99.0, right + shared + own.normal(0, 0.2) + own.normal(0, 0.3, IMAGES))


def fill(config: FactorialConfig, root: Path, skip: str = "") -> None:
    cells = make_plan(config.benchmark())
    identities = Identities(config.benchmark(), cells)
    for cell in cells:
        if cell.name == skip:
            continue
        (root / cell.name / "evaluations").mkdir(parents=True)
        images = np.stack([confusion(value) for value in qualities(config, cell.method, cell.seed)])
        names = tuple(f"{index}.png" for index in range(IMAGES))
        for domain in cell.scoring:
            path = root / cell.name / "evaluations" / f"{domain}.npz"
            Evaluation(images, np.zeros(IMAGES), names, NAMES).save(path)
        result = {
            "scores": identities.scores(cell), "steps": 2, "seconds": 5.0, "seconds_per_step": 0.25,
            "versions": {"torch": "2"}, "machine": "a machine", "label_maps": {}, "data": {},
        }  # fmt: skip
        described = {
            "identity": identities.training(cell), "kind": cell.kind, "method": cell.method, "seed": cell.seed,
            "needs": cell.needs, "test_time": None, "training": cell.training,
        }  # fmt: skip
        (root / cell.name / DESCRIPTION).write_text(json.dumps(described))
        (root / cell.name / RESULT).write_text(json.dumps(result))


def miou(config: FactorialConfig, row: str, seed: int) -> float:
    """By hand, see ``confusion``."""
    right = sum(round(10 * value) for value in qualities(config, row, seed))
    return (2 * right / (2000 * IMAGES - right) + 1) / 3


def study_of(tmp_path: Path, skip: str = "", **changes: Any) -> tuple[FactorialConfig, Study]:
    config = load_factorial(content(seeds=[0, 1, 2], **changes))
    fill(config, tmp_path, skip)
    return config, make_study(config, tmp_path)


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> tuple[FactorialConfig, Study, Path]:
    """All eight combinations of three factors."""
    folder = tmp_path_factory.mktemp("study")
    return (*study_of(folder, design={"runs": 8}), folder)


def test_effects_are_means_of_half_of_the_runs_less_the_other_half(full: tuple[FactorialConfig, Study, Path]) -> None:
    config, study, _ = full
    score = {run.name: np.mean([miou(config, run.name, seed) for seed in range(3)]) for run in config.runs()}
    for name in FACTORS:
        high = np.mean([score[run.name] for run in config.runs() if run.levels[name]])
        low = np.mean([score[run.name] for run in config.runs() if not run.levels[name]])
        assert study.effect(name).on["target"].estimate.value == pytest.approx(high - low)
    # the effect of flip with dropout less that without, and half of it
    flip = {
        dropout: np.mean([
            score[run.name] * (1 if run.levels["flip"] else -1)
            for run in config.runs()
            if run.levels["dropout"] == dropout
        ])
        * 2
        for dropout in (False, True)
    }  # fmt: skip
    pair = study.effect("flip", "dropout").on["target"].estimate.value
    assert pair == pytest.approx((flip[True] - flip[False]) / 2)
    for run in study.runs:
        assert run.miou["target"].value == pytest.approx(score[run.name])


def test_words_follow_the_planted_effects(full: tuple[FactorialConfig, Study, Path]) -> None:
    _, study, _ = full
    for domain in ("target", "source", "ika"):
        assert study.effect("flip").verdict(domain) == "helps"
        assert study.effect("smoothing").verdict(domain) == "hurts"
        assert study.effect("dropout").verdict(domain) == "no clear effect"
        assert study.effect("flip", "dropout").verdict(domain) == "more together"
        assert study.effect("dropout", "smoothing").verdict(domain) == "no clear effect"
    assert len(study.interactions) == 3
    words = sentences(study)
    assert words[0].startswith("On target, helps: flip (+")
    assert any(line.startswith("flip and dropout on target: more together (+") for line in words)


def test_intervals_know_the_noise_of_seeds_and_the_family(full: tuple[FactorialConfig, Study, Path]) -> None:
    config, study, _ = full
    adjusted = study.effect("flip").on["target"]
    noise = adjusted.estimate.noise
    assert noise is not None
    by_seed = []
    for seed in range(3):
        signed = [miou(config, run.name, seed) * (1 if run.levels["flip"] else -1) for run in config.runs()]
        by_seed.append(sum(signed) / 4)
    # moderated: (4 prior + 2 own) degrees of freedom; the rest's variance is within a factor of the truth
    own = np.var(by_seed, ddof=1) / 3
    assert noise.seed_df == 6
    assert noise.seed > 2 * own / 6 - 1e-12
    assert adjusted.low < adjusted.estimate.low < adjusted.estimate.value < adjusted.estimate.high < adjusted.high
    tests = sorted(effect.on[domain].p_value for effect in study.effects for domain in effect.on)
    first = min((effect.on[domain] for effect in study.effects for domain in effect.on), key=lambda a: a.p_value)
    assert first.holm_p_value == pytest.approx(min(1.0, len(tests) * tests[0]))
    assert len(tests) == 9


def test_a_fraction_says_what_it_mixes_up(tmp_path: Path) -> None:
    config, study = study_of(tmp_path, design={"runs": 4})
    assert study.effect("smoothing").aliases == ("\u2212flip × dropout",)
    assert study.interactions == ()
    # the planted pair comes out as the third factor, with the sign that is said
    by_hand = [miou(config, run.name, seed) * (0.5 if run.levels["smoothing"] else -0.5)
               for run in config.runs() for seed in range(3)]  # fmt: skip
    assert study.effect("smoothing").on["target"].estimate.value == pytest.approx(sum(by_hand) / 3)
    assert "mixed up with" in markdown(study)
    assert "resolution III: a main effect cannot be told from interactions of two factors" in study.notes[0]


def test_while_a_run_is_missing_there_are_no_effects_of_its_seed(tmp_path: Path) -> None:
    _, study = study_of(tmp_path, skip="run3/seed1")
    assert study.seeds == (0, 2)
    assert study.missing == ("run3",)
    assert any(
        "Without all seeds: run3. Effects are over the seeds that every run has." in note for note in study.notes
    )
    config = load_factorial(content(seeds=[1]))
    unfinished = make_study(config, tmp_path)
    assert unfinished.effects == ()
    assert {run.name for run in unfinished.runs} == {"source_only", "run2", "run4"}
    assert "of which there is none yet" in markdown(unfinished)
    assert "3 have finished a seed, and effects need all of them." in markdown(unfinished)
    with pytest.raises(ValueError, match="no effect to draw; 1 runs are not finished"):
        plots.effects(unfinished)
    assert "factorial.png" not in {path.name for path in write_study(config, tmp_path, unfinished).values()}


def test_one_seed_says_nothing_of_training_again(tmp_path: Path) -> None:
    fill(load_factorial(content(seeds=[0])), tmp_path)
    study = make_study(load_factorial(content(seeds=[0])), tmp_path)
    assert study.effect("flip").verdict("target") == "image noise only"


def test_what_is_written(full: tuple[FactorialConfig, Study, Path], tmp_path: Path) -> None:
    config, study, folder = full
    paths = write_study(config, folder, study, tmp_path, "uda bench s.yaml")
    assert set(paths) == {"md", "csv", "json", "png", "html"}
    lines = list(csv.DictReader(io.StringIO(to_csv(study))))
    assert len(lines) == 6 * 3
    flip = next(line for line in lines if (line["effect"], line["domain"]) == ("flip", "target"))
    assert float(flip["value"]) == pytest.approx(study.effect("flip").on["target"].estimate.value, rel=1e-4)
    assert (flip["verdict"], flip["low_level"]) == ("helps", "settings.augment.flip: 0")
    kept = json.loads(paths["json"].read_text())
    assert kept["effects"][0]["on"]["target"]["verdict"] == "helps"
    assert load_factorial(kept["config"]) == config
    page = paths["html"].read_text()
    for text in ("<svg", "flip × dropout", "settings.augment.flip: 0.5", "uda bench s.yaml"):
        assert text in page
    assert "| flip | +" in paths["md"].read_text()
    console = Console(width=200, file=io.StringIO())
    console.print(terminal(study))
    assert "flip × dropout" in console.file.getvalue()  # type: ignore[attr-defined]
    figure = plots.effects(study)
    assert len(figure.axes) == 3
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["flip", "dropout", "smoothing"]


def test_the_command_runs_resumes_shows_and_writes(data: Path, tmp_path: Path) -> None:
    raw = json.loads(json.dumps(content(curves=False)).replace('"data/', f'"{data.as_posix()}/'))
    events: list[Event] = []
    result = run_factorial(raw, out=tmp_path, rows=["run2"], report=events.append)
    assert [event.cell for event in events if event.kind == "done"] == ["run2/seed0"]
    assert result.study.effects == ()
    path = tmp_path / "s.yaml"
    path.write_text(json.dumps(raw))
    arguments = ["bench", str(path), "--out", str(tmp_path), "--quiet"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "smoothing" in done.output
    assert {path.name for path in (tmp_path / "s").iterdir()} >= {
        "factorial.md", "factorial.csv", "factorial.json", "factorial.png", "factorial.html", "run2", "source_only"
    }  # fmt: skip
    again = run_factorial(raw, out=tmp_path, report=(events := []).append)
    assert not [event for event in events if event.kind == "done"]
    assert len(again.study.effects) == 3
    for option in (["--plan", "3"], ["--preset", "DACS"]):
        refused = CliRunner().invoke(app, [*arguments, *option])
        assert refused.exit_code == 2
        assert f"{option[0]} is of a benchmark of one shift, not of a factorial" in refused.output
