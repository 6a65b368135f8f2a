"""The sentence that opens a benchmark's results, and where they come from."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import pytest

import uda
from tests.bench import tiny
from tests.bench.test_table import METHODS, fill, plain
from uda.bench import BenchResult, Table, make_table
from uda.bench.headline import about_images, about_origin, headline
from uda.bench.plan import RESULT
from uda.bench.provenance import PACKAGES, commit, versions
from uda.bench.render import markdown
from uda.bench.results import _is_of_streets
from uda.config import BenchConfig, load_config, streets_folder
from uda.config.records import DatasetSpec, StreetsDomain, StreetsSpec
from uda.data.streets.write import is_procedural


@pytest.fixture
def config() -> BenchConfig:
    return load_config(tiny.content(Path("data"), seeds=[0, 1, 2], methods=METHODS))


@pytest.fixture
def table(config: BenchConfig, tmp_path: Path) -> Table:
    fill(config, tmp_path)
    return make_table(config, tmp_path)


def test_headline_is_the_verdicts_in_words(table: Table) -> None:
    """Class_mix and bn_only are 10 above their controls, AdaBN 5 below (see QUALITY)."""
    assert headline(table) == (
        "cityscapes to kitti: 8 rows, 3 seeds, 12 target images; against their controls, "
        "class_mix, bn_only and bn_only+ClassMix help, adabn hurts, advent and fda show no clear effect"
    )
    assert headline(table) + "." in markdown(table).splitlines()
    assert headline(table)[:60] in plain(table)


def test_one_seed_is_said(tmp_path: Path) -> None:
    config = load_config(tiny.content(Path("data"), methods=METHODS))
    fill(config, tmp_path)
    text = headline(make_table(config, tmp_path))
    assert "1 seed, " in text
    assert text.endswith("one seed, so nothing is said about training again")


def test_procedural_images_are_called_so(table: Table, finished: BenchResult, data: Path, tmp_path: Path) -> None:
    assert about_images(table) == "", "nothing is known of the made-up results' images"
    assert is_procedural(data / "kitti")
    assert not is_procedural(tmp_path)
    assert not is_procedural("")
    sentence = (
        "Procedural images, not photographs; the domains are called kitti/cityscapes/ika because they are written in "
        "those layouts."
    )
    assert about_images(finished.table) == sentence
    assert sentence in markdown(finished.table)
    assert "Procedural images, not photographs" in plain(finished.table)
    assert "3 procedural target images" in headline(finished.table)


def test_older_results_are_known_by_their_config(finished: BenchResult, copy: Path, data: Path) -> None:
    """A result that does not say it: procedural where the config has the images drawn."""
    for path in copy.rglob(RESULT):
        content = json.loads(path.read_text())
        for about in content["data"].values():
            del about["origin"]
        path.write_text(json.dumps(content))
    assert make_table(finished.config, copy / "tiny").procedural == ()
    streets = StreetsSpec(out=str(data.parent), domains={"kitti": StreetsDomain()})
    drawn = finished.config.model_copy(update={"streets": streets})
    inside = {"root": str(streets_folder(streets) / "kitti"), "split": "val"}
    drawn = drawn.model_copy(update={"target_val": DatasetSpec(kind="kitti", **inside)})
    assert [_is_of_streets(drawn, spec) for spec in drawn.domains.values()] == [False, True, False]


def test_only_some_domains_are_procedural(finished: BenchResult) -> None:
    first, *others = finished.table.domains
    mixed = replace(finished.table, domains=(first, *(replace(domain, procedural=False) for domain in others)))
    assert about_images(mixed).startswith("target: procedural images, not photographs; the domain is called kitti ")


def test_date_and_commit_are_those_of_the_cells(finished: BenchResult) -> None:
    dates = [json.loads(path.read_text())["date"] for path in finished.folder.rglob(RESULT)]
    assert finished.table.date in dates
    assert about_origin(finished.table).startswith(f"Measured until {max(dates)[:10]} with uda {uda.__version__}")
    known = replace(finished.table, commits=("0123456789ab",))
    assert about_origin(known).endswith("(commit 0123456789ab)")
    assert about_origin(replace(finished.table, date="", commits=(), versions={})) == ""


def test_a_package_that_is_not_there_under_its_name_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bare server has opencv-python-headless, a fork of timm another name: no cell fails for that."""

    def installed(name: str) -> str:
        if name in ("opencv-python", "timm"):
            raise metadata.PackageNotFoundError(name)
        return "5.0"

    monkeypatch.setattr(metadata, "version", installed)
    assert set(versions()) == {"uda", "python", *PACKAGES} - {"opencv-python", "timm"}


def test_commit_is_of_a_checkout_that_tracks_the_code(tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").touch()
    assert commit(package) == ""
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    commit.cache_clear()
    assert commit(package) == "", "inside a repository that does not track it"
    subprocess.run(["git", "-C", tmp_path, "add", "."], check=True)
    subprocess.run(["git", "-C", tmp_path, *identity, "commit", "-qm", "first"], check=True)
    commit.cache_clear()
    clean = commit(package)
    head = subprocess.run(["git", "-C", tmp_path, "rev-parse", "HEAD"], capture_output=True, text=True).stdout
    assert len(clean) == 12
    assert head.startswith(clean)
    (package / "__init__.py").write_text("changed")
    commit.cache_clear()
    assert commit(package) == f"{clean}-dirty"
    commit.cache_clear()
