"""Street domains with changes: the same scenes, different in what was changed and in nothing else."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from uda.data.base import STREETS
from uda.data.cityscapes import Cityscapes
from uda.data.errors import DataError
from uda.data.kitti import Kitti
from uda.data.streets import DOMAINS, ONE_FACTOR, check_empty, differences, entries, generate, render, vary

SIZE = (48, 96)
QUIET = {"sensor.noise": 0.0, "sensor.blur": 0.0}


def unit(pixels: np.ndarray) -> np.ndarray:
    return pixels.astype(np.float64) / 255


def test_known_domains_are_within_their_own_ranges() -> None:
    for name, domain in DOMAINS.items():
        values = {}
        for key in entries():
            part, field = key.split(".")
            values[key] = getattr(getattr(domain, part), field)
        again = vary(name, values)
        assert dataclasses.replace(again, base="") == domain
        assert differences(again) == differences(domain) == {}


def test_no_field_is_without_an_entry() -> None:
    records = {name: record for name, record in vars(DOMAINS["ika"]).items() if dataclasses.is_dataclass(record)}
    assert list(entries()) == [
        f"{part}.{f.name}" for part, record in records.items() for f in dataclasses.fields(record)
    ]


@pytest.mark.parametrize(
    "changes",
    [
        {"palette.road": [[200, 60, 60]], "palette.glass": [0, 200, 0], "palette.leaf": [[90, 40, 20]]},
        {"light.shade": 0.1, "light.elevation": [1, 2], "light.clouds": 0.6, "light.haze": [255, 0, 0]},
        {"light.visibility": 40, "light.zenith": [20, 20, 80], "light.low": [80, 40, 20]},
        {"sensor.contrast": 0.7, "sensor.blur": 0.02, "sensor.noise": 0.1, "sensor.vignette": 0.5},
        {"camera.blur": 2, "camera.gamma": 2, "camera.noise": 0.1, "camera.ramp": [0.1, -0.1], "camera.scale": 0.5},
    ],
    ids=lambda changes: next(iter(changes)),
)
@pytest.mark.parametrize("base", sorted(DOMAINS))
def test_colours_light_and_sensor_leave_every_label(base: str, changes: dict[str, Any]) -> None:
    domain = vary(base, changes, "other")
    assert set(differences(domain)) == set(changes)
    for index in range(3):
        image, label = render(base, 5, SIZE, index=index)
        changed, same = render(domain, 5, SIZE, index=index)
        assert np.array_equal(label, same)
        assert not np.array_equal(image, changed)


def test_palette_changes_only_what_it_colours() -> None:
    quiet = vary("cityscapes", {**QUIET, "light.visibility": 1e6})
    image, label = render(quiet, 1, SIZE)
    changed, _ = render(vary(quiet, {"palette.terrain": [[255, 0, 0]], "palette.road": [[0, 0, 255]]}), 1, SIZE)
    touched = cv2.dilate(np.isin(label, (7, 22)).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    assert (image != changed).any(2)[label == 7].mean() > 0.9
    assert (image != changed).any(2)[~touched].mean() < 0.002  # pixels that a thin thing shares with the road


def test_a_number_stands_for_equal_limits_and_channels() -> None:
    domain = vary("kitti", {"sensor.noise": 0.02, "sensor.lift": 0.1, "camera.scale": 2})
    assert (domain.sensor.noise, domain.sensor.lift, domain.camera.scale) == ((0.02,) * 2, (0.1,) * 3, (2.0,) * 3)
    assert vary("kitti", {"palette.roof": [[1, 2, 3]]}).palette.roof == ((1.0, 2.0, 3.0),) * 3
    assert vary("kitti", {"camera.shift": np.array([0.1, 0, 0])}) == vary("kitti", {"camera.shift": [0.1, 0, 0]})


def test_changes_of_changes_go_back_to_the_known_domain() -> None:
    first = vary("ika", {"camera.blur": 1, "sensor.contrast": 0.5}, "first")
    second = vary(first, {"sensor.contrast": 1.05, "camera.noise": 0.1}, "second")
    assert (second.base, second.name) == ("ika", "second")
    assert differences(second) == {"camera.blur": 1.0, "camera.noise": 0.1}
    assert vary("ika", differences(second), "second") == second


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sensor.contrst": 1}, "unknown entry 'sensor.contrst'.*nearest are 'sensor.contrast'"),
        ({"code": 7}, "unknown entry 'code'.*parts: view, layout"),
        ({3: 7}, "unknown entry 3"),
        ({"sensor.contrast": 9}, "sensor.contrast is 9: .*less than or equal to 4"),
        ({"sensor.contrast": "a"}, "sensor.contrast is 'a': .*number"),
        ({"sensor.contrast": True}, "sensor.contrast is True: .*number"),
        ({"sensor.contrast": None}, "sensor.contrast is None: .*number"),
        ({"sensor.lift": [0.1, 0.2]}, r"sensor.lift\[2\] is .*required"),
        ({"sensor.noise": [0.2, 0.1]}, "smaller number comes first, got 0.2 to 0.1"),
        ({"camera.shift": [0, float("nan"), 0]}, r"camera.shift\[1\] is nan: "),
        ({"palette.road": [[0, 0, 0]] * 2}, "palette.road has 2 colours; allowed: 3"),
        ({"palette.road": [[0, 0, 300]]}, r"palette.road\[0\]\[2\] is 300: .*255"),
        ({"layout.frontage": {"terace": 1}}, "layout.frontage is 'terace': .*'terrace'"),
        ({"layout.frontage": {"wall": 0}}, "one of the weights"),
        ({"view.size": [8, 64]}, r"view.size\[0\] is 8: .*16"),
    ],
)
def test_wrong_changes_name_key_value_and_allowed(changes: dict[Any, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        vary("cityscapes", changes)
    assert "\n" not in str(caught.value)


def test_unknown_bases_are_named() -> None:
    with pytest.raises(ValueError, match="'citiscapes'; the nearest is 'cityscapes'"):
        vary("citiscapes", {})
    own = dataclasses.replace(DOMAINS["ika"], name="mine")
    with pytest.raises(ValueError, match="'mine' has no known base"):
        generate("nowhere", own)
    assert not Path("nowhere").exists()


def test_files_are_those_of_the_base_with_the_changed_images(tmp_path: Path) -> None:
    changes = {"sensor.contrast": 0.7, "camera.resolution": 0.5}
    dim = vary("kitti", changes, "dim")
    generate(tmp_path / "dim", dim, {"train": 2, "val": 1}, SIZE, seed=4)
    generate(tmp_path / "kitti", "kitti", {"train": 2, "val": 1}, SIZE, seed=4)
    assert names(tmp_path / "dim") == names(tmp_path / "kitti")
    assert json.loads((tmp_path / "dim" / STREETS).read_text()) == {
        "domain": "dim", "base": "kitti", "changes": changes, "seed": 4,
        "images": "procedural, each independent of the others",
    }  # fmt: skip
    assert set(json.loads((tmp_path / "kitti" / STREETS).read_text())) == {"domain", "seed", "images"}
    data, plain = Kitti(tmp_path / "dim", "train"), Kitti(tmp_path / "kitti", "train")
    assert [data[at].image.shape[1:] for at in (0, 1)] == [
        tuple(round(side / 2) for side in plain[at].image.shape[1:]) for at in (0, 1)
    ]
    assert data.sequences == data.names


def test_unchanged_is_the_known_domain(tmp_path: Path) -> None:
    generate(tmp_path, vary("cityscapes", {}, "other"), {"val": 1}, SIZE)
    before = (tmp_path / STREETS).read_bytes()
    image = Cityscapes(tmp_path, "val")[0].image.numpy().transpose(1, 2, 0)
    generate(tmp_path, "cityscapes", {"val": 1}, SIZE)
    assert (tmp_path / STREETS).read_bytes() == before
    assert np.array_equal(Cityscapes(tmp_path, "val")[0].image.numpy().transpose(1, 2, 0), image)


def test_other_changes_are_not_written_over(tmp_path: Path) -> None:
    blurred, wider = vary("ika", {"camera.blur": 1}, "a"), vary("ika", {"camera.aspect": 2}, "a")
    generate(tmp_path, blurred, {"val": 1}, SIZE)
    for allowed in (blurred, vary("ika", {"camera.blur": 1.0}, "other")):
        check_empty(tmp_path, allowed)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for other in (wider, "ika", vary("ika", {"camera.blur": 2}), vary("kitti", {"camera.blur": 1})):
        with pytest.raises(
            DataError, match=r"in the look of 'ika' with camera.blur=1.0, which .* scenes( with .*)? might"
        ):
            generate(tmp_path, other, {"val": 1}, SIZE)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def names(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


@pytest.mark.slow
@pytest.mark.parametrize("value", [0, 0.05, 0.2, 0.5, 1, 4, 5, 10, 16, 20, 30, 50, 100, 150, 255])
def test_every_value_that_is_allowed_can_be_rendered(value: float) -> None:
    """Numbers that are limits of some range, for every entry that takes them."""
    rendered = 0
    for key in entries():
        try:
            domain = vary("cityscapes", {key: value})
        except ValueError:
            continue
        try:
            image, label = render(domain, 2, (32, 64))
        except ValueError as error:
            assert "sides from 16" in str(error)  # noqa: PT017
            continue
        assert image.shape[:2] == label.shape
        rendered += 1
    assert rendered


def test_the_docs_list_every_entry() -> None:
    page = (Path(__file__).parents[2] / "docs" / "streets.md").read_text(encoding="utf-8")
    table = page.partition("|---|---|\n")[2].partition("\n\n")[0]
    rows = [re.findall(r"`(\w+)`", line) for line in table.splitlines()]
    assert [f"{part}.{name}" for part, *fields in rows for name in fields] == list(entries())
    factors = re.findall(r"^\| `(\w+)` \|", page.partition("| factor |")[2], re.MULTILINE)
    assert factors == list(ONE_FACTOR)
