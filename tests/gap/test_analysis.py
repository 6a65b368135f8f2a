"""The whole analysis on a tiny network and tiny data whose only difference is known."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from uda.data.statistics import ChannelStats
from uda.functional.normalisation import running_statistics
from uda.gap import Options, OtherAnalysisError, analyse, sentences, summarise, write_report
from uda.gap.store import CHUNK
from uda.gap.verdict import how
from uda.models import adapt
from uda.types import Sample

NAMES = ("dark", "middle", "bright")
PALETTE = ((0, 0, 0), (128, 128, 128), (255, 255, 255))
LEVELS = (0.25, 0.5, 0.75)


class Space:
    names = NAMES
    num_classes = 3
    thing_classes = ()


class Blocks:
    """Images of blocks whose grey level is their class, with a shift that is not."""

    space = Space()

    def __init__(
        self, name: str, count: int, seed: int, shift: float = 0.0, sequences: int = 0, noise: float = 0.02
    ) -> None:
        self.name, self.shift, self.seed, self.count, self.noise = name, shift, seed, count, noise
        self.sequences = [f"{name}/{k % sequences if sequences else k}" for k in range(count)]
        self.reads = 0

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        self.reads += 1
        generator = np.random.default_rng((self.seed, index))
        label = generator.integers(0, 3, (4, 6)).repeat(8, 0).repeat(8, 1)
        image = np.take(LEVELS, label) + generator.normal(0, self.noise, label.shape) + self.shift
        image = np.stack([image] * 3).clip(0, 1)
        label[0, :4] = 255
        return Sample(
            torch.from_numpy((image * 255).round().astype(np.uint8)),
            torch.from_numpy(label),
            f"{self.name}_{index}.png",
        )

    def unlabelled(self) -> Blocks:
        return self

    def identity(self) -> dict[str, object]:
        return {"name": self.name, "samples": self.count, "seed": self.seed, "shift": self.shift}


class Levels(nn.Module):
    """Scores each class by the distance of the grey level to the class's own."""

    def __init__(self, norm: bool = False) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 1, 1, bias=False), nn.BatchNorm2d(1) if norm else nn.Identity())
        nn.init.constant_(self.body[0].weight, 1 / 3)
        if norm:
            self.body[1].running_mean.fill_(0.5)
            self.body[1].running_var.fill_(0.2**2)
        self.passes = 0
        self.scale = 0.2 if norm else 1.0
        self.centre = 0.5 if norm else 0.0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.passes += len(images)
        grey = self.body(images) * self.scale + self.centre
        return torch.cat([-60 * (grey - level) ** 2 for level in LEVELS], 1)


def network(norm: bool = False) -> nn.Module:
    return adapt(Levels(norm), num_classes=3, mean=(0, 0, 0), std=(1, 1, 1), feature_layer="body").eval()


def run(source, target, folder: Path, model: nn.Module | None = None, **arguments):
    return analyse(
        network() if model is None else model,
        source,
        target,
        work=folder,
        class_names=NAMES,
        palette=PALETTE,
        **arguments,
    )


def test_a_shift_of_the_mean_is_the_whole_gap_and_its_edit_the_fix(tmp_path: Path) -> None:
    result = run(Blocks("source", 12, 0), Blocks("target", 12, 1, shift=0.12), tmp_path)
    summary = summarise(result)
    assert summary.is_gap
    shares = {share.name: share.share for share in summary.shares}
    assert max(shares, key=lambda name: shares[name].value) == "mean"
    assert shares["mean"].value == pytest.approx(1, abs=0.1)
    assert shares["mean"].low > 0.8
    rest = summary.groups[-1]
    assert sum(share.value for share in shares.values()) + rest.share.value == pytest.approx(1)
    assert abs(rest.share.value) < 0.1
    assert "colour accounts for" in sentences(result, summary)[0]
    fix = next(fix for fix in summary.fixes if fix.result.fix.name == "mean and deviation of the data sets")
    assert fix.change.value < -0.8
    assert fix.verdict == "helps"


def test_an_edit_that_does_harm_takes_no_part(tmp_path: Path) -> None:
    """The source is noisier, which this network minds: noise that is added to the target is no cure of anything."""
    source = Blocks("source", 12, 0, noise=0.08)
    result = run(source, Blocks("target", 12, 1, shift=0.15), tmp_path)
    summary = summarise(result)
    assert "noise" in result.harmful
    assert "mean" not in result.harmful
    shares = {share.name: share for share in summary.shares}
    assert shares["noise"].share.value == 0
    assert "takes no part" in shares["noise"].note
    assert shares["mean"].share.value > 0.8


def test_harm_is_looked_for_on_some_of_many_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = Blocks("source", 12, 0, noise=0.08), Blocks("target", 20, 1, shift=0.15)
    options = Options(budget=1)
    every = run(source, target, tmp_path / "every", options=options, fixes=())
    monkeypatch.setattr("uda.gap.causes.ELIMINATION", 10)
    monkeypatch.setattr("uda.gap.verdict.ELIMINATION", 10)
    counts: dict[str, int] = {}

    @contextmanager
    def progress(label: str, total: int) -> Iterator[Callable[[], None]]:
        counts[label] = total
        yield lambda: None

    some = run(source, target, tmp_path / "some", options=options, fixes=(), progress=progress)
    assert some.harmful == every.harmful
    assert "noise" in some.harmful
    assert counts["target: edited, without_0"] == 10
    assert some.plan == every.plan
    for name, values in every.shares.items():
        np.testing.assert_array_equal(some.shares[name], values)
    assert any("(10 of the 20 images were looked at for this)" in line for line in how(some, summarise(some)))


def test_without_a_difference_there_is_no_gap_and_no_share(tmp_path: Path) -> None:
    result = run(Blocks("source", 10, 0), Blocks("target", 10, 1), tmp_path)
    summary = summarise(result)
    assert not summary.is_gap
    assert sentences(result, summary)[0].startswith("There is no gap that these images can show")
    assert all(np.isnan(share.share.value) for share in summary.shares)


def test_losses_are_means_over_labelled_pixels_and_then_over_images(tmp_path: Path) -> None:
    source, target = Blocks("source", 4, 0), Blocks("target", 5, 1, shift=0.1)
    result = run(source, target, tmp_path, options=Options(causes=False), fixes=())
    model = network()
    expected, pixels, total = [], 0, 0.0
    for index in range(5):
        sample = target[index]
        logits = model(sample.as_float()[None]).logits
        assert sample.label is not None
        losses = torch.nn.functional.cross_entropy(logits, sample.label[None], ignore_index=255, reduction="none")
        scored = sample.label != 255
        expected.append(float(losses[0][scored].mean()))
        pixels, total = pixels + int(scored.sum()), total + float(losses[0][scored].sum())
    summary = summarise(result)
    assert result.target.losses() == pytest.approx(expected, rel=1e-5)
    assert summary.target.loss.value == pytest.approx(np.mean(expected), rel=1e-5)
    assert summary.target.pooled_loss.value == pytest.approx(total / pixels, rel=1e-5)
    parts = [row.excess for row in summary.where["class"]]
    assert sum(parts) == pytest.approx(1)
    assert sum(row.excess for row in summary.where["height"]) == pytest.approx(1)


def test_every_image_is_decoded_once_and_every_forward_pass_made_once(tmp_path: Path) -> None:
    source, target = Blocks("source", 9, 0), Blocks("target", 10, 1, shift=0.12)
    model = network()
    result = run(source, target, tmp_path, model, fixes=())
    assert (source.reads, target.reads) == (9, 10)
    assert result.plan is not None
    part = result.plan.factors
    active = [name for name, size in result.differences.items() if size > 1]
    doubtful = len(active) - len(part)
    assert result.plan.exact
    # source and target as they are; each factor alone; what doubtful ones are joined to; the other subsets
    subsets = {*[frozenset({factor}) for factor in active]}
    from uda.gap.sampling import all_coalitions

    subsets |= {coalition for coalition in all_coalitions(part) if coalition}
    subsets |= {frozenset({*part, factor}) for factor in active if factor not in part}
    assert doubtful >= 0
    assert model.module.passes == 9 + 10 * (1 + len(subsets)) + 1  # and the blank image that adapt() tries


def test_a_killed_analysis_goes_on_and_gives_the_same(tmp_path: Path) -> None:
    def target() -> Blocks:
        return Blocks("target", CHUNK + 3, 1, shift=0.12)

    class Stops(Exception):
        pass

    model = network()
    calls = {"count": 0}

    def stop(*_: object) -> None:
        calls["count"] += 1
        if calls["count"] == 2 * CHUNK + 8:
            raise Stops

    handle = model.register_forward_hook(stop)
    with pytest.raises(Stops):
        run(Blocks("source", CHUNK, 0), target(), tmp_path / "a", model)
    handle.remove()
    source, again = Blocks("source", CHUNK, 0), target()
    resumed = run(source, again, tmp_path / "a")
    whole = run(Blocks("source", CHUNK, 0), target(), tmp_path / "b")
    assert resumed.target.losses().tolist() == whole.target.losses().tolist()
    assert {k: v.tolist() for k, v in resumed.shares.items()} == {k: v.tolist() for k, v in whole.shares.items()}
    with pytest.raises(OtherAnalysisError, match="another options"):
        run(Blocks("source", CHUNK, 0), target(), tmp_path / "a", options=Options(seed=3))


def test_batch_norm_is_a_factor_and_left_as_it_was(tmp_path: Path) -> None:
    model = network(norm=True)
    before = {name: (s.mean.clone(), s.var.clone()) for name, s in running_statistics(model).items()}
    result = run(
        Blocks("source", 8, 0), Blocks("target", 8, 1, shift=0.15), tmp_path, model, options=Options(prior=0.0)
    )
    assert "batch_norm" in result.shares
    assert result.alone["batch_norm"][0].mean() < 0.5 * result.target.losses().mean()
    for name, (mean, var) in before.items():
        after = running_statistics(model)[name]
        assert torch.equal(after.mean, mean)
        assert torch.equal(after.var, var)
    assert {fix.fix.name for fix in result.fixes} >= {"AdaBN", "AdaBN, prior 0.5"}


def test_a_target_without_labels_shows_what_needs_none(tmp_path: Path) -> None:
    class Images(Blocks):
        labelled = False

    result = run(Blocks("source", 8, 0), Images("target", 8, 1, shift=0.1), tmp_path)
    summary = summarise(result)
    assert "no labels" in result.missing["loss"]
    assert "has no labels" in sentences(result, summary)[0]
    assert not result.shares
    assert np.isnan(summary.target.loss.value)
    assert result.target.before[0].columns["confidence"] > 0.3


def test_published_statistics_in_place_of_source_images(tmp_path: Path) -> None:
    target = Blocks("target", 8, 1, shift=0.12)
    stats = ChannelStats(torch.full((3,), 0.5), torch.full((3,), 0.2))
    result = run(stats, target, tmp_path, source_name="published:blocks")
    summary = summarise(result)
    assert summary.source is None
    assert set(result.differences) == {"mean", "deviation"}
    assert sentences(result, summary)[0].startswith("Best of the")
    assert "nothing to compare it to" in sentences(result, summary)[1]
    assert summary.fixes[0].verdict == "helps"
    assert summary.fixes[0].result.fix.config.startswith("{ColourAtTest: {reference: [[0.5, 0.5, 0.5]")


def test_plain_logits_have_no_latent_space(tmp_path: Path) -> None:
    from uda.gap.report import page_content

    result = run(Blocks("source", 6, 0), Blocks("target", 6, 1, shift=0.1), tmp_path, Levels().eval(), fixes=())
    content = page_content(result, summarise(result))
    assert content["latent"] is None
    assert "feature_layer" in content["missing"]["latent"]


def test_a_second_model_is_compared_sample_by_sample(tmp_path: Path) -> None:
    class Shifted(Levels):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return super().forward(images - 0.12)

    after = adapt(Shifted(), num_classes=3, mean=(0, 0, 0), std=(1, 1, 1), feature_layer="body").eval()
    result = run(
        Blocks("source", 8, 0),
        Blocks("target", 8, 1, shift=0.12),
        tmp_path,
        after=after,
        after_name="shifted",
        fixes=(),
    )
    summary = summarise(result)
    assert summary.after_change["target"][0].high < -0.5
    assert summary.after_change["source"][0].low > 0
    assert summary.target_after is not None
    assert summary.target_after.loss.value < summary.target.loss.value


def test_what_is_written(tmp_path: Path) -> None:
    result = run(Blocks("source", 6, 0), Blocks("=cmd", 6, 1, shift=0.12), tmp_path / "work")
    write_report(result, tmp_path / "out", command="uda gap")
    with (tmp_path / "out/samples.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12
    assert rows[6]["file"].startswith("'=cmd")  # no formula in a spreadsheet
    assert float(rows[7]["loss"]) == pytest.approx(result.target.losses()[1], rel=1e-4)
    numbers = json.loads((tmp_path / "out/gap.json").read_text())
    assert numbers["verdict"]
    assert "uda gap" in (tmp_path / "out/summary.md").read_text()
    first = (tmp_path / "out/report.html").read_bytes()
    write_report(result, tmp_path / "again", command="uda gap")
    assert (tmp_path / "again/report.html").read_bytes() == first
    assert list((tmp_path / "out/projector").rglob("*.tsv"))


def test_parquet_holds_what_the_table_does(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")

    class NeverBright(Blocks):
        def __getitem__(self, index: int) -> Sample:
            sample = super().__getitem__(index)
            assert sample.label is not None
            return sample._replace(label=sample.label.masked_fill(sample.label == 2, 255))

    source, target = NeverBright("source", 6, 0), NeverBright("target", 6, 1, shift=0.12)
    result = run(source, target, tmp_path / "work", fixes=(), options=Options(causes=False))
    write_report(result, tmp_path / "out")
    with (tmp_path / "out/samples.csv").open() as file:
        rows = list(csv.DictReader(file))
    table = parquet.read_table(tmp_path / "out/samples.parquet")
    assert table.column_names == list(rows[0])
    assert {str(kind) for kind in table.schema.types} == {"string", "double"}
    for name in table.column_names:
        texts = [row[name] for row in rows]
        written = ["" if value is None else value for value in table[name].to_pylist()]
        assert written == [
            float(text) if text and table.schema.field(name).type == "double" else text for text in texts
        ]
    assert table["iou/bright"].to_pylist() == [None] * 12


def test_features_of_each_class_go_to_the_projector(tmp_path: Path) -> None:
    source, target = Blocks("source", 4, 0), Blocks("target", 4, 1, shift=0.12)
    result = run(source, target, tmp_path / "work", fixes=(), options=Options(by_class=True, causes=False))
    cells = result.target.before[0].class_features
    assert cells is not None
    assert cells[:, 0] == pytest.approx(np.array(LEVELS) + 0.12, abs=0.01)
    write_report(result, tmp_path / "out")
    lines = next((tmp_path / "out/projector").rglob("classes/metadata.tsv")).read_text().splitlines()
    assert lines[0] == "dataset\tfile\tclass"
    assert len(lines) == 1 + 8 * 3


def test_pictures_of_the_largest_losses_go_first_where_there_is_no_room(tmp_path: Path) -> None:
    from uda.gap.report import _pictures, _samples

    result = run(Blocks("source", 3, 0), Blocks("target", 3, 1, shift=0.12), tmp_path, fixes=())
    assert result.source is not None
    order = [(domain, index) for domain in (result.source, result.target) for index in range(3)]
    _, samples = _samples(result, [result.source, result.target])
    missing: dict[str, str] = {}
    whole = _pictures(result, order, samples, missing)
    assert whole is not None
    assert not missing
    sizes = [sum(len(uris[at] or "") for uris in whole["before"].values()) for at in range(6)]
    ranked = sorted(range(6), key=lambda at: -samples["loss"][at])
    limit = sum(sizes[at] for at in ranked[:2]) + 1
    few = _pictures(result, order, samples, missing, limit)
    assert few is not None
    assert [at for at in range(6) if few["before"]["image"][at]] == sorted(ranked[:2])
    assert "the 2 samples" in missing["pictures"]


def test_wrong_input_is_named(tmp_path: Path) -> None:
    class Others(Blocks):
        class space:
            names = ("bright", "middle", "dark")
            num_classes = 3

    with pytest.raises(ValueError, match="has the classes bright, middle, dark; the model's are dark, middle, bright"):
        run(Others("source", 4, 0), Blocks("target", 4, 1), tmp_path / "a")
    with pytest.raises(ValueError, match="prior is 2, must be in"):
        Options(prior=2)
    with pytest.raises(ValueError, match="budget is 0, must be at least 1"):
        Options(budget=0)


def test_a_single_sequence_gives_no_interval(tmp_path: Path) -> None:
    result = run(Blocks("source", 6, 0), Blocks("target", 6, 1, shift=0.12, sequences=1), tmp_path, fixes=())
    summary = summarise(result)
    assert summary.gap is not None
    assert not summary.is_gap
    assert "a single sequence gives no interval" in sentences(result, summary)[0]
