"""Label spaces: ids, colours, merging and mapping, each checked when it is built."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from uda.data import (
    CAMVID11,
    CITYSCAPES19,
    CITYSCAPES34,
    GTA5,
    IKA,
    KITTI,
    STREET8,
    SYNTHIA13,
    SYNTHIA16,
    Class,
    DataError,
    LabelSpace,
    common,
    label_space,
)
from uda.data.label_spaces import CAMVID_CHOICES, GTA5_RAW, LABEL_SPACES, SYNTHIA_RAW
from uda.types import IGNORE

A = LabelSpace("a", (Class("x", (1, 1, 1), (3,)), Class("y", (2, 2, 2), (4, 5)), Class("z", (3, 3, 3), (6,))), (9,))


def test_published_tables() -> None:
    """Cityscapes' own train ids, 0 to 18, of the raw ids in its documentation."""
    train_ids = dict(
        zip((7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33), range(19), strict=True)
    )
    ids = np.arange(34)
    assert CITYSCAPES19.from_ids(ids).tolist() == [train_ids.get(i, IGNORE) for i in range(34)]
    assert CITYSCAPES34.from_ids(ids).tolist() == list(range(34))
    assert CITYSCAPES19.from_ids(np.array([-1, 255])).tolist() == [IGNORE, IGNORE]
    assert CITYSCAPES19.colours[13].tolist() == [0, 0, 142]
    assert CITYSCAPES19.thing_classes == (6, 7, 11, 12, 13, 14, 15, 16, 17, 18)
    assert (SYNTHIA16.num_classes, SYNTHIA13.num_classes, CAMVID11.num_classes, STREET8.num_classes) == (16, 13, 11, 8)
    assert KITTI.names == GTA5.names == CITYSCAPES19.names
    assert set(IKA.names) - set(CITYSCAPES19.names) == {"barrier", "large vehicle", "two wheeler"}
    assert IKA.num_classes == 14
    assert GTA5_RAW.from_ids(np.array([34])).tolist() == [IGNORE]


def test_encoding_any_integer_type() -> None:
    for kind in (np.uint8, np.int16, np.uint16, np.int32, np.int64):
        found = A.from_ids(np.array([[3, 4], [5, 9]], dtype=kind))
        assert found.dtype == np.int64
        assert found.tolist() == [[0, 1], [1, IGNORE]]
    wide = np.array([100_000, -40_000, -3])
    assert A.from_ids(wide, unknown="ignore").tolist() == [IGNORE] * 3
    with pytest.raises(DataError, match="100000"):
        A.from_ids(wide[:1])


def test_unknown_id_names_file_id_and_pixels() -> None:
    with pytest.raises(DataError, match=r"f\.png: unknown id 7 \(2 pixels\), 8 \(1 pixels\) in label space 'a'"):
        A.from_ids(np.array([3, 8, 7, 7], dtype=np.uint8), file="f.png")


def test_colours_match_exactly() -> None:
    image = np.array([[[1, 1, 1], [2, 2, 2]], [[3, 3, 3], [1, 1, 1]]], dtype=np.uint8)
    assert A.from_colours(image).tolist() == [[0, 1], [2, 0]]
    image[0, 0] = (1, 1, 2)
    with pytest.raises(DataError, match=r"g\.png: unknown colour \(1, 1, 2\) \(1 pixels\)"):
        A.from_colours(image, file="g.png")
    assert A.from_colours(image, unknown="ignore").tolist() == [[IGNORE, 1], [2, 0]]


@pytest.mark.parametrize("space", list(LABEL_SPACES.values()), ids=lambda space: space.name)
def test_colourise_inverts_colours_of_shipped_spaces(space: LabelSpace) -> None:
    own = [i for i, item in enumerate(space.classes) if item.colour in (item.label_colours or ())]
    labels = np.array([own])
    if own:
        assert space.from_colours(space.colourise(labels)).tolist() == labels.tolist()
    assert space.colourise(torch.full((2, 3, 4), IGNORE)).shape == (2, 3, 4, 3)
    assert not space.colourise(torch.full((3, 4), IGNORE)).any()
    assert label_space(space.name.upper()) == space


@pytest.mark.parametrize(
    ("classes", "more", "message"),
    [
        ([], {}, "0 classes"),
        ([Class("x", (0, 0, 0)), Class("x", (1, 0, 0))], {}, "'x' is defined twice"),
        ([Class("x", (0, 0, 0), (1,)), Class("y", (1, 0, 0), (1,))], {}, "id 1 means both 'x' and 'y'"),
        ([Class("x", (0, 0, 0), (1,))], {"void_ids": (1,)}, "id 1 means both 'void' and 'x'"),
        ([Class("x", (0, 0, 0)), Class("y", (0, 0, 0))], {}, "colour"),
        ([Class("x", (0, 0, 0), (70_000,))], {}, "ids must be in"),
    ],
)
def test_wrong_spaces(classes: list[Class], more: dict[str, tuple[int, ...]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LabelSpace("s", tuple(classes), **more)


def test_wrong_colour() -> None:
    with pytest.raises(ValueError, match="three numbers"):
        Class("x", (0, 0, 256))


def test_merge() -> None:
    merged = A.merge("m", {"xz": ["z", "x"]})
    assert merged.names == ("y", "xz")
    assert merged.from_ids(np.array([3, 4, 5, 6, 9])).tolist() == [1, 0, 0, 1, IGNORE]
    assert merged.colours[1].tolist() == [3, 3, 3], "the colour of the group's first"
    assert merged.from_colours(np.array([[[1, 1, 1]]], dtype=np.uint8)).tolist() == [[1]]
    for groups, message in (
        ({"n": ["xx"]}, "did you mean|known: x, y, z"),
        ({"n": ["x"], "m": ["x", "y"]}, "in both 'n' and 'm'"),
        ({"n": []}, "empty"),
        ({"y": ["x", "z"]}, "'y' is defined twice"),
    ):
        with pytest.raises(ValueError, match=message):
            A.merge("m", groups)


def test_select_makes_the_rest_void() -> None:
    part = A.select("p", ["z", "x"])
    assert part.from_ids(np.array([3, 4, 5, 6])).tolist() == [1, IGNORE, IGNORE, 0]
    with pytest.raises(ValueError, match="no class 'w'"):
        A.select("p", ["w"])


def test_mapping_is_many_to_one_and_drops_the_rest() -> None:
    other = LabelSpace("b", (Class("z", (0, 0, 0)), Class("both", (1, 1, 1))))
    mapping = A.mapping_to(other, {"x": "both", "y": "both"})
    labels = np.array([0, 1, 2, IGNORE])
    assert mapping(labels).tolist() == [1, 1, 0, IGNORE]
    found = mapping(torch.from_numpy(labels))
    assert found.dtype == torch.int64
    assert found.tolist() == [1, 1, 0, IGNORE]
    assert A.mapping_to(other)(labels).tolist() == [IGNORE, IGNORE, 0, IGNORE]
    assert A.mapping_to(other).missing == ("both",)
    assert A.mapping_to(other).dropped == ("x", "y")
    assert A.mapping_to(A, {"x": None})(labels).tolist() == [IGNORE, 1, 2, IGNORE]


def test_mapping_is_checked_when_built() -> None:
    with pytest.raises(ValueError, match="'cityscapes19' has no class 'rod'; the nearest is 'road'"):
        CITYSCAPES19.mapping_to(CAMVID11, {"rod": "road"})
    with pytest.raises(ValueError, match="the nearest is 'pavement'"):
        CITYSCAPES19.mapping_to(CAMVID11, {"road": "pavment"})
    with pytest.raises(ValueError, match="give aliases"):
        A.mapping_to(CAMVID11)


def test_camvid_choices_are_what_the_mapping_does() -> None:
    pairs = dict(CITYSCAPES34.mapping_to(CAMVID11).pairs)
    for old, new in CAMVID_CHOICES.items():
        assert pairs[old] == new
    same = {"road": "road", "sidewalk": "pavement", "vegetation": "tree", "sky": "sky", "person": "pedestrian"}
    assert {old: pairs[old] for old in same} == same
    assert not CITYSCAPES19.mapping_to(CAMVID11).missing


@pytest.mark.parametrize(
    "space", [CITYSCAPES34, CITYSCAPES19, CAMVID11, SYNTHIA_RAW, IKA], ids=lambda space: space.name
)
def test_street8_covers_every_data_set(space: LabelSpace) -> None:
    assert not space.mapping_to(STREET8).missing


def test_lines_name_every_choice() -> None:
    text = "\n".join(CITYSCAPES34.mapping_to(CAMVID11).lines())
    assert "building <- building, wall, bridge, tunnel" in text
    assert "ignored <- unlabeled" in text


def test_common_space() -> None:
    assert common(CITYSCAPES19).names == CITYSCAPES19.names
    assert common(CITYSCAPES19, SYNTHIA16).names == SYNTHIA16.names
    assert common(CITYSCAPES19, KITTI, IKA).names == IKA.names
    shared = common(KITTI, CAMVID11, name="shift")
    assert shared.name == "shift"
    for space in (KITTI, CAMVID11):
        mapping = space.mapping_to(shared)
        assert not mapping.missing, "every class must exist in every space"
    # CamVid's building is Cityscapes' building and wall, and no class of either goes to two
    assert set(shared.classes[2].members) >= {"building", "wall"}
    members = [member for item in shared.classes for member in item.members]
    assert len(members) == len(set(members))


def test_common_of_nothing() -> None:
    with pytest.raises(ValueError, match="no class in common"):
        common(A, CAMVID11)
    with pytest.raises(ValueError, match="at least one"):
        common()


def test_unknown_name() -> None:
    with pytest.raises(ValueError, match=r"no label space .camvid12.; the nearest is .camvid11. .known: cityscapes19"):
        label_space("camvid12")
    assert label_space("Cityscapes") is CITYSCAPES19
    assert label_space(A) is A
